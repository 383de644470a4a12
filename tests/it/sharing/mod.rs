//! Round trips that calls share: reads of one job that come at once are one, and so are its reports. Nobody is told what
//! was before he came, nor what is another's, and nobody is lost with another.
//!
//! A call is held up at a fault point of the round that it began, and those that come meanwhile are known to wait, since
//! each has passed `round.joined`.

mod reads;
mod reports;

use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::Request;

use crate::faults::beside;
use crate::support::{Answer, Builder, Fault, Gateway, Stack, eventually, pb};

const JOINED: &str = "round.joined";

/// Gateways that do nothing by themselves, and let a call wait longer than any test takes.
fn unhurried(gateways: usize) -> Builder {
    Stack::of(gateways).unreconciled().setting("request-timeout", "20s")
}

/// Makes a call, and waits until it waits in the gateway.
async fn joins<T: Send + 'static>(
    gateway: &Gateway,
    call: impl Future<Output = Answer<T>> + Send + 'static,
) -> JoinHandle<Answer<T>> {
    gateway.order(JOINED, Fault::Stall);
    let call = beside(call);
    gateway.reached(JOINED).await;
    gateway.release(JOINED);
    call
}

/// The same, of the call that begins a round: it is held up at `point`, and so are all that come after it.
async fn held_up<T: Send + 'static>(
    gateway: &Gateway,
    point: &str,
    call: impl Future<Output = Answer<T>> + Send + 'static,
) -> JoinHandle<Answer<T>> {
    gateway.order(point, Fault::Stall);
    let call = beside(call);
    gateway.reached(point).await;
    call
}

/// A caller goes away, and the gateway knows it.
async fn goes_away<T>(gateway: &Gateway, method: &str, call: JoinHandle<T>) {
    let gone = format!(r#"{method}",code="CANCELLED"}}"#);
    let count = async || {
        let (_, metrics) = gateway.http("/metrics").await;
        metrics.lines().find(|line| line.contains("request_seconds_count") && line.contains(&gone)).map(str::to_owned)
    };
    let before = count().await;
    call.abort();
    eventually("a caller is gone", async || (count().await != before).then_some(())).await;
}

/// A request whose caller waits no longer than this.
fn within<T>(time: Duration, request: T) -> Request<T> {
    let mut request = Request::new(request);
    request.set_timeout(time);
    request
}

fn read(id: &str) -> pb::GetProgressRequest {
    pb::GetProgressRequest { job_id: id.to_owned() }
}
