//! Exploring: every state that can be reached, or as many as time allows; and the story of one that must not be.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::model::Action;
use crate::protocol::Protocol;
use crate::world::World;

/// What was found.
#[derive(Debug)]
pub struct Explored {
    /// How many states there are.
    pub states: usize,
    /// After how many steps there were no new ones.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Whether these are all.
    pub complete: bool,
    /// What must be so in every state, and is not: with the way there.
    pub violated: BTreeMap<&'static str, String>,
    /// What must be so in some state, and was not found.
    pub missed: Vec<&'static str>,
}

impl<const N: usize> Protocol<N> {
    /// Explores the states, the nearest first, until all are known, something is violated, or the time is up.
    pub fn explore(&self, threads: usize, within: Duration) -> Explored {
        let began = Instant::now();
        let checker = self.clone().checker().threads(threads).timeout(within);
        let checker = checker.finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let found = checker.discoveries();
        let (mut violated, mut missed) = (BTreeMap::new(), Vec::new());
        for property in self.properties() {
            match (property.expectation, found.get(property.name)) {
                (Expectation::Always, Some(path)) => {
                    violated.insert(property.name, story(path.clone()));
                }
                (Expectation::Sometimes, None) => missed.push(property.name),
                _ => {}
            }
        }
        let took = began.elapsed();
        // The checker does not say whether it was done or out of time.
        let complete = violated.is_empty() && took < within;
        Explored { states: checker.unique_state_count(), depth: checker.max_depth(), took, complete, violated, missed }
    }
}

impl Explored {
    /// Fails unless all states are known and all is as it must be.
    ///
    /// # Panics
    /// See above.
    pub fn holds(&self, what: &str) {
        let stories: Vec<_> = self.violated.iter().map(|(name, story)| format!("{name}:\n{story}")).collect();
        assert!(stories.is_empty(), "{what}: violated\n{}", stories.join("\n"));
        assert!(self.complete, "{what}: not all states within {:?}", self.took);
        assert!(self.missed.is_empty(), "{what}: never {:?}", self.missed);
    }
}

/// What happened, step by step, and how it stands then.
fn story<const N: usize>(path: Path<World<N>, Action>) -> String {
    let mut told = String::new();
    for (world, action) in path.into_vec() {
        if let Some(action) = action {
            let task = |gateway: usize| world.gateways[gateway].task.map(|task| format!(" {:?}", task.step));
            let step = match action {
                Action::Step(gateway) | Action::AnswerLost(gateway) => task(gateway).unwrap_or_default(),
                _ => String::new(),
            };
            let _ = writeln!(told, "  {action:?}{step}");
        } else {
            let _ = writeln!(told, "  {:?}\n  {:?}\n  {:?}", world.redis, world.postgres, world.truth);
            for gateway in world.gateways {
                let _ = writeln!(told, "  {gateway:?}");
            }
        }
    }
    told
}
