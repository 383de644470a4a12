//! Seals that outlive what they sealed: Redis comes back with an older dump, in which the tracker is open, while a gateway
//! stands still between its seal and its commit.

use redis::cmd;

use super::{Stored, beside, ended, six_tasks};
use crate::support::{Answer, Fault, Stack, dispositions, eventually, failed, pb, succeeded};
use pb::{Disposition, JobState};

/// A stack in which gateway 0 has cancelled job `a` up to just before its commit, and Redis has forgotten that.
async fn stalled_before_its_commit() -> (Stack, tokio::task::JoinHandle<Answer<pb::Job>>) {
    let mut stack = Stack::of(2).setting("reconcile-interval", "100ms").start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    stack[1].report("a", [succeeded(0..3, "read"), failed([3], "read")].concat()).await.unwrap();
    let () = stack.redis.ask(&cmd("SAVE")).await;
    // So that it does not commit the end first.
    stack[1].pause();
    stack[0].order("finish.read", Fault::Stall);
    let client = stack[0].client();
    let cancel = beside(async move { client.cancel("a", "enough").await });
    stack[0].reached("finish.read").await;
    stack.redis.kill();
    stack.redis.restart().unwrap();
    stack[1].resume();
    (stack, cancel)
}

/// Whether the old tracker is taken up by whoever reports or by a reconciler: marks that it is given are not covered by the
/// old seal, whose commit is refused.
#[tokio::test]
async fn a_commit_of_an_older_seal_loses_nothing_that_was_acknowledged_since() {
    let (stack, cancel) = stalled_before_its_commit().await;
    // What the ledger takes is in every commit; this is about what the tracker takes.
    let again = async || {
        let answer = stack[1].report("a", succeeded([0], "read")).await.ok()?;
        (dispositions(&answer) == [Disposition::Duplicate]).then_some(())
    };
    eventually("the gateway has found the tracker again", again).await;
    let late = [succeeded([3], "read"), succeeded([0], "digest")].concat();
    let taken = stack[1].report("a", late.clone()).await.unwrap();
    assert_eq!((taken.job_state(), dispositions(&taken)), (JobState::Running, vec![Disposition::Applied; 2]));
    stack[0].release("finish.read");
    cancel.await.unwrap().ok();
    ended(&stack[1], "a").await;
    Stored::of(&stack, "a").await.holds(&late);
}
