//! Whatever Redis or Postgres lose, and for however long they are away: no report that was acknowledged is lost, no job
//! ends falsely, no number is told that is not true. Jobs with real workers, through several gateways, while that
//! happens; what a gateway does at one step of it is in `faults`.

mod away;
mod crew;
mod failover;
mod forgotten_end;
mod lost;
mod refusing;
mod sealed;

use std::time::Duration;

use crate::support::{Builder, Gateway, Stack, eventually, pb, stages};

/// How often reconcilers come by in these tests, and how long restored trackers settle.
const ROUND: Duration = Duration::from_millis(100);
const SETTLE: Duration = Duration::from_secs(3);

/// Gateways that reach the stores by links of their own, and settle within a test's time.
fn settling(gateways: usize) -> Builder {
    Stack::of(gateways).links().settling(ROUND, SETTLE)
}

/// The number of rows in the ledger.
async fn ledger(stack: &Stack) -> i64 {
    stack.postgres.value("SELECT count(*) FROM ledger").await
}

/// Waits until the job is read LIVE through this gateway.
async fn live(gateway: &Gateway, id: &str) -> pb::Progress {
    let look = async || gateway.progress(id).await.ok().filter(|progress| progress.source() == pb::Source::Live);
    eventually(&format!("{id} is read live"), look).await
}

/// Reads, of a job that runs, an answer for this reason.
async fn fallback(gateway: &Gateway, id: &str, reason: pb::SourceReason) -> pb::Progress {
    let look = async || {
        let progress = gateway.progress(id).await.ok()?;
        assert_eq!(progress.state(), pb::JobState::Running, "{progress:?}");
        (progress.source_reason() == reason).then_some(progress)
    };
    let progress = eventually(reason.as_str_name(), look).await;
    assert_eq!(progress.source(), pb::Source::Fallback);
    progress
}

/// Every gateway shows the same end, with these counts, and says that they are all.
async fn every_gateway_shows(stack: &Stack, id: &str, state: pb::JobState, expected: &[[i64; 4]]) {
    for gateway in stack.gateways() {
        let progress = gateway.progress(id).await.unwrap();
        assert_eq!((progress.state(), progress.source()), (state, pb::Source::Snapshot), "{id}");
        assert_eq!((&stages(&progress)[..], progress.lower_bound), (expected, false), "{id}");
    }
}
