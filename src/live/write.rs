//! What is done to a tracker: opened, adopted, reported to, sealed, and let go. Each is one script that checks
//! everything before its first write, or takes that back.

use std::ops::Range;
use std::time::Duration;

use redis::Value;

use super::header::millis;
use super::scripts::Call;
use super::{Error, HEADER_BYTES, Header, HeaderError, Live, keys, scripts, ttl_millis};
use crate::deadline::Deadline;
use crate::domain::{Cells, Change, JobId, Layout, MarkStep, StallCondition};

/// Runs of so few bytes are set byte by byte, as fields of one command for all: each costs Redis half of what a run does.
const FIELD_BYTES: usize = 2;
/// What Lua passes to a command at once: a field takes four.
const MAX_ARGUMENTS: usize = 8_000;
const _: () = assert!(4 * FIELD_BYTES * MarkStep::MAX_RUNS + 2 < MAX_ARGUMENTS, "a step has too many fields");

/// Why a script left a tracker as it was.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// There is none.
    Missing,
    /// The key holds something else, or a damaged tracker.
    Corrupt,
    /// A tracker of a newer version.
    UnknownVersion,
    /// It is the tracker of another incarnation.
    OtherIncarnation,
    /// It is not adopted under the generation that answers.
    NotAdopted,
    /// It is sealed.
    Sealed,
    /// It is not sealed.
    NotSealed,
    /// Something is pending.
    Incomplete,
    /// It, or the image that was to become it, is of another generation than answers.
    Stale,
    /// It has not settled yet, or is not idle for long enough.
    Settling,
    /// Its header, or its revision, is another by now.
    Changed,
    /// What its header counts is not what is in its cells.
    CountsWrong,
}

/// What a report did to a tracker.
#[derive(Debug, Clone)]
pub enum MarkReply {
    /// The change was applied.
    Applied(Header),
    /// Nothing was: the runs hold these bytes, one after the other.
    Conflict(Vec<u8>),
    /// Nothing was, nor would be.
    Refused(Refusal),
}

/// What a seal says: the end that is to be committed.
#[derive(Debug, Clone, Copy)]
pub enum Seal<'a> {
    /// Nothing is pending.
    Complete,
    /// A caller cancelled the job, for this reason.
    Cancelled(&'a str),
    /// No mark was new for too long; refused unless that is so. A complete tracker is sealed as that.
    Revoked(StallCondition),
}

/// A run of bytes of a step.
struct Run<'a> {
    /// Where they are, counted from the first cell.
    bytes: Range<usize>,
    expected: &'a [u8],
    new: &'a [u8],
    is_fields: bool,
}

struct Reply {
    status: String,
    header: Option<Header>,
    rest: Vec<Vec<u8>>,
}

impl Live {
    /// Opens a tracker that is not adopted, for the start or the restore that Postgres issued `incarnation` to: blank, or
    /// with the marks that are `restored`.
    pub async fn open(
        &self,
        id: &JobId,
        layout: Layout,
        incarnation: u64,
        restored: Option<&Cells>,
        deadline: Deadline,
    ) -> Result<Result<(), Refusal>, Error> {
        let (generation, now) = self.generation(deadline).await?;
        let mut header = Header::open(layout, incarnation, generation, now);
        if let Some(cells) = restored {
            (header.restored, header.counts) = (true, cells.count());
        }
        let mut image = header.encode().to_vec();
        image.extend(restored.map(Cells::bytes).unwrap_or_default());
        image.resize(HEADER_BYTES + layout.bytes(), 0);
        // Uploaded beside and renamed: letting Redis make twenty megabytes of zeros would hold it for 26 ms.
        let mut upload = redis::pipe();
        let image_ttl = ttl_millis(deadline.remaining()).max(1000);
        upload.cmd("SET").arg(keys::image(id, incarnation)).arg(image).arg("PX").arg(image_ttl);
        if let Some(Value::ServerError(error)) =
            self.connection.pipeline(&mut upload, deadline).await?.into_iter().next()
        {
            return Err(Error::Refused(error.to_string()));
        }
        let mut call = Call::of(&scripts::OPEN, &[keys::image(id, incarnation), keys::tracker(id)]);
        call.arg(incarnation).arg(ttl_millis(self.tracker_ttl));
        let reply = self.call(&call, deadline).await?;
        Ok(if reply.status == "OPENED" { Ok(()) } else { Err(reply.refusal()?) })
    }

    /// Whether Redis takes writes of the job now; an error if it does not.
    pub async fn check_writable(&self, id: &JobId, deadline: Deadline) -> Result<(), Error> {
        let mut commands = redis::pipe();
        commands.cmd("SET").arg(keys::probe(id)).arg("").arg("PX").arg(1);
        match self.connection.pipeline(&mut commands, deadline).await?.into_iter().next() {
            Some(Value::ServerError(error)) => Err(Error::Refused(error.to_string())),
            _ => Ok(()),
        }
    }

    /// Takes up a tracker that Redis may have lost marks of: it is to settle, and be adopted, under this generation.
    /// `found` is its incarnation, `incarnation` what it shall be: another one for a tracker that is not the job's own,
    /// which also takes its seal off.
    pub async fn reopen(
        &self,
        id: &JobId,
        found: u64,
        incarnation: u64,
        deadline: Deadline,
    ) -> Result<Result<Header, Refusal>, Error> {
        let mut call = Call::of(&scripts::REOPEN, &[keys::tracker(id)]);
        call.arg(found).arg(incarnation).arg(ttl_millis(self.tracker_ttl));
        self.call(&call, deadline).await?.header_if("REOPENED")
    }

    /// Renames what is no tracker out of the way, to be looked at by a person; whether it did.
    pub async fn quarantine(&self, id: &JobId, deadline: Deadline) -> Result<bool, Error> {
        let mut call = Call::of(&scripts::QUARANTINE, &[keys::tracker(id), keys::quarantine(id)]);
        call.arg(ttl_millis(self.tracker_ttl));
        Ok(self.call(&call, deadline).await?.status == "QUARANTINED")
    }

    /// Adopts the tracker of a job that Postgres says runs with this incarnation; one that was restored only once it
    /// has settled for so long.
    pub async fn adopt(
        &self,
        id: &JobId,
        incarnation: u64,
        settle: Duration,
        deadline: Deadline,
    ) -> Result<Result<Header, Refusal>, Error> {
        let mut call = Call::of(&scripts::ADOPT, &[keys::tracker(id)]);
        call.arg(incarnation).arg(ttl_millis(settle));
        self.call(&call, deadline).await?.header_if("ADOPTED")
    }

    /// Applies a change that was computed from the bytes `expected`. `only_adopted` is false for a caller that asks
    /// Postgres, before and after, whether the job runs with this incarnation.
    pub async fn report(
        &self,
        id: &JobId,
        incarnation: u64,
        only_adopted: bool,
        step: (&MarkStep, &[u8], &Change),
        deadline: Deadline,
    ) -> Result<MarkReply, Error> {
        let done = step.2.delta.done();
        self.mark(id, incarnation, only_adopted, step, done, deadline).await
    }

    /// Applies a change that brings back marks which were acknowledged before: no progress, so the rate does not count
    /// it. Adopted or not.
    pub async fn merge(
        &self,
        id: &JobId,
        incarnation: u64,
        step: (&MarkStep, &[u8], &Change),
        deadline: Deadline,
    ) -> Result<MarkReply, Error> {
        self.mark(id, incarnation, false, step, 0, deadline).await
    }

    async fn mark(
        &self,
        id: &JobId,
        incarnation: u64,
        only_adopted: bool,
        (marking, expected, change): (&MarkStep, &[u8], &Change),
        done: u64,
        deadline: Deadline,
    ) -> Result<MarkReply, Error> {
        // Fields are written before they are compared, so what stays as it is does not go as such; nor does what changes
        // nothing, which bytes that no marks have set can be, too.
        let counts = !change.delta.is_none();
        let runs: Vec<_> = marking
            .of_each(expected)
            .zip(marking.of_each(&change.bytes))
            .map(|((run, expected), (_, new))| {
                let is_fields = counts && run.len() <= FIELD_BYTES && expected != new;
                Run { bytes: run.clone(), expected, new, is_fields }
            })
            .collect();
        let (fields, others): (Vec<_>, Vec<_>) = runs.iter().partition(|run| run.is_fields);
        let mut call = Call::of(&scripts::REPORT, &[keys::tracker(id)]);
        call.arg(incarnation).arg(u8::from(only_adopted)).arg(ttl_millis(self.tracker_ttl));
        call.arg(delta(change)?).arg(done);
        call.arg(fields.iter().flat_map(|run| run.expected).copied().collect::<Vec<u8>>());
        for (byte, new) in fields.iter().flat_map(|run| run.bytes.clone().zip(run.new)) {
            call.arg(8 * (HEADER_BYTES + byte)).arg(*new);
        }
        for Run { bytes, expected, new, .. } in others {
            call.arg(HEADER_BYTES + bytes.start).arg(HEADER_BYTES + bytes.end - 1).arg(*expected).arg(*new);
        }
        let reply = self.call(&call, deadline).await?;
        Ok(match reply.status.as_str() {
            "APPLIED" => MarkReply::Applied(reply.header()?),
            "CONFLICT" => MarkReply::Conflict(found(&runs, reply.rest)),
            _ => MarkReply::Refused(reply.refusal()?),
        })
    }

    /// Freezes a tracker; the header says for which cause, which is another's if that was first.
    pub async fn seal(
        &self,
        id: &JobId,
        incarnation: u64,
        seal: Seal<'_>,
        deadline: Deadline,
    ) -> Result<Result<Header, Refusal>, Error> {
        let (cause, reason) = match seal {
            Seal::Complete => (1, ""),
            Seal::Cancelled(reason) => (2, reason),
            Seal::Revoked(_) => (3, ""),
        };
        let mut call = Call::of(&scripts::SEAL, &[keys::tracker(id), keys::reason(id)]);
        call.arg(incarnation).arg(cause).arg(reason).arg(ttl_millis(self.tracker_ttl));
        if let Seal::Revoked(StallCondition { revision, timeout, not_before }) = seal {
            call.arg(revision).arg(ttl_millis(timeout)).arg(millis(Some(not_before)));
        }
        // What is decided past a Redis that is away is less than it could be, so it must be away.
        Reply::of(self.connection.idempotent(&call, deadline).await?)?.header_if("SEALED")
    }

    /// The reason that was left beside the seal of a cancel; empty if there is none.
    pub async fn reason(&self, id: &JobId, deadline: Deadline) -> Result<String, Error> {
        let mut commands = redis::pipe();
        commands.cmd("GET").arg(keys::reason(id));
        match self.connection.pipeline(&mut commands, deadline).await?.into_iter().next() {
            Some(Value::BulkString(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            // Not an answer: what is committed without the reason has lost it for ever.
            Some(Value::ServerError(error)) if error.code() != "WRONGTYPE" => Err(Error::Refused(error.to_string())),
            _ => Ok(String::new()),
        }
    }

    /// Lets the sealed tracker of a job whose end is committed go away by itself.
    pub async fn expire(
        &self,
        id: &JobId,
        incarnation: u64,
        deadline: Deadline,
    ) -> Result<Result<Header, Refusal>, Error> {
        let mut call = Call::of(
            &scripts::EXPIRE,
            &[keys::tracker(id), keys::reason(id), keys::error_samples(id), keys::error_counts(id)],
        );
        call.arg(incarnation).arg(ttl_millis(self.sealed_ttl));
        self.call(&call, deadline).await?.header_if("EXPIRES")
    }

    /// Replaces the header `found` by `right`, which is `found` with other counts or without the seal.
    pub async fn repair(
        &self,
        id: &JobId,
        found: &Header,
        right: &Header,
        deadline: Deadline,
    ) -> Result<Result<Header, Refusal>, Error> {
        let mut call = Call::of(&scripts::REPAIR, &[keys::tracker(id)]);
        call.arg(&found.encode()[..]).arg(&right.encode()[..]);
        self.call(&call, deadline).await?.header_if("REPAIRED")
    }

    /// Gives running jobs' trackers, and what lies beside them, their whole time to live again.
    pub async fn renew(&self, ids: &[JobId], deadline: Deadline) -> Result<(), Error> {
        let mut commands = redis::pipe();
        for id in ids {
            for key in [keys::tracker(id), keys::error_samples(id), keys::error_counts(id)] {
                commands.cmd("PEXPIRE").arg(key).arg(ttl_millis(self.tracker_ttl));
            }
        }
        self.connection.pipeline(&mut commands, deadline).await.map(drop)
    }

    async fn call(&self, call: &Call, deadline: Deadline) -> Result<Reply, Error> {
        Reply::of(self.connection.script(call, deadline).await?)
    }
}

impl Reply {
    fn of(parts: Vec<Vec<u8>>) -> Result<Self, Error> {
        let mut parts = parts.into_iter();
        let status = String::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
        let header = match parts.next().map(|bytes| Header::decode(&bytes)) {
            None => None,
            Some(Ok(header)) => Some(header),
            // The script read what this codec does not: the two have come apart.
            Some(Err(error @ (HeaderError::Corrupt | HeaderError::UnknownVersion(_)))) => {
                return Err(Error::Unexpected(error.to_string()));
            }
        };
        Ok(Self { status, header, rest: parts.collect() })
    }

    fn header(self) -> Result<Header, Error> {
        self.header.ok_or_else(|| Error::Unexpected(format!("{} without a header", self.status)))
    }

    fn header_if(self, status: &str) -> Result<Result<Header, Refusal>, Error> {
        if self.status == status { self.header().map(Ok) } else { self.refusal().map(Err) }
    }

    fn refusal(self) -> Result<Refusal, Error> {
        Ok(match self.status.as_str() {
            "MISSING" => Refusal::Missing,
            "CORRUPT" => Refusal::Corrupt,
            "UNKNOWN_VERSION" => Refusal::UnknownVersion,
            "OTHER_INCARNATION" => Refusal::OtherIncarnation,
            "NOT_ADOPTED" => Refusal::NotAdopted,
            "SEALED" => Refusal::Sealed,
            "NOT_SEALED" => Refusal::NotSealed,
            "INCOMPLETE" => Refusal::Incomplete,
            "STALE" => Refusal::Stale,
            "SETTLING" => Refusal::Settling,
            "CHANGED" => Refusal::Changed,
            "COUNTS_WRONG" => Refusal::CountsWrong,
            _ => return Err(Error::Unexpected(format!("the status {:?}", self.status))),
        })
    }
}

/// The bytes of all runs, in their order, from an answer that has those of all fields first, and then those of each other
/// run.
fn found(runs: &[Run<'_>], answer: Vec<Vec<u8>>) -> Vec<u8> {
    let mut answer = answer.into_iter();
    let mut fields = answer.next().unwrap_or_default().into_iter();
    let mut bytes = Vec::new();
    for run in runs {
        if run.is_fields {
            bytes.extend(fields.by_ref().take(run.bytes.len()));
        } else {
            bytes.append(&mut answer.next().unwrap_or_default());
        }
    }
    bytes
}

/// What is added to the counts, as the script takes it.
fn delta(change: &Change) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(change.delta.0.len() * 12);
    for stage in &change.delta.0 {
        for count in [stage.succeeded, stage.failed, stage.skipped] {
            let count = i32::try_from(count).map_err(|_| Error::Unexpected("a report of billions".to_owned()))?;
            bytes.extend_from_slice(&count.to_be_bytes());
        }
    }
    Ok(bytes)
}
