//! Names of tasks, and what may be added to a job that has not been started.

use std::collections::HashMap;

use super::report::MAX_VIOLATIONS;
use super::{Definition, MAX_TASKS, Violation};

/// The most names that one call adds.
pub const MAX_NAMES: usize = 10_000;
/// The longest name, in bytes.
const MAX_NAME_BYTES: usize = 256;

/// Names that follow each other, side by side in memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    text: String,
    /// Where each ends.
    ends: Vec<u32>,
}

/// Tasks to add as a caller wrote them, not yet looked at.
#[derive(Debug, Clone, Default)]
pub struct NewTasks {
    /// For a job whose tasks have names.
    pub names: Vec<String>,
    /// The new total, for one whose tasks have none.
    pub task_count: i64,
}

/// Tasks to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TaskAddition {
    /// Those of these names, all different, that the job does not have.
    Names(Vec<String>),
    /// As many as are missing to this total.
    Total(u32),
}

impl Names {
    /// None, with room for so many of so many bytes together.
    pub fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), ends: Vec::with_capacity(count) }
    }

    /// Adds a name behind the others.
    pub fn push(&mut self, name: &str) {
        self.text.push_str(name);
        // Ten million names of 256 bytes are below 4 GiB.
        self.ends.push(u32::try_from(self.text.len()).unwrap_or(u32::MAX));
    }

    /// The name at this place.
    pub fn get(&self, place: usize) -> Option<&str> {
        let end = *self.ends.get(place)?;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        self.text.get(start as usize..end as usize)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|place| self.get(place))
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// What they take of memory, in bytes.
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
    /// Checks them against what the job is, and names what is wrong.
    pub fn validate(self, definition: &Definition) -> Result<TaskAddition, Vec<Violation>> {
        let wrong = |field, description: String| Err(vec![Violation::new(field, description)]);
        if !definition.named_tasks {
            if !self.names.is_empty() {
                return wrong("task_names", "must be absent: the job was created without named_tasks".to_owned());
            }
            let total = u32::try_from(self.task_count).ok().filter(|total| *total <= MAX_TASKS);
            return match total {
                Some(total) => Ok(TaskAddition::Total(total)),
                None => wrong("task_count", format!("must be 0 to {MAX_TASKS}, not {}", self.task_count)),
            };
        }
        if self.task_count != 0 {
            return wrong("task_count", "must be absent: the job's tasks have names, and are added by them".to_owned());
        }
        if self.names.is_empty() || self.names.len() > MAX_NAMES {
            return wrong("task_names", format!("must be 1 to {MAX_NAMES} names, not {}", self.names.len()));
        }
        let violations = invalid_names(&self.names);
        if violations.is_empty() { Ok(TaskAddition::Names(self.names)) } else { Err(violations) }
    }
}

fn invalid_names(names: &[String]) -> Vec<Violation> {
    let mut first = HashMap::with_capacity(names.len());
    let wrong = names.iter().enumerate().filter_map(|(place, name)| {
        let before = *first.entry(name.as_str()).or_insert(place);
        let description = match check_name(name) {
            Err(description) => description,
            Ok(()) if before < place => format!("must not repeat task_names[{before}]"),
            Ok(()) => return None,
        };
        Some(Violation::new(format!("task_names[{place}]"), description))
    });
    wrong.take(MAX_VIOLATIONS).collect()
}

/// Whether a task can have this name; what a name must be, if not.
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
        NewTasks { names: names.iter().map(ToString::to_string).collect(), task_count: 0 }
    }

    fn fields(new: NewTasks, named: bool) -> Vec<String> {
        new.validate(&definition(named)).unwrap_err().into_iter().map(|violation| violation.field).collect()
    }

    #[test]
    fn packed_names_are_found_at_their_places() {
        let packed: Names = ["a", "ü", "bcd"].into_iter().collect();
        assert_eq!(
            (packed.get(0), packed.get(1), packed.get(2), packed.get(3)),
            (Some("a"), Some("ü"), Some("bcd"), None)
        );
        assert_eq!((packed.len(), packed.iter().collect::<Vec<_>>()), (3, vec!["a", "ü", "bcd"]));
    }

    #[test]
    fn a_job_grows_by_what_its_tasks_are() {
        let total = |task_count| NewTasks { names: vec![], task_count };
        assert_eq!(total(7).validate(&definition(false)), Ok(TaskAddition::Total(7)));
        assert_eq!(names(&["a"]).validate(&definition(true)), Ok(TaskAddition::Names(vec!["a".into()])));
        assert_eq!(fields(names(&["a"]), false), ["task_names"]);
        assert_eq!(fields(total(7), true), ["task_count"]);
        assert_eq!(fields(total(0), true), ["task_names"]);
        assert_eq!(fields(total(-1), false), ["task_count"]);
        assert_eq!(fields(total(10_000_001), false), ["task_count"]);
        assert_eq!(fields(NewTasks { names: vec!["a".into(); MAX_NAMES + 1], task_count: 0 }, true), ["task_names"]);
    }

    #[test]
    fn every_name_that_is_none_or_comes_twice_is_named_by_its_place() {
        let (fits, long) = ("x".repeat(256), "x".repeat(257));
        let given = names(&["a", "", "b", "a", &fits, &long, "tab\tin it", "a b/ü", "\u{85}", "a"]);
        let places = ["[1]", "[3]", "[5]", "[6]", "[8]", "[9]"].map(|place| format!("task_names{place}"));
        assert_eq!(fields(given, true), places);
        assert_eq!(
            fields(NewTasks { names: vec![String::new(); MAX_NAMES], task_count: 0 }, true).len(),
            MAX_VIOLATIONS
        );
    }
}
