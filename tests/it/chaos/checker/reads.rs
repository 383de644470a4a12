//! What reads told: never an ended job running (I6), never more than was reported (I3), and LIVE never less than was
//! acknowledged (I7).

use super::super::history::{Asked, Call, Limits, Mark, Moment, Said, Shown, Source, State};
use super::ends::marks;
use super::{Case, Judgement, Rule, Tally};

/// The reason with which a gateway that is cut off from Postgres may still show a job running.
const POSTGRES_AWAY: &str = "POSTGRES_UNREACHABLE";

pub fn judge(case: &Case<'_>, limits: Limits, judgement: &mut Judgement) {
    for call in &case.calls {
        if let Some(state) = call.said.state() {
            judgement.apply(Rule::WentBack, call.sent, &case.job.id, went_back(case, call, state, limits));
        }
        if let Said::Progress(shown) = &call.said
            && let Some(counts) = &shown.counts
        {
            judgement.apply(Rule::Counted, call.sent, &case.job.id, impossible(case, counts));
            if shown.source == Source::Snapshot && shown.state.is_final() && !shown.lower_bound {
                judgement.apply(Rule::SecondEnd, call.sent, &case.job.id, other_end(case, counts));
            }
        }
    }
    above_reported(case, judgement);
    let gateways = case.calls.iter().map(|call| call.gateway + 1).max().unwrap_or(0);
    for gateway in 0..gateways {
        below_acknowledged(case, gateway, limits, judgement);
    }
}

/// Whether the answer shows an earlier state than somebody had seen before the call was sent.
fn went_back(case: &Case<'_>, call: &Call, state: State, limits: Limits) -> Option<String> {
    let after = |seen: Option<Moment>, allowed: Moment| seen.is_some_and(|seen| call.sent > seen + allowed);
    if state == State::Pending {
        let started = after(case.seen_running, 0);
        return started.then(|| format!("{:?} told PENDING after it was seen started", call.asked));
    }
    if state != State::Running {
        return None;
    }
    let cut_off =
        matches!(&call.said, Said::Progress(Shown { source: Source::Fallback, reason, .. }) if reason == POSTGRES_AWAY);
    let unsealed = case.end.is_some_and(super::End::is_unsealed);
    // A job's row is asked in Postgres, whatever the feed says.
    let allowed = if unsealed && call.asked != Asked::Get { limits.feed } else { 0 };
    let ended = !cut_off && after(case.seen_ended, allowed);
    ended.then(|| {
        let seen = case.seen_ended.unwrap_or_default();
        format!(
            "gateway {} told RUNNING {} ms after it was seen ended: {:?}",
            call.gateway,
            (call.sent - seen) / 1000,
            call.said
        )
    })
}

fn impossible(case: &Case<'_>, counts: &[[u32; 4]]) -> Option<String> {
    let whole =
        counts.len() == case.job.stages && counts.iter().all(|stage| stage.iter().sum::<u32>() == case.job.tasks);
    (!whole).then(|| {
        format!("the counts {counts:?} are not those of {} tasks in {} stages", case.job.tasks, case.job.stages)
    })
}

fn other_end(case: &Case<'_>, counts: &[[u32; 4]]) -> Option<String> {
    let end = case.end.filter(|end| !end.lower_bound)?;
    let told: Vec<_> = counts.iter().map(|[_, succeeded, failed, skipped]| [*succeeded, *failed, *skipped]).collect();
    (told != end.counts).then(|| format!("an ended job told {told:?}, and is stored with {:?}", end.counts))
}

/// Counts are never above what had been sent by the time of the answer.
fn above_reported(case: &Case<'_>, judgement: &mut Judgement) {
    let mut reported: Vec<(Moment, Mark)> =
        case.calls.iter().flat_map(|call| marks(&call.asked).iter().map(|mark| (call.sent, *mark))).collect();
    reported.sort();
    let mut reads = counted(case, |_| true);
    reads.sort_by_key(|(call, ..)| call.answered);
    let mut reported = reported.into_iter().peekable();
    let mut tally = Tally::of(case.job);
    for (call, _, counts) in reads {
        while let Some((_, mark)) = reported.next_if(|(sent, _)| *sent <= call.answered) {
            tally.add(mark);
        }
        let above = counts.iter().zip(tally.succeeded.iter().zip(&tally.processed)).any(
            |([_, succeeded, failed, _], (most_succeeded, most_processed))| {
                succeeded > most_succeeded || succeeded + failed > *most_processed
            },
        );
        let what = || {
            let (succeeded, processed) = (&tally.succeeded, &tally.processed);
            format!("{counts:?} is above what was reported: succeeded {succeeded:?}, processed {processed:?}")
        };
        judgement.apply(Rule::Counted, call.sent, &case.job.id, above.then(what));
    }
}

/// What claims to be all there is holds what was acknowledged before it was asked for.
fn below_acknowledged(case: &Case<'_>, gateway: usize, limits: Limits, judgement: &mut Judgement) {
    let mut acks: Vec<(Moment, Mark)> = Vec::new();
    for ack in case.acks.iter().filter(|ack| !ack.given_up) {
        // Another gateway learns of a row in the ledger by the feed.
        let told = if ack.recorded && ack.gateway != gateway { limits.feed } else { 0 };
        acks.push((ack.at + told, ack.mark));
    }
    acks.sort();
    let mut reads = counted(case, |shown| !shown.lower_bound && shown.state == State::Running);
    reads.retain(|(call, ..)| call.gateway == gateway);
    reads.sort_by_key(|(call, ..)| call.sent);
    let mut acks = acks.into_iter().peekable();
    let mut tally = Tally::of(case.job);
    for (call, shown, counts) in reads {
        while let Some((_, mark)) = acks.next_if(|(at, _)| *at < call.sent) {
            tally.add(mark);
        }
        let below = counts.iter().zip(tally.succeeded.iter().zip(&tally.processed)).any(
            |([_, succeeded, failed, _], (least_succeeded, least_processed))| {
                succeeded < least_succeeded || succeeded + failed < *least_processed
            },
        );
        let what = || {
            let (succeeded, processed) = (&tally.succeeded, &tally.processed);
            format!(
                "gateway {gateway} told {:?} {counts:?}, acknowledged were: succeeded {succeeded:?}, processed {processed:?}",
                shown.source
            )
        };
        judgement.apply(Rule::LiveBelow, call.sent, &case.job.id, below.then(what));
    }
}

/// The reads that told counts.
fn counted<'a>(case: &Case<'a>, which: impl Fn(&Shown) -> bool) -> Vec<(&'a Call, &'a Shown, &'a Vec<[u32; 4]>)> {
    let read = |call: &&'a Call| match &call.said {
        Said::Progress(shown) if which(shown) => shown.counts.as_ref().map(|counts| (*call, shown, counts)),
        _ => None,
    };
    case.calls.iter().filter_map(read).collect()
}
