//! Tasks that are added to PENDING jobs, and the manifest: which name is which task. Names lie in blocks, each
//! compressed as a whole, so that a name costs a fraction of itself; small blocks are merged with what comes behind them,
//! so that it does not matter by how many calls they came.

use sqlx::{Connection, PgConnection};

use super::jobs::{from_integer, to_integer};
use super::zlib::{self, Compression};
use super::{COMMIT_WITHIN, Error, Store};
use crate::breaker::Bound;
use crate::deadline::Deadline;
use crate::domain::{JobId, MAX_TASKS, Names};
use crate::fault;

/// How many names a full block has: the compression gains nothing by more, and a single name costs reading a block.
const BLOCK_NAMES: usize = 4096;
/// How many blocks are read at once: a few megabytes.
const BLOCKS_AT_ONCE: i64 = 32;
/// How many small blocks can lie side by side: each has more names than all behind it together.
const SMALL_BLOCKS: i64 = 16;
/// What ends each name in a block; no name has it.
const END: &str = "\n";

/// Names of tasks that follow each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameBlock {
    /// The first one's task.
    pub first: u32,
    /// Its name, and those of the tasks behind it.
    pub names: Names,
}

/// What became of a job to which tasks were to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddOutcome {
    /// It had so many tasks, and has so many now.
    From(u32, u32),
    /// It is not there, or not PENDING. As below, nothing was added.
    NotPending,
    /// It has fewer tasks than the caller knows of: Postgres has forgotten some.
    Forgotten,
    /// It would have so many, which are too many.
    TooMany(usize),
}

impl NameBlock {
    /// The task behind its last one.
    pub fn end(&self) -> u32 {
        self.first.saturating_add(u32::try_from(self.names.len()).unwrap_or(u32::MAX))
    }

    /// The name of this task, if it is one of these.
    pub fn name(&self, task: u32) -> Option<&str> {
        self.names.get(task.checked_sub(self.first)? as usize)
    }
}

impl Store {
    /// Gives a PENDING job this total, unless it has as many tasks already.
    pub async fn grow(&self, id: &JobId, total: u32, deadline: Deadline) -> Result<AddOutcome, Error> {
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let until = lease.deadline.clone();
        let mut transaction = until.bound(Connection::begin(&mut *lease.connection)).await??;
        let grown = match lock(&mut transaction, &until, id).await? {
            None => AddOutcome::NotPending,
            Some(before) => AddOutcome::From(before, total.max(before)),
        };
        set_total(&mut transaction, &until, id, grown).await?;
        until.bound(transaction.commit()).await??;
        fault::point("grow.committed").await;
        lease.give_back();
        Ok(grown)
    }

    /// Adds names to a PENDING job of which the caller knows the first `known`. `choose` is given those that were added
    /// since, under the job's lock, and answers the new ones.
    pub async fn add_names(
        &self,
        id: &JobId,
        known: u32,
        choose: impl FnOnce(&[NameBlock]) -> Names + Send,
        deadline: Deadline,
    ) -> Result<AddOutcome, Error> {
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let until = lease.deadline.clone();
        let mut transaction = until.bound(Connection::begin(&mut *lease.connection)).await??;
        let grown = match lock(&mut transaction, &until, id).await? {
            None => AddOutcome::NotPending,
            Some(before) if before < known => AddOutcome::Forgotten,
            Some(before) => {
                // In a second statement: the first, if it had to wait for the lock, sees other tables as before.
                let since = read(&mut transaction, &until, id, known, i64::MAX).await?;
                let end = since.last().map_or(known, NameBlock::end);
                if end != before {
                    return Err(Error::Unexpected(format!("{before} tasks of job {id} have {end} names")));
                }
                let new = choose(&since);
                let after = before as usize + new.len();
                match u32::try_from(after).ok().filter(|after| *after <= MAX_TASKS) {
                    None => AddOutcome::TooMany(after),
                    Some(after) => {
                        append(&mut transaction, &until, id, before, new).await?;
                        AddOutcome::From(before, after)
                    }
                }
            }
        };
        set_total(&mut transaction, &until, id, grown).await?;
        until.bound(transaction.commit()).await??;
        fault::point("grow.committed").await;
        lease.give_back();
        Ok(grown)
    }

    /// How many names the job has, and how many bytes they have together.
    pub async fn names_size(&self, id: &JobId, deadline: Deadline) -> Result<(usize, usize), Error> {
        let mut lease = self.lease(deadline).await?;
        let query = sqlx::query!(
            r#"SELECT coalesce(sum(task_count), 0) AS "count!", coalesce(sum(name_bytes), 0) AS "bytes!"
               FROM task_names WHERE job_id = $1"#,
            id.as_str()
        );
        let row = lease.deadline.bound(query.fetch_one(&mut *lease.connection)).await??;
        lease.give_back();
        let number = |number: i64| usize::try_from(number).map_err(|error| Error::Unexpected(error.to_string()));
        Ok((number(row.count)?, number(row.bytes)?))
    }

    /// Some blocks, the first of which holds the name of the task `from`; none behind the last name.
    pub async fn names_from(&self, id: &JobId, from: u32, deadline: Deadline) -> Result<Vec<NameBlock>, Error> {
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let until = lease.deadline.clone();
        let blocks = read(&mut lease.connection, &until, id, from, BLOCKS_AT_ONCE).await?;
        lease.give_back();
        Ok(blocks)
    }

    /// Blocks that hold the names of the first of these tasks, as many as are read at once.
    pub async fn names_of(&self, id: &JobId, tasks: &[u32], deadline: Deadline) -> Result<Vec<NameBlock>, Error> {
        let tasks: Vec<i32> = tasks.iter().map(|task| to_integer(*task)).collect::<Result<_, _>>()?;
        let mut lease = self.lease_within(COMMIT_WITHIN, deadline).await?;
        let query = sqlx::query!(
            r#"SELECT first_task, names FROM task_names
               WHERE job_id = $1 AND first_task IN (
                   SELECT (SELECT max(first_task) FROM task_names WHERE job_id = $1 AND first_task <= task)
                   FROM unnest($2::integer[]) AS task)
               ORDER BY first_task LIMIT $3"#,
            id.as_str(),
            &tasks,
            BLOCKS_AT_ONCE
        );
        let rows = lease.deadline.bound(query.fetch_all(&mut *lease.connection)).await??;
        lease.give_back();
        decompress(rows.into_iter().map(|row| (row.first_task, row.names)).collect()).await
    }
}

/// Locks a PENDING job; how many tasks it has.
async fn lock(connection: &mut PgConnection, until: &Bound, id: &JobId) -> Result<Option<u32>, Error> {
    let lock = sqlx::query_scalar!(
        "SELECT task_count FROM jobs WHERE job_id = $1 AND state = 'PENDING' FOR UPDATE",
        id.as_str()
    );
    let total = until.bound(lock.fetch_optional(connection)).await??;
    fault::point("grow.locked").await;
    total.map(from_integer).transpose()
}

/// Writes how many tasks the job has, if there are new ones. That takes the incarnation away from a start which has
/// opened a tracker for fewer.
async fn set_total(connection: &mut PgConnection, until: &Bound, id: &JobId, grown: AddOutcome) -> Result<(), Error> {
    if let AddOutcome::From(before, after) = grown
        && before < after
    {
        let write = sqlx::query!(
            "UPDATE jobs SET task_count = $2, created_task_count = coalesce(created_task_count, task_count),
                             incarnation = incarnation + 1
             WHERE job_id = $1",
            id.as_str(),
            to_integer(after)?
        );
        until.bound(write.execute(connection)).await??;
        fault::point("grow.written").await;
    }
    Ok(())
}

async fn read(
    connection: &mut PgConnection,
    until: &Bound,
    id: &JobId,
    from: u32,
    limit: i64,
) -> Result<Vec<NameBlock>, Error> {
    let query = sqlx::query!(
        "SELECT first_task, names FROM task_names
         WHERE job_id = $1 AND first_task + task_count > $2
           AND first_task >= coalesce((SELECT max(first_task) FROM task_names WHERE job_id = $1 AND first_task <= $2), 0)
         ORDER BY first_task LIMIT $3",
        id.as_str(),
        to_integer(from)?,
        limit
    );
    let rows = until.bound(query.fetch_all(connection)).await??;
    decompress(rows.into_iter().map(|row| (row.first_task, row.names)).collect()).await
}

/// Writes names behind those of the first `before` tasks, together with the small blocks there.
pub(super) async fn append(
    connection: &mut PgConnection,
    until: &Bound,
    id: &JobId,
    before: u32,
    new: Names,
) -> Result<(), Error> {
    let small = sqlx::query!(
        "SELECT first_task, task_count FROM task_names WHERE job_id = $1 ORDER BY first_task DESC LIMIT $2",
        id.as_str(),
        SMALL_BLOCKS
    );
    let small = until.bound(small.fetch_all(&mut *connection)).await??;
    let (mut first, mut count) = (to_integer(before)?, new.len());
    for block in small {
        let names = from_integer(block.task_count)? as usize;
        if names >= BLOCK_NAMES || names > count {
            break;
        }
        (first, count) = (block.first_task, count + names);
    }
    let taken = sqlx::query!(
        "DELETE FROM task_names WHERE job_id = $1 AND first_task >= $2 RETURNING first_task, names",
        id.as_str(),
        first
    );
    let mut taken = until.bound(taken.fetch_all(&mut *connection)).await??;
    taken.sort_unstable_by_key(|block| block.first_task);
    let taken = decompress(taken.into_iter().map(|block| (block.first_task, block.names)).collect()).await?;
    let Packed { counts, bytes, names } = compress(taken, new).await?;
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
    until.bound(insert.execute(connection)).await??;
    Ok(())
}

/// Blocks as they are stored, but for where they begin.
#[derive(Default)]
struct Packed {
    counts: Vec<i32>,
    bytes: Vec<i32>,
    names: Vec<Vec<u8>>,
}

/// Full blocks and a last one.
async fn compress(before: Vec<NameBlock>, new: Names) -> Result<Packed, Error> {
    let packed = zlib::off_runtime(move || {
        let names: Vec<&str> = before.iter().flat_map(|block| block.names.iter()).chain(new.iter()).collect();
        let mut packed = Packed::default();
        for block in names.chunks(BLOCK_NAMES) {
            let text: String = block.iter().flat_map(|name| [*name, END]).collect();
            packed.counts.push(i32::try_from(block.len()).unwrap_or(i32::MAX));
            packed.bytes.push(i32::try_from(block.iter().map(|name| name.len()).sum::<usize>()).unwrap_or(i32::MAX));
            packed.names.push(zlib::compress(text.as_bytes(), Compression::default())?);
        }
        Ok(packed)
    });
    packed.await
}

async fn decompress(rows: Vec<(i32, Vec<u8>)>) -> Result<Vec<NameBlock>, Error> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let block = |(first, compressed): (i32, Vec<u8>)| {
        let wrong = |error: &dyn std::fmt::Display| Error::Unexpected(format!("a block of names: {error}"));
        let bytes = zlib::decompress(&compressed, 0).map_err(|error| wrong(&error))?;
        let text = String::from_utf8(bytes).map_err(|error| wrong(&error))?;
        Ok(NameBlock { first: from_integer(first)?, names: text.split_terminator(END).collect() })
    };
    zlib::off_runtime(move || rows.into_iter().map(block).collect()).await
}
