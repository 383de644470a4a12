//! Tests of a seal that Redis forgets: Redis loads an older dump, in which the tracker is not sealed, while a gateway
//! is stalled between its seal and its commit.

use redis::cmd;

use super::{StoredEnd, six_task_job, spawn_call, wait_for_end};
use crate::support::{CallResult, Fault, Stack, dispositions, eventually, failed, pb, succeeded};
use pb::{Disposition, JobState};

/// Starts a stack in which gateway 0 stalls just before it commits the cancel of job `a`, and in which Redis has lost
/// the seal.
async fn cancel_stalled_before_commit() -> (Stack, tokio::task::JoinHandle<CallResult<pb::Job>>) {
    let mut stack = Stack::builder(2).setting("reconcile-interval", "100ms").start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    stack[1].report("a", [succeeded(0..3, "read"), failed([3], "read")].concat()).await.unwrap();
    let () = stack.redis.run(&cmd("SAVE")).await;
    // Gateway 1 is paused so that it does not commit the end first.
    stack[1].pause();
    stack[0].inject("finish.read", Fault::Stall);
    let client = stack[0].client();
    let cancel = spawn_call(async move { client.cancel("a", "enough").await });
    stack[0].wait_until_reached("finish.read").await;
    stack.redis.kill();
    stack.redis.restart().unwrap();
    stack[1].resume();
    (stack, cancel)
}

/// A report or a reconciler reopens the old tracker. The stale seal does not cover marks that are set after that, so
/// its commit is refused.
#[tokio::test]
async fn commit_of_a_stale_seal_loses_no_acknowledged_result() {
    let (stack, cancel) = cancel_stalled_before_commit().await;
    // Every commit includes the ledger. The test therefore waits until reports go to the tracker.
    let tracker_found = async || {
        let answer = stack[1].report("a", succeeded([0], "read")).await.ok()?;
        (dispositions(&answer) == [Disposition::Duplicate]).then_some(())
    };
    eventually("the gateway marks the tracker again", tracker_found).await;
    let late = [succeeded([3], "read"), succeeded([0], "digest")].concat();
    let answer = stack[1].report("a", late.clone()).await.unwrap();
    assert_eq!((answer.job_state(), dispositions(&answer)), (JobState::Running, vec![Disposition::Applied; 2]));
    stack[0].release("finish.read");
    cancel.await.unwrap().ok();
    wait_for_end(&stack[1], "a").await;
    StoredEnd::load(&stack, "a").await.assert_contains(&late);
}
