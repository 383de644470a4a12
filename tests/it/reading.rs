//! Tests of the fields of a read other than the counts (source, times, rate, ETA and errors), and of the fields that
//! are omitted.

use std::time::{Duration, SystemTime};

use highwater::live::{HEADER_BYTES, Header};

use crate::support::{
    Link, Stack, dispositions, eventually, failed, failed_with, job, named_job, pb, stage_counts, succeeded,
    system_time, tracker_key,
};

/// The maximum apparent difference between the clocks of two processes on one machine.
const ROUNDING: Duration = Duration::from_millis(5);

#[tokio::test]
async fn read_reports_its_time_and_the_time_of_the_last_new_mark() {
    let stack = Stack::start(2).await;
    stack[0].create(job("a", &["s"], 5)).await.unwrap();
    let fresh = stack[0].progress("a").await.unwrap();
    assert_eq!(fresh.last_progress_time, None);

    let before = SystemTime::now();
    stack[0].report("a", succeeded([0], "s")).await.unwrap();
    let first = stack[1].progress("a").await.unwrap();
    let after = SystemTime::now();
    let last = system_time(first.last_progress_time);
    assert!(before - ROUNDING <= last && last <= after + ROUNDING, "{before:?} {last:?} {after:?}");
    let observed = system_time(first.observe_time);
    assert!(last <= observed && observed <= after + ROUNDING, "{last:?} {observed:?} {after:?}");
    assert!(first.revision() > fresh.revision());

    tokio::time::sleep(ROUNDING).await;
    stack[0].report("a", succeeded([0], "s")).await.unwrap();
    let second = stack[1].progress("a").await.unwrap();
    assert_eq!((second.last_progress_time, second.revision), (first.last_progress_time, first.revision));
    assert!(system_time(second.observe_time) > system_time(first.observe_time), "every read has its own time");
}

#[tokio::test]
async fn pending_job_reads_as_all_pending() {
    let stack = Stack::start(1).await;
    stack[0].create(pb::CreateJobRequest { start: false, ..job("a", &["read", "digest"], 5) }).await.unwrap();
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.state(), progress.source()), (pb::JobState::Pending, pb::Source::Snapshot));
    assert_eq!((stage_counts(&progress), progress.percent), (vec![[5, 0, 0, 0]; 2], Some(0)));
    assert_eq!((progress.results_per_second, progress.eta), (None, None));
}

/// Before the start, nothing is pending, but the job is not complete because tasks can still be added.
#[tokio::test]
async fn job_without_tasks_is_at_0_percent_until_it_starts() {
    let stack = Stack::start(1).await;
    for (id, end) in [("started", pb::JobState::Succeeded), ("cancelled", pb::JobState::Cancelled)] {
        stack[0].create(named_job(id, &["read", "digest"])).await.unwrap();
        let before = stack[0].progress(id).await.unwrap();
        assert_eq!((before.state(), stage_counts(&before)), (pb::JobState::Pending, vec![[0; 4]; 2]));
        assert_eq!((before.percent, before.fraction), (Some(0), Some(0.0)));
        assert_eq!(before.revision, None, "tasks can still be added, which changes no marks");
        let (ended, percent) = match end {
            pb::JobState::Succeeded => (stack[0].start(id).await.unwrap(), 100),
            _ => (stack[0].cancel(id, "").await.unwrap(), 0),
        };
        let after = stack[0].progress(id).await.unwrap();
        assert_eq!((ended.state(), after.state(), after.percent), (end, end, Some(percent)));
    }
    let request = pb::ListJobsRequest { with_progress: true, ..pb::ListJobsRequest::default() };
    stack[0].create(named_job("listed", &["s"])).await.unwrap();
    let listed = stack[0].list_jobs(request).await.unwrap().progress.swap_remove(0);
    let Some(pb::progress_result::Result::Progress(listed)) = listed.result else { panic!("{listed:?}") };
    assert_eq!((listed.state(), listed.percent), (pb::JobState::Pending, Some(0)));
}

/// Rewrites the header of a tracker as if all its times were `by` earlier.
async fn age(stack: &Stack, id: &str, by: Duration) {
    let tracker = stack.redis.tracker(id).await.unwrap();
    let mut header = Header::decode(&tracker[..HEADER_BYTES]).unwrap();
    header.open_time -= by;
    for rate in header.rates.iter_mut() {
        rate.last = rate.last.saturating_sub(by.as_millis().try_into().unwrap());
    }
    let mut write = redis::cmd("SETRANGE");
    write.arg(tracker_key(id)).arg(0).arg(&header.encode()[..]);
    stack.redis.run::<i64>(&write).await;
}

/// Reports tasks one after another, with a second between them.
async fn report_every_second(stack: &Stack, id: &str, tasks: std::ops::Range<i64>, stage: &str) {
    for task in tasks {
        age(stack, id, Duration::from_secs(1)).await;
        stack[0].report(id, succeeded([task], stage)).await.unwrap();
    }
}

#[tokio::test]
async fn rate_and_eta_of_a_resumed_run_ignore_the_results_of_the_earlier_one() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 100)).await.unwrap();
    stack[0].report("a", succeeded(0..50, "s")).await.unwrap();
    report_every_second(&stack, "a", 50..60, "s").await;
    let young = stack[0].progress("a").await.unwrap();
    assert_eq!((young.results_per_second, young.stages[0].results_per_second, young.eta), (None, None, None));

    report_every_second(&stack, "a", 60..70, "s").await;
    let progress = stack[0].progress("a").await.unwrap();
    let (rate, seconds) = (progress.results_per_second.unwrap(), progress.eta.unwrap().seconds);
    assert!((0.5..=1.5).contains(&rate), "{rate} results per second are not 1");
    assert!((15..=60).contains(&seconds), "30 results at 1 per second do not take {seconds} s");
    assert_eq!(progress.stages[0].results_per_second, Some(rate));

    age(&stack, "a", Duration::from_secs(60)).await;
    let paused = stack[0].progress("a").await.unwrap();
    assert_eq!((paused.results_per_second, paused.eta), (None, None));

    stack[0].report("a", succeeded(70..100, "s")).await.unwrap();
    let ended = stack[0].progress("a").await.unwrap();
    assert_eq!((ended.source(), ended.results_per_second, ended.eta), (pb::Source::Snapshot, None, None));
}

#[tokio::test]
async fn eta_is_absent_while_a_stage_with_pending_tasks_has_no_rate() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["first", "second"], 100)).await.unwrap();
    report_every_second(&stack, "a", 0..30, "first").await;
    let progress = stack[0].progress("a").await.unwrap();
    assert!(progress.stages[0].results_per_second.is_some());
    assert_eq!((progress.stages[1].results_per_second, progress.eta), (None, None));
}

#[tokio::test]
async fn errors_are_counted_by_code_and_the_newest_are_sampled() {
    let stack = Stack::start(2).await;
    let lenient = pb::CreateJobRequest { failure_threshold: Some(1.0), ..job("a", &["read", "digest"], 30) };
    stack[0].create(lenient).await.unwrap();
    for task in 0..25 {
        let code = if task % 5 == 0 { "IO" } else { "TIMEOUT" };
        let result = failed_with(task, "read", code, &format!("task {task}"));
        stack[usize::try_from(task).unwrap() % 2].report("a", vec![result]).await.unwrap();
    }
    let long = "ä".repeat(200);
    stack[0].report("a", vec![failed_with(25, "digest", "", &long)]).await.unwrap();
    // A duplicate failure and a failure after a success are not counted as errors.
    stack[0].report("a", vec![failed_with(24, "read", "IO", "again")]).await.unwrap();
    stack[0].report("a", succeeded([26], "read")).await.unwrap();
    stack[0].report("a", vec![failed_with(26, "read", "IO", "late")]).await.unwrap();

    let live = stack[1].progress("a").await.unwrap();
    let counts: Vec<_> = live.error_counts.iter().map(|error| (error.code.as_str(), error.count)).collect();
    assert_eq!(counts, [("TIMEOUT", 20), ("IO", 5), ("UNKNOWN", 1)]);
    let samples: Vec<_> = live.error_samples.iter().map(|sample| (sample.task, sample.stage.as_str())).collect();
    let newest: Vec<_> = std::iter::once((25, "digest")).chain((6..25).rev().map(|task| (task, "read"))).collect();
    assert_eq!(samples, newest);
    let [last, before, ..] = &live.error_samples[..] else { panic!("{live:?}") };
    assert_eq!(
        (last.code.as_str(), last.message.as_str()),
        ("UNKNOWN", &*"ä".repeat(128)),
        "messages are cut at 256 bytes"
    );
    assert_eq!((before.code.as_str(), before.message.as_str()), ("TIMEOUT", "task 24"));
    assert!(system_time(before.report_time) <= system_time(last.report_time));

    let rest = [failed(25..26, "read"), failed(26..30, "digest"), succeeded(26..30, "read")].concat();
    assert!(stack[0].report("a", rest).await.unwrap().stop);
    for gateway in stack.gateways() {
        let ended = gateway.progress("a").await.unwrap();
        assert_eq!(ended.source(), pb::Source::Snapshot);
        assert_eq!(ended.error_samples[5..], live.error_samples[..15]);
        assert_eq!(ended.error_counts.iter().map(|error| error.count).sum::<i64>(), 31);
    }
}

/// A missing tracker must not be read as a job without marks.
#[tokio::test]
async fn running_job_without_a_tracker_reports_only_remembered_counts() {
    let stack = Stack::builder(2).without_reconciler().start().await;
    stack[0].create(job("a", &["s"], 5)).await.unwrap();
    stack[0].report("a", succeeded(0..4, "s")).await.unwrap();
    stack.redis.run::<i64>(redis::cmd("DEL").arg(tracker_key("a"))).await;
    for (gateway, has_mirror) in stack.gateways().iter().zip([true, false]) {
        let progress = gateway.progress("a").await.unwrap();
        assert_eq!((progress.state(), progress.source()), (pb::JobState::Running, pb::Source::Fallback));
        assert_eq!(progress.source_reason(), pb::SourceReason::TrackerMissing);
        assert_eq!((progress.task_count, progress.stages[0].total_count), (5, 5), "the definition is known");
        assert_eq!((progress.lower_bound, progress.revision), (has_mirror, None));
        if has_mirror {
            assert_eq!((stage_counts(&progress), progress.percent), (vec![[1, 4, 0, 0]], Some(80)));
        } else {
            assert_eq!((progress.pending_task_count, progress.percent, progress.fraction), (None, None, None));
            assert_eq!(progress.stages[0].pending_count, None);
        }
        assert!(stack.redis.tracker("a").await.is_none(), "reads do not recreate the tracker");
    }
    // A report rebuilds the tracker from the mirror of its gateway. The tracker is not adopted until other gateways
    // have had time to merge their mirrors.
    let answer = stack[0].report("a", succeeded([3], "s")).await.unwrap();
    assert_eq!(dispositions(&answer), [pb::Disposition::Duplicate]);
    for gateway in stack.gateways() {
        let progress = gateway.progress("a").await.unwrap();
        assert_eq!((progress.source(), progress.lower_bound), (pb::Source::Fallback, true));
        assert_eq!(progress.source_reason(), pb::SourceReason::TrackerNotAdopted);
        assert_eq!(stage_counts(&progress), [[1, 4, 0, 0]]);
        assert!(progress.restore_time.is_some());
    }
}

/// Redis stores the errors and the times of a running job. While it cannot be read, they are unknown, which is not the
/// same as none.
#[tokio::test]
async fn without_redis_errors_and_times_are_unknown_not_none() {
    let unknown = |progress: &pb::Progress| {
        [progress.errors_unknown, progress.last_progress_time_unknown, progress.restore_time_unknown]
    };
    let stack = Stack::builder(1).links().start().await;
    stack[0].create(pb::CreateJobRequest { start: false, ..job("waiting", &["s"], 4) }).await.unwrap();
    stack[0].create(job("a", &["s"], 4)).await.unwrap();
    for id in ["waiting", "a"] {
        assert_eq!(unknown(&stack[0].progress(id).await.unwrap()), [false; 3], "{id}: there are none");
    }
    stack[0].report("a", [succeeded([0], "s"), vec![failed_with(1, "s", "IO", "gone")]].concat()).await.unwrap();
    let live = stack[0].progress("a").await.unwrap();
    assert_eq!((live.error_counts.len(), live.last_progress_time.is_some(), unknown(&live)), (1, true, [false; 3]));

    stack[0].links().redis.set(Link::Cut);
    let fallback = async || {
        let progress = stack[0].progress("a").await.unwrap();
        (progress.source() == pb::Source::Fallback).then_some(progress)
    };
    let fallback = eventually("the read falls back", fallback).await;
    let known = (fallback.error_counts.len(), fallback.error_samples.len(), fallback.last_progress_time);
    assert_eq!((known, unknown(&fallback)), ((0, 0, None), [true; 3]));
    assert_eq!((fallback.percent, fallback.lower_bound), (Some(50), true));
    let batch = stack[0].batch_progress(vec!["a".into(), "waiting".into()]).await.unwrap();
    let batch = batch.iter().map(|read| match &read.result {
        Some(pb::progress_result::Result::Progress(progress)) => unknown(progress),
        other => panic!("{other:?}"),
    });
    assert_eq!(batch.collect::<Vec<_>>(), [[true; 3], [false; 3]]);
}
