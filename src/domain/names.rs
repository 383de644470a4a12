//! Task names, and the validation of tasks that are added to a job before its start.

use std::collections::HashMap;

use super::{Definition, MAX_TASKS, MAX_VIOLATIONS, Violation};

/// The maximum number of names that one call can add.
pub const MAX_NAMES: usize = 10_000;
/// The maximum length of a name, in bytes.
pub const MAX_NAME_BYTES: usize = 256;

/// A list of names, packed into one string to save memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    text: String,
    /// The offset in `text` at which each name ends.
    ends: Vec<u32>,
}

/// The tasks to add, as a caller sent them, before validation.
#[derive(Debug, Clone, Default)]
pub struct NewTasks {
    /// The names of the new tasks, for a job with named tasks.
    pub names: Vec<String>,
    /// The new total number of tasks, for a job without named tasks.
    pub task_count: Option<i64>,
}

/// The tasks to add, after validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskAddition {
    /// Add a task for each of these distinct names that the job does not have yet.
    Names(Vec<String>),
    /// Add tasks until the job has this number of tasks.
    Total(u32),
}

impl Names {
    /// Creates an empty list with capacity for `count` names of `bytes` bytes in total.
    pub fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), ends: Vec::with_capacity(count) }
    }

    /// Makes room for `count` more names of `bytes` bytes in total. If the list must grow, it grows by at least an
    /// eighth, so that many small additions stay cheap and at most an eighth of the memory is unused.
    pub fn reserve(&mut self, count: usize, bytes: usize) {
        if self.ends.capacity() - self.ends.len() < count {
            self.ends.reserve_exact(count.max(self.ends.len() / 8));
        }
        if self.text.capacity() - self.text.len() < bytes {
            self.text.reserve_exact(bytes.max(self.text.len() / 8));
        }
    }

    /// Returns the size of all names, in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Appends a name.
    pub fn push(&mut self, name: &str) {
        self.text.push_str(name);
        // Ten million names of 256 bytes take less than 4 GiB.
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
    }

    /// Returns the name at `index` of the list.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |previous| self.ends[previous]);
        self.text.get(start as usize..end as usize)
    }

    /// Returns all names, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Returns the number of names.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns whether the list has no names.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the memory that the list has allocated, in bytes.
    pub fn memory(&self) -> usize {
        self.text.capacity() + self.ends.capacity() * size_of::<u32>()
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let mut packed = Self::default();
        names.into_iter().for_each(|name| packed.push(name));
        packed
    }
}

impl NewTasks {
    /// Checks the tasks against the job's definition. The error lists at most [`MAX_VIOLATIONS`] malformed fields.
    pub fn validate(self, definition: &Definition) -> Result<TaskAddition, Vec<Violation>> {
        let wrong = |field, description: String| Err(vec![Violation::new(field, description)]);
        if !definition.named_tasks {
            if !self.names.is_empty() {
                return wrong("task_names", "must be absent: the job was created without named_tasks".to_owned());
            }
            let Some(given) = self.task_count else {
                return wrong("task_count", "must be set: send the new total number of tasks".to_owned());
            };
            let total = u32::try_from(given).ok().filter(|total| *total <= MAX_TASKS);
            return match total {
                Some(total) => Ok(TaskAddition::Total(total)),
                None => wrong("task_count", format!("must be 0 to {MAX_TASKS}, not {given}")),
            };
        }
        if self.task_count.is_some_and(|count| count != 0) {
            return wrong("task_count", "must be absent: the job has named tasks; add them with task_names".to_owned());
        }
        if self.names.is_empty() || self.names.len() > MAX_NAMES {
            return wrong("task_names", format!("must be 1 to {MAX_NAMES} names, not {}", self.names.len()));
        }
        let violations = invalid_names(&self.names);
        if violations.is_empty() { Ok(TaskAddition::Names(self.names)) } else { Err(violations) }
    }
}

fn invalid_names(names: &[String]) -> Vec<Violation> {
    let mut first_indexes = HashMap::with_capacity(names.len());
    let violations = names.iter().enumerate().filter_map(|(index, name)| {
        let first = *first_indexes.entry(name.as_str()).or_insert(index);
        let description = match check_name(name) {
            Err(description) => description,
            Ok(()) if first < index => format!("must not repeat task_names[{first}]"),
            Ok(()) => return None,
        };
        Some(Violation::new(format!("task_names[{index}]"), description))
    });
    violations.take(MAX_VIOLATIONS).collect()
}

/// Checks that a task can have this name. The error says what a name must be.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(format!("must be 1 to {MAX_NAME_BYTES} bytes without control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NewJob;

    fn definition(named_tasks: bool) -> Definition {
        NewJob { stages: vec!["s".into()], named_tasks, ..NewJob::default() }.validate().unwrap()
    }

    fn names(names: &[&str]) -> NewTasks {
        NewTasks { names: names.iter().map(ToString::to_string).collect(), task_count: None }
    }

    fn fields(new: NewTasks, named: bool) -> Vec<String> {
        new.validate(&definition(named)).unwrap_err().into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn packed_names_are_found_by_their_index() {
        let packed: Names = ["a", "ü", "bcd"].into_iter().collect();
        assert_eq!(
            (packed.get(0), packed.get(1), packed.get(2), packed.get(3)),
            (Some("a"), Some("ü"), Some("bcd"), None)
        );
        assert_eq!((packed.len(), packed.iter().collect::<Vec<_>>()), (3, vec!["a", "ü", "bcd"]));
    }

    #[test]
    fn named_jobs_take_names_and_unnamed_jobs_a_total() {
        let total = |task_count| NewTasks { names: vec![], task_count: Some(task_count) };
        assert_eq!(total(7).validate(&definition(false)), Ok(TaskAddition::Total(7)));
        assert_eq!(names(&["a"]).validate(&definition(true)), Ok(TaskAddition::Names(vec!["a".into()])));
        assert_eq!(fields(names(&["a"]), false), ["task_names"]);
        assert_eq!(fields(total(7), true), ["task_count"]);
        assert_eq!(fields(total(0), true), ["task_names"]);
        assert_eq!(fields(total(-1), false), ["task_count"]);
        assert_eq!(total(0).validate(&definition(false)), Ok(TaskAddition::Total(0)));
        assert_eq!(fields(NewTasks::default(), false), ["task_count"]);
        assert_eq!(fields(total(10_000_001), false), ["task_count"]);
        assert_eq!(fields(NewTasks { names: vec!["a".into(); MAX_NAMES + 1], task_count: None }, true), ["task_names"]);
    }

    #[test]
    fn every_invalid_or_repeated_name_is_reported_by_index() {
        let (longest, too_long) = ("x".repeat(256), "x".repeat(257));
        let given = names(&["a", "", "b", "a", &longest, &too_long, "tab\tin it", "a b/ü", "\u{85}", "a"]);
        let expected = ["[1]", "[3]", "[5]", "[6]", "[8]", "[9]"].map(|index| format!("task_names{index}"));
        assert_eq!(fields(given, true), expected);
        assert_eq!(
            fields(NewTasks { names: vec![String::new(); MAX_NAMES], task_count: None }, true).len(),
            MAX_VIOLATIONS
        );
    }
}
