//! Stores the names of tasks (the manifest), and adds tasks to PENDING jobs.
//!
//! Names are stored in blocks. Each block is compressed as a whole, so that a name takes a fraction of its length. New
//! names are merged with the small blocks at the end, so that many small calls do not leave many small blocks.

use sqlx::PgConnection;

use super::call::{Close, Session};
use super::jobs::{from_integer, to_integer};
use super::zlib::{self, Compression};
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, MAX_TASKS, Names};
use crate::fault;

/// The number of names in a full block. Larger blocks do not compress better, and reading one name requires reading its
/// block.
const BLOCK_NAMES: usize = 4096;
/// The maximum number of blocks that one call reads. They take about a megabyte in each of the forms that decoding them
/// needs; with more, this temporary memory would exceed that of the index of a large manifest.
const BLOCKS_PER_READ: i64 = 8;
/// An upper limit for the number of small blocks at the end. Each small block has more names than all blocks after it
/// together, so there are at most 12 of them.
const SMALL_BLOCKS: i64 = 16;
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
    names: Vec<u8>,
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
        let add = async move |session: &mut Session<'_>| {
            let outcome = match lock(session, id).await? {
                None => AddOutcome::NotPending,
                Some(before) if before < known => AddOutcome::Forgotten,
                Some(before) => {
                    let new = choose(&read_between(session, id, known, before).await?);
                    append_within_limit(session, id, before, new).await?
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
    pub async fn names_from(&self, id: &JobId, from: u32, deadline: Deadline) -> Result<Vec<NameBlock>, Error> {
        let from = to_integer(from)?;
        let read = async |connection: &mut PgConnection| read(connection, id, from, BLOCKS_PER_READ).await;
        decompress(self.long_call(deadline, read).await?).await
    }

    /// Reads the blocks that contain the names of these tasks, in the order of the tasks, up to a fixed number per
    /// call.
    pub async fn names_of(&self, id: &JobId, tasks: &[u32], deadline: Deadline) -> Result<Vec<NameBlock>, Error> {
        let tasks: Vec<i32> = tasks.iter().map(|task| to_integer(*task)).collect::<Result<_, _>>()?;
        let query = sqlx::query_as!(
            BlockRow,
            r#"SELECT first_task, names FROM task_names
               WHERE job_id = $1 AND first_task IN (
                   SELECT (SELECT max(first_task) FROM task_names WHERE job_id = $1 AND first_task <= task)
                   FROM unnest($2::integer[]) AS task)
               ORDER BY first_task LIMIT $3"#,
            id.as_str(),
            &tasks,
            BLOCKS_PER_READ
        );
        let rows = self.long_call(deadline, async |connection| query.fetch_all(connection).await).await?;
        decompress(rows).await
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
async fn read_between(session: &mut Session<'_>, id: &JobId, from: u32, total: u32) -> Result<Vec<NameBlock>, Error> {
    let first = to_integer(from)?;
    let blocks = decompress(session.run(|connection| read(connection, id, first, i64::MAX)).await?).await?;
    let end = blocks.last().map_or(from, NameBlock::end);
    if end != total {
        return Err(Error::Unexpected(format!("job {id} has {total} tasks, but {end} names are stored")));
    }
    Ok(blocks)
}

async fn read(connection: &mut PgConnection, id: &JobId, from: i32, limit: i64) -> Result<Vec<BlockRow>, sqlx::Error> {
    let query = sqlx::query_as!(
        BlockRow,
        "SELECT first_task, names FROM task_names
         WHERE job_id = $1 AND first_task + task_count > $2
           AND first_task >= coalesce((SELECT max(first_task) FROM task_names WHERE job_id = $1 AND first_task <= $2), 0)
         ORDER BY first_task LIMIT $3",
        id.as_str(),
        from,
        limit
    );
    query.fetch_all(connection).await
}

/// Appends names after the names of the first `before` tasks, unless the job would have too many tasks.
async fn append_within_limit(
    session: &mut Session<'_>,
    id: &JobId,
    before: u32,
    new: Names,
) -> Result<AddOutcome, Error> {
    let after = before as usize + new.len();
    match u32::try_from(after).ok().filter(|after| *after <= MAX_TASKS) {
        None => Ok(AddOutcome::TooMany(after)),
        Some(after) => {
            append(session, id, before, new).await?;
            Ok(AddOutcome::From(before, after))
        }
    }
}

/// Appends names after the names of the first `before` tasks. Small blocks at the end are rewritten together with the
/// new names.
pub(super) async fn append(session: &mut Session<'_>, id: &JobId, before: u32, new: Names) -> Result<(), Error> {
    let first = first_to_rewrite(session, id, before, new.len()).await?;
    let delete = sqlx::query_as!(
        BlockRow,
        "DELETE FROM task_names WHERE job_id = $1 AND first_task >= $2 RETURNING first_task, names",
        id.as_str(),
        first
    );
    let mut rewritten = session.run(|connection| delete.fetch_all(connection)).await?;
    rewritten.sort_unstable_by_key(|block| block.first_task);
    let Packed { counts, bytes, names } = compress(decompress(rewritten).await?, new).await?;
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
async fn compress(before: Vec<NameBlock>, new: Names) -> Result<Packed, Error> {
    let packed = zlib::off_runtime(move || {
        let names: Vec<&str> = before.iter().flat_map(|block| block.names.iter()).chain(new.iter()).collect();
        let mut packed = Packed::default();
        for block in names.chunks(BLOCK_NAMES) {
            let text: String = block.iter().flat_map(|name| [*name, TERMINATOR]).collect();
            packed.counts.push(i32::try_from(block.len()).unwrap_or(i32::MAX));
            packed.bytes.push(i32::try_from(block.iter().map(|name| name.len()).sum::<usize>()).unwrap_or(i32::MAX));
            packed.names.push(zlib::compress(text.as_bytes(), Compression::default())?);
        }
        Ok(packed)
    });
    packed.await
}

async fn decompress(rows: Vec<BlockRow>) -> Result<Vec<NameBlock>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let block = |row: BlockRow| {
        let invalid = |error: &dyn std::fmt::Display| {
            Error::Unexpected(format!("a block of task names cannot be decoded: {error}"))
        };
        let bytes = zlib::decompress(&row.names, 0).map_err(|error| invalid(&error))?;
        let text = String::from_utf8(bytes).map_err(|error| invalid(&error))?;
        let mut names = Names::with_capacity(BLOCK_NAMES, text.len());
        text.split_terminator(TERMINATOR).for_each(|name| names.push(name));
        Ok(NameBlock { first: from_integer(row.first_task)?, names })
    };
    zlib::off_runtime(move || rows.into_iter().map(block).collect()).await
}
