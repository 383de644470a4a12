//! How long does one command hold Redis at the worst?

use std::time::Duration;

use highwater::grpc::pb;
use pb::job_service_client::JobServiceClient;
use pb::progress_service_client::ProgressServiceClient;
use serde::Serialize;

use super::PATIENCE;
use super::batches::{Batches, RESULTS};
use super::goal::{Goal, short};
use super::redis::Redis;
use crate::effort::Effort;
use crate::page::{Page, count};
use crate::stand::{Server, Stand};
use crate::until::until;
use crate::{Result, jobs, usage};

const ID: &str = "worst";
/// No script may hold Redis for longer.
const LIMIT_MICROS: u64 = 10_000;
/// What is noted at all.
const NOTED_MICROS: u64 = 100;
/// Of fewer scripts, a tick of the kernel's clock would be most of their CPU time.
const MEANINGFUL: u64 = 100;
/// As short as two gateways may let restored marks settle that look at them ten times a second.
const FLAGS: [&str; 3] = ["--reconcile-interval=100ms", "--request-timeout=5s", "--settle-time=6s"];

/// What happened, and the longest command meanwhile.
#[derive(Serialize)]
struct Phase {
    what: &'static str,
    longest_millis: f64,
    command: String,
    over_limit: usize,
    scripts: u64,
    /// Of all that Redis did, by the scripts in it.
    cpu_millis: f64,
}

/// What was found.
#[derive(Serialize)]
pub struct Scripts(Vec<Phase>);

/// Lets two gateways do the worst to the largest job.
pub async fn measure(stand: &Stand, effort: Effort) -> Result<Scripts> {
    let tasks = effort.pick(10_000_000, 1_000_000);
    let (one, two) = tokio::try_join!(stand.gateway(&FLAGS), stand.gateway(&FLAGS))?;
    let (redis, channel) = (Redis::of(stand).await?, one.channel()?);
    redis.note_slow(NOTED_MICROS).await?;
    let mut phases = Phases { stand, redis: &redis, before: used(stand, &redis).await?, found: Vec::new() };

    jobs::start_staged(&channel, ID, tasks, jobs::ALL_STAGES.len()).await?;
    phases.end("a start").await?;
    let batches = Batches::of(ID, tasks.cast_unsigned(), RESULTS);
    let length = effort.seconds(4);
    tokio::try_join!(batches.report(&one, length), batches.report(&two, length), batches.report(&two, length))?;
    phases.end("reports of 10,000 results from all over the job, by two gateways at once").await?;
    list(&one).await?;
    phases.end("a list of what failed").await?;
    if effort == Effort::Full {
        redis.lose(ID).await?;
        live_again(&one).await?;
        phases.end("the tracker lost, and restored from two mirrors").await?;
    }
    jobs::cancel(&channel, ID).await?;
    phases.end("a cancel, with its snapshot").await?;
    complete(&one, effort.pick(1_000_000, 1_000)).await?;
    phases.end("a job of 1,000,000 tasks from start to end").await?;
    redis.note_slow(LIMIT_MICROS).await?;
    Ok(Scripts(phases.found))
}

/// The CPU time that Redis has used, and how many scripts it has run.
async fn used(stand: &Stand, redis: &Redis) -> Result<(Duration, u64)> {
    Ok((usage::cpu(stand.redis.pid())?, redis.scripts().await?))
}

struct Phases<'a> {
    stand: &'a Stand,
    before: (Duration, u64),
    redis: &'a Redis,
    found: Vec<Phase>,
}

impl Phases<'_> {
    async fn end(&mut self, what: &'static str) -> Result<()> {
        let now = used(self.stand, self.redis).await?;
        let (cpu, scripts) = (now.0.saturating_sub(self.before.0), now.1 - self.before.1);
        self.before = now;
        let slow = self.redis.slow().await?;
        self.redis.note_slow(NOTED_MICROS).await?;
        // Not what asks.
        let slow: Vec<_> =
            slow.into_iter().filter(|slow| !["KEYS", "INFO", "SLOWLOG"].contains(&&*slow.command)).collect();
        let longest = slow.iter().max_by_key(|slow| slow.micros);
        self.found.push(Phase {
            what,
            longest_millis: longest.map_or(0, |slow| slow.micros) as f64 / 1e3,
            command: longest.map(|slow| slow.command.clone()).unwrap_or_default(),
            scripts,
            cpu_millis: cpu.as_secs_f64() * 1e3 / scripts.max(1) as f64,
            over_limit: slow.iter().filter(|slow| slow.micros > LIMIT_MICROS).count(),
        });
        Ok(())
    }
}

/// Lists pages of what failed at the first stage.
async fn list(gateway: &Server) -> Result<()> {
    let mut client = JobServiceClient::new(gateway.channel()?);
    let mut page_token = String::new();
    loop {
        let request = pb::ListTasksRequest {
            job_id: ID.to_owned(),
            stage: jobs::STAGES[0].to_owned(),
            status: pb::TaskStatus::Failed.into(),
            page_size: 10_000,
            page_token,
        };
        let listed = client.list_tasks(request).await?.into_inner();
        if listed.next_page_token.is_empty() {
            return Ok(());
        }
        page_token = listed.next_page_token;
    }
}

async fn live_again(gateway: &Server) -> Result<()> {
    let mut client = ProgressServiceClient::new(gateway.channel()?);
    until("a tracker that was lost is restored and LIVE", PATIENCE, async || {
        let answer = client.get_progress(pb::GetProgressRequest { job_id: ID.to_owned() }).await?.into_inner();
        let progress = answer.progress.unwrap_or_default();
        Ok((progress.restore_time.is_some() && progress.source() == pb::Source::Live).then_some(()))
    })
    .await
}

/// A job that ends by itself.
async fn complete(gateway: &Server, tasks: u64) -> Result<()> {
    jobs::start_staged(&gateway.channel()?, "whole", tasks.cast_signed(), 1).await?;
    let results = RESULTS.min(tasks);
    let batches = Batches::of_stages("whole", tasks, 1, results).succeeding();
    for _ in 0..tasks / results {
        batches.report_once(gateway).await?;
    }
    let mut jobs = JobServiceClient::new(gateway.channel()?);
    until("a job of which all was reported has ended", PATIENCE, async || {
        let got = jobs.get_job(pb::GetJobRequest { job_id: "whole".to_owned() }).await?.into_inner();
        Ok((got.job.unwrap_or_default().state() == pb::JobState::Succeeded).then_some(()))
    })
    .await
}

impl Scripts {
    pub fn goals(&self) -> Vec<Goal> {
        let longest = self.0.iter().map(|phase| phase.longest_millis).fold(0.0, f64::max);
        vec![Goal::at_most("the longest that one script or command held Redis, ms", LIMIT_MICROS as f64 / 1e3, longest)]
    }

    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("The longest that Redis is held");
        page.say(
            "By Redis' own `SLOWLOG`, which measures by the clock: on a machine whose cores are all taken, a script's time has in \
             it what the kernel gave to others meanwhile; so the CPU time stands beside it that Redis used for all it did, by the scripts in it. The job has 10,000,000 tasks and 8 stages, 20 MB, and every tenth result is a failure with an error.",
        );
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|phase| {
                [
                    phase.what.to_owned(),
                    short(phase.longest_millis),
                    phase.command.clone(),
                    phase.over_limit.to_string(),
                    count(phase.scripts as f64),
                    if phase.scripts < MEANINGFUL { "–".to_owned() } else { short(phase.cpu_millis) },
                ]
            })
            .collect();
        page.table(["", "longest, ms", "of", "over 10 ms", "scripts", "CPU a script, ms"], &rows);
        page.data("scripts", self)
    }
}
