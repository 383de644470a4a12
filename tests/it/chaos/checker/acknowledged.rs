//! What was acknowledged, and whether it is in the end (invariant I4).

use super::super::history::{Asked, Call, Disposition, Happening, History, Mark, Moment, SECOND, Said};
use super::{Case, Judgement, Rule};

/// A mark that a gateway took.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub mark: Mark,
    pub gateway: usize,
    pub life: u32,
    pub at: Moment,
    /// It was a row in the ledger.
    pub recorded: bool,
    /// Redis lost it while the gateway that took it died or stood still.
    pub given_up: bool,
}

/// The marks that a call acknowledged. A reply after the deadline is no acknowledgement.
pub fn acks<'a>(call: &'a Call, history: &'a History) -> impl Iterator<Item = Ack> + 'a {
    let in_time = call.answered - call.sent <= history.limits.deadline + history.limits.slack;
    let taken = match (&call.asked, &call.said) {
        (Asked::Report(marks), Said::Reported { dispositions, .. }) if in_time => Some(marks.iter().zip(dispositions)),
        _ => None,
    };
    taken.into_iter().flatten().filter_map(move |(mark, disposition)| {
        let recorded = match disposition {
            Disposition::Applied | Disposition::Duplicate => false,
            Disposition::Recorded => true,
            Disposition::Superseded | Disposition::UnknownTask => return None,
        };
        let (gateway, life, at) = (call.gateway, call.life, call.answered);
        // A row of the ledger goes once its marks are in the tracker: from then on they are kept as all others.
        let given_up = is_given_up(gateway, life, call.sent, history);
        Some(Ack { mark: *mark, gateway, life, at, recorded, given_up })
    })
}

/// Whether Redis lost its state after `taken`, and the gateway died, or stood still for the settle time, before it had
/// surely merged its mirror back.
fn is_given_up(gateway: usize, life: u32, taken: Moment, history: &History) -> bool {
    let settle = history.limits.settle;
    let gone = |lost: Moment, until: Moment| {
        history.happenings.iter().any(|happening| match *happening {
            Happening::Died { gateway: who, life: which, at, .. } => {
                who == gateway && which == life && at >= taken && at <= until + 2 * settle
            }
            Happening::Stalled { gateway: who, from, to } => {
                who == gateway && to - from + SECOND >= settle && to >= lost && from <= until + 2 * settle
            }
            Happening::Lost { .. } | Happening::Starved { .. } => false,
        })
    };
    history.happenings.iter().any(|happening| match *happening {
        Happening::Lost { from, to } => to >= taken && gone(from, to),
        _ => false,
    })
}

/// Every acknowledged mark is in the end.
pub fn judge(case: &Case<'_>, judgement: &mut Judgement) {
    let Some(end) = case.end.filter(|end| end.state.is_final()) else { return };
    for ack in &case.acks {
        let bits = ack.mark.bits();
        let missing = end.bits(ack.mark.task, ack.mark.stage, case.job.stages) & bits != bits;
        let excused = match (missing, ack.given_up, end.lower_bound) {
            (true, true, _) => Some(&mut judgement.given_up),
            (true, false, true) => Some(&mut judgement.below_bound),
            _ => None,
        };
        if let Some(excused) = excused {
            *excused += 1;
            continue;
        }
        let what = || {
            format!(
                "{:?} was acknowledged by gateway {} (life {}) and is not in the end",
                ack.mark, ack.gateway, ack.life
            )
        };
        judgement.apply(Rule::Lost, ack.at, &case.job.id, missing.then(what));
    }
}
