//! No script holds Redis longer than 10 ms, whatever the batch and however large the job; nor does any other command.
//!
//! Redis says itself how long each command took. A busy machine only adds to that, so of several tries the shortest
//! counts.

use std::fmt::Write;
use std::time::Duration;

use highwater::domain::{
    Cells, ErrorSample, JobId, Layout, MAX_RESULTS, MAX_STAGES, MAX_TASKS, Mark, MarkStep, Outcome,
};
use highwater::live::{Header, MarkReply, Seal, Tracker};
use redis::Value;
use time::OffsetDateTime;

use super::{Bench, failed, job, soon, succeeded};

const LIMIT: Duration = Duration::from_millis(10);
/// At least and, while any case is above the limit, at most.
const TRIES: std::ops::Range<usize> = 3..15;
/// The largest job: twenty megabytes of cells.
const LARGEST: Layout = Layout { total: MAX_TASKS, stages: MAX_STAGES };
/// How many results one call may report.
const BATCH: u32 = 10_000;

/// The time that the slowest command took, of each case the shortest of all tries.
#[derive(Default)]
struct Times(Vec<(String, Duration)>);

impl Times {
    fn add(&mut self, case: impl Into<String>, time: Duration) {
        let case = case.into();
        match self.0.iter_mut().find(|(known, _)| *known == case) {
            Some((_, shortest)) => *shortest = time.min(*shortest),
            None => self.0.push((case, time)),
        }
    }

    fn within(&self, limit: Duration) -> bool {
        self.0.iter().all(|(_, time)| *time < limit)
    }

    fn table(&self) -> String {
        self.0.iter().fold(String::new(), |mut table, (case, time)| {
            writeln!(table, "{:>8.3} ms  {case}", time.as_secs_f64() * 1000.0).unwrap();
            table
        })
    }
}

impl Bench {
    /// How long the slowest command took since this was asked last.
    async fn slowest(&self) -> Duration {
        let entries: Vec<(u64, u64, u64, Value, Value, Value)> = self.ask(&[b"SLOWLOG", b"GET", b"-1"]).await;
        let () = self.ask(&[b"SLOWLOG", b"RESET"]).await;
        Duration::from_micros(entries.iter().map(|(_, _, micros, ..)| *micros).max().unwrap_or(0))
    }

    async fn header(&self, id: &JobId) -> Header {
        match self.tracker(id).await {
            Tracker::Present { header, .. } => header,
            other => panic!("{other:?}"),
        }
    }

    /// Every way in which a batch can lie in the largest job: blank before; then everything is there already, so that
    /// the script first answers with the bytes as they are; then retries that succeed, which puts skipped stages back.
    async fn time_reports(&self, times: &mut Times) {
        let scattered = |index: u32| index * (MAX_TASKS / BATCH) + index % 7;
        let over_stages = |index: u32| (index % 8) as usize;
        let batches: [(&str, Vec<Mark>); 5] = [
            (
                "10,000 failures at the first of eight stages, scattered over ten million tasks",
                (0..BATCH).map(|index| failed(scattered(index), 0)).collect(),
            ),
            (
                "10,000 failures at the first of eight stages, side by side",
                (0..BATCH).map(|index| failed(5_000_001 + index, 0)).collect(),
            ),
            (
                "10,000 failures as far apart as one read bridges",
                (0..BATCH).map(|index| failed(1_000_000 + 129 * index, 0)).collect(),
            ),
            (
                "10,000 successes over all stages, scattered",
                (0..BATCH).map(|index| succeeded(scattered(index) + 10, over_stages(index))).collect(),
            ),
            (
                "1,250 tasks at all eight stages, scattered",
                (0..BATCH).map(|index| succeeded(scattered(index - index % 8) + 20, over_stages(index))).collect(),
            ),
        ];
        let id = job("largest");
        self.adopted(&id, LARGEST, 1).await;
        self.slowest().await;
        for (case, marks) in &batches {
            assert_eq!(marks.len(), MAX_RESULTS);
            let retried: Vec<_> = marks.iter().map(|mark| Mark { outcome: Outcome::Succeeded, ..*mark }).collect();
            for (time, marks) in [("", marks), (", again", marks), (", retried", &retried)] {
                self.report(&id, LARGEST, 1, marks).await.unwrap();
                times.add(format!("{case}{time}"), self.slowest().await);
            }
        }
    }

    async fn time_the_rest(&self, times: &mut Times) {
        let id = job("life");
        let opened = |incarnation| self.live.open(&id, LARGEST, incarnation, None, soon());
        opened(1).await.unwrap().unwrap();
        times.add("opening the largest job", self.slowest().await);
        opened(2).await.unwrap().unwrap();
        times.add("opening it in the place of an earlier one", self.slowest().await);
        self.live.adopt(&id, 2, Duration::ZERO, soon()).await.unwrap().unwrap();
        times.add("adopting it", self.slowest().await);
        self.live.reopen(&id, 2, 3, soon()).await.unwrap().unwrap();
        times.add("taking it up", self.slowest().await);
        self.live.adopt(&id, 3, Duration::ZERO, soon()).await.unwrap().unwrap();
        let found = self.header(&id).await;
        let mut right = found.clone();
        right.counts.stages[0].succeeded += 1;
        self.live.repair(&id, &found, &right, soon()).await.unwrap().unwrap();
        self.live.repair(&id, &right, &found, soon()).await.unwrap().unwrap();
        times.add("repairing it", self.slowest().await);
        let reason = "r".repeat(1024);
        let sealed = self.live.seal(&id, 3, Seal::Cancelled(&reason), soon()).await.unwrap().unwrap();
        times.add("sealing it", self.slowest().await);
        self.live.cells(&id, &sealed, soon()).await.unwrap().unwrap();
        times.add("reading its cells", self.slowest().await);
        self.live.expire(&id, 3, soon()).await.unwrap().unwrap();
        times.add("letting it expire", self.slowest().await);
        let ids: Vec<_> = (0..500).map(|number| job(&format!("life-{number}"))).collect();
        self.live.read_trackers(&ids, soon()).await.unwrap();
        self.live.renew(&ids, soon()).await.unwrap();
        times.add("a page of the reconciler", self.slowest().await);
    }

    /// What brings lost marks back: all of them at once, and chunk by chunk, into bytes that are blank or others' marks.
    async fn time_restoring(&self, times: &mut Times) {
        let id = job("restored");
        let full = vec![0xff; LARGEST.bytes()];
        let cells = Cells::new(LARGEST, full).unwrap();
        self.live.open(&id, LARGEST, 1, Some(&cells), soon()).await.unwrap().unwrap();
        times.add("opening the largest job with all its marks", self.slowest().await);

        let id = job("merged");
        self.live.open(&id, LARGEST, 1, None, soon()).await.unwrap().unwrap();
        self.slowest().await;
        let chunk = 0..65_536;
        for (case, byte) in [("a chunk", 0x55), ("a chunk of upgrades", 0xff)] {
            let bytes = vec![byte; Layout { total: chunk.end, ..LARGEST }.bytes()];
            let marking = MarkStep::of_cells(LARGEST, chunk.clone(), &bytes);
            let mut expected = marking.blank();
            loop {
                let change = marking.apply(&expected).unwrap();
                match self.live.merge(&id, 1, (&marking, &expected, &change), soon()).await.unwrap() {
                    MarkReply::Applied(_) => break,
                    MarkReply::Conflict(found) => expected = found,
                    MarkReply::Refused(refusal) => panic!("{refusal:?}"),
                }
            }
            times.add(format!("merging {case}"), self.slowest().await);
        }
        self.live.cells_at(&id, 0..LARGEST.bytes() / 160, soon()).await.unwrap().unwrap();
        times.add("pulling a chunk", self.slowest().await);

        let damaged = vec![0; LARGEST.bytes()];
        self.put(&id, &damaged).await;
        self.slowest().await;
        assert!(self.live.quarantine(&id, soon()).await.unwrap());
        times.add("setting twenty megabytes aside", self.slowest().await);
    }

    async fn time_errors(&self, times: &mut Times) {
        let id = job("failing");
        let sample = |code: String| ErrorSample {
            task: MAX_TASKS - 1,
            task_name: "x".repeat(256),
            stage: MAX_STAGES - 1,
            code,
            // As JSON every one of these takes six bytes.
            message: "\u{1}".repeat(256),
            report_time: OffsetDateTime::now_utc(),
        };
        for batch in ["first", "second"] {
            let errors: Vec<_> = (0..BATCH).map(|number| sample(format!("{batch}-{number:0>57}"))).collect();
            self.live.record_errors(&id, &errors, soon()).await.unwrap();
        }
        times.add("10,000 errors, each with a code of its own", self.slowest().await);
        self.live.read_tracker(&id, soon()).await.unwrap();
        times.add("reading what was noted of them", self.slowest().await);
    }
}

#[tokio::test]
async fn no_command_holds_redis_longer_than_ten_milliseconds() {
    let bench = Bench::start(&[("slowlog-log-slower-than", "0"), ("slowlog-max-len", "10000")]).await;
    let mut times = Times::default();
    for number in 0..TRIES.end {
        if number >= TRIES.start && times.within(LIMIT) {
            break;
        }
        let () = bench.ask(&[b"FLUSHALL"]).await;
        bench.slowest().await;
        bench.time_reports(&mut times).await;
        bench.time_the_rest(&mut times).await;
        bench.time_restoring(&mut times).await;
        bench.time_errors(&mut times).await;
    }
    println!("{}", times.table());
    assert!(times.within(LIMIT), "longer than {LIMIT:?}:\n{}", times.table());
}
