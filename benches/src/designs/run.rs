//! In which order. Rounds, loads, designs: so those that are compared follow each other at once, and what disturbs the
//! machine for a while disturbs all of them.

use std::time::{Duration, Instant};

use highwater::grpc::pb;

use super::contender::{ALL, Contender, DURABLE};
use super::figures::{Figures, Used};
use super::load::{self, Load};
use super::outcome::{Left, Loaded, Outcome};
use super::tables::Tables;
use super::{page, small};
use crate::effort::{Effort, step};
use crate::page::Page;
use crate::stand::{Server, Stand};
use crate::{Result, jobs, usage};

/// How many report at once.
pub const REPORTERS: [usize; 3] = [1, 16, 64];
/// Enough for a middle; there are many loads.
const MOST_ROUNDS: u32 = 3;
/// More than anybody reports in one load.
const TASKS: i64 = 5_000_000;
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Measures all of it.
pub async fn run(effort: Effort, rounds: u32) -> Result<Page> {
    let stand = Stand::start().await?;
    let tables = Tables::connect(&stand.database_url()).await?;
    let loaded = hot(&stand, &tables, effort, rounds).await?;
    let left = left(&tables, &loaded).await?;
    let judged = small::judge_all(&stand, &tables, effort).await?;
    page::write(&Outcome { loaded, left, judged })
}

/// One hot job at a time, reported to in every way by every design.
async fn hot(stand: &Stand, tables: &Tables, effort: Effort, rounds: u32) -> Result<Vec<Loaded>> {
    let mut loaded = lines(effort);
    let mut servers = Vec::new();
    for contender in ALL.into_iter().chain(DURABLE) {
        if loaded.iter().any(|line| line.contender == contender) {
            servers.push((contender, contender.start(stand).await?));
        }
    }
    for round in 1..=effort.pick(rounds.clamp(1, MOST_ROUNDS), 1) {
        step(format_args!("round {round}"));
        for (number, line) in loaded.iter_mut().enumerate() {
            let server = servers.iter().find(|(contender, _)| *contender == line.contender);
            let (_, server) = server.ok_or("a contender that was not started")?;
            let id = format!("hot-{round}-{number}");
            let figures = line.measure(stand, tables, server, &id, effort.seconds(2)).await?;
            line.rounds.push(figures);
        }
    }
    Ok(loaded)
}

fn lines(effort: Effort) -> Vec<Loaded> {
    let lines = |load: Load, contenders: &[Contender]| {
        let line = |contender: &Contender| Loaded { contender: *contender, load, rounds: Vec::new() };
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

impl Loaded {
    async fn measure(
        &self,
        stand: &Stand,
        tables: &Tables,
        server: &Server,
        id: &str,
        length: Duration,
    ) -> Result<Figures> {
        let channel = server.channel()?;
        jobs::start(&channel, id, TASKS).await?;
        let before = used(stand, tables, server).await?;
        let seen = load::report(server, id, self.load, length).await?;
        let after = used(stand, tables, server).await?;
        let used = Used {
            wal: after.wal - before.wal,
            server: after.server.saturating_sub(before.server),
            postgres: after.postgres.saturating_sub(before.postgres),
            redis: after.redis.saturating_sub(before.redis),
        };
        let shown = self.shown_at_last(server, id, seen.truth.marks()).await?;
        jobs::cancel(&channel, id).await?;
        let figures = Figures::of(&seen, &used, shown);
        if figures.off != 0.0 && self.contender.is_right(self.load.redelivered) {
            let (name, truth, load) = (self.contender, figures.truth, self.load);
            return Err(format!("{name}: {shown} are shown of {truth} that were reported ({load:?})").into());
        }
        Ok(figures)
    }

    async fn shown_at_last(&self, server: &Server, id: &str, truth: u64) -> Result<i64> {
        let mut client = pb::progress_service_client::ProgressServiceClient::new(server.channel()?);
        let until = Instant::now() + self.contender.shows_within();
        loop {
            let shown = load::shown(&mut client, id).await?;
            if shown.cast_unsigned() == truth || Instant::now() > until {
                return Ok(shown);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn used(stand: &Stand, tables: &Tables, server: &Server) -> Result<Used> {
    Ok(Used {
        wal: tables.wal().await?,
        server: server.cpu()?,
        postgres: usage::cpu(stand.postgres.pid())?,
        redis: usage::cpu(stand.redis.pid())?,
    })
}

async fn left(tables: &Tables, loaded: &[Loaded]) -> Result<Vec<Left>> {
    let mut left = Vec::new();
    for contender in ALL {
        let reports = loaded
            .iter()
            .filter(|line| line.contender.schema() == contender.schema())
            .flat_map(|line| &line.rounds)
            .map(|round| round.reports)
            .sum();
        left.push(Left { contender, reports, kept: tables.kept(contender).await? });
    }
    Ok(left)
}
