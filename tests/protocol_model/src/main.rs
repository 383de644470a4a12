//! Explores all pairs of faults on all that can happen to a job, and three gateways: what the tests have not the time for.
//! Arguments: how many seconds each exploration may take (600), and words that the names must contain.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use protocol_model::explore::Explored;
use protocol_model::protocol::Protocol;
use protocol_model::worlds::{self, KINDS};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let seconds = arguments.peek().and_then(|first| first.parse().ok());
    if seconds.is_some() {
        arguments.next();
    }
    let words: Vec<String> = arguments.collect();
    let mut run = Run { within: Duration::from_secs(seconds.unwrap_or(600)), words, violated: false };
    for (name, faults) in worlds::pairs() {
        run.explore(
            &format!("two gateways, retry and cancel, {name}"),
            &worlds::retrying::<2>().cancelled().with(faults),
        );
        run.explore(
            &format!("two gateways, start, {name}"),
            &worlds::succeeding::<2>().cancelled().started().with(faults),
        );
        run.explore(&format!("two gateways, slow feed, {name}"), &worlds::failing::<2>().lagging().with(faults));
        run.explore(&format!("two gateways, stalled, {name}"), &worlds::cancelled::<2>().stalled().with(faults));
    }
    for (name, faults) in KINDS {
        run.explore(&format!("three gateways, retry, {name}"), &worlds::retrying::<3>().with(faults));
        run.explore(&format!("three gateways, cancel, {name}"), &worlds::cancelled::<3>().with(faults));
    }
    if run.violated { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

struct Run {
    within: Duration,
    words: Vec<String>,
    violated: bool,
}

impl Run {
    fn explore<const N: usize>(&mut self, name: &str, protocol: &Protocol<N>) {
        if !self.words.iter().all(|word| name.contains(word.as_str())) {
            return;
        }
        print!("{name}: ");
        let _ = std::io::stdout().flush();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let Explored { states, depth, took, complete, violated, missed } = protocol.explore(threads, self.within);
        let all = if complete { "all" } else { "the first" };
        println!("{all} {states} states, {depth} steps deep, {} s", took.as_secs());
        for (property, story) in &violated {
            println!("VIOLATED: {property}\n{story}");
        }
        if complete && !missed.is_empty() {
            println!("NEVER: {missed:?}");
        }
        self.violated |= !violated.is_empty() || (complete && !missed.is_empty());
    }
}
