//! How long do a thousand jobs take to be whole again after FLUSHALL?

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use highwater::grpc::pb;
use pb::progress_result::Result as Read;
use pb::progress_service_client::ProgressServiceClient;
use pb::report_service_client::ReportServiceClient;
use serde::Serialize;
use tonic::transport::Channel;

use super::redis::Redis;
use crate::effort::Effort;
use crate::load::reports::{APPLIED, Load, Order, Tasks, report_one};
use crate::page::{Page, count};
use crate::stand::Stand;
use crate::{Result, jobs};

const TASKS: i64 = 10_000;
const RESULTS: u64 = 1_000;
const AT_ONCE: usize = 16;
/// As many as one call reads.
const READ_AT_ONCE: usize = 500;
const LOOK_EVERY: Duration = Duration::from_millis(100);
const RECOVERED_WITHIN: Duration = Duration::from_secs(90);

/// What was found, in seconds from FLUSHALL on.
#[derive(Serialize)]
pub struct Recovery {
    jobs: usize,
    settle: f64,
    /// Until every answer had all counts again, FALLBACK or LIVE.
    counted: f64,
    /// Until every answer was LIVE.
    live: f64,
}

/// Marks jobs through one of two gateways, takes everything from Redis, and reads until all is there.
pub async fn measure(stand: &Stand, effort: Effort) -> Result<Recovery> {
    let jobs = effort.pick(1000, 3);
    // The shortest that a gateway allows with shorter rounds and calls, so that a smoke need not wait.
    let short = ["--reconcile-interval=100ms", "--request-timeout=1s", "--settle-time=2500ms"];
    let (flags, settle) = effort.pick((&[][..], 15.0), (&short[..], 2.5));
    let (one, _two) = tokio::try_join!(stand.gateway(flags), stand.gateway(flags))?;
    let channel = one.channel()?;
    let ids: Vec<_> = (0..jobs).map(|number| format!("flushed-{number}")).collect();
    for some in ids.chunks(AT_ONCE) {
        try_join_all(some.iter().map(|id| begin(&channel, id))).await?;
    }
    let mut reading = Reading { client: ProgressServiceClient::new(channel.clone()), ids: &ids };
    let before = reading.read().await?;
    if !before.values().all(|(succeeded, live)| *live && *succeeded == Some(RESULTS.cast_signed())) {
        return Err("not every job is live before the flush".into());
    }
    let flushed = Instant::now();
    Redis::of(stand).await?.flush().await?;
    let (mut counted, mut live) = (None, None);
    while live.is_none() {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = reading.read().await?;
        let whole = now.values().all(|(succeeded, _)| *succeeded == Some(RESULTS.cast_signed()));
        if !whole {
            counted = None;
        } else if counted.is_none() {
            counted = Some(flushed.elapsed());
        }
        if now.values().all(|(_, live)| *live) {
            if !whole {
                return Err("after a flush jobs are live with fewer marks than were acknowledged".into());
            }
            live = Some(flushed.elapsed());
        }
        if flushed.elapsed() > RECOVERED_WITHIN {
            let late = now.values().filter(|(_, live)| !live).count();
            return Err(
                format!("{late} of {jobs} jobs are not live {} s after a flush", RECOVERED_WITHIN.as_secs()).into()
            );
        }
    }
    for some in ids.chunks(AT_ONCE) {
        try_join_all(some.iter().map(|id| jobs::cancel(&channel, id))).await?;
    }
    let seconds = |time: Option<Duration>| time.map_or(f64::NAN, |time| time.as_secs_f64());
    Ok(Recovery { jobs, settle, counted: seconds(counted), live: seconds(live) })
}

async fn begin(channel: &Channel, id: &str) -> Result<()> {
    jobs::start(channel, id, TASKS).await?;
    let load = Load { reporters: 1, results: RESULTS, order: Order::Scattered, length: Duration::ZERO };
    let job = Tasks::of(id, TASKS.cast_unsigned());
    report_one(&mut ReportServiceClient::new(channel.clone()), &job, &load, APPLIED).await
}

struct Reading<'a> {
    client: ProgressServiceClient<Channel>,
    ids: &'a [String],
}

impl Reading<'_> {
    /// What is counted at the first stage of each job, and whether it is LIVE.
    async fn read(&mut self) -> Result<BTreeMap<String, (Option<i64>, bool)>> {
        let mut found = BTreeMap::new();
        for some in self.ids.chunks(READ_AT_ONCE) {
            let request = pb::BatchGetProgressRequest { job_ids: some.to_vec() };
            for result in self.client.batch_get_progress(request).await?.into_inner().results {
                let Some(Read::Progress(progress)) = result.result else {
                    found.insert(result.job_id, (None, false));
                    continue;
                };
                let succeeded = progress.stages.first().and_then(|stage| stage.succeeded_count);
                if succeeded.is_some_and(|count| count > RESULTS.cast_signed()) {
                    return Err(format!("more is counted than was reported: {progress:?}").into());
                }
                found.insert(result.job_id, (succeeded, progress.source() == pb::Source::Live));
            }
        }
        Ok(found)
    }
}

impl Recovery {
    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("After FLUSHALL");
        page.say(format!(
            "{} running jobs of {} tasks, {} of them marked, over two gateways with the default settle time of {} s, when Redis lost \
             everything. After **{:.1} s** every answer had all counts again, as a lower bound; after **{:.1} s** every job was LIVE with the right counts: {:.1} s beyond the \
             settle time, for which every gateway may add its marks. No mark was lost, and none counted twice.",
            count(self.jobs as f64),
            count(TASKS as f64),
            count(RESULTS as f64),
            self.settle,
            self.counted,
            self.live,
            self.live - self.settle
        ));
        page.data("recovery", self)
    }
}
