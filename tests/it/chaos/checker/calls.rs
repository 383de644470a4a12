//! Every call is answered in time, and with an error only where a fault excuses it.

use super::super::history::{Asked, Call, Happening, History, Moment, SECOND, Said};
use super::{Judgement, Rule};

pub fn judge(history: &History, judgement: &mut Judgement) {
    for call in &history.calls {
        judgement.apply(Rule::Late, call.sent, &call.job, late(call, history));
        judgement.apply(Rule::Unexcused, call.sent, &call.job, unexcused(call, history));
    }
}

fn late(call: &Call, history: &History) -> Option<String> {
    let limits = history.limits;
    let took = call.answered - call.sent;
    let late = took > limits.deadline + limits.slack + starved(call, history);
    let excused = stood_still(call, history) || died(call, history);
    (late && !excused)
        .then(|| format!("gateway {} took {} ms: {:?} {:?}", call.gateway, took / 1000, call.asked, call.said))
}

fn unexcused(call: &Call, history: &History) -> Option<String> {
    let excused = match &call.said {
        Said::Job(_) | Said::Progress(_) | Said::NoJob | Said::Reported { .. } => true,
        Said::Nothing(_) => died(call, history) || stood_still(call, history),
        Said::Refused { code, reason } => match code.as_str() {
            "Unavailable" | "DeadlineExceeded" => true,
            "FailedPrecondition" => call.asked == Asked::Cancel && reason == "JOB_ENDED",
            _ => false,
        },
    };
    (!excused).then(|| format!("gateway {}: {:?} {:?}", call.gateway, call.asked, call.said))
}

/// How long our own process stood still during the call.
fn starved(call: &Call, history: &History) -> Moment {
    let overlap = |happening: &Happening| match *happening {
        Happening::Starved { from, to } => to.min(call.answered).saturating_sub(from.max(call.sent)),
        _ => 0,
    };
    history.happenings.iter().map(overlap).sum()
}

fn stood_still(call: &Call, history: &History) -> bool {
    history.happenings.iter().any(|happening| match *happening {
        Happening::Stalled { gateway, from, to } => gateway == call.gateway && from <= call.answered && to >= call.sent,
        _ => false,
    })
}

/// Whether the gateway was dead at some moment of the call, or had just come back.
fn died(call: &Call, history: &History) -> bool {
    history.happenings.iter().any(|happening| match *happening {
        Happening::Died { gateway, at, back, .. } => {
            gateway == call.gateway && at <= call.answered + SECOND && back + SECOND >= call.sent
        }
        _ => false,
    })
}
