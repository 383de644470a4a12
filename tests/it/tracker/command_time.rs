//! Tests that no command, including every script, occupies Redis for longer than 10 ms, for any batch and any job size.
//!
//! The slow log of Redis provides the times. A busy machine can only lengthen them, so the shortest of several attempts
//! counts.

use std::fmt::Write;
use std::time::Duration;

use highwater::domain::{
    Cells, ErrorSample, JobId, Layout, MAX_RESULTS, MAX_STAGES, MAX_TASKS, Mark, MarkStep, Outcome,
};
use highwater::live::{Header, MarkReply, Seal, StepWrite, Tracker};
use redis::Value;
use time::OffsetDateTime;

use super::{FIRST, SECOND, THIRD, TestRedis, deadline, failed, job_id, succeeded};

const LIMIT: Duration = Duration::from_millis(10);
/// The minimum number of attempts, and the maximum number while any case is above the limit.
const ATTEMPTS: std::ops::Range<usize> = 3..15;
/// The largest job: 20 MB of cells.
const LARGEST: Layout = Layout { total: MAX_TASKS, stages: MAX_STAGES };
/// The maximum number of results in one report.
const BATCH: u32 = 10_000;

/// The time of the slowest command of each case. The shortest time of all attempts counts.
#[derive(Default)]
struct CommandTimes(Vec<(String, Duration)>);

impl CommandTimes {
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

impl TestRedis {
    /// The time of the slowest command since the previous call.
    async fn slowest_command(&self) -> Duration {
        let entries: Vec<(u64, u64, u64, Value, Value, Value)> = self.query(&[b"SLOWLOG", b"GET", b"-1"]).await;
        let () = self.query(&[b"SLOWLOG", b"RESET"]).await;
        Duration::from_micros(entries.iter().map(|(_, _, micros, ..)| *micros).max().unwrap_or(0))
    }

    async fn header(&self, id: &JobId) -> Header {
        match self.tracker(id).await {
            Tracker::Present { header, .. } => header,
            other => panic!("{other:?}"),
        }
    }

    /// Times reports whose results are distributed over the largest job in every way. First, the cells are blank. Then
    /// the results are repeated, so that the script replies with the conflicting bytes before it succeeds. At last they
    /// are successful retries, which make skipped stages pending again.
    async fn time_reports(&self, times: &mut CommandTimes) {
        let scattered = |index: u32| index * (MAX_TASKS / BATCH) + index % 7;
        let over_stages = |index: u32| (index % 8) as usize;
        let batches: [(&str, Vec<Mark>); 5] = [
            (
                "10,000 failures at the first of eight stages, scattered over ten million tasks",
                (0..BATCH).map(|index| failed(scattered(index), 0)).collect(),
            ),
            (
                "10,000 failures at the first of eight stages, contiguous",
                (0..BATCH).map(|index| failed(5_000_001 + index, 0)).collect(),
            ),
            (
                "10,000 failures at the maximum distance that one read spans",
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
        let id = job_id("largest");
        self.open_adopted(&id, LARGEST, FIRST).await;
        self.slowest_command().await;
        for (case, marks) in &batches {
            assert_eq!(marks.len(), MAX_RESULTS);
            let retried: Vec<_> = marks.iter().map(|mark| Mark { outcome: Outcome::Succeeded, ..*mark }).collect();
            for (variant, marks) in [("", marks), (", repeated", marks), (", retried", &retried)] {
                self.report(&id, LARGEST, FIRST, marks).await.unwrap();
                times.add(format!("{case}{variant}"), self.slowest_command().await);
            }
        }
    }

    async fn time_lifecycle(&self, times: &mut CommandTimes) {
        let id = job_id("life");
        let opened = |incarnation| self.live.open(&id, LARGEST, incarnation, None, deadline());
        opened(FIRST).await.unwrap().unwrap();
        times.add("opening the largest job", self.slowest_command().await);
        opened(SECOND).await.unwrap().unwrap();
        times.add("replacing an earlier one", self.slowest_command().await);
        self.live.adopt(&id, SECOND, Duration::ZERO, deadline()).await.unwrap().unwrap();
        times.add("adopting it", self.slowest_command().await);
        self.live.reopen(&id, SECOND, THIRD, deadline()).await.unwrap().unwrap();
        times.add("reopening it", self.slowest_command().await);
        self.live.adopt(&id, THIRD, Duration::ZERO, deadline()).await.unwrap().unwrap();
        let found = self.header(&id).await;
        let mut right = found.clone();
        right.counts.stages[0].succeeded += 1;
        self.live.repair(&id, &found, &right, deadline()).await.unwrap().unwrap();
        self.live.repair(&id, &right, &found, deadline()).await.unwrap().unwrap();
        times.add("repairing it", self.slowest_command().await);
        let reason = "r".repeat(1024);
        let sealed = self.live.seal(&id, THIRD, Seal::Cancelled(&reason), deadline()).await.unwrap().unwrap();
        times.add("sealing it", self.slowest_command().await);
        self.live.cells(&id, &sealed, deadline()).await.unwrap().intact().unwrap();
        times.add("reading its cells", self.slowest_command().await);
        self.live.expire(&id, THIRD, deadline()).await.unwrap().unwrap();
        times.add("setting its expiry", self.slowest_command().await);
        let ids: Vec<_> = (0..500).map(|number| job_id(&format!("life-{number}"))).collect();
        self.live.read_trackers(&ids, deadline()).await.unwrap();
        self.live.renew(&ids, deadline()).await.unwrap();
        times.add("a reconciler page", self.slowest_command().await);
    }

    /// Times the restore of lost marks: all at once, in chunks into blank cells, and in chunks into existing marks.
    async fn time_restore(&self, times: &mut CommandTimes) {
        let id = job_id("restored");
        let full = vec![0xff; LARGEST.bytes()];
        let cells = Cells::new(LARGEST, full).unwrap();
        self.live.open(&id, LARGEST, FIRST, Some(&cells), deadline()).await.unwrap().unwrap();
        times.add("opening the largest job with all its marks", self.slowest_command().await);

        let id = job_id("merged");
        self.live.open(&id, LARGEST, FIRST, None, deadline()).await.unwrap().unwrap();
        self.slowest_command().await;
        let chunk = 0..65_536;
        for (case, byte) in [("a chunk", 0x55), ("a chunk of upgrades", 0xff)] {
            let bytes = vec![byte; Layout { total: chunk.end, ..LARGEST }.bytes()];
            let step = MarkStep::from_cells(LARGEST, chunk.clone(), &bytes);
            let mut expected = step.blank();
            loop {
                let change = step.apply(&expected).unwrap();
                match self
                    .live
                    .merge_marks(
                        &id,
                        FIRST,
                        StepWrite { step: &step, expected: &expected, change: &change },
                        deadline(),
                    )
                    .await
                    .unwrap()
                {
                    MarkReply::Applied(_) => break,
                    MarkReply::Conflict(found) => expected = found,
                    MarkReply::Refused(refusal) => panic!("{refusal:?}"),
                }
            }
            times.add(format!("merging {case}"), self.slowest_command().await);
        }
        self.live.cells_at(&id, 0..LARGEST.bytes() / 160, deadline()).await.unwrap().unwrap();
        times.add("reading a chunk", self.slowest_command().await);

        let damaged = vec![0; LARGEST.bytes()];
        self.write_tracker(&id, &damaged).await;
        self.slowest_command().await;
        assert!(self.live.quarantine(&id, None, deadline()).await.unwrap());
        times.add("quarantining 20 MB", self.slowest_command().await);
    }

    async fn time_errors(&self, times: &mut CommandTimes) {
        let id = job_id("failing");
        let sample = |code: String| ErrorSample {
            task: MAX_TASKS - 1,
            task_name: "x".repeat(256),
            stage: MAX_STAGES - 1,
            code,
            // Each of these characters takes six bytes as JSON.
            message: "\u{1}".repeat(256),
            report_time: OffsetDateTime::now_utc(),
        };
        for batch in ["first", "second"] {
            let errors: Vec<_> = (0..BATCH).map(|number| sample(format!("{batch}-{number:0>57}"))).collect();
            self.live.record_errors(&id, &errors, deadline()).await.unwrap();
        }
        times.add("10,000 errors, each with a different code", self.slowest_command().await);
        self.live.read_tracker(&id, deadline()).await.unwrap();
        times.add("reading the recorded errors", self.slowest_command().await);
    }
}

#[tokio::test]
async fn no_command_holds_redis_longer_than_ten_milliseconds() {
    let redis = TestRedis::start(&[("slowlog-log-slower-than", "0"), ("slowlog-max-len", "10000")]).await;
    let mut times = CommandTimes::default();
    for number in 0..ATTEMPTS.end {
        if number >= ATTEMPTS.start && times.within(LIMIT) {
            break;
        }
        let () = redis.query(&[b"FLUSHALL"]).await;
        redis.slowest_command().await;
        redis.time_reports(&mut times).await;
        redis.time_lifecycle(&mut times).await;
        redis.time_restore(&mut times).await;
        redis.time_errors(&mut times).await;
    }
    println!("{}", times.table());
    assert!(times.within(LIMIT), "commands longer than {LIMIT:?}:\n{}", times.table());
}
