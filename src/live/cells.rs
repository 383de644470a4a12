//! Reads the cells of trackers, region by region. The header is read with each region, so the digest in the header tells
//! whether anything but a script changed the region.

use std::ops::Range;

use redis::Value;

use super::read::unexpected;
use super::{Error, HEADER_BYTES, Header, Live};
use crate::deadline::Deadline;
use crate::domain::{Cells, Digests, JobId, Layout, TrackerEpoch};

/// The maximum number of attempts to read a region and its header without a change in between. Redis usually runs the
/// commands of one pipeline without those of other clients in between.
const MAX_READS: usize = 8;

/// Cells of a tracker, or a region of them.
#[derive(Debug, Clone, PartialEq)]
pub enum CellsReading<T> {
    /// The cells match their digests.
    Intact(T),
    /// There are no such cells: the tracker is missing, has another layout, or has another header than required.
    Absent,
    /// The cells do not match their digests, so they must not be used. The epoch identifies the damaged tracker.
    Damaged(TrackerEpoch),
}

/// A region of a tracker's cells.
#[derive(Debug, Clone, PartialEq)]
pub struct Region {
    /// The header at the moment at which the region was read.
    pub header: Header,
    /// The bytes of the region.
    pub bytes: Vec<u8>,
}

impl<T> CellsReading<T> {
    /// Converts intact cells.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> CellsReading<U> {
        match self {
            Self::Intact(cells) => CellsReading::Intact(convert(cells)),
            Self::Absent => CellsReading::Absent,
            Self::Damaged(epoch) => CellsReading::Damaged(epoch),
        }
    }

    /// Returns the cells if they are intact.
    pub fn intact(self) -> Option<T> {
        match self {
            Self::Intact(cells) => Some(cells),
            Self::Absent | Self::Damaged(_) => None,
        }
    }
}

impl Live {
    /// Reads a region of a tracker with this layout.
    pub async fn region(
        &self,
        id: &JobId,
        layout: Layout,
        region: usize,
        deadline: Deadline,
    ) -> Result<CellsReading<Region>, Error> {
        let Some(tasks) = layout.regions().nth(region) else { return Ok(CellsReading::Absent) };
        let range = layout.byte_range(&tasks);
        let installation = self.installation()?;
        let is_own = |header: &Header| header.layout() == layout && header.installation == installation;
        for _ in 0..MAX_READS {
            let Some([before, bytes, after]) = self.between_headers(id, range.clone(), deadline).await? else { break };
            if before != after {
                continue;
            }
            let header = Header::decode(&before).ok().filter(is_own);
            let Some(header) = header.filter(|_| bytes.len() == range.len()) else { break };
            let is_intact = header.digests.0.get(region) == Some(&Digests::of_region(range.start, &bytes));
            return Ok(if is_intact {
                CellsReading::Intact(Region { header, bytes })
            } else {
                CellsReading::Damaged(header.epoch())
            });
        }
        Ok(CellsReading::Absent)
    }

    /// Reads the header, these bytes of the cells, and the header once more. If both headers are equal, the header
    /// belongs to the bytes, because every change of the marks changes the header. (A transaction is not used: Redis
    /// rejects even one that only reads while its memory is full.) Returns `None` if the key is not a string.
    async fn between_headers(
        &self,
        id: &JobId,
        bytes: Range<usize>,
        deadline: Deadline,
    ) -> Result<Option<[Vec<u8>; 3]>, Error> {
        let (key, header) = (self.keys.tracker(id), 0..HEADER_BYTES);
        let mut commands = redis::pipe();
        for range in [header.clone(), HEADER_BYTES + bytes.start..HEADER_BYTES + bytes.end, header] {
            commands.cmd("GETRANGE").arg(&key).arg(range.start).arg(range.end - 1);
        }
        let mut read = Vec::with_capacity(3);
        for reply in self.connection.pipeline(&mut commands, deadline).await? {
            match reply {
                Value::BulkString(bytes) => read.push(bytes),
                Value::ServerError(error) if error.code() == "WRONGTYPE" => return Ok(None),
                other => return Err(unexpected(Some(other))),
            }
        }
        Ok(read.try_into().ok())
    }

    /// Reads all cells of a tracker whose header is `header`. They are absent if the header changes before all cells
    /// have been read. The cells are consistent, because every change of the marks changes the header.
    pub async fn cells(&self, id: &JobId, header: &Header, deadline: Deadline) -> Result<CellsReading<Cells>, Error> {
        self.all_regions(id, header.layout(), |found| found == header, deadline).await
    }

    /// Reads all cells of a tracker with this layout. Marks may be set between the reads of two regions.
    pub async fn read_cells(
        &self,
        id: &JobId,
        layout: Layout,
        deadline: Deadline,
    ) -> Result<CellsReading<Cells>, Error> {
        self.all_regions(id, layout, |_| true, deadline).await
    }

    async fn all_regions(
        &self,
        id: &JobId,
        layout: Layout,
        accepts: impl Fn(&Header) -> bool,
        deadline: Deadline,
    ) -> Result<CellsReading<Cells>, Error> {
        let mut cells = Vec::with_capacity(layout.bytes());
        for region in 0..layout.regions().count() {
            match self.region(id, layout, region, deadline).await? {
                CellsReading::Intact(region) if accepts(&region.header) => cells.extend(region.bytes),
                CellsReading::Intact(_) | CellsReading::Absent => return Ok(CellsReading::Absent),
                CellsReading::Damaged(epoch) => return Ok(CellsReading::Damaged(epoch)),
            }
        }
        // Bytes that no marks produce but that match their digests can only be written by a program that also writes
        // digests, such as a faulty gateway.
        Ok(Cells::new(layout, cells).map_or(CellsReading::Absent, CellsReading::Intact))
    }

    /// Reads a range of bytes of a tracker's cells, without a comparison with their digests. `bytes` are offsets from
    /// the first cell. Returns `None` if the tracker is missing or too short.
    pub async fn cells_at(
        &self,
        id: &JobId,
        bytes: Range<usize>,
        deadline: Deadline,
    ) -> Result<Option<Vec<u8>>, Error> {
        let mut commands = redis::pipe();
        let (first, last) = (HEADER_BYTES + bytes.start, HEADER_BYTES + bytes.end - 1);
        commands.cmd("GETRANGE").arg(self.keys.tracker(id)).arg(first).arg(last);
        match self.connection.pipeline(&mut commands, deadline).await?.into_iter().next() {
            Some(Value::BulkString(cells)) => Ok((cells.len() == bytes.len()).then_some(cells)),
            other => Err(unexpected(other)),
        }
    }
}
