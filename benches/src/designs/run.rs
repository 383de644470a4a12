//! The order of measurements. Each round runs every load, and each load every contender in turn, so that a disturbance
//! of the machine affects all contenders.

use std::time::{Duration, Instant};

use highwater::grpc::pb;

use super::contender::{ALL, Contender, DURABLE};
use super::hot_job::{self, Load};
use super::measurement::{Measurement, ResourceUse};
use super::postgres_stats::PostgresStats;
use super::results::{LoadRounds, Results, TableUse};
use super::small_jobs;
use crate::effort::{Effort, announce};
use crate::environment::{Environment, Server};
use crate::{Result, jobs, usage};

/// The numbers of concurrent reporters.
pub const REPORTERS: [usize; 3] = [1, 16, 64];
/// Enough for a median; there are many loads.
const MAX_ROUNDS: u32 = 3;
/// More tasks than one load reports.
const TASKS: i64 = 5_000_000;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Measures all contenders.
pub async fn measure(effort: Effort, rounds: u32) -> Result<Results> {
    let environment = Environment::start().await?;
    let stats = PostgresStats::connect(&environment.database_url()).await?;
    let loads = measure_hot_jobs(&environment, &stats, effort, rounds).await?;
    let tables = measure_tables(&stats, &loads).await?;
    let small_jobs = small_jobs::measure(&environment, &stats, effort).await?;
    Ok(Results { loads, tables, small_jobs })
}

/// Runs every load of a hot job with every contender, one after the other.
async fn measure_hot_jobs(
    environment: &Environment,
    stats: &PostgresStats,
    effort: Effort,
    rounds: u32,
) -> Result<Vec<LoadRounds>> {
    let mut loads = all_loads(effort);
    let mut servers = Vec::new();
    for contender in ALL.into_iter().chain(DURABLE) {
        if loads.iter().any(|line| line.contender == contender) {
            servers.push((contender, contender.start(environment).await?));
        }
    }
    for round in 1..=effort.pick(rounds.clamp(1, MAX_ROUNDS), 1) {
        announce(format_args!("round {round}"));
        for (number, line) in loads.iter_mut().enumerate() {
            let server = servers.iter().find(|(contender, _)| *contender == line.contender);
            let (_, server) = server.ok_or("a contender was not started")?;
            let id = format!("hot-{round}-{number}");
            let measurement = line.measure(environment, stats, server, &id, effort.seconds(2)).await?;
            line.rounds.push(measurement);
        }
    }
    Ok(loads)
}

fn all_loads(effort: Effort) -> Vec<LoadRounds> {
    let lines = |load: Load, contenders: &[Contender]| {
        let line = |contender: &Contender| LoadRounds { contender: *contender, load, rounds: Vec::new() };
        contenders.iter().map(line).collect::<Vec<_>>()
    };
    if effort == Effort::Smoke {
        let few = [Load { results: 3, ..Load::of(16, 10) }, Load::of(16, 0)];
        return few.into_iter().flat_map(|load| lines(load, &ALL)).collect();
    }
    let mut all = Vec::new();
    for reporters in REPORTERS {
        all.extend(lines(Load::of(reporters, 0), &ALL));
        all.extend(lines(Load::of(reporters, 0), &DURABLE));
        all.extend(lines(Load::of(reporters, 10), &ALL));
    }
    all.extend(lines(Load { results: 10, ..Load::of(16, 0) }, &ALL));
    all
}

impl LoadRounds {
    async fn measure(
        &self,
        environment: &Environment,
        stats: &PostgresStats,
        server: &Server,
        id: &str,
        length: Duration,
    ) -> Result<Measurement> {
        let channel = server.channel()?;
        jobs::start(&channel, id, TASKS).await?;
        let before = resource_use(environment, stats, server).await?;
        let loaded = hot_job::report(server, id, self.load, length).await?;
        let after = resource_use(environment, stats, server).await?;
        let used = ResourceUse {
            wal_bytes: after.wal_bytes - before.wal_bytes,
            server: after.server.saturating_sub(before.server),
            postgres: after.postgres.saturating_sub(before.postgres),
            redis: after.redis.saturating_sub(before.redis),
        };
        let shown = self.final_marks(server, id, loaded.acknowledged.count()).await?;
        jobs::cancel(&channel, id).await?;
        let measurement = Measurement::of(&loaded, &used, shown);
        if measurement.excess != 0.0 && self.contender.must_be_exact(self.load.redelivered) {
            let (name, acknowledged, load) = (self.contender, measurement.acknowledged, self.load);
            return Err(
                format!("{name}: progress has {shown} marks, {acknowledged} were acknowledged ({load:?})").into()
            );
        }
        Ok(measurement)
    }

    /// The marks in the progress after the load. Waits until they are all there, or until the contender's maximum lag.
    async fn final_marks(&self, server: &Server, id: &str, acknowledged: u64) -> Result<i64> {
        let mut client = pb::progress_service_client::ProgressServiceClient::new(server.channel()?);
        let deadline = Instant::now() + self.contender.max_lag();
        loop {
            let shown = hot_job::marks(&mut client, id).await?;
            if shown.cast_unsigned() == acknowledged || Instant::now() > deadline {
                return Ok(shown);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

async fn resource_use(environment: &Environment, stats: &PostgresStats, server: &Server) -> Result<ResourceUse> {
    Ok(ResourceUse {
        wal_bytes: stats.wal_bytes().await?,
        server: server.cpu_time()?,
        postgres: usage::cpu_time(environment.postgres.pid())?,
        redis: usage::cpu_time(environment.redis.pid())?,
    })
}

async fn measure_tables(stats: &PostgresStats, loads: &[LoadRounds]) -> Result<Vec<TableUse>> {
    let mut tables = Vec::new();
    for contender in ALL {
        let reports = loads
            .iter()
            .filter(|line| line.contender.schema() == contender.schema())
            .flat_map(|line| &line.rounds)
            .map(|round| round.reports)
            .sum();
        tables.push(TableUse { contender, reports, stats: stats.tables(contender).await? });
    }
    Ok(tables)
}
