//! Which running jobs could be handed out, and whose turn it is: what was handed out longest ago comes first, among the
//! values of the fairness label and then among the jobs of one. That is an even share for each, whatever their sizes,
//! and each gateway sees to it alone: even shares add up to even shares.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::{Job, JobId, RunningJob};

/// From one question to Postgres to the next; a job that was started just now is known after this at the latest.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Which jobs somebody would work on.
#[derive(Debug, Clone, Default)]
pub struct ClaimFilter {
    /// Only those with all of these labels.
    pub labels: BTreeMap<String, String>,
    /// Not these.
    pub excluded: HashSet<JobId>,
}

pub(super) struct Candidates {
    fairness_label: Option<String>,
    turns: Mutex<Turns>,
    /// When Postgres was asked last; held while it is asked, so that it is asked once.
    pub asked: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Turns {
    jobs: HashMap<JobId, Candidate>,
    /// When each value of the fairness label had its last turn.
    groups: HashMap<String, u64>,
    /// Counts the turns.
    last: u64,
}

struct Candidate {
    job: Arc<Job>,
    group: String,
    /// When it had its last turn; 0: never.
    turn: u64,
}

impl Candidates {
    pub fn new(fairness_label: Option<String>) -> Self {
        Self { fairness_label, turns: Mutex::default(), asked: tokio::sync::Mutex::default() }
    }

    /// Whether Postgres may be asked again, if it was asked then.
    pub fn may_ask(asked: Option<Instant>) -> bool {
        asked.is_none_or(|at| at.elapsed() >= ASK_EVERY)
    }

    /// The running jobs of which nothing is known yet.
    pub fn unknown(&self, running: &HashMap<JobId, RunningJob>) -> Vec<JobId> {
        let turns = self.turns();
        let named = running.iter().filter(|(_, running)| running.incarnation > 0).map(|(id, _)| id);
        named.filter(|id| !turns.jobs.contains_key(*id)).cloned().collect()
    }

    /// Learns what these jobs are that run, and forgets those that run no more.
    pub fn learn(&self, jobs: Vec<Job>, running: &HashMap<JobId, RunningJob>) {
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

    /// At most `most` of the jobs that are wanted, in the order in which they are to be tried: the first of every group,
    /// then the second of every group, and so on. The first of all has its turn with this, so that of several who ask at
    /// once each begins with another.
    pub fn in_turn(
        &self,
        wanted: &ClaimFilter,
        running: &HashMap<JobId, RunningJob>,
        most: usize,
    ) -> Vec<(Arc<Job>, RunningJob)> {
        let mut turns = self.turns();
        let mut groups = BTreeMap::<_, Vec<_>>::new();
        for (id, candidate) in &turns.jobs {
            if let Some(running) = running.get(id)
                // Not what was only recorded: whether it runs, the feed has not told.
                && running.incarnation > 0
                && wanted.includes(&candidate.job)
            {
                let turn = turns.groups.get(&candidate.group).copied().unwrap_or(0);
                let group = groups.entry((turn, candidate.group.as_str())).or_default();
                group.push((candidate.turn, &candidate.job, *running));
            }
        }
        for group in groups.values_mut() {
            group.sort_by_key(|(turn, ..)| *turn);
        }
        let deepest = groups.values().map(Vec::len).max().unwrap_or(0);
        let interleaved = (0..deepest).flat_map(|place| groups.values().filter_map(move |group| group.get(place)));
        let found: Vec<_> = interleaved.take(most).map(|(_, job, running)| ((*job).clone(), *running)).collect();
        if let Some((first, _)) = found.first() {
            turns.taken(&first.definition.id);
        }
        found
    }

    /// The job was handed out.
    pub fn taken(&self, id: &JobId) {
        self.turns().taken(id);
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        // What a panic could leave behind is a job that waits one turn longer.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turns {
    fn taken(&mut self, id: &JobId) {
        self.last += 1;
        if let Some(candidate) = self.jobs.get_mut(id) {
            candidate.turn = self.last;
            self.groups.insert(candidate.group.clone(), self.last);
        }
    }
}

impl ClaimFilter {
    fn includes(&self, job: &Job) -> bool {
        let labels = &job.definition.labels;
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && !self.excluded.contains(&job.definition.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{JobState, NewJob};

    fn job(id: &str, tenant: &str) -> Job {
        let new = NewJob {
            job_id: id.into(),
            stages: vec!["s".into()],
            task_count: 1,
            labels: BTreeMap::from([("tenant".into(), tenant.into())]),
            ..NewJob::default()
        };
        Job { state: JobState::Running, incarnation: 1, tracked: true, ..Job::created(new.validate().unwrap()) }
    }

    fn of(jobs: Vec<Job>, label: Option<&str>) -> (Candidates, HashMap<JobId, RunningJob>) {
        let candidates = Candidates::new(label.map(str::to_owned));
        let runs = RunningJob { incarnation: 1, ledger: false, stall_timeout: None };
        let running = jobs.iter().map(|job| (job.definition.id.clone(), runs)).collect();
        candidates.learn(jobs, &running);
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
    fn jobs_have_their_turns_one_after_the_other() {
        let (candidates, running) = of((0..6).map(|n| job(&format!("j{n}"), "")).collect(), None);
        assert!(shares(&candidates, &running, 600).values().all(|share| *share == 100));
    }

    #[test]
    fn groups_have_even_shares_however_many_jobs_they_have() {
        let jobs = vec![job("a", "one"), job("b", "two"), job("c", "two"), job("d", "two")];
        let (candidates, running) = of(jobs, Some("tenant"));
        let shares = shares(&candidates, &running, 600);
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [300, 100, 100, 100]);
    }

    #[test]
    fn what_is_tried_next_is_of_another_group() {
        let jobs = vec![job("a", "one"), job("b", "two"), job("c", "two"), job("d", "two")];
        let (candidates, running) = of(jobs, Some("tenant"));
        let tried = candidates.in_turn(&ClaimFilter::default(), &running, 3);
        let tenants: HashSet<_> =
            tried.iter().take(2).map(|(job, _)| job.definition.labels["tenant"].clone()).collect();
        assert_eq!(tenants.len(), 2);
    }

    #[test]
    fn what_is_not_wanted_or_runs_no_more_is_not_tried() {
        let (candidates, mut running) = of(vec![job("a", "one"), job("b", "two"), job("c", "two")], None);
        let wanted = ClaimFilter {
            labels: BTreeMap::from([("tenant".into(), "two".into())]),
            excluded: HashSet::from(["b".parse().unwrap()]),
        };
        let ids = |running: &HashMap<JobId, RunningJob>| -> Vec<String> {
            let found = candidates.in_turn(&wanted, running, 9);
            found.into_iter().map(|(job, _)| job.definition.id.to_string()).collect()
        };
        assert_eq!(ids(&running), ["c"]);
        running.remove(&"c".parse::<JobId>().unwrap());
        assert!(ids(&running).is_empty());
        candidates.learn(vec![], &running);
        assert!(candidates.turns().jobs.len() == 2);
    }

    #[test]
    fn what_was_only_recorded_or_has_ended_is_not_tried() {
        let (candidates, mut running) = of(vec![job("a", "one")], None);
        let id = |id: &str| id.parse::<JobId>().unwrap();
        // Of "late" the feed has not told that it runs: a row of it was recorded when it had ended.
        let recorded = RunningJob { incarnation: 0, ledger: true, stall_timeout: None };
        running.insert(id("late"), recorded);
        assert!(candidates.unknown(&running).is_empty());
        running.insert(id("a"), recorded);
        assert!(candidates.in_turn(&ClaimFilter::default(), &running, 9).is_empty());
        running.insert(id("over"), RunningJob { incarnation: 1, ..recorded });
        candidates.learn(vec![Job { state: JobState::Cancelled, ..job("over", "one") }], &running);
        assert!(candidates.in_turn(&ClaimFilter::default(), &running, 9).is_empty());
    }
}
