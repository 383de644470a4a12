//! What a job is: its definition, which never changes once the job was started, and where it stands in its life.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use time::OffsetDateTime;

use super::ids::check;
use super::{JobId, JobState, Layout, MAX_STAGES, StageKey, Violation};

/// The most tasks that a job can have.
pub const MAX_TASKS: u32 = 10_000_000;

const MAX_DISPLAY_NAME_BYTES: usize = 256;
const MAX_LABELS: usize = 64;
const MAX_LABEL_VALUE_BYTES: usize = 256;
const DEFAULT_FAILURE_THRESHOLD: f64 = 0.5;
const SHORTEST_STALL_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_STALL_TIMEOUT: Duration = Duration::from_hours(3660 * 24);

/// A definition as a caller wrote it, not yet looked at.
#[derive(Debug, Clone, Default)]
pub struct NewJob {
    /// Empty: generated.
    pub job_id: String,
    /// For people.
    pub display_name: String,
    /// For selecting.
    pub labels: BTreeMap<String, String>,
    /// The keys of the stages, in order.
    pub stages: Vec<String>,
    /// How many tasks.
    pub task_count: i64,
    /// Absent: 0.5.
    pub failure_threshold: Option<f64>,
    /// Absent: as the gateways are configured.
    pub stall_timeout: Option<time::Duration>,
    /// The tasks have names, and are all added later.
    pub named_tasks: bool,
    /// To be started at once.
    pub start: bool,
}

/// What a job is. Once it exists nothing of it changes, but that tasks may be added until it is started.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// The job's id.
    pub id: JobId,
    /// For people.
    pub display_name: String,
    /// For selecting.
    pub labels: BTreeMap<String, String>,
    /// 1 to [`MAX_STAGES`] distinct keys, in the order in which a task passes them.
    pub stages: Vec<StageKey>,
    /// At most [`MAX_TASKS`]. Only that of a job which is PENDING no more is for good.
    pub task_count: u32,
    /// The largest share of failed tasks with which the job still succeeds, 0 to 1.
    pub failure_threshold: f64,
    /// How long it may make no progress before it is revoked, in whole milliseconds; absent: as the gateways are
    /// configured.
    pub stall_timeout: Option<Duration>,
    /// Its tasks are those of this job, which has ended, once again.
    pub retry_of: Option<JobId>,
    /// The tasks have names.
    pub named_tasks: bool,
}

/// A job as Postgres holds it, without its snapshot.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// What it is.
    pub definition: Definition,
    /// With how many tasks it was created, before others were added.
    pub created_task_count: u32,
    /// Where it stands.
    pub state: JobState,
    /// Which tracker is its own; 0 before the first attempt to start it, or to add tasks.
    pub incarnation: u64,
    /// A tracker was ever opened for it: marks may be where Postgres cannot see them.
    pub tracked: bool,
    /// Rows of its reports are in the ledger.
    pub ledger: bool,
    /// By the clock of Postgres, as all three.
    pub create_time: OffsetDateTime,
    /// Absent before the start.
    pub start_time: Option<OffsetDateTime>,
    /// Absent before the end.
    pub end_time: Option<OffsetDateTime>,
    /// Why it was cancelled; empty in every other state.
    pub cancel_reason: String,
    /// The job that tries its tasks again, if there is one.
    pub retried_by: Option<JobId>,
}

/// What is told of a job that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunningJob {
    /// Which tracker is its own.
    pub incarnation: u64,
    /// Rows of its reports are in the ledger.
    pub ledger: bool,
    /// How long it may make no progress, if it says so itself.
    pub stall_timeout: Option<Duration>,
}

impl NewJob {
    /// Checks every field, and names all that are wrong.
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
        let task_count = u32::try_from(self.task_count).ok().filter(|count| *count <= MAX_TASKS);
        require(task_count.is_some(), "task_count", format!("must be 0 to {MAX_TASKS}, not {}", self.task_count));
        require(
            !self.named_tasks || self.task_count == 0,
            "task_count",
            "must be 0 with named_tasks: AddTasks adds them, by name".to_owned(),
        );
        require(
            !(self.named_tasks && self.start),
            "start",
            "must be false with named_tasks: the job has no tasks yet, and would succeed at once".to_owned(),
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
    /// How the cells of its marks lie.
    pub fn layout(&self) -> Layout {
        Layout { total: self.task_count, stages: self.stages.len() }
    }

    /// Which stage has this key.
    pub fn stage_index(&self, key: &str) -> Option<usize> {
        self.stages.iter().position(|stage| stage.as_str() == key)
    }

    /// The same; where there is none, what it must be.
    pub fn known_stage(&self, key: &str) -> Result<usize, String> {
        self.stage_index(key).ok_or_else(|| {
            let known: Vec<_> = self.stages.iter().map(ToString::to_string).collect();
            let given: String = key.chars().take(64).collect();
            format!("must be one of the job's stages ({}), not {given:?}", known.join(", "))
        })
    }
}

impl Job {
    /// The names of the fields in which `given` is not what this job was created with. What was added since is no
    /// difference, so that creating it again is harmless also then.
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
            // Only RetryJob says that of a job.
            ("retry_of", own.retry_of != given.retry_of),
        ]
        .into_iter()
        .filter_map(|(field, differs)| differs.then_some(field))
        .collect()
    }
}

/// What is wrong with labels, in words that each begin with what must be.
pub fn invalid_labels(labels: &BTreeMap<String, String>) -> Vec<String> {
    let mut wrong = Vec::new();
    if labels.len() > MAX_LABELS {
        wrong.push(format!("must be at most {MAX_LABELS}"));
    }
    for (key, value) in labels {
        // NUL cannot be stored in Postgres, neither in text nor in jsonb.
        let holds =
            check(key, JobId::MAX_BYTES).is_ok() && value.len() <= MAX_LABEL_VALUE_BYTES && !value.contains('\0');
        if !holds {
            wrong.push(format!(
                "{key:?}: a key must be like a job id, a value at most {MAX_LABEL_VALUE_BYTES} bytes without NUL"
            ));
        }
    }
    wrong
}

/// As it is kept: rounded down; `None` below zero.
fn whole_milliseconds(duration: time::Duration) -> Option<Duration> {
    u64::try_from(duration.whole_milliseconds()).ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Job {
        /// As it is just after it was created.
        pub fn created(definition: Definition) -> Self {
            Self {
                created_task_count: definition.task_count,
                definition,
                state: JobState::Pending,
                incarnation: 0,
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
        NewJob { job_id: "a".into(), stages: vec!["s".into()], task_count: 1, ..NewJob::default() }
    }

    fn fields(new: NewJob) -> Vec<String> {
        new.validate().unwrap_err().into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn defaults_are_a_generated_id_and_half() {
        let definition = NewJob { job_id: String::new(), ..new_job() }.validate().unwrap();
        assert_eq!(definition.id.as_str().len(), 36);
        assert_eq!(definition.failure_threshold.to_bits(), 0.5_f64.to_bits());
    }

    #[test]
    fn every_malformed_field_is_named_at_once() {
        let new = NewJob {
            job_id: "no good".into(),
            display_name: "x".repeat(257),
            labels: BTreeMap::from([("a b".into(), String::new())]),
            stages: vec!["s".into(), "s".into(), String::new()],
            task_count: -1,
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
    fn limits_hold_on_both_sides() {
        let stages = |count: usize| NewJob { stages: (0..count).map(|i| format!("s{i}")).collect(), ..new_job() };
        assert_eq!(fields(stages(0)), ["stages"]);
        assert!(stages(8).validate().is_ok());
        assert_eq!(fields(stages(9)), ["stages"]);
        assert!(NewJob { task_count: 10_000_000, ..new_job() }.validate().is_ok());
        assert_eq!(fields(NewJob { task_count: 10_000_001, ..new_job() }), ["task_count"]);
        assert!(NewJob { task_count: 0, named_tasks: true, ..new_job() }.validate().is_ok());
        assert_eq!(fields(NewJob { task_count: 1, named_tasks: true, ..new_job() }), ["task_count"]);
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
    fn a_stall_timeout_is_kept_to_the_millisecond() {
        let new = NewJob { stall_timeout: Some(time::Duration::nanoseconds(1_234_567_890)), ..new_job() };
        assert_eq!(new.validate().unwrap().stall_timeout, Some(Duration::from_millis(1234)));
    }

    #[test]
    fn differences_name_the_fields() {
        let one = Job::created(new_job().validate().unwrap());
        let other = NewJob { task_count: 2, display_name: "b".into(), ..new_job() }.validate().unwrap();
        assert_eq!(one.differences(&one.definition), Vec::<&str>::new());
        assert_eq!(one.differences(&other), ["display_name", "task_count"]);
        let named = NewJob { task_count: 0, named_tasks: true, ..new_job() }.validate().unwrap();
        assert_eq!(one.differences(&named), ["task_count", "named_tasks"]);
    }

    #[test]
    fn tasks_that_were_added_are_no_difference() {
        let as_created = new_job().validate().unwrap();
        let mut grown = Job::created(as_created.clone());
        grown.definition.task_count = 7;
        assert_eq!(grown.differences(&as_created), Vec::<&str>::new());
        assert_eq!(grown.differences(&grown.definition), ["task_count"]);
    }
}
