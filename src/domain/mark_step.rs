//! Plans how marks are written to the cells of a tracker: which bytes change, what they become, and how the counts
//! change.
//!
//! A report is a compare-and-set. This module computes the new bytes and the change of the counts from the bytes that
//! the gateway expects in the tracker. If the tracker holds these bytes, the script `report.lua` writes the new bytes
//! and adds to the counts. Otherwise it returns the actual bytes, and the gateway computes the change again. The
//! counting rules therefore exist only once, in Rust, and no script runs for long.

use std::ops::Range;

use super::{Cell, CountsDelta, Digests, Disposition, Layout, Mark, Mismatch};

/// The largest gap, in bytes, across which two runs are joined. One more run costs Redis, with its log, about as much
/// time as comparing and copying a few hundred more bytes (1.3 µs on one machine). A larger gap would cause more
/// network traffic, and more conflicts with marks that the step does not set.
const JOIN_GAP: usize = 256;
/// The maximum number of bytes that one script call touches.
const MAX_BYTES: usize = 256 * 1024;

/// Marks that one script call sets.
#[derive(Debug, Clone)]
pub struct MarkStep {
    layout: Layout,
    /// The tasks in ascending order, each once, with the bits to set.
    tasks: Vec<(u32, Cell)>,
    /// The runs of bytes that hold the cells of the tasks, ascending and disjoint.
    runs: Vec<Range<usize>>,
    /// The number of bytes in all runs.
    size: usize,
}

/// An upper bound for the runs and bytes that certain marks add to a [`MarkStep`], whatever other marks it sets.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepSize {
    runs: usize,
    bytes: usize,
}

/// The change that a [`MarkStep`] makes to the bytes of its runs.
#[derive(Debug, Clone)]
pub struct Change {
    /// The new bytes of all runs, concatenated.
    pub bytes: Vec<u8>,
    /// The change of the counts.
    pub delta: CountsDelta,
    /// The change of the digests.
    pub digests: Digests,
    /// The cell of each task before the change.
    old: Vec<(u32, Cell)>,
}

impl MarkStep {
    /// The maximum number of runs that one script call touches. A call with the maximum numbers of runs and bytes takes
    /// about 2 ms at worst. A script may block Redis for 10 ms.
    pub const MAX_RUNS: usize = 900;

    /// Plans the marks as steps. Usually one step is enough. There are more if the marks are so scattered that a single
    /// script call would block Redis for too long. Without marks, there is one step that touches nothing.
    pub fn plan(layout: Layout, marks: impl Iterator<Item = Mark>) -> Vec<Self> {
        let mut bits: Vec<(u32, Cell)> = marks.map(|mark| (mark.task, mark.bits(layout.stages))).collect();
        // Most reports list tasks in ascending order, and a stable sort of sorted input is fast.
        bits.sort_by_key(|(task, _)| *task);
        bits.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = kept.1.merge(later.1);
            }
            same
        });
        let empty = Self { layout, tasks: Vec::new(), runs: Vec::new(), size: 0 };
        let mut full = Vec::new();
        let mut step = empty.clone();
        for (task, cell) in bits {
            if !step.add(task, cell) {
                full.push(std::mem::replace(&mut step, empty.clone()));
                // The first task of an empty step always fits.
                step.add(task, cell);
            }
        }
        full.push(step);
        full
    }

    /// Creates one step that sets all marks in `bytes`, which hold the cells of the consecutive `tasks`.
    pub fn from_cells(layout: Layout, tasks: Range<u32>, bytes: &[u8]) -> Self {
        let run = layout.span(tasks.start).start..layout.span(tasks.end - 1).end;
        let cells = tasks.map(|task| (task, layout.cell(task, bytes, run.start)));
        let tasks = cells.filter(|(_, cell)| *cell != Cell::default()).collect();
        Self { layout, tasks, size: run.len(), runs: vec![run] }
    }

    /// Adds a task that follows all tasks of the step. If the step is full, returns false and does not add the task.
    fn add(&mut self, task: u32, cell: Cell) -> bool {
        let span = self.layout.span(task);
        let runs = self.runs.len();
        let joins = self.runs.last_mut().filter(|last| span.start <= last.end + JOIN_GAP);
        let grows = joins.as_ref().map_or(span.len(), |last| span.end.saturating_sub(last.end));
        if self.size + grows > MAX_BYTES || joins.is_none() && runs == Self::MAX_RUNS {
            return false;
        }
        match joins {
            Some(last) => last.end += grows,
            None => self.runs.push(span),
        }
        self.size += grows;
        self.tasks.push((task, cell));
        true
    }

    /// Returns the runs of bytes that the step touches, as offsets from the first cell. They are ascending and
    /// disjoint.
    pub fn runs(&self) -> &[Range<usize>] {
        &self.runs
    }

    /// Returns the bytes of all runs in a tracker without marks, concatenated. They are the first guess for a tracker
    /// whose bytes are not known.
    pub fn blank(&self) -> Vec<u8> {
        vec![0; self.size]
    }

    /// Splits the concatenated bytes of all runs into the bytes of each run.
    pub fn split<'a>(&'a self, mut bytes: &'a [u8]) -> impl Iterator<Item = (&'a Range<usize>, &'a [u8])> + 'a {
        self.runs.iter().map_while(move |run| {
            let (run_bytes, rest) = bytes.split_at_checked(run.len())?;
            bytes = rest;
            Some((run, run_bytes))
        })
    }

    /// Returns the tasks of the step, each with the bits that the step sets.
    pub fn marks(&self) -> impl Iterator<Item = (u32, Cell)> {
        self.tasks.iter().copied()
    }

    /// Computes the change of runs that hold the bytes `current`, concatenated. Returns `None` if `current` has another
    /// length than the runs.
    pub fn apply(&self, current: &[u8]) -> Option<Change> {
        if current.len() != self.size {
            return None;
        }
        let mut bytes = current.to_vec();
        let mut old = Vec::with_capacity(self.tasks.len());
        let (mut runs, mut rest) = (self.runs.iter(), bytes.as_mut_slice());
        let (mut run, mut run_bytes): (_, &mut [u8]) = (0..0, &mut []);
        for (task, bits) in &self.tasks {
            while run.end <= self.layout.span(*task).start {
                run = runs.next()?.clone();
                (run_bytes, rest) = rest.split_at_mut_checked(run.len())?;
            }
            old.push((*task, self.layout.cell(*task, run_bytes, run.start)));
            self.layout.merge(*task, *bits, run_bytes, run.start);
        }
        let transitions = self.tasks.iter().zip(&old).map(|((_, bits), (_, old))| (*old, old.merge(*bits)));
        let delta = CountsDelta::of(self.layout.stages, transitions);
        let mut digests = Digests::default();
        for ((run, before), (_, after)) in self.split(current).zip(self.split(&bytes)) {
            digests.replace(self.layout, run.start, before, after);
        }
        Some(Change { bytes, delta, digests, old })
    }
}

impl StepSize {
    /// Computes the upper bound for these marks, in the given order. A mark whose task precedes the task of the
    /// previous mark counts as a separate run.
    pub fn of(layout: Layout, marks: impl Iterator<Item = Mark>) -> Self {
        let mut size = Self::default();
        let mut last: Option<Range<usize>> = None;
        for mark in marks {
            let span = layout.span(mark.task);
            match &mut last {
                Some(last) if (last.start..=last.end + JOIN_GAP).contains(&span.start) => {
                    size.bytes += span.end.saturating_sub(last.end);
                    last.end = last.end.max(span.end);
                }
                _ => {
                    size.runs += 1;
                    size.bytes += span.len();
                    last = Some(span);
                }
            }
        }
        size
    }

    /// Returns the upper bound for the marks of both sizes together.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self { runs: self.runs + other.runs, bytes: self.bytes + other.bytes }
    }

    /// Returns whether one step can hold the marks for certain. Runs that are joined include the bytes of the gap
    /// between them, so each run counts with the largest gap.
    pub fn fits(self) -> bool {
        self.runs <= MarkStep::MAX_RUNS && self.bytes + self.runs * JOIN_GAP <= MAX_BYTES
    }
}

/// Returns the disposition of each result of a report after `changes` were applied. The order of the results is the
/// order of the request. If two results of a report are equal and new, the first is APPLIED and the second is
/// DUPLICATE.
pub fn dispositions(
    layout: Layout,
    marks: impl IntoIterator<Item = Result<Mark, Mismatch>>,
    changes: &[Change],
) -> Vec<Disposition> {
    // Steps ascend by task, so the concatenation is sorted.
    let mut cells: Vec<(u32, Cell)> = changes.iter().flat_map(|change| change.old.iter().copied()).collect();
    // Most reports list tasks in ascending order, so the next cell is tried before a binary search.
    let mut next = 0;
    let mut dispose = |mark: Mark| {
        let index = if cells.get(next).is_some_and(|(task, _)| *task == mark.task) {
            next
        } else {
            cells.binary_search_by_key(&mark.task, |(task, _)| *task).ok()?
        };
        next = index + 1;
        let old = cells[index].1;
        cells[index].1 = old.merge(mark.bits(layout.stages));
        Some(if cells[index].1 == old { Disposition::Duplicate } else { Disposition::Applied })
    };
    // A task without a change belongs to a step that was not applied, because the job ended after an earlier step.
    let disposition = |mark: Result<Mark, Mismatch>| {
        mark.map_or_else(Mismatch::disposition, |mark| dispose(mark).unwrap_or(Disposition::Superseded))
    };
    marks.into_iter().map(disposition).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Cells, Outcome};

    fn mark(task: u32, stage: usize, succeeded: bool) -> Mark {
        Mark { task, stage, outcome: if succeeded { Outcome::Succeeded } else { Outcome::Failed } }
    }

    /// Applies marks as the tracker does, and checks after each step that its counts match the cells.
    fn report(layout: Layout, bytes: &mut [u8], marks: &[Mark]) -> Vec<Disposition> {
        let mut changes = Vec::new();
        for step in MarkStep::plan(layout, marks.iter().copied()) {
            let before = Cells::new(layout, bytes.to_vec()).unwrap().count();
            let current: Vec<_> = step.runs().iter().flat_map(|run| bytes[run.clone()].to_vec()).collect();
            let change = step.apply(&current).unwrap();
            for (run, new) in step.split(&change.bytes) {
                bytes[run.clone()].copy_from_slice(new);
            }
            let after = Cells::new(layout, bytes.to_vec()).unwrap().count();
            let added = before
                .stages
                .iter()
                .zip(&change.delta.0)
                .map(|(count, delta)| count.after(*delta, layout.total).unwrap());
            assert_eq!(added.collect::<Vec<_>>(), after.stages);
            changes.push(change);
        }
        dispositions(layout, marks.iter().copied().map(Ok), &changes)
    }

    fn reports() -> impl Strategy<Value = (Layout, Vec<Mark>)> {
        (1_u32..40, 1_usize..=8).prop_flat_map(|(total, stages)| {
            let mark =
                (0..total, 0..stages, any::<bool>()).prop_map(|(task, stage, succeeded)| mark(task, stage, succeeded));
            (Just(Layout { total, stages }), prop::collection::vec(mark, 0..60))
        })
    }

    proptest! {
        /// I3: marks and counts depend neither on order nor on batching nor on repetition.
        #[test]
        fn marks_commute_associate_and_repeat((layout, marks) in reports(), split in 0_usize..60, seed in any::<u64>()) {
            let mut once = vec![0; layout.bytes()];
            report(layout, &mut once, &marks);
            let mut shuffled = marks.clone();
            shuffled.sort_by_key(|mark| (u64::from(mark.task) + 7 * mark.stage as u64 + 3).wrapping_mul(seed | 1));
            let mut again = vec![0; layout.bytes()];
            let (first, second) = shuffled.split_at(split.min(shuffled.len()));
            report(layout, &mut again, second);
            report(layout, &mut again, first);
            let repeated = report(layout, &mut again, &marks);
            prop_assert_eq!(&once, &again);
            prop_assert!(repeated.iter().all(|disposition| *disposition == Disposition::Duplicate));
        }

        /// Every bit that was set stays set.
        #[test]
        fn marks_are_never_cleared((layout, marks) in reports()) {
            let mut bytes = vec![0; layout.bytes()];
            for mark in marks {
                let before = bytes.clone();
                report(layout, &mut bytes, &[mark]);
                prop_assert!(before.iter().zip(&bytes).all(|(old, new)| old & new == *old));
            }
        }

        /// The number of reported results never decreases, whatever is reported, and ends at the number of distinct
        /// tasks and stages in the reports. A share of 1 means that the job is complete.
        #[test]
        fn reported_share_never_decreases((layout, marks) in reports()) {
            let mut bytes = vec![0; layout.bytes()];
            let mut last = (0, 0.0, 0);
            for mark in &marks {
                report(layout, &mut bytes, &[*mark]);
                let counts = Cells::new(layout, bytes.clone()).unwrap().count();
                let now = (counts.total_reported(), counts.reported_fraction(), counts.reported_percent());
                prop_assert!(now.0 >= last.0 && now.1 >= last.1 && now.2 >= last.2, "{:?} after {:?}", now, last);
                prop_assert!(counts.is_complete() || (now.1 < 1.0 && now.2 < 100));
                last = now;
            }
            let distinct: HashSet<_> = marks.iter().map(|mark| (mark.task, mark.stage)).collect();
            prop_assert_eq!(last.0, distinct.len() as u64);
        }

        /// A result is APPLIED exactly when it raises the level that a plain map holds for the task and stage.
        #[test]
        fn dispositions_match_a_plain_map((layout, marks) in reports()) {
            let mut bytes = vec![0; layout.bytes()];
            let mut best: HashMap<(u32, usize), u8> = HashMap::new();
            let expected: Vec<_> = marks.iter().map(|mark| {
                let level = if mark.outcome == Outcome::Succeeded { 2 } else { 1 };
                let known = best.entry((mark.task, mark.stage)).or_default();
                let new = level > *known;
                *known = level.max(*known);
                if new { Disposition::Applied } else { Disposition::Duplicate }
            }).collect();
            prop_assert_eq!(report(layout, &mut bytes, &marks), expected);
        }
    }

    /// Generates batches of tasks with various first tasks and distances. Some batches are ascending, others are
    /// shuffled.
    fn batches() -> impl Strategy<Value = (Layout, Vec<Vec<Mark>>)> {
        let distance = prop_oneof![Just(1_u32), Just(3), 100_u32..140, 250_u32..260, 900_u32..1100, Just(5_000)];
        let batch = (0_u32..5_000_000, distance, 1_u32..400, any::<bool>());
        let batch = batch.prop_map(|(first, distance, count, ascends)| {
            let number = |index: u32| if ascends { index } else { index.wrapping_mul(7919) % count };
            (0..count).map(|index| mark(first + distance * number(index), 0, true)).collect()
        });
        let layout = (1_usize..=8).prop_map(|stages| Layout { total: 10_000_000, stages });
        (layout, prop::collection::vec(batch, 1..12))
    }

    proptest! {
        /// Batches whose sizes fit together are planned as one step, wherever they are in the job.
        #[test]
        fn batches_that_fit_together_are_one_step((layout, batches) in batches()) {
            let mut size = StepSize::default();
            let mut accepted = Vec::new();
            for batch in batches {
                let combined = size.with(StepSize::of(layout, batch.iter().copied()));
                if combined.fits() {
                    size = combined;
                    accepted.extend(batch);
                }
            }
            prop_assert_eq!(MarkStep::plan(layout, accepted.into_iter()).len(), 1);
        }
    }

    #[test]
    fn gaps_between_joined_runs_count_as_bytes() {
        let layout = Layout { total: 10_000_000, stages: 8 };
        // Each cell has two bytes. The runs of each of the first two batches are separate, but the two batches together
        // form one run. The third batch is one run.
        let batch = |first: u32, distance: u32, count: u32| {
            (0..count).map(move |index| mark(first + distance * index, 0, true))
        };
        let (a, b, c) = (batch(0, 256, 440), batch(128, 256, 440), batch(5_000_000, 128, 200));
        let two = StepSize::of(layout, a.clone()).with(StepSize::of(layout, b.clone()));
        assert!(two.fits() && MarkStep::plan(layout, a.clone().chain(b.clone())).len() == 1);
        let three = two.with(StepSize::of(layout, c.clone()));
        assert!(!three.fits() && MarkStep::plan(layout, a.chain(b).chain(c)).len() == 2);
    }

    #[test]
    fn close_tasks_form_one_run_and_distant_tasks_one_run_each() {
        let layout = Layout { total: 10_000_000, stages: 1 };
        let runs = |distance: u32| StepSize::of(layout, (0..100).map(|index| mark(distance * index, 0, true))).runs;
        assert_eq!((runs(1), runs(1_000), runs(2_000)), (1, 1, 100));
    }

    #[test]
    fn scattered_marks_take_several_bounded_steps() {
        let layout = Layout { total: 10_000_000, stages: 8 };
        let steps = MarkStep::plan(layout, (0..10_000).map(|index| mark(index * 999, 0, false)));
        assert!(steps.len() > 1);
        assert!(steps.iter().all(|step| step.runs().len() <= MarkStep::MAX_RUNS && step.size <= MAX_BYTES));
        assert_eq!(steps.iter().map(|step| step.tasks.len()).sum::<usize>(), 10_000);
    }

    #[test]
    fn adjacent_marks_are_one_run() {
        let layout = Layout { total: 10_000, stages: 8 };
        let steps = MarkStep::plan(layout, (0..10_000).map(|task| mark(task, 0, false)));
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].runs(), std::slice::from_ref(&(0..20_000)));
    }

    #[test]
    fn empty_report_is_one_step_that_touches_nothing() {
        let steps = MarkStep::plan(Layout { total: 5, stages: 1 }, std::iter::empty());
        assert_eq!((steps.len(), steps[0].runs().len()), (1, 0));
        assert!(steps[0].apply(&[]).unwrap().delta.is_none());
    }

    #[test]
    fn bytes_of_other_runs_are_refused() {
        let steps = MarkStep::plan(Layout { total: 5, stages: 4 }, [mark(2, 0, true)].into_iter());
        assert!(steps[0].apply(&[]).is_none());
        assert!(steps[0].apply(&[0, 0]).is_none());
    }
}
