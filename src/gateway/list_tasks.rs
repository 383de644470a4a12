//! Lists of tasks, by where they stand, page by page: from wherever a read of the job would take its counts.

use std::ops::Range;

use time::OffsetDateTime;

use super::Gateway;
use super::page::{PageRequest, PageSizes, Place, token};
use super::seen::Seen;
use crate::deadline::Deadline;
use crate::domain::{
    Cells, Definition, JobId, JobState, Layout, Resolution, Selection, Source, SourceReason, TaskQuery, TrackerEpoch,
};
use crate::error::{Error, Result, Unavailable};
use crate::live::{Tracker, TrackerReading};
use crate::mirror::bytes_of;

/// Ranges of tasks; or names, where the tasks have them.
const SIZES: PageSizes = PageSizes { default: 1000, most: 10_000 };
/// How many tasks one call looks at, and how many of them at once.
const LOOKED_AT: u32 = 1 << 20;
const CHUNK: u32 = 1 << 16;
/// How often a page begins anew because the tracker was replaced, adopted or sealed while it was read.
const ATTEMPTS: usize = 3;

/// A page of a list of tasks.
pub struct TasksPage {
    /// The job's state.
    pub state: JobState,
    /// Where the marks come from.
    pub source: Source,
    /// Marks that were acknowledged may be missing.
    pub lower_bound: bool,
    /// The moment of the marks.
    pub observe_time: OffsetDateTime,
    /// The tasks, in order; with the origin of each range's first one, in a retry.
    pub ranges: Vec<(Range<u32>, Option<u32>)>,
    /// Their names, one for each task of all ranges, where the tasks have names.
    pub names: Vec<String>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<String>,
}

/// What marks are listed from.
struct Basis {
    state: JobState,
    source: Source,
    lower_bound: bool,
    observe_time: OffsetDateTime,
    /// What is held here.
    held: Option<Cells>,
    /// What a tracker adds that is read in parts.
    tracker: Option<TrackerEpoch>,
}

impl Gateway {
    /// A page of the tasks of a job that `query` wants.
    pub async fn list_tasks(
        &self,
        id: &JobId,
        query: &TaskQuery,
        page: &PageRequest,
        deadline: Deadline,
    ) -> Result<TasksPage> {
        let list = (id.as_str(), query);
        let (size, from) = page.read::<u32>(SIZES, &list)?;
        let from = from.unwrap_or(0);
        for _ in 0..ATTEMPTS {
            let (definition, started) = self.definition_now(id, deadline).await?;
            let selection = query.selection(&definition).map_err(|violation| Error::Invalid(vec![violation]))?;
            let basis = self.basis(&definition, deadline).await;
            if !started && !matches!(basis, Ok(Basis { state: JobState::Pending, .. })) {
                continue; // it has been started since, perhaps with more tasks
            }
            let basis = basis?;
            let mut ranges = Vec::new();
            let most = usize::try_from(size).unwrap_or(usize::MAX);
            let Some(next) = self.collect(&definition, &basis, selection, from, (&mut ranges, most), deadline).await?
            else {
                continue;
            };
            let mut next = next;
            if definition.named_tasks {
                next = cut(&mut ranges, size).unwrap_or(next);
            }
            let mut ranges = self.with_origins(&definition, ranges, deadline).await?;
            next = ranges.get(most).map_or(next, |(range, _)| range.start);
            ranges.truncate(most);
            let names = self.names_of(&definition, &ranges, deadline).await?;
            let next = (next < definition.task_count).then(|| token(&next, &list)).transpose()?;
            let Basis { state, source, lower_bound, observe_time, .. } = basis;
            return Ok(TasksPage { state, source, lower_bound, observe_time, ranges, names, next });
        }
        Err(Error::Unavailable(Unavailable::Tracker))
    }

    /// In pieces whose origins follow each other, if the job is a retry.
    async fn with_origins(
        &self,
        definition: &Definition,
        ranges: Vec<Range<u32>>,
        deadline: Deadline,
    ) -> Result<Vec<(Range<u32>, Option<u32>)>> {
        let origins = match definition.retry_of {
            Some(_) if !ranges.is_empty() => self.store().origins(&definition.id, deadline).await?,
            _ => None,
        };
        let Some(origins) = origins else { return Ok(ranges.into_iter().map(|range| (range, None)).collect()) };
        let pieces = |range| origins.pieces(range).map(|(piece, origin)| (piece, Some(origin)));
        Ok(ranges.into_iter().flat_map(pieces).collect())
    }

    /// None where the tasks have no names.
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
        self.names(definition, &tasks, deadline).await
    }

    /// Adds what is selected from the task `from` on, as far as one call looks; where to go on. `None`: the tracker is not
    /// any more what it was.
    async fn collect(
        &self,
        definition: &Definition,
        basis: &Basis,
        selection: Selection,
        from: u32,
        (ranges, most): (&mut Vec<Range<u32>>, usize),
        deadline: Deadline,
    ) -> Result<Option<u32>> {
        let layout = definition.layout();
        let end = layout.total.min(from.saturating_add(LOOKED_AT));
        let mut next = from;
        while next < end {
            // From the beginning of a byte on.
            let chunk = next - next % 4..end.min(next - next % CHUNK + CHUNK);
            let Some(bytes) = self.bytes(&definition.id, layout, basis, &chunk, deadline).await? else {
                return Ok(None);
            };
            let place = (&bytes[..], bytes_of(layout, &chunk).start);
            let stopped = selection.collect(layout, next..chunk.end, place, ranges, most);
            let full = stopped < chunk.end;
            next = stopped;
            if full {
                break;
            }
        }
        let still = match basis.tracker {
            Some(epoch) => self.still_stands(&definition.id, epoch, basis, deadline).await?,
            None => true,
        };
        Ok(still.then_some(next))
    }

    /// The cells of these tasks, as far as they are known; `None`: the tracker is gone.
    async fn bytes(
        &self,
        id: &JobId,
        layout: Layout,
        basis: &Basis,
        tasks: &Range<u32>,
        deadline: Deadline,
    ) -> Result<Option<Vec<u8>>> {
        let range = bytes_of(layout, tasks);
        let mut bytes = match basis.tracker {
            Some(_) => match self.live().cells_at(id, range.clone(), deadline).await.map_err(Error::from) {
                Ok(Some(bytes)) => bytes,
                Ok(None) | Err(Error::Unavailable(_)) => return Ok(None),
                Err(error) => return Err(error),
            },
            None => vec![0; range.len()],
        };
        if let Some(held) = &basis.held {
            for (ours, theirs) in bytes.iter_mut().zip(&held.bytes()[range]) {
                *ours |= theirs;
            }
        }
        Ok(Some(bytes))
    }

    /// Whether the tracker that was read in parts was the same, and as trustworthy, all the time.
    async fn still_stands(&self, id: &JobId, before: TrackerEpoch, basis: &Basis, deadline: Deadline) -> Result<bool> {
        let look = match self.live().read_tracker(id, deadline).await.map_err(Error::from) {
            Err(Error::Unavailable(_)) => return Ok(false),
            look => look?,
        };
        Ok(match look.tracker {
            Tracker::Present { header, believed, .. } => {
                header.epoch() == before && (believed || basis.source != Source::Live)
            }
            _ => false,
        })
    }

    /// What the read table says that the marks are to be taken from.
    async fn basis(&self, definition: &Definition, deadline: Deadline) -> Result<Basis> {
        let id = &definition.id;
        let unknown = || Error::Internal("a job was not looked at".to_owned());
        let Seen { resolution, look, .. } =
            self.see(std::slice::from_ref(id), 0, deadline).await.pop().ok_or_else(unknown)??;
        let running = Basis {
            state: JobState::Running,
            source: Source::Live,
            lower_bound: false,
            observe_time: look.as_ref().map_or_else(OffsetDateTime::now_utc, |look| look.time),
            held: None,
            tracker: None,
        };
        Ok(match (resolution, look) {
            (
                Resolution::Tracker { source, lower_bound },
                Some(TrackerReading { tracker: Tracker::Present { header, .. }, .. }),
            ) => {
                self.finish_if_due(id, &header);
                let held = match source {
                    Source::Live => None,
                    _ => Some(self.held_now(definition, deadline).await?),
                };
                Basis { source, lower_bound, held, tracker: Some(header.epoch()), ..running }
            }
            (Resolution::Mirror(reason), _) => {
                let held = Some(self.held_now(definition, deadline).await?);
                Basis { source: Source::Fallback(reason), lower_bound: true, held, ..running }
            }
            (Resolution::Snapshot, _) => self.stored(definition, deadline).await?,
            (Resolution::Pending, _) => Basis { state: JobState::Pending, source: Source::Snapshot, ..running },
            (Resolution::NotFound, _) => return Err(Error::NotFound(id.clone())),
            // Which tasks are outstanding is not known: none of them, or all.
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

    /// The marks that mirror and ledger hold now.
    async fn held_now(&self, definition: &Definition, deadline: Deadline) -> Result<Cells> {
        let recorded = self.recorded(std::slice::from_ref(&definition.id), deadline).await?;
        Ok(self.held_beside(definition, recorded.get(&definition.id).map_or(&[], Vec::as_slice)))
    }

    /// The marks that an ended job has ended with.
    async fn stored(&self, definition: &Definition, deadline: Deadline) -> Result<Basis> {
        let id = &definition.id;
        let gone = || Error::NotFound(id.clone());
        // In this order: marks may still be added to an end that is a lower bound, and then it is none.
        let ended = self.ended(std::slice::from_ref(id), deadline).await?.remove(id).ok_or_else(gone)?;
        let cells = self.store().cells(id, definition.layout(), deadline).await?.ok_or_else(gone)?;
        Ok(Basis {
            state: ended.job.state,
            source: Source::Snapshot,
            lower_bound: ended.snapshot.lower_bound,
            observe_time: ended.job.end_time.unwrap_or(ended.job.create_time),
            held: Some(cells),
            tracker: None,
        })
    }
}

/// Leaves out what lies behind the first `most` tasks; where it begins.
fn cut(ranges: &mut Vec<Range<u32>>, most: u32) -> Option<u32> {
    let mut left = most;
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

impl Place for u32 {
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
    fn a_page_of_names_ends_in_the_middle_of_a_range() {
        let cut = |most| {
            let mut ranges = vec![2..5, 7..8];
            let next = super::cut(&mut ranges, most);
            (next, ranges.into_iter().flatten().collect::<Vec<u32>>())
        };
        assert_eq!(cut(1), (Some(3), vec![2]));
        assert_eq!(cut(3), (Some(7), vec![2, 3, 4]));
        assert_eq!(cut(4), (None, vec![2, 3, 4, 7]));
    }
}
