//! Explores the scenarios that take too long for the tests: every pair of faults on longer jobs, and single faults with
//! three gateways.
//!
//! The first argument is the time limit of each scenario in seconds (default 600). The other arguments are words: only
//! scenarios whose names contain every word run.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use protocol_model::explore::Exploration;
use protocol_model::faults::Faults;
use protocol_model::scenario::Scenario;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let seconds = arguments.peek().and_then(|first| first.parse().ok());
    if seconds.is_some() {
        arguments.next();
    }
    let words: Vec<String> = arguments.collect();
    let mut run = Run { time_limit: Duration::from_secs(seconds.unwrap_or(600)), words, failed: false };
    for (name, faults) in Faults::pairs().into_iter().chain(Faults::pairs_with_damage()) {
        run.explore(
            &format!("two gateways, retry and cancel, {name}"),
            &Scenario::<2>::failure_retried().with_cancel().with_faults(faults),
        );
        run.explore(
            &format!("two gateways, start, {name}"),
            &Scenario::<2>::all_succeed().with_cancel().with_start().with_faults(faults),
        );
        run.explore(
            &format!("two gateways, slow feed, {name}"),
            &Scenario::<2>::one_fails().with_slow_feed().with_faults(faults),
        );
        run.explore(
            &format!("two gateways, stalled, {name}"),
            &Scenario::<2>::cancelled().with_stall().with_faults(faults),
        );
    }
    for (name, faults) in Faults::SINGLE {
        run.explore(&format!("three gateways, retry, {name}"), &Scenario::<3>::failure_retried().with_faults(faults));
        run.explore(&format!("three gateways, cancel, {name}"), &Scenario::<3>::cancelled().with_faults(faults));
    }
    if run.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

struct Run {
    time_limit: Duration,
    words: Vec<String>,
    failed: bool,
}

impl Run {
    fn explore<const N: usize>(&mut self, name: &str, scenario: &Scenario<N>) {
        if !self.words.iter().all(|word| name.contains(word.as_str())) {
            return;
        }
        print!("{name}: ");
        let _ = std::io::stdout().flush();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let exploration = scenario.explore(threads, self.time_limit);
        println!("{exploration}");
        let Exploration { exhaustive, violations, unreached, .. } = exploration;
        for (property, trace) in &violations {
            println!("VIOLATED: {property}\n{trace}");
        }
        if exhaustive && !unreached.is_empty() {
            println!("UNREACHED: {unreached:?}");
        }
        self.failed |= !violations.is_empty() || (exhaustive && !unreached.is_empty());
    }
}
