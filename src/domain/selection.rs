//! Selects tasks of a job by their status, at one stage or as a whole.

use std::ops::Range;

use serde::Serialize;

use super::{Cell, Definition, Layout, Status, Violation};

/// The filter of a list of tasks. Page tokens are bound to its serialized form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TaskQuery {
    /// The key of the stage at which tasks are selected. If it is empty, tasks are selected by the status of the whole
    /// task.
    pub stage: String,
    /// The status of the selected tasks.
    pub status: Status,
}

/// A filter of a certain job's tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// The index of the stage at which tasks are selected. `None` selects by the status of the whole task. This is its
    /// status at the last stage, but a task that was skipped at the last stage has failed.
    pub stage: Option<usize>,
    /// The status of the selected tasks.
    pub status: Status,
}

impl TaskQuery {
    /// Applies the query to a job. The error names the malformed field.
    pub fn selection(&self, definition: &Definition) -> Result<Selection, Violation> {
        let status = self.status;
        if self.stage.is_empty() {
            if status == Status::Skipped {
                return Err(Violation::new(
                    "status",
                    "must not be SKIPPED without a stage: as a whole, a skipped task has failed; use FAILED",
                ));
            }
            return Ok(Selection { stage: None, status });
        }
        let stage = definition.known_stage(&self.stage).map_err(|must| Violation::new("stage", must))?;
        Ok(Selection { stage: Some(stage), status })
    }
}

impl Selection {
    /// Returns whether the task with these marks is selected.
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

    /// Appends the selected tasks among `tasks` to `ranges`, until there are `max_ranges` ranges. Returns the task with
    /// which to continue, or the end of `tasks`. `bytes` holds the cells of the tasks. Its first byte is byte `offset`
    /// of all cells.
    pub fn collect(
        self,
        layout: Layout,
        tasks: Range<u32>,
        (bytes, offset): (&[u8], usize),
        ranges: &mut Vec<Range<u32>>,
        max_ranges: usize,
    ) -> u32 {
        for task in tasks.clone() {
            if !self.selects(layout.cell(task, bytes, offset), layout.stages) {
                continue;
            }
            if let Some(last) = ranges.last_mut()
                && last.end == task
            {
                last.end += 1;
            } else if ranges.len() == max_ranges {
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

    /// Returns ten tasks with two stages. Tasks 0 to 3 succeeded at both stages, and task 4 only at the first stage.
    /// Task 5 failed at the first stage, and task 6 at the second.
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

    /// Returns the first and the last task of each selected range.
    fn selected(stage: Option<usize>, status: Status) -> Vec<(u32, u32)> {
        let (cells, mut ranges) = (cells(), Vec::new());
        let next = Selection { stage, status }.collect(cells.layout(), 0..10, (cells.bytes(), 0), &mut ranges, 100);
        assert_eq!(next, 10);
        ranges.into_iter().map(|range| (range.start, range.end - 1)).collect()
    }

    #[test]
    fn tasks_are_selected_by_their_status_at_a_stage() {
        assert_eq!(selected(Some(0), Status::Pending), [(7, 9)]);
        assert_eq!(selected(Some(0), Status::Succeeded), [(0, 4), (6, 6)]);
        assert_eq!(selected(Some(0), Status::Failed), [(5, 5)]);
        assert_eq!(selected(Some(1), Status::Pending), [(4, 4), (7, 9)]);
        assert_eq!(selected(Some(1), Status::Skipped), [(5, 5)]);
    }

    #[test]
    fn as_a_whole_a_task_skipped_at_the_last_stage_has_failed() {
        assert_eq!(selected(None, Status::Pending), [(4, 4), (7, 9)]);
        assert_eq!(selected(None, Status::Succeeded), [(0, 3)]);
        assert_eq!(selected(None, Status::Failed), [(5, 6)]);
    }

    #[test]
    fn limited_collection_continues_without_gaps_or_repeats() {
        let cells = cells();
        for max_ranges in 1..4 {
            let (mut next, mut all) = (0, Vec::new());
            while next < 10 {
                let mut ranges = Vec::new();
                let pending = Selection { stage: Some(1), status: Status::Pending };
                next = pending.collect(cells.layout(), next..10, (cells.bytes(), 0), &mut ranges, max_ranges);
                assert!(ranges.len() <= max_ranges);
                all.extend(ranges.into_iter().flatten());
            }
            assert_eq!(all, [4, 7, 8, 9]);
        }
    }
}
