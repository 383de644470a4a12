//! How marks get into the cells of a tracker: which bytes are touched, and what they become.
//!
//! A report is a compare-and-set. The gateway computes here, from bytes that it believes, the new bytes and what they
//! add to the counts; the tracker compares, writes and adds (`report.lua`), or answers with the bytes as they are and
//! the gateway computes again. So the rules of counting exist once, in Rust, and no script is long.

use std::ops::Range;

use super::{Cell, CountsDelta, Disposition, Layout, Mark};

/// Places closer than this are read and written as one: a further place costs Redis, with its log, about as much time as
/// comparing and copying a few hundred more bytes (1.3 µs on one machine), but false conflicts and network grow with the
/// gap.
const JOIN_GAP: usize = 256;
/// The most bytes that one script touches.
const MAX_BYTES: usize = 256 * 1024;

/// Marks to be set in one step.
#[derive(Debug, Clone)]
pub struct MarkStep {
    layout: Layout,
    /// Each task once, ascending, with the bits to set.
    tasks: Vec<(u32, Cell)>,
    /// The bytes that hold them, ascending and apart.
    runs: Vec<Range<usize>>,
    /// The bytes of all runs.
    size: usize,
}

/// How much of a step marks take at the most, whatever marks are set with them.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepSize {
    runs: usize,
    bytes: usize,
}

/// What the bytes become.
#[derive(Debug, Clone)]
pub struct Change {
    /// The new bytes of all runs, one after the other.
    pub bytes: Vec<u8>,
    /// What they add to the counts.
    pub delta: CountsDelta,
    /// The cell of each task before.
    old: Vec<(u32, Cell)>,
}

impl MarkStep {
    /// The most places that one script touches: with the most bytes about 2 ms at the worst, well under the 10 ms that no
    /// script may hold Redis.
    pub const MAX_RUNS: usize = 900;

    /// Plans the marks: usually one step; more where they lie so far apart that one would take Redis too long. At
    /// least one, which may touch nothing.
    pub fn plan(layout: Layout, marks: impl Iterator<Item = Mark>) -> Vec<Self> {
        let mut bits: Vec<(u32, Cell)> = marks.map(|mark| (mark.task, mark.bits(layout.stages))).collect();
        // Most reports name tasks in their order, and this merges what is in order.
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

    /// One step for all marks in the cells of tasks that follow each other, whose bytes these are.
    pub fn of_cells(layout: Layout, tasks: Range<u32>, bytes: &[u8]) -> Self {
        let run = layout.span(tasks.start).start..layout.span(tasks.end - 1).end;
        let cells = tasks.map(|task| (task, layout.cell(task, bytes, run.start)));
        let tasks = cells.filter(|(_, cell)| *cell != Cell::default()).collect();
        Self { layout, tasks, size: run.len(), runs: vec![run] }
    }

    /// Adds a task that lies behind all others, unless the step is full.
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

    /// The bytes that are touched, counted from the first cell.
    pub fn runs(&self) -> &[Range<usize>] {
        &self.runs
    }

    /// The bytes of all runs, one after the other, where nothing is marked: what most reports of a young job meet.
    pub fn blank(&self) -> Vec<u8> {
        vec![0; self.size]
    }

    /// Those of each run, out of all.
    pub fn of_each<'a>(&'a self, mut bytes: &'a [u8]) -> impl Iterator<Item = (&'a Range<usize>, &'a [u8])> + 'a {
        self.runs.iter().map_while(move |run| {
            let (of_run, rest) = bytes.split_at_checked(run.len())?;
            bytes = rest;
            Some((run, of_run))
        })
    }

    /// The cells that a change led to: all marks that were set, and what stood there before.
    pub fn marked<'a>(&'a self, change: &'a Change) -> impl Iterator<Item = (u32, Cell)> + 'a {
        self.tasks.iter().zip(&change.old).map(|((task, bits), (_, old))| (*task, old.merge(*bits)))
    }

    /// What the runs become if they hold `current` now; `None` if those are not the bytes of these runs.
    pub fn apply(&self, current: &[u8]) -> Option<Change> {
        if current.len() != self.size {
            return None;
        }
        let mut bytes = current.to_vec();
        let mut old = Vec::with_capacity(self.tasks.len());
        let (mut runs, mut rest) = (self.runs.iter(), bytes.as_mut_slice());
        let (mut run, mut of_run): (_, &mut [u8]) = (0..0, &mut []);
        for (task, bits) in &self.tasks {
            while run.end <= self.layout.span(*task).start {
                run = runs.next()?.clone();
                (of_run, rest) = rest.split_at_mut_checked(run.len())?;
            }
            old.push((*task, self.layout.cell(*task, of_run, run.start)));
            self.layout.merge(*task, *bits, of_run, run.start);
        }
        let became = self.tasks.iter().zip(&old).map(|((_, bits), (_, old))| (*old, old.merge(*bits)));
        let delta = CountsDelta::of(self.layout.stages, became);
        Some(Change { bytes, delta, old })
    }
}

impl StepSize {
    /// Of these marks, in the order in which they come: one that goes back is taken to be apart.
    pub fn of(layout: Layout, marks: impl Iterator<Item = Mark>) -> Self {
        let mut extent = Self::default();
        let mut last: Option<Range<usize>> = None;
        for mark in marks {
            let span = layout.span(mark.task);
            match &mut last {
                Some(last) if (last.start..=last.end + JOIN_GAP).contains(&span.start) => {
                    extent.bytes += span.end.saturating_sub(last.end);
                    last.end = last.end.max(span.end);
                }
                _ => {
                    extent.runs += 1;
                    extent.bytes += span.len();
                    last = Some(span);
                }
            }
        }
        extent
    }

    /// Both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self { runs: self.runs + other.runs, bytes: self.bytes + other.bytes }
    }

    /// Whether one step is certain to do, also where runs come so close to each other that the bytes between them go
    /// along.
    pub fn fits(self) -> bool {
        self.runs <= MarkStep::MAX_RUNS && self.bytes + self.runs * JOIN_GAP <= MAX_BYTES
    }
}

/// What became of each result, now that all `changes` of its report were applied. Results are taken in the order of
/// the request: of two that say the same, the first is new.
pub fn dispositions(
    layout: Layout,
    marks: impl IntoIterator<Item = Option<Mark>>,
    changes: &[Change],
) -> Vec<Disposition> {
    // Steps ascend by task, so that together they are one sorted list.
    let mut cells: Vec<(u32, Cell)> = changes.iter().flat_map(|change| change.old.iter().copied()).collect();
    // Most reports name tasks in their order.
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
    // A task without a change is behind the steps that were applied: the job ended in between.
    let became = |mark: Option<Mark>| {
        mark.map_or(Disposition::UnknownTask, |mark| dispose(mark).unwrap_or(Disposition::Superseded))
    };
    marks.into_iter().map(became).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{Cells, Outcome};

    fn mark(task: u32, stage: usize, succeeded: bool) -> Mark {
        Mark { task, stage, outcome: if succeeded { Outcome::Succeeded } else { Outcome::Failed } }
    }

    /// Applies marks as the tracker does, and checks the counts that it would hold after each step.
    fn report(layout: Layout, bytes: &mut [u8], marks: &[Mark]) -> Vec<Disposition> {
        let mut changes = Vec::new();
        for step in MarkStep::plan(layout, marks.iter().copied()) {
            let before = Cells::new(layout, bytes.to_vec()).unwrap().count();
            let current: Vec<_> = step.runs().iter().flat_map(|run| bytes[run.clone()].to_vec()).collect();
            let change = step.apply(&current).unwrap();
            for (run, new) in step.of_each(&change.bytes) {
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
        dispositions(layout, marks.iter().copied().map(Some), &changes)
    }

    fn reports() -> impl Strategy<Value = (Layout, Vec<Mark>)> {
        (1_u32..40, 1_usize..=8).prop_flat_map(|(total, stages)| {
            let mark =
                (0..total, 0..stages, any::<bool>()).prop_map(|(task, stage, succeeded)| mark(task, stage, succeeded));
            (Just(Layout { total, stages }), prop::collection::vec(mark, 0..60))
        })
    }

    proptest! {
        /// I3: whatever the order, the batches and the repetitions, the marks and counts are the same.
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

        /// Nothing moves down: every bit that was set stays set.
        #[test]
        fn marks_never_go_down((layout, marks) in reports()) {
            let mut bytes = vec![0; layout.bytes()];
            for mark in marks {
                let before = bytes.clone();
                report(layout, &mut bytes, &[mark]);
                prop_assert!(before.iter().zip(&bytes).all(|(old, new)| old & new == *old));
            }
        }

        /// A result is APPLIED exactly when it is the first to say so, as a plain map would tell.
        #[test]
        fn dispositions_are_those_of_a_plain_map((layout, marks) in reports()) {
            let mut bytes = vec![0; layout.bytes()];
            let mut best: HashMap<(u32, usize), u8> = HashMap::new();
            let expected: Vec<_> = marks.iter().map(|mark| {
                let level = if mark.outcome == Outcome::Succeeded { 2 } else { 1 };
                let stands = best.entry((mark.task, mark.stage)).or_default();
                let new = level > *stands;
                *stands = level.max(*stands);
                if new { Disposition::Applied } else { Disposition::Duplicate }
            }).collect();
            prop_assert_eq!(report(layout, &mut bytes, &marks), expected);
        }
    }

    /// Batches of tasks that lie in some places of a job, some of them in order.
    fn batches() -> impl Strategy<Value = (Layout, Vec<Vec<Mark>>)> {
        let apart = prop_oneof![Just(1_u32), Just(3), 100_u32..140, 250_u32..260, 900_u32..1100, Just(5_000)];
        let batch = (0_u32..5_000_000, apart, 1_u32..400, any::<bool>()).prop_map(|(first, apart, count, ascends)| {
            let number = |index: u32| if ascends { index } else { index.wrapping_mul(7919) % count };
            (0..count).map(|index| mark(first + apart * number(index), 0, true)).collect()
        });
        let layout = (1_usize..=8).prop_map(|stages| Layout { total: 10_000_000, stages });
        (layout, prop::collection::vec(batch, 1..12))
    }

    proptest! {
        /// What fits by its extents is one step, wherever the batches lie to each other.
        #[test]
        fn batches_that_fit_together_are_one_step((layout, batches) in batches()) {
            let mut extent = StepSize::default();
            let mut together = Vec::new();
            for batch in batches {
                let with = extent.with(StepSize::of(layout, batch.iter().copied()));
                if with.fits() {
                    extent = with;
                    together.extend(batch);
                }
            }
            prop_assert_eq!(MarkStep::plan(layout, together.into_iter()).len(), 1);
        }
    }

    #[test]
    fn the_bytes_between_runs_that_become_one_are_counted() {
        let layout = Layout { total: 10_000_000, stages: 8 };
        // Cells of two bytes: the first and the second are apart by themselves, and one run together; the third is one.
        let batch =
            |first: u32, apart: u32, count: u32| (0..count).map(move |index| mark(first + apart * index, 0, true));
        let (a, b, c) = (batch(0, 256, 440), batch(128, 256, 440), batch(5_000_000, 128, 200));
        let two = StepSize::of(layout, a.clone()).with(StepSize::of(layout, b.clone()));
        assert!(two.fits() && MarkStep::plan(layout, a.clone().chain(b.clone())).len() == 1);
        let three = two.with(StepSize::of(layout, c.clone()));
        assert!(!three.fits() && MarkStep::plan(layout, a.chain(b).chain(c)).len() == 2);
    }

    #[test]
    fn a_page_is_one_run_and_what_lies_apart_is_many() {
        let layout = Layout { total: 10_000_000, stages: 1 };
        let runs = |apart: u32| StepSize::of(layout, (0..100).map(|index| mark(apart * index, 0, true))).runs;
        assert_eq!((runs(1), runs(1_000), runs(2_000)), (1, 1, 100));
    }

    #[test]
    fn far_apart_marks_take_several_bounded_steps() {
        let layout = Layout { total: 10_000_000, stages: 8 };
        let steps = MarkStep::plan(layout, (0..10_000).map(|index| mark(index * 999, 0, false)));
        assert!(steps.len() > 1);
        assert!(steps.iter().all(|step| step.runs().len() <= MarkStep::MAX_RUNS && step.size <= MAX_BYTES));
        assert_eq!(steps.iter().map(|step| step.tasks.len()).sum::<usize>(), 10_000);
    }

    #[test]
    fn close_marks_are_one_place() {
        let layout = Layout { total: 10_000, stages: 8 };
        let steps = MarkStep::plan(layout, (0..10_000).map(|task| mark(task, 0, false)));
        assert_eq!(steps.len(), 1);
        assert_eq!(steps[0].runs(), std::slice::from_ref(&(0..20_000)));
    }

    #[test]
    fn a_report_of_nothing_is_one_step_that_touches_nothing() {
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
