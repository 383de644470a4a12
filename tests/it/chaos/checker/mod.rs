//! Judges a history: was anything acknowledged lost, counted twice, ended falsely or twice, shown running after it had
//! ended, shown LIVE below what was acknowledged, answered too late, or never ended? Pure. Shares no rule with the
//! program: what marks mean is worked out here once more.

mod acknowledged;
mod calls;
mod ends;
mod reads;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::history::{Call, Disposition, End, History, Job, Moment, Said, State};
use acknowledged::{Ack, Settled};

/// What must never be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// An acknowledged report is missing from the end.
    Lost,
    /// Counts that are not those of the marks, or above what was reported.
    Counted,
    /// SUCCEEDED or FAILED with something pending or with the wrong verdict; CANCELLED without a cancel.
    FalseEnd,
    /// Two ends of one job, or an end that changed.
    SecondEnd,
    /// Running, or not started, after somebody saw the job further on.
    WentBack,
    /// A LIVE answer below what was acknowledged.
    LiveBelow,
    /// An answer after the deadline.
    Late,
    /// An error that no fault excuses.
    Unexcused,
    /// A job that did not end although the faults did.
    NeverEnded,
}

/// All rules, in the order in which they are told.
pub const RULES: [Rule; 9] = [
    Rule::Lost,
    Rule::Counted,
    Rule::FalseEnd,
    Rule::SecondEnd,
    Rule::WentBack,
    Rule::LiveBelow,
    Rule::Late,
    Rule::Unexcused,
    Rule::NeverEnded,
];

/// Something that must not be, and was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub at: Moment,
    pub job: String,
    pub what: String,
}

/// What the checker found.
#[derive(Debug, Default)]
pub struct Judgement {
    /// How often each rule was applied.
    pub looked: BTreeMap<Rule, usize>,
    pub violations: Vec<Violation>,
    /// Marks that invariant I4 gives up: Redis lost them while the gateway that acknowledged them died or stood still.
    pub given_up: Vec<Violation>,
    /// Marks that are missing from an end which says that it is a lower bound, and that Redis lost.
    pub below_bound: Vec<Violation>,
}

/// All of one job.
struct Case<'a> {
    job: &'a Job,
    calls: Vec<&'a Call>,
    acks: Vec<Ack>,
    end: Option<&'a End>,
    /// When somebody first saw it started, and ended.
    seen_running: Option<Moment>,
    seen_ended: Option<Moment>,
}

/// Judges all of it.
pub fn judge(history: &History) -> Judgement {
    let mut judgement = Judgement::default();
    for rule in RULES {
        judgement.looked.insert(rule, 0);
    }
    calls::judge(history, &mut judgement);
    for case in cases(history) {
        ends::judge(&case, &mut judgement);
        acknowledged::judge(&case, history, &mut judgement);
        reads::judge(&case, history.limits, &mut judgement);
    }
    judgement.violations.sort_by_key(|violation| violation.at);
    judgement
}

fn cases<'a>(history: &'a History) -> Vec<Case<'a>> {
    let mut calls: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in &history.calls {
        calls.entry(&call.job).or_default().push(call);
    }
    let ends: BTreeMap<&str, &End> = history.ends.iter().map(|end| (end.job.as_str(), end)).collect();
    let case = |job: &'a Job| {
        let calls = calls.remove(job.id.as_str()).unwrap_or_default();
        let first = |shows: fn(&Call) -> bool| calls.iter().filter(|call| shows(call)).map(|call| call.answered).min();
        let seen_running = first(|call| call.said.state().is_some_and(|state| state != State::Pending));
        let seen_ended = first(shows_end);
        let end = ends.get(job.id.as_str()).copied();
        let settled = Settled::of(&calls, end);
        let acks = calls.iter().flat_map(|call| acknowledged::acks(call, &settled, history)).collect();
        Case { job, calls, acks, end, seen_running, seen_ended }
    };
    history.jobs.iter().map(case).collect()
}

/// Whether the answer says that the job has ended. SUPERSEDED does: it is said only when the end is committed.
fn shows_end(call: &Call) -> bool {
    let superseded =
        matches!(&call.said, Said::Reported { dispositions, .. } if dispositions.contains(&Disposition::Superseded));
    superseded || call.said.state().is_some_and(State::is_final)
}

impl Judgement {
    /// Applies a rule once: `broken` says what is wrong, if anything.
    fn apply(&mut self, rule: Rule, at: Moment, job: &str, broken: Option<String>) {
        *self.looked.entry(rule).or_default() += 1;
        if let Some(what) = broken {
            self.violations.push(Violation { rule, at, job: job.to_owned(), what });
        }
    }

    /// Nothing is wrong, and nothing had to be excused.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.given_up.is_empty() && self.below_bound.is_empty()
    }

    /// How many violations of a rule there are.
    pub fn broken(&self, rule: Rule) -> usize {
        self.violations.iter().filter(|violation| violation.rule == rule).count()
    }
}

/// The best that is known of each task at each stage, and how many stand how: grows mark by mark.
struct Tally {
    stages: usize,
    bits: Vec<u8>,
    /// Tasks of each stage with a success, and with anything.
    succeeded: Vec<u32>,
    processed: Vec<u32>,
}

impl Tally {
    fn of(job: &Job) -> Self {
        let places = job.tasks as usize * job.stages;
        Self {
            stages: job.stages,
            bits: vec![0; places],
            succeeded: vec![0; job.stages],
            processed: vec![0; job.stages],
        }
    }

    fn add(&mut self, mark: super::history::Mark) {
        let Some(bits) = self.bits.get_mut(mark.task as usize * self.stages + mark.stage) else { return };
        let new = mark.bits() & !*bits;
        *bits |= mark.bits();
        self.processed[mark.stage] += u32::from(new & 0b01 != 0);
        self.succeeded[mark.stage] += u32::from(new & 0b10 != 0);
    }
}
