//! Changes trackers: opens, adopts, marks, seals, repairs and expires them. Each kind of change of a tracker's content
//! is made by a script of its own, in one call. The script checks everything before its first write, or undoes the
//! write. Only [`Live::renew`] runs no script: it sends a pipeline of PEXPIRE. [`Live::open`] uploads the new tracker
//! with SET to another key, which its script then renames.

use std::ops::Range;
use std::time::Duration;

use redis::Value;

use super::header::millis;
use super::scripts::Call;
use super::{Error, HEADER_BYTES, Header, HeaderError, Live, scripts, ttl_millis};
use crate::deadline::Deadline;
use crate::domain::{Cells, Change, Digests, Incarnation, JobId, Layout, MarkStep, StallCondition, TrackerEpoch};

/// The maximum length of a run that is sent as fields. A run is a range of consecutive bytes that a step touches, and a
/// field is one byte of a short run that changes. One BITFIELD command writes all fields of a call, so that a field
/// costs Redis half as much time as a run.
const FIELD_BYTES: usize = 2;
/// The size of the cells of a tracker from which the tracker is large, in bytes.
const LARGE_TRACKER: usize = 1 << 20;
/// How long a large sealed tracker is kept after its job's end was committed, if `sealed_ttl` is longer. Postgres must
/// forget the end within this time for the tracker to end the job again.
const LARGE_SEALED_TTL: Duration = Duration::from_secs(60);
/// The limit for the number of arguments that Lua passes to one command (the limit of `unpack`). A field takes four
/// arguments.
const MAX_ARGUMENTS: usize = 8_000;
const _: () = assert!(4 * FIELD_BYTES * MarkStep::MAX_RUNS + 2 < MAX_ARGUMENTS, "a step has too many fields");

/// Why a script refused to change a tracker. The script changed nothing.
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
    /// The tracker has another generation than the current one. For [`Live::open`]: the uploaded image of the new
    /// tracker has another generation or is missing.
    Stale,
    /// The tracker has not settled yet, or it was not idle for long enough to be revoked.
    Settling,
    /// The header or the revision of the tracker has changed since it was read.
    Changed,
    /// The change does not fit the counts in the header, so the header contradicts the cells.
    CountsWrong,
}

/// The decision of a script. `Ok` holds the result of the change, in most cases the tracker's header after it. `Err`
/// holds the reason why the script changed nothing. Methods return this type inside another `Result`. An error of the
/// outer `Result` means that no decision was received, for example because Redis is unreachable. The script may have
/// run nevertheless.
pub type ScriptOutcome<T = Header> = Result<T, Refusal>;

/// A step to write to a tracker, as a compare-and-set.
#[derive(Debug, Clone, Copy)]
pub struct StepWrite<'a> {
    /// The marks to set, and the runs of bytes that hold them.
    pub step: &'a MarkStep,
    /// The bytes that the step's runs must hold before the change, concatenated.
    pub expected: &'a [u8],
    /// The change that the step makes to the expected bytes.
    pub change: &'a Change,
}

/// The result of setting marks in a tracker.
#[derive(Debug, Clone)]
pub enum MarkReply {
    /// The change was applied. The header is the tracker's header after the change.
    Applied(Header),
    /// Nothing was changed, because the step's runs hold other bytes than expected. The value holds the actual bytes of
    /// the runs, concatenated. Compute the change from the actual bytes and call again.
    Conflict(Vec<u8>),
    /// Nothing was changed. The refusal says what must change first.
    Refused(Refusal),
}

/// Why a tracker is sealed. The cause decides which end is to be committed.
#[derive(Debug, Clone, Copy)]
pub enum Seal<'a> {
    /// Nothing is pending.
    Complete,
    /// A caller cancelled the job, for this reason.
    Cancelled(&'a str),
    /// The job made no progress. The seal is refused unless the condition holds. A complete tracker is sealed as
    /// complete instead.
    Revoked(StallCondition),
}

/// A run: a range of consecutive bytes that a step touches.
struct Run<'a> {
    /// The offsets of the bytes, from the first cell.
    bytes: Range<usize>,
    expected: &'a [u8],
    new: &'a [u8],
    /// Whether each byte is sent as a field.
    is_fields: bool,
}

/// The reply of a script: a status, in most cases the tracker's header, and further values of some scripts.
struct Reply {
    status: String,
    header: Option<Header>,
    rest: Vec<Vec<u8>>,
}

impl Live {
    /// Opens a tracker for the start or restore to which Postgres issued `incarnation`. The new tracker is not adopted.
    /// It holds the marks of `restored`, or no marks if `restored` is `None`.
    pub async fn open(
        &self,
        id: &JobId,
        layout: Layout,
        incarnation: Incarnation,
        restored: Option<&Cells>,
        deadline: Deadline,
    ) -> Result<ScriptOutcome<()>, Error> {
        let (generation, now) = self.generation(deadline).await?;
        let epoch = TrackerEpoch { incarnation, generation };
        let mut header = Header::open(self.installation()?, layout, epoch, now);
        if let Some(cells) = restored {
            (header.restored, header.counts) = (true, cells.count());
            *header.digests = Digests::of(layout, cells.bytes());
        }
        let mut image = header.encode().to_vec();
        image.extend(restored.map(Cells::bytes).unwrap_or_default());
        image.resize(HEADER_BYTES + layout.bytes(), 0);
        // The image is uploaded to another key and renamed. If the script created twenty megabytes of zeros, it would
        // block Redis for 26 ms.
        let mut upload = redis::pipe();
        let image_ttl = ttl_millis(deadline.remaining()).max(1000);
        upload.cmd("SET").arg(self.keys.image(id, incarnation)).arg(image).arg("PX").arg(image_ttl);
        if let Some(Value::ServerError(error)) =
            self.connection.pipeline(&mut upload, deadline).await?.into_iter().next()
        {
            return Err(Error::Refused(error.to_string()));
        }
        let mut call = Call::of(&scripts::OPEN, &[self.keys.image(id, incarnation), self.keys.tracker(id)]);
        call.arg(self.owner(incarnation)?).arg(ttl_millis(self.tracker_ttl));
        let reply = self.call(&call, deadline).await?;
        Ok(if reply.status == "OPENED" { Ok(()) } else { Err(reply.refusal()?) })
    }

    /// Reopens a tracker that may have lost marks: gives it the current generation and `incarnation`. `found` is its
    /// present incarnation. The marks stay, and the tracker must settle before it is adopted. If the incarnations
    /// differ, the seal is removed. If they are equal, the seal would stay, so a sealed tracker is refused.
    pub async fn reopen(
        &self,
        id: &JobId,
        found: Incarnation,
        incarnation: Incarnation,
        deadline: Deadline,
    ) -> Result<ScriptOutcome, Error> {
        let mut call = Call::of(&scripts::REOPEN, &[self.keys.tracker(id)]);
        call.arg(self.owner(found)?).arg(incarnation.get()).arg(ttl_millis(self.tracker_ttl));
        self.call(&call, deadline).await?.header_if("REOPENED")
    }

    /// Renames a corrupt tracker key, so that a restored tracker can take its place and an operator can inspect the
    /// value. Returns whether the key was renamed. A tracker with an intact header is renamed only if it has the epoch
    /// `damaged`: its cells were found not to match their digests. A tracker of a newer version is never renamed.
    pub async fn quarantine(
        &self,
        id: &JobId,
        damaged: Option<TrackerEpoch>,
        deadline: Deadline,
    ) -> Result<bool, Error> {
        let mut call = Call::of(&scripts::QUARANTINE, &[self.keys.tracker(id), self.keys.quarantine(id)]);
        call.arg(ttl_millis(self.tracker_ttl));
        if let Some(TrackerEpoch { incarnation, generation }) = damaged {
            call.arg(self.owner(incarnation)?).arg(&generation.0[..]);
        }
        Ok(self.call(&call, deadline).await?.status == "QUARANTINED")
    }

    /// Adopts a tracker. The caller must know from Postgres that the job runs with this incarnation, or that the job's
    /// end is a lower bound that this tracker can amend. A restored tracker is adopted only after it has settled for
    /// `settle`.
    pub async fn adopt(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        settle: Duration,
        deadline: Deadline,
    ) -> Result<ScriptOutcome, Error> {
        let mut call = Call::of(&scripts::ADOPT, &[self.keys.tracker(id)]);
        call.arg(self.owner(incarnation)?).arg(ttl_millis(settle));
        self.call(&call, deadline).await?.header_if("ADOPTED")
    }

    /// Applies the change of a report to a tracker. If `require_adopted` is true, a tracker that is not adopted is
    /// refused. If it is false, the caller must check with Postgres, before and after this call, that the job runs with
    /// this incarnation.
    pub async fn apply_marks(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        require_adopted: bool,
        write: StepWrite<'_>,
        deadline: Deadline,
    ) -> Result<MarkReply, Error> {
        self.mark(id, incarnation, require_adopted, write, true, deadline).await
    }

    /// Merges marks that were acknowledged earlier into a tracker. The rates do not count these marks, but they
    /// restart the stall time. The tracker need not be adopted.
    pub async fn merge_marks(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        write: StepWrite<'_>,
        deadline: Deadline,
    ) -> Result<MarkReply, Error> {
        self.mark(id, incarnation, false, write, false, deadline).await
    }

    async fn mark(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        require_adopted: bool,
        StepWrite { step, expected, change }: StepWrite<'_>,
        counts_in_rates: bool,
        deadline: Deadline,
    ) -> Result<MarkReply, Error> {
        // The script writes fields before it compares them. A run that does not change is therefore not sent as fields:
        // the script compares such a run without writing it. The script also rejects fields if no count changes. Bytes
        // change without a change of the counts only if a cell holds a bit pattern that no mark produces.
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
        let mut call = Call::of(&scripts::REPORT, &[self.keys.tracker(id)]);
        call.arg(self.owner(incarnation)?).arg(u8::from(require_adopted)).arg(ttl_millis(self.tracker_ttl));
        call.arg(delta(change)?).arg(u8::from(counts_in_rates)).arg(digest_changes(change));
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

    /// Seals a tracker, which freezes its marks. The returned header names the cause of the seal. If the tracker was
    /// sealed before this call, the header names the cause of the first seal.
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
        let mut call = Call::of(&scripts::SEAL, &[self.keys.tracker(id), self.keys.reason(id)]);
        call.arg(self.owner(incarnation)?).arg(cause).arg(reason).arg(ttl_millis(self.tracker_ttl));
        if let Seal::Revoked(StallCondition { revision, timeout, not_before }) = seal {
            call.arg(revision).arg(ttl_millis(timeout)).arg(millis(Some(not_before)));
        }
        // This call is retried on a broken connection. Callers treat a failure as an unreachable Redis, and may end the
        // job as a lower bound.
        self.accept(Reply::of(self.connection.idempotent(&call, deadline).await?)?)?.header_if("SEALED")
    }

    /// Reads the reason that was stored with the seal of a cancel. The reason is empty if none was stored.
    pub async fn reason(&self, id: &JobId, deadline: Deadline) -> Result<String, Error> {
        let mut commands = redis::pipe();
        commands.cmd("GET").arg(self.keys.reason(id));
        match self.connection.pipeline(&mut commands, deadline).await?.into_iter().next() {
            Some(Value::BulkString(bytes)) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            // If an error were treated as an empty reason, the empty reason would be committed, and the real one would
            // be lost.
            Some(Value::ServerError(error)) if error.code() != "WRONGTYPE" => Err(Error::Refused(error.to_string())),
            _ => Ok(String::new()),
        }
    }

    /// Sets the time to live of a sealed tracker and of the job's other keys, which is shorter for a large tracker. The
    /// job's end must have been committed.
    pub async fn expire(
        &self,
        id: &JobId,
        incarnation: Incarnation,
        deadline: Deadline,
    ) -> Result<ScriptOutcome, Error> {
        let owner = self.owner(incarnation)?;
        let expire = |ttl| {
            let mut call = Call::of(
                &scripts::EXPIRE,
                &[self.keys.tracker(id), self.keys.reason(id), self.keys.error_samples(id), self.keys.error_counts(id)],
            );
            call.arg(owner.as_slice()).arg(ttl_millis(ttl));
            call
        };
        let outcome = self.call(&expire(self.sealed_ttl), deadline).await?.header_if("EXPIRES")?;
        // Otherwise, clients that create and cancel large jobs would fill Redis.
        let large = outcome.as_ref().is_ok_and(|header| header.layout().bytes() > LARGE_TRACKER);
        if large && self.sealed_ttl > LARGE_SEALED_TTL {
            return self.call(&expire(LARGE_SEALED_TTL), deadline).await?.header_if("EXPIRES");
        }
        Ok(outcome)
    }

    /// Replaces the header `found` with `correct`, which has correct counts and may lack the seal.
    pub async fn repair(
        &self,
        id: &JobId,
        found: &Header,
        correct: &Header,
        deadline: Deadline,
    ) -> Result<ScriptOutcome, Error> {
        let mut call = Call::of(&scripts::REPAIR, &[self.keys.tracker(id)]);
        call.arg(&found.encode()[..]).arg(&correct.encode()[..]);
        self.call(&call, deadline).await?.header_if("REPAIRED")
    }

    /// Renews the time to live of the trackers and errors of running jobs, in one pipeline.
    pub async fn renew(&self, ids: &[JobId], deadline: Deadline) -> Result<(), Error> {
        let mut commands = redis::pipe();
        for id in ids {
            for key in [self.keys.tracker(id), self.keys.error_samples(id), self.keys.error_counts(id)] {
                commands.cmd("PEXPIRE").arg(key).arg(ttl_millis(self.tracker_ttl));
            }
        }
        self.connection.pipeline(&mut commands, deadline).await.map(drop)
    }

    async fn call(&self, call: &Call, deadline: Deadline) -> Result<Reply, Error> {
        self.accept(Reply::of(self.connection.script(call, deadline).await?)?)
    }

    /// Returns the reply, unless the tracker belongs to another installation. This Redis is then not used.
    fn accept(&self, reply: Reply) -> Result<Reply, Error> {
        if reply.status == "FOREIGN" { Err(self.foreign()) } else { Ok(reply) }
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
        self.header
            .ok_or_else(|| Error::Unexpected(format!("a script returned the status {} without a header", self.status)))
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
            _ => return Err(Error::Unexpected(format!("a script returned the unexpected status {:?}", self.status))),
        })
    }
}

/// Extracts the bytes of all runs, in order, from the reply to a conflict. The first value after the header holds the
/// bytes of all fields. Each further value holds the bytes of one run that was not sent as fields.
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

/// Encodes the change of the counts as `report.lua` expects it.
fn delta(change: &Change) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::with_capacity(change.delta.0.len() * 12);
    for stage in &change.delta.0 {
        for count in [stage.succeeded, stage.failed, stage.skipped] {
            let count = i32::try_from(count)
                .map_err(|_| Error::Unexpected("a change of the counts exceeds 32 bits".to_owned()))?;
            bytes.extend_from_slice(&count.to_be_bytes());
        }
    }
    Ok(bytes)
}

/// Encodes the change of the digests as `report.lua` expects it.
fn digest_changes(change: &Change) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (region, difference) in change.digests.nonzero() {
        bytes.push(u8::try_from(region).unwrap_or(u8::MAX));
        bytes.extend_from_slice(&difference.to_be_bytes()[2..]);
    }
    bytes
}
