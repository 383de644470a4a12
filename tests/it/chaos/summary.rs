//! The output of a run: progress lines and the final summary.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write, stdout};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checker::{Findings, RULES, Rule, Violation};
use super::clients::Clients;
use super::history::Moment;
use super::log::Log;
use super::schedule::FaultKind;

/// The maximum number of violations that are printed, and of calls with excused marks. The history has all of them.
const MAX_PRINTED: usize = 40;

/// Prints the progress: one line that is updated on a terminal, and a new line every ten seconds elsewhere.
pub async fn print_progress(clients: Arc<Clients>, log: Arc<Log>, length: Duration) {
    let begun = Instant::now();
    let terminal = stdout().is_terminal();
    let every = if terminal { Duration::from_millis(250) } else { Duration::from_secs(10) };
    loop {
        tokio::time::sleep(every).await;
        let (jobs, calls) = log.job_and_call_counts();
        let (seconds, total) = (begun.elapsed().as_secs(), length.as_secs());
        let line = format!("{seconds:>4} of {total} s: {} of {jobs} jobs ended, {calls} calls", clients.ended());
        if terminal {
            print!("\r{line}\x1b[K");
        } else {
            println!("{line}");
        }
        let _ = stdout().flush();
    }
}

/// Prints the summary, and returns whether the run passed.
pub fn print_result(
    findings: &Findings,
    injected: &BTreeMap<FaultKind, usize>,
    took: Duration,
    history: &Path,
) -> bool {
    println!("\n{:>8}  faults", "injected");
    for (kind, count) in injected {
        println!("{count:>8}  {kind}");
    }
    println!("{:>8} {:>8}  violation", "checked", "found");
    for rule in RULES {
        println!("{:>8} {:>8}  {rule}", findings.checks[&rule], findings.violation_count(rule));
    }
    println!(
        "{:>17}  marks lost and excused: Redis lost them while the acknowledging gateway was down or stalled",
        findings.unrecoverable.len()
    );
    println!(
        "{:>17}  marks missing from ends that are marked as lower bounds",
        findings.missing_from_lower_bound.len()
    );
    println!("all jobs ended within {:.1} s of the last fault", took.as_secs_f64());
    for (name, excused) in [
        ("lost and excused", &findings.unrecoverable),
        ("missing from a lower bound", &findings.missing_from_lower_bound),
    ] {
        let mut marks: BTreeMap<(Moment, &str), usize> = BTreeMap::new();
        for Violation { at, job, .. } in excused {
            *marks.entry((*at, job)).or_default() += 1;
        }
        for ((at, job), count) in marks.iter().take(MAX_PRINTED) {
            println!("{name}: {count} marks of {job}, acknowledged at {:.3} s", seconds(*at));
        }
    }
    for Violation { rule, at, job, details } in findings.violations.iter().take(MAX_PRINTED) {
        println!("VIOLATION at {:.3} s, {job}, {rule}: {details}", seconds(*at));
    }
    if !findings.is_clean() {
        println!("history: {}", history.display());
    }
    let missing_faults: Vec<_> =
        injected.iter().filter(|(_, count)| **count == 0).map(|(kind, _)| kind.to_string()).collect();
    let unchecked_rules: Vec<_> =
        RULES.iter().filter(|rule| findings.checks[rule] == 0).map(ToString::to_string).collect();
    if !missing_faults.is_empty() || !unchecked_rules.is_empty() {
        println!("the run was too short: {missing_faults:?} did not occur, {unchecked_rules:?} was not checked");
    }
    findings.violations.is_empty() && missing_faults.is_empty() && unchecked_rules.is_empty()
}

fn seconds(moment: Moment) -> f64 {
    Duration::from_micros(moment).as_secs_f64()
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LostMark => "acknowledged mark missing from the end",
            Self::WrongCounts => "counts that differ from the marks or exceed the reported results",
            Self::FalseEnd => "end with a wrong state",
            Self::SecondEnd => "second end",
            Self::StateRegression => "earlier state shown after a later one",
            Self::LiveTooLow => "LIVE answer below the acknowledged results",
            Self::CountsDecreased => "answer that counts less than an earlier one",
            Self::UnmarkedLowerBound => "FALLBACK answer without the lower-bound flag",
            Self::LateReply => "reply after the deadline",
            Self::UnexpectedError => "error that no fault excuses",
            Self::NeverEnded => "job that never ended",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::schedule::kinds;
    use super::*;

    #[test]
    fn run_passes_only_if_every_fault_occurred_every_rule_was_checked_and_none_was_violated() {
        let passes = |findings: &Findings, injected: &BTreeMap<FaultKind, usize>| {
            print_result(findings, injected, Duration::ZERO, Path::new("nowhere"))
        };
        let injected: BTreeMap<FaultKind, usize> = kinds().map(|kind| (kind, 1)).collect();
        let checks: BTreeMap<Rule, usize> = RULES.into_iter().map(|rule| (rule, 1)).collect();
        let findings = |checks, violations| Findings { checks, violations, ..Findings::default() };
        assert!(passes(&findings(checks.clone(), vec![]), &injected));
        for kind in kinds() {
            let mut injected = injected.clone();
            injected.insert(kind, 0);
            assert!(!passes(&findings(checks.clone(), vec![]), &injected), "no {kind}");
        }
        for rule in RULES {
            let mut incomplete = checks.clone();
            incomplete.insert(rule, 0);
            assert!(!passes(&findings(incomplete, vec![]), &injected), "unchecked: {rule}");
            let violation = Violation { rule, at: 0, job: String::new(), details: String::new() };
            assert!(!passes(&findings(checks.clone(), vec![violation]), &injected), "{rule}");
        }
    }
}
