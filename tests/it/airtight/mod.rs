//! End-to-end fault tests with real workers and several gateways. Redis or Postgres may lose any data and be down for
//! any time. No acknowledged report is lost, no job ends with a wrong state, and no answer is false. The `faults`
//! module tests single steps of a gateway.

mod data_loss;
mod failover;
mod postgres_rollback;
mod reports_after_seal;
mod store_outage;
mod workload;
mod writes_refused;

use std::time::Duration;

use crate::support::{Builder, Gateway, Stack, eventually, pb, stage_counts};

/// The reconcile interval in these tests.
const ROUND: Duration = Duration::from_millis(100);
/// The settle time of restored trackers in these tests.
const SETTLE: Duration = Duration::from_secs(3);

/// Builds gateways with their own links to the stores, and with intervals that are short enough for a test.
fn fast_settling(gateways: usize) -> Builder {
    // Jobs must start while Redis refuses writes because its memory is full.
    Stack::builder(gateways).links().reconciling(ROUND, SETTLE).setting("redis-high-water", "100")
}

/// The number of rows in the ledger.
async fn ledger_rows(stack: &Stack) -> i64 {
    stack.postgres.value("SELECT count(*) FROM ledger").await
}

/// Waits until the job is read LIVE through this gateway.
async fn wait_for_live(gateway: &Gateway, id: &str) -> pb::Progress {
    let live = async || gateway.progress(id).await.ok().filter(|progress| progress.source() == pb::Source::Live);
    eventually(&format!("{id} is read LIVE"), live).await
}

/// Waits until a read of a running job is FALLBACK with this reason.
async fn wait_for_fallback(gateway: &Gateway, id: &str, reason: pb::SourceReason) -> pb::Progress {
    let matching = async || {
        let progress = gateway.progress(id).await.ok()?;
        assert_eq!(progress.state(), pb::JobState::Running, "{progress:?}");
        (progress.source_reason() == reason).then_some(progress)
    };
    let progress = eventually(reason.as_str_name(), matching).await;
    assert_eq!(progress.source(), pb::Source::Fallback);
    progress
}

/// Asserts that every gateway shows the stored end with this state and these exact counts.
async fn assert_all_gateways_show(stack: &Stack, id: &str, state: pb::JobState, expected: &[[i64; 4]]) {
    for gateway in stack.gateways() {
        let progress = gateway.progress(id).await.unwrap();
        assert_eq!((progress.state(), progress.source()), (state, pb::Source::Snapshot), "{id}");
        assert_eq!((&stage_counts(&progress)[..], progress.lower_bound), (expected, false), "{id}");
    }
}
