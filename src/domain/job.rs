//! The definition of a job and its validation, and the job as Postgres stores it. A definition does not change after
//! the job has been started.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::ids::check;
use super::{Incarnation, JobId, JobState, Layout, MAX_STAGES, StageKey, Violation};

/// The maximum number of tasks of a job.
pub const MAX_TASKS: u32 = 10_000_000;

const MAX_DISPLAY_NAME_BYTES: usize = 256;
const MAX_LABELS: usize = 64;
const MAX_LABEL_VALUE_BYTES: usize = 256;
/// The maximum size of all keys and values of a job's labels. Gateways hold the labels of every running job in memory.
const MAX_LABELS_BYTES: usize = 4096;
const DEFAULT_FAILURE_THRESHOLD: f64 = 0.5;
const SHORTEST_STALL_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_STALL_TIMEOUT: Duration = Duration::from_hours(3660 * 24);

/// The definition of a job as a caller sent it, before validation.
#[derive(Debug, Clone, Default)]
pub struct NewJob {
    /// The job's ID. If it is empty, an ID is generated.
    pub job_id: String,
    /// A name for people.
    pub display_name: String,
    /// Labels by which jobs can be selected.
    pub labels: BTreeMap<String, String>,
    /// The keys of the stages, in order.
    pub stages: Vec<String>,
    /// The number of tasks; required with `start`, and 0 or absent with `named_tasks`. No tasks if absent.
    pub task_count: Option<i64>,
    /// The largest share of failed tasks with which the job still succeeds, from 0 to 1; 0.5 if absent.
    pub failure_threshold: Option<f64>,
    /// How long the job may make no progress before it is revoked. If absent, the gateways' setting applies.
    pub stall_timeout: Option<time::Duration>,
    /// Whether the tasks have names. Named tasks are all added after the creation of the job.
    pub named_tasks: bool,
    /// Whether the job is started when it is created.
    pub start: bool,
}

/// The validated definition of a job. It does not change after the job's creation, except that tasks can be added until
/// the job is started.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The job's ID.
    pub id: JobId,
    /// A name for people.
    pub display_name: String,
    /// Labels by which jobs can be selected.
    pub labels: BTreeMap<String, String>,
    /// 1 to [`MAX_STAGES`] distinct keys, in the order in which a task passes them.
    pub stages: Vec<StageKey>,
    /// The number of tasks, at most [`MAX_TASKS`]. It can grow while the job is PENDING and is final afterwards.
    pub task_count: u32,
    /// The largest share of failed tasks with which the job still succeeds, from 0 to 1.
    pub failure_threshold: f64,
    /// How long the job may make no progress before it is revoked, in whole milliseconds. If absent, the gateways'
    /// setting applies.
    pub stall_timeout: Option<Duration>,
    /// The ended job whose tasks this job repeats, if this job is a retry.
    pub retry_of: Option<JobId>,
    /// Whether the tasks have names.
    pub named_tasks: bool,
}

/// A job as Postgres stores it, without its snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// The job's definition, which the caches of a gateway share.
    pub definition: Arc<Definition>,
    /// The number of tasks with which the job was created, before more tasks were added.
    pub created_task_count: u32,
    /// The job's state.
    pub state: JobState,
    /// The incarnation of the job's own tracker. It is 0, which no tracker has, until the job is first started or tasks
    /// are first added.
    pub incarnation: Incarnation,
    /// Whether a tracker was ever opened for the job, so that Redis may hold marks that Postgres cannot see.
    pub tracked: bool,
    /// Whether the ledger holds reports of the job.
    pub ledger: bool,
    /// When the job was created, by the clock of Postgres.
    pub create_time: OffsetDateTime,
    /// When the job was started, by the clock of Postgres; absent if it was not started.
    pub start_time: Option<OffsetDateTime>,
    /// When the job ended, by the clock of Postgres; absent if it has not ended.
    pub end_time: Option<OffsetDateTime>,
    /// Why the job was cancelled; empty in every other state.
    pub cancel_reason: String,
    /// The job that retries this job's tasks, if there is one.
    pub retried_by: Option<JobId>,
}

/// A running job as the feed announces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningJob {
    /// The incarnation of the job's own tracker. It is `None` for a job that is known only from a ledger row, because
    /// the feed has not announced that the job runs.
    pub incarnation: Option<Incarnation>,
    /// Whether the ledger holds reports of the job.
    pub ledger: bool,
    /// How long the job may make no progress before it is revoked. If absent, the gateways' setting applies.
    pub stall_timeout: Option<Duration>,
}

impl NewJob {
    /// Checks every field. The error lists all malformed fields, not only the first.
    pub fn validate(self) -> Result<Definition, Vec<Violation>> {
        let mut violations = Vec::new();
        let mut require = |holds: bool, field: &str, description: String| {
            if !holds {
                violations.push(Violation::new(field, description));
            }
        };
        let id = if self.job_id.is_empty() { Ok(JobId::generate()) } else { self.job_id.parse() };
        if let Err(fault) = &id {
            require(false, "job_id", format!("{fault}"));
        }
        require(
            self.display_name.len() <= MAX_DISPLAY_NAME_BYTES,
            "display_name",
            format!("must have at most {MAX_DISPLAY_NAME_BYTES} bytes"),
        );
        for description in invalid_labels(&self.labels) {
            require(false, "labels", description);
        }
        require(!self.display_name.contains('\0'), "display_name", "must not contain NUL".to_owned());
        require(
            (1..=MAX_STAGES).contains(&self.stages.len()),
            "stages",
            format!("must be 1 to {MAX_STAGES} keys, not {}", self.stages.len()),
        );
        let mut seen = HashSet::new();
        let mut stages = Vec::new();
        for (index, key) in self.stages.iter().take(MAX_STAGES).enumerate() {
            let field = format!("stages[{index}]");
            match key.parse::<StageKey>() {
                Ok(stage) => stages.push(stage),
                Err(fault) => require(false, &field, format!("{fault}")),
            }
            require(seen.insert(key), &field, format!("must not repeat the key {key:?}"));
        }
        let given = self.task_count.unwrap_or_default();
        let task_count = u32::try_from(given).ok().filter(|count| *count <= MAX_TASKS);
        require(task_count.is_some(), "task_count", format!("must be 0 to {MAX_TASKS}, not {given}"));
        require(
            !self.named_tasks || given == 0,
            "task_count",
            "must be 0 with named_tasks: add the tasks by name, with AddTasks".to_owned(),
        );
        require(
            self.task_count.is_some() || self.named_tasks || !self.start,
            "task_count",
            "must be set with start: a job without tasks would succeed at once; send 0 if it has none".to_owned(),
        );
        require(
            !(self.named_tasks && self.start),
            "start",
            "must be false with named_tasks: the job has no tasks yet and would succeed at once".to_owned(),
        );
        let failure_threshold = self.failure_threshold.unwrap_or(DEFAULT_FAILURE_THRESHOLD);
        require(
            (0.0..=1.0).contains(&failure_threshold),
            "failure_threshold",
            format!("must be 0 to 1, not {failure_threshold}"),
        );
        let stall_timeout = self.stall_timeout.map(whole_milliseconds);
        require(
            stall_timeout
                .is_none_or(|it| it.is_some_and(|it| (SHORTEST_STALL_TIMEOUT..=LONGEST_STALL_TIMEOUT).contains(&it))),
            "stall_timeout",
            "must be 1 second to 3,660 days".to_owned(),
        );
        match (id, task_count) {
            (Ok(id), Some(task_count)) if violations.is_empty() => Ok(Definition {
                id,
                display_name: self.display_name,
                labels: self.labels,
                stages,
                task_count,
                failure_threshold,
                stall_timeout: stall_timeout.flatten(),
                retry_of: None,
                named_tasks: self.named_tasks,
            }),
            _ => Err(violations),
        }
    }
}

impl Definition {
    /// Returns the layout of the cells that hold the job's marks.
    pub fn layout(&self) -> Layout {
        Layout { total: self.task_count, stages: self.stages.len() }
    }

    /// Returns the index of the stage with this key.
    pub fn stage_index(&self, key: &str) -> Option<usize> {
        self.stages.iter().position(|stage| stage.as_str() == key)
    }

    /// Returns the index of the stage with this key. If there is none, the error lists the job's stages.
    pub fn known_stage(&self, key: &str) -> Result<usize, String> {
        self.stage_index(key).ok_or_else(|| {
            let known: Vec<_> = self.stages.iter().map(ToString::to_string).collect();
            let given: String = key.chars().take(64).collect();
            format!("must be one of the job's stages ({}), not {given:?}", known.join(", "))
        })
    }
}

impl Job {
    /// Returns the names of the fields in which `given` differs from the definition with which this job was created.
    /// Tasks that were added later are ignored, so that a repeated creation stays idempotent.
    pub fn differences(&self, given: &Definition) -> Vec<&'static str> {
        let own = &self.definition;
        [
            ("display_name", own.display_name != given.display_name),
            ("labels", own.labels != given.labels),
            ("stages", own.stages != given.stages),
            ("task_count", self.created_task_count != given.task_count),
            ("failure_threshold", own.failure_threshold.to_bits() != given.failure_threshold.to_bits()),
            ("stall_timeout", own.stall_timeout != given.stall_timeout),
            ("named_tasks", own.named_tasks != given.named_tasks),
            // Only RetryJob sets this field.
            ("retry_of", own.retry_of != given.retry_of),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

/// Checks labels. Returns a description of each fault; valid labels have none.
pub fn invalid_labels(labels: &BTreeMap<String, String>) -> Vec<String> {
    let mut faults = Vec::new();
    if labels.len() > MAX_LABELS {
        faults.push(format!("must have at most {MAX_LABELS} entries"));
    }
    if labels.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>() > MAX_LABELS_BYTES {
        faults.push(format!("must have at most {MAX_LABELS_BYTES} bytes in total, keys and values together"));
    }
    for (key, value) in labels {
        // Postgres cannot store NUL, neither in text nor in jsonb.
        let valid =
            check(key, JobId::MAX_BYTES).is_ok() && value.len() <= MAX_LABEL_VALUE_BYTES && !value.contains('\0');
        if !valid {
            faults.push(format!(
                "{key:?}: a key must have the format of a job ID, a value at most {MAX_LABEL_VALUE_BYTES} bytes and no \
                 NUL"
            ));
        }
    }
    faults
}

/// Rounds down to whole milliseconds, the precision that is stored. Returns `None` for a negative duration.
fn whole_milliseconds(duration: time::Duration) -> Option<Duration> {
    u64::try_from(duration.whole_milliseconds()).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Job {
        /// Creates the job as it is just after its creation.
        pub fn created(definition: Definition) -> Self {
            Self {
                created_task_count: definition.task_count,
                definition: Arc::new(definition),
                state: JobState::Pending,
                incarnation: Incarnation::new(0),
                tracked: false,
                ledger: false,
                create_time: OffsetDateTime::UNIX_EPOCH,
                start_time: None,
                end_time: None,
                cancel_reason: String::new(),
                retried_by: None,
            }
        }
    }

    fn new_job() -> NewJob {
        NewJob { job_id: "a".into(), stages: vec!["s".into()], task_count: Some(1), ..NewJob::default() }
    }

    fn fields(new: NewJob) -> Vec<String> {
        new.validate().unwrap_err().into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn job_id_is_generated_and_failure_threshold_defaults_to_half() {
        let definition = NewJob { job_id: String::new(), ..new_job() }.validate().unwrap();
        assert_eq!(definition.id.as_str().len(), 36);
        assert_eq!(definition.failure_threshold.to_bits(), 0.5_f64.to_bits());
    }

    #[test]
    fn one_error_names_every_malformed_field() {
        let new = NewJob {
            job_id: "no good".into(),
            display_name: "x".repeat(257),
            labels: BTreeMap::from([("a b".into(), String::new())]),
            stages: vec!["s".into(), "s".into(), String::new()],
            task_count: Some(-1),
            failure_threshold: Some(f64::NAN),
            stall_timeout: Some(time::Duration::ZERO),
            named_tasks: true,
            start: true,
        };
        let expected = [
            "job_id",
            "display_name",
            "labels",
            "stages[1]",
            "stages[2]",
            "task_count",
            "task_count",
            "start",
            "failure_threshold",
            "stall_timeout",
        ];
        assert_eq!(fields(new), expected);
    }

    #[test]
    fn limits_are_inclusive() {
        let stages = |count: usize| NewJob { stages: (0..count).map(|i| format!("s{i}")).collect(), ..new_job() };
        assert_eq!(fields(stages(0)), ["stages"]);
        assert!(stages(8).validate().is_ok());
        assert_eq!(fields(stages(9)), ["stages"]);
        assert!(NewJob { task_count: Some(10_000_000), ..new_job() }.validate().is_ok());
        assert_eq!(fields(NewJob { task_count: Some(10_000_001), ..new_job() }), ["task_count"]);
        assert!(NewJob { task_count: Some(0), named_tasks: true, ..new_job() }.validate().is_ok());
        assert_eq!(fields(NewJob { task_count: Some(1), named_tasks: true, ..new_job() }), ["task_count"]);
        assert!(NewJob { failure_threshold: Some(1.0), ..new_job() }.validate().is_ok());
        let stall = |timeout| NewJob { stall_timeout: Some(timeout), ..new_job() };
        for good in [time::Duration::SECOND, time::Duration::days(3660)] {
            assert!(stall(good).validate().is_ok(), "{good}");
        }
        let (long, nano) = (time::Duration::days(3660), time::Duration::NANOSECOND);
        for bad in [time::Duration::SECOND - nano, -long, long + time::Duration::MILLISECOND, time::Duration::MAX] {
            assert_eq!(fields(stall(bad)), ["stall_timeout"], "{bad}");
        }
    }

    #[test]
    fn stall_timeout_is_rounded_down_to_milliseconds() {
        let new = NewJob { stall_timeout: Some(time::Duration::nanoseconds(1_234_567_890)), ..new_job() };
        assert_eq!(new.validate().unwrap().stall_timeout, Some(Duration::from_millis(1234)));
    }

    #[test]
    fn differences_name_the_fields() {
        let job = Job::created(new_job().validate().unwrap());
        let other = NewJob { task_count: Some(2), display_name: "b".into(), ..new_job() }.validate().unwrap();
        assert_eq!(job.differences(&job.definition), Vec::<&str>::new());
        assert_eq!(job.differences(&other), ["display_name", "task_count"]);
        let named = NewJob { task_count: Some(0), named_tasks: true, ..new_job() }.validate().unwrap();
        assert_eq!(job.differences(&named), ["task_count", "named_tasks"]);
    }

    #[test]
    fn tasks_added_after_the_creation_are_not_a_difference() {
        let as_created = new_job().validate().unwrap();
        let mut grown = Job::created(as_created.clone());
        Arc::make_mut(&mut grown.definition).task_count = 7;
        assert_eq!(grown.differences(&as_created), Vec::<&str>::new());
        assert_eq!(grown.differences(&grown.definition), ["task_count"]);
    }
}
