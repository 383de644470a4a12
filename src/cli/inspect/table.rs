//! The output of `inspect`: what both stores hold of a job in two columns, and which rule of the read table applies.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::cli::wording::escaped;
use crate::domain::{Counts, EndCause, Job, JobId, Resolution, Source, SourceReason};
use crate::gateway::Inspection;
use crate::live::{Header, Tracker};
use crate::store::Snapshot;

/// Shown where a store holds nothing.
const NOTHING: &str = "-";

/// One line: a label, what Postgres holds, and what Redis holds.
type Line = [String; 3];

/// Returns the table and, below it, what a read returns and why.
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
        compare(header.map(|header| &header.counts), found.counted.as_ref()),
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
            Tracker::Corrupt => "not a tracker, or a damaged one".to_owned(),
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
                    (false, true) => "not adopted yet",
                    (false, false) => "opened under another generation",
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

/// Compares counts that are stored with a recount of the cells.
fn compare(counts: Option<&Counts>, recount: Option<&Counts>) -> Option<String> {
    let is_equal = counts? == recount?;
    Some(if is_equal { "match the counts" } else { "DO NOT MATCH the counts (or changed meanwhile)" }.to_owned())
}

/// Returns what a read returns, and why: the rule of the read table that applies.
fn explain(found: &Inspection, job: Option<&Job>, header: Option<&Header>) -> (String, String) {
    let fallback = |reason: &str, because: &str| (format!("FALLBACK ({reason}), a lower bound"), because.to_owned());
    let why = |reason| match reason {
        SourceReason::RedisUnreachable => ("REDIS_UNREACHABLE", "the job runs, but Redis is unreachable"),
        SourceReason::TrackerMissing => {
            ("TRACKER_MISSING", "the job runs, but its tracker is missing and will be restored")
        }
        SourceReason::TrackerCorrupt => (
            "TRACKER_CORRUPT",
            "the job runs, but the tracker key is corrupt; it will be quarantined and the tracker restored",
        ),
        SourceReason::TrackerUnknownVersion => {
            ("TRACKER_UNKNOWN_VERSION", "a newer gateway wrote the tracker in a format that this version cannot read")
        }
        SourceReason::TrackerNotAdopted => match (job, header) {
            (Some(job), Some(header)) if job.incarnation != header.incarnation => (
                "TRACKER_NOT_ADOPTED",
                "the incarnation of the tracker is not the one that Postgres has issued for the job",
            ),
            _ => (
                "TRACKER_NOT_ADOPTED",
                "the tracker has not been confirmed since Redis lost marks or may have lost some; it has to settle first",
            ),
        },
        SourceReason::PostgresUnreachable => {
            ("POSTGRES_UNREACHABLE", "Postgres is unreachable, so it is unknown whether the job still runs")
        }
        SourceReason::InLedger => ("IN_LEDGER", "the ledger holds reports that are not in the tracker yet"),
    };
    match found.resolution {
        Resolution::Tracker { source: Source::Fallback(reason), .. } => {
            let (name, because) = why(reason);
            fallback(
                name,
                &format!("{because}; the counts combine the tracker with the ledger and the mirror of the gateway"),
            )
        }
        Resolution::Tracker { .. } => (
            "LIVE".to_owned(),
            "the job runs, and its tracker is adopted and has the current incarnation, so it is trusted alone"
                .to_owned(),
        ),
        Resolution::Mirror(reason) => {
            let (name, because) = why(reason);
            fallback(name, &format!("{because}; the counts combine the ledger and the mirror of a gateway"))
        }
        Resolution::Unknown(reason) => {
            let (name, because) = why(reason);
            (
                format!("FALLBACK ({name}) without counts"),
                format!("{because}; a gateway that has a mirror of the job returns the counts of the mirror"),
            )
        }
        Resolution::Snapshot => {
            ("SNAPSHOT".to_owned(), "the job has ended, and its stored snapshot is final".to_owned())
        }
        Resolution::Pending => ("SNAPSHOT, all pending".to_owned(), "the job has not been started".to_owned()),
        Resolution::NotFound => {
            ("NOT_FOUND".to_owned(), "Postgres has no such job, and a tracker alone is not a job".to_owned())
        }
        Resolution::Unavailable | Resolution::AskPostgres => {
            ("UNAVAILABLE".to_owned(), "neither store returned anything about the job".to_owned())
        }
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

/// Aligns the lines in columns. Lines on which neither store holds anything are left out.
fn aligned(lines: &[Line]) -> String {
    let lines: Vec<&Line> = lines.iter().filter(|line| line[1..].iter().any(|value| value != NOTHING)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let (first, second) = (width(0), width(1));
    let aligned = lines.iter().map(|[label, postgres, redis]| format!("{label:<first$}  {postgres:<second$}  {redis}"));
    aligned.collect::<Vec<_>>().join("\n")
}
