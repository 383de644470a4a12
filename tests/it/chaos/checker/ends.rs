//! Checks that every job ends exactly once, with the state that its marks imply (invariants I1, I2 and I3).

use std::collections::BTreeSet;

use super::super::history::{End, Job, Mark, Request, State};
use super::{Findings, JobHistory, MarkTable, Rule, shows_end};

pub fn judge(case: &JobHistory<'_>, findings: &mut Findings) {
    let id = &case.job.id;
    let end = case.end.filter(|end| end.state.is_final());
    let not_ended = || "it did not end".to_owned();
    findings.check(Rule::NeverEnded, 0, id, end.is_none().then(not_ended));
    let Some(end) = end else { return };
    let cell_counts = CellCounts::of(case.job, end);
    findings.check(Rule::FalseEnd, 0, id, false_end(case, end, &cell_counts));
    findings.check(Rule::WrongCounts, 0, id, wrong_counts(case, end, &cell_counts));
    findings.check(Rule::SecondEnd, 0, id, second_end(case, end));
}

/// The counts that follow from the stored cells.
struct CellCounts {
    /// The succeeded, failed and skipped tasks of each stage.
    counts: Vec<[u32; 3]>,
    /// A task and a stage at which it is neither reported nor skipped. `None` if there is none.
    pending: Option<(u32, usize)>,
}

impl CellCounts {
    fn of(job: &Job, end: &End) -> Self {
        let mut cell_counts = Self { counts: vec![[0; 3]; job.stages], pending: None };
        for task in 0..job.tasks {
            let mut failed_before = false;
            for stage in 0..job.stages {
                match end.bits(task, stage, job.stages) {
                    0 if failed_before => cell_counts.counts[stage][2] += 1,
                    0 => cell_counts.pending = cell_counts.pending.or(Some((task, stage))),
                    0b01 => {
                        cell_counts.counts[stage][1] += 1;
                        failed_before = true;
                    }
                    _ => cell_counts.counts[stage][0] += 1,
                }
            }
        }
        cell_counts
    }

    fn verdict(&self, job: &Job) -> State {
        let failed = self.counts.last().map_or(0, |[_, failed, skipped]| failed + skipped);
        let share = f64::from(failed) / f64::from(job.tasks.max(1));
        if share > job.threshold { State::Failed } else { State::Succeeded }
    }
}

fn false_end(case: &JobHistory<'_>, end: &End, cell_counts: &CellCounts) -> Option<String> {
    match end.state {
        State::Succeeded | State::Failed => {
            if let Some((task, stage)) = cell_counts.pending {
                return Some(format!("it is {:?} with task {task} pending at stage {stage}", end.state));
            }
            let verdict = cell_counts.verdict(case.job);
            (verdict != end.state).then(|| format!("it is {:?}, but its marks imply {verdict:?}", end.state))
        }
        State::Cancelled => {
            let requested = case.calls.iter().any(|call| call.request == Request::Cancel);
            (!requested).then(|| "it is CANCELLED without a cancel request".to_owned())
        }
        // No job of a run has a stall timeout, so no job may be revoked.
        State::Revoked => Some("it is REVOKED".to_owned()),
        State::Pending | State::Running => None,
    }
}

/// Checks that the stored counts match the cells, and that every stored mark was reported.
fn wrong_counts(case: &JobHistory<'_>, end: &End, cell_counts: &CellCounts) -> Option<String> {
    if end.counts != cell_counts.counts {
        return Some(format!("the snapshot counts {:?}, but its cells {:?}", end.counts, cell_counts.counts));
    }
    let mut reported = MarkTable::new(case.job);
    for mark in case.calls.iter().flat_map(|call| reported_marks(&call.request)) {
        reported.add(*mark);
    }
    let unreported = (0..case.job.tasks).flat_map(|task| (0..case.job.stages).map(move |stage| (task, stage))).find(
        |(task, stage)| {
            let bits = reported.bits[*task as usize * case.job.stages + stage];
            end.bits(*task, *stage, case.job.stages) & !bits != 0
        },
    );
    unreported.map(|(task, stage)| format!("the mark of task {task} at stage {stage} was never reported"))
}

/// Checks that all replies show the same end, and that the row changed once. A lower bound may also be amended once.
fn second_end(case: &JobHistory<'_>, end: &End) -> Option<String> {
    let replied = case.calls.iter().filter(|call| shows_end(call)).filter_map(|call| call.reply.state());
    let states: BTreeSet<State> = replied.filter(|state| state.is_final()).chain([end.state]).collect();
    if states.len() > 1 {
        return Some(format!("it ended as {states:?}"));
    }
    let ends = end.changes.iter().filter(|change| !change.from.is_final()).count();
    let later: Vec<_> = end.changes.iter().filter(|change| change.from.is_final()).collect();
    let was_lower_bound = end.changes.first().is_some_and(|change| change.lower_bound);
    let amended_at_most_once = later.is_empty() || was_lower_bound && later.len() == 1 && !later[0].lower_bound;
    (ends > 1 || !amended_at_most_once).then(|| format!("the changes of its row were {:?}", end.changes))
}

/// The marks of a report; empty for other requests.
pub fn reported_marks(request: &Request) -> &[Mark] {
    match request {
        Request::Report(marks) => marks,
        _ => &[],
    }
}
