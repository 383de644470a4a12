//! Reads that share a look at Redis: as few as can be, none older than its reader, and each in its reader's time.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tonic::Code;

use super::{goes_away, held_up, joins, read, unhurried, within};
use crate::support::{Answer, Client, Fault, Gateway, Link, Stack, eventually, job, pb, refusal, stages, succeeded};
use pb::progress_service_client::ProgressServiceClient;
use pb::{JobState, Source, SourceReason};

const LOOKED: &str = "read.looked";
const TASKS: i64 = 10;
/// Long enough for what is to be had on a busy machine, and far shorter than Redis hangs.
const HURRY: Duration = Duration::from_secs(2);

/// A job that runs, and a gateway whose next read is held up once it has looked.
async fn stack() -> Stack {
    let stack = unhurried(2).start().await;
    stack[0].create(job("a", &["s"], TASKS)).await.unwrap();
    for gateway in stack.gateways() {
        assert_eq!(live(&gateway.progress("a").await), 0);
    }
    stack.redis.commands().await;
    stack
}

/// A read through a gateway that waits there for the next round.
async fn waits(gateway: &Gateway) -> JoinHandle<Answer<pb::Progress>> {
    joins(gateway, asks(gateway.client())).await
}

async fn asks(client: Client) -> Answer<pb::Progress> {
    client.progress("a").await
}

/// How many tasks a LIVE answer says have succeeded.
fn live(answer: &Answer<pb::Progress>) -> i64 {
    let progress = answer.as_ref().unwrap();
    assert_eq!((progress.state(), progress.source()), (JobState::Running, Source::Live), "{progress:?}");
    let [[pending, succeeded, 0, 0]] = stages(progress)[..] else { panic!("{progress:?}") };
    assert_eq!(pending + succeeded, TASKS);
    succeeded
}

/// How often Redis was looked at since this, or the stack, was asked last.
async fn looks(stack: &Stack) -> u64 {
    // Errors are read with the header, and by nobody else.
    stack.redis.commands().await.get("hgetall").map_or(0, |(calls, _)| *calls)
}

/// I6: the read that is under way has looked before them.
#[tokio::test]
async fn who_comes_while_a_read_is_under_way_is_told_all_that_was_acknowledged_before() {
    let stack = stack().await;
    let first = held_up(&stack[0], LOOKED, asks(stack[0].client())).await;
    let (mut later, mut acknowledged) = (Vec::new(), 0);
    for task in 0..5 {
        let answer = stack[1].report("a", succeeded([task], "s")).await.unwrap();
        acknowledged += answer.dispositions().filter(|became| *became == pb::Disposition::Applied).count();
        later.push((acknowledged, waits(&stack[0]).await));
    }
    assert_eq!(looks(&stack).await, 1, "the one that is held up");

    stack[0].release(LOOKED);
    assert_eq!(live(&first.await.unwrap()), 0, "which may tell what it saw");
    for (acknowledged, read) in later {
        let shown = live(&read.await.unwrap());
        assert!(usize::try_from(shown).unwrap() >= acknowledged, "{shown} after {acknowledged} were acknowledged");
    }
    assert_eq!(looks(&stack).await, 1, "all of them are one");
}

/// I6, where it hurts most.
#[tokio::test]
async fn who_comes_after_a_cancel_is_not_told_what_a_read_saw_before_it() {
    let stack = stack().await;
    let first = held_up(&stack[0], LOOKED, asks(stack[0].client())).await;
    let before = waits(&stack[0]).await;
    let cancelled = stack[1].cancel("a", "enough").await.unwrap();
    assert_eq!(cancelled.state(), JobState::Cancelled);
    let mut later = Vec::new();
    for _ in 0..5 {
        later.push(waits(&stack[0]).await);
    }
    stack[0].release(LOOKED);
    assert_eq!(live(&first.await.unwrap()), 0);
    for read in std::iter::once(before).chain(later) {
        let progress = read.await.unwrap().unwrap();
        assert_eq!((progress.state(), progress.source()), (JobState::Cancelled, Source::Snapshot));
    }
}

#[tokio::test]
async fn however_many_wait_for_a_read_the_next_one_is_for_all_of_them() {
    let stack = stack().await;
    let first = held_up(&stack[0], LOOKED, asks(stack[0].client())).await;
    let mut later = Vec::new();
    for _ in 0..40 {
        later.push(waits(&stack[0]).await);
    }
    stack[0].release(LOOKED);
    first.await.unwrap().unwrap();
    for read in later {
        assert_eq!(live(&read.await.unwrap()), 0);
    }
    assert_eq!(looks(&stack).await, 2);
    assert_eq!((live(&stack[0].progress("a").await), looks(&stack).await), (0, 1), "nothing is left of them");
}

/// One who began the round that is under way, and one of those who wait for the next.
#[tokio::test]
async fn a_reader_that_goes_away_takes_nobody_along() {
    const METHOD: &str = "highwater.v1.ProgressService/GetProgress";
    let stack = stack().await;
    let first = held_up(&stack[0], LOOKED, asks(stack[0].client())).await;
    let mut later = Vec::new();
    for _ in 0..3 {
        later.push(waits(&stack[0]).await);
    }
    goes_away(&stack[0], METHOD, first).await;
    goes_away(&stack[0], METHOD, later.remove(0)).await;
    stack[1].report("a", succeeded([0], "s")).await.unwrap();
    later.push(waits(&stack[0]).await);
    stack[0].release(LOOKED);
    for read in later {
        assert_eq!(live(&read.await.unwrap()), 1);
    }
    assert_eq!(looks(&stack).await, 2);
}

/// The others would have waited much longer for a Redis that hangs.
#[tokio::test]
async fn a_reader_in_a_hurry_is_told_in_time_what_can_be_had() {
    let stack = unhurried(1).links().setting("redis-timeout", "15s").start().await;
    stack[0].create(job("a", &["s"], TASKS)).await.unwrap();
    stack[0].report("a", succeeded(0..3, "s")).await.unwrap();
    stack[0].links().redis.set(Link::Blackhole);
    let patient = waits(&stack[0]).await;

    let mut client = ProgressServiceClient::new(stack[0].channel());
    let hurried = async move { Ok(client.get_progress(within(HURRY, read("a"))).await?.into_inner()) };
    let hurried = joins(&stack[0], hurried).await;
    let joined = Instant::now();
    let progress = hurried.await.unwrap().unwrap().progress.unwrap();
    assert_eq!((progress.source(), progress.lower_bound), (Source::Fallback, true));
    assert_eq!(progress.source_reason(), SourceReason::RedisUnreachable);
    assert_eq!(stages(&progress), [[TASKS - 3, 3, 0, 0]]);

    // Nor is the round that he left any shorter for him.
    eventually("his time is up", async || (joined.elapsed() > HURRY).then_some(())).await;
    let others = [patient, waits(&stack[0]).await];
    assert!(others.iter().all(|other| !other.is_finished()));
    stack[0].links().redis.set(Link::Open);
    for other in others {
        assert_eq!(live(&other.await.unwrap()), 3);
    }
}

#[tokio::test]
async fn a_job_whose_reads_are_held_up_holds_up_no_other() {
    let stack = stack().await;
    stack[0].create(job("b", &["s"], TASKS)).await.unwrap();
    let first = held_up(&stack[0], LOOKED, asks(stack[0].client())).await;
    let waiting = waits(&stack[0]).await;
    let begun = Instant::now();
    assert_eq!(live(&stack[0].progress("b").await), 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!first.is_finished() && !waiting.is_finished());
    stack[0].release(LOOKED);
    assert_eq!((live(&first.await.unwrap()), live(&waiting.await.unwrap())), (0, 0));
}

#[tokio::test]
async fn a_read_that_panics_is_told_to_those_who_shared_it_and_to_nobody_after_them() {
    let stack = stack().await;
    let first = held_up(&stack[0], LOOKED, asks(stack[0].client())).await;
    let sharing = [waits(&stack[0]).await, waits(&stack[0]).await];
    stack[0].order(LOOKED, Fault::Panic);
    stack[0].release(LOOKED);
    assert_eq!(live(&first.await.unwrap()), 0);
    for read in sharing {
        assert_eq!(refusal(&read.await.unwrap().unwrap_err()), (Code::Internal, "INTERNAL".to_owned()));
    }
    // Who waits for a round that nobody makes reads alone in the end, so it has to be soon.
    let begun = Instant::now();
    assert_eq!(live(&stack[0].progress("a").await), 0);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
