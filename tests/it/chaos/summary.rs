//! What a run prints.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{IsTerminal, Write, stdout};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::checker::{Judgement, RULES, Rule, Violation};
use super::crew::Crew;
use super::history::Moment;
use super::log::Log;
use super::schedule::Kind;

/// How many violations are shown, and how many calls whose marks are excused; the history has all that led to them.
const SHOWN: usize = 40;

/// How far it is: one line on a terminal, a line now and then elsewhere.
pub async fn progress(crew: Arc<Crew>, log: Arc<Log>, length: Duration) {
    let begun = Instant::now();
    let terminal = stdout().is_terminal();
    let every = if terminal { Duration::from_millis(250) } else { Duration::from_secs(10) };
    loop {
        tokio::time::sleep(every).await;
        let (jobs, calls) = log.so_far();
        let (seconds, of) = (begun.elapsed().as_secs(), length.as_secs());
        let line = format!("{seconds:>4} of {of} s: {} of {jobs} jobs ended, {calls} calls", crew.ended());
        if terminal {
            print!("\r{line}\x1b[K");
        } else {
            println!("{line}");
        }
        let _ = stdout().flush();
    }
}

/// The verdict; whether all was well.
pub fn verdict(judgement: &Judgement, injected: &BTreeMap<Kind, usize>, took: Duration, history: &Path) -> bool {
    println!("\n{:>8}  faults", "injected");
    for (kind, count) in injected {
        println!("{count:>8}  {kind}");
    }
    println!("{:>8} {:>8}  what must not be", "looked", "found");
    for rule in RULES {
        println!("{:>8} {:>8}  {rule}", judgement.looked[&rule], judgement.broken(rule));
    }
    println!(
        "{:>17}  marks given up: Redis lost them while the gateway that took them was dead or stood still",
        judgement.given_up.len()
    );
    println!("{:>17}  marks missing from ends that say they are lower bounds", judgement.below_bound.len());
    println!("all jobs ended within {:.1} s of the last fault", took.as_secs_f64());
    for (name, excused) in [("given up", &judgement.given_up), ("below the bound", &judgement.below_bound)] {
        let mut marks: BTreeMap<(Moment, &str), usize> = BTreeMap::new();
        for Violation { at, job, .. } in excused {
            *marks.entry((*at, job)).or_default() += 1;
        }
        for ((at, job), count) in marks.iter().take(SHOWN) {
            println!("{name}: {count} marks of {job}, acknowledged at {:.3} s", seconds(*at));
        }
    }
    for Violation { rule, at, job, what } in judgement.violations.iter().take(SHOWN) {
        println!("VIOLATION at {:.3} s, {job}, {rule}: {what}", seconds(*at));
    }
    if !judgement.is_clean() {
        println!("history: {}", history.display());
    }
    let idle: Vec<_> = injected.iter().filter(|(_, count)| **count == 0).map(|(kind, _)| kind.to_string()).collect();
    let unused: Vec<_> = RULES.iter().filter(|rule| judgement.looked[rule] == 0).map(ToString::to_string).collect();
    if !idle.is_empty() || !unused.is_empty() {
        println!("too short to say anything: {idle:?} did not happen, {unused:?} was not looked at");
    }
    judgement.violations.is_empty() && idle.is_empty() && unused.is_empty()
}

fn seconds(moment: Moment) -> f64 {
    Duration::from_micros(moment).as_secs_f64()
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "acknowledged mark missing from the end",
            Self::Counted => "counts that are not the marks', or above what was reported",
            Self::FalseEnd => "false end",
            Self::SecondEnd => "second end",
            Self::WentBack => "earlier state after a later one was seen",
            Self::LiveBelow => "LIVE answer below what was acknowledged",
            Self::Late => "call answered past its deadline",
            Self::Unexcused => "error that no fault excuses",
            Self::NeverEnded => "job that never ended",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::schedule::kinds;
    use super::*;

    #[test]
    fn a_run_is_good_only_if_every_fault_happened_every_rule_was_applied_and_none_was_broken() {
        let told = |judgement: &Judgement, injected: &BTreeMap<Kind, usize>| {
            verdict(judgement, injected, Duration::ZERO, Path::new("nowhere"))
        };
        let injected: BTreeMap<Kind, usize> = kinds().map(|kind| (kind, 1)).collect();
        let looked: BTreeMap<Rule, usize> = RULES.into_iter().map(|rule| (rule, 1)).collect();
        let judgement = |looked, violations| Judgement { looked, violations, ..Judgement::default() };
        assert!(told(&judgement(looked.clone(), vec![]), &injected));
        for kind in kinds() {
            let mut injected = injected.clone();
            injected.insert(kind, 0);
            assert!(!told(&judgement(looked.clone(), vec![]), &injected), "no {kind}");
        }
        for rule in RULES {
            let mut less = looked.clone();
            less.insert(rule, 0);
            assert!(!told(&judgement(less, vec![]), &injected), "no look at: {rule}");
            let broken = Violation { rule, at: 0, job: String::new(), what: String::new() };
            assert!(!told(&judgement(looked.clone(), vec![broken]), &injected), "{rule}");
        }
    }
}
