//! Tests of coalesced calls. Concurrent reads of one job share one round trip to Redis, and concurrent reports share
//! one script call. No caller gets a result from before its call or the result of another caller. If a caller fails,
//! the others do not fail because of it.
//!
//! The tests stall a call at a fault point of the round trip that it began. Calls made meanwhile pass `round.joined`,
//! which shows that they wait.

mod reads;
mod reports;

use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::Request;

use crate::faults::spawn_call;
use crate::support::{Builder, CallResult, Fault, Gateway, Stack, eventually, pb};

const JOINED: &str = "round.joined";

/// Builds gateways without a reconciler, whose request timeout is longer than any test takes.
fn long_timeout(gateways: usize) -> Builder {
    Stack::builder(gateways).without_reconciler().setting("request-timeout", "20s")
}

/// Starts a call. Returns once the call waits in the gateway for the next round trip.
async fn joined_call<T: Send + 'static>(
    gateway: &Gateway,
    call: impl Future<Output = CallResult<T>> + Send + 'static,
) -> JoinHandle<CallResult<T>> {
    gateway.inject(JOINED, Fault::Stall);
    let call = spawn_call(call);
    gateway.wait_until_reached(JOINED).await;
    gateway.release(JOINED);
    call
}

/// Starts a call that begins a round trip. Returns once the round trip is stalled at `point`. Later calls for the job
/// wait for this round trip.
async fn call_stalled_at<T: Send + 'static>(
    gateway: &Gateway,
    point: &str,
    call: impl Future<Output = CallResult<T>> + Send + 'static,
) -> JoinHandle<CallResult<T>> {
    gateway.inject(point, Fault::Stall);
    let call = spawn_call(call);
    gateway.wait_until_reached(point).await;
    call
}

/// Aborts a call, and waits until the gateway has counted the call as cancelled.
async fn abort_call<T>(gateway: &Gateway, method: &str, call: JoinHandle<T>) {
    let cancelled = format!(r#"{method}",code="CANCELLED"}}"#);
    let count = async || {
        let (_, metrics) = gateway.http("/metrics").await;
        metrics
            .lines()
            .find(|line| line.contains("request_duration_seconds_count") && line.contains(&cancelled))
            .map(str::to_owned)
    };
    let before = count().await;
    call.abort();
    eventually("the gateway notices the cancelled call", async || (count().await != before).then_some(())).await;
}

/// A request with this deadline.
fn with_timeout<T>(time: Duration, request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(time);
    request
}

fn read(id: &str) -> pb::GetProgressRequest {
    pb::GetProgressRequest { job_id: id.to_owned() }
}
