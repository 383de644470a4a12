//! The running jobs that could be handed out, and the order of their turns. The value of the fairness label whose turn
//! was longest ago is next. Among the jobs with this value, the job whose turn was longest ago is next. The values, and
//! the jobs of one value, therefore get equal shares, whatever the sizes of the jobs. Each gateway counts its own
//! turns. Equal shares on each gateway add up to equal shares overall.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::domain::{Job, JobId, RowStatus, RunningJob};
use crate::error::Result;
use crate::sync::lock;

/// The minimum interval between loads of new jobs from Postgres. A new job becomes a candidate at most this much later
/// than the feed announces it, if `NextJob` is called then and Postgres is reachable.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);

/// The jobs that a worker accepts.
#[derive(Debug, Clone, Default)]
pub struct ClaimFilter {
    /// The labels that a job must have.
    pub labels: BTreeMap<String, String>,
    /// The jobs that the worker does not accept.
    pub excluded: HashSet<JobId>,
}

/// The jobs that can be handed out.
pub struct Candidates {
    fairness_label: Option<String>,
    turns: Mutex<Turns>,
    /// When the last load of new jobs began. The lock is held during a load, so that only one caller loads at a time.
    last_load: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Turns {
    jobs: HashMap<JobId, Candidate>,
    /// The last turn of each value of the fairness label.
    groups: HashMap<String, u64>,
    /// The number of the last turn.
    last: u64,
}

struct Candidate {
    job: Arc<Job>,
    group: String,
    /// The job's last turn; 0 before the first.
    turn: u64,
}

impl Candidates {
    /// Creates an empty set of candidates.
    pub fn new(fairness_label: Option<String>) -> Self {
        Self { fairness_label, turns: Mutex::default(), last_load: tokio::sync::Mutex::default() }
    }

    /// Loads the jobs that `unknown` returns, unless the last load began less than a second ago. Concurrent callers
    /// wait for the load in progress.
    pub async fn load<F: Future<Output = Result<()>>>(
        &self,
        unknown: impl FnOnce() -> Vec<JobId>,
        load: impl FnOnce(Vec<JobId>) -> F,
    ) -> Result<()> {
        let mut last_load = self.last_load.lock().await;
        // The time is checked first, because `unknown` examines all running jobs.
        if last_load.is_some_and(|at| at.elapsed() < LOAD_INTERVAL) {
            return Ok(());
        }
        let unknown = unknown();
        if unknown.is_empty() {
            return Ok(());
        }
        *last_load = Some(Instant::now());
        load(unknown).await
    }

    /// Returns the running jobs that are not candidates yet.
    pub fn unknown(&self, running: &HashMap<JobId, RunningJob>) -> Vec<JobId> {
        let turns = self.turns();
        let announced = running.iter().filter(|(_, running)| running.incarnation.is_some()).map(|(id, _)| id);
        announced.filter(|id| !turns.jobs.contains_key(*id)).cloned().collect()
    }

    /// Adds the loaded jobs that still run, and drops the candidates that do not run any more.
    pub fn update(&self, jobs: Vec<Job>, running: &HashMap<JobId, RunningJob>) {
        let mut turns = self.turns();
        for job in jobs.into_iter().filter(|job| job.state.takes_reports()) {
            let label = self.fairness_label.as_ref().and_then(|label| job.definition.labels.get(label));
            let group = label.cloned().unwrap_or_default();
            let id = job.definition.id.clone();
            turns.jobs.insert(id, Candidate { job: Arc::new(job), group, turn: 0 });
        }
        turns.jobs.retain(|id, _| running.contains_key(id));
        let groups: HashSet<String> = turns.jobs.values().map(|candidate| candidate.group.clone()).collect();
        turns.groups.retain(|group, _| groups.contains(group));
    }

    /// Returns at most `max` matching jobs in the order in which to try them, with their rows as the feed announced
    /// them. The first jobs of all groups come first, then the second jobs of all groups, and so on. This call counts
    /// as a turn of the first job, so that concurrent callers start with different jobs.
    pub fn in_turn(
        &self,
        filter: &ClaimFilter,
        running: &HashMap<JobId, RunningJob>,
        max: usize,
    ) -> Vec<(Arc<Job>, RowStatus)> {
        let mut turns = self.turns();
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for (id, candidate) in &turns.jobs {
            if let Some(running) = running.get(id)
                // Skip jobs known only from ledger rows: the feed has not confirmed that they run.
                && let Some(incarnation) = running.incarnation
                && filter.matches(&candidate.job)
            {
                let turn = turns.groups.get(&candidate.group).copied().unwrap_or(0);
                let group = groups.entry((turn, candidate.group.as_str())).or_default();
                let row = RowStatus::Running { incarnation, ledger: running.ledger };
                group.push((candidate.turn, &candidate.job, row));
            }
        }
        for group in groups.values_mut() {
            group.sort_by_key(|(turn, ..)| *turn);
        }
        let deepest = groups.values().map(Vec::len).max().unwrap_or(0);
        let interleaved = (0..deepest).flat_map(|place| groups.values().filter_map(move |group| group.get(place)));
        let found: Vec<_> = interleaved.take(max).map(|(_, job, row)| ((*job).clone(), *row)).collect();
        if let Some((first, _)) = found.first() {
            turns.handed_out(&first.definition.id);
        }
        found
    }

    /// Records that the job was handed out, which counts as its turn.
    pub fn handed_out(&self, id: &JobId) {
        self.turns().handed_out(id);
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        lock(&self.turns)
    }
}

impl Turns {
    fn handed_out(&mut self, id: &JobId) {
        self.last += 1;
        if let Some(candidate) = self.jobs.get_mut(id) {
            candidate.turn = self.last;
            self.groups.insert(candidate.group.clone(), self.last);
        }
    }
}

impl ClaimFilter {
    fn matches(&self, job: &Job) -> bool {
        let labels = &job.definition.labels;
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && !self.excluded.contains(&job.definition.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Incarnation, JobState, NewJob};

    const FIRST: Incarnation = Incarnation::new(1);

    fn job(id: &str, tenant: &str) -> Job {
        let new = NewJob {
            job_id: id.into(),
            stages: vec!["s".into()],
            task_count: 1,
            labels: BTreeMap::from([("tenant".into(), tenant.into())]),
            ..NewJob::default()
        };
        Job { state: JobState::Running, incarnation: FIRST, tracked: true, ..Job::created(new.validate().unwrap()) }
    }

    fn of(jobs: Vec<Job>, label: Option<&str>) -> (Candidates, HashMap<JobId, RunningJob>) {
        let candidates = Candidates::new(label.map(str::to_owned));
        let runs = RunningJob { incarnation: Some(FIRST), ledger: false, stall_timeout: None };
        let running = jobs.iter().map(|job| (job.definition.id.clone(), runs)).collect();
        candidates.update(jobs, &running);
        (candidates, running)
    }

    fn shares(candidates: &Candidates, running: &HashMap<JobId, RunningJob>, claims: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..claims {
            let first = candidates.in_turn(&ClaimFilter::default(), running, 4).swap_remove(0).0;
            *shares.entry(first.definition.id.to_string()).or_default() += 1;
        }
        shares
    }

    #[test]
    fn jobs_take_turns() {
        let (candidates, running) = of((0..6).map(|n| job(&format!("j{n}"), "")).collect(), None);
        assert!(shares(&candidates, &running, 600).values().all(|share| *share == 100));
    }

    #[test]
    fn groups_get_equal_shares_whatever_their_number_of_jobs() {
        let jobs = vec![job("a", "one"), job("b", "two"), job("c", "two"), job("d", "two")];
        let (candidates, running) = of(jobs, Some("tenant"));
        let shares = shares(&candidates, &running, 600);
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [300, 100, 100, 100]);
    }

    #[test]
    fn the_second_candidate_is_of_another_group() {
        let jobs = vec![job("a", "one"), job("b", "two"), job("c", "two"), job("d", "two")];
        let (candidates, running) = of(jobs, Some("tenant"));
        let tried = candidates.in_turn(&ClaimFilter::default(), &running, 3);
        let tenants: HashSet<_> =
            tried.iter().take(2).map(|(job, _)| job.definition.labels["tenant"].clone()).collect();
        assert_eq!(tenants.len(), 2);
    }

    #[test]
    fn jobs_that_do_not_match_or_no_longer_run_are_skipped() {
        let (candidates, mut running) = of(vec![job("a", "one"), job("b", "two"), job("c", "two")], None);
        let filter = ClaimFilter {
            labels: BTreeMap::from([("tenant".into(), "two".into())]),
            excluded: HashSet::from(["b".parse().unwrap()]),
        };
        let ids = |running: &HashMap<JobId, RunningJob>| -> Vec<String> {
            let found = candidates.in_turn(&filter, running, 9);
            found.into_iter().map(|(job, _)| job.definition.id.to_string()).collect()
        };
        assert_eq!(ids(&running), ["c"]);
        running.remove(&"c".parse::<JobId>().unwrap());
        assert!(ids(&running).is_empty());
        candidates.update(vec![], &running);
        assert!(candidates.turns().jobs.len() == 2);
    }

    #[test]
    fn jobs_known_only_from_ledger_rows_or_ended_are_skipped() {
        let (candidates, mut running) = of(vec![job("a", "one")], None);
        let id = |id: &str| id.parse::<JobId>().unwrap();
        // The feed never announced the job "late", because its ledger row was recorded after it had ended.
        let recorded = RunningJob { incarnation: None, ledger: true, stall_timeout: None };
        running.insert(id("late"), recorded);
        assert!(candidates.unknown(&running).is_empty());
        running.insert(id("a"), recorded);
        assert!(candidates.in_turn(&ClaimFilter::default(), &running, 9).is_empty());
        running.insert(id("over"), RunningJob { incarnation: Some(FIRST), ..recorded });
        candidates.update(vec![Job { state: JobState::Cancelled, ..job("over", "one") }], &running);
        assert!(candidates.in_turn(&ClaimFilter::default(), &running, 9).is_empty());
    }
}
