//! Measures how long a thousand jobs take to recover after `FLUSHALL`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use highwater::grpc::pb;
use pb::progress_result::Result as ReadResult;
use pb::progress_service_client::ProgressServiceClient;
use pb::report_service_client::ReportServiceClient;
use serde::{Deserialize, Serialize};
use tonic::transport::Channel;

use crate::effort::Effort;
use crate::environment::Environment;
use crate::format::{count, short};
use crate::load::reports::{APPLIED, JobTasks, Load, Order, report_one};
use crate::page::Page;
use crate::redis_admin::RedisAdmin;
use crate::{Result, jobs};

const TASKS: i64 = 10_000;
const RESULTS: u64 = 1_000;
/// The number of concurrent starts and cancels.
const CONCURRENCY: usize = 16;
/// The largest number of jobs that one call reads.
const READ_BATCH: usize = 500;
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(90);

/// The results. Times are in seconds, starting at `FLUSHALL`.
#[derive(Serialize, Deserialize)]
pub struct Recovery {
    jobs: usize,
    /// The settle time of the gateways.
    settle: f64,
    /// Until every response had all counts again, FALLBACK or LIVE.
    counted: f64,
    /// Until every response was LIVE.
    live: f64,
}

/// Reports to jobs through one of two gateways, empties Redis, and reads until all jobs have recovered.
pub async fn measure(environment: &Environment, effort: Effort) -> Result<Recovery> {
    let jobs = effort.pick(1000, 3);
    // In a smoke test, the shortest settle time that is allowed with a short reconcile interval and request timeout.
    let short = ["--reconcile-interval=100ms", "--request-timeout=1s", "--settle-time=2500ms"];
    let (flags, settle) = effort.pick((&[][..], 15.0), (&short[..], 2.5));
    let (one, _two) = tokio::try_join!(environment.gateway(flags), environment.gateway(flags))?;
    let channel = one.channel()?;
    let ids: Vec<_> = (0..jobs).map(|number| format!("flushed-{number}")).collect();
    for batch in ids.chunks(CONCURRENCY) {
        try_join_all(batch.iter().map(|id| start(&channel, id))).await?;
    }
    let mut reader = Reader { client: ProgressServiceClient::new(channel.clone()), ids: &ids };
    let before = reader.read().await?;
    if !before.values().all(|(succeeded, live)| *live && *succeeded == Some(RESULTS.cast_signed())) {
        return Err("not every job is LIVE before the flush".into());
    }
    let flushed = Instant::now();
    RedisAdmin::connect(environment).await?.flush().await?;
    let (mut counted, mut live) = (None, None);
    while live.is_none() {
        tokio::time::sleep(POLL_INTERVAL).await;
        let now = reader.read().await?;
        let complete = now.values().all(|(succeeded, _)| *succeeded == Some(RESULTS.cast_signed()));
        if !complete {
            counted = None;
        } else if counted.is_none() {
            counted = Some(flushed.elapsed());
        }
        if now.values().all(|(_, live)| *live) {
            if !complete {
                return Err("after a flush, LIVE jobs have fewer marks than were acknowledged".into());
            }
            live = Some(flushed.elapsed());
        }
        if flushed.elapsed() > RECOVERY_TIMEOUT {
            let late = now.values().filter(|(_, live)| !live).count();
            return Err(
                format!("{late} of {jobs} jobs are not LIVE {} s after a flush", RECOVERY_TIMEOUT.as_secs()).into()
            );
        }
    }
    for batch in ids.chunks(CONCURRENCY) {
        try_join_all(batch.iter().map(|id| jobs::cancel(&channel, id))).await?;
    }
    let seconds = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64());
    Ok(Recovery { jobs, settle, counted: seconds(counted), live: seconds(live) })
}

async fn start(channel: &Channel, id: &str) -> Result<()> {
    jobs::start(channel, id, TASKS).await?;
    let load = Load { reporters: 1, results: RESULTS, order: Order::Scattered, length: Duration::ZERO };
    let job = JobTasks::of(id, TASKS.cast_unsigned());
    report_one(&mut ReportServiceClient::new(channel.clone()), &job, &load, APPLIED).await
}

struct Reader<'a> {
    client: ProgressServiceClient<Channel>,
    ids: &'a [String],
}

impl Reader<'_> {
    /// The successes of each job at the first stage, and whether its progress is LIVE.
    async fn read(&mut self) -> Result<BTreeMap<String, (Option<i64>, bool)>> {
        let mut found = BTreeMap::new();
        for batch in self.ids.chunks(READ_BATCH) {
            let request = pb::BatchGetProgressRequest { job_ids: batch.to_vec() };
            for result in self.client.batch_get_progress(request).await?.into_inner().results {
                let Some(ReadResult::Progress(progress)) = result.result else {
                    found.insert(result.job_id, (None, false));
                    continue;
                };
                let succeeded = progress.stages.first().and_then(|stage| stage.succeeded_count);
                if succeeded.is_some_and(|count| count > RESULTS.cast_signed()) {
                    return Err(format!("more marks are counted than were reported: {progress:?}").into());
                }
                found.insert(result.job_id, (succeeded, progress.source() == pb::Source::Live));
            }
        }
        Ok(found)
    }
}

impl Recovery {
    pub fn render(&self, page: &mut Page) {
        let row = [
            count(self.jobs as f64),
            short(self.settle),
            format!("**{:.1}**", self.counted),
            format!("**{:.1}**", self.live),
            format!("{:.1}", self.live - self.settle),
        ];
        let head = [
            "jobs",
            "settle time, s",
            "until all counts were back as a lower bound, s",
            "until all jobs were LIVE, s",
            "beyond the settle time, s",
        ];
        page.table("recovery", head, &[row]);
    }
}
