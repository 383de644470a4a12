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
    /// The index of the task; 0 if the task is given by name.
    pub task: i64,
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
    /// The result is stored in the ledger, because Redis cannot take it now. It is not known yet whether the result is
    /// new.
    Recorded,
}

/// A valid report whose task names have not been resolved to indexes yet.
#[derive(Debug, Clone)]
pub struct Report(ResolvedReport);

/// A validated report whose results can be marked. Few results have names or failures, so these are stored separately,
/// each with the index of its result. The indexes ascend.
#[derive(Debug, Clone, Default)]
pub struct ResolvedReport {
    /// The mark of each result; `None` for a task that the job does not have.
    marks: Vec<Option<Mark>>,
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
            *mark = mark.zip(tasks.next().flatten()).map(|(mark, task)| Mark { task, ..mark });
        }
        report
    }
}

impl ResolvedReport {
    /// The mark of each result, in the order of the request; `None` for a task that the job does not have.
    pub fn marks(&self) -> &[Option<Mark>] {
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
        self.marks.push(result.mark(definition)?);
        match (result.outcome, result.failure) {
            (Some(Outcome::Failed), failure) => self.failures.push((index, failure.unwrap_or_default().truncated()?)),
            (_, Some(_)) => return Err(("error", "must be absent unless the outcome is FAILED".to_owned())),
            (_, None) => {}
        }
        if !result.task_name.is_empty() {
            self.names.push((index, result.task_name));
        }
        Ok(())
    }
}

impl TaskResult {
    /// Returns the mark of the result, or `None` for a task that the job does not have. If the task is given by name,
    /// the task index in the mark is a placeholder.
    fn mark(&self, definition: &Definition) -> Result<Option<Mark>, (&'static str, String)> {
        let named = !self.task_name.is_empty();
        if named && !definition.named_tasks {
            return Err(("task_name", "must be absent: the job's tasks have no names".to_owned()));
        }
        if named && self.task != 0 {
            return Err(("task_name", "must be absent if task is set".to_owned()));
        }
        if named {
            check_name(&self.task_name).map_err(|description| ("task_name", description))?;
        }
        if self.task < 0 {
            return Err(("task", format!("must not be negative, but is {}", self.task)));
        }
        let stage = definition.known_stage(&self.stage).map_err(|must| ("stage", must))?;
        let outcome = self.outcome.ok_or_else(|| ("outcome", "must be SUCCEEDED or FAILED".to_owned()))?;
        let task = u32::try_from(self.task).ok().filter(|task| named || *task < definition.task_count);
        Ok(task.map(|task| Mark { task, stage, outcome }))
    }
}

impl Default for Failure {
    fn default() -> Self {
        Self { code: NO_CODE.to_owned(), message: String::new() }
    }
}

impl Failure {
    /// Returns the failure as it is stored: a missing code is replaced by a default, and the message is truncated. A
    /// code that is too long is an error.
    fn truncated(mut self) -> Result<Self, (&'static str, String)> {
        if self.code.len() > MAX_CODE_BYTES {
            return Err(("error.code", format!("must have at most {MAX_CODE_BYTES} bytes")));
        }
        if self.code.is_empty() {
            NO_CODE.clone_into(&mut self.code);
        }
        self.message.truncate(self.message.floor_char_boundary(MAX_MESSAGE_BYTES));
        // Postgres cannot store NUL. An error sample must not prevent a snapshot from being stored.
        self.code = self.code.replace('\0', "\u{fffd}");
        self.message = self.message.replace('\0', "\u{fffd}");
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NewJob;

    fn definition() -> Definition {
        let stages = vec!["read".into(), "digest".into()];
        NewJob { stages, task_count: 10, ..NewJob::default() }.validate().unwrap()
    }

    fn result(task: i64, stage: &str) -> TaskResult {
        TaskResult {
            task,
            task_name: String::new(),
            stage: stage.into(),
            outcome: Some(Outcome::Succeeded),
            failure: None,
        }
    }

    fn named(task_name: &str) -> TaskResult {
        TaskResult { task_name: task_name.into(), ..result(0, "read") }
    }

    #[test]
    fn names_are_resolved_in_order_and_an_unknown_name_affects_no_other_result() {
        let definition = Definition { named_tasks: true, ..definition() };
        let report = Report::new(&definition, vec![named("b"), result(3, "read"), named("x"), named("a")]).unwrap();
        assert_eq!(report.names(), ["b", "x", "a"]);
        let report = report.resolve([Some(1), None, Some(0)]);
        let marked: Vec<_> = report.marks().iter().map(|mark| mark.map(|mark| mark.task)).collect();
        assert_eq!(marked, [Some(1), Some(3), None, Some(0)]);
        assert_eq!([0, 1, 3].map(|index| report.name(index)), [Some("b"), None, Some("a")]);
    }

    #[test]
    fn task_is_given_by_index_or_by_name_not_both() {
        let fields = |definition: &Definition, result| {
            let violations = Report::new(definition, vec![result]).unwrap_err();
            violations.into_iter().map(|violation| violation.field).collect::<Vec<_>>()
        };
        let with_names = Definition { named_tasks: true, ..definition() };
        assert_eq!(fields(&with_names, TaskResult { task: 1, ..named("a") }), ["results[0].task_name"]);
        assert_eq!(fields(&with_names, named("a\n")), ["results[0].task_name"]);
        assert_eq!(fields(&definition(), named("a")), ["results[0].task_name"]);
    }

    #[test]
    fn unknown_task_affects_no_other_result() {
        let results = vec![result(9, "read"), result(10, "read"), result(1 << 40, "read")];
        let report = Report::new(&definition(), results).unwrap().resolve([]);
        let marked: Vec<_> = report.marks().iter().map(Option::is_some).collect();
        assert_eq!(marked, [true, false, false]);
    }

    #[test]
    fn each_malformed_result_is_reported_by_index() {
        let mut succeeded_with_error = result(0, "read");
        succeeded_with_error.failure = Some(Failure::default());
        let results = vec![
            result(0, "read"),
            result(-1, "read"),
            result(0, "nowhere"),
            TaskResult { outcome: None, ..result(0, "read") },
            succeeded_with_error,
        ];
        let violations = Report::new(&definition(), results).unwrap_err();
        let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["results[1].task", "results[2].stage", "results[3].outcome", "results[4].error"]);
    }

    #[test]
    fn report_size_and_number_of_violations_are_limited() {
        assert!(Report::new(&definition(), vec![]).is_err());
        assert!(Report::new(&definition(), vec![result(0, "read"); MAX_RESULTS]).is_ok());
        assert!(Report::new(&definition(), vec![result(0, "read"); MAX_RESULTS + 1]).is_err());
        let violations = Report::new(&definition(), vec![result(-1, "read"); MAX_RESULTS]).unwrap_err();
        assert_eq!(violations.len(), MAX_VIOLATIONS);
    }

    #[test]
    fn messages_are_truncated_between_characters() {
        let failure = Failure { code: String::new(), message: "ä".repeat(200) };
        let stored = failure.truncated().unwrap();
        assert_eq!((stored.code.as_str(), stored.message.chars().count()), ("UNKNOWN", 128));
        assert!(Failure { code: "x".repeat(65), message: String::new() }.truncated().is_err());
    }
}
