//! A report: what workers say became of tasks, validated whole before anything is marked.

use super::names::check_name;
use super::{Definition, Mark, Violation};

/// The most results in one call.
pub const MAX_RESULTS: usize = 10_000;

/// How many malformed fields are named, of this many or more; the rest would only make the answer long.
pub const MAX_VIOLATIONS: usize = 20;
const MAX_CODE_BYTES: usize = 64;
const KEPT_MESSAGE_BYTES: usize = 256;
const NO_CODE: &str = "UNKNOWN";

/// What became of a task at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Succeeded,
    /// It failed, and nobody will try it again.
    Failed,
}

/// Why a task failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A word to count by.
    pub code: String,
    /// For people.
    pub message: String,
}

/// One result as a caller wrote it, not yet looked at.
#[derive(Debug, Clone)]
pub struct TaskResult {
    /// The task's index, unless it is named.
    pub task: i64,
    /// The task's name; empty: the index says which it is.
    pub task_name: String,
    /// The stage's key.
    pub stage: String,
    /// Absent: the caller gave none, which is an error.
    pub outcome: Option<Outcome>,
    /// Only with a failure.
    pub failure: Option<Failure>,
}

/// What became of one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disposition {
    /// It was new and is marked.
    Applied,
    /// The task already stood there, or higher.
    Duplicate,
    /// The job has ended; nothing changed.
    Superseded,
    /// The job has no such task.
    UnknownTask,
    /// Safely kept while Redis cannot take it; whether it is new cannot be known yet.
    Recorded,
}

/// A report that is well-formed, but whose tasks may still stand there by name.
#[derive(Debug, Clone)]
pub struct Report(Batch);

/// A validated report. What few results have lies beside their marks, by their places in the request, which ascend.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// What each result marks; `None` for a task that the job has not.
    marks: Vec<Option<Mark>>,
    /// The names by which tasks were reported.
    names: Vec<(usize, String)>,
    /// Why tasks failed.
    failures: Vec<(usize, Failure)>,
}

impl Report {
    /// Checks every result against the job's definition, and names what is wrong.
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
        let mut batch = Batch { marks: Vec::with_capacity(count), ..Batch::default() };
        for (index, result) in results.enumerate() {
            if let Err((field, description)) = batch.add(result, definition) {
                violations.push(Violation::new(format!("results[{index}].{field}"), description));
                if violations.len() == MAX_VIOLATIONS {
                    break;
                }
            }
        }
        if violations.is_empty() { Ok(Self(batch)) } else { Err(violations) }
    }

    /// The names by which tasks are reported, in the order of the request.
    pub fn names(&self) -> Vec<&str> {
        self.0.names.iter().map(|(_, name)| name.as_str()).collect()
    }

    /// With the indexes of its [`names`](Self::names), in their order: the batch that can be marked.
    pub fn resolve(self, tasks: impl IntoIterator<Item = Option<u32>>) -> Batch {
        let Self(mut batch) = self;
        let mut tasks = tasks.into_iter();
        for (place, _) in &batch.names {
            let mark = &mut batch.marks[*place];
            *mark = mark.zip(tasks.next().flatten()).map(|(mark, task)| Mark { task, ..mark });
        }
        batch
    }
}

impl Batch {
    /// What each result marks, in the order of the request; `None` for a task that the job has not.
    pub fn marks(&self) -> &[Option<Mark>] {
        &self.marks
    }

    /// The results that say why a task failed, by their places.
    pub fn failures(&self) -> &[(usize, Failure)] {
        &self.failures
    }

    /// The task's name in this place, if it was reported by that.
    pub fn name(&self, place: usize) -> Option<&str> {
        let index = self.names.binary_search_by_key(&place, |(place, _)| *place).ok()?;
        Some(&self.names[index].1)
    }

    /// Adds a result, unless it is malformed. Which task it is of that has a name is said by [`Report::resolve`].
    fn add(&mut self, result: TaskResult, definition: &Definition) -> Result<(), (&'static str, String)> {
        let place = self.marks.len();
        self.marks.push(result.mark(definition)?);
        match (result.outcome, result.failure) {
            (Some(Outcome::Failed), failure) => self.failures.push((place, failure.unwrap_or_default().kept()?)),
            (_, Some(_)) => return Err(("error", "must be absent unless the outcome is FAILED".to_owned())),
            (_, None) => {}
        }
        if !result.task_name.is_empty() {
            self.names.push((place, result.task_name));
        }
        Ok(())
    }
}

impl TaskResult {
    /// What it marks; `None` for a task that the job has not.
    fn mark(&self, definition: &Definition) -> Result<Option<Mark>, (&'static str, String)> {
        let named = !self.task_name.is_empty();
        if named && !definition.named_tasks {
            return Err(("task_name", "must be absent: the job's tasks have no names".to_owned()));
        }
        if named && self.task != 0 {
            return Err(("task_name", "must be absent where task says which it is".to_owned()));
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
    /// The part that is kept; an error if the code is too long to be one.
    fn kept(mut self) -> Result<Self, (&'static str, String)> {
        if self.code.len() > MAX_CODE_BYTES {
            return Err(("error.code", format!("must have at most {MAX_CODE_BYTES} bytes")));
        }
        if self.code.is_empty() {
            NO_CODE.clone_into(&mut self.code);
        }
        self.message.truncate(self.message.floor_char_boundary(KEPT_MESSAGE_BYTES));
        // Postgres stores no NUL, and a sample must not make a snapshot impossible.
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
    fn names_are_resolved_in_their_order_and_one_that_is_not_there_poisons_nothing() {
        let definition = Definition { named_tasks: true, ..definition() };
        let report = Report::new(&definition, vec![named("b"), result(3, "read"), named("x"), named("a")]).unwrap();
        assert_eq!(report.names(), ["b", "x", "a"]);
        let batch = report.resolve([Some(1), None, Some(0)]);
        let marked: Vec<_> = batch.marks().iter().map(|mark| mark.map(|mark| mark.task)).collect();
        assert_eq!(marked, [Some(1), Some(3), None, Some(0)]);
        assert_eq!([0, 1, 3].map(|place| batch.name(place)), [Some("b"), None, Some("a")]);
    }

    #[test]
    fn a_task_is_told_by_its_index_or_by_its_name() {
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
    fn a_foreign_task_is_kept_apart_and_poisons_nothing() {
        let results = vec![result(9, "read"), result(10, "read"), result(1 << 40, "read")];
        let batch = Report::new(&definition(), results).unwrap().resolve([]);
        let marked: Vec<_> = batch.marks().iter().map(Option::is_some).collect();
        assert_eq!(marked, [true, false, false]);
    }

    #[test]
    fn each_malformed_result_is_named_by_its_place() {
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
    fn sizes_are_checked_first() {
        assert!(Report::new(&definition(), vec![]).is_err());
        assert!(Report::new(&definition(), vec![result(0, "read"); MAX_RESULTS]).is_ok());
        assert!(Report::new(&definition(), vec![result(0, "read"); MAX_RESULTS + 1]).is_err());
        let violations = Report::new(&definition(), vec![result(-1, "read"); MAX_RESULTS]).unwrap_err();
        assert_eq!(violations.len(), MAX_VIOLATIONS);
    }

    #[test]
    fn messages_are_cut_between_characters() {
        let failure = Failure { code: String::new(), message: "ä".repeat(200) };
        let kept = failure.kept().unwrap();
        assert_eq!((kept.code.as_str(), kept.message.chars().count()), ("UNKNOWN", 128));
        assert!(Failure { code: "x".repeat(65), message: String::new() }.kept().is_err());
    }
}
