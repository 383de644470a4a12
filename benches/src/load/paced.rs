//! Reads at a steady rate, each at its moment whatever became of the ones before: how long a call takes where nobody has
//! made a line for it to wait in. On threads of their own, so that other loads of this process are not in their way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use highwater::grpc::pb;
use pb::progress_service_client::ProgressServiceClient;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{Seen, latencies};
use crate::Result;
use crate::effort::Effort;
use crate::stand::{Server, channel_to};

/// How many connections are made at once.
const OPENED_AT_ONCE: usize = 100;
/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(1);
/// How many calls may be open, or as many as there are clients: a server that cannot go on is not asked any more.
const OPEN_CALLS: usize = 128;

/// Clients that ask how far jobs are, by turns.
pub struct Pollers {
    runtime: Option<Runtime>,
    clients: Arc<[Client]>,
    ids: Arc<[String]>,
    effort: Effort,
}

/// What was seen, and how many of the answers were FALLBACK because the gateway got nothing from Redis in time: true, and
/// less than was asked for. Where cores are full, that is what gives way.
pub struct Polled {
    pub seen: Seen,
    pub fallback: u64,
}

type Client = ProgressServiceClient<Channel>;
type Right = fn(&pb::Progress) -> Option<String>;

impl Pollers {
    /// Opens so many connections, each by a first read.
    pub async fn open(server: &Server, ids: Vec<String>, connections: usize, effort: Effort) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (ids, address): (Arc<[String]>, _) = (ids.into(), server.address);
        let opened = runtime.spawn(open(address, ids.clone(), connections)).await;
        Ok(Self { runtime: Some(runtime), clients: opened??.into(), ids, effort })
    }

    /// Reads so often, for so long; `right` says what is wrong with an answer.
    pub async fn poll(&self, server: &Server, per_second: f64, length: Duration, right: Right) -> Result<Polled> {
        let Some(runtime) = &self.runtime else { return Err("the pollers have gone".into()) };
        let (began, before) = (Instant::now(), server.cpu()?);
        let polling = poll(self.clients.clone(), self.ids.clone(), per_second, length, right);
        let (latency, fallback) = runtime.spawn(polling).await??;
        let cpu = server.cpu()?.saturating_sub(before);
        if self.effort == Effort::Smoke && fallback > 0 {
            return Err(format!("{fallback} reads of a smoke were not LIVE").into());
        }
        Ok(Polled { seen: Seen { calls: latency.len(), elapsed: began.elapsed(), latency, cpu }, fallback })
    }
}

impl Drop for Pollers {
    fn drop(&mut self) {
        // Whoever drops it may be a task, which must not wait for a runtime to end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn open(address: SocketAddr, ids: Arc<[String]>, connections: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(connections);
    while clients.len() < connections {
        let some = OPENED_AT_ONCE.min(connections - clients.len());
        clients.extend(try_join_all((0..some).map(|_| open_one(address, ids[0].clone()))).await?);
    }
    Ok(clients)
}

async fn open_one(address: SocketAddr, job_id: String) -> Result<Client> {
    let mut client = ProgressServiceClient::new(channel_to(address)?);
    client.get_progress(pb::GetProgressRequest { job_id }).await?;
    Ok(client)
}

async fn poll(
    clients: Arc<[Client]>,
    ids: Arc<[String]>,
    per_second: f64,
    length: Duration,
    right: Right,
) -> Result<(Histogram<u64>, u64)> {
    let (mut latency, mut calls, mut sent, mut fallback) = (latencies()?, JoinSet::new(), 0, 0);
    let (began, mut ticks) = (Instant::now(), tokio::time::interval(TICK));
    while began.elapsed() < length {
        ticks.tick().await;
        let due = (began.elapsed().as_secs_f64() * per_second) as usize;
        while sent < due && calls.len() < clients.len().max(OPEN_CALLS) {
            let (client, job_id) = (clients[sent % clients.len()].clone(), ids[sent % ids.len()].clone());
            calls.spawn(read(client, job_id, right));
            sent += 1;
        }
        while let Some(took) = calls.try_join_next() {
            let (took, fell_back) = took??;
            latency.record(took)?;
            fallback += u64::from(fell_back);
        }
    }
    while let Some(took) = calls.join_next().await {
        let (took, fell_back) = took??;
        latency.record(took)?;
        fallback += u64::from(fell_back);
    }
    Ok((latency, fallback))
}

/// How long it took, in microseconds, and whether it was without Redis.
async fn read(mut client: Client, job_id: String, right: Right) -> Result<(u64, bool)> {
    let began = Instant::now();
    let answer = client.get_progress(pb::GetProgressRequest { job_id }).await?.into_inner();
    let took = u64::try_from(began.elapsed().as_micros())?.max(1);
    let progress = answer.progress.ok_or("an answer without progress")?;
    let fell_back = is_without_redis(&progress);
    match right(&progress) {
        Some(wrong) if !fell_back => Err(format!("a wrong answer: {wrong}: {progress:?}").into()),
        _ => Ok((took, fell_back)),
    }
}

/// Whether it says that Redis did not answer, and that counts may be short.
pub fn is_without_redis(progress: &pb::Progress) -> bool {
    progress.source_reason() == pb::SourceReason::RedisUnreachable && progress.lower_bound
}
