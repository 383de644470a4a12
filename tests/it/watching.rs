//! Watching a job: what a watcher is told and when, how streams end, and that any number of watchers cost the stores what
//! one does.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::support::{Client, Gateway, Link, Stack, code_and_reason, eventually, job, pb, succeeded};
use pb::progress_service_client::ProgressServiceClient;

/// What the interface promises: something is told at least so often.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How many streams go over one connection here; a gateway allows 1,000.
const STREAMS: usize = 500;

/// A stream of a job's states.
struct Watcher(Streaming<pb::WatchProgressResponse>);

impl Watcher {
    async fn open(channel: Channel, id: &str) -> Result<Self, Status> {
        let request = pb::WatchProgressRequest { job_id: id.to_owned() };
        Ok(Self(ProgressServiceClient::new(channel).watch_progress(request).await?.into_inner()))
    }

    async fn of(client: &Client, id: &str) -> Result<Self, Status> {
        Self::open(client.channel(), id).await
    }

    /// The next state; `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<pb::Progress>, Status> {
        let told = tokio::time::timeout(HEARTBEAT, self.0.message()).await.expect("something is told in time");
        Ok(told?.map(|told| told.progress.expect("a state is told")))
    }

    /// The first state from now on that looks so.
    async fn until(&mut self, what: &str, looks: impl Fn(&pb::Progress) -> bool) -> pb::Progress {
        loop {
            let state = self.next().await.unwrap();
            let state = state.unwrap_or_else(|| panic!("the stream ended before: {what}"));
            if looks(&state) {
                return state;
            }
        }
    }
}

/// The value of a metric that has no labels.
async fn metric(gateway: &Gateway, name: &str) -> usize {
    let (_, text) = gateway.http("/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[tokio::test]
async fn watcher_receives_the_current_state_then_changes_then_the_end() {
    let stack = Stack::start(2).await;
    stack[0].create(job("a", &["read", "digest"], 3)).await.unwrap();
    stack[0].report("a", succeeded(0..2, "read")).await.unwrap();
    // Through another gateway than reports come by.
    let mut watcher = Watcher::of(&stack[1], "a").await.unwrap();
    let first = watcher.next().await.unwrap().unwrap();
    assert_eq!((first.state(), first.source()), (pb::JobState::Running, pb::Source::Live));
    assert_eq!((first.stages[0].succeeded_count, first.percent), (Some(2), Some(33)));
    stack[0].report("a", succeeded(0..2, "digest")).await.unwrap();
    let later = watcher.until("what was reported", |state| state.succeeded_task_count == Some(2)).await;
    assert_eq!((later.stages[0].succeeded_count, later.stages.len()), (Some(2), 2), "all of it, not what changed");
    stack[0].report("a", [succeeded([2], "read"), succeeded([2], "digest")].concat()).await.unwrap();
    let last = watcher.until("the end", |state| state.state() != pb::JobState::Running).await;
    assert_eq!((last.state(), last.source()), (pb::JobState::Succeeded, pb::Source::Snapshot));
    assert_eq!(watcher.next().await.unwrap(), None);
    // Of an ended job, the end is all there is to tell.
    let mut late = Watcher::of(&stack[0], "a").await.unwrap();
    assert_eq!(late.next().await.unwrap().unwrap().state(), pb::JobState::Succeeded);
    assert_eq!(late.next().await.unwrap(), None);
}

#[tokio::test]
async fn pending_job_can_be_watched_and_unknown_job_is_rejected() {
    let stack = Stack::start(1).await;
    let refused = async |id: &str| code_and_reason(&Watcher::of(&stack[0], id).await.err().unwrap());
    assert_eq!(refused("nothing").await, (Code::NotFound, "JOB_NOT_FOUND".to_owned()));
    assert_eq!(refused("no id").await, (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    stack[0].create(pb::CreateJobRequest { start: false, ..job("a", &["s"], 1) }).await.unwrap();
    let mut watcher = Watcher::of(&stack[0], "a").await.unwrap();
    assert_eq!(watcher.next().await.unwrap().unwrap().state(), pb::JobState::Pending);
    stack[0].start("a").await.unwrap();
    watcher.until("the start", |state| state.state() == pb::JobState::Running).await;
    stack[0].cancel("a", "enough").await.unwrap();
    let last = watcher.until("the end", |state| state.state() == pb::JobState::Cancelled).await;
    assert_eq!(last.cancel_reason, "enough");
    assert_eq!(watcher.next().await.unwrap(), None);
}

/// Also one that comes when another has watched for long: what it sees first is no older than its call (I6).
#[tokio::test]
async fn first_state_is_read_after_the_call_and_a_quiet_job_sends_heartbeats() {
    let stack = Stack::builder(1).setting("watch-interval", "1h").start().await;
    stack[0].create(job("a", &["s"], 10)).await.unwrap();
    let mut early = Watcher::of(&stack[0], "a").await.unwrap();
    assert_eq!(early.next().await.unwrap().unwrap().succeeded_task_count, Some(0));
    let begun = Instant::now();
    for task in 0..3 {
        stack[0].report("a", succeeded([task], "s")).await.unwrap();
        let mut late = Watcher::of(&stack[0], "a").await.unwrap();
        assert_eq!(late.next().await.unwrap().unwrap().succeeded_task_count, Some(task + 1));
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "they do not wait for one another: {:?}", begun.elapsed());
    // No oftener than the interval (the longest that is taken is the heartbeat), and the newest then.
    assert_eq!(early.next().await.unwrap().unwrap().succeeded_task_count, Some(3));
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    // Nothing changes, and something is told all the same.
    assert_eq!(early.next().await.unwrap().unwrap().succeeded_task_count, Some(3));
}

/// What it did not read is neither kept for it nor told later.
#[tokio::test]
async fn slow_watcher_skips_to_the_newest_state() {
    let stack = Stack::builder(1).setting("watch-interval", "10ms").start().await;
    stack[0].create(job("a", &["s"], 300)).await.unwrap();
    let narrow = Endpoint::from_shared(format!("http://{}", stack[0].address())).unwrap();
    // No more than a few states are on their way at once.
    let narrow = narrow.initial_stream_window_size(1000).initial_connection_window_size(1000);
    let mut slow = Watcher::open(narrow.connect().await.unwrap(), "a").await.unwrap();
    let mut quick = Watcher::of(&stack[0], "a").await.unwrap();
    for task in 0..200 {
        stack[0].report("a", succeeded([task], "s")).await.unwrap();
        quick.until("each report", |state| state.succeeded_task_count == Some(task + 1)).await;
    }
    let mut told = Vec::new();
    while told.last() != Some(&200) {
        told.push(slow.next().await.unwrap().unwrap().succeeded_task_count.unwrap());
    }
    assert!(told.len() < 30, "the gateway kept {} states for it: {told:?}", told.len());
    assert!(told.is_sorted(), "{told:?}");
}

#[tokio::test]
async fn store_outage_ends_no_stream_while_any_state_is_known() {
    let stack = Stack::builder(1).links().setting("request-timeout", "2s").start().await;
    stack[0].create(job("a", &["s"], 10)).await.unwrap();
    stack[0].report("a", succeeded(0..4, "s")).await.unwrap();
    let mut watcher = Watcher::of(&stack[0], "a").await.unwrap();
    watcher.until("live", |state| state.source() == pb::Source::Live).await;
    stack[0].links().redis.set(Link::Cut);
    let without = watcher.until("a fallback", |state| state.source() == pb::Source::Fallback).await;
    assert_eq!(without.source_reason(), pb::SourceReason::RedisUnreachable);
    assert_eq!((without.succeeded_task_count, without.lower_bound), (Some(4), true));
    stack[0].links().postgres.set(Link::Cut);
    let mirrored = |state: &pb::Progress| state.source_reason() == pb::SourceReason::PostgresUnreachable;
    watcher.until("the mirror alone", mirrored).await;
    stack[0].links().redis.set(Link::Open);
    stack[0].links().postgres.set(Link::Open);
    watcher.until("live again", |state| state.source() == pb::Source::Live).await;
}

#[tokio::test]
async fn stream_ends_as_unavailable_once_no_state_is_known() {
    let stack = Stack::builder(1).links().start().await;
    stack[0].create(pb::CreateJobRequest { start: false, ..job("a", &["s"], 1) }).await.unwrap();
    let mut watcher = Watcher::of(&stack[0], "a").await.unwrap();
    watcher.next().await.unwrap().unwrap();
    stack[0].links().redis.set(Link::Cut);
    stack[0].links().postgres.set(Link::Cut);
    let lost = loop {
        match watcher.next().await {
            Ok(state) => assert_eq!(state.expect("no end").state(), pb::JobState::Pending),
            Err(status) => break status,
        }
    };
    assert_eq!(code_and_reason(&lost), (Code::Unavailable, "POSTGRES_UNAVAILABLE".to_owned()));
    assert!(lost.get_details_retry_info().unwrap().retry_delay.is_some());
    let fresh = Watcher::of(&stack[0], "a").await.err().expect("who comes now is told at once");
    assert_eq!(fresh.code(), Code::Unavailable);
    stack[0].links().postgres.set(Link::Open);
    let back = async || Watcher::of(&stack[0], "a").await.ok();
    eventually("it can be watched again", back).await;
}

#[tokio::test]
async fn stopping_gateway_ends_streams_with_a_retryable_error() {
    let mut stack = Stack::builder(1).setting("drain-timeout", "60s").start().await;
    stack[0].create(job("a", &["s"], 10)).await.unwrap();
    let mut watcher = Watcher::of(&stack[0], "a").await.unwrap();
    watcher.next().await.unwrap().unwrap();
    let stopping = Instant::now();
    stack[0].signal(libc::SIGTERM);
    let ended = loop {
        match watcher.next().await {
            Ok(state) => drop(state.expect("no end")),
            Err(status) => break status,
        }
    };
    assert_eq!(code_and_reason(&ended), (Code::Unavailable, "GATEWAY_STOPPING".to_owned()));
    assert!(ended.get_details_retry_info().unwrap().retry_delay.is_some());
    stack[0].wait_for_exit().await;
    assert!(stopping.elapsed() < Duration::from_secs(10), "{:?}", stopping.elapsed());
}

/// Opens so many streams, over as many connections as they need, and reads them all until the end of the job.
async fn watch_by(gateway: &Gateway, id: &str, watchers: usize) -> Vec<tokio::task::JoinHandle<usize>> {
    let connections = watchers.div_ceil(STREAMS);
    let mut reading = Vec::with_capacity(watchers);
    for connection in 0..connections {
        let channel = gateway.new_connection().channel();
        let here = STREAMS.min(watchers - connection * STREAMS);
        let opened = try_join_all((0..here).map(|_| Watcher::open(channel.clone(), id))).await.unwrap();
        for mut watcher in opened {
            watcher.next().await.unwrap().unwrap();
            reading.push(tokio::spawn(async move {
                let mut told = 0;
                while let Ok(Some(_)) = watcher.next().await {
                    told += 1;
                }
                told
            }));
        }
    }
    reading
}

/// How many commands Redis runs within this time.
async fn commands_within(stack: &Stack, window: Duration) -> u64 {
    stack.redis.take_command_stats().await;
    tokio::time::sleep(window).await;
    stack.redis.take_command_stats().await.into_values().map(|(calls, _)| calls).sum()
}

/// How many commands Redis runs within this time, for this many watchers; each sees a job that changes.
async fn commands(stack: &Stack, id: &str, watchers: usize, window: Duration) -> u64 {
    stack[0].create(job(id, &["s"], 1_000)).await.unwrap();
    let reading = watch_by(&stack[0], id, watchers).await;
    assert_eq!(metric(&stack[0], "highwater_watches").await, watchers);
    assert_eq!(metric(&stack[0], "highwater_watched_jobs").await, 1);
    let ran = commands_within(stack, window).await;
    stack[0].cancel(id, "").await.unwrap();
    for told in reading {
        assert!(told.await.unwrap() > 0, "each is told the end");
    }
    ran
}

/// And none what nobody costs.
#[tokio::test]
async fn many_watchers_cost_redis_no_more_than_one() {
    let window = Duration::from_secs(3);
    let stack = Stack::builder(1).without_reconciler().setting("watch-interval", "100ms").start().await;
    let one = commands(&stack, "one", 1, window).await;
    let many = commands(&stack, "many", 700, window).await;
    assert!(one > 30, "{one} commands for 30 reads");
    assert!(many <= one + one / 5, "{many} commands for many watchers, {one} for one");
    eventually("nobody reads", async || (metric(&stack[0], "highwater_watched_jobs").await == 0).then_some(())).await;
    let none = commands_within(&stack, window).await;
    assert!(none < one / 5, "{none} commands for nobody");
}

/// `./dev watchers`.
#[tokio::test]
#[ignore = "a figure, not a check; opens 10,000 streams"]
async fn watchers() {
    let window = Duration::from_secs(10);
    let stack = Stack::builder(1).without_reconciler().start().await;
    println!("commands that Redis ran within {window:?} for a job that is watched, read every 500 ms:");
    for watchers in [1, 100, 10_000] {
        let ran = commands(&stack, &format!("of-{watchers}"), watchers, window).await;
        println!("{watchers:>8} watchers  {ran:>6} commands");
    }
}
