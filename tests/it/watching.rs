//! Tests of WatchProgress: which states a watcher receives and when, how streams end, and that any number of watchers
//! of a job cost the stores as much as one watcher.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use crate::support::{Client, Gateway, Link, Stack, code_and_reason, eventually, job, pb, succeeded};
use pb::progress_service_client::ProgressServiceClient;

/// The documented maximum time between two messages.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The number of streams per connection in these tests. A gateway allows 1,000.
const STREAMS: usize = 500;

/// A stream of the states of a job.
struct Watcher(Streaming<pb::WatchProgressResponse>);

impl Watcher {
    async fn open(channel: Channel, id: &str) -> Result<Self, Status> {
        let request = pb::WatchProgressRequest { job_id: id.to_owned() };
        Ok(Self(ProgressServiceClient::new(channel).watch_progress(request).await?.into_inner()))
    }

    async fn through(client: &Client, id: &str) -> Result<Self, Status> {
        Self::open(client.channel(), id).await
    }

    /// The next state. `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<pb::Progress>, Status> {
        let message = tokio::time::timeout(HEARTBEAT, self.0.message()).await.expect("a message arrives in time");
        Ok(message?.map(|message| message.progress.expect("the message has a state")))
    }

    /// The next state that matches.
    async fn until(&mut self, what: &str, matches: impl Fn(&pb::Progress) -> bool) -> pb::Progress {
        loop {
            let state = self.next().await.unwrap();
            let state = state.unwrap_or_else(|| panic!("the stream ended before: {what}"));
            if matches(&state) {
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
    // The watcher and the reports use different gateways.
    let mut watcher = Watcher::through(&stack[1], "a").await.unwrap();
    let first = watcher.next().await.unwrap().unwrap();
    assert_eq!((first.state(), first.source()), (pb::JobState::Running, pb::Source::Live));
    assert_eq!((first.stages[0].succeeded_count, first.percent), (Some(2), Some(33)));
    stack[0].report("a", succeeded(0..2, "digest")).await.unwrap();
    let later = watcher.until("what was reported", |state| state.succeeded_task_count == Some(2)).await;
    assert_eq!(
        (later.stages[0].succeeded_count, later.stages.len()),
        (Some(2), 2),
        "the whole state, not only the change"
    );
    stack[0].report("a", [succeeded([2], "read"), succeeded([2], "digest")].concat()).await.unwrap();
    let last = watcher.until("the end", |state| state.state() != pb::JobState::Running).await;
    assert_eq!((last.state(), last.source()), (pb::JobState::Succeeded, pb::Source::Snapshot));
    assert_eq!(watcher.next().await.unwrap(), None);
    // The stream of an ended job has one message.
    let mut late = Watcher::through(&stack[0], "a").await.unwrap();
    assert_eq!(late.next().await.unwrap().unwrap().state(), pb::JobState::Succeeded);
    assert_eq!(late.next().await.unwrap(), None);
}

#[tokio::test]
async fn pending_job_can_be_watched_and_unknown_job_is_rejected() {
    let stack = Stack::start(1).await;
    let refused = async |id: &str| code_and_reason(&Watcher::through(&stack[0], id).await.err().unwrap());
    assert_eq!(refused("nothing").await, (Code::NotFound, "JOB_NOT_FOUND".to_owned()));
    assert_eq!(refused("no id").await, (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    stack[0].create(pb::CreateJobRequest { start: false, ..job("a", &["s"], 1) }).await.unwrap();
    let mut watcher = Watcher::through(&stack[0], "a").await.unwrap();
    assert_eq!(watcher.next().await.unwrap().unwrap().state(), pb::JobState::Pending);
    stack[0].start("a").await.unwrap();
    watcher.until("the start", |state| state.state() == pb::JobState::Running).await;
    stack[0].cancel("a", "enough").await.unwrap();
    let last = watcher.until("the end", |state| state.state() == pb::JobState::Cancelled).await;
    assert_eq!(last.cancel_reason, "enough");
    assert_eq!(watcher.next().await.unwrap(), None);
}

/// The first state is no older than the call, even if the job has an earlier watcher (invariant I6).
#[tokio::test]
async fn first_state_is_read_after_the_call_and_a_quiet_job_sends_heartbeats() {
    let stack = Stack::builder(1).setting("watch-interval", "1h").start().await;
    stack[0].create(job("a", &["s"], 10)).await.unwrap();
    let mut early = Watcher::through(&stack[0], "a").await.unwrap();
    assert_eq!(early.next().await.unwrap().unwrap().succeeded_task_count, Some(0));
    let begun = Instant::now();
    for task in 0..3 {
        stack[0].report("a", succeeded([task], "s")).await.unwrap();
        let mut late = Watcher::through(&stack[0], "a").await.unwrap();
        assert_eq!(late.next().await.unwrap().unwrap().succeeded_task_count, Some(task + 1));
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "first states do not wait for the interval: {:?}",
        begun.elapsed()
    );
    // A watcher gets at most one update per interval, and the update is the newest state. The interval is capped at the
    // heartbeat.
    assert_eq!(early.next().await.unwrap().unwrap().succeeded_task_count, Some(3));
    assert!(begun.elapsed() > Duration::from_secs(5), "{:?}", begun.elapsed());
    // Nothing has changed, but the heartbeat repeats the state.
    assert_eq!(early.next().await.unwrap().unwrap().succeeded_task_count, Some(3));
}

/// States that a slow watcher does not read are neither buffered nor sent later.
#[tokio::test]
async fn slow_watcher_skips_to_the_newest_state() {
    let stack = Stack::builder(1).setting("watch-interval", "10ms").start().await;
    stack[0].create(job("a", &["s"], 300)).await.unwrap();
    let narrow = Endpoint::from_shared(format!("http://{}", stack[0].address())).unwrap();
    // The window is small, so that only a few states are in flight.
    let narrow = narrow.initial_stream_window_size(1000).initial_connection_window_size(1000);
    let mut slow = Watcher::open(narrow.connect().await.unwrap(), "a").await.unwrap();
    let mut quick = Watcher::through(&stack[0], "a").await.unwrap();
    for task in 0..200 {
        stack[0].report("a", succeeded([task], "s")).await.unwrap();
        quick.until("each report", |state| state.succeeded_task_count == Some(task + 1)).await;
    }
    let mut received = Vec::new();
    while received.last() != Some(&200) {
        received.push(slow.next().await.unwrap().unwrap().succeeded_task_count.unwrap());
    }
    assert!(received.len() < 30, "the gateway buffered {} states: {received:?}", received.len());
    assert!(received.is_sorted(), "{received:?}");
}

#[tokio::test]
async fn store_outage_ends_no_stream_while_any_state_is_known() {
    let stack = Stack::builder(1).links().setting("request-timeout", "2s").start().await;
    stack[0].create(job("a", &["s"], 10)).await.unwrap();
    stack[0].report("a", succeeded(0..4, "s")).await.unwrap();
    let mut watcher = Watcher::through(&stack[0], "a").await.unwrap();
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
    let mut watcher = Watcher::through(&stack[0], "a").await.unwrap();
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
    let fresh = Watcher::through(&stack[0], "a").await.err().expect("a new watcher is rejected immediately");
    assert_eq!(fresh.code(), Code::Unavailable);
    stack[0].links().postgres.set(Link::Open);
    let watchable = async || Watcher::through(&stack[0], "a").await.ok();
    eventually("the job can be watched again", watchable).await;
}

#[tokio::test]
async fn stopping_gateway_ends_streams_with_a_retryable_error() {
    let mut stack = Stack::builder(1).setting("drain-timeout", "60s").start().await;
    stack[0].create(job("a", &["s"], 10)).await.unwrap();
    let mut watcher = Watcher::through(&stack[0], "a").await.unwrap();
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

/// Opens this many streams over as few connections as possible. A task for each stream reads it until the job ends, and
/// returns the number of states after the first.
async fn open_watchers(gateway: &Gateway, id: &str, watchers: usize) -> Vec<tokio::task::JoinHandle<usize>> {
    let connections = watchers.div_ceil(STREAMS);
    let mut reading = Vec::with_capacity(watchers);
    for connection in 0..connections {
        let channel = gateway.new_connection().channel();
        let streams = STREAMS.min(watchers - connection * STREAMS);
        let opened = try_join_all((0..streams).map(|_| Watcher::open(channel.clone(), id))).await.unwrap();
        for mut watcher in opened {
            watcher.next().await.unwrap().unwrap();
            reading.push(tokio::spawn(async move {
                let mut received = 0;
                while let Ok(Some(_)) = watcher.next().await {
                    received += 1;
                }
                received
            }));
        }
    }
    reading
}

/// The number of commands that Redis runs during `window`.
async fn commands_within(stack: &Stack, window: Duration) -> u64 {
    stack.redis.take_command_stats().await;
    tokio::time::sleep(window).await;
    stack.redis.take_command_stats().await.into_values().map(|(calls, _)| calls).sum()
}

/// The number of commands that Redis runs during `window` while a job has this many watchers. Cancels the job
/// afterwards.
async fn commands(stack: &Stack, id: &str, watchers: usize, window: Duration) -> u64 {
    stack[0].create(job(id, &["s"], 1_000)).await.unwrap();
    let reading = open_watchers(&stack[0], id, watchers).await;
    assert_eq!(metric(&stack[0], "highwater_watch_streams").await, watchers);
    assert_eq!(metric(&stack[0], "highwater_watched_jobs").await, 1);
    let ran = commands_within(stack, window).await;
    stack[0].cancel(id, "").await.unwrap();
    for received in reading {
        assert!(received.await.unwrap() > 0, "every watcher receives the end");
    }
    ran
}

/// Reads of watched jobs share round trips. Without a shared round trip, each read of each job takes one INFO command.
#[tokio::test]
async fn reads_of_watched_jobs_share_round_trips() {
    const JOBS: usize = 150;
    let (window, interval) = (Duration::from_secs(2), 100);
    let flag = format!("{interval}ms");
    let stack = Stack::builder(1).without_reconciler().setting("watch-interval", &flag).start().await;
    let mut watchers = Vec::new();
    for number in 0..JOBS {
        let id = format!("job-{number}");
        stack[0].create(job(&id, &["s"], 10)).await.unwrap();
        let mut watcher = Watcher::through(&stack[0], &id).await.unwrap();
        watcher.next().await.unwrap().unwrap();
        watchers.push((id, watcher));
    }
    stack.redis.take_command_stats().await;
    tokio::time::sleep(window).await;
    let stats = stack.redis.take_command_stats().await;
    let calls = |command| stats.get(command).map_or(0, |(calls, _)| *calls);
    let reads = calls("getrange");
    assert!(reads > 10 * JOBS as u64, "the jobs are read: {reads}");
    for shared in ["info", "time"] {
        assert!(calls(shared) < reads / 10, "{} {shared} for {reads} reads", calls(shared));
    }
    for (id, watcher) in &mut watchers {
        stack[0].report(id, succeeded([1], "s")).await.unwrap();
        watcher.until("its own report", |state| state.succeeded_task_count == Some(1)).await;
    }
}

/// Redis runs fewer commands for a job without watchers.
#[tokio::test]
async fn many_watchers_cost_redis_no_more_than_one() {
    let window = Duration::from_secs(3);
    let stack = Stack::builder(1).without_reconciler().setting("watch-interval", "100ms").start().await;
    let one = commands(&stack, "one", 1, window).await;
    let many = commands(&stack, "many", 700, window).await;
    assert!(one > 30, "{one} commands for 30 reads");
    assert!(many <= one + one / 5, "{many} commands for many watchers, {one} for one");
    eventually("no job is watched", async || (metric(&stack[0], "highwater_watched_jobs").await == 0).then_some(()))
        .await;
    let none = commands_within(&stack, window).await;
    assert!(none < one / 5, "{none} commands without watchers");
}

/// Prints the figure of `./dev watchers`.
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
