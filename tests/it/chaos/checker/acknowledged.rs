//! What was acknowledged, and whether it is in the end (invariant I4).

use super::super::history::{
    Asked, Call, Disposition, End, Happening, History, Mark, Moment, SECOND, Said, Shown, Source, State,
};
use super::{Case, Judgement, Rule, Violation};

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

/// When a job's tracker was surely whole again, as far as any client could tell.
pub struct Settled {
    /// When answers were asked for, and had come, that only a tracker can give which every gateway had the time to add to.
    seen: Vec<(Moment, Moment)>,
}

impl Settled {
    /// LIVE answers show that, and ends that are none of a lower bound.
    pub fn of(calls: &[&Call], end: Option<&End>) -> Self {
        let whole = end.is_some_and(|end| end.changes.iter().all(|change| !change.lower_bound));
        let shows = |call: &&&Call| match &call.said {
            Said::Progress(Shown { source: Source::Live, counts: Some(_), .. }) => true,
            said => whole && said.state().is_some_and(State::is_final),
        };
        Self { seen: calls.iter().filter(shows).map(|call| (call.sent, call.answered)).collect() }
    }

    /// By when it was, after a loss; never, as far as is known, where nobody saw it.
    fn after(&self, lost: Moment) -> Moment {
        let later = self.seen.iter().filter(|(sent, _)| *sent > lost);
        later.map(|(_, answered)| *answered).min().unwrap_or(Moment::MAX)
    }
}

/// The marks that a call acknowledged. A reply after the deadline is no acknowledgement.
pub fn acks<'a>(call: &'a Call, settled: &Settled, history: &History) -> impl Iterator<Item = Ack> + use<'a> {
    let in_time = call.answered - call.sent <= history.limits.deadline + history.limits.slack;
    let taken = match (&call.asked, &call.said) {
        (Asked::Report(marks), Said::Reported { dispositions, .. }) if in_time => Some(marks.iter().zip(dispositions)),
        _ => None,
    };
    let (gateway, life, at) = (call.gateway, call.life, call.answered);
    let given_up = taken.is_some() && is_given_up(call, settled, history);
    taken.into_iter().flatten().filter_map(move |(mark, disposition)| {
        let recorded = match disposition {
            Disposition::Applied | Disposition::Duplicate => false,
            Disposition::Recorded => true,
            Disposition::Superseded | Disposition::UnknownTask => return None,
        };
        // A row of the ledger goes once its marks are in the tracker: from then on they are kept as all others.
        Some(Ack { mark: *mark, gateway, life, at, recorded, given_up })
    })
}

/// Whether Redis lost its state after the call, and the gateway died, or stood still for the settle time, before it had
/// surely merged its mirror back.
fn is_given_up(call: &Call, settled: &Settled, history: &History) -> bool {
    let taken = call.sent;
    let gone = |lost: Moment, until: Moment| {
        history.happenings.iter().any(|happening| match *happening {
            Happening::Died { gateway, life, at, .. } => {
                gateway == call.gateway && life == call.life && at >= taken && at <= until
            }
            Happening::Stalled { gateway, from, to } => {
                let long = to - from + SECOND >= history.limits.settle;
                gateway == call.gateway && long && to >= lost && from <= until
            }
            Happening::Lost { .. } | Happening::Starved { .. } => false,
        })
    };
    history.happenings.iter().any(|happening| match *happening {
        Happening::Lost { from, to } => to >= taken && gone(from, settled.after(to)),
        _ => false,
    })
}

/// Every acknowledged mark is in the end, or the end says that it is a lower bound, and Redis did lose what would have
/// completed it.
pub fn judge(case: &Case<'_>, history: &History, judgement: &mut Judgement) {
    let Some(end) = case.end.filter(|end| end.state.is_final()) else { return };
    // By then what a tracker still holds is added, if it is there.
    let completed = case.seen_ended.map_or(Moment::MAX, |ended| ended + 4 * history.limits.settle);
    for ack in &case.acks {
        let bits = ack.mark.bits();
        let missing = end.bits(ack.mark.task, ack.mark.stage, case.job.stages) & bits != bits;
        let what = || {
            let Ack { mark, gateway, life, .. } = ack;
            format!("{mark:?} was acknowledged by gateway {gateway} (life {life}) and is not in the end")
        };
        let excused = match (missing, end.lower_bound, ack.given_up) {
            (true, true, _) if lost_between(ack.at, completed, history) => &mut judgement.below_bound,
            (true, _, true) => &mut judgement.given_up,
            _ => {
                judgement.apply(Rule::Lost, ack.at, &case.job.id, missing.then(what));
                continue;
            }
        };
        excused.push(Violation { rule: Rule::Lost, at: ack.at, job: case.job.id.clone(), what: what() });
    }
}

fn lost_between(taken: Moment, completed: Moment, history: &History) -> bool {
    history
        .happenings
        .iter()
        .any(|happening| matches!(*happening, Happening::Lost { from, to } if to >= taken && from <= completed))
}
