//! Stores the names of tasks (the manifest), and adds tasks to PENDING jobs.
//!
//! Names are stored in blocks. Each block is compressed as a whole, so that a name takes a fraction of its length. New
//! names are merged with the small blocks at the end, so that many small calls do not leave many small blocks.

use std::ops::Range;
use std::sync::Arc;

use sqlx::PgConnection;

use super::call::{Close, Session};
use super::jobs::{from_integer, to_integer};
use super::zlib::{self, Compression};
use super::{Error, Store};
use crate::blocking::{self, Caller};
use crate::deadline::Deadline;
use crate::domain::{JobId, MAX_NAME_BYTES, MAX_TASKS, Names};
use crate::fault;
use crate::memory::{MemoryBudget, Reserved};

/// The number of names in a full block. Larger blocks do not compress better, and reading one name requires reading its
/// block.
const BLOCK_NAMES: usize = 4096;
/// The maximum number of blocks that one call reads. They take about a megabyte in each of the forms that decoding them
/// needs; with more, this temporary memory would exceed that of the index of a large manifest.
const BLOCKS_PER_READ: i64 = 8;
/// An upper limit for the number of small blocks at the end. Each small block has more names than all blocks after it
/// together, so there are at most 12 of them.
const SMALL_BLOCKS: i64 = 16;
/// The maximum size of the compressed names of a block, in bytes.
const MAX_COMPRESSED: i32 = 1_053_788;
/// The terminator of each name in a block. No name contains it.
const TERMINATOR: &str = "\n";

/// Names of consecutive tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameBlock {
    /// The task of the first name.
    pub first: u32,
    /// The names, in the order of their tasks.
    pub names: Names,
}

/// The result of adding tasks to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddOutcome {
    /// The call succeeded. The values are the numbers of tasks before and after it.
    From(u32, u32),
    /// Nothing was added: the job does not exist or is not PENDING.
    NotPending,
    /// Nothing was added: the job has fewer tasks than the caller knows. Postgres has lost tasks, for example in a
    /// failover.
    Forgotten,
    /// Nothing was added: the job would have this number of tasks, which exceeds the limit.
    TooMany(usize),
}

impl NameBlock {
    /// Returns the task that follows the last task of the block.
    pub fn end(&self) -> u32 {
        self.first.saturating_add(u32::try_from(self.names.len()).unwrap_or(u32::MAX))
    }

    /// Returns the name of a task, if the block contains it.
    pub fn name(&self, task: u32) -> Option<&str> {
        self.names.get(task.checked_sub(self.first)? as usize)
    }
}

/// A stored block.
struct BlockRow {
    first_task: i32,
    task_count: i32,
    name_bytes: i32,
    /// The compressed names; `None` if they have more bytes than [`MAX_COMPRESSED`].
    names: Option<Vec<u8>>,
}

impl Store {
    /// Raises the number of tasks of a PENDING job to `total`. The number never decreases.
    pub async fn grow(&self, id: &JobId, total: u32, deadline: Deadline) -> Result<AddOutcome, Error> {
        let grow = async |session: &mut Session<'_>| {
            let outcome = match lock(session, id).await? {
                None => AddOutcome::NotPending,
                Some(before) => AddOutcome::From(before, total.max(before)),
            };
            set_total(session, id, outcome).await?;
            Ok(Close::Commit(outcome))
        };
        let outcome = self.transaction(deadline, grow).await?;
        fault::point("grow.committed").await;
        Ok(outcome)
    }

    /// Adds named tasks to a PENDING job. The caller knows the first `known` names. `choose` receives all later names,
    /// and returns the names to add. It is called while the job's row is locked.
    pub async fn add_names(
        &self,
        id: &JobId,
        known: u32,
        choose: impl FnOnce(&[NameBlock]) -> Names + Send,
        deadline: Deadline,
    ) -> Result<AddOutcome, Error> {
        let memory = &self.memory;
        let add = async move |session: &mut Session<'_>| {
            let outcome = match lock(session, id).await? {
                None => AddOutcome::NotPending,
                Some(before) if before < known => AddOutcome::Forgotten,
                Some(before) => {
                    let new = choose(&read_between(session, id, known..before, memory).await?);
                    append_within_limit(session, id, before, new, memory).await?
                }
            };
            set_total(session, id, outcome).await?;
            Ok(Close::Commit(outcome))
        };
        let outcome = self.transaction(deadline, add).await?;
        fault::point("grow.committed").await;
        Ok(outcome)
    }

    /// Reads the number of names of the job, and their total length in bytes.
    pub async fn names_size(&self, id: &JobId, deadline: Deadline) -> Result<(usize, usize), Error> {
        let query = sqlx::query!(
            r#"SELECT coalesce(sum(task_count), 0) AS "count!", coalesce(sum(name_bytes), 0) AS "bytes!"
               FROM task_names WHERE job_id = $1"#,
            id.as_str()
        );
        let row = self.call(deadline, async |connection| query.fetch_one(connection).await).await?;
        let number = |number: i64| usize::try_from(number).map_err(|error| Error::Unexpected(error.to_string()));
        Ok((number(row.count)?, number(row.bytes)?))
    }

    /// Reads consecutive blocks, up to a fixed number per call. The first block contains the name of the task `from`.
    /// The result is empty if this task has no name.
    pub async fn names_from(
        &self,
        id: &JobId,
        from: u32,
        deadline: Deadline,
    ) -> Result<Reserved<Vec<NameBlock>>, Error> {
        let from = to_integer(from)?;
        let read = async |connection: &mut PgConnection| read(connection, id, from, BLOCKS_PER_READ).await;
        decompress(id, self.long_call(deadline, read).await?, &self.memory).await
    }

    /// Reads the blocks that contain the names of these tasks, in the order of the tasks, up to a fixed number per
    /// call.
    pub async fn names_of(
        &self,
        id: &JobId,
        tasks: &[u32],
        deadline: Deadline,
    ) -> Result<Reserved<Vec<NameBlock>>, Error> {
        let tasks: Vec<i32> = tasks.iter().map(|task| to_integer(*task)).collect::<Result<_, _>>()?;
        let query = sqlx::query_as!(
            BlockRow,
            r#"SELECT first_task, task_count, name_bytes,
                      CASE WHEN octet_length(names) <= $4 THEN names END AS names
               FROM task_names
               WHERE job_id = $1 AND first_task IN (
                   SELECT (SELECT max(first_task) FROM task_names WHERE job_id = $1 AND first_task <= task)
                   FROM unnest($2::integer[]) AS task)
               ORDER BY first_task LIMIT $3"#,
            id.as_str(),
            &tasks,
            BLOCKS_PER_READ,
            MAX_COMPRESSED
        );
        let rows = self.long_call(deadline, async |connection| query.fetch_all(connection).await).await?;
        decompress(id, rows, &self.memory).await
    }
}

/// Locks the row of a PENDING job. Returns its number of tasks, or `None` if the job is not PENDING.
async fn lock(session: &mut Session<'_>, id: &JobId) -> Result<Option<u32>, Error> {
    let lock = sqlx::query_scalar!(
        "SELECT task_count FROM jobs WHERE job_id = $1 AND state = 'PENDING' FOR UPDATE",
        id.as_str()
    );
    let total = session.run(|connection| lock.fetch_optional(connection)).await?;
    fault::point("grow.locked").await;
    total.map(from_integer).transpose()
}

/// Writes the new number of tasks, if tasks were added. It also increases the incarnation, so that a start which opened
/// a tracker for fewer tasks cannot commit.
async fn set_total(session: &mut Session<'_>, id: &JobId, outcome: AddOutcome) -> Result<(), Error> {
    if let AddOutcome::From(before, after) = outcome
        && before < after
    {
        let write = sqlx::query!(
            "UPDATE jobs SET task_count = $2, created_task_count = coalesce(created_task_count, task_count),
                             incarnation = incarnation + 1
             WHERE job_id = $1",
            id.as_str(),
            to_integer(after)?
        );
        session.run(|connection| write.execute(connection)).await?;
        fault::point("grow.written").await;
    }
    Ok(())
}

/// Reads the names of the tasks `from..total`. Fails if the stored names do not end at `total`. An earlier statement
/// must have locked the job's row, because a statement that waits for a row lock reads other tables as they were before
/// the wait.
async fn read_between(
    session: &mut Session<'_>,
    id: &JobId,
    tasks: Range<u32>,
    memory: &Arc<MemoryBudget>,
) -> Result<Reserved<Vec<NameBlock>>, Error> {
    let Range { start: from, end: total } = tasks;
    let first = to_integer(from)?;
    let rows = session.run(|connection| read(connection, id, first, i64::MAX)).await?;
    let blocks = decompress(id, rows, memory).await?;
    let end = blocks.last().map_or(from, NameBlock::end);
    if end != total {
        return Err(Error::Unexpected(format!("job {id} has {total} tasks, but {end} names are stored")));
    }
    Ok(blocks)
}

async fn read(connection: &mut PgConnection, id: &JobId, from: i32, limit: i64) -> Result<Vec<BlockRow>, sqlx::Error> {
    let query = sqlx::query_as!(
        BlockRow,
        "SELECT first_task, task_count, name_bytes, CASE WHEN octet_length(names) <= $4 THEN names END AS names
         FROM task_names
         WHERE job_id = $1 AND first_task + task_count > $2
           AND first_task >= coalesce((SELECT max(first_task) FROM task_names WHERE job_id = $1 AND first_task <= $2), 0)
         ORDER BY first_task LIMIT $3",
        id.as_str(),
        from,
        limit,
        MAX_COMPRESSED
    );
    query.fetch_all(connection).await
}

/// Appends names after the names of the first `before` tasks, unless the job would have too many tasks.
async fn append_within_limit(
    session: &mut Session<'_>,
    id: &JobId,
    before: u32,
    new: Names,
    memory: &Arc<MemoryBudget>,
) -> Result<AddOutcome, Error> {
    let after = before as usize + new.len();
    match u32::try_from(after).ok().filter(|after| *after <= MAX_TASKS) {
        None => Ok(AddOutcome::TooMany(after)),
        Some(after) => {
            append(session, id, before, new, memory).await?;
            Ok(AddOutcome::From(before, after))
        }
    }
}

/// Copies the names of these tasks of the old job to the new job, a few full blocks at a time. The new job has no names
/// yet.
pub(super) async fn copy_names(
    session: &mut Session<'_>,
    old: &JobId,
    new: &JobId,
    tasks: &[Range<u32>],
    memory: &Arc<MemoryBudget>,
) -> Result<(), Error> {
    let mut remaining = tasks.iter().cloned().flatten().peekable();
    let (mut copied, mut names) = (0, Names::default());
    while let Some(first) = remaining.peek().copied() {
        let from = to_integer(first)?;
        let rows = session.run(|connection| read(connection, old, from, BLOCKS_PER_READ)).await?;
        for block in decompress(old, rows, memory).await?.iter() {
            while let Some(name) = remaining.peek().and_then(|task| block.name(*task)) {
                names.push(name);
                remaining.next();
            }
        }
        if remaining.peek() == Some(&first) {
            let fault = format!("task_names has no name of task {first}");
            return Err(Error::Invalid { job: old.clone(), fault });
        }
        if names.len() >= BLOCK_NAMES || remaining.peek().is_none() {
            let count = u32::try_from(names.len()).map_err(|error| Error::Unexpected(error.to_string()))?;
            append(session, new, copied, std::mem::take(&mut names), memory).await?;
            copied += count;
        }
    }
    Ok(())
}

/// Appends names after the names of the first `before` tasks. Small blocks at the end are rewritten together with the
/// new names.
async fn append(
    session: &mut Session<'_>,
    id: &JobId,
    before: u32,
    new: Names,
    memory: &Arc<MemoryBudget>,
) -> Result<(), Error> {
    let first = first_to_rewrite(session, id, before, new.len()).await?;
    let delete = sqlx::query_as!(
        BlockRow,
        "DELETE FROM task_names WHERE job_id = $1 AND first_task >= $2
         RETURNING first_task, task_count, name_bytes,
                   CASE WHEN octet_length(names) <= $3 THEN names END AS names",
        id.as_str(),
        first,
        MAX_COMPRESSED
    );
    let mut rewritten = session.run(|connection| delete.fetch_all(connection)).await?;
    rewritten.sort_unstable_by_key(|block| block.first_task);
    let Packed { counts, bytes, names } = compress(decompress(id, rewritten, memory).await?, new).await?;
    let firsts = counts.iter().scan(first, |next, count| Some(std::mem::replace(next, *next + count)));
    let firsts: Vec<i32> = firsts.collect();
    let insert = sqlx::query!(
        "INSERT INTO task_names (job_id, first_task, task_count, name_bytes, names)
         SELECT $1, * FROM unnest($2::integer[], $3::integer[], $4::integer[], $5::bytea[])",
        id.as_str(),
        &firsts,
        &counts,
        &bytes,
        &names
    );
    session.run(|connection| insert.execute(connection)).await?;
    Ok(())
}

/// Returns the first task of the blocks to merge with `added` new names. Going backwards from the end, a block is
/// merged if it is not full and has at most as many names as all later blocks and the new names together. The first
/// other block ends the search.
async fn first_to_rewrite(session: &mut Session<'_>, id: &JobId, before: u32, added: usize) -> Result<i32, Error> {
    let last = sqlx::query!(
        "SELECT first_task, task_count FROM task_names WHERE job_id = $1 ORDER BY first_task DESC LIMIT $2",
        id.as_str(),
        SMALL_BLOCKS
    );
    let last = session.run(|connection| last.fetch_all(connection)).await?;
    let (mut first, mut count) = (to_integer(before)?, added);
    for block in last {
        let names = from_integer(block.task_count)? as usize;
        if names >= BLOCK_NAMES || names > count {
            break;
        }
        (first, count) = (block.first_task, count + names);
    }
    Ok(first)
}

/// Blocks to store, with one vector per column.
#[derive(Default)]
struct Packed {
    counts: Vec<i32>,
    bytes: Vec<i32>,
    names: Vec<Vec<u8>>,
}

/// Packs names into blocks. All blocks are full, except that the last one may be smaller.
async fn compress(before: Reserved<Vec<NameBlock>>, new: Names) -> Result<Packed, Error> {
    let packed = blocking::run(move |caller| {
        let names: Vec<&str> = before.iter().flat_map(|block| block.names.iter()).chain(new.iter()).collect();
        let mut packed = Packed::default();
        for block in names.chunks(BLOCK_NAMES) {
            let text: String = block.iter().flat_map(|name| [*name, TERMINATOR]).collect();
            packed.counts.push(i32::try_from(block.len()).unwrap_or(i32::MAX));
            packed.bytes.push(i32::try_from(block.iter().map(|name| name.len()).sum::<usize>()).unwrap_or(i32::MAX));
            packed.names.push(zlib::compress(text.as_bytes(), Compression::default(), caller)?);
        }
        Ok(packed)
    });
    packed.await
}

/// Decompresses blocks of names. A block that is not what a gateway stores is [`Error::Invalid`].
async fn decompress(
    id: &JobId,
    rows: Vec<BlockRow>,
    memory: &Arc<MemoryBudget>,
) -> Result<Reserved<Vec<NameBlock>>, Error> {
    let invalid = |fault: &str| Error::Invalid { job: id.clone(), fault: format!("a block of task_names {fault}") };
    let blocks = rows.into_iter().map(|row| PackedBlock::checked(row).map_err(&invalid));
    let blocks: Vec<PackedBlock> = blocks.collect::<Result<_, _>>()?;
    let needed = |block: &PackedBlock| block.names.len() + 2 * block.text_bytes() + block.count * size_of::<u32>();
    let mut reservation = memory.reserve(blocks.iter().map(needed).sum())?;
    let unpacked = blocking::run(move |caller| {
        let unpacked = blocks.into_iter().map(|block| block.unpack(caller));
        Ok::<_, Error>(unpacked.collect::<Result<Result<Vec<_>, _>, _>>()?.map(|blocks| {
            reservation.shrink_to(blocks.iter().map(|block: &NameBlock| block.names.memory()).sum());
            Reserved::new(blocks, reservation)
        }))
    });
    unpacked.await?.map_err(|fault: String| invalid(&fault))
}

/// A block whose sizes are possible.
struct PackedBlock {
    first: u32,
    count: usize,
    name_bytes: usize,
    names: Vec<u8>,
}

impl PackedBlock {
    /// Checks the sizes in a row. The error says what is wrong.
    fn checked(row: BlockRow) -> Result<Self, &'static str> {
        let first = u32::try_from(row.first_task).map_err(|_| "has a negative first_task")?;
        let count = usize::try_from(row.task_count).ok().filter(|count| (1..=BLOCK_NAMES).contains(count));
        let count = count.ok_or("has an impossible task_count")?;
        if first as usize + count > MAX_TASKS as usize {
            return Err("is beyond the largest number of tasks");
        }
        let name_bytes = usize::try_from(row.name_bytes).ok();
        let name_bytes = name_bytes.filter(|bytes| (count..=count * MAX_NAME_BYTES).contains(bytes));
        let name_bytes = name_bytes.ok_or("has an impossible name_bytes")?;
        Ok(Self { first, count, name_bytes, names: row.names.ok_or("is too large")? })
    }

    /// The size of the names before compression, with a terminator after each.
    fn text_bytes(&self) -> usize {
        self.name_bytes + self.count * TERMINATOR.len()
    }

    /// Decompresses the names. The inner error says why they are not those of the row.
    fn unpack(self, caller: &Caller) -> Result<Result<NameBlock, String>, Error> {
        let text = match zlib::decompress(&self.names, self.text_bytes(), caller)? {
            Ok(bytes) => String::from_utf8(bytes).map_err(|error| error.to_string()),
            Err(fault) => Err(fault),
        };
        Ok(text.map_err(|fault| format!("cannot be decoded: {fault}")).and_then(|text| {
            let mut names = Names::with_capacity(self.count, self.name_bytes);
            if text.matches(TERMINATOR).count() != self.count || !text.ends_with(TERMINATOR) {
                return Err("does not have as many names as its task_count".to_owned());
            }
            text.split_terminator(TERMINATOR).for_each(|name| names.push(name));
            Ok(NameBlock { first: self.first, names })
        }))
    }
}
