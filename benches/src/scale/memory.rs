//! How much memory does a task take, in Redis and in a mirror?

use std::time::Duration;

use serde::Serialize;

use super::batches::{Batches, RESULTS};
use super::goal::Goal;
use super::redis::Redis;
use crate::effort::Effort;
use crate::page::{Page, count};
use crate::stand::{Server, Stand};
use crate::{Result, jobs, usage};

/// From here on the goal counts: below, the 256 bytes of a header are more than the marks.
const GOAL_FROM: i64 = 100_000;
const GOAL: f64 = 0.3;
/// How often a gateway tells what its mirrors take.
const INTERVAL: &str = "--reconcile-interval=1s";
const SMOKE_INTERVAL: &str = "--reconcile-interval=50ms";

/// Jobs of one kind.
#[derive(Serialize, Clone, Copy)]
struct Kind {
    tasks: i64,
    stages: usize,
    jobs: usize,
}

/// Bytes a task and stage.
#[derive(Serialize)]
struct Found {
    kind: Kind,
    /// By MEMORY USAGE of a job's keys.
    keys: f64,
    /// By how much Redis has grown.
    redis: f64,
    /// By the gateway's own count.
    mirror: f64,
    /// By how much the gateway has grown.
    gateway: f64,
}

/// What was found.
#[derive(Serialize)]
pub struct Memory(Vec<Found>);

/// What Redis and the gateway hold now, in bytes.
struct Held {
    redis: f64,
    mirror: f64,
    gateway: f64,
}

/// Starts jobs of every kind, marks them all over, and looks at what has grown.
pub async fn measure(stand: &Stand, effort: Effort) -> Result<Memory> {
    let gateway = stand.gateway(&[effort.pick(INTERVAL, SMOKE_INTERVAL)]).await?;
    // A little longer.
    let round = Duration::from_millis(effort.pick(1100, 100));
    let redis = Redis::of(stand).await?;
    // What the first calls take for good is no job's. It goes on running: the memory of a mirror that is gone would be taken
    // for that of the next.
    fill(&gateway, Kind { tasks: effort.pick(10_000_000, 10_000), stages: 8, jobs: 1 }, "warm").await?;
    let kind = |tasks, stages, jobs| Kind { tasks, stages, jobs };
    let full = vec![
        kind(1_000, 3, 200),
        kind(100_000, 3, 40),
        kind(1_000_000, 3, 4),
        kind(10_000_000, 3, 4),
        kind(10_000_000, 8, 4),
    ];
    let mut found = Vec::new();
    for kind in effort.pick(full, vec![kind(100_000, 3, 4)]) {
        let before = Held::steady(&gateway, &redis, round).await?;
        let name = format!("memory-{}-{}", kind.tasks, kind.stages);
        fill(&gateway, kind, &name).await?;
        let after = Held::steady(&gateway, &redis, round).await?;
        let cells = kind.cells();
        found.push(Found {
            kind,
            keys: redis.usage(&format!("{name}-0")).await? as f64 / (cells / kind.jobs as f64),
            redis: (after.redis - before.redis) / cells,
            mirror: (after.mirror - before.mirror) / cells,
            gateway: (after.gateway - before.gateway) / cells,
        });
        if (after.mirror - before.mirror) < cells / 4.0 {
            return Err(format!("{} jobs of {} tasks are not all mirrored", kind.jobs, kind.tasks).into());
        }
        for number in 0..kind.jobs {
            if effort == Effort::Smoke {
                jobs::cancel(&gateway.channel()?, &format!("{name}-{number}")).await?;
            }
        }
    }
    jobs::cancel(&gateway.channel()?, "warm-0").await?;
    Ok(Memory(found))
}

/// Starts the jobs, and reports of each what touches every page of memory that it lies in.
async fn fill(gateway: &Server, kind: Kind, name: &str) -> Result<()> {
    for number in 0..kind.jobs {
        let id = format!("{name}-{number}");
        jobs::start_staged(&gateway.channel()?, &id, kind.tasks, kind.stages).await?;
        let results = RESULTS.min(kind.tasks.cast_unsigned() / 10);
        let batches = Batches::of_stages(&id, kind.tasks.cast_unsigned(), kind.stages, results).succeeding();
        batches.report_once(gateway).await?;
    }
    Ok(())
}

impl Kind {
    fn cells(self) -> f64 {
        self.tasks as f64 * self.stages as f64 * self.jobs as f64
    }
}

impl Held {
    /// Once two rounds of the gateway show the same: it reads trackers into its mirrors by and by.
    async fn steady(gateway: &Server, redis: &Redis, round: Duration) -> Result<Self> {
        let mut last = Self::now(gateway, redis).await?;
        for _ in 0..10 {
            tokio::time::sleep(round).await;
            let now = Self::now(gateway, redis).await?;
            let same = |now: f64, last: f64| (now - last).abs() < 100_000.0;
            if same(now.redis, last.redis) && same(now.mirror, last.mirror) && same(now.gateway, last.gateway) {
                return Ok(now);
            }
            last = now;
        }
        Ok(last)
    }

    async fn now(gateway: &Server, redis: &Redis) -> Result<Self> {
        Ok(Self {
            redis: redis.used().await? as f64,
            mirror: gateway.metric("highwater_mirror_bytes").await?,
            gateway: usage::resident(gateway.pid())? as f64,
        })
    }
}

impl Memory {
    pub fn goals(&self) -> Vec<Goal> {
        let large = || self.0.iter().filter(|found| found.kind.tasks >= GOAL_FROM);
        let most = |figure: fn(&Found) -> f64| large().map(figure).fold(0.0, f64::max);
        vec![
            Goal::at_most(
                "bytes a task and stage in Redis, from 100,000 tasks on",
                GOAL,
                most(|found| found.keys.max(found.redis)),
            ),
            Goal::at_most(
                "bytes a task and stage in a mirror, from 100,000 tasks on",
                GOAL,
                most(|found| found.mirror),
            ),
            Goal::at_most("the same by the growth of the gateway, over all these jobs together", GOAL, self.resident()),
        ]
    }

    /// Bytes a task and stage by which the gateway grew, over all jobs that the goal is of: what it needs while it starts a
    /// large job is held once, and not for each.
    fn resident(&self) -> f64 {
        let large = || self.0.iter().filter(|found| found.kind.tasks >= GOAL_FROM);
        let grown: f64 = large().map(|found| found.gateway * found.kind.cells()).sum();
        grown / large().map(|found| found.kind.cells()).sum::<f64>()
    }

    pub fn tell(&self, page: &mut Page) -> Result<()> {
        page.heading("Memory a task");
        page.say(
            "Two bits a task and stage are 0.25 bytes; the header is 256 bytes a job. Each job was marked all over, so that \
             no page of memory is only promised; samples of errors, at most 20 a job, come on top. In bytes a task and stage:",
        );
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|found| {
                let Kind { tasks, stages, jobs } = found.kind;
                [
                    format!("{jobs} jobs of {} tasks, {stages} stages", count(tasks as f64)),
                    format!("{:.3}", found.keys),
                    format!("{:.3}", found.redis),
                    format!("{:.3}", found.mirror),
                    format!("{:.3}", found.gateway),
                ]
            })
            .collect();
        page.table(
            [
                "",
                "`MEMORY USAGE` of a job's keys",
                "growth of `used_memory`",
                "`highwater_mirror_bytes`",
                "growth of the gateway's RSS",
            ],
            &rows,
        );
        page.data("memory", self)
    }
}
