//! Lists the tasks of a job by status. The statuses come from the same marks that a read of the job counts.

use std::ops::Range;
use std::sync::Arc;

use time::OffsetDateTime;

use super::super::core::Core;
use super::super::ended_cells::{EndedCells, LoadedCells};
use super::super::finish::Finisher;
use super::super::jobs::Jobs;
use super::super::names::TaskNames;
use super::super::read::{KnownMarks, Observer, ResolvedRead};
use super::page::{PageRequest, PageSizes, PageTokens, Position};
use crate::deadline::Deadline;
use crate::domain::{
    Cells, Definition, JobId, JobState, Layout, Resolution, Selection, Source, SourceReason, TaskQuery, TrackerEpoch,
};
use crate::error::{Error, Result, Unavailable};
use crate::live::{Live, Tracker, TrackerReading};
use crate::store::Store;

/// The page sizes. The unit is ranges of tasks, or names in a job with named tasks.
const SIZES: PageSizes = PageSizes { default: 1000, max: 10_000 };
/// The maximum number of tasks that one call scans.
const SCANNED_TASKS: u32 = 1 << 20;
/// The maximum number of tasks whose cells are read at once.
const CHUNK_TASKS: u32 = 1 << 16;
/// The number of attempts to read a page. An attempt fails if the job is started meanwhile, or if the tracker is
/// replaced or cannot be read any more.
const ATTEMPTS: usize = 3;

/// A page of tasks.
pub struct TasksPage {
    /// The job's state.
    pub state: JobState,
    /// The source of the marks.
    pub source: Source,
    /// Whether acknowledged marks may be missing.
    pub lower_bound: bool,
    /// When the marks were observed.
    pub observe_time: OffsetDateTime,
    /// The selected tasks, in order. In a retry, each range comes with the task of the original job that its first task
    /// repeats.
    pub ranges: Vec<(Range<u32>, Option<u32>)>,
    /// The names of the tasks of all ranges, in order. The list is empty for a job without named tasks.
    pub names: Vec<String>,
    /// The token of the next page. It is `None` on the last page.
    pub next: Option<String>,
}

/// The marks from which a page is made.
struct Basis {
    state: JobState,
    source: Source,
    lower_bound: bool,
    observe_time: OffsetDateTime,
    /// Marks that were read as a whole. `None` means that there are none.
    cells: Option<KnownCells>,
    /// The epoch of the tracker whose cells are read in chunks and merged with `cells`. It is `None` if no tracker is
    /// read.
    tracker: Option<TrackerEpoch>,
}

/// Cells in memory.
enum KnownCells {
    /// The stored cells of an ended job.
    Ended(Arc<LoadedCells>),
    /// The cells of a mirror, merged with the marks of the ledger.
    Merged(Cells),
}

impl KnownCells {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Ended(cells) => cells.bytes(),
            Self::Merged(cells) => cells.bytes(),
        }
    }
}

/// Lists tasks.
pub struct TaskLister {
    live: Live,
    store: Store,
    jobs: Arc<Jobs>,
    names: Arc<TaskNames>,
    observer: Arc<Observer>,
    known_marks: Arc<KnownMarks>,
    finisher: Arc<Finisher>,
    ended_cells: Arc<EndedCells>,
    tokens: Arc<PageTokens>,
}

impl TaskLister {
    /// Creates a lister.
    pub fn new(
        core: &Core,
        observer: Arc<Observer>,
        known_marks: Arc<KnownMarks>,
        finisher: Arc<Finisher>,
        tokens: Arc<PageTokens>,
    ) -> Self {
        Self {
            live: core.live.clone(),
            store: core.store.clone(),
            jobs: core.jobs.clone(),
            names: core.names.clone(),
            observer,
            known_marks,
            finisher,
            ended_cells: core.ended_cells.clone(),
            tokens,
        }
    }

    /// Returns a page of the tasks of a job that match `query`.
    pub async fn list(
        &self,
        id: &JobId,
        query: &TaskQuery,
        page: &PageRequest,
        deadline: Deadline,
    ) -> Result<TasksPage> {
        let list = (id.as_str(), query);
        let (size, from) = self.tokens.read::<u32>(page, SIZES, &list, deadline).await?;
        let from = from.unwrap_or(0);
        let max = usize::try_from(size).unwrap_or(usize::MAX);
        for _ in 0..ATTEMPTS {
            let (definition, started) = self.jobs.current_definition(id, deadline).await?;
            let selection = query.selection(&definition).map_err(|violation| Error::Invalid(vec![violation]))?;
            let basis = self.basis(&definition, deadline).await;
            if !started && !matches!(basis, Ok(Basis { state: JobState::Pending, .. })) {
                continue; // The job has been started meanwhile, perhaps with more tasks.
            }
            let basis = basis?;
            let mut ranges = Vec::new();
            let scan = Scan { definition: &definition, basis: &basis, selection, from };
            let Some(mut next) = self.scan(scan, &mut ranges, max, deadline).await? else { continue };
            let Basis { state, source, lower_bound, observe_time, cells, .. } = basis;
            // The memory is released before the stores are asked again.
            drop(cells);
            if definition.named_tasks {
                next = cut(&mut ranges, size).unwrap_or(next);
            }
            let mut ranges = self.with_origins(&definition, ranges, deadline).await?;
            next = ranges.get(max).map_or(next, |(range, _)| range.start);
            ranges.truncate(max);
            let names = self.names_of(&definition, &ranges, deadline).await?;
            let next = if next < definition.task_count {
                Some(self.tokens.token(&next, &list, deadline).await?)
            } else {
                None
            };
            return Ok(TasksPage { state, source, lower_bound, observe_time, ranges, names, next });
        }
        Err(Error::Unavailable(Unavailable::Tracker))
    }

    /// Adds the origins of the tasks, if the job is a retry. A range is split into pieces whose origins are
    /// consecutive, and each piece comes with the origin of its first task.
    async fn with_origins(
        &self,
        definition: &Definition,
        ranges: Vec<Range<u32>>,
        deadline: Deadline,
    ) -> Result<Vec<(Range<u32>, Option<u32>)>> {
        let origins = match definition.retry_of {
            Some(_) if !ranges.is_empty() => {
                self.store.origins(&definition.id, definition.task_count, deadline).await?
            }
            _ => None,
        };
        let Some(origins) = origins else { return Ok(ranges.into_iter().map(|range| (range, None)).collect()) };
        let pieces = |range| origins.pieces(range).map(|(piece, origin)| (piece, Some(origin)));
        Ok(ranges.into_iter().flat_map(pieces).collect())
    }

    /// Returns the names of the tasks of all ranges, in order. Returns no names for a job without named tasks.
    async fn names_of(
        &self,
        definition: &Definition,
        ranges: &[(Range<u32>, Option<u32>)],
        deadline: Deadline,
    ) -> Result<Vec<String>> {
        if !definition.named_tasks {
            return Ok(Vec::new());
        }
        let tasks: Vec<u32> = ranges.iter().flat_map(|(range, _)| range.clone()).collect();
        self.names.names(definition, &tasks, deadline).await
    }

    /// Adds the selected tasks to `ranges`, until there are `max` ranges or [`SCANNED_TASKS`] tasks were scanned.
    /// Returns the task from which to continue, or `None` if the tracker changed meanwhile.
    async fn scan(
        &self,
        scan: Scan<'_>,
        ranges: &mut Vec<Range<u32>>,
        max: usize,
        deadline: Deadline,
    ) -> Result<Option<u32>> {
        let Scan { definition, basis, selection, from } = scan;
        let layout = definition.layout();
        let end = layout.total.min(from.saturating_add(SCANNED_TASKS));
        let mut next = from;
        while next < end {
            // The first task of a chunk is a multiple of four, because four cells fill whole bytes for any number of
            // stages.
            let chunk = next - next % 4..end.min(next - next % CHUNK_TASKS + CHUNK_TASKS);
            let Some(bytes) = self.bytes(&definition.id, layout, basis, &chunk, deadline).await? else {
                return Ok(None);
            };
            let place = (&bytes[..], layout.byte_range(&chunk).start);
            let stopped = selection.collect(layout, next..chunk.end, place, ranges, max);
            let full = stopped < chunk.end;
            next = stopped;
            if full {
                break;
            }
        }
        let unchanged = match basis.tracker {
            Some(epoch) => self.is_unchanged(&definition.id, epoch, basis, deadline).await?,
            None => true,
        };
        Ok(unchanged.then_some(next))
    }

    /// Returns the cells of these tasks, or `None` if the tracker cannot be read any more.
    async fn bytes(
        &self,
        id: &JobId,
        layout: Layout,
        basis: &Basis,
        tasks: &Range<u32>,
        deadline: Deadline,
    ) -> Result<Option<Vec<u8>>> {
        let range = layout.byte_range(tasks);
        let mut bytes = match basis.tracker {
            Some(_) => match self.live.cells_at(id, range.clone(), deadline).await.map_err(Error::from) {
                Ok(Some(bytes)) => bytes,
                Ok(None) | Err(Error::Unavailable(_)) => return Ok(None),
                Err(error) => return Err(error),
            },
            None => vec![0; range.len()],
        };
        if let Some(cells) = &basis.cells {
            for (byte, held) in bytes.iter_mut().zip(&cells.bytes()[range]) {
                *byte |= held;
            }
        }
        Ok(Some(bytes))
    }

    /// Returns whether the tracker that was read in chunks still has the same epoch. If the source of the page is LIVE,
    /// the tracker must still be adopted as well.
    async fn is_unchanged(&self, id: &JobId, before: TrackerEpoch, basis: &Basis, deadline: Deadline) -> Result<bool> {
        let reading = match self.live.read_tracker(id, deadline).await.map_err(Error::from) {
            Err(Error::Unavailable(_)) => return Ok(false),
            reading => reading?,
        };
        Ok(match reading.tracker {
            Tracker::Present { header, trusted, .. } => {
                header.epoch() == before && (trusted || basis.source != Source::Live)
            }
            _ => false,
        })
    }

    /// Returns the marks to list, as the read table decides.
    async fn basis(&self, definition: &Definition, deadline: Deadline) -> Result<Basis> {
        let id = &definition.id;
        let ResolvedRead { resolution, reading, .. } = self.observer.observe(id, 0, deadline).await?;
        let running = Basis {
            state: JobState::Running,
            source: Source::Live,
            lower_bound: false,
            observe_time: reading.as_ref().map_or_else(OffsetDateTime::now_utc, |reading| reading.time),
            cells: None,
            tracker: None,
        };
        Ok(match (resolution, reading) {
            (
                Resolution::Tracker { source, lower_bound },
                Some(TrackerReading { tracker: Tracker::Present { header, .. }, .. }),
            ) => {
                self.finisher.finish_if_due(id, &header);
                let cells = match source {
                    Source::Live => None,
                    _ => Some(KnownCells::Merged(self.known_marks.read_without_tracker(definition, deadline).await?)),
                };
                Basis { source, lower_bound, cells, tracker: Some(header.epoch()), ..running }
            }
            (Resolution::Mirror(reason), _) => {
                let cells = self.known_marks.read_without_tracker(definition, deadline).await?;
                let cells = Some(KnownCells::Merged(cells));
                Basis { source: Source::Fallback(reason), lower_bound: true, cells, ..running }
            }
            (Resolution::Snapshot, _) => self.stored(definition, deadline).await?,
            (Resolution::Pending, _) => Basis { state: JobState::Pending, source: Source::Snapshot, ..running },
            (Resolution::NotFound, _) => return Err(Error::NotFound(id.clone())),
            // The marks are unknown, so neither "all tasks are outstanding" nor "no task is" would be true.
            (Resolution::Unknown(SourceReason::RedisUnreachable), _) => {
                return Err(Error::Unavailable(Unavailable::Redis));
            }
            (Resolution::Unknown(_) | Resolution::Tracker { .. }, _) => {
                return Err(Error::Unavailable(Unavailable::Tracker));
            }
            (Resolution::Unavailable | Resolution::AskPostgres, _) => {
                return Err(Error::Unavailable(Unavailable::Postgres));
            }
        })
    }

    /// Returns the stored marks of an ended job.
    async fn stored(&self, definition: &Definition, deadline: Deadline) -> Result<Basis> {
        let id = &definition.id;
        // The snapshot is read before the cells. If the end is amended in between, complete cells are reported as a
        // lower bound, but a lower bound is never reported as complete.
        let result = self.jobs.result(id, deadline).await?;
        let cells = self.ended_cells.load(&result, deadline).await?;
        Ok(Basis {
            state: result.job.state,
            source: Source::Snapshot,
            lower_bound: result.snapshot.lower_bound,
            observe_time: result.job.end_time.unwrap_or(result.job.create_time),
            cells: Some(KnownCells::Ended(cells)),
            tracker: None,
        })
    }
}

/// The parameters of a scan.
struct Scan<'a> {
    definition: &'a Definition,
    basis: &'a Basis,
    selection: Selection,
    from: u32,
}

/// Keeps the first `max` tasks. Returns the first task that was cut off, or `None` if all tasks were kept.
fn cut(ranges: &mut Vec<Range<u32>>, max: u32) -> Option<u32> {
    let mut left = max;
    for place in 0..ranges.len() {
        let range = &mut ranges[place];
        let count = range.end - range.start;
        if count > left {
            let next = range.start + left;
            range.end = next;
            ranges.truncate(place + usize::from(left > 0));
            return Some(next);
        }
        left -= count;
    }
    None
}

impl Position for u32 {
    fn write(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_page_of_names_may_end_within_a_range() {
        let cut = |max| {
            let mut ranges = vec![2..5, 7..8];
            let next = super::cut(&mut ranges, max);
            (next, ranges.into_iter().flatten().collect::<Vec<u32>>())
        };
        assert_eq!(cut(1), (Some(3), vec![2]));
        assert_eq!(cut(3), (Some(7), vec![2, 3, 4]));
        assert_eq!(cut(4), (None, vec![2, 3, 4, 7]));
    }
}
