//! Every job ends, once, and as its marks say (invariants I1, I2 and I3).

use std::collections::BTreeSet;

use super::super::history::{Asked, End, Job, Mark, State};
use super::{Case, Judgement, Rule, Tally, shows_end};

pub fn judge(case: &Case<'_>, judgement: &mut Judgement) {
    let id = &case.job.id;
    let end = case.end.filter(|end| end.state.is_final());
    let never = || "it did not end".to_owned();
    judgement.apply(Rule::NeverEnded, 0, id, end.is_none().then(never));
    let Some(end) = end else { return };
    let standing = Standing::of(case.job, end);
    judgement.apply(Rule::FalseEnd, 0, id, false_end(case, end, &standing));
    judgement.apply(Rule::Counted, 0, id, miscounted(case, end, &standing));
    judgement.apply(Rule::SecondEnd, 0, id, second_end(case, end));
}

/// Where the tasks stand by the cells that are stored.
struct Standing {
    /// Succeeded, failed and skipped tasks of each stage.
    counts: Vec<[u32; 3]>,
    /// A task and a stage that nobody reported and nothing skips.
    pending: Option<(u32, usize)>,
}

impl Standing {
    fn of(job: &Job, end: &End) -> Self {
        let mut standing = Self { counts: vec![[0; 3]; job.stages], pending: None };
        for task in 0..job.tasks {
            let mut failed_before = false;
            for stage in 0..job.stages {
                match end.bits(task, stage, job.stages) {
                    0 if failed_before => standing.counts[stage][2] += 1,
                    0 => standing.pending = standing.pending.or(Some((task, stage))),
                    0b01 => {
                        standing.counts[stage][1] += 1;
                        failed_before = true;
                    }
                    _ => standing.counts[stage][0] += 1,
                }
            }
        }
        standing
    }

    fn verdict(&self, job: &Job) -> State {
        let failed = self.counts.last().map_or(0, |[_, failed, skipped]| failed + skipped);
        let share = f64::from(failed) / f64::from(job.tasks.max(1));
        if share > job.threshold { State::Failed } else { State::Succeeded }
    }
}

fn false_end(case: &Case<'_>, end: &End, standing: &Standing) -> Option<String> {
    match end.state {
        State::Succeeded | State::Failed => {
            if let Some((task, stage)) = standing.pending {
                return Some(format!("it is {:?} with task {task} pending at stage {stage}", end.state));
            }
            let verdict = standing.verdict(case.job);
            (verdict != end.state).then(|| format!("it is {:?}, but its marks say {verdict:?}", end.state))
        }
        State::Cancelled => {
            let asked = case.calls.iter().any(|call| call.asked == Asked::Cancel);
            (!asked).then(|| "it is CANCELLED, and nobody cancelled it".to_owned())
        }
        // No job of a run has a stall timeout.
        State::Revoked => Some("it is REVOKED".to_owned()),
        State::Pending | State::Running => None,
    }
}

/// The stored counts are those of the cells, and nothing is marked that nobody reported.
fn miscounted(case: &Case<'_>, end: &End, standing: &Standing) -> Option<String> {
    if end.counts != standing.counts {
        return Some(format!("the snapshot counts {:?}, its cells {:?}", end.counts, standing.counts));
    }
    let mut reported = Tally::of(case.job);
    for mark in case.calls.iter().flat_map(|call| marks(&call.asked)) {
        reported.add(*mark);
    }
    let invented = (0..case.job.tasks).flat_map(|task| (0..case.job.stages).map(move |stage| (task, stage))).find(
        |(task, stage)| {
            let bits = reported.bits[*task as usize * case.job.stages + stage];
            end.bits(*task, *stage, case.job.stages) & !bits != 0
        },
    );
    invented.map(|(task, stage)| format!("task {task} is marked at stage {stage} as nobody reported it"))
}

/// All answers told of the same end, and the row changed once (a lower bound may be completed, once).
fn second_end(case: &Case<'_>, end: &End) -> Option<String> {
    let told = case.calls.iter().filter(|call| shows_end(call)).filter_map(|call| call.said.state());
    let told: BTreeSet<State> = told.filter(|state| state.is_final()).chain([end.state]).collect();
    if told.len() > 1 {
        return Some(format!("it ended as {told:?}"));
    }
    let ends = end.changes.iter().filter(|change| !change.from.is_final()).count();
    let later: Vec<_> = end.changes.iter().filter(|change| change.from.is_final()).collect();
    let bound_before = end.changes.first().is_some_and(|change| change.lower_bound);
    let completed = later.is_empty() || bound_before && later.len() == 1 && !later[0].lower_bound;
    (ends > 1 || !completed).then(|| format!("its row changed so: {:?}", end.changes))
}

/// The marks that a call reported.
pub fn marks(asked: &Asked) -> &[Mark] {
    match asked {
        Asked::Report(marks) => marks,
        _ => &[],
    }
}
