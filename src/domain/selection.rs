//! Which tasks of a job a caller wants to see: by where they stand, at one stage or as a whole.

use std::ops::Range;

use serde::Serialize;

use super::{Cell, Definition, Layout, Status, Violation};

/// The tasks of a list. Serialized, it is what the tokens of its pages are bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskQuery {
    /// At the stage with this key; empty: as a whole.
    pub stage: String,
    /// Where they stand.
    pub status: Status,
}

/// The tasks that stand so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// At the stage with this index; `None`: as a whole, for which the last stage speaks. A task that was skipped there
    /// has failed.
    pub stage: Option<usize>,
    /// Where they stand.
    pub status: Status,
}

impl TaskQuery {
    /// What that means for a job.
    pub fn selection(&self, definition: &Definition) -> Result<Selection, Violation> {
        let status = self.status;
        if self.stage.is_empty() {
            if status == Status::Skipped {
                return Err(Violation::new(
                    "status",
                    "must not be SKIPPED without a stage: as a whole, such a task has failed",
                ));
            }
            return Ok(Selection { stage: None, status });
        }
        let stage = definition.known_stage(&self.stage).map_err(|must| Violation::new("stage", must))?;
        Ok(Selection { stage: Some(stage), status })
    }
}

impl Selection {
    /// Whether the task with these marks is one of them.
    pub fn selects(self, cell: Cell, stages: usize) -> bool {
        let at = |stage| cell.statuses(stages).nth(stage);
        match self.stage {
            Some(stage) => at(stage) == Some(self.status),
            None => match at(stages - 1) {
                Some(Status::Skipped) => self.status == Status::Failed,
                status => status == Some(self.status),
            },
        }
    }

    /// Adds those of `tasks` that are selected to `ranges`, until these are `most`; the task with which to go on.
    /// `bytes` hold the cells of the tasks, the first byte being byte `offset` of all cells.
    pub fn collect(
        self,
        layout: Layout,
        tasks: Range<u32>,
        (bytes, offset): (&[u8], usize),
        ranges: &mut Vec<Range<u32>>,
        most: usize,
    ) -> u32 {
        for task in tasks.clone() {
            if !self.selects(layout.cell(task, bytes, offset), layout.stages) {
                continue;
            }
            if let Some(last) = ranges.last_mut()
                && last.end == task
            {
                last.end += 1;
            } else if ranges.len() == most {
                return task;
            } else {
                ranges.push(task..task + 1);
            }
        }
        tasks.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Cells, Mark, Outcome};

    /// Ten tasks of two stages: 0 to 3 succeeded at both, 4 at the first alone, 5 failed there, 6 at the second.
    fn cells() -> Cells {
        let mark = |task, stage, outcome| Mark { task, stage, outcome };
        let mut cells = Cells::blank(Layout { total: 10, stages: 2 });
        for task in 0..5 {
            cells.mark(&[mark(task, 0, Outcome::Succeeded)]);
        }
        for task in 0..4 {
            cells.mark(&[mark(task, 1, Outcome::Succeeded)]);
        }
        cells.mark(&[mark(5, 0, Outcome::Failed), mark(6, 0, Outcome::Succeeded), mark(6, 1, Outcome::Failed)]);
        cells
    }

    /// The first and the last of each range.
    fn selected(stage: Option<usize>, status: Status) -> Vec<(u32, u32)> {
        let (cells, mut ranges) = (cells(), Vec::new());
        let next = Selection { stage, status }.collect(cells.layout(), 0..10, (cells.bytes(), 0), &mut ranges, 100);
        assert_eq!(next, 10);
        ranges.into_iter().map(|range| (range.start, range.end - 1)).collect()
    }

    #[test]
    fn tasks_are_selected_by_where_they_stand_at_a_stage() {
        assert_eq!(selected(Some(0), Status::Pending), [(7, 9)]);
        assert_eq!(selected(Some(0), Status::Succeeded), [(0, 4), (6, 6)]);
        assert_eq!(selected(Some(0), Status::Failed), [(5, 5)]);
        assert_eq!(selected(Some(1), Status::Pending), [(4, 4), (7, 9)]);
        assert_eq!(selected(Some(1), Status::Skipped), [(5, 5)]);
    }

    #[test]
    fn as_a_whole_who_was_skipped_at_the_last_stage_has_failed() {
        assert_eq!(selected(None, Status::Pending), [(4, 4), (7, 9)]);
        assert_eq!(selected(None, Status::Succeeded), [(0, 3)]);
        assert_eq!(selected(None, Status::Failed), [(5, 6)]);
    }

    #[test]
    fn what_does_not_fit_is_gone_on_with_and_each_task_is_looked_at_once() {
        let cells = cells();
        for most in 1..4 {
            let (mut next, mut all) = (0, Vec::new());
            while next < 10 {
                let mut ranges = Vec::new();
                let pending = Selection { stage: Some(1), status: Status::Pending };
                next = pending.collect(cells.layout(), next..10, (cells.bytes(), 0), &mut ranges, most);
                assert!(ranges.len() <= most);
                all.extend(ranges.into_iter().flatten());
            }
            assert_eq!(all, [4, 7, 8, 9]);
        }
    }
}
