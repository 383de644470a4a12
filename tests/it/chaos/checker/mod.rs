//! Judges a history against the rules in [`Rule`]. The history is the only input. The checker shares no code with the
//! gateway, and implements the meaning of marks independently.

mod acknowledged;
mod calls;
mod ends;
mod reads;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::history::{Call, Disposition, End, History, Job, Moment, Reply, State};
use acknowledged::{Ack, CompleteReads};

/// A kind of violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// An acknowledged mark is missing from the end.
    LostMark,
    /// Counts differ from the marks or exceed the reported results.
    WrongCounts,
    /// A job is SUCCEEDED or FAILED with pending tasks or with a wrong verdict, CANCELLED without a cancel, or REVOKED.
    FalseEnd,
    /// A job has two ends, or its end changed.
    SecondEnd,
    /// An answer shows an earlier state than an earlier answer did.
    StateRegression,
    /// A LIVE answer is below the acknowledged results.
    LiveTooLow,
    /// An answer that is not a lower bound counts less than an earlier answer.
    CountsDecreased,
    /// A FALLBACK answer with counts does not say that they are lower bounds.
    UnmarkedLowerBound,
    /// A reply arrived after the deadline.
    LateReply,
    /// A gateway returned an error that no fault excuses.
    UnexpectedError,
    /// A job did not end after the faults stopped.
    NeverEnded,
}

/// All rules, in the order in which they are printed.
pub const RULES: [Rule; 11] = [
    Rule::LostMark,
    Rule::WrongCounts,
    Rule::FalseEnd,
    Rule::SecondEnd,
    Rule::StateRegression,
    Rule::LiveTooLow,
    Rule::CountsDecreased,
    Rule::UnmarkedLowerBound,
    Rule::LateReply,
    Rule::UnexpectedError,
    Rule::NeverEnded,
];

/// A violation of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub at: Moment,
    pub job: String,
    pub details: String,
}

/// The result of the checker.
#[derive(Debug, Default)]
pub struct Findings {
    /// The number of times that each rule was checked.
    pub checks: BTreeMap<Rule, usize>,
    pub violations: Vec<Violation>,
    /// Lost marks that invariant I4 excuses: Redis lost them while the gateway that acknowledged them was down or
    /// stalled.
    pub unrecoverable: Vec<Violation>,
    /// Marks that Redis lost, and that are missing from an end that is marked as a lower bound.
    pub missing_from_lower_bound: Vec<Violation>,
}

/// The part of a history that concerns one job.
struct JobHistory<'a> {
    job: &'a Job,
    calls: Vec<&'a Call>,
    acks: Vec<Ack>,
    end: Option<&'a End>,
    /// The time at which an answer first showed the job started.
    seen_running: Option<Moment>,
    /// The time at which an answer first showed the job ended.
    seen_ended: Option<Moment>,
}

/// Judges a history.
pub fn judge(history: &History) -> Findings {
    let mut findings = Findings::default();
    for rule in RULES {
        findings.checks.insert(rule, 0);
    }
    calls::judge(history, &mut findings);
    for case in cases(history) {
        ends::judge(&case, &mut findings);
        acknowledged::judge(&case, history, &mut findings);
        reads::judge(&case, history, &mut findings);
    }
    findings.violations.sort_by_key(|violation| violation.at);
    findings
}

fn cases<'a>(history: &'a History) -> Vec<JobHistory<'a>> {
    let mut calls: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in &history.calls {
        calls.entry(&call.job).or_default().push(call);
    }
    let ends: BTreeMap<&str, &End> = history.ends.iter().map(|end| (end.job.as_str(), end)).collect();
    let case = |job: &'a Job| {
        let calls = calls.remove(job.id.as_str()).unwrap_or_default();
        let first = |shows: fn(&Call) -> bool| calls.iter().filter(|call| shows(call)).map(|call| call.answered).min();
        let seen_running = first(|call| call.reply.state().is_some_and(|state| state != State::Pending));
        let seen_ended = first(shows_end);
        let end = ends.get(job.id.as_str()).copied();
        let settled = CompleteReads::of(&calls, end);
        let acks = calls.iter().flat_map(|call| acknowledged::acks(call, &settled, history)).collect();
        JobHistory { job, calls, acks, end, seen_running, seen_ended }
    };
    history.jobs.iter().map(case).collect()
}

/// Whether the reply shows that the job has ended. SUPERSEDED shows this too, because it is returned only after the end
/// is committed.
fn shows_end(call: &Call) -> bool {
    let superseded =
        matches!(&call.reply, Reply::Reported { dispositions, .. } if dispositions.contains(&Disposition::Superseded));
    superseded || call.reply.state().is_some_and(State::is_final)
}

impl Findings {
    /// Counts a check of a rule, and records the violation if there is one.
    fn check(&mut self, rule: Rule, at: Moment, job: &str, violation: Option<String>) {
        *self.checks.entry(rule).or_default() += 1;
        if let Some(details) = violation {
            self.violations.push(Violation { rule, at, job: job.to_owned(), details });
        }
    }

    /// Whether there are neither violations nor excused marks.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.unrecoverable.is_empty() && self.missing_from_lower_bound.is_empty()
    }

    /// The number of violations of a rule.
    pub fn violation_count(&self, rule: Rule) -> usize {
        self.violations.iter().filter(|violation| violation.rule == rule).count()
    }
}

/// The best mark of each task at each stage, and the counts of each stage. Marks are added one by one.
struct MarkTable {
    stages: usize,
    bits: Vec<u8>,
    /// The number of tasks with a success, for each stage.
    succeeded: Vec<u32>,
    /// The number of tasks with any mark, for each stage.
    processed: Vec<u32>,
}

impl MarkTable {
    fn new(job: &Job) -> Self {
        let size = job.tasks as usize * job.stages;
        Self { stages: job.stages, bits: vec![0; size], succeeded: vec![0; job.stages], processed: vec![0; job.stages] }
    }

    fn add(&mut self, mark: super::history::Mark) {
        let Some(bits) = self.bits.get_mut(mark.task as usize * self.stages + mark.stage) else { return };
        let new = mark.bits() & !*bits;
        *bits |= mark.bits();
        self.processed[mark.stage] += u32::from(new & 0b01 != 0);
        self.succeeded[mark.stage] += u32::from(new & 0b10 != 0);
    }
}
