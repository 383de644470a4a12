//! Tests of coalesced reads. There are as few round trips as possible, no result is older than its request, and each
//! answer arrives within its deadline.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tonic::Code;

use super::{abort_call, call_stalled_at, joined_call, long_timeout, read, with_timeout};
use crate::support::{
    CallResult, Client, Fault, Gateway, Link, Stack, code_and_reason, eventually, job, pb, stage_counts, succeeded,
};
use pb::progress_service_client::ProgressServiceClient;
use pb::{JobState, Source, SourceReason};

const TRACKER_READ: &str = "read.looked";
const TASKS: i64 = 10;
/// A deadline that is long enough for a fallback on a busy machine, and far shorter than the time for which Redis
/// hangs.
const SHORT_DEADLINE: Duration = Duration::from_secs(2);

/// Starts two gateways and a running job. Both gateways have read the job.
async fn stack() -> Stack {
    let stack = long_timeout(2).start().await;
    stack[0].create(job("a", &["s"], TASKS)).await.unwrap();
    for gateway in stack.gateways() {
        assert_eq!(live_successes(&gateway.progress("a").await), 0);
    }
    stack.redis.take_command_stats().await;
    stack
}

/// Starts a read that waits in the gateway for the next round trip.
async fn joined_read(gateway: &Gateway) -> JoinHandle<CallResult<pb::Progress>> {
    joined_call(gateway, get_progress(gateway.client())).await
}

async fn get_progress(client: Client) -> CallResult<pb::Progress> {
    client.progress("a").await
}

/// The number of succeeded tasks in an answer, which must be LIVE.
fn live_successes(answer: &CallResult<pb::Progress>) -> i64 {
    let progress = answer.as_ref().unwrap();
    assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Live), "{progress:?}");
    let [[pending, succeeded, 0, 0]] = stage_counts(progress)[..] else { panic!("{progress:?}") };
    assert_eq!(pending + succeeded, TASKS);
    succeeded
}

/// The number of tracker reads since the previous call, or since the start of the stack.
async fn tracker_reads(stack: &Stack) -> u64 {
    // Only a tracker read sends HGETALL, for the error counts.
    stack.redis.take_command_stats().await.get("hgetall").map_or(0, |(calls, _)| *calls)
}

/// Invariant I6: the round trip in progress has read the tracker before these acknowledgements.
#[tokio::test]
async fn read_joining_during_a_round_trip_sees_all_earlier_acknowledgements() {
    let stack = stack().await;
    let first = call_stalled_at(&stack[0], TRACKER_READ, get_progress(stack[0].client())).await;
    let (mut later, mut acknowledged) = (Vec::new(), 0);
    for task in 0..5 {
        let answer = stack[1].report("a", succeeded([task], "s")).await.unwrap();
        acknowledged += answer.dispositions().filter(|disposition| *disposition == pb::Disposition::Applied).count();
        later.push((acknowledged, joined_read(&stack[0]).await));
    }
    assert_eq!(tracker_reads(&stack).await, 1, "the stalled round trip");

    stack[0].release(TRACKER_READ);
    assert_eq!(live_successes(&first.await.unwrap()), 0, "the first read may return what it saw");
    for (acknowledged, read) in later {
        let succeeded = live_successes(&read.await.unwrap());
        assert!(usize::try_from(succeeded).unwrap() >= acknowledged, "{succeeded} of {acknowledged} acknowledged");
    }
    assert_eq!(tracker_reads(&stack).await, 1, "the waiting reads shared one round trip");
}

/// Invariant I6 for an end: reads that wait while the job is cancelled return CANCELLED.
#[tokio::test]
async fn read_after_a_cancel_never_returns_an_earlier_state() {
    let stack = stack().await;
    let first = call_stalled_at(&stack[0], TRACKER_READ, get_progress(stack[0].client())).await;
    let before = joined_read(&stack[0]).await;
    let cancelled = stack[1].cancel("a", "enough").await.unwrap();
    assert_eq!(cancelled.state(), JobState::Cancelled);
    let mut later = Vec::new();
    for _ in 0..5 {
        later.push(joined_read(&stack[0]).await);
    }
    stack[0].release(TRACKER_READ);
    assert_eq!(live_successes(&first.await.unwrap()), 0);
    for read in std::iter::once(before).chain(later) {
        let progress = read.await.unwrap().unwrap();
        assert_eq!((progress.state(), progress.source()), (JobState::Cancelled, Source::Snapshot));
    }
}

#[tokio::test]
async fn one_round_trip_serves_all_waiting_reads() {
    let stack = stack().await;
    let first = call_stalled_at(&stack[0], TRACKER_READ, get_progress(stack[0].client())).await;
    let mut later = Vec::new();
    for _ in 0..40 {
        later.push(joined_read(&stack[0]).await);
    }
    stack[0].release(TRACKER_READ);
    first.await.unwrap().unwrap();
    for read in later {
        assert_eq!(live_successes(&read.await.unwrap()), 0);
    }
    assert_eq!(tracker_reads(&stack).await, 2);
    assert_eq!(
        (live_successes(&stack[0].progress("a").await), tracker_reads(&stack).await),
        (0, 1),
        "a later read makes its own round trip"
    );
}

/// The test cancels the reader that began the round trip in progress, and one of the readers that wait for the next
/// round trip.
#[tokio::test]
async fn cancelled_reader_does_not_affect_other_readers() {
    const METHOD: &str = "highwater.v1.ProgressService/GetProgress";
    let stack = stack().await;
    let first = call_stalled_at(&stack[0], TRACKER_READ, get_progress(stack[0].client())).await;
    let mut later = Vec::new();
    for _ in 0..3 {
        later.push(joined_read(&stack[0]).await);
    }
    abort_call(&stack[0], METHOD, first).await;
    abort_call(&stack[0], METHOD, later.remove(0)).await;
    stack[1].report("a", succeeded([0], "s")).await.unwrap();
    later.push(joined_read(&stack[0]).await);
    stack[0].release(TRACKER_READ);
    for read in later {
        assert_eq!(live_successes(&read.await.unwrap()), 1);
    }
    assert_eq!(tracker_reads(&stack).await, 2);
}

/// Other readers with longer deadlines continue to wait for the Redis that hangs.
#[tokio::test]
async fn reader_with_a_short_deadline_gets_a_fallback_in_time() {
    let stack = long_timeout(1).links().setting("redis-timeout", "15s").start().await;
    stack[0].create(job("a", &["s"], TASKS)).await.unwrap();
    stack[0].report("a", succeeded(0..3, "s")).await.unwrap();
    stack[0].links().redis.set(Link::Blackhole);
    let patient = joined_read(&stack[0]).await;

    let mut client = ProgressServiceClient::new(stack[0].channel());
    let short = async move { Ok(client.get_progress(with_timeout(SHORT_DEADLINE, read("a"))).await?.into_inner()) };
    let short = joined_call(&stack[0], short).await;
    let joined = Instant::now();
    let progress = short.await.unwrap().unwrap().progress.unwrap();
    assert_eq!((progress.source(), progress.lower_bound), (Source::Fallback, true));
    assert_eq!(progress.source_reason(), SourceReason::RedisUnreachable);
    assert_eq!(stage_counts(&progress), [[TASKS - 3, 3, 0, 0]]);

    // The reader has left its round trip, which keeps a longer deadline of its own.
    eventually("the short deadline has passed", async || (joined.elapsed() > SHORT_DEADLINE).then_some(())).await;
    let waiting = [patient, joined_read(&stack[0]).await];
    assert!(waiting.iter().all(|read| !read.is_finished()));
    stack[0].links().redis.set(Link::Open);
    for read in waiting {
        assert_eq!(live_successes(&read.await.unwrap()), 3);
    }
}

#[tokio::test]
async fn stalled_reads_of_one_job_do_not_delay_another_job() {
    let stack = stack().await;
    stack[0].create(job("b", &["s"], TASKS)).await.unwrap();
    let first = call_stalled_at(&stack[0], TRACKER_READ, get_progress(stack[0].client())).await;
    let waiting = joined_read(&stack[0]).await;
    let begun = Instant::now();
    assert_eq!(live_successes(&stack[0].progress("b").await), 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!first.is_finished() && !waiting.is_finished());
    stack[0].release(TRACKER_READ);
    assert_eq!((live_successes(&first.await.unwrap()), live_successes(&waiting.await.unwrap())), (0, 0));
}

#[tokio::test]
async fn panic_in_a_coalesced_read_fails_only_its_callers() {
    let stack = stack().await;
    let first = call_stalled_at(&stack[0], TRACKER_READ, get_progress(stack[0].client())).await;
    let sharing = [joined_read(&stack[0]).await, joined_read(&stack[0]).await];
    stack[0].inject(TRACKER_READ, Fault::Panic);
    stack[0].release(TRACKER_READ);
    assert_eq!(live_successes(&first.await.unwrap()), 0);
    for read in sharing {
        assert_eq!(code_and_reason(&read.await.unwrap().unwrap_err()), (Code::Internal, "INTERNAL".to_owned()));
    }
    // If a read waited for a round trip that never runs, it would read alone later. The time is therefore checked.
    let begun = Instant::now();
    assert_eq!(live_successes(&stack[0].progress("a").await), 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
