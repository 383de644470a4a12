//! Changes trackers: opens, adopts, marks, seals, repairs and expires them. Each change is one script that either
//! checks everything before its first write or undoes the write.

use std::ops::Range;
use std::time::Duration;

use redis::Value;

use super::header::millis;
use super::scripts::Call;
use super::{Error, HEADER_BYTES, Header, HeaderError, Live, keys, scripts, ttl_millis};
use crate::deadline::Deadline;
use crate::domain::{Cells, Change, Incarnation, JobId, Layout, MarkStep, StallCondition};

/// Runs of at most this many bytes are set as fields, byte by byte, by one command for all of them. A field costs Redis
/// half as much time as a run.
const FIELD_BYTES: usize = 2;
/// The most arguments that Lua passes to one command. A field takes four.
const MAX_ARGUMENTS: usize = 8_000;
const _: () = assert!(4 * FIELD_BYTES * MarkStep::MAX_RUNS + 2 < MAX_ARGUMENTS, "a step has too many fields");

/// Why a script refused to change a tracker. The tracker is as it was.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// The tracker does not exist.
    Missing,
    /// The key holds a damaged tracker or something else.
    Corrupt,
    /// The tracker has a newer format version.
    UnknownVersion,
    /// The tracker has another incarnation.
    OtherIncarnation,
    /// The tracker is not adopted under the current generation.
    NotAdopted,
    /// The tracker is sealed.
    Sealed,
    /// The tracker is not sealed.
    NotSealed,
    /// The tracker has pending tasks.
    Incomplete,
    /// The tracker, or the uploaded image of a new one, is of another generation than the current one.
    Stale,
    /// The tracker has not settled yet or has not been idle for long enough.
    Settling,
    /// The header or the revision of the tracker has changed since it was read.
    Changed,
    /// The counts in the header contradict the cells.
    CountsWrong,
}

/// The decision of a script: its result, in most cases the tracker's header after the change, or the reason why it
/// changed nothing. Methods return it inside a `Result` whose error means that no decision was received, for example
/// because Redis could not be reached; the script may have run all the same.
pub type ScriptOutcome<T = Header> = Result<T, Refusal>;

/// A step to write to a tracker, as a compare-and-set.
#[derive(Debug, Clone, Copy)]
pub struct StepWrite<'a> {
    /// The step.
    pub step: &'a MarkStep,
    /// The bytes that the step's runs must hold, concatenated.
    pub expected: &'a [u8],
    /// The change that the step makes to the expected bytes.
    pub change: &'a Change,
}

/// The result of setting marks in a tracker.
#[derive(Debug, Clone)]
pub enum MarkReply {
    /// The change was applied; the header is the new one.
    Applied(Header),
    /// Nothing was changed, because the runs hold other bytes than expected: these, concatenated. Compute the change
    /// from them and try again.
    Conflict(Vec<u8>),
    /// Nothing was changed, and a repetition would be refused as well.
    Refused(Refusal),
}

/// The cause for which a tracker is sealed: the end that is to be committed.
#[derive(Debug, Clone, Copy)]
pub enum Seal<'a> {
    /// Nothing is pending.
    Complete,
    /// A caller cancelled the job, for this reason.
    Cancelled(&'a str),
    /// The job made no progress. Refused unless the condition holds; a complete tracker is sealed as complete instead.
    Revoked(StallCondition),
}

/// A run of bytes that a step changes.
struct Run<'a> {
    /// The offsets of the bytes, from the first cell.
    bytes: Range<usize>,
    expected: &'a [u8],
    new: &'a [u8],
    /// Whether the bytes are sent as fields, each by itself.
    is_fields: bool,
}

/// The reply of a script: its status, mostly with the tracker's header.
struct Reply {
    status: String,
    header: Option<Header>,
    rest: Vec<Vec<u8>>,
}

impl Live {
    /// Opens a tracker for the start or restore to which Postgres issued `incarnation`. The tracker is not adopted. It
    /// has no marks, or those of `restored`.
    pub async fn open(
        &self,
        id: &JobId,
        layout: Layout,
        incarnation: Incarnation,
        restored: Option<&Cells>,
        deadline: Deadline,
    ) -> Result<ScriptOutcome<()>, Error> {
        let (generation, now) = self.generation(deadline).await?;
        let mut header = Header::open(layout, incarnation, generation, now);
        if let Some(cells) = restored {
            (header.restored, header.counts) = (true, cells.count());
        }
        let mut image = header.encode().to_vec();
        image.extend(restored.map(Cells::bytes).unwrap_or_default());
        image.resize(HEADER_BYTES + layout.bytes(), 0);
        // Uploaded to another key and renamed, since creating twenty megabytes of zeros would block Redis for 26 ms.
        let mut upload = redis::pipe();
        let image_ttl = ttl_millis(deadline.remaining()).max(1000);
        upload.cmd("SET").arg(keys::image(id, incarnation)).arg(image).arg("PX").arg(image_ttl);
        if let Some(Value::ServerError(error)) =
            self.connection.pipeline(&mut upload, deadline).await?.into_iter().next()
        {
            return Err(Error::Refused(error.to_string()));
        }
        let mut call = Call::of(&scripts::OPEN, &[keys::image(id, incarnation), keys::tracker(id)]);
        call.arg(incarnation.get()).arg(ttl_millis(self.tracker_ttl));
        let reply = self.call(&call, deadline).await?;
        Ok(if reply.status == "OPENED" { Ok(()) } else { Err(reply.refusal()?) })
    }

    /// Puts a tracker that may have lost marks under the current generation, where it settles before it is adopted.
    /// `found` is its present incarnation, `incarnation` its new one. If they differ, as for a tracker that is not the
    /// job's own, the seal is removed.
    pub async fn reopen(
        &self,
        id: &JobId,
        found: Incarnation,
        incarnation: Incarnation,
        deadline: Deadline,
    ) -> Result<ScriptOutcome, Error> {
        let mut call = Call::of(&scripts::REOPEN, &[keys::tracker(id)]);
        call.arg(found.get()).arg(incarnation.get()).arg(ttl_millis(self.tracker_ttl));
        self.call(&call, deadline).await?.header_if("REOPENED")
    }

    /// Renames a corrupt tracker key out of the way, for inspection by a person. Returns whether it did; an intact
    /// tracker or one of a newer version stays.
    pub async fn quarantine(&self, id: &JobId, deadline: Deadline) -> Result<bool, Error> {
        let mut call = Call::of(&scripts::QUARANTINE, &[keys::tracker(id), keys::quarantine(id)]);
        call.arg(ttl_millis(self.tracker_ttl));
        Ok(self.call(&call, deadline).await?.status == "QUARANTINED")
    }

    /// Adopts the tracker of a job that runs with this incarnation according to Postgres. A restored tracker is adopted
    /// only after it has settled for `settle`.
    pub async fn adopt(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        settle: Duration,
        deadline: Deadline,
    ) -> Result<ScriptOutcome, Error> {
        let mut call = Call::of(&scripts::ADOPT, &[keys::tracker(id)]);
        call.arg(incarnation.get()).arg(ttl_millis(settle));
        self.call(&call, deadline).await?.header_if("ADOPTED")
    }

    /// Applies a report's change to a tracker. `require_adopted` is false for a caller that checks with Postgres, before
    /// and after, that the job runs with this incarnation.
    pub async fn apply_marks(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        require_adopted: bool,
        write: StepWrite<'_>,
        deadline: Deadline,
    ) -> Result<MarkReply, Error> {
        let done = write.change.delta.done();
        self.mark(id, incarnation, require_adopted, write, done, deadline).await
    }

    /// Applies a change that restores marks which were acknowledged earlier. It is not progress, so the rate does not
    /// count it. The tracker need not be adopted.
    pub async fn merge_marks(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        write: StepWrite<'_>,
        deadline: Deadline,
    ) -> Result<MarkReply, Error> {
        self.mark(id, incarnation, false, write, 0, deadline).await
    }

    async fn mark(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        require_adopted: bool,
        StepWrite { step, expected, change }: StepWrite<'_>,
        done: u64,
        deadline: Deadline,
    ) -> Result<MarkReply, Error> {
        // The script writes fields before it compares them, so unchanged bytes are not sent as fields; and it rejects
        // fields with unchanged counts, which cells with bits that no mark sets can lead to.
        let counts_change = !change.delta.is_none();
        let runs: Vec<_> = step
            .split(expected)
            .zip(step.split(&change.bytes))
            .map(|((run, expected), (_, new))| {
                let is_fields = counts_change && run.len() <= FIELD_BYTES && expected != new;
                Run { bytes: run.clone(), expected, new, is_fields }
            })
            .collect();
        let (fields, whole_runs): (Vec<_>, Vec<_>) = runs.iter().partition(|run| run.is_fields);
        let mut call = Call::of(&scripts::REPORT, &[keys::tracker(id)]);
        call.arg(incarnation.get()).arg(u8::from(require_adopted)).arg(ttl_millis(self.tracker_ttl));
        call.arg(delta(change)?).arg(done);
        call.arg(fields.iter().flat_map(|run| run.expected).copied().collect::<Vec<u8>>());
        for (byte, new) in fields.iter().flat_map(|run| run.bytes.clone().zip(run.new)) {
            call.arg(8 * (HEADER_BYTES + byte)).arg(*new);
        }
        for Run { bytes, expected, new, .. } in whole_runs {
            call.arg(HEADER_BYTES + bytes.start).arg(HEADER_BYTES + bytes.end - 1).arg(*expected).arg(*new);
        }
        let reply = self.call(&call, deadline).await?;
        Ok(match reply.status.as_str() {
            "APPLIED" => MarkReply::Applied(reply.header()?),
            "CONFLICT" => MarkReply::Conflict(conflicting_bytes(&runs, reply.rest)),
            _ => MarkReply::Refused(reply.refusal()?),
        })
    }

    /// Freezes a tracker. The returned header names the cause, which is that of the first seal if the tracker was
    /// already sealed.
    pub async fn seal(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        seal: Seal<'_>,
        deadline: Deadline,
    ) -> Result<ScriptOutcome, Error> {
        let (cause, reason) = match seal {
            Seal::Complete => (1, ""),
            Seal::Cancelled(reason) => (2, reason),
            Seal::Revoked(_) => (3, ""),
        };
        let mut call = Call::of(&scripts::SEAL, &[keys::tracker(id), keys::reason(id)]);
        call.arg(incarnation.get()).arg(cause).arg(reason).arg(ttl_millis(self.tracker_ttl));
        if let Seal::Revoked(StallCondition { revision, timeout, not_before }) = seal {
            call.arg(revision).arg(ttl_millis(timeout)).arg(millis(Some(not_before)));
        }
        // While Redis is down, callers end jobs from the marks that they find elsewhere, possibly as a lower bound. A
        // single broken connection must not have that effect.
        Reply::of(self.connection.idempotent(&call, deadline).await?)?.header_if("SEALED")
    }

    /// The reason that was stored with the seal of a cancel; empty if there is none.
    pub async fn reason(&self, id: &JobId, deadline: Deadline) -> Result<String, Error> {
        let mut commands = redis::pipe();
        commands.cmd("GET").arg(keys::reason(id));
        match self.connection.pipeline(&mut commands, deadline).await?.into_iter().next() {
            Some(Value::BulkString(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            // Not treated as an empty reason, which would be committed and lose the reason for good.
            Some(Value::ServerError(error)) if error.code() != "WRONGTYPE" => Err(Error::Refused(error.to_string())),
            _ => Ok(String::new()),
        }
    }

    /// Sets the time to live of the sealed tracker of a job whose end is committed, and of its other keys.
    pub async fn expire(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        deadline: Deadline,
    ) -> Result<ScriptOutcome, Error> {
        let mut call = Call::of(
            &scripts::EXPIRE,
            &[keys::tracker(id), keys::reason(id), keys::error_samples(id), keys::error_counts(id)],
        );
        call.arg(incarnation.get()).arg(ttl_millis(self.sealed_ttl));
        self.call(&call, deadline).await?.header_if("EXPIRES")
    }

    /// Replaces the header `found` by `correct`, which is `found` with other counts or without the seal.
    pub async fn repair(
        &self,
        id: &JobId,
        found: &Header,
        correct: &Header,
        deadline: Deadline,
    ) -> Result<ScriptOutcome, Error> {
        let mut call = Call::of(&scripts::REPAIR, &[keys::tracker(id)]);
        call.arg(&found.encode()[..]).arg(&correct.encode()[..]);
        self.call(&call, deadline).await?.header_if("REPAIRED")
    }

    /// Renews the time to live of the trackers and errors of running jobs.
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
    /// Parses a reply.
    fn of(parts: Vec<Vec<u8>>) -> Result<Self, Error> {
        let mut parts = parts.into_iter();
        let status = String::from_utf8(parts.next().unwrap_or_default()).unwrap_or_default();
        let header = match parts.next().map(|bytes| Header::decode(&bytes)) {
            None => None,
            Some(Ok(header)) => Some(header),
            // The script accepted a header that this codec rejects, so the two implementations disagree.
            Some(Err(error @ (HeaderError::Corrupt | HeaderError::UnknownVersion(_)))) => {
                return Err(Error::Unexpected(error.to_string()));
            }
        };
        Ok(Self { status, header, rest: parts.collect() })
    }

    fn header(self) -> Result<Header, Error> {
        self.header.ok_or_else(|| Error::Unexpected(format!("the status {} without a header", self.status)))
    }

    fn header_if(self, status: &str) -> Result<ScriptOutcome, Error> {
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

/// Extracts the bytes of all runs, in order, from the reply to a conflict: the bytes of all fields, followed by those
/// of each other run.
fn conflicting_bytes(runs: &[Run<'_>], answer: Vec<Vec<u8>>) -> Vec<u8> {
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

/// Encodes the change of the counts as the script takes it.
fn delta(change: &Change) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(change.delta.0.len() * 12);
    for stage in &change.delta.0 {
        for count in [stage.succeeded, stage.failed, stage.skipped] {
            let count = i32::try_from(count)
                .map_err(|_| Error::Unexpected("the counts change by more than 32 bits".to_owned()))?;
            bytes.extend_from_slice(&count.to_be_bytes());
        }
    }
    Ok(bytes)
}
