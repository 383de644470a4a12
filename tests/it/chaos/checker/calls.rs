//! Checks that every call is answered in time, and that it fails only if a fault excuses the error.

use super::super::history::{Call, History, Incident, Moment, Reply, Request, SECOND};
use super::{Findings, Rule};

pub fn judge(history: &History, findings: &mut Findings) {
    for call in &history.calls {
        findings.check(Rule::LateReply, call.sent, &call.job, late_reply(call, history));
        findings.check(Rule::UnexpectedError, call.sent, &call.job, unexpected_error(call, history));
    }
}

fn late_reply(call: &Call, history: &History) -> Option<String> {
    let limits = history.limits;
    let took = call.answered - call.sent;
    let late = took > limits.deadline + limits.slack + harness_pause(call, history);
    let excused = was_stalled(call, history) || was_killed(call, history);
    (late && !excused)
        .then(|| format!("gateway {} took {} ms: {:?} {:?}", call.gateway, took / 1000, call.request, call.reply))
}

fn unexpected_error(call: &Call, history: &History) -> Option<String> {
    let excused = match &call.reply {
        Reply::Job(_) | Reply::Progress(_) | Reply::NoJob | Reply::Reported { .. } => true,
        Reply::Unanswered(_) => was_killed(call, history) || was_stalled(call, history),
        Reply::Error { code, reason } => match code.as_str() {
            "Unavailable" | "DeadlineExceeded" => true,
            "FailedPrecondition" => call.request == Request::Cancel && reason == "JOB_ENDED",
            _ => false,
        },
    };
    (!excused).then(|| format!("gateway {}: {:?} {:?}", call.gateway, call.request, call.reply))
}

/// The time for which the test process was paused during the call.
fn harness_pause(call: &Call, history: &History) -> Moment {
    let overlap = |incident: &Incident| match *incident {
        Incident::HarnessPaused { from, to } => to.min(call.answered).saturating_sub(from.max(call.sent)),
        _ => 0,
    };
    history.incidents.iter().map(overlap).sum()
}

fn was_stalled(call: &Call, history: &History) -> bool {
    history.incidents.iter().any(|incident| match *incident {
        Incident::Stalled { gateway, from, to } => gateway == call.gateway && from <= call.answered && to >= call.sent,
        _ => false,
    })
}

/// Whether the gateway was down at some moment of the call, or had just restarted.
fn was_killed(call: &Call, history: &History) -> bool {
    history.incidents.iter().any(|incident| match *incident {
        Incident::GatewayDown { gateway, at, back, .. } => {
            gateway == call.gateway && at <= call.answered + SECOND && back + SECOND >= call.sent
        }
        _ => false,
    })
}
