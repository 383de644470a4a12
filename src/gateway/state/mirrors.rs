//! Mirrors: this gateway's in-memory copies of running jobs' marks, the OR of every mark that it acknowledged or read.
//! A lost tracker is restored from them (invariant I4), so every gateway is a replica of the marks without extra
//! writes.
//!
//! Memory is bounded. Mirrors with marks that this gateway acknowledged take precedence over mirrors that it only read,
//! whose marks another gateway holds as well. A job whose mirror does not fit has none; its marks are counted and
//! logged. A mirror with acknowledged marks is never evicted for another one: if more jobs than fit were reported,
//! their mirrors would evict each other in turn and protect no job. Knows neither store: `gateway::reconcile` merges
//! and pulls.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::domain::{Cell, Cells, Incarnation, JobId, Layout, TrackerEpoch};
use crate::log_throttle::LogThrottle;
use crate::sync::lock;

/// The number of tasks in a chunk: a multiple of four, so that chunks start at byte boundaries for any number of
/// stages, and at most 128 KiB, which a script compares in well under a millisecond.
const CHUNK_TASKS: u32 = 65_536;

/// The interval between warnings that mirrors do not fit into memory.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// The mirrors of this gateway, by job.
pub struct Mirrors {
    state: Mutex<State>,
    max_bytes: usize,
}

struct State {
    mirrors: HashMap<JobId, Mirror>,
    /// The size of all mirrors' cells, in bytes.
    bytes: usize,
    /// The size of the mirrors that hold only marks read from trackers.
    evictable_bytes: usize,
    warning: LogThrottle,
}

struct Mirror {
    layout: Layout,
    cells: Vec<u8>,
    /// This gateway acknowledged at least one of the marks, so the mirror is not evicted.
    acknowledged: bool,
    /// The tracker that is known to hold all of the marks.
    merged: Option<TrackerEpoch>,
    /// The tracker into which the marks are being merged.
    merging: Option<TrackerEpoch>,
    /// Increases with every mark that the tracker in `merging` did not take itself.
    version: u64,
    /// The mirror has never held a mark.
    blank: bool,
    /// The incarnation of the last tracker into which all marks were merged, or that took the first of them. A tracker
    /// that was restored under a later incarnation may lack marks.
    based: Option<Incarnation>,
    /// The tracker that was last read completely, with its revision at that time.
    pulled: Option<(TrackerEpoch, u64)>,
    /// The tracker that is being read, with its revision when reading began.
    pulling: Option<(TrackerEpoch, u64)>,
    /// The index of the chunk to read next.
    next_pull: usize,
}

/// The cells of a range of tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The tasks.
    pub tasks: Range<u32>,
    /// The bytes of their cells.
    pub bytes: Vec<u8>,
}

impl Mirrors {
    /// No mirrors yet; together they will hold at most `max_bytes` of cells.
    pub fn new(max_bytes: usize) -> Self {
        let warning = LogThrottle::once_per(WARNING_INTERVAL);
        let state = State { mirrors: HashMap::new(), bytes: 0, evictable_bytes: 0, warning };
        Self { state: Mutex::new(state), max_bytes }
    }

    /// Adds acknowledged marks. `under` is the incarnation of the job's tracker when they were acknowledged, if
    /// known; `held_by` is the
    /// tracker that took them, or `None` if they are elsewhere, such as in the ledger.
    pub fn mark(
        &self,
        id: &JobId,
        layout: Layout,
        cells: impl Iterator<Item = (u32, Cell)>,
        under: Option<Incarnation>,
        held_by: Option<TrackerEpoch>,
    ) {
        let mut state = self.state();
        let Some(mirror) = state.for_acknowledged(id, layout, self.max_bytes) else {
            metrics::counter!("highwater_unmirrored_marks_total").increment(cells.count() as u64);
            return state.warn_full(id);
        };
        for (task, cell) in cells {
            let span = layout.span(task);
            layout.merge(task, cell, &mut mirror.cells[span.clone()], span.start);
        }
        mirror.took(under, held_by);
    }

    /// The bytes of these runs of the job's cells, concatenated; `None` without a mirror. The tracker most likely holds
    /// the same bytes, unless other gateways report to the job as well.
    pub fn runs(&self, id: &JobId, layout: Layout, runs: &[Range<usize>]) -> Option<Vec<u8>> {
        let state = self.state();
        let mirror = state.mirrors.get(id).filter(|mirror| mirror.layout == layout)?;
        let mut bytes = Vec::with_capacity(runs.iter().map(ExactSizeIterator::len).sum());
        for run in runs {
            bytes.extend_from_slice(&mirror.cells[run.clone()]);
        }
        Some(bytes)
    }

    /// Adds a chunk that was read from a tracker.
    pub fn pull(&self, id: &JobId, layout: Layout, chunk: &Chunk, held_by: TrackerEpoch) {
        let mut state = self.state();
        let Some(mirror) = state.for_read(id, layout, self.max_bytes) else { return };
        let start = layout.span(chunk.tasks.start).start;
        for (ours, theirs) in mirror.cells[start..].iter_mut().zip(&chunk.bytes) {
            *ours |= theirs;
        }
        mirror.took(Some(held_by.incarnation), Some(held_by));
    }

    /// The tasks whose cells to read next from a tracker with this epoch and revision; `None` if the mirror has read
    /// all of them. Each call advances by one chunk.
    pub fn next_pull(&self, id: &JobId, layout: Layout, epoch: TrackerEpoch, revision: u64) -> Option<Range<u32>> {
        let mut state = self.state();
        let mirror = state.for_read(id, layout, self.max_bytes)?;
        if mirror.pulled == Some((epoch, revision)) {
            return None;
        }
        let tasks = chunks(layout).nth(mirror.next_pull)?;
        if mirror.next_pull == 0 {
            // A later change in a chunk that was already read increases the revision, so the next pass reads it.
            mirror.pulling = Some((epoch, revision));
        }
        mirror.next_pull += 1;
        if tasks.end == layout.total {
            (mirror.pulled, mirror.next_pull) = (mirror.pulling, 0);
        }
        Some(tasks)
    }

    /// The chunks that contain marks, and the mirror's version, for recording them in the ledger.
    pub fn chunks(&self, id: &JobId) -> (Vec<Range<u32>>, u64) {
        self.chunks_for(id, None)
    }

    /// The chunks that contain marks, and the mirror's version, for merging them into a tracker. Marks that this
    /// tracker takes itself meanwhile do not change the version.
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

    /// The cells of these tasks, which form a chunk; `None` without a mirror.
    pub fn chunk(&self, id: &JobId, tasks: &Range<u32>) -> Option<Chunk> {
        let state = self.state();
        let bytes = state.mirrors.get(id)?.chunk(tasks).to_vec();
        Some(Chunk { tasks: tasks.clone(), bytes })
    }

    /// The cells of all tasks; `None` without a mirror.
    pub fn cells(&self, id: &JobId) -> Option<Cells> {
        let state = self.state();
        let mirror = state.mirrors.get(id)?;
        Cells::new(mirror.layout, mirror.cells.clone()).ok()
    }

    /// The layout of the job's cells; `None` without a mirror.
    pub fn layout(&self, id: &JobId) -> Option<Layout> {
        self.state().mirrors.get(id).map(|mirror| mirror.layout)
    }

    /// Whether the mirror holds any mark of the job.
    pub fn holds(&self, id: &JobId) -> bool {
        self.state().mirrors.get(id).is_some_and(|mirror| !mirror.blank)
    }

    /// Whether the mirror may hold marks that the tracker with this epoch lacks.
    pub fn may_exceed(&self, id: &JobId, epoch: TrackerEpoch) -> bool {
        self.state().mirrors.get(id).is_some_and(|mirror| mirror.merged != Some(epoch))
    }

    /// Notes that the marks of this version have been merged into this tracker. Ignored if other marks were added
    /// meanwhile.
    pub fn merged(&self, id: &JobId, epoch: TrackerEpoch, version: u64) {
        if let Some(mirror) = self.state().mirrors.get_mut(id)
            && (mirror.merging, mirror.version) == (Some(epoch), version)
        {
            mirror.merged = Some(epoch);
            mirror.based = mirror.based.max(Some(epoch.incarnation));
        }
    }

    /// Whether the job's tracker may have been restored under this incarnation without the marks of the mirror.
    pub fn predates_restore(&self, id: &JobId, incarnation: Incarnation) -> bool {
        self.state().mirrors.get(id).is_some_and(|mirror| !mirror.blank && mirror.based < Some(incarnation))
    }

    /// Notes that the marks of this version are in the ledger, for the tracker with this incarnation.
    pub fn recorded(&self, id: &JobId, incarnation: Incarnation, version: u64) {
        if let Some(mirror) = self.state().mirrors.get_mut(id)
            && mirror.version == version
        {
            mirror.based = mirror.based.max(Some(incarnation));
        }
    }

    /// Removes the mirror of a job that has ended.
    pub fn remove(&self, id: &JobId) {
        self.state().remove(id);
    }

    /// The jobs whose mirrors hold marks.
    pub fn jobs(&self) -> Vec<JobId> {
        let state = self.state();
        state.mirrors.iter().filter(|(_, mirror)| !mirror.blank).map(|(id, _)| id.clone()).collect()
    }

    /// The size of all mirrors' cells, in bytes.
    pub fn bytes(&self) -> usize {
        self.state().bytes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// The job's mirror, created if needed, for acknowledged marks; `None` if it does not fit.
    fn for_acknowledged(&mut self, id: &JobId, layout: Layout, max_bytes: usize) -> Option<&mut Mirror> {
        match self.mirrors.get(id).map(|mirror| mirror.acknowledged) {
            Some(true) => return self.mirrors.get_mut(id),
            Some(false) => {}
            None => self.make_room(layout.bytes(), max_bytes)?,
        }
        let mirror = self.for_read(id, layout, max_bytes)?;
        mirror.acknowledged = true;
        let size = mirror.cells.len();
        self.evictable_bytes -= size;
        self.mirrors.get_mut(id)
    }

    /// Evicts mirrors without acknowledged marks until `size` bytes fit. Returns `None`, without evicting any, if that
    /// is not enough.
    fn make_room(&mut self, size: usize, max_bytes: usize) -> Option<()> {
        if self.bytes - self.evictable_bytes + size > max_bytes {
            return None;
        }
        while self.bytes + size > max_bytes {
            let evicted = self.mirrors.iter().find(|(_, mirror)| !mirror.acknowledged)?.0.clone();
            self.remove(&evicted);
        }
        Some(())
    }

    /// The job's mirror, created if needed, for marks read from its tracker; `None` if it does not fit.
    fn for_read(&mut self, id: &JobId, layout: Layout, max_bytes: usize) -> Option<&mut Mirror> {
        if !self.mirrors.contains_key(id) {
            let size = layout.bytes();
            if self.bytes + size > max_bytes {
                return None;
            }
            self.bytes += size;
            self.evictable_bytes += size;
            self.mirrors.insert(id.clone(), Mirror::blank(layout));
        }
        self.mirrors.get_mut(id)
    }

    fn remove(&mut self, id: &JobId) {
        let Some(mirror) = self.mirrors.remove(id) else { return };
        self.bytes -= mirror.cells.len();
        if !mirror.acknowledged {
            self.evictable_bytes -= mirror.cells.len();
        }
    }

    fn warn_full(&mut self, id: &JobId) {
        if self.warning.should_log() {
            tracing::warn!(
                job = %id,
                "the mirrors of running jobs do not fit into memory: marks of some jobs are in Redis alone and are lost if \
                 Redis loses them; increase --mirror-memory"
            );
        }
    }
}

impl Mirror {
    fn blank(layout: Layout) -> Self {
        Self {
            layout,
            cells: vec![0; layout.bytes()],
            acknowledged: false,
            merged: None,
            merging: None,
            version: 0,
            blank: true,
            based: None,
            pulled: None,
            pulling: None,
            next_pull: 0,
        }
    }

    /// Marks were added that the tracker `held_by` holds, or that no tracker is known to hold (`None`).
    fn took(&mut self, under: Option<Incarnation>, held_by: Option<TrackerEpoch>) {
        if self.blank {
            (self.merged, self.blank, self.based) = (held_by, false, under);
        } else {
            if held_by.is_none() || self.merged != held_by {
                self.merged = None;
            }
            // A tracker that was restored under a later incarnation may lack these marks, however late they arrive.
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

/// The chunks of a job, in order of their tasks.
fn chunks(layout: Layout) -> impl Iterator<Item = Range<u32>> {
    let starts = (0..layout.total).step_by(CHUNK_TASKS as usize);
    starts.map(move |start| start..layout.total.min(start + CHUNK_TASKS))
}

/// The bytes that hold the cells of these tasks. The range must start at a chunk boundary.
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

    fn incarnation(number: u64) -> Incarnation {
        Incarnation::new(number)
    }

    fn epoch(number: u64) -> TrackerEpoch {
        TrackerEpoch { incarnation: incarnation(number), generation: Generation([7; 16]) }
    }

    #[test]
    fn acknowledged_and_pulled_marks_are_merged() {
        let mirrors = Mirrors::new(1 << 20);
        let one = id("one");
        mirrors.mark(&one, LAYOUT, [mark(1), mark(150_000)].into_iter(), Some(incarnation(1)), None);
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
    fn a_mirror_is_ahead_until_it_was_merged_into_the_current_tracker() {
        let (mirrors, one) = (Mirrors::new(1 << 20), id("one"));
        assert!(!mirrors.may_exceed(&one, epoch(1)));
        mirrors.mark(&one, LAYOUT, [mark(1)].into_iter(), Some(incarnation(1)), Some(epoch(1)));
        assert!(!mirrors.may_exceed(&one, epoch(1)));
        mirrors.mark(&one, LAYOUT, [mark(1)].into_iter(), Some(incarnation(1)), None);
        assert!(mirrors.may_exceed(&one, epoch(1)));
        let (_, version) = mirrors.chunks_to_merge(&one, epoch(1));
        mirrors.merged(&one, epoch(1), version);
        assert!(!mirrors.may_exceed(&one, epoch(1)));
        mirrors.mark(&one, LAYOUT, [mark(2)].into_iter(), Some(incarnation(1)), Some(epoch(1)));
        assert!(!mirrors.may_exceed(&one, epoch(1)));
        assert!(mirrors.may_exceed(&one, epoch(2)));
        mirrors.mark(&one, LAYOUT, [mark(3)].into_iter(), Some(incarnation(1)), None);
        mirrors.merged(&one, epoch(1), version);
        assert!(mirrors.may_exceed(&one, epoch(1)), "merged before the last mark came");
    }

    /// Otherwise a job under load would not be adopted again before its workers pause.
    #[test]
    fn marks_taken_by_the_tracker_itself_do_not_invalidate_a_merge_into_it() {
        let (mirrors, one) = (Mirrors::new(1 << 20), id("one"));
        let taken_by = |task, by: u64| {
            mirrors.mark(&one, LAYOUT, [mark(task)].into_iter(), Some(incarnation(by)), Some(epoch(by)));
        };
        taken_by(1, 1);
        let (_, version) = mirrors.chunks_to_merge(&one, epoch(2));
        taken_by(2, 2);
        mirrors.merged(&one, epoch(2), version);
        taken_by(3, 2);
        assert!(!mirrors.may_exceed(&one, epoch(2)));

        let (_, version) = mirrors.chunks_to_merge(&one, epoch(3));
        taken_by(4, 2);
        mirrors.merged(&one, epoch(3), version);
        assert!(mirrors.may_exceed(&one, epoch(3)), "a late mark is in an earlier tracker");
        assert!(mirrors.predates_restore(&one, incarnation(3)));
    }

    #[test]
    fn a_mirror_is_behind_after_a_restore_until_it_was_merged_or_recorded() {
        let (mirrors, one) = (Mirrors::new(1 << 20), id("one"));
        assert!(!mirrors.predates_restore(&one, incarnation(9)));
        mirrors.mark(&one, LAYOUT, [mark(1)].into_iter(), Some(incarnation(1)), Some(epoch(1)));
        assert!(!mirrors.predates_restore(&one, incarnation(1)) && mirrors.predates_restore(&one, incarnation(2)));
        mirrors.mark(&one, LAYOUT, [mark(2)].into_iter(), Some(incarnation(2)), Some(epoch(2)));
        assert!(mirrors.predates_restore(&one, incarnation(2)), "the first mark is not in it");
        let (_, version) = mirrors.chunks_to_merge(&one, epoch(2));
        mirrors.merged(&one, epoch(2), version);
        assert!(!mirrors.predates_restore(&one, incarnation(2)) && mirrors.predates_restore(&one, incarnation(3)));
        let (_, version) = mirrors.chunks(&one);
        mirrors.recorded(&one, incarnation(3), version);
        assert!(!mirrors.predates_restore(&one, incarnation(3)));
        assert!(mirrors.may_exceed(&one, epoch(3)), "it is still merged once that is possible");
    }

    #[test]
    fn the_memory_bound_holds_and_acknowledged_mirrors_are_not_evicted() {
        let size = LAYOUT.bytes();
        let mirrors = Mirrors::new(2 * size);
        let take = |name: &str| mirrors.mark(&id(name), LAYOUT, [mark(1)].into_iter(), Some(incarnation(1)), None);
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
        tiny.mark(&id("one"), LAYOUT, [mark(1)].into_iter(), Some(incarnation(1)), None);
        assert_eq!(tiny.bytes(), 0);
    }

    #[test]
    fn pulled_mirrors_are_evicted_for_acknowledged_ones() {
        let size = LAYOUT.bytes();
        let mirrors = Mirrors::new(2 * size);
        let take = |name: &str| mirrors.mark(&id(name), LAYOUT, [mark(1)].into_iter(), Some(incarnation(1)), None);
        let read = |name: &str| mirrors.next_pull(&id(name), LAYOUT, epoch(1), 1).is_some();
        assert!(read("one") && read("two") && !read("three"));
        // A pulled mirror is no longer evictable once the gateway acknowledges a mark of its job.
        take("one");
        take("three");
        assert_eq!(mirrors.bytes(), 2 * size);
        assert!(mirrors.holds(&id("one")) && mirrors.layout(&id("two")).is_none() && mirrors.holds(&id("three")));
        assert!(!read("two"));
        take("two");
        assert!(!mirrors.holds(&id("two")), "both other mirrors hold acknowledged marks");
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
