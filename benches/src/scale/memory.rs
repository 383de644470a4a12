//! Measures the memory per task, in Redis and in a gateway's mirror.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::goal::Goal;
use super::large_reports::{LargeReports, RESULTS};
use crate::effort::Effort;
use crate::environment::{Environment, Server};
use crate::format::count;
use crate::page::Page;
use crate::redis_admin::RedisAdmin;
use crate::{Result, jobs, usage};

/// The smallest job that the goal applies to. In smaller jobs, the header of 256 bytes is larger than the marks.
const MIN_TASKS: i64 = 100_000;
/// In bytes per task and stage.
const GOAL: f64 = 0.3;
/// The interval at which a gateway updates the metric of its mirrors.
const INTERVAL: &str = "--reconcile-interval=1s";
const SMOKE_INTERVAL: &str = "--reconcile-interval=50ms";

/// Jobs of the same size.
#[derive(Serialize, Deserialize, Clone, Copy)]
struct Kind {
    tasks: i64,
    stages: usize,
    jobs: usize,
}

/// Bytes per task and stage.
#[derive(Serialize, Deserialize)]
struct BytesPerMark {
    kind: Kind,
    /// `MEMORY USAGE` of a job's keys.
    keys: f64,
    /// Growth of `used_memory`.
    redis: f64,
    /// Growth of `highwater_mirror_bytes`.
    mirror: f64,
    /// Growth of the gateway's RSS.
    gateway: f64,
}

/// The results by job size.
#[derive(Serialize, Deserialize)]
pub struct Memory(Vec<BytesPerMark>);

/// The current memory of Redis and the gateway, in bytes.
struct Memories {
    redis: f64,
    mirror: f64,
    gateway: f64,
}

/// Starts jobs of every size, adds marks all over them, and measures the growth of memory.
pub async fn measure(environment: &Environment, effort: Effort) -> Result<Memory> {
    let gateway = environment.gateway(&[effort.pick(INTERVAL, SMOKE_INTERVAL)]).await?;
    // A little longer than the interval of the gateway.
    let round = Duration::from_millis(effort.pick(1100, 100));
    let redis = RedisAdmin::connect(environment).await?;
    // A first job, so that memory which the first calls allocate is not counted. It keeps running, because the next job
    // would reuse the memory of its mirror.
    fill(&gateway, Kind { tasks: effort.pick(10_000_000, 10_000), stages: 8, jobs: 1 }, "warm").await?;
    let kind = |tasks, stages, jobs| Kind { tasks, stages, jobs };
    let full = vec![
        kind(1_000, 3, 200),
        kind(100_000, 3, 40),
        kind(1_000_000, 3, 4),
        kind(10_000_000, 3, 4),
        kind(10_000_000, 8, 4),
    ];
    let mut measured = Vec::new();
    for kind in effort.pick(full, vec![kind(100_000, 3, 4)]) {
        let before = Memories::steady(&gateway, &redis, round).await?;
        let name = format!("memory-{}-{}", kind.tasks, kind.stages);
        fill(&gateway, kind, &name).await?;
        let after = Memories::steady(&gateway, &redis, round).await?;
        let marks = kind.marks();
        measured.push(BytesPerMark {
            kind,
            keys: redis.memory_usage(&format!("{name}-0")).await? as f64 / (marks / kind.jobs as f64),
            redis: (after.redis - before.redis) / marks,
            mirror: (after.mirror - before.mirror) / marks,
            gateway: (after.gateway - before.gateway) / marks,
        });
        if (after.mirror - before.mirror) < marks / 4.0 {
            return Err(format!("{} jobs of {} tasks do not all have a mirror", kind.jobs, kind.tasks).into());
        }
        for number in 0..kind.jobs {
            if effort == Effort::Smoke {
                jobs::cancel(&gateway.channel()?, &format!("{name}-{number}")).await?;
            }
        }
    }
    jobs::cancel(&gateway.channel()?, "warm-0").await?;
    Ok(Memory(measured))
}

/// Starts jobs, and sends each a report that touches every memory page of its marks.
async fn fill(gateway: &Server, kind: Kind, name: &str) -> Result<()> {
    for number in 0..kind.jobs {
        let id = format!("{name}-{number}");
        jobs::start_staged(&gateway.channel()?, &id, kind.tasks, kind.stages).await?;
        let results = RESULTS.min(kind.tasks.cast_unsigned() / 10);
        let batches = LargeReports::of_stages(&id, kind.tasks.cast_unsigned(), kind.stages, results).succeeding();
        batches.report_once(gateway).await?;
    }
    Ok(())
}

impl Kind {
    fn marks(self) -> f64 {
        self.tasks as f64 * self.stages as f64 * self.jobs as f64
    }
}

impl BytesPerMark {
    /// The growth of the gateway's RSS, as a cell of the table. For small jobs, it is less than what the allocator
    /// takes and returns for other work meanwhile, so the difference says nothing and can even be negative.
    fn resident(&self) -> String {
        if self.kind.tasks < MIN_TASKS || self.gateway < 0.0 {
            return "not measurable".to_owned();
        }
        format!("{:.3}", self.gateway)
    }
}

impl Memories {
    /// Waits until two measurements are equal, because a gateway reads trackers into its mirrors in the background.
    async fn steady(gateway: &Server, redis: &RedisAdmin, round: Duration) -> Result<Self> {
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

    async fn now(gateway: &Server, redis: &RedisAdmin) -> Result<Self> {
        Ok(Self {
            redis: redis.used_memory().await? as f64,
            mirror: gateway.metric("highwater_mirror_bytes").await?,
            gateway: usage::resident_bytes(gateway.pid())? as f64,
        })
    }
}

impl Memory {
    pub fn goals(&self) -> Vec<Goal> {
        let large = || self.0.iter().filter(|it| it.kind.tasks >= MIN_TASKS);
        let most = |figure: fn(&BytesPerMark) -> f64| large().map(figure).fold(0.0, f64::max);
        vec![
            Goal::at_most(
                "bytes per task and stage in Redis, jobs of 100,000 tasks or more",
                GOAL,
                most(|it| it.keys.max(it.redis)),
            ),
            Goal::at_most(
                "bytes per task and stage in a mirror, jobs of 100,000 tasks or more",
                GOAL,
                most(|it| it.mirror),
            ),
            Goal::at_most(
                "growth of the gateway's RSS, in bytes per task and stage, all of these jobs together",
                GOAL,
                self.resident(),
            ),
        ]
    }

    /// The growth of the gateway's RSS per task and stage, over all jobs that the goal applies to. Temporary memory for
    /// the start of a large job is allocated once, so single jobs would give no useful figure.
    fn resident(&self) -> f64 {
        let large = || self.0.iter().filter(|it| it.kind.tasks >= MIN_TASKS);
        let grown: f64 = large().map(|it| it.gateway * it.kind.marks()).sum();
        grown / large().map(|it| it.kind.marks()).sum::<f64>()
    }

    pub fn render(&self, page: &mut Page) {
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|it| {
                let Kind { tasks, stages, jobs } = it.kind;
                [
                    format!("{jobs} jobs of {} tasks, {stages} stages", count(tasks as f64)),
                    format!("{:.3}", it.keys),
                    format!("{:.3}", it.redis),
                    format!("{:.3}", it.mirror),
                    it.resident(),
                ]
            })
            .collect();
        page.table(
            "memory",
            [
                "",
                "`MEMORY USAGE` of a job's keys",
                "growth of `used_memory`",
                "`highwater_mirror_bytes`",
                "growth of the gateway's RSS",
            ],
            &rows,
        );
    }
}
