//! Compares the gateway with a bare tonic service that answers from memory, and with `BITFIELD` commands on the same
//! Redis.
//!
//! Rounds of gateway and reference alternate, and the median ratio counts, so that a moment in which the machine is
//! busy affects both sides, and one bad round does not change the result.

use std::process::Stdio;
use std::time::Duration;

use highwater::grpc::pb;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::effort::{Effort, announce, median};
use crate::environment::{Environment, Server};
use crate::format::count;
use crate::load::LoadResult;
use crate::load::reads::{self, CONNECTIONS, STREAMS, check_live};
use crate::load::reports::{JobTasks, Load, Order, report};
use crate::page::{Page, Run};
use crate::redis_admin::RedisAdmin;
use crate::{Result, jobs, plot, usage};

/// The largest job that is allowed; enough tasks for one round.
const TASKS: u64 = 10_000_000;
const REPORTERS: usize = 64;
/// The number of jobs that reports are spread over.
const JOBS: usize = 100;
const LIVE: &str = "live";
const ENDED: &str = "ended";
/// The changes of one `BITFIELD` command, as many as a large report has results.
const CHANGES: u64 = 100;
/// The distance of the changed cells, so that they are all over a key of as many cells as a job has tasks.
const CELL_DISTANCE: u64 = TASKS / CHANGES - 9;
/// The number of `BITFIELD` commands per second of the measurement. Redis runs about as many.
const COMMANDS_PER_SECOND: f64 = 25_000.0;

/// The names of the comparisons in figures and in the plot, in the order of [`Comparison::all`].
const NAMES: [(&str, &str); 7] = [
    ("read_live", "live"),
    ("read_ended", "ended"),
    ("hot_job", "hot"),
    ("many_jobs", "spread"),
    ("in_pages", "100 in pages"),
    ("scattered", "100 scattered"),
    ("bare_marks", ""),
];

/// The comparisons of all rounds.
#[derive(Serialize, Deserialize)]
pub struct Comparisons {
    lines: Vec<Comparison>,
}

/// One load, measured with the gateway and with its reference.
#[derive(Serialize, Deserialize)]
struct Comparison {
    what: String,
    /// The reference.
    against: String,
    /// The smallest ratio that is acceptable; absent if the comparison only explains others.
    goal: Option<f64>,
    rounds: Vec<Round>,
}

/// One round of a comparison.
#[derive(Serialize, Deserialize)]
struct Round {
    ours: Measurement,
    limit: Measurement,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
struct Measurement {
    /// Calls or marks per second.
    rate: f64,
    /// CPU time of the server per call, in microseconds.
    cpu_micros: f64,
    p50_millis: f64,
    p99_millis: f64,
}

/// The servers and jobs of the benchmark.
struct Setup {
    environment: Environment,
    gateway: Server,
    bare: Server,
    spread: Vec<JobTasks>,
    length: Duration,
}

/// Measures all comparisons.
pub async fn measure(effort: Effort, rounds: u32) -> Result<Comparisons> {
    let setup = Setup::start(effort.seconds(4)).await?;
    let mut lines = Comparison::all();
    for round in 1..=effort.pick(rounds.max(1), 1) {
        announce(format_args!("round {round}"));
        setup.round(round, &mut lines).await?;
    }
    Ok(Comparisons { lines })
}

impl Setup {
    async fn start(length: Duration) -> Result<Self> {
        let environment = Environment::start().await?;
        let (gateway, bare) = (environment.gateway(&[]).await?, environment.bare().await?);
        let channel = gateway.channel()?;
        for (id, tasks) in [(LIVE, 1_000_000), (ENDED, 1000)] {
            jobs::start(&channel, id, tasks).await?;
        }
        jobs::cancel(&channel, ENDED).await?;
        let mut spread = Vec::new();
        for number in 0..JOBS {
            let id = format!("spread-{number}");
            jobs::start(&channel, &id, 1_000_000).await?;
            spread.push(JobTasks::of(&id, 1_000_000));
        }
        let setup = Self { environment, gateway, bare, spread, length };
        // The job has marks, like the one that the bare service describes.
        let load = Load { reporters: 1, results: 500, order: Order::InPages, length: Duration::from_millis(100) };
        report(&setup.gateway, &[JobTasks::of(LIVE, 1_000_000)], &load).await?;
        Ok(setup)
    }

    async fn round(&self, round: u32, lines: &mut [Comparison]) -> Result<()> {
        let [live, ended, hot, spread, paged, scattered, bare] = lines else { return Err("seven comparisons".into()) };
        let limit = self.reads(&self.bare, LIVE, check_live).await?;
        live.add(self.reads(&self.gateway, LIVE, check_live).await?, limit);
        ended.add(self.reads(&self.gateway, ENDED, check_ended).await?, limit);
        let limit = self.reports(&self.bare, &[JobTasks::of("bare", u64::MAX / 4)]).await?;
        hot.add(self.reports(&self.gateway, &[self.new_job("hot", round).await?]).await?, limit);
        spread.add(self.reports(&self.gateway, &self.spread).await?, limit);
        let limit = self.bitfield_commands().await?;
        paged.add(self.marks(&self.gateway, &self.new_job("paged", round).await?, Order::InPages).await?, limit);
        let job = self.new_job("scattered", round).await?;
        scattered.add(self.marks(&self.gateway, &job, Order::Scattered).await?, limit);
        bare.add(self.marks(&self.bare, &JobTasks::of("bare", u64::MAX / 4), Order::InPages).await?, limit);
        Ok(())
    }

    /// Starts a job without marks.
    async fn new_job(&self, name: &str, round: u32) -> Result<JobTasks> {
        let id = format!("{name}-{round}");
        jobs::start(&self.gateway.channel()?, &id, TASKS.cast_signed()).await?;
        Ok(JobTasks::of(&id, TASKS))
    }

    async fn reads(&self, server: &Server, id: &str, check: reads::Check) -> Result<Measurement> {
        let load = reads::read(&self.environment, server, id, CONNECTIONS, STREAMS, self.length, check);
        Ok(Measurement::of(&load.await?, 1))
    }

    /// Calls per second, by reports of 10 results.
    async fn reports(&self, server: &Server, jobs: &[JobTasks]) -> Result<Measurement> {
        Ok(Measurement::of(&report(server, jobs, &self.load(10, Order::InPages)).await?, 1))
    }

    /// Marks per second, by reports of 100 results.
    async fn marks(&self, server: &Server, job: &JobTasks, order: Order) -> Result<Measurement> {
        let load = self.load(CHANGES, order);
        Ok(Measurement::of(&report(server, std::slice::from_ref(job), &load).await?, CHANGES))
    }

    fn load(&self, results: u64, order: Order) -> Load {
        Load { reporters: REPORTERS, results, order, length: self.length }
    }

    /// Changes of two-bit cells per second, by pipelined `BITFIELD` commands of `redis-benchmark`.
    ///
    /// `INCRBY` costs as much as `SET`, but changes its cell each time although the command never varies, so Redis
    /// writes every command to the append-only file. `redis-benchmark` cannot vary the offsets: it pads random numbers
    /// with zeros, which `BITFIELD` rejects.
    async fn bitfield_commands(&self) -> Result<Measurement> {
        let commands = (self.length.as_secs_f64() * COMMANDS_PER_SECOND) as u64;
        let mut command = Command::new("redis-benchmark");
        command.arg("-s").arg(self.environment.redis.socket()).args(["--csv", "-c", "8", "-P", "16", "-n"]);
        command.arg(commands.to_string()).args(["BITFIELD", "bench:bits"]);
        for cell in 0..CHANGES {
            command.args(["INCRBY", "u2", &format!("#{}", cell * CELL_DISTANCE), "1"]);
        }
        let redis = RedisAdmin::connect(&self.environment).await?;
        let changes_before = redis.changes().await?;
        let cpu_before = usage::cpu_time(self.environment.redis.pid())?;
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        let cpu = usage::cpu_time(self.environment.redis.pid())?.saturating_sub(cpu_before);
        let changes = redis.changes().await? - changes_before;
        if changes < commands * CHANGES {
            return Err(format!("{commands} BITFIELD commands changed only {changes} cells").into());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let fields: Vec<f64> = text
            .lines()
            .last()
            .map(|line| line.rsplit("\",\"").filter_map(|field| field.trim_matches('"').parse().ok()).collect())
            .unwrap_or_default();
        // Reversed, the columns are: latencies in milliseconds (max, p99, p95, p50, min, mean), then the rate.
        let [.., rate] = fields[..] else { return Err(format!("redis-benchmark: {text}").into()) };
        Ok(Measurement {
            rate: rate * CHANGES as f64,
            cpu_micros: cpu.as_secs_f64() * 1e6 / commands as f64,
            p50_millis: fields.get(3).copied().unwrap_or_default(),
            p99_millis: fields.get(1).copied().unwrap_or_default(),
        })
    }
}

impl Comparison {
    fn all() -> Vec<Self> {
        let bare = "bare";
        let line = |what: &str, against: &str, goal| Self {
            what: what.to_owned(),
            against: against.to_owned(),
            goal,
            rounds: Vec::new(),
        };
        vec![
            line("GetProgress of a running job", bare, Some(0.95)),
            line("GetProgress of an ended job", bare, Some(0.97)),
            line("ReportResults of 10 results, one hot job", bare, Some(0.6)),
            line("ReportResults of 10 results, over 100 jobs", bare, Some(0.4)),
            line("marks by reports of 100 results, in pages", "BITFIELD", Some(0.6)),
            line("marks by reports of 100 results, scattered", "BITFIELD", Some(0.6)),
            line("marks by reports of 100 results, the bare service", "BITFIELD", None),
        ]
    }

    fn add(&mut self, ours: Measurement, limit: Measurement) {
        self.rounds.push(Round { ours, limit });
    }

    fn median(&self, figure: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    fn ratio(&self) -> f64 {
        self.median(|round| round.ours.rate / round.limit.rate)
    }

    fn row(&self) -> [String; 7] {
        [
            self.what.clone(),
            count(self.median(|round| round.ours.rate)),
            format!("{} ({})", count(self.median(|round| round.limit.rate)), self.against),
            format!("**{:.2}**", self.ratio()),
            self.goal.map_or_else(String::new, |goal| format!("{goal:.2}")),
            format!(
                "{:.1} / {:.1}",
                self.median(|round| round.ours.cpu_micros),
                self.median(|round| round.limit.cpu_micros)
            ),
            format!(
                "{:.1} / {:.1}",
                self.median(|round| round.ours.p50_millis),
                self.median(|round| round.ours.p99_millis)
            ),
        ]
    }
}

impl Measurement {
    /// The measurement of a load whose calls have `units` marks, or count once each.
    fn of(load: &LoadResult, units: u64) -> Self {
        Self {
            rate: load.rate() * units as f64,
            cpu_micros: load.cpu_micros(),
            p50_millis: load.millis(50.0),
            p99_millis: load.millis(99.0),
        }
    }
}

fn check_ended(progress: &pb::Progress) -> Option<String> {
    (progress.state() != pb::JobState::Cancelled).then(|| "the job has not ended".to_owned())
}

/// Renders the page.
pub fn render(run: &Run<Comparisons>) -> Result<Page> {
    let mut page = Page::new("limit", run);
    let lines = &run.results.lines;
    let rows: Vec<_> = lines.iter().map(Comparison::row).collect();
    page.table(
        "ratios",
        [
            "",
            "per second",
            "reference",
            "ratio",
            "goal",
            "server CPU per call, µs (ours / reference)",
            "ms (p50 / p99)",
        ],
        &rows,
    );
    let bars: Vec<_> = NAMES
        .iter()
        .zip(lines)
        .filter(|((_, label), _)| !label.is_empty())
        .map(|((_, label), line)| ((*label).to_owned(), line.ratio()))
        .collect();
    page.plot(
        "ratios",
        "Throughput as a share of the reference",
        plot::bars("Throughput as a share of the reference", "ratio", &bars)?,
    );
    for ((name, _), line) in NAMES.iter().zip(lines) {
        page.figure(format!("{name}.ratio"), line.ratio());
        page.figure(format!("{name}.cpu"), line.median(|round| round.ours.cpu_micros));
    }
    page.figure("rounds", lines[0].rounds.len() as f64);
    Ok(page)
}
