//! Checks that every acknowledged mark is in the end (invariant I4).

use super::super::history::{
    Call, Disposition, End, History, Incident, Mark, Moment, ObservedProgress, Reply, Request, SECOND, Source, State,
};
use super::{Findings, JobHistory, Rule, Violation};

/// An acknowledged mark.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub mark: Mark,
    pub gateway: usize,
    pub process: u32,
    pub at: Moment,
    /// Whether the mark was recorded in the ledger.
    pub recorded: bool,
    /// Whether Redis lost the mark while the gateway that acknowledged it was killed or stalled.
    pub unrecoverable: bool,
}

/// The reads that prove that a job's tracker was complete again, because every gateway has had time to merge its
/// mirror.
pub struct CompleteReads {
    /// The times at which each of these reads was sent and answered.
    reads: Vec<(Moment, Moment)>,
}

impl CompleteReads {
    /// Finds these reads: LIVE answers, and ends that are not lower bounds.
    pub fn of(calls: &[&Call], end: Option<&End>) -> Self {
        let exact_end = end.is_some_and(|end| end.changes.iter().all(|change| !change.lower_bound));
        let shows_complete_marks = |call: &&&Call| match &call.reply {
            Reply::Progress(ObservedProgress { source: Source::Live, counts: Some(_), .. }) => true,
            reply => exact_end && reply.state().is_some_and(State::is_final),
        };
        Self { reads: calls.iter().filter(shows_complete_marks).map(|call| (call.sent, call.answered)).collect() }
    }

    /// The time at which the tracker was known to be complete after a loss. `Moment::MAX` if no read proves it.
    fn after(&self, lost: Moment) -> Moment {
        let later = self.reads.iter().filter(|(sent, _)| *sent > lost);
        later.map(|(_, answered)| *answered).min().unwrap_or(Moment::MAX)
    }
}

/// The marks that a call acknowledged. A reply after the deadline does not count as an acknowledgement.
pub fn acks<'a>(call: &'a Call, settled: &CompleteReads, history: &History) -> impl Iterator<Item = Ack> + use<'a> {
    let in_time = call.answered - call.sent <= history.limits.deadline + history.limits.slack;
    let reported = match (&call.request, &call.reply) {
        (Request::Report(marks), Reply::Reported { dispositions, .. }) if in_time => {
            Some(marks.iter().zip(dispositions))
        }
        _ => None,
    };
    let (gateway, process, at) = (call.gateway, call.process, call.answered);
    let unrecoverable = reported.is_some() && is_unrecoverable(call, settled, history);
    reported.into_iter().flatten().filter_map(move |(mark, disposition)| {
        let recorded = match disposition {
            Disposition::Applied | Disposition::Duplicate => false,
            Disposition::Recorded => true,
            Disposition::Superseded | Disposition::UnknownTask | Disposition::UnknownStage => return None,
        };
        // Ledger rows are deleted once they are drained to the tracker, so recorded marks can be lost like all other
        // marks.
        Some(Ack { mark: *mark, gateway, process, at, recorded, unrecoverable })
    })
}

/// Whether a mark could not be recovered: Redis lost data after the call, and the gateway was killed, or stalled for
/// the settle time, before it was known to have merged its mirror back.
fn is_unrecoverable(call: &Call, settled: &CompleteReads, history: &History) -> bool {
    let reported = call.sent;
    let gateway_lost_it = |lost: Moment, until: Moment| {
        history.incidents.iter().any(|incident| match *incident {
            Incident::GatewayDown { gateway, process, at, .. } => {
                gateway == call.gateway && process == call.process && at >= reported && at <= until
            }
            Incident::Stalled { gateway, from, to } => {
                let long = to - from + SECOND >= history.limits.settle;
                gateway == call.gateway && long && to >= lost && from <= until
            }
            Incident::DataLost { .. } | Incident::HarnessPaused { .. } => false,
        })
    };
    history.incidents.iter().any(|incident| match *incident {
        Incident::DataLost { from, to } => to >= reported && gateway_lost_it(from, settled.after(to)),
        _ => false,
    })
}

/// Checks that every acknowledged mark is in the end. A mark may be missing only in two cases: it is unrecoverable, or
/// the end is a lower bound and Redis lost the mark before the end could be amended.
pub fn judge(case: &JobHistory<'_>, history: &History, findings: &mut Findings) {
    let Some(end) = case.end.filter(|end| end.state.is_final()) else { return };
    // By this time, the marks of a tracker that still exists have been added to the end.
    let amended_by = case.seen_ended.map_or(Moment::MAX, |ended| ended + 4 * history.limits.settle);
    for ack in &case.acks {
        let bits = ack.mark.bits();
        let missing = end.bits(ack.mark.task, ack.mark.stage, case.job.stages) & bits != bits;
        let details = || {
            let Ack { mark, gateway, process, .. } = ack;
            format!("{mark:?} was acknowledged by gateway {gateway} (process {process}) and is not in the end")
        };
        let excused = match (missing, end.lower_bound, ack.unrecoverable) {
            (true, true, _) if lost_between(ack.at, amended_by, history) => &mut findings.missing_from_lower_bound,
            (true, _, true) => &mut findings.unrecoverable,
            _ => {
                findings.check(Rule::LostMark, ack.at, &case.job.id, missing.then(details));
                continue;
            }
        };
        excused.push(Violation { rule: Rule::LostMark, at: ack.at, job: case.job.id.clone(), details: details() });
    }
}

fn lost_between(reported: Moment, amended_by: Moment, history: &History) -> bool {
    history
        .incidents
        .iter()
        .any(|incident| matches!(*incident, Incident::DataLost { from, to } if to >= reported && from <= amended_by))
}
