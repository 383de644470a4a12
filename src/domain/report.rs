//! A report: task results from a worker. The whole report is validated before any result is marked.

use super::names::check_name;
use super::{Definition, MAX_VIOLATIONS, Mark, Violation};

/// The maximum number of results in one call.
pub const MAX_RESULTS: usize = 10_000;

const MAX_CODE_BYTES: usize = 64;
const MAX_MESSAGE_BYTES: usize = 256;
const NO_CODE: &str = "UNKNOWN";

/// The outcome of a task at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The task succeeded.
    Succeeded,
    /// The task failed and will not be tried again within this job.
    Failed,
}

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The error code, by which errors are counted.
    pub code: String,
    /// A message for people.
    pub message: String,
}

/// One result as a caller sent it, before validation.
#[derive(Debug, Clone)]
pub struct TaskResult {
    /// The index of the task; absent if the task is given by name.
    pub task: Option<i64>,
    /// The name of the task; empty if the task is given by index.
    pub task_name: String,
    /// The key of the stage.
    pub stage: String,
    /// The outcome. A result without an outcome is malformed.
    pub outcome: Option<Outcome>,
    /// Why the task failed; allowed only with [`Outcome::Failed`].
    pub failure: Option<Failure>,
}

/// The effect of one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// The result was new and is marked.
    Applied,
    /// The mark already had this outcome, or a success was marked before. Nothing changed.
    Duplicate,
    /// The job has ended. Nothing changed.
    Superseded,
    /// The job has no such task. Nothing changed.
    UnknownTask,
    /// The job has no such stage. Nothing changed.
    UnknownStage,
    /// The result is stored in the ledger, because Redis cannot take it now. It is not known yet whether the result is
    /// new.
    Recorded,
}

/// Why a complete result does not match its job. Such a result is never counted and affects no other result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The job has no task with this index or name.
    Task,
    /// The job has no stage with this key.
    Stage,
}

/// A valid report whose task names have not been resolved to indexes yet.
#[derive(Debug, Clone)]
pub struct Report(ResolvedReport);

/// A validated report whose results can be marked. Few results have names or failures, so these are stored separately,
/// each with the index of its result. The indexes ascend.
#[derive(Debug, Clone, Default)]
pub struct ResolvedReport {
    /// The mark of each result, or why the result does not match the job.
    marks: Vec<Result<Mark, Mismatch>>,
    /// The names of the tasks that were reported by name.
    names: Vec<(usize, String)>,
    /// The failures of the results with an error.
    failures: Vec<(usize, Failure)>,
}

impl Report {
    /// Checks every result against the job's definition. The error lists at most [`MAX_VIOLATIONS`] malformed fields.
    pub fn new(
        definition: &Definition,
        results: impl IntoIterator<Item = TaskResult, IntoIter: ExactSizeIterator>,
    ) -> Result<Self, Vec<Violation>> {
        let results = results.into_iter();
        let count = results.len();
        if !(1..=MAX_RESULTS).contains(&count) {
            let description = format!("must be 1 to {MAX_RESULTS} results, not {count}");
            return Err(vec![Violation::new("results", description)]);
        }
        let mut violations = Vec::new();
        let mut report = ResolvedReport { marks: Vec::with_capacity(count), ..ResolvedReport::default() };
        for (index, result) in results.enumerate() {
            if let Err((field, description)) = report.add(result, definition) {
                violations.push(Violation::new(format!("results[{index}].{field}"), description));
                if violations.len() == MAX_VIOLATIONS {
                    break;
                }
            }
        }
        if violations.is_empty() { Ok(Self(report)) } else { Err(violations) }
    }

    /// Returns the names of the tasks that are reported by name, in the order of the request.
    pub fn names(&self) -> Vec<&str> {
        self.0.names.iter().map(|(_, name)| name.as_str()).collect()
    }

    /// Creates the report that can be marked. `tasks` holds the task index of each of the report's
    /// [`names`](Self::names), in the same order, or `None` for a name that the job does not have.
    pub fn resolve(self, tasks: impl IntoIterator<Item = Option<u32>>) -> ResolvedReport {
        let Self(mut report) = self;
        let mut tasks = tasks.into_iter();
        for (index, _) in &report.names {
            let mark = &mut report.marks[*index];
            let task = tasks.next().flatten().ok_or(Mismatch::Task);
            *mark = mark.and_then(|mark| task.map(|task| Mark { task, ..mark }));
        }
        report
    }
}

impl ResolvedReport {
    /// The mark of each result, in the order of the request, or why the result does not match the job.
    pub fn marks(&self) -> &[Result<Mark, Mismatch>] {
        &self.marks
    }

    /// The failures, each with the index of its result, in ascending order.
    pub fn failures(&self) -> &[(usize, Failure)] {
        &self.failures
    }

    /// Returns the task name in the result with this index, if the task was reported by name.
    pub fn name(&self, index: usize) -> Option<&str> {
        let position = self.names.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        Some(&self.names[position].1)
    }

    /// Adds a result. The error names the malformed field. A task that is given by name gets its index later, in
    /// [`Report::resolve`].
    fn add(&mut self, result: TaskResult, definition: &Definition) -> Result<(), (&'static str, String)> {
        let index = self.marks.len();
        let mark = result.mark(definition)?;
        self.marks.push(mark);
        match (result.outcome, result.failure) {
            (Some(Outcome::Failed), failure) => self.failures.push((index, failure.unwrap_or_default().truncated())),
            (_, Some(_)) => return Err(("error", "must be absent unless the outcome is FAILED".to_owned())),
            (_, None) => {}
        }
        // The name of a result that does not match needs no lookup.
        if mark.is_ok() && !result.task_name.is_empty() {
            self.names.push((index, result.task_name));
        }
        Ok(())
    }
}

impl TaskResult {
    /// Returns the mark of the result, or why the result does not match the job. If the task is given by name, the task
    /// index in the mark is a placeholder. A result that is incomplete or contradicts itself is an error, because only
    /// a bug of the client produces it. A complete result never is, because its values come from the client's data.
    fn mark(&self, definition: &Definition) -> Result<Result<Mark, Mismatch>, (&'static str, String)> {
        let task = match (self.task, self.task_name.as_str()) {
            (None, "") => {
                return Err((
                    "task",
                    "must be set: send the index of the task (also if it is 0) or task_name".to_owned(),
                ));
            }
            (Some(_), name) if !name.is_empty() => {
                return Err(("task_name", "must be absent if task is set".to_owned()));
            }
            (Some(index), _) => u32::try_from(index).ok().filter(|index| *index < definition.task_count),
            // A malformed name cannot be the name of a task.
            (None, name) => (definition.named_tasks && check_name(name).is_ok()).then_some(0),
        };
        if self.stage.is_empty() {
            return Err(("stage", "must be set: send the key of the stage".to_owned()));
        }
        let outcome = self.outcome.ok_or_else(|| ("outcome", "must be SUCCEEDED or FAILED".to_owned()))?;
        let stage = definition.stage_index(&self.stage).ok_or(Mismatch::Stage);
        Ok(stage.and_then(|stage| Ok(Mark { task: task.ok_or(Mismatch::Task)?, stage, outcome })))
    }
}

impl Mismatch {
    /// Returns the disposition of a result that does not match its job.
    pub fn disposition(self) -> Disposition {
        match self {
            Self::Task => Disposition::UnknownTask,
            Self::Stage => Disposition::UnknownStage,
        }
    }
}

impl Disposition {
    /// Returns whether the result will never be counted, although the job has not ended.
    pub fn is_rejected(self) -> bool {
        matches!(self, Self::UnknownTask | Self::UnknownStage)
    }
}

impl Default for Failure {
    fn default() -> Self {
        Self { code: NO_CODE.to_owned(), message: String::new() }
    }
}

impl Failure {
    /// Returns the failure as it is stored: a missing code is replaced by a default, and the code and the message are
    /// truncated.
    fn truncated(mut self) -> Self {
        if self.code.is_empty() {
            NO_CODE.clone_into(&mut self.code);
        }
        self.code.truncate(self.code.floor_char_boundary(MAX_CODE_BYTES));
        self.message.truncate(self.message.floor_char_boundary(MAX_MESSAGE_BYTES));
        // Postgres cannot store NUL. An error sample must not prevent a snapshot from being stored.
        self.code = self.code.replace('\0', "\u{fffd}");
        self.message = self.message.replace('\0', "\u{fffd}");
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NewJob;

    fn definition() -> Definition {
        let stages = vec!["read".into(), "digest".into()];
        NewJob { stages, task_count: Some(10), ..NewJob::default() }.validate().unwrap()
    }

    fn result(task: i64, stage: &str) -> TaskResult {
        TaskResult {
            task: Some(task),
            task_name: String::new(),
            stage: stage.into(),
            outcome: Some(Outcome::Succeeded),
            failure: None,
        }
    }

    fn named(task_name: &str) -> TaskResult {
        TaskResult { task: None, task_name: task_name.into(), ..result(0, "read") }
    }

    #[test]
    fn names_are_resolved_in_order_and_an_unknown_name_affects_no_other_result() {
        let definition = Definition { named_tasks: true, ..definition() };
        let report = Report::new(&definition, vec![named("b"), result(3, "read"), named("x"), named("a")]).unwrap();
        assert_eq!(report.names(), ["b", "x", "a"]);
        let report = report.resolve([Some(1), None, Some(0)]);
        let marked: Vec<_> = report.marks().iter().map(|mark| mark.map(|mark| mark.task)).collect();
        assert_eq!(marked, [Ok(1), Ok(3), Err(Mismatch::Task), Ok(0)]);
        assert_eq!([0, 1, 3].map(|index| report.name(index)), [Some("b"), None, Some("a")]);
    }

    fn fields(definition: &Definition, results: Vec<TaskResult>) -> Vec<String> {
        let violations = Report::new(definition, results).unwrap_err();
        violations.into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn task_is_given_by_index_or_by_name_not_both_and_not_neither() {
        let with_names = Definition { named_tasks: true, ..definition() };
        for definition in [definition(), with_names] {
            for task in [0, 1, -1] {
                assert_eq!(
                    fields(&definition, vec![TaskResult { task: Some(task), ..named("a") }]),
                    ["results[0].task_name"]
                );
            }
            assert_eq!(fields(&definition, vec![named("")]), ["results[0].task"]);
        }
    }

    #[test]
    fn results_that_do_not_match_the_job_affect_no_other_result() {
        let dispositions = |definition: &Definition, results: Vec<TaskResult>| -> Vec<_> {
            let report = Report::new(definition, results).unwrap();
            let found = vec![Some(0); report.names().len()];
            let report = report.resolve(found);
            report.marks().iter().map(|mark| mark.map_err(Mismatch::disposition).err()).collect()
        };
        let (task, stage) = (Some(Disposition::UnknownTask), Some(Disposition::UnknownStage));
        let results = vec![
            result(9, "read"),
            result(10, "read"),
            result(1 << 40, "read"),
            result(-1, "read"),
            result(0, "nowhere"),
            result(10, "nowhere"),
            named("a"),
        ];
        assert_eq!(dispositions(&definition(), results), [None, task, task, task, stage, stage, task]);
        let with_names = Definition { named_tasks: true, ..definition() };
        let too_long = "x".repeat(257);
        let nowhere = TaskResult { stage: "nowhere".into(), ..named("a") };
        let results = vec![named("a\n"), named(&too_long), nowhere, named("a")];
        assert_eq!(dispositions(&with_names, results), [task, task, stage, None]);
    }

    #[test]
    fn each_malformed_result_is_reported_by_index() {
        let mut succeeded_with_error = result(0, "read");
        succeeded_with_error.failure = Some(Failure::default());
        let results = vec![
            result(0, "read"),
            TaskResult { task: None, ..result(0, "read") },
            result(0, ""),
            TaskResult { outcome: None, ..result(0, "read") },
            succeeded_with_error,
        ];
        let expected = ["results[1].task", "results[2].stage", "results[3].outcome", "results[4].error"];
        assert_eq!(fields(&definition(), results), expected);
    }

    #[test]
    fn report_size_and_number_of_violations_are_limited() {
        assert!(Report::new(&definition(), vec![]).is_err());
        assert!(Report::new(&definition(), vec![result(0, "read"); MAX_RESULTS]).is_ok());
        assert!(Report::new(&definition(), vec![result(0, "read"); MAX_RESULTS + 1]).is_err());
        let violations = Report::new(&definition(), vec![result(0, ""); MAX_RESULTS]).unwrap_err();
        assert_eq!(violations.len(), MAX_VIOLATIONS);
    }

    #[test]
    fn codes_and_messages_are_truncated_between_characters() {
        let stored = Failure { code: String::new(), message: "ä".repeat(200) }.truncated();
        assert_eq!((stored.code.as_str(), stored.message.chars().count()), ("UNKNOWN", 128));
        let stored = Failure { code: format!("x{}", "ä".repeat(32)), message: String::new() }.truncated();
        assert_eq!((stored.code.len(), stored.code.chars().count()), (63, 32));
        assert_eq!(Failure { code: "x".repeat(65), message: String::new() }.truncated().code, "x".repeat(64));
    }
}
