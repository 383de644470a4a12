//! What was found of a job, in two columns, and the rule of the read table that applies to it, in words.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::words::shown;
use crate::domain::{Counts, EndCause, Job, JobId, Resolution, Source, SourceReason};
use crate::gateway::Inspection;
use crate::live::{Header, Tracker};
use crate::store::Snapshot;

/// Where a store has nothing to say.
const NOTHING: &str = "-";

/// A line: what it is about, and what Postgres and Redis hold.
type Line = [String; 3];

/// All of it.
pub fn written(id: &JobId, found: &Inspection) -> String {
    let job = found.row.as_ref().and_then(Option::as_ref);
    let header = header(found);
    let mut lines = vec![line(id.as_str(), "Postgres", "Redis"), line("", &row(found), &tracker(found))];
    let incarnation = (job.map(|job| job.incarnation.to_string()), header.map(|header| header.incarnation.to_string()));
    lines.push(known("incarnation", incarnation.0, incarnation.1));
    lines.extend(times(job, header));
    let snapshot = found.snapshot.as_ref();
    let revision = |revision: u64| revision.to_string();
    lines.push(known(
        "revision",
        snapshot.map(|snapshot| revision(snapshot.revision)),
        header.map(|header| revision(header.revision)),
    ));
    lines.extend(counts(job, snapshot, header));
    lines.push(known(
        "its cells",
        recounted(snapshot.map(|one| &one.counts), found.stored.as_ref()),
        recounted(header.map(|one| &one.counts), found.counted.as_ref()),
    ));
    if let Some((rows, marks)) = found.ledger {
        lines.push(line("ledger", &format!("{marks} marks in {rows} rows"), NOTHING));
    }
    if let Some(job) = job.filter(|job| !job.cancel_reason.is_empty()) {
        lines.push(line("cancelled", &shown(&job.cancel_reason), NOTHING));
    }
    let (answer, because) = rule(found, job, header);
    format!("{}\n\nA read answers {answer}: {because}.", aligned(&lines))
}

fn header(found: &Inspection) -> Option<&Header> {
    match &found.view.as_ref().ok()?.tracker {
        Tracker::Present { header, .. } => Some(header),
        _ => None,
    }
}

/// What stands in Postgres.
fn row(found: &Inspection) -> String {
    match &found.row {
        None => "cannot be reached".to_owned(),
        Some(None) => "no such job".to_owned(),
        Some(Some(job)) => {
            let lower = found.snapshot.as_ref().is_some_and(|snapshot| snapshot.lower_bound);
            format!("{}{}", job.state, if lower { ", a lower bound" } else { "" })
        }
    }
}

/// What lies in Redis.
fn tracker(found: &Inspection) -> String {
    match &found.view {
        Err(error) => error.to_string(),
        Ok(view) => match &view.tracker {
            Tracker::Missing => "no tracker".to_owned(),
            Tracker::Corrupt => "no tracker, but something else, or a damaged one".to_owned(),
            Tracker::UnknownVersion => "a tracker of a newer version".to_owned(),
            Tracker::Present { header, believed, current } => {
                let sealed = match header.seal {
                    None => "open",
                    Some(EndCause::Complete) => "sealed: complete",
                    Some(EndCause::Cancelled) => "sealed: cancelled",
                    Some(EndCause::Revoked) => "sealed: revoked",
                };
                let adopted = match (believed, current) {
                    (true, _) => "adopted",
                    (false, true) => "not adopted yet",
                    (false, false) => "of another generation than answers now",
                };
                format!("{sealed}, {adopted}{}", if header.restored { ", restored" } else { "" })
            }
        },
    }
}

fn times(job: Option<&Job>, header: Option<&Header>) -> Vec<Line> {
    let (created, started, ended) =
        job.map_or((None, None, None), |job| (Some(job.create_time), job.start_time, job.end_time));
    let (opened, adopted) = header.map_or((None, None), |header| (Some(header.open_time), header.adopt_time));
    let (marked, sealed) = header.map_or((None, None), |header| (header.last_mark_time, header.seal_time));
    vec![
        known("created", moment(created), None),
        known("started / opened", moment(started), moment(opened)),
        known("adopted", None, moment(adopted)),
        known("last new mark", None, moment(marked)),
        known("ended / sealed", moment(ended), moment(sealed)),
    ]
}

/// A line for each stage.
fn counts(job: Option<&Job>, snapshot: Option<&Snapshot>, header: Option<&Header>) -> Vec<Line> {
    let stages = job.map(|job| job.definition.stages.iter().map(ToString::to_string).collect::<Vec<_>>());
    let number = header.map_or(0, |header| header.counts.stages.len()).max(stages.as_ref().map_or(0, Vec::len));
    let at = |counts: Option<&Counts>, stage: usize| {
        let counts = counts?;
        let here = counts.stages.get(stage)?;
        let (succeeded, failed, skipped) = (here.succeeded, here.failed, here.skipped);
        let pending = counts.pending(*here);
        Some(format!("{succeeded} succeeded, {failed} failed, {skipped} skipped, {pending} pending"))
    };
    let name = |stage: usize| {
        let key = stages.as_ref().and_then(|stages| stages.get(stage).cloned());
        key.unwrap_or_else(|| format!("stage {stage}"))
    };
    let stored = snapshot.map(|snapshot| &snapshot.counts);
    let live = header.map(|header| &header.counts);
    (0..number).map(|stage| known(&name(stage), at(stored, stage), at(live, stage))).collect()
}

/// Whether the cells say what is counted beside them.
fn recounted(beside: Option<&Counts>, cells: Option<&Counts>) -> Option<String> {
    let (beside, cells) = (beside?, cells?);
    Some(if beside == cells { "count the same" } else { "COUNT OTHERWISE (or were marked meanwhile)" }.to_owned())
}

/// What a read answers, and why: the read table's row, in words.
fn rule(found: &Inspection, job: Option<&Job>, header: Option<&Header>) -> (String, String) {
    let fallback = |reason: &str, because: &str| (format!("FALLBACK ({reason}), a lower bound"), because.to_owned());
    let why = |reason| match reason {
        SourceReason::RedisUnreachable => ("REDIS_UNREACHABLE", "the job runs, and Redis cannot be reached"),
        SourceReason::TrackerMissing => {
            ("TRACKER_MISSING", "the job runs, and its tracker is gone; it will be restored")
        }
        SourceReason::TrackerCorrupt => {
            ("TRACKER_CORRUPT", "the job runs, and what lies in the tracker's place is none; it will be set aside")
        }
        SourceReason::TrackerUnknownVersion => {
            ("TRACKER_UNKNOWN_VERSION", "a newer gateway wrote the tracker, and this one does not know how to read it")
        }
        SourceReason::TrackerNotAdopted => match (job, header) {
            (Some(job), Some(header)) if job.incarnation != header.incarnation => {
                ("TRACKER_NOT_ADOPTED", "the tracker is not that of the incarnation that Postgres names for the job")
            }
            _ => (
                "TRACKER_NOT_ADOPTED",
                "the tracker was not confirmed since Redis lost marks or may have; it settles first",
            ),
        },
        SourceReason::PostgresUnreachable => {
            ("POSTGRES_UNREACHABLE", "Postgres cannot be reached, so whether the job still runs is not known")
        }
        SourceReason::InLedger => ("IN_LEDGER", "reports are in the ledger that the tracker does not hold yet"),
    };
    match found.resolution {
        Resolution::Tracker { source: Source::Fallback(reason), .. } => {
            let (name, because) = why(reason);
            fallback(name, &format!("{because}; the tracker and what else is known are counted together"))
        }
        Resolution::Tracker { .. } => (
            "LIVE".to_owned(),
            "the job runs, and the tracker is adopted and of its incarnation, so it is believed alone".to_owned(),
        ),
        Resolution::Mirror(reason) => {
            let (name, because) = why(reason);
            fallback(name, &format!("{because}; the ledger, and a gateway's mirror, are what is known"))
        }
        Resolution::Unknown(reason) => {
            let (name, because) = why(reason);
            (
                format!("FALLBACK ({name}) without counts"),
                format!("{because}; a gateway with a mirror tells what that holds"),
            )
        }
        Resolution::Snapshot => {
            ("SNAPSHOT".to_owned(), "the job has ended, and what was stored then is the answer".to_owned())
        }
        Resolution::Pending => ("SNAPSHOT, all pending".to_owned(), "the job has not been started".to_owned()),
        Resolution::NotFound => ("NOT_FOUND".to_owned(), "Postgres has no such job, whatever lies in Redis".to_owned()),
        Resolution::Unavailable | Resolution::AskPostgres => {
            ("UNAVAILABLE".to_owned(), "neither store tells anything of the job".to_owned())
        }
    }
}

fn moment(time: Option<OffsetDateTime>) -> Option<String> {
    time.and_then(|time| time.format(&Rfc3339).ok())
}

fn known(what: &str, postgres: Option<String>, redis: Option<String>) -> Line {
    let [postgres, redis] = [postgres, redis].map(|held| held.unwrap_or_else(|| NOTHING.to_owned()));
    [what.to_owned(), postgres, redis]
}

fn line(what: &str, postgres: &str, redis: &str) -> Line {
    [what, postgres, redis].map(str::to_owned)
}

/// In columns; lines on which neither store has anything are left out.
fn aligned(lines: &[Line]) -> String {
    let told: Vec<&Line> = lines.iter().filter(|line| line[1..].iter().any(|held| held != NOTHING)).collect();
    let width = |column: usize| told.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let (first, second) = (width(0), width(1));
    let written = told.iter().map(|[what, postgres, redis]| format!("{what:<first$}  {postgres:<second$}  {redis}"));
    written.collect::<Vec<_>>().join("\n")
}
