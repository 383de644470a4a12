//! The output of `inspect`: a table with one column for each store, and below it the answer to a read of the job. The
//! text after the answer says which rule of the read table (`src/domain/resolve.rs`) leads to it.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::wording::escaped;
use crate::domain::{Counts, EndCause, Job, JobId, Resolution, Source, SourceReason};
use crate::gateway::Inspection;
use crate::live::{CellsReading, Header, Tracker};
use crate::store::Snapshot;

/// Text in place of a value that a store does not hold.
const NOTHING: &str = "-";

/// One line of the table: the label, the value in Postgres, and the value in Redis.
type Line = [String; 3];

/// Returns the table and, below it, the answer to a read and the reason for this answer.
pub fn format(id: &JobId, found: &Inspection) -> String {
    let job = found.row.as_ref().and_then(Option::as_ref);
    let header = header(found);
    let mut lines = vec![line(id.as_str(), "Postgres", "Redis"), line("", &row(found), &tracker(found))];
    let incarnation = (job.map(|job| job.incarnation.to_string()), header.map(|header| header.incarnation.to_string()));
    lines.push(optional("incarnation", incarnation.0, incarnation.1));
    lines.extend(times(job, header));
    let snapshot = found.snapshot.as_ref();
    let revision = |revision: u64| revision.to_string();
    lines.push(optional(
        "revision",
        snapshot.map(|snapshot| revision(snapshot.revision)),
        header.map(|header| revision(header.revision)),
    ));
    lines.extend(counts(job, snapshot, header));
    lines.push(optional(
        "cells",
        compare(snapshot.map(|snapshot| &snapshot.counts), found.stored.as_ref()),
        header.zip(found.counted.as_ref()).and_then(|(header, cells)| compare_tracker(&header.counts, cells)),
    ));
    if let Some((rows, marks)) = found.ledger {
        lines.push(line("ledger", &format!("{marks} marks in {rows} rows"), NOTHING));
    }
    if let Some(job) = job.filter(|job| !job.cancel_reason.is_empty()) {
        lines.push(line("cancelled", &escaped(&job.cancel_reason), NOTHING));
    }
    let (answer, because) = explain(found, job, header);
    format!("{}\n\nA read returns {answer}: {because}.", aligned(&lines))
}

fn header(found: &Inspection) -> Option<&Header> {
    match &found.view.as_ref().ok()?.tracker {
        Tracker::Present { header, .. } => Some(header),
        _ => None,
    }
}

/// Describes the row of the job in Postgres.
fn row(found: &Inspection) -> String {
    match &found.row {
        None => "unreachable".to_owned(),
        Some(None) => "no such job".to_owned(),
        Some(Some(job)) => {
            let lower = found.snapshot.as_ref().is_some_and(|snapshot| snapshot.lower_bound);
            format!("{}{}", job.state, if lower { ", a lower bound" } else { "" })
        }
    }
}

/// Describes the tracker of the job in Redis.
fn tracker(found: &Inspection) -> String {
    match &found.view {
        Err(error) => error.to_string(),
        Ok(view) => match &view.tracker {
            Tracker::Missing => "no tracker".to_owned(),
            Tracker::Corrupt => "no valid tracker: the key is damaged or holds other data".to_owned(),
            Tracker::UnknownVersion => "a tracker of a newer version".to_owned(),
            Tracker::Present { header, trusted, current } => {
                let sealed = match header.seal {
                    None => "open",
                    Some(EndCause::Complete) => "sealed: complete",
                    Some(EndCause::Cancelled) => "sealed: cancelled",
                    Some(EndCause::Revoked) => "sealed: revoked",
                };
                let adopted = match (trusted, current) {
                    (true, _) => "adopted",
                    (false, true) => "not adopted",
                    (false, false) => "opened before Redis last restarted or failed over, or read from a replica",
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
        optional("created", moment(created), None),
        optional("started / opened", moment(started), moment(opened)),
        optional("adopted", None, moment(adopted)),
        optional("last new mark", None, moment(marked)),
        optional("ended / sealed", moment(ended), moment(sealed)),
    ]
}

/// Returns one line per stage.
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
    (0..number).map(|stage| optional(&name(stage), at(stored, stage), at(live, stage))).collect()
}

/// Compares stored counts with a recount of the cells. Returns `None` if either of them is unknown.
fn compare(counts: Option<&Counts>, recount: Option<&Counts>) -> Option<String> {
    let is_equal = counts? == recount?;
    // The counts and the cells are read one after the other, so a report in between makes them differ.
    let mismatch = "DO NOT MATCH the counts; run inspect again, and if this repeats, see \"A tracker key is corrupt\" \
                    in docs/runbook.md";
    Some(if is_equal { "match the counts" } else { mismatch }.to_owned())
}

/// Compares the counts in a tracker's header with its cells. Returns `None` if the cells could not be read.
fn compare_tracker(counts: &Counts, cells: &CellsReading<Counts>) -> Option<String> {
    match cells {
        CellsReading::Intact(recount) => compare(Some(counts), Some(recount)),
        CellsReading::Absent => None,
        CellsReading::Damaged(_) => Some(
            "DO NOT MATCH their digest; a gateway will quarantine the key and restore the tracker, see \"A tracker key \
             is corrupt\" in docs/runbook.md"
                .to_owned(),
        ),
    }
}

/// Returns the answer to a read, and the rule of the read table that leads to this answer.
fn explain(found: &Inspection, job: Option<&Job>, header: Option<&Header>) -> (String, String) {
    let fallback = |reason: &str, because: &str| (format!("FALLBACK ({reason}), a lower bound"), because.to_owned());
    let why = |reason| match reason {
        SourceReason::RedisUnreachable => ("REDIS_UNREACHABLE", "the job runs, but Redis is unreachable"),
        SourceReason::TrackerMissing => {
            ("TRACKER_MISSING", "the job runs, but its tracker is missing; a gateway will restore the tracker")
        }
        SourceReason::TrackerCorrupt => (
            "TRACKER_CORRUPT",
            "the job runs, but its tracker key is corrupt; a gateway will quarantine the key and restore the tracker",
        ),
        SourceReason::TrackerUnknownVersion => {
            ("TRACKER_UNKNOWN_VERSION", "a newer gateway wrote the tracker in a format that this version cannot read")
        }
        SourceReason::TrackerNotAdopted => ("TRACKER_NOT_ADOPTED", why_not_adopted(found, job, header)),
        SourceReason::PostgresUnreachable => {
            ("POSTGRES_UNREACHABLE", "Postgres is unreachable, so it is unknown whether the job still runs")
        }
        SourceReason::InLedger => {
            ("IN_LEDGER", "the ledger in Postgres holds reports that may not be in the tracker yet")
        }
    };
    // If Postgres is unreachable, a gateway adds neither ledger rows nor its mirror to the tracker's counts.
    let places = |reason| match reason {
        SourceReason::PostgresUnreachable => "are those of the tracker alone",
        _ => "combine the tracker with the ledger and the mirror of the gateway that answers",
    };
    match found.resolution {
        Resolution::Tracker { source: Source::Fallback(reason), .. } => {
            let (name, because) = why(reason);
            fallback(name, &format!("{because}; the counts {}", places(reason)))
        }
        Resolution::Tracker { .. } => (
            "LIVE".to_owned(),
            "the job runs, and its tracker is adopted and has the current incarnation, so its counts include every \
             acknowledged report"
                .to_owned(),
        ),
        Resolution::Mirror(reason) => {
            let (name, because) = why(reason);
            fallback(
                name,
                &format!("{because}; the counts combine the ledger with the mirror of the gateway that answers"),
            )
        }
        Resolution::Unknown(reason) => {
            let (name, because) = why(reason);
            (
                format!("FALLBACK ({name}) without counts"),
                format!("{because}; a gateway that has a mirror of the job returns the counts of its mirror"),
            )
        }
        Resolution::Snapshot => {
            ("SNAPSHOT".to_owned(), "the job has ended, and Postgres holds its snapshot".to_owned())
        }
        Resolution::Pending => ("SNAPSHOT, all pending".to_owned(), "the job has not been started".to_owned()),
        Resolution::NotFound => {
            ("NOT_FOUND".to_owned(), "Postgres has no such job, and a tracker without a row is not a job".to_owned())
        }
        Resolution::Unavailable | Resolution::AskPostgres => (
            "UNAVAILABLE".to_owned(),
            "Postgres is unreachable, and Redis returned no tracker that is adopted or has marks, so it is unknown \
             whether the job was started"
                .to_owned(),
        ),
    }
}

/// Returns why a running job's tracker cannot be trusted although it can be read.
fn why_not_adopted(found: &Inspection, job: Option<&Job>, header: Option<&Header>) -> &'static str {
    let current = matches!(&found.view, Ok(view) if matches!(view.tracker, Tracker::Present { current: true, .. }));
    match (job, header) {
        (Some(job), Some(header)) if job.incarnation != header.incarnation => {
            "the incarnation in the tracker is not the one that Postgres issued last for the job, so the tracker does \
             not belong to the job"
        }
        _ if !current => {
            "the tracker may have lost marks when Redis restarted or failed over, or this Redis is a replica"
        }
        (_, Some(header)) if header.restored => {
            "the tracker was restored, because Redis had lost marks or may have lost some, and no gateway has adopted \
             it since"
        }
        _ => "the tracker is new, and no gateway has confirmed it against Postgres yet",
    }
}

fn moment(time: Option<OffsetDateTime>) -> Option<String> {
    time.and_then(|time| time.format(&Rfc3339).ok())
}

fn optional(label: &str, postgres: Option<String>, redis: Option<String>) -> Line {
    let [postgres, redis] = [postgres, redis].map(|value| value.unwrap_or_else(|| NOTHING.to_owned()));
    [label.to_owned(), postgres, redis]
}

fn line(label: &str, postgres: &str, redis: &str) -> Line {
    [label, postgres, redis].map(str::to_owned)
}

/// Aligns the lines in columns, and leaves out lines without a value from either store.
fn aligned(lines: &[Line]) -> String {
    let lines: Vec<&Line> = lines.iter().filter(|line| line[1..].iter().any(|value| value != NOTHING)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let (first, second) = (width(0), width(1));
    let aligned = lines.iter().map(|[label, postgres, redis]| format!("{label:<first$}  {postgres:<second$}  {redis}"));
    aligned.collect::<Vec<_>>().join("\n")
}
