//! Runs an exploration. It visits every reachable state, or as many states as the time limit allows, and reports the
//! trace of each violation.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter, Write};
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::model::Action;
use crate::scenario::Scenario;
use crate::world::World;

/// The result of an exploration.
#[derive(Debug)]
pub struct Exploration {
    /// The number of unique states that were found.
    pub states: usize,
    /// The number of steps from the first state to the most distant state. With several threads, the number may be
    /// slightly higher.
    pub depth: usize,
    /// The time that the exploration took.
    pub elapsed: Duration,
    /// Whether every reachable state was checked: there was no violation, and the time limit was not reached.
    pub exhaustive: bool,
    /// The `always` properties that a state violates, each with the trace that leads to this state.
    pub violations: BTreeMap<&'static str, String>,
    /// The `sometimes` properties that no state meets.
    pub unreached: Vec<&'static str>,
}

impl<const N: usize> Scenario<N> {
    /// Explores the states breadth first, until all states are known, a property is violated, or the time limit is
    /// reached.
    pub fn explore(&self, threads: usize, time_limit: Duration) -> Exploration {
        let began = Instant::now();
        let checker = self.clone().checker().threads(threads).timeout(time_limit);
        let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries();
        let (mut violations, mut unreached) = (BTreeMap::new(), Vec::new());
        for property in self.properties() {
            match (property.expectation, found.get(property.name)) {
                (Expectation::Always, Some(path)) => {
                    violations.insert(property.name, trace(path.clone()));
                }
                (Expectation::Sometimes, None) => unreached.push(property.name),
                _ => {}
            }
        }
        let elapsed = began.elapsed();
        // The checker does not report whether it finished or reached the time limit.
        let exhaustive = violations.is_empty() && elapsed < time_limit;
        let (states, depth) = (checker.unique_state_count(), checker.max_depth());
        Exploration { states, depth, elapsed, exhaustive, violations, unreached }
    }
}

impl Exploration {
    /// Prints the result. Checks that every state is known, that no property is violated, and that no property is
    /// unreached.
    ///
    /// # Panics
    /// If any of these conditions is not met.
    pub fn assert_holds(&self, scenario: &str) {
        println!("{scenario}: {self}");
        let traces: Vec<_> = self.violations.iter().map(|(name, trace)| format!("{name}:\n{trace}")).collect();
        assert!(traces.is_empty(), "{scenario}: violated\n{}", traces.join("\n"));
        assert!(self.exhaustive, "{scenario}: time limit reached after {:?}", self.elapsed);
        assert!(self.unreached.is_empty(), "{scenario}: unreached {:?}", self.unreached);
    }
}

impl Display for Exploration {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let extent = if self.exhaustive { "all" } else { "only the first" };
        write!(f, "{extent} {} states, depth {}, {} s", self.states, self.depth, self.elapsed.as_secs())
    }
}

/// Formats the actions along a path, and the state to which it leads.
fn trace<const N: usize>(path: Path<World<N>, Action>) -> String {
    let mut lines = String::new();
    for (world, action) in path.into_vec() {
        if let Some(action) = action {
            let step = match action {
                Action::Step(gateway) | Action::StepResponseLost(gateway) => world.gateways[gateway].operation,
                _ => None,
            };
            let step = step.map(|operation| format!(" {:?}", operation.step)).unwrap_or_default();
            let _ = writeln!(lines, "  {action:?}{step}");
        } else {
            let _ = writeln!(lines, "  {:?}\n  {:?}\n  {:?}", world.redis, world.postgres, world.truth);
            for gateway in world.gateways {
                let _ = writeln!(lines, "  {gateway:?}");
            }
        }
    }
    lines
}
