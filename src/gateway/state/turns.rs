//! The order in which running jobs are handed out. The value of the fairness label whose turn was longest ago is next.
//! Among the jobs with this value, the job whose turn was longest ago is next. The values, and the jobs of one value,
//! therefore get equal shares, whatever the sizes of the jobs. Each gateway counts its own turns. Equal shares on each
//! gateway add up to equal shares overall.
//!
//! The jobs are kept in order, once for all jobs and once for each of the label filters that were used last. The cost
//! of a claim therefore does not grow with the number of running jobs. Only the first claim with a new filter examines
//! all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;

use crate::domain::{Definition, JobId};

/// The maximum number of label filters for which the order is kept. A fleet has few kinds of workers, and each kind
/// uses one filter.
const KEPT_FILTERS: NonZeroUsize = NonZeroUsize::new(32).unwrap();

/// The jobs that a worker accepts.
#[derive(Debug, Clone, Default)]
pub struct ClaimFilter {
    /// The labels that a job must have.
    pub labels: BTreeMap<String, String>,
    /// The jobs that the worker does not accept.
    pub excluded: HashSet<JobId>,
}

/// The running jobs in the order of their turns.
pub struct Turns {
    fairness_label: Option<String>,
    jobs: HashMap<JobId, Candidate>,
    groups: HashMap<Arc<str>, Group>,
    /// The number of the last turn.
    last: u64,
    all: Queue,
    by_labels: LruCache<BTreeMap<String, String>, Queue>,
}

struct Candidate {
    definition: Arc<Definition>,
    group: Arc<str>,
    /// The job's last turn; 0 before the first.
    turn: u64,
}

/// The jobs with one value of the fairness label.
#[derive(Default)]
struct Group {
    /// The group's last turn; 0 before the first.
    turn: u64,
    jobs: usize,
}

/// Some of the jobs, in the order of their turns.
#[derive(Default)]
struct Queue {
    /// The groups, each with its last turn.
    order: BTreeSet<(u64, Arc<str>)>,
    /// The jobs of each group, each with its last turn.
    jobs: HashMap<Arc<str>, BTreeSet<(u64, JobId)>>,
}

impl Turns {
    /// Creates an order without jobs. With a `fairness_label`, turns are shared equally among the values of this label.
    pub fn new(fairness_label: Option<String>) -> Self {
        Self {
            fairness_label,
            jobs: HashMap::new(),
            groups: HashMap::new(),
            last: 0,
            all: Queue::default(),
            by_labels: LruCache::new(KEPT_FILTERS),
        }
    }

    /// Adds a job. A job that was added before keeps its turn.
    pub fn add(&mut self, definition: &Arc<Definition>) {
        if self.jobs.contains_key(&definition.id) {
            return;
        }
        let label = self.fairness_label.as_ref().and_then(|label| definition.labels.get(label));
        let group: Arc<str> = label.map_or("", String::as_str).into();
        let candidate = Candidate { definition: definition.clone(), group: group.clone(), turn: 0 };
        let shared = self.groups.entry(group).or_default();
        shared.jobs += 1;
        let group_turn = shared.turn;
        self.all.insert(&candidate, group_turn);
        for (labels, queue) in &mut self.by_labels {
            if has_labels(definition, labels) {
                queue.insert(&candidate, group_turn);
            }
        }
        self.jobs.insert(definition.id.clone(), candidate);
    }

    /// Removes a job.
    pub fn remove(&mut self, id: &JobId) {
        let Some(candidate) = self.jobs.remove(id) else { return };
        let Some(group) = self.groups.get_mut(&candidate.group) else { return };
        group.jobs -= 1;
        let Group { turn, jobs } = *group;
        if jobs == 0 {
            self.groups.remove(&candidate.group);
        }
        for queue in self.queues() {
            queue.remove(&candidate, turn);
        }
    }

    /// Returns at most `max` matching jobs in the order in which to try them. The first jobs of all groups come first,
    /// then the second jobs of all groups, and so on. This call counts as a turn of the first job, so that concurrent
    /// callers start with different jobs.
    pub fn next(&mut self, filter: &ClaimFilter, max: usize) -> Vec<JobId> {
        let found = self.queue(&filter.labels).next(&filter.excluded, max);
        if let Some(first) = found.first() {
            self.handed_out(first);
        }
        found
    }

    /// Records that the job was handed out, which counts as its turn and as the turn of its group.
    pub fn handed_out(&mut self, id: &JobId) {
        self.postpone(id);
        let Some(candidate) = self.jobs.get(id) else { return };
        let Some(group) = self.groups.get_mut(&candidate.group) else { return };
        let (value, before) = (candidate.group.clone(), std::mem::replace(&mut group.turn, self.last));
        let last = self.last;
        for queue in self.queues() {
            queue.move_group(&value, before, last);
        }
    }

    /// Moves a job behind the other jobs of its group, without a turn of the group.
    pub fn postpone(&mut self, id: &JobId) {
        let Some(candidate) = self.jobs.get_mut(id) else { return };
        self.last += 1;
        let (value, before) = (candidate.group.clone(), std::mem::replace(&mut candidate.turn, self.last));
        let last = self.last;
        for queue in self.queues() {
            queue.move_job(&value, id, before, last);
        }
    }

    /// Returns the queue of the jobs with these labels.
    fn queue(&mut self, labels: &BTreeMap<String, String>) -> &Queue {
        if labels.is_empty() {
            return &self.all;
        }
        let Self { jobs, groups, by_labels, .. } = self;
        by_labels.get_or_insert(labels.clone(), || {
            let mut queue = Queue::default();
            for candidate in jobs.values().filter(|candidate| has_labels(&candidate.definition, labels)) {
                queue.insert(candidate, groups.get(&candidate.group).map_or(0, |group| group.turn));
            }
            queue
        })
    }

    fn queues(&mut self) -> impl Iterator<Item = &mut Queue> {
        std::iter::once(&mut self.all).chain(self.by_labels.iter_mut().map(|(_, queue)| queue))
    }
}

impl Queue {
    fn insert(&mut self, candidate: &Candidate, group_turn: u64) {
        self.order.insert((group_turn, candidate.group.clone()));
        let jobs = self.jobs.entry(candidate.group.clone()).or_default();
        jobs.insert((candidate.turn, candidate.definition.id.clone()));
    }

    fn remove(&mut self, candidate: &Candidate, group_turn: u64) {
        let Some(jobs) = self.jobs.get_mut(&candidate.group) else { return };
        jobs.remove(&(candidate.turn, candidate.definition.id.clone()));
        if jobs.is_empty() {
            self.jobs.remove(&candidate.group);
            self.order.remove(&(group_turn, candidate.group.clone()));
        }
    }

    fn move_group(&mut self, group: &Arc<str>, before: u64, turn: u64) {
        if self.order.remove(&(before, group.clone())) {
            self.order.insert((turn, group.clone()));
        }
    }

    fn move_job(&mut self, group: &Arc<str>, id: &JobId, before: u64, turn: u64) {
        let Some(jobs) = self.jobs.get_mut(group) else { return };
        if jobs.remove(&(before, id.clone())) {
            jobs.insert((turn, id.clone()));
        }
    }

    fn next(&self, excluded: &HashSet<JobId>, max: usize) -> Vec<JobId> {
        let mut found = Vec::new();
        let mut begun = Vec::new();
        for (_, group) in &self.order {
            let jobs = self.jobs.get(group).into_iter().flatten();
            let mut jobs = jobs.map(|(_, id)| id).filter(|id| !excluded.contains(*id));
            found.extend(jobs.next().cloned());
            begun.push(jobs);
            if found.len() >= max {
                return found;
            }
        }
        while !begun.is_empty() {
            begun.retain_mut(|jobs| {
                let next = jobs.next().filter(|_| found.len() < max);
                found.extend(next.cloned());
                next.is_some()
            });
        }
        found
    }
}

fn has_labels(definition: &Definition, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| definition.labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NewJob;

    fn job(id: &str, tenant: &str) -> Arc<Definition> {
        let new = NewJob {
            job_id: id.into(),
            stages: vec!["s".into()],
            task_count: Some(1),
            labels: BTreeMap::from([("tenant".into(), tenant.into())]),
            ..NewJob::default()
        };
        Arc::new(new.validate().unwrap())
    }

    fn turns(jobs: &[(&str, &str)], label: Option<&str>) -> Turns {
        let mut turns = Turns::new(label.map(str::to_owned));
        for (id, tenant) in jobs {
            turns.add(&job(id, tenant));
        }
        turns
    }

    fn next(turns: &mut Turns, filter: &ClaimFilter, max: usize) -> Vec<String> {
        turns.next(filter, max).iter().map(ToString::to_string).collect()
    }

    fn shares(turns: &mut Turns, filter: &ClaimFilter, claims: usize) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for _ in 0..claims {
            let first = next(turns, filter, 4).swap_remove(0);
            turns.handed_out(&first.parse().unwrap());
            *shares.entry(first).or_default() += 1;
        }
        shares
    }

    fn of_tenant(tenant: &str) -> ClaimFilter {
        ClaimFilter { labels: BTreeMap::from([("tenant".into(), tenant.into())]), ..ClaimFilter::default() }
    }

    const FOUR: [(&str, &str); 4] = [("a", "one"), ("b", "two"), ("c", "two"), ("d", "two")];

    #[test]
    fn jobs_take_turns() {
        let jobs = [("j0", ""), ("j1", ""), ("j2", ""), ("j3", ""), ("j4", ""), ("j5", "")];
        let shares = shares(&mut turns(&jobs, None), &ClaimFilter::default(), 600);
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [100; 6]);
    }

    #[test]
    fn groups_get_equal_shares_whatever_their_number_of_jobs() {
        let shares = shares(&mut turns(&FOUR, Some("tenant")), &ClaimFilter::default(), 600);
        assert_eq!(shares.into_values().collect::<Vec<_>>(), [300, 100, 100, 100]);
    }

    #[test]
    fn first_jobs_of_all_groups_come_before_second_jobs() {
        let jobs = [("a", "one"), ("b", "two"), ("c", "two"), ("d", "three"), ("e", "three"), ("f", "three")];
        let mut turns = turns(&jobs, Some("tenant"));
        let all = next(&mut turns, &ClaimFilter::default(), 9);
        let mut sorted = all.clone();
        sorted.sort();
        assert_eq!(sorted, ["a", "b", "c", "d", "e", "f"]);
        let tenant = |id: &String| jobs.iter().find(|(job, _)| job == id).unwrap().1;
        let tenants: HashSet<_> = all.iter().take(3).map(tenant).collect();
        assert_eq!(tenants.len(), 3, "{all:?}");
        assert_eq!(next(&mut turns, &ClaimFilter::default(), 2).len(), 2);
    }

    #[test]
    fn filtered_jobs_take_turns_and_excluded_jobs_are_skipped() {
        let mut turns = turns(&FOUR, None);
        assert_eq!(shares(&mut turns, &of_tenant("two"), 300).into_values().collect::<Vec<_>>(), [100, 100, 100]);
        let filter = ClaimFilter { excluded: HashSet::from(["b".parse().unwrap()]), ..of_tenant("two") };
        assert_eq!(shares(&mut turns, &filter, 300).into_values().collect::<Vec<_>>(), [150, 150]);
        assert!(next(&mut turns, &of_tenant("none"), 9).is_empty());
    }

    #[test]
    fn added_and_removed_jobs_change_the_order_of_a_filter_that_is_in_use() {
        let mut turns = turns(&FOUR, Some("tenant"));
        assert_eq!(next(&mut turns, &of_tenant("one"), 9), ["a"]);
        turns.add(&job("e", "one"));
        turns.remove(&"a".parse().unwrap());
        assert_eq!(next(&mut turns, &of_tenant("one"), 9), ["e"]);
        turns.remove(&"e".parse().unwrap());
        assert!(next(&mut turns, &of_tenant("one"), 9).is_empty());
        assert_eq!(next(&mut turns, &ClaimFilter::default(), 9).len(), 3);
        assert_eq!(turns.groups.len(), 1, "the turn of a group without jobs is forgotten");
    }

    #[test]
    fn postponed_job_comes_after_the_other_jobs_of_its_group() {
        let mut turns = turns(&FOUR, None);
        turns.postpone(&"a".parse().unwrap());
        assert_eq!(next(&mut turns, &ClaimFilter::default(), 9), ["b", "c", "d", "a"]);
    }

    #[test]
    fn order_is_the_same_for_a_filter_that_was_forgotten() {
        let (mut forgotten, mut kept) = (turns(&FOUR, Some("tenant")), turns(&FOUR, Some("tenant")));
        for round in 0..20 {
            for other in 0..KEPT_FILTERS.get() {
                forgotten.next(&of_tenant(&other.to_string()), 1);
            }
            let of = |turns: &mut Turns| next(turns, &of_tenant("two"), 9);
            assert_eq!(of(&mut forgotten), of(&mut kept), "round {round}");
        }
    }
}
