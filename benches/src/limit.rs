//! Against a bare tonic service: how much of the wire the gateway leaves to its callers. Rounds of both alternate, and
//! the middle ratio counts, so that a moment in which the machine is busy with something else decides nothing.

use std::process::Stdio;
use std::time::Duration;

use highwater::grpc::pb;
use serde::Serialize;
use tokio::process::Command;

use crate::effort::{Effort, median, step};
use crate::load::Seen;
use crate::load::reads::{self, CONNECTIONS, STREAMS, is_live};
use crate::load::reports::{Load, Order, Tasks, report};
use crate::page::{Page, count};
use crate::stand::{Server, Stand};
use crate::{Result, jobs, plot};

/// The largest job that there may be: enough for one round.
const TASKS: u64 = 10_000_000;
const REPORTERS: usize = 64;
const SPREAD: usize = 100;
const LIVE: &str = "live";
const ENDED: &str = "ended";

/// One comparison: what is measured, against what, and the goal.
#[derive(Serialize)]
struct Line {
    what: &'static str,
    against: &'static str,
    /// None for what only says what the others stand beside.
    goal: Option<f64>,
    rounds: Vec<Round>,
}

/// What both reached in one round: calls, or marks, a second.
#[derive(Serialize)]
struct Round {
    ours: Figures,
    limit: Figures,
}

#[derive(Serialize, Clone, Copy)]
struct Figures {
    rate: f64,
    /// CPU time of the server alone for one call, in microseconds.
    cpu_micros: f64,
    p50_millis: f64,
    p99_millis: f64,
}

/// What is measured.
struct Measured {
    stand: Stand,
    gateway: Server,
    bare: Server,
    spread: Vec<Tasks>,
    length: Duration,
}

/// Measures all of it.
pub async fn run(effort: Effort, rounds: u32) -> Result<Page> {
    let measured = Measured::start(effort.seconds(4)).await?;
    let mut lines = Line::all();
    for round in 1..=effort.pick(rounds.max(1), 1) {
        step(format_args!("round {round}"));
        measured.round(round, &mut lines).await?;
    }
    page(&lines)
}

impl Measured {
    async fn start(length: Duration) -> Result<Self> {
        let stand = Stand::start().await?;
        let (gateway, bare) = (stand.gateway(&[]).await?, stand.bare().await?);
        let channel = gateway.channel()?;
        for (id, tasks) in [(LIVE, 1_000_000), (ENDED, 1000)] {
            jobs::start(&channel, id, tasks).await?;
        }
        jobs::cancel(&channel, ENDED).await?;
        let mut spread = Vec::new();
        for number in 0..SPREAD {
            let id = format!("spread-{number}");
            jobs::start(&channel, &id, 1_000_000).await?;
            spread.push(Tasks::of(&id, 1_000_000));
        }
        let measured = Self { stand, gateway, bare, spread, length };
        // Under way, as what the bare service answers.
        let load = Load { reporters: 1, results: 500, order: Order::InPages, length: Duration::from_millis(100) };
        report(&measured.gateway, &[Tasks::of(LIVE, 1_000_000)], &load).await?;
        Ok(measured)
    }

    async fn round(&self, round: u32, lines: &mut [Line]) -> Result<()> {
        let [live, ended, hot, spread, paged, scattered, by_bare] = lines else { return Err("seven lines".into()) };
        let limit = self.reads(&self.bare, LIVE, is_live).await?;
        live.add(self.reads(&self.gateway, LIVE, is_live).await?, limit);
        ended.add(self.reads(&self.gateway, ENDED, is_ended).await?, limit);
        let limit = self.reports(&self.bare, &[Tasks::of("bare", u64::MAX / 4)]).await?;
        hot.add(self.reports(&self.gateway, &[self.job("hot", round).await?]).await?, limit);
        spread.add(self.reports(&self.gateway, &self.spread).await?, limit);
        let limit = self.bitfields().await?;
        paged.add(self.marks(&self.gateway, &self.job("paged", round).await?, Order::InPages).await?, limit);
        scattered.add(self.marks(&self.gateway, &self.job("scattered", round).await?, Order::Scattered).await?, limit);
        by_bare.add(self.marks(&self.bare, &Tasks::of("bare", u64::MAX / 4), Order::InPages).await?, limit);
        Ok(())
    }

    /// A job that nobody has reported to.
    async fn job(&self, name: &str, round: u32) -> Result<Tasks> {
        let id = format!("{name}-{round}");
        jobs::start(&self.gateway.channel()?, &id, TASKS.cast_signed()).await?;
        Ok(Tasks::of(&id, TASKS))
    }

    async fn reads(&self, server: &Server, id: &str, right: fn(&pb::Progress) -> Option<String>) -> Result<Figures> {
        let seen = reads::read(&self.stand, server, id, CONNECTIONS, STREAMS, self.length, right).await?;
        Ok(Figures::of(&seen, 1))
    }

    /// Reports of 10 results.
    async fn reports(&self, server: &Server, jobs: &[Tasks]) -> Result<Figures> {
        Ok(Figures::of(&report(server, jobs, &self.load(10, Order::InPages)).await?, 1))
    }

    /// Marks by reports of 100 results.
    async fn marks(&self, server: &Server, job: &Tasks, order: Order) -> Result<Figures> {
        Ok(Figures::of(&report(server, std::slice::from_ref(job), &self.load(100, order)).await?, 100))
    }

    fn load(&self, results: u64, order: Order) -> Load {
        Load { reporters: REPORTERS, results, order, length: self.length }
    }

    /// What Redis does when it is asked for nothing but 100 marks at a time: pipelined BITFIELD, by redis-benchmark.
    async fn bitfields(&self) -> Result<Figures> {
        let mut command = Command::new("redis-benchmark");
        command.arg("-s").arg(self.stand.redis.socket()).args(["--csv", "-c", "8", "-P", "16", "-n"]);
        // At the 20,000 or 30,000 a second that it does.
        command.arg(count_for(self.length).to_string()).args(["BITFIELD", "bench:bits"]);
        for task in 0..100 {
            command.args(["SET".to_owned(), "u2".to_owned(), format!("#{}", task * 97), "3".to_owned()]);
        }
        let before = crate::usage::cpu(self.stand.redis.pid())?;
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
        let cpu = crate::usage::cpu(self.stand.redis.pid())?.saturating_sub(before);
        let text = String::from_utf8_lossy(&output.stdout);
        let fields: Vec<f64> = text
            .lines()
            .last()
            .map(|line| line.rsplit("\",\"").filter_map(|field| field.trim_matches('"').parse().ok()).collect())
            .unwrap_or_default();
        // From the end: max, p99, p95, p50, min and mean latency in milliseconds, and the rate.
        let [.., rate] = fields[..] else { return Err(format!("redis-benchmark: {text}").into()) };
        Ok(Figures {
            rate: rate * 100.0,
            cpu_micros: cpu.as_secs_f64() * 1e6 / count_for(self.length) as f64,
            p50_millis: fields.get(3).copied().unwrap_or_default(),
            p99_millis: fields.get(1).copied().unwrap_or_default(),
        })
    }
}

fn count_for(length: Duration) -> u64 {
    (length.as_secs_f64() * 25_000.0) as u64
}

impl Line {
    fn all() -> Vec<Self> {
        let bare = "bare";
        let line = |what, against, goal| Self { what, against, goal, rounds: Vec::new() };
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

    fn add(&mut self, ours: Figures, limit: Figures) {
        self.rounds.push(Round { ours, limit });
    }

    fn middle(&self, figure: fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(figure).collect())
    }

    fn ratio(&self) -> f64 {
        self.middle(|round| round.ours.rate / round.limit.rate)
    }
}

impl Figures {
    /// Of a load in whose calls there are so many of what counts.
    fn of(seen: &Seen, each: u64) -> Self {
        Self {
            rate: seen.rate() * each as f64,
            cpu_micros: seen.cpu_micros(),
            p50_millis: seen.millis(50.0),
            p99_millis: seen.millis(99.0),
        }
    }
}

fn is_ended(progress: &pb::Progress) -> Option<String> {
    (progress.state() != pb::JobState::Cancelled).then(|| "not ended".to_owned())
}

fn page(lines: &[Line]) -> Result<Page> {
    let mut page = Page::new("limit", "How much of the wire is left");
    page.say(format!(
        "What no service over tonic can leave out is measured by a bare one, which answers messages of the same shape \
         from memory: same build, same client, same machine, and on two cores the client takes its share of both. \
         Reads come from h2load, over {CONNECTIONS} connections with {STREAMS} calls open on each; reports from \
         {REPORTERS} reporters, each of which reports what nobody has reported before and looks at what became of \
         it. Marks are compared with what `redis-benchmark` reaches on the same Redis with pipelined `BITFIELD` \
         commands of 100 `SET u2`, which after the first change no byte, so that Redis logs nothing for them as it does \
         for every mark. What the bare service leaves of that, which sets no mark anywhere, stands in the \
         last line: nothing over tonic, with this client on the same cores, comes nearer. Each line is the middle of \
         {} rounds, in which both alternate.",
        lines[0].rounds.len()
    ));
    let row = |line: &Line| {
        [
            line.what.to_owned(),
            count(line.middle(|round| round.ours.rate)),
            format!("{} ({})", count(line.middle(|round| round.limit.rate)), line.against),
            format!("**{:.2}**", line.ratio()),
            line.goal.map_or_else(String::new, |goal| format!("{goal:.2}")),
            format!(
                "{:.1} / {:.1}",
                line.middle(|round| round.ours.cpu_micros),
                line.middle(|round| round.limit.cpu_micros)
            ),
            format!(
                "{:.1} / {:.1}",
                line.middle(|round| round.ours.p50_millis),
                line.middle(|round| round.ours.p99_millis)
            ),
        ]
    };
    let rows: Vec<_> = lines.iter().map(row).collect();
    page.table(
        ["", "a second", "the limit", "ratio", "goal", "server CPU a call, µs (ours / limit)", "ms (p50 / p99)"],
        &rows,
    );
    let bars: Vec<_> = ["live", "ended", "hot", "spread", "100 in pages", "100 scattered"]
        .iter()
        .zip(lines)
        .map(|(name, line)| ((*name).to_owned(), line.ratio()))
        .collect();
    page.plot("ratios", "Share of the limit that is reached", plot::bars("Share of the limit", "ratio", &bars)?);
    page.data("lines", &lines)?;
    Ok(page)
}
