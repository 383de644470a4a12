//! Checks reads. An ended job is never shown running (I6). Counts never exceed the reported results (I3). LIVE counts
//! are never below the acknowledged results (I7).

use super::super::history::{
    Call, History, Incident, Limits, Mark, Moment, ObservedProgress, Reply, Request, Source, State,
};
use super::ends::reported_marks;
use super::{Findings, JobHistory, MarkTable, Rule};

/// The source reason with which a gateway without Postgres may still show a job running.
const POSTGRES_UNREACHABLE: &str = "POSTGRES_UNREACHABLE";

pub fn judge(case: &JobHistory<'_>, history: &History, findings: &mut Findings) {
    let limits = history.limits;
    for call in &case.calls {
        if let Some(state) = call.reply.state() {
            findings.check(Rule::StateRegression, call.sent, &case.job.id, state_regression(case, call, state, limits));
        }
        if let Reply::Progress(observed) = &call.reply
            && let Some(counts) = &observed.counts
        {
            findings.check(Rule::WrongCounts, call.sent, &case.job.id, inconsistent_counts(case, counts));
            findings.check(Rule::UnmarkedLowerBound, call.sent, &case.job.id, unmarked_lower_bound(observed));
            if observed.source == Source::Snapshot && observed.state.is_final() && !observed.lower_bound {
                findings.check(Rule::SecondEnd, call.sent, &case.job.id, changed_counts(case, counts));
            }
        }
    }
    check_upper_bounds(case, findings);
    check_decreases(case, history, findings);
    let gateways = case.calls.iter().map(|call| call.gateway + 1).max().unwrap_or(0);
    for gateway in 0..gateways {
        check_live_lower_bounds(case, gateway, limits, findings);
    }
}

/// Returns a violation if the reply shows an earlier state than a client had seen before the call was sent.
fn state_regression(case: &JobHistory<'_>, call: &Call, state: State, limits: Limits) -> Option<String> {
    let after = |seen: Option<Moment>, allowed: Moment| seen.is_some_and(|seen| call.sent > seen + allowed);
    if state == State::Pending {
        let started = after(case.seen_running, 0);
        return started.then(|| format!("{:?} returned PENDING after the job was seen started", call.request));
    }
    if state != State::Running {
        return None;
    }
    let unsealed = case.end.is_some_and(super::End::is_unsealed);
    let cut_off = matches!(&call.reply, Reply::Progress(observed)
        if observed.source == Source::Fallback && observed.reason == POSTGRES_UNREACHABLE)
        // A claim without Postgres requires an open tracker, so it may return only a job that ended without a seal.
        && (unsealed || call.request != Request::Claim);
    // GetJob and claims read the row in Postgres, and do not depend on the feed.
    let depends_on_feed = !matches!(call.request, Request::Get | Request::Claim);
    let allowed = if unsealed && depends_on_feed { limits.feed } else { 0 };
    let ended = !cut_off && after(case.seen_ended, allowed);
    ended.then(|| {
        let seen = case.seen_ended.unwrap_or_default();
        format!(
            "gateway {} returned RUNNING {} ms after the job was seen ended: {:?}",
            call.gateway,
            (call.sent - seen) / 1000,
            call.reply
        )
    })
}

fn inconsistent_counts(case: &JobHistory<'_>, counts: &[[u32; 4]]) -> Option<String> {
    let consistent =
        counts.len() == case.job.stages && counts.iter().all(|stage| stage.iter().sum::<u32>() == case.job.tasks);
    (!consistent).then(|| {
        format!("the counts {counts:?} do not add up to {} tasks in {} stages", case.job.tasks, case.job.stages)
    })
}

fn changed_counts(case: &JobHistory<'_>, counts: &[[u32; 4]]) -> Option<String> {
    let end = case.end.filter(|end| !end.lower_bound)?;
    let shown: Vec<_> = counts.iter().map(|[_, succeeded, failed, skipped]| [*succeeded, *failed, *skipped]).collect();
    (shown != end.counts).then(|| format!("an ended job was shown with {shown:?}, but is stored with {:?}", end.counts))
}

/// Checks that counts never exceed the results that were sent before the reply.
fn check_upper_bounds(case: &JobHistory<'_>, findings: &mut Findings) {
    let mut reported: Vec<(Moment, Mark)> = case
        .calls
        .iter()
        .flat_map(|call| reported_marks(&call.request).iter().map(|mark| (call.sent, *mark)))
        .collect();
    reported.sort();
    let mut reads = reads_with_counts(case, |_| true);
    reads.sort_by_key(|(call, ..)| call.answered);
    let mut reported = reported.into_iter().peekable();
    let mut table = MarkTable::new(case.job);
    for (call, _, counts) in reads {
        while let Some((_, mark)) = reported.next_if(|(sent, _)| *sent <= call.answered) {
            table.add(mark);
        }
        let above = counts.iter().zip(table.succeeded.iter().zip(&table.processed)).any(
            |([_, succeeded, failed, _], (most_succeeded, most_processed))| {
                succeeded > most_succeeded || succeeded + failed > *most_processed
            },
        );
        let details = || {
            let (succeeded, processed) = (&table.succeeded, &table.processed);
            format!("{counts:?} exceeds the reported results: succeeded {succeeded:?}, processed {processed:?}")
        };
        findings.check(Rule::WrongCounts, call.sent, &case.job.id, above.then(details));
    }
}

/// A FALLBACK answer may miss acknowledged results, so it must say that its counts are lower bounds.
fn unmarked_lower_bound(observed: &ObservedProgress) -> Option<String> {
    let unmarked = observed.source == Source::Fallback && !observed.lower_bound;
    unmarked.then(|| format!("a FALLBACK answer ({}) is not marked as a lower bound", observed.reason))
}

/// Checks that an answer that is not a lower bound never counts less than an answer that arrived before the request,
/// through whichever gateway. Only a loss of data in Redis excuses this: results that were counted, but not yet
/// acknowledged, may be lost.
fn check_decreases(case: &JobHistory<'_>, history: &History, findings: &mut Findings) {
    let mut reads = reads_with_counts(case, |observed| !observed.lower_bound);
    reads.sort_by_key(|(call, ..)| call.sent);
    let mut earlier = reads.clone();
    earlier.sort_by_key(|(call, ..)| call.answered);
    let mut earlier = earlier.into_iter().peekable();
    let mut most = vec![[0; 2]; case.job.stages];
    let mut since = 0;
    for (call, _, counts) in reads {
        while let Some((before, _, counts)) = earlier.next_if(|(before, ..)| before.answered < call.sent) {
            if lost_data(history, since, before.answered) {
                most = vec![[0; 2]; case.job.stages];
            }
            since = before.sent;
            for (most, counts) in most.iter_mut().zip(counts) {
                *most = [most[0].max(counts[1]), most[1].max(counts[1] + counts[2])];
            }
        }
        let decreased =
            counts.iter().zip(&most).any(|([_, succeeded, failed, _], [most_succeeded, most_processed])| {
                succeeded < most_succeeded || succeeded + failed < *most_processed
            });
        let excused = lost_data(history, since, call.answered);
        let details = || format!("gateway {} returned {counts:?}, less than earlier answers ({most:?})", call.gateway);
        findings.check(Rule::CountsDecreased, call.sent, &case.job.id, (decreased && !excused).then(details));
    }
}

/// Whether Redis lost data at some moment of this interval.
fn lost_data(history: &History, from: Moment, to: Moment) -> bool {
    history.incidents.iter().any(|incident| match *incident {
        Incident::DataLost { from: lost, to: until } => until >= from && lost <= to,
        _ => false,
    })
}

/// Checks that an answer that is not a lower bound contains all results that were acknowledged before the request.
fn check_live_lower_bounds(case: &JobHistory<'_>, gateway: usize, limits: Limits, findings: &mut Findings) {
    let mut acks: Vec<(Moment, Mark)> = Vec::new();
    for ack in case.acks.iter().filter(|ack| !ack.unrecoverable) {
        // Other gateways learn of a ledger row through the feed.
        let delay = if ack.recorded && ack.gateway != gateway { limits.feed } else { 0 };
        acks.push((ack.at + delay, ack.mark));
    }
    acks.sort();
    let mut reads = reads_with_counts(case, |observed| !observed.lower_bound && observed.state == State::Running);
    reads.retain(|(call, ..)| call.gateway == gateway);
    reads.sort_by_key(|(call, ..)| call.sent);
    let mut acks = acks.into_iter().peekable();
    let mut table = MarkTable::new(case.job);
    for (call, observed, counts) in reads {
        while let Some((_, mark)) = acks.next_if(|(at, _)| *at < call.sent) {
            table.add(mark);
        }
        let below = counts.iter().zip(table.succeeded.iter().zip(&table.processed)).any(
            |([_, succeeded, failed, _], (least_succeeded, least_processed))| {
                succeeded < least_succeeded || succeeded + failed < *least_processed
            },
        );
        let details = || {
            let (succeeded, processed) = (&table.succeeded, &table.processed);
            format!(
                "gateway {gateway} returned {:?} {counts:?}, below the acknowledged results: \
                 succeeded {succeeded:?}, processed {processed:?}",
                observed.source
            )
        };
        findings.check(Rule::LiveTooLow, call.sent, &case.job.id, below.then(details));
    }
}

/// The reads that have counts and pass the filter.
fn reads_with_counts<'a>(
    case: &JobHistory<'a>,
    filter: impl Fn(&ObservedProgress) -> bool,
) -> Vec<(&'a Call, &'a ObservedProgress, &'a Vec<[u32; 4]>)> {
    let read = |call: &&'a Call| match &call.reply {
        Reply::Progress(observed) if filter(observed) => {
            observed.counts.as_ref().map(|counts| (*call, observed, counts))
        }
        _ => None,
    };
    case.calls.iter().filter_map(read).collect()
}
