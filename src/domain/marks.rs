//! Marks: two bits for each task and stage, `succeeded` and `processed`. A failure sets only `processed`, and a success
//! sets both. So a mark only grows: not reported (00) < failed (01) < succeeded (11). Marks merge by bitwise OR
//! (invariant I3).
//!
//! A *cell* holds the bits of one task for all stages in order. The first stage has the highest bits. Cells are packed
//! without gaps, from the highest bit of each byte to the lowest.

use serde::Serialize;

use super::counts::StageDelta;
use super::{Counts, CountsDelta, MAX_STAGES, Outcome, StageCounts};

const PROCESSED: u16 = 0b01;
const SUCCEEDED: u16 = 0b11;
const BITS_PER_STAGE: usize = 2;

/// One mark: the outcome of a task at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The task's index.
    pub task: u32,
    /// The stage's index.
    pub stage: usize,
    /// Whether the task succeeded or failed at the stage.
    pub outcome: Outcome,
}

/// The status of a task at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Status {
    /// The task was not reported at this stage and failed at no earlier stage.
    Pending,
    /// The task failed at this stage.
    Failed,
    /// The task succeeded at this stage.
    Succeeded,
    /// The task was not reported at this stage and failed at an earlier stage. This status is derived from the marks
    /// and never stored, because stored skips would make the result depend on the order of reports.
    Skipped,
}

/// The marks of one task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cell(u16);

/// The dimensions of a job, which determine how its cells are laid out in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The number of tasks.
    pub total: u32,
    /// The number of stages, 1 to [`MAX_STAGES`].
    pub stages: usize,
}

/// The cells of a whole job. They hold only bits that marks can have set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cells {
    layout: Layout,
    bytes: Vec<u8>,
}

/// Why bytes are not the cells of a job with a certain layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CellsError {
    /// There are too many or too few bytes.
    #[error("{found} bytes, but the cells of the job take {expected}")]
    Length {
        /// The number of bytes that the layout requires.
        expected: usize,
        /// The number of bytes that were given.
        found: usize,
    },
    /// A cell has a `succeeded` bit without its `processed` bit. No mark sets such bits.
    #[error("the cell of task {task} has bits that no mark sets")]
    Impossible {
        /// The first task with such a cell.
        task: u32,
    },
}

impl Mark {
    /// Returns the bits that the mark sets in its task's cell. `stages` is the job's number of stages.
    pub fn bits(self, stages: usize) -> Cell {
        let bits = match self.outcome {
            Outcome::Succeeded => SUCCEEDED,
            Outcome::Failed => PROCESSED,
        };
        Cell(bits << shift(self.stage, stages))
    }
}

impl Cell {
    /// Merges two cells by bitwise OR. This is the only way in which marks are combined.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns the status of the task at each stage, in order.
    pub fn statuses(self, stages: usize) -> impl Iterator<Item = Status> {
        let mut failed_earlier = false;
        (0..stages).map(move |stage| match (self.0 >> shift(stage, stages)) & SUCCEEDED {
            0 if failed_earlier => Status::Skipped,
            0 => Status::Pending,
            PROCESSED => {
                failed_earlier = true;
                Status::Failed
            }
            _ => Status::Succeeded,
        })
    }

    /// Returns the marks in the cell, as marks of the task with the index `task`.
    pub fn marks(self, task: u32, stages: usize) -> impl Iterator<Item = Mark> {
        self.statuses(stages).enumerate().filter_map(move |(stage, status)| match status {
            Status::Succeeded => Some(Mark { task, stage, outcome: Outcome::Succeeded }),
            Status::Failed => Some(Mark { task, stage, outcome: Outcome::Failed }),
            Status::Pending | Status::Skipped => None,
        })
    }

    /// Returns whether marks can have produced this cell: every `succeeded` bit must have its `processed` bit.
    fn is_possible(self) -> bool {
        const EACH_PROCESSED: u16 = 0x5555;
        (self.0 >> 1) & EACH_PROCESSED & !self.0 == 0
    }
}

fn shift(stage: usize, stages: usize) -> usize {
    BITS_PER_STAGE * (stages - 1 - stage)
}

impl Layout {
    /// Returns the number of bytes that all cells take.
    pub fn bytes(self) -> usize {
        (self.total as usize * self.cell_bits()).div_ceil(8)
    }

    fn cell_bits(self) -> usize {
        BITS_PER_STAGE * self.stages
    }

    /// Returns the range of bytes that hold bits of the task's cell, as offsets from the first cell. It has at most
    /// three bytes.
    pub fn span(self, task: u32) -> std::ops::Range<usize> {
        let first_bit = task as usize * self.cell_bits();
        first_bit / 8..(first_bit + self.cell_bits()).div_ceil(8)
    }

    /// Reads the task's cell from `bytes`, whose first byte is byte `offset` of all cells.
    pub fn cell(self, task: u32, bytes: &[u8], offset: usize) -> Cell {
        let (word, shift) = self.word(task, bytes, offset);
        Cell(truncate((word >> shift) & self.cell_mask()))
    }

    /// Merges `cell` into the task's cell in `bytes`, whose first byte is byte `offset` of all cells.
    pub fn merge(self, task: u32, cell: Cell, bytes: &mut [u8], offset: usize) {
        let (_, shift) = self.word(task, bytes, offset);
        let word = (u32::from(cell.0) << shift).to_be_bytes();
        for (index, byte) in self.span(task).enumerate() {
            bytes[byte - offset] |= word[1 + index];
        }
    }

    /// Returns two numbers: the three bytes that start with the task's first byte, as one number, and the number of
    /// bits by which the cell is shifted left in it.
    fn word(self, task: u32, bytes: &[u8], offset: usize) -> (u32, usize) {
        let first_bit = task as usize * self.cell_bits();
        let start = first_bit / 8 - offset;
        let byte = |index: usize| u32::from(bytes.get(start + index).copied().unwrap_or(0));
        ((byte(0) << 16) | (byte(1) << 8) | byte(2), 24 - first_bit % 8 - self.cell_bits())
    }

    fn cell_mask(self) -> u32 {
        (1 << self.cell_bits()) - 1
    }
}

/// Returns the low 16 bits. A cell has no more bits.
fn truncate(word: u32) -> u16 {
    (word & 0xffff) as u16
}

impl CountsDelta {
    /// Computes the change of the counts when cells change. `transitions` holds the old and the new cell of each task.
    pub fn of(stages: usize, transitions: impl IntoIterator<Item = (Cell, Cell)>) -> Self {
        let mut delta = Self::none(stages);
        // Most reports consist of equal transitions in a row. A sequence of equal transitions is added in one step.
        let mut repeated = ((Cell::default(), Cell::default()), 0);
        for transition in transitions {
            if transition == repeated.0 {
                repeated.1 += 1;
            } else {
                delta.add(repeated);
                repeated = (transition, 1);
            }
        }
        delta.add(repeated);
        delta
    }

    /// Adds the change that is caused by `times` transitions from `old` to `new`.
    fn add(&mut self, ((old, new), times): ((Cell, Cell), i64)) {
        let stages = self.0.len();
        for (delta, (before, after)) in self.0.iter_mut().zip(old.statuses(stages).zip(new.statuses(stages))) {
            if before != after {
                *delta.of(before) -= times;
                *delta.of(after) += times;
            }
        }
    }
}

impl StageDelta {
    /// Returns the field that counts `status`.
    fn of(&mut self, status: Status) -> &mut i64 {
        match status {
            Status::Succeeded => &mut self.succeeded,
            Status::Failed => &mut self.failed,
            Status::Skipped => &mut self.skipped,
            Status::Pending => &mut self.pending,
        }
    }
}

impl Cells {
    /// Creates the cells of a job from bytes. Rejects bytes that marks cannot have written.
    pub fn new(layout: Layout, bytes: Vec<u8>) -> Result<Self, CellsError> {
        if bytes.len() != layout.bytes() {
            return Err(CellsError::Length { expected: layout.bytes(), found: bytes.len() });
        }
        let cells = Self { layout, bytes };
        match (0..layout.total).find(|task| !cells.cell(*task).is_possible()) {
            Some(task) => Err(CellsError::Impossible { task }),
            None => Ok(cells),
        }
    }

    /// The marks of one task.
    pub fn cell(&self, task: u32) -> Cell {
        self.layout.cell(task, &self.bytes, 0)
    }

    /// Creates cells without any mark.
    pub fn blank(layout: Layout) -> Self {
        Self { layout, bytes: vec![0; layout.bytes()] }
    }

    /// Sets marks. Ignores marks of tasks or stages that the job does not have.
    pub fn mark(&mut self, marks: &[Mark]) {
        let Layout { total, stages } = self.layout;
        for mark in marks.iter().filter(|mark| mark.task < total && mark.stage < stages) {
            let span = self.layout.span(mark.task);
            self.layout.merge(mark.task, mark.bits(stages), &mut self.bytes[span.clone()], span.start);
        }
    }

    /// Adds all marks of `other`, which must be cells of the same job.
    pub fn merge(&mut self, other: &Self) {
        for (ours, theirs) in self.bytes.iter_mut().zip(&other.bytes) {
            *ours |= theirs;
        }
    }

    /// The layout of the cells.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The cells as bytes, as the tracker and the snapshot store them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Counts all tasks by stage and status.
    pub fn count(&self) -> Counts {
        // The statuses are computed once per distinct cell, because ten million tasks have at most 6,561 distinct
        // cells.
        let mut histogram = vec![0_u32; 1 << (BITS_PER_STAGE * MAX_STAGES.min(self.layout.stages))];
        for task in 0..self.layout.total {
            histogram[usize::from(self.cell(task).0)] += 1;
        }
        let mut counts = Counts::none(self.layout.total, self.layout.stages);
        for (bits, tasks) in (0_u16..=u16::MAX).zip(histogram).filter(|(_, tasks)| *tasks > 0) {
            for (stage, status) in counts.stages.iter_mut().zip(Cell(bits).statuses(self.layout.stages)) {
                match status {
                    Status::Pending => {}
                    Status::Failed => stage.failed += tasks,
                    Status::Succeeded => stage.succeeded += tasks,
                    Status::Skipped => stage.skipped += tasks,
                }
            }
        }
        counts
    }
}

impl StageCounts {
    /// Returns the counts after a change, for a job with `total` tasks. Returns `None` if no marks can produce these
    /// counts.
    pub fn after(self, delta: StageDelta, total: u32) -> Option<Self> {
        let add = |count: u32, delta: i64| u32::try_from(i64::from(count) + delta).ok();
        let after = Self {
            succeeded: add(self.succeeded, delta.succeeded)?,
            failed: add(self.failed, delta.failed)?,
            skipped: add(self.skipped, delta.skipped)?,
        };
        (after.done() <= u64::from(total)).then_some(after)
    }
}

#[cfg(test)]
mod tests {
    use super::Status::{Failed, Pending, Skipped, Succeeded};
    use super::*;

    fn cell(marks: &[(usize, Outcome)], stages: usize) -> Cell {
        let mark =
            |(stage, outcome): &(usize, Outcome)| Mark { task: 0, stage: *stage, outcome: *outcome }.bits(stages);
        marks.iter().map(mark).fold(Cell::default(), Cell::merge)
    }

    fn statuses(marks: &[(usize, Outcome)], stages: usize) -> Vec<Status> {
        cell(marks, stages).statuses(stages).collect()
    }

    #[test]
    fn failure_skips_later_unreported_stages() {
        assert_eq!(statuses(&[(0, Outcome::Failed)], 3), [Failed, Skipped, Skipped]);
        assert_eq!(statuses(&[(1, Outcome::Failed)], 3), [Pending, Failed, Skipped]);
        assert_eq!(statuses(&[(0, Outcome::Failed), (1, Outcome::Succeeded)], 3), [Failed, Succeeded, Skipped]);
    }

    #[test]
    fn failure_after_a_success_skips_nothing_in_any_order() {
        let marks = [(0, Outcome::Succeeded), (0, Outcome::Failed)];
        let reversed = [marks[1], marks[0]];
        assert_eq!(statuses(&marks, 3), [Succeeded, Pending, Pending]);
        assert_eq!(statuses(&reversed, 3), statuses(&marks, 3));
    }

    #[test]
    fn every_task_of_every_layout_has_its_own_bits() {
        for stages in 1..=MAX_STAGES {
            let layout = Layout { total: 13, stages };
            let full = cell(&(0..stages).map(|stage| (stage, Outcome::Succeeded)).collect::<Vec<_>>(), stages);
            for task in 0..layout.total {
                let mut bytes = vec![0; layout.bytes()];
                layout.merge(task, full, &mut bytes, 0);
                for other in 0..layout.total {
                    let expected = if other == task { full } else { Cell::default() };
                    assert_eq!(layout.cell(other, &bytes, 0), expected, "{stages} stages, task {task}, {other}");
                }
                let span = layout.span(task);
                assert_eq!(layout.cell(task, &bytes[span.clone()], span.start), full);
            }
        }
    }

    #[test]
    fn ten_million_tasks_in_three_stages_take_seven_and_a_half_megabytes() {
        assert_eq!(Layout { total: 10_000_000, stages: 3 }.bytes(), 7_500_000);
    }

    #[test]
    fn bytes_that_marks_cannot_have_written_are_rejected() {
        let layout = Layout { total: 4, stages: 1 };
        assert_eq!(Cells::new(layout, vec![]), Err(CellsError::Length { expected: 1, found: 0 }));
        assert_eq!(Cells::new(layout, vec![0b1110_0000]), Err(CellsError::Impossible { task: 1 }));
        let cells = Cells::new(layout, vec![0b1101_0000]).unwrap();
        assert_eq!(cells.count().stages, [StageCounts { succeeded: 1, failed: 1, skipped: 0 }]);
    }
}
