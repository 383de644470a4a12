//! Measures how long a single command or script blocks Redis at most.

use std::time::Duration;

use highwater::grpc::pb;
use pb::job_service_client::JobServiceClient;
use pb::progress_service_client::ProgressServiceClient;
use serde::{Deserialize, Serialize};

use super::BACKGROUND_TIMEOUT;
use super::goal::Goal;
use super::large_reports::{LargeReports, RESULTS};
use crate::effort::Effort;
use crate::environment::{Environment, Server};
use crate::format::{count, short};
use crate::page::Page;
use crate::redis_admin::RedisAdmin;
use crate::wait::wait_for;
use crate::{Result, jobs, usage};

const ID: &str = "worst";
/// The goal: no script may block Redis for longer.
const LIMIT_MICROS: u64 = 10_000;
/// The threshold of the slow log.
const LOGGED_MICROS: u64 = 100;
/// The smallest number of scripts for which CPU time is shown. CPU time is counted in steps of 10 ms.
const MIN_SCRIPTS: u64 = 100;
/// The shortest settle time that is allowed with this reconcile interval and request timeout.
const FLAGS: [&str; 3] = ["--reconcile-interval=100ms", "--request-timeout=5s", "--settle-time=6s"];

/// One phase of the benchmark, and its longest command.
#[derive(Serialize, Deserialize)]
struct Phase {
    what: String,
    longest_millis: f64,
    command: String,
    over_limit: usize,
    scripts: u64,
    /// The CPU time of Redis divided by the number of scripts.
    cpu_millis: f64,
}

/// The results by phase.
#[derive(Serialize, Deserialize)]
pub struct Scripts(Vec<Phase>);

/// Runs the most expensive operations on the largest job, with two gateways.
pub async fn measure(environment: &Environment, effort: Effort) -> Result<Scripts> {
    let tasks = effort.pick(10_000_000, 1_000_000);
    let (one, two) = tokio::try_join!(environment.gateway(&FLAGS), environment.gateway(&FLAGS))?;
    let (redis, channel) = (RedisAdmin::connect(environment).await?, one.channel()?);
    redis.start_slowlog(LOGGED_MICROS).await?;
    let mut phases =
        Phases { environment, redis: &redis, before: counters(environment, &redis).await?, measured: Vec::new() };

    jobs::start_staged(&channel, ID, tasks, jobs::ALL_STAGES.len()).await?;
    phases.end("starting the job").await?;
    let batches = LargeReports::of(ID, tasks.cast_unsigned(), RESULTS);
    let length = effort.seconds(4);
    tokio::try_join!(batches.report(&one, length), batches.report(&two, length), batches.report(&two, length))?;
    phases.end("reports of 10,000 scattered results through two gateways").await?;
    list(&one).await?;
    phases.end("listing the failed tasks").await?;
    if effort == Effort::Full {
        redis.remove_keys(ID).await?;
        wait_until_live(&one).await?;
        phases.end("restoring a lost tracker from two mirrors").await?;
    }
    jobs::cancel(&channel, ID).await?;
    phases.end("cancelling, with the snapshot").await?;
    complete(&one, effort.pick(1_000_000, 1_000)).await?;
    phases.end("a job of 1,000,000 tasks from start to end").await?;
    redis.start_slowlog(LIMIT_MICROS).await?;
    Ok(Scripts(phases.measured))
}

/// The CPU time of Redis, and the number of scripts it has run.
async fn counters(environment: &Environment, redis: &RedisAdmin) -> Result<(Duration, u64)> {
    Ok((usage::cpu_time(environment.redis.pid())?, redis.scripts().await?))
}

struct Phases<'a> {
    environment: &'a Environment,
    before: (Duration, u64),
    redis: &'a RedisAdmin,
    measured: Vec<Phase>,
}

impl Phases<'_> {
    async fn end(&mut self, what: &'static str) -> Result<()> {
        let now = counters(self.environment, self.redis).await?;
        let (cpu, scripts) = (now.0.saturating_sub(self.before.0), now.1 - self.before.1);
        self.before = now;
        let slow = self.redis.slow_commands().await?;
        self.redis.start_slowlog(LOGGED_MICROS).await?;
        // Without the commands of this benchmark.
        let slow: Vec<_> =
            slow.into_iter().filter(|slow| !["KEYS", "INFO", "SLOWLOG"].contains(&&*slow.command)).collect();
        let longest = slow.iter().max_by_key(|slow| slow.micros);
        self.measured.push(Phase {
            what: what.to_owned(),
            longest_millis: longest.map_or(0, |slow| slow.micros) as f64 / 1e3,
            command: longest.map(|slow| slow.command.clone()).unwrap_or_default(),
            scripts,
            cpu_millis: cpu.as_secs_f64() * 1e3 / scripts.max(1) as f64,
            over_limit: slow.iter().filter(|slow| slow.micros > LIMIT_MICROS).count(),
        });
        Ok(())
    }
}

/// Lists all tasks that failed at the first stage, page by page.
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

async fn wait_until_live(gateway: &Server) -> Result<()> {
    let mut client = ProgressServiceClient::new(gateway.channel()?);
    wait_for("a lost tracker is restored and LIVE", BACKGROUND_TIMEOUT, async || {
        let response = client.get_progress(pb::GetProgressRequest { job_id: ID.to_owned() }).await?.into_inner();
        let progress = response.progress.unwrap_or_default();
        Ok((progress.restore_time.is_some() && progress.source() == pb::Source::Live).then_some(()))
    })
    .await
}

/// Runs a job until it ends because it is complete.
async fn complete(gateway: &Server, tasks: u64) -> Result<()> {
    jobs::start_staged(&gateway.channel()?, "whole", tasks.cast_signed(), 1).await?;
    let results = RESULTS.min(tasks);
    let batches = LargeReports::of_stages("whole", tasks, 1, results).succeeding();
    for _ in 0..tasks / results {
        batches.report_once(gateway).await?;
    }
    let mut jobs = JobServiceClient::new(gateway.channel()?);
    wait_for("a complete job has ended", BACKGROUND_TIMEOUT, async || {
        let got = jobs.get_job(pb::GetJobRequest { job_id: "whole".to_owned() }).await?.into_inner();
        Ok((got.job.unwrap_or_default().state() == pb::JobState::Succeeded).then_some(()))
    })
    .await
}

impl Scripts {
    pub fn goals(&self) -> Vec<Goal> {
        let longest = self.0.iter().map(|phase| phase.longest_millis).fold(0.0, f64::max);
        vec![Goal::at_most(
            "the longest time that one script or command blocked Redis, ms",
            LIMIT_MICROS as f64 / 1e3,
            longest,
        )]
    }

    pub fn render(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|phase| {
                [
                    phase.what.clone(),
                    short(phase.longest_millis),
                    phase.command.clone(),
                    phase.over_limit.to_string(),
                    count(phase.scripts as f64),
                    if phase.scripts < MIN_SCRIPTS { "–".to_owned() } else { short(phase.cpu_millis) },
                ]
            })
            .collect();
        page.table("scripts", ["", "longest, ms", "command", "over 10 ms", "scripts", "CPU per script, ms"], &rows);
    }
}
