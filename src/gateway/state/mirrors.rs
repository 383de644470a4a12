//! Mirrors: this gateway's copies of running jobs' marks, the OR of all that it has acknowledged or read. They are what
//! a lost tracker is restored from (invariant I4), so every gateway is a replica of the marks at no cost in writes.
//!
//! Bounded: marks that this gateway acknowledged go before what it only read, which the gateway that acknowledged it holds
//! as well. A job whose mirror does not fit even so has none, and what is not held is counted and said. No mirror of such
//! marks is dropped for another: more jobs than fit would make and drop theirs by turns, and protect none. Knows neither
//! store: who merges and pulls is `gateway::mirroring`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::{Cell, Cells, JobId, Layout, TrackerEpoch};

/// How many tasks one chunk holds: a multiple of four, so that chunks begin with whole bytes whatever the stages, and
/// at most 128 KiB, which one script compares in well under a millisecond.
const CHUNK_TASKS: u32 = 65_536;

/// How often it is said that mirrors do not fit.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// All mirrors of this gateway.
pub struct Mirrors {
    state: Mutex<State>,
    max_bytes: usize,
}

#[derive(Default)]
struct State {
    mirrors: HashMap<JobId, Mirror>,
    /// Of the cells of all mirrors.
    bytes: usize,
    /// Of those that hold nothing but what was read.
    copied: usize,
    /// When it was last said that a mirror does not fit.
    said: Option<Instant>,
}

struct Mirror {
    layout: Layout,
    cells: Vec<u8>,
    /// This gateway acknowledged some of it.
    own: bool,
    /// The tracker that is known to hold all of these marks.
    merged: Option<TrackerEpoch>,
    /// The tracker into which all is being merged.
    merging: Option<TrackerEpoch>,
    /// Grows with every mark that this one did not take itself.
    version: u64,
    /// Nothing was ever put in.
    blank: bool,
    /// The incarnation of the last tracker that all of it was merged into, or that took the first of it: what is restored
    /// under a later one may lack it.
    based: u64,
    /// The tracker, and its revision, that was last read whole; and that is being read.
    pulled: Option<(TrackerEpoch, u64)>,
    pulling: Option<(TrackerEpoch, u64)>,
    /// The chunk that is read next.
    next_pull: usize,
}

/// A part of a job's cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The tasks.
    pub tasks: Range<u32>,
    /// Their cells.
    pub bytes: Vec<u8>,
}

impl Mirrors {
    /// Mirrors that together hold at most `max_bytes` of cells.
    pub fn new(max_bytes: usize) -> Self {
        Self { state: Mutex::default(), max_bytes }
    }

    /// Adds marks that were acknowledged while the job's tracker was the one with the incarnation `under`. `held_by` is
    /// the tracker that took them; `None`: they are elsewhere.
    pub fn mark(
        &self,
        id: &JobId,
        layout: Layout,
        cells: impl Iterator<Item = (u32, Cell)>,
        under: u64,
        held_by: Option<TrackerEpoch>,
    ) {
        let mut state = self.state();
        let Some(mirror) = state.own(id, layout, self.max_bytes) else {
            metrics::counter!("highwater_unmirrored_marks_total").increment(cells.count() as u64);
            return state.say_full(id);
        };
        for (task, cell) in cells {
            let span = layout.span(task);
            layout.merge(task, cell, &mut mirror.cells[span.clone()], span.start);
        }
        mirror.took(under, held_by);
    }

    /// The bytes of these runs of the job's cells, one after the other, as they are here: what its tracker most likely
    /// holds, unless other gateways report to it as well. `None` without a mirror.
    pub fn runs(&self, id: &JobId, layout: Layout, runs: &[Range<usize>]) -> Option<Vec<u8>> {
        let state = self.state();
        let mirror = state.mirrors.get(id).filter(|mirror| mirror.layout == layout)?;
        let mut bytes = Vec::with_capacity(runs.iter().map(ExactSizeIterator::len).sum());
        for run in runs {
            bytes.extend_from_slice(&mirror.cells[run.clone()]);
        }
        Some(bytes)
    }

    /// Adds what was read from a tracker.
    pub fn pull(&self, id: &JobId, layout: Layout, chunk: &Chunk, held_by: TrackerEpoch) {
        let mut state = self.state();
        let Some(mirror) = state.copy(id, layout, self.max_bytes) else { return };
        let start = layout.span(chunk.tasks.start).start;
        for (ours, theirs) in mirror.cells[start..].iter_mut().zip(&chunk.bytes) {
            *ours |= theirs;
        }
        mirror.took(held_by.incarnation, Some(held_by));
    }

    /// The tasks whose cells are to be read next from the tracker that stands so at this revision; `None` if all have
    /// been. Moves on by one chunk each time.
    pub fn next_pull(&self, id: &JobId, layout: Layout, epoch: TrackerEpoch, revision: u64) -> Option<Range<u32>> {
        let mut state = self.state();
        let mirror = state.copy(id, layout, self.max_bytes)?;
        if mirror.pulled == Some((epoch, revision)) {
            return None;
        }
        let tasks = chunks(layout).nth(mirror.next_pull)?;
        if mirror.next_pull == 0 {
            // What changes in a chunk that was read already has a higher revision, and is read in the next pass.
            mirror.pulling = Some((epoch, revision));
        }
        mirror.next_pull += 1;
        if tasks.end == layout.total {
            (mirror.pulled, mirror.next_pull) = (mirror.pulling, 0);
        }
        Some(tasks)
    }

    /// The chunks in which anything is marked, and the version that they are of, to be put into the ledger.
    pub fn chunks(&self, id: &JobId) -> (Vec<Range<u32>>, u64) {
        self.chunks_for(id, None)
    }

    /// The same, to be merged into this tracker: what it takes itself meanwhile need not be.
    pub fn chunks_to_merge(&self, id: &JobId, into: TrackerEpoch) -> (Vec<Range<u32>>, u64) {
        self.chunks_for(id, Some(into))
    }

    fn chunks_for(&self, id: &JobId, into: Option<TrackerEpoch>) -> (Vec<Range<u32>>, u64) {
        let mut state = self.state();
        let Some(mirror) = state.mirrors.get_mut(id) else { return (Vec::new(), 0) };
        mirror.merging = into;
        let marked = chunks(mirror.layout).filter(|tasks| mirror.chunk(tasks).iter().any(|byte| *byte != 0));
        (marked.collect(), mirror.version)
    }

    /// One chunk.
    pub fn chunk(&self, id: &JobId, tasks: &Range<u32>) -> Option<Chunk> {
        let state = self.state();
        let bytes = state.mirrors.get(id)?.chunk(tasks).to_vec();
        Some(Chunk { tasks: tasks.clone(), bytes })
    }

    /// All cells, if there is a mirror.
    pub fn cells(&self, id: &JobId) -> Option<Cells> {
        let state = self.state();
        let mirror = state.mirrors.get(id)?;
        Cells::new(mirror.layout, mirror.cells.clone()).ok()
    }

    /// How the job's cells lie, if there is a mirror.
    pub fn layout(&self, id: &JobId) -> Option<Layout> {
        self.state().mirrors.get(id).map(|mirror| mirror.layout)
    }

    /// Whether marks of the job are held.
    pub fn holds(&self, id: &JobId) -> bool {
        self.state().mirrors.get(id).is_some_and(|mirror| !mirror.blank)
    }

    /// Whether anything is in it that this tracker is not known to hold.
    pub fn is_ahead(&self, id: &JobId, epoch: TrackerEpoch) -> bool {
        self.state().mirrors.get(id).is_some_and(|mirror| mirror.merged != Some(epoch))
    }

    /// All that the mirror held at this version has been merged into this tracker.
    pub fn merged(&self, id: &JobId, epoch: TrackerEpoch, version: u64) {
        if let Some(mirror) = self.state().mirrors.get_mut(id)
            && (mirror.merging, mirror.version) == (Some(epoch), version)
        {
            mirror.merged = Some(epoch);
            mirror.based = epoch.incarnation.max(mirror.based);
        }
    }

    /// Whether the job's tracker was restored under this incarnation without what is held here, as far as is known.
    pub fn is_behind(&self, id: &JobId, incarnation: u64) -> bool {
        self.state().mirrors.get(id).is_some_and(|mirror| !mirror.blank && mirror.based < incarnation)
    }

    /// All that it held at this version is in the ledger, for the tracker with this incarnation.
    pub fn recorded(&self, id: &JobId, incarnation: u64, version: u64) {
        if let Some(mirror) = self.state().mirrors.get_mut(id)
            && mirror.version == version
        {
            mirror.based = incarnation.max(mirror.based);
        }
    }

    /// Forgets a job that has ended.
    pub fn remove(&self, id: &JobId) {
        self.state().remove(id);
    }

    /// The jobs of which marks are held.
    pub fn jobs(&self) -> Vec<JobId> {
        let state = self.state();
        state.mirrors.iter().filter(|(_, mirror)| !mirror.blank).map(|(id, _)| id.clone()).collect()
    }

    /// How many bytes of cells all mirrors hold.
    pub fn bytes(&self) -> usize {
        self.state().bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Marks only grow: what a panic leaves behind is true.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The job's mirror, for marks that were acknowledged; `None` if it does not fit.
    fn own(&mut self, id: &JobId, layout: Layout, max_bytes: usize) -> Option<&mut Mirror> {
        match self.mirrors.get(id).map(|mirror| mirror.own) {
            Some(true) => return self.mirrors.get_mut(id),
            Some(false) => {}
            None => self.make_room(layout.bytes(), max_bytes)?,
        }
        let mirror = self.copy(id, layout, max_bytes)?;
        mirror.own = true;
        let size = mirror.cells.len();
        self.copied -= size;
        self.mirrors.get_mut(id)
    }

    /// Drops copies until so many bytes fit; `None`, and none of them is dropped, if that is not enough.
    fn make_room(&mut self, size: usize, max_bytes: usize) -> Option<()> {
        if self.bytes - self.copied + size > max_bytes {
            return None;
        }
        while self.bytes + size > max_bytes {
            let copy = self.mirrors.iter().find(|(_, mirror)| !mirror.own)?.0.clone();
            self.remove(&copy);
        }
        Some(())
    }

    /// The job's mirror, for what is read from its tracker; `None` if it does not fit.
    fn copy(&mut self, id: &JobId, layout: Layout, max_bytes: usize) -> Option<&mut Mirror> {
        if !self.mirrors.contains_key(id) {
            let size = layout.bytes();
            if self.bytes + size > max_bytes {
                return None;
            }
            self.bytes += size;
            self.copied += size;
            self.mirrors.insert(id.clone(), Mirror::blank(layout));
        }
        self.mirrors.get_mut(id)
    }

    fn remove(&mut self, id: &JobId) {
        let Some(mirror) = self.mirrors.remove(id) else { return };
        self.bytes -= mirror.cells.len();
        if !mirror.own {
            self.copied -= mirror.cells.len();
        }
    }

    fn say_full(&mut self, id: &JobId) {
        if self.said.is_none_or(|said| said.elapsed() > SAID_EVERY) {
            self.said = Some(Instant::now());
            tracing::warn!(job = %id, "no memory for mirrors of all jobs: marks are in Redis alone; give mirrors more");
        }
    }
}

impl Mirror {
    fn blank(layout: Layout) -> Self {
        Self {
            layout,
            cells: vec![0; layout.bytes()],
            own: false,
            merged: None,
            merging: None,
            version: 0,
            blank: true,
            based: 0,
            pulled: None,
            pulling: None,
            next_pull: 0,
        }
    }

    /// Marks came that `held_by` holds; `None`: they came from where marks can be lost.
    fn took(&mut self, under: u64, held_by: Option<TrackerEpoch>) {
        if self.blank {
            (self.merged, self.blank, self.based) = (held_by, false, under);
        } else {
            if held_by.is_none() || self.merged != held_by {
                self.merged = None;
            }
            // What is restored under a later one may lack these, late as they are.
            self.based = self.based.min(under);
        }
        if held_by.is_none() || self.merging != held_by {
            self.version += 1;
        }
    }

    fn chunk(&self, tasks: &Range<u32>) -> &[u8] {
        let bytes = byte_range(self.layout, tasks);
        &self.cells[bytes]
    }
}

/// The chunks of a job, in order.
fn chunks(layout: Layout) -> impl Iterator<Item = Range<u32>> {
    let starts = (0..layout.total).step_by(CHUNK_TASKS as usize);
    starts.map(move |start| start..layout.total.min(start + CHUNK_TASKS))
}

/// The bytes that hold the cells of these tasks, which begin a chunk.
pub fn byte_range(layout: Layout, tasks: &Range<u32>) -> Range<usize> {
    layout.span(tasks.start).start..layout.span(tasks.end - 1).end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Generation, Mark, Outcome};

    const LAYOUT: Layout = Layout { total: 200_000, stages: 3 };

    fn id(name: &str) -> JobId {
        name.parse().unwrap()
    }

    fn mark(task: u32) -> (u32, Cell) {
        (task, Mark { task, stage: 0, outcome: Outcome::Succeeded }.bits(LAYOUT.stages))
    }

    fn epoch(incarnation: u64) -> TrackerEpoch {
        TrackerEpoch { incarnation, generation: Generation([7; 16]) }
    }

    #[test]
    fn what_was_acknowledged_and_what_was_read_are_one() {
        let mirrors = Mirrors::new(1 << 20);
        let one = id("one");
        mirrors.mark(&one, LAYOUT, [mark(1), mark(150_000)].into_iter(), 1, None);
        let (chunks, _) = mirrors.chunks(&one);
        assert_eq!(chunks, [0..65_536, 131_072..196_608]);
        let mut chunk = mirrors.chunk(&one, &(0..65_536)).unwrap();
        chunk.bytes.fill(0);
        chunk.bytes[10] = 0b1100_0000;
        mirrors.pull(&one, LAYOUT, &chunk, epoch(1));
        let counts = mirrors.cells(&one).unwrap().count();
        assert_eq!(counts.stages.iter().map(|stage| stage.succeeded).sum::<u32>(), 3);
    }

    #[test]
    fn it_is_ahead_until_all_was_merged_and_again_when_another_tracker_took_marks() {
        let (mirrors, one) = (Mirrors::new(1 << 20), id("one"));
        assert!(!mirrors.is_ahead(&one, epoch(1)));
        mirrors.mark(&one, LAYOUT, [mark(1)].into_iter(), 1, Some(epoch(1)));
        assert!(!mirrors.is_ahead(&one, epoch(1)));
        mirrors.mark(&one, LAYOUT, [mark(1)].into_iter(), 1, None);
        assert!(mirrors.is_ahead(&one, epoch(1)));
        let (_, version) = mirrors.chunks_to_merge(&one, epoch(1));
        mirrors.merged(&one, epoch(1), version);
        assert!(!mirrors.is_ahead(&one, epoch(1)));
        mirrors.mark(&one, LAYOUT, [mark(2)].into_iter(), 1, Some(epoch(1)));
        assert!(!mirrors.is_ahead(&one, epoch(1)));
        assert!(mirrors.is_ahead(&one, epoch(2)));
        mirrors.mark(&one, LAYOUT, [mark(3)].into_iter(), 1, None);
        mirrors.merged(&one, epoch(1), version);
        assert!(mirrors.is_ahead(&one, epoch(1)), "merged before the last mark came");
    }

    /// Else a job that is worked on would not be adopted again before its workers rest.
    #[test]
    fn what_a_tracker_takes_itself_keeps_no_merge_into_it_from_being_whole() {
        let (mirrors, one) = (Mirrors::new(1 << 20), id("one"));
        let taken_by = |task, by: u64| mirrors.mark(&one, LAYOUT, [mark(task)].into_iter(), by, Some(epoch(by)));
        taken_by(1, 1);
        let (_, version) = mirrors.chunks_to_merge(&one, epoch(2));
        taken_by(2, 2);
        mirrors.merged(&one, epoch(2), version);
        taken_by(3, 2);
        assert!(!mirrors.is_ahead(&one, epoch(2)));

        let (_, version) = mirrors.chunks_to_merge(&one, epoch(3));
        taken_by(4, 2);
        mirrors.merged(&one, epoch(3), version);
        assert!(mirrors.is_ahead(&one, epoch(3)), "one that came late is in an earlier tracker");
        assert!(mirrors.is_behind(&one, 3));
    }

    #[test]
    fn it_is_behind_once_others_restored_without_it_until_it_was_merged_or_recorded() {
        let (mirrors, one) = (Mirrors::new(1 << 20), id("one"));
        assert!(!mirrors.is_behind(&one, 9));
        mirrors.mark(&one, LAYOUT, [mark(1)].into_iter(), 1, Some(epoch(1)));
        assert!(!mirrors.is_behind(&one, 1) && mirrors.is_behind(&one, 2));
        mirrors.mark(&one, LAYOUT, [mark(2)].into_iter(), 2, Some(epoch(2)));
        assert!(mirrors.is_behind(&one, 2), "the first mark is not in it");
        let (_, version) = mirrors.chunks_to_merge(&one, epoch(2));
        mirrors.merged(&one, epoch(2), version);
        assert!(!mirrors.is_behind(&one, 2) && mirrors.is_behind(&one, 3));
        let (_, version) = mirrors.chunks(&one);
        mirrors.recorded(&one, 3, version);
        assert!(!mirrors.is_behind(&one, 3));
        assert!(mirrors.is_ahead(&one, epoch(3)), "it is merged all the same when it can be");
    }

    #[test]
    fn the_bound_holds_and_no_acknowledged_mark_is_dropped_for_another() {
        let size = LAYOUT.bytes();
        let mirrors = Mirrors::new(2 * size);
        let take = |name: &str| mirrors.mark(&id(name), LAYOUT, [mark(1)].into_iter(), 1, None);
        take("one");
        take("two");
        take("three");
        assert_eq!(mirrors.bytes(), 2 * size);
        assert!(mirrors.holds(&id("one")) && mirrors.holds(&id("two")) && !mirrors.holds(&id("three")));
        mirrors.remove(&id("two"));
        assert_eq!(mirrors.bytes(), size);
        take("three");
        assert!(mirrors.holds(&id("three")));
        let tiny = Mirrors::new(size - 1);
        tiny.mark(&id("one"), LAYOUT, [mark(1)].into_iter(), 1, None);
        assert_eq!(tiny.bytes(), 0);
    }

    #[test]
    fn what_was_only_read_makes_room_for_what_was_acknowledged() {
        let size = LAYOUT.bytes();
        let mirrors = Mirrors::new(2 * size);
        let take = |name: &str| mirrors.mark(&id(name), LAYOUT, [mark(1)].into_iter(), 1, None);
        let read = |name: &str| mirrors.next_pull(&id(name), LAYOUT, epoch(1), 1).is_some();
        assert!(read("one") && read("two") && !read("three"));
        // What was read is the gateway's own once it acknowledges more of it.
        take("one");
        take("three");
        assert_eq!(mirrors.bytes(), 2 * size);
        assert!(mirrors.holds(&id("one")) && mirrors.layout(&id("two")).is_none() && mirrors.holds(&id("three")));
        assert!(!read("two"));
        take("two");
        assert!(!mirrors.holds(&id("two")), "both others are of as much worth");
        mirrors.remove(&id("one"));
        assert!(read("two"));
        assert_eq!(mirrors.bytes(), 2 * size);
    }

    #[test]
    fn every_chunk_is_read_once_for_a_revision() {
        let (mirrors, one) = (Mirrors::new(1 << 20), id("one"));
        let next = |revision| mirrors.next_pull(&one, LAYOUT, epoch(1), revision);
        let first: Vec<_> = std::iter::from_fn(|| next(5)).collect();
        assert_eq!(first, [0..65_536, 65_536..131_072, 131_072..196_608, 196_608..200_000]);
        assert_eq!(next(5), None);
        assert_eq!(next(6), Some(0..65_536));
    }
}
