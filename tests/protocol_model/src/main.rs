//! Explores what the tests do not have the time for.
use protocol_model::model::Protocol;
use protocol_model::world::Faults;
use stateright::{Checker, HasDiscoveries, Model};

fn main() {
    let n: Vec<u8> = std::env::args().nth(1).unwrap().bytes().map(|b| b - b'0').collect();
    let faults = Faults {
        flushes: n[0],
        rollbacks: n[1],
        crashes: n[2],
        redis_cuts: n[3],
        postgres_cuts: n[4],
        feed_cuts: n[5],
        forgets: n[6],
    };
    let mut protocol = Protocol::<2>::new(faults);
    if let Some(starts) = std::env::args().nth(2) {
        protocol.starts = starts.parse().unwrap();
    }
    if let Some(reports) = std::env::args().nth(3) {
        protocol.reports = reports.parse().unwrap();
    }
    if let Some(x) = std::env::args().nth(4) {
        protocol.cancels = x.parse().unwrap();
    }
    if let Some(x) = std::env::args().nth(5) {
        protocol.without = protocol_model::rules::Rule::ALL.into_iter().find(|rule| format!("{rule:?}") == x);
        assert!(protocol.without.is_some());
    }
    protocol.feed_lags = std::env::var("LAGS").is_ok();
    let began = std::time::Instant::now();
    let checker = protocol
        .clone()
        .checker()
        .threads(2)
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(std::time::Duration::from_secs(std::env::var("SECS").map_or(120, |s| s.parse().unwrap())))
        .spawn_bfs()
        .join();
    println!(
        "{} states, {} unique, depth {}, {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed()
    );
    for (name, path) in checker.discoveries() {
        println!("found: {name}");
        if name.starts_with("a job") && !name.starts_with("a job ends as") || name.starts_with("a lost") {
            continue;
        }
        let steps = path.into_vec();
        for (world, action) in steps {
            println!("  {:?}\n  {:?}\n  {:?}", world.redis, world.postgres, world.truth);
            for gateway in world.gateways {
                println!("      {gateway:?}");
            }
            println!("=> {action:?}");
        }
    }
}
