//! Mirrors: this gateway's in-memory copies of the marks of running jobs. A mirror is the bitwise OR of all marks of
//! the job that this gateway acknowledged, drained from the ledger, or read from the tracker. A lost tracker is
//! restored from mirrors (invariant I4). In this way every gateway is a replica of the marks, without extra writes.
//!
//! Memory is bounded. A mirror whose marks were all read from a tracker can be evicted, because other gateways usually
//! hold these marks as well. A mirror with marks that this gateway acknowledged or drained is never evicted. Otherwise,
//! with more jobs than fit, mirrors would evict each other in turn and protect no job. A job whose mirror does not fit
//! has no mirror. Acknowledged marks of such a job are counted in a metric, and a warning is logged at most once a
//! minute.
//!
//! This module knows neither store; `gateway::reconcile` merges mirrors into trackers and pulls marks into mirrors.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::domain::{Cell, Cells, Incarnation, JobId, Layout, TrackerEpoch};
use crate::log_throttle::LogThrottle;
use crate::sync::lock;

/// The number of tasks in a chunk. It is a multiple of four, so that chunks start at byte boundaries for any number of
/// stages. A chunk has at most 128 KiB, so that a script compares it in well under a millisecond.
const CHUNK_TASKS: u32 = 65_536;

/// The minimum interval between warnings that mirrors do not fit into memory.
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
    /// The size of the cells of all mirrors that can be evicted, in bytes.
    evictable_bytes: usize,
    /// Limits the warnings that mirrors do not fit into memory.
    warning: LogThrottle,
}

struct Mirror {
    layout: Layout,
    cells: Vec<u8>,
    /// Whether [`Mirrors::mark`] has added marks: marks that this gateway acknowledged, or marks of any gateway that
    /// this gateway drained from the ledger. Such a mirror is never evicted.
    acknowledged: bool,
    /// The epoch of a tracker that is known to hold all marks of the mirror. It is `None` if no such tracker is known.
    merged: Option<TrackerEpoch>,
    /// The epoch of the tracker for which [`Mirrors::chunks_to_merge`] was called last. It is `None` if it was never
    /// called, or if [`Mirrors::chunks`] was called since.
    merging: Option<TrackerEpoch>,
    /// Increases by one for each addition of marks that did not come from the tracker in `merging`.
    version: u64,
    /// Whether the mirror is as it was created: no cells were added, not even cells without marks.
    blank: bool,
    /// A tracker that was restored under this or an earlier incarnation lacks no marks of the mirror. A tracker that
    /// was restored under a later incarnation may lack marks. The first addition of marks sets the value to the
    /// incarnation under which the marks were acknowledged or read. A later addition lowers the value if its
    /// incarnation is lower. A complete merge into a tracker raises the value to that tracker's incarnation. Recording
    /// the whole mirror in the ledger raises it to the incarnation of the tracker that will take the ledger rows.
    /// `None` is lower than every incarnation. Marks that are added under an unknown incarnation set the value to
    /// `None`.
    based: Option<Incarnation>,
    /// The tracker that the last completed pass over all chunks has read: its epoch, and its revision when the pass
    /// began.
    pulled: Option<(TrackerEpoch, u64)>,
    /// The tracker that the last pass, completed or not, reads: its epoch, and its revision when the pass began.
    pulling: Option<(TrackerEpoch, u64)>,
    /// The index of the region to read next.
    next_pull: usize,
    /// When the last completed pass ended. Until then, the tracker was compared with its digests at least once.
    verified: Option<Instant>,
}

/// A region of a tracker's cells that a mirror shall read next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextPull {
    /// The index of the region.
    pub region: usize,
    /// The tasks of the region.
    pub tasks: Range<u32>,
    /// Whether the counts in the header are to be compared with the cells as well.
    pub verifies_counts: bool,
}

impl Mirrors {
    /// Creates an empty set of mirrors. Their cells will take at most `max_bytes` in total.
    pub fn new(max_bytes: usize) -> Self {
        let warning = LogThrottle::once_per(WARNING_INTERVAL);
        let state = State { mirrors: HashMap::new(), bytes: 0, evictable_bytes: 0, warning };
        Self { state: Mutex::new(state), max_bytes }
    }

    /// Adds acknowledged marks. `under` is the incarnation of the job's tracker when the marks were acknowledged, or
    /// `None` if it is unknown. `held_by` is the epoch of the tracker that holds the marks, or `None` if no tracker is
    /// known to hold them. If the mirror does not fit into memory, the marks are only counted, and a warning is logged.
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
        mirror.marks_added(under, held_by);
    }

    /// Returns the bytes of these runs of the job's cells, concatenated. Returns `None` if there is no mirror with this
    /// layout. The tracker most likely holds the same bytes, unless other gateways take reports of the job as well.
    pub fn runs(&self, id: &JobId, layout: Layout, runs: &[Range<usize>]) -> Option<Vec<u8>> {
        let state = self.state();
        let mirror = state.mirrors.get(id).filter(|mirror| mirror.layout == layout)?;
        let mut bytes = Vec::with_capacity(runs.iter().map(ExactSizeIterator::len).sum());
        for run in runs {
            bytes.extend_from_slice(&mirror.cells[run.clone()]);
        }
        Some(bytes)
    }

    /// Adds a region that was read from the tracker with this epoch and revision, and moves on to the next region. Does
    /// nothing if the mirror does not fit into memory.
    pub fn pull(
        &self,
        id: &JobId,
        layout: Layout,
        pull: &NextPull,
        bytes: &[u8],
        held_by: TrackerEpoch,
        revision: u64,
    ) {
        let mut state = self.state();
        let Some(mirror) = state.for_read(id, layout, self.max_bytes) else { return };
        let range = layout.byte_range(&pull.tasks);
        for (ours, theirs) in mirror.cells[range].iter_mut().zip(bytes) {
            *ours |= theirs;
        }
        mirror.marks_added(Some(held_by.incarnation), Some(held_by));
        if pull.region == 0 {
            // If a region changes after it was read, the revision of the tracker increases, and the next pass reads the
            // region again.
            mirror.pulling = Some((held_by, revision));
        }
        mirror.next_pull = pull.region + 1;
        if pull.tasks.end == layout.total {
            (mirror.pulled, mirror.next_pull, mirror.verified) = (mirror.pulling, 0, Some(Instant::now()));
        }
    }

    /// Returns the region to read next from a tracker with this epoch and revision. Returns `None` if all regions were
    /// read at this revision or a later one less than `verify_after` ago, or if the mirror does not fit into memory.
    pub fn next_pull(
        &self,
        id: &JobId,
        layout: Layout,
        epoch: TrackerEpoch,
        revision: u64,
        verify_after: Duration,
    ) -> Option<NextPull> {
        let mut state = self.state();
        let mirror = state.for_read(id, layout, self.max_bytes)?;
        let verifies_counts = mirror.verified.is_none_or(|at| at.elapsed() >= verify_after);
        // The last pass may have begun after the caller read `revision`, which only grows within an epoch.
        let is_read = mirror.pulled.is_some_and(|(read, at)| read == epoch && at >= revision);
        if is_read && !verifies_counts {
            return None;
        }
        let region = mirror.next_pull;
        layout.regions().nth(region).map(|tasks| NextPull { region, tasks, verifies_counts })
    }

    /// Adds the cells of these tasks, which were read from a tracker that is about to be replaced. Does nothing if the
    /// mirror does not fit into memory.
    pub fn salvage(&self, id: &JobId, layout: Layout, tasks: &Range<u32>, bytes: &[u8], under: Incarnation) {
        let mut state = self.state();
        let Some(mirror) = state.for_acknowledged(id, layout, self.max_bytes) else { return };
        for (ours, theirs) in mirror.cells[layout.byte_range(tasks)].iter_mut().zip(bytes) {
            *ours |= theirs;
        }
        mirror.marks_added(Some(under), None);
    }

    /// Returns the chunks to record in the ledger, and the version to pass to [`Self::recorded`]. Chunks without marks
    /// are omitted.
    pub fn chunks(&self, id: &JobId) -> (Vec<Range<u32>>, u64) {
        self.chunks_for(id, None)
    }

    /// Returns the chunks to merge into the tracker with the epoch `into`, and the version to pass to [`Self::merged`].
    /// Chunks without marks are omitted. Marks that this tracker takes during the merge do not change the version.
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

    /// Returns the bytes of the cells of these tasks, which must form a chunk. Returns `None` without a mirror.
    pub fn chunk(&self, id: &JobId, tasks: &Range<u32>) -> Option<Vec<u8>> {
        self.state().mirrors.get(id).map(|mirror| mirror.chunk(tasks).to_vec())
    }

    /// Returns a copy of the cells of all tasks. Returns `None` without a mirror.
    pub fn cells(&self, id: &JobId) -> Option<Cells> {
        let state = self.state();
        let mirror = state.mirrors.get(id)?;
        Cells::new(mirror.layout, mirror.cells.clone()).ok()
    }

    /// The layout of the job's cells. It is `None` without a mirror.
    pub fn layout(&self, id: &JobId) -> Option<Layout> {
        self.state().mirrors.get(id).map(|mirror| mirror.layout)
    }

    /// Returns whether cells of the job were ever added to the mirror. Cells that were pulled may be without marks.
    pub fn holds(&self, id: &JobId) -> bool {
        self.state().mirrors.get(id).is_some_and(|mirror| !mirror.blank)
    }

    /// Returns whether the mirror may hold marks that the tracker with this epoch lacks.
    pub fn may_exceed(&self, id: &JobId, epoch: TrackerEpoch) -> bool {
        self.state().mirrors.get(id).is_some_and(|mirror| mirror.merged != Some(epoch))
    }

    /// Notes that the chunks of this version were merged into the tracker with this epoch. The note is ignored if marks
    /// that this tracker did not take were added meanwhile, or if a recording or a merge into another tracker has
    /// begun.
    pub fn merged(&self, id: &JobId, epoch: TrackerEpoch, version: u64) {
        if let Some(mirror) = self.state().mirrors.get_mut(id)
            && (mirror.merging, mirror.version) == (Some(epoch), version)
        {
            mirror.merged = Some(epoch);
            mirror.based = mirror.based.max(Some(epoch.incarnation));
        }
    }

    /// Returns whether a tracker that was restored under this incarnation may lack marks of the mirror.
    pub fn predates_restore(&self, id: &JobId, incarnation: Incarnation) -> bool {
        self.state().mirrors.get(id).is_some_and(|mirror| !mirror.blank && mirror.based < Some(incarnation))
    }

    /// Notes that the chunks of this version were recorded in the ledger, from which the tracker with this incarnation
    /// gets them. The note is ignored if marks were added meanwhile.
    pub fn recorded(&self, id: &JobId, incarnation: Incarnation, version: u64) {
        if let Some(mirror) = self.state().mirrors.get_mut(id)
            && mirror.version == version
        {
            mirror.based = mirror.based.max(Some(incarnation));
        }
    }

    /// Removes the mirror of a job.
    pub fn remove(&self, id: &JobId) {
        self.state().remove(id);
    }

    /// Returns the jobs with a mirror to which cells were added.
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
    /// Returns the job's mirror, for the addition of acknowledged marks. If there is none, creates it and evicts others
    /// if necessary. Returns `None` if the mirror does not fit into memory.
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

    /// Evicts mirrors without acknowledged marks until `size` bytes fit. If evicting all of them were not enough,
    /// evicts none and returns `None`.
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

    /// Returns the job's mirror, for the addition of marks that were read from the tracker. If there is none, creates
    /// it without evicting others. Returns `None` if the mirror does not fit into memory.
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
                "the mirrors of running jobs do not fit into memory. This gateway keeps no copy of the marks that it \
                 acknowledges for this job, and perhaps for other jobs. If Redis loses these marks, they are lost \
                 unless another gateway has a copy. Increase --mirror-memory"
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
            verified: None,
        }
    }

    /// Updates the bookkeeping after marks were added. `held_by` is the epoch of the tracker that holds the marks, or
    /// `None` if no tracker is known to hold them. `under` is the incarnation under which the marks were acknowledged
    /// or read.
    fn marks_added(&mut self, under: Option<Incarnation>, held_by: Option<TrackerEpoch>) {
        if self.blank {
            (self.merged, self.blank, self.based) = (held_by, false, under);
        } else {
            if held_by.is_none() || self.merged != held_by {
                self.merged = None;
            }
            // The mirror may have been merged into a tracker of a later incarnation before these marks arrived. Such a
            // tracker lacks these marks, so the value must be lowered.
            self.based = self.based.min(under);
        }
        if held_by.is_none() || self.merging != held_by {
            self.version += 1;
        }
    }

    fn chunk(&self, tasks: &Range<u32>) -> &[u8] {
        let bytes = self.layout.byte_range(tasks);
        &self.cells[bytes]
    }
}

/// Returns the chunks of a job, in the order of their tasks.
fn chunks(layout: Layout) -> impl Iterator<Item = Range<u32>> {
    let starts = (0..layout.total).step_by(CHUNK_TASKS as usize);
    starts.map(move |start| start..layout.total.min(start + CHUNK_TASKS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Generation, Mark, Outcome};

    const LAYOUT: Layout = Layout { total: 200_000, stages: 3 };
    const NEVER: Duration = Duration::MAX;

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
        chunk.fill(0);
        chunk[10] = 0b1100_0000;
        let next = NextPull { region: 0, tasks: 0..65_536, verifies_counts: false };
        mirrors.pull(&one, LAYOUT, &next, &chunk, epoch(1), 1);
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
        assert!(mirrors.may_exceed(&one, epoch(1)), "the last mark was added after the merge");
    }

    /// If such marks invalidated the merge, the tracker of a job under load would not be adopted again before its
    /// workers pause.
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
        assert!(mirrors.predates_restore(&one, incarnation(2)), "the new tracker lacks the first mark");
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
        let read = |name: &str| mirrors.next_pull(&id(name), LAYOUT, epoch(1), 1, NEVER).is_some();
        assert!(read("one") && read("two") && !read("three"));
        // A pulled mirror cannot be evicted any more after the gateway has acknowledged a mark of its job.
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
    fn every_region_is_read_once_for_a_revision_and_again_to_verify_it() {
        let (mirrors, one) = (Mirrors::new(1 << 20), id("one"));
        let next = |revision, verify_after| mirrors.next_pull(&one, LAYOUT, epoch(1), revision, verify_after);
        let read = |revision, verify_after| {
            let pull = next(revision, verify_after)?;
            assert_eq!(next(revision, verify_after), Some(pull.clone()), "a region that was not read is due again");
            mirrors.pull(&one, LAYOUT, &pull, &[], epoch(1), revision);
            Some((pull.tasks, pull.verifies_counts))
        };
        let regions = [0..65_536, 65_536..131_072, 131_072..196_608, 196_608..200_000];
        let first: Vec<_> = std::iter::from_fn(|| read(5, NEVER)).collect();
        assert_eq!(first, regions.clone().map(|tasks| (tasks, true)));
        assert_eq!(read(5, NEVER), None);
        let second: Vec<_> = std::iter::from_fn(|| read(6, NEVER)).collect();
        assert_eq!(second, regions.clone().map(|tasks| (tasks, false)));
        assert_eq!(next(5, NEVER), None, "the caller knows an older revision than the last pass");
        assert_eq!(read(6, Duration::ZERO), Some((regions[0].clone(), true)));
    }
}
