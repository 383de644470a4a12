//! Reports between a seal and its commit, by gateways that cannot see the seal.

use super::{every_gateway_shows, ledger, settling};
use crate::faults::{Stored, beside, ended, six_tasks};
use crate::support::{Fault, Link, dispositions, failed, pb, stages, succeeded};
use pb::{Disposition, JobState};

/// Cut off from Redis, one gateway acknowledges by the ledger what another's seal does not hold: the end holds it, and the
/// verdict counts it.
#[tokio::test]
async fn what_is_recorded_between_a_seal_and_its_commit_is_in_the_end() {
    let stack = settling(2).start().await;
    stack[0].links().redis.set(Link::Cut);
    for point in ["finish.sealed", "finish.read"] {
        for cancels in [false, true] {
            let id = format!("{point}-{}", if cancels { "cancelled" } else { "complete" });
            let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_tasks(&id) };
            stack[1].create(strict).await.unwrap();
            stack[1].report(&id, [succeeded(0..5, "read"), failed([5], "read")].concat()).await.unwrap();
            stack[1].report(&id, succeeded(0..4, "digest")).await.unwrap();
            stack[1].order(point, Fault::Stall);
            let (client, job) = (stack[1].client(), id.clone());
            let sealing = beside(async move {
                if cancels {
                    client.cancel(&job, "enough").await.map(drop)
                } else {
                    client.report(&job, succeeded([4], "digest")).await.map(drop)
                }
            });
            stack[1].reached(point).await;

            let late = [succeeded([5], "read"), succeeded([5], "digest")].concat();
            let answer = stack[0].report(&id, late.clone()).await.unwrap();
            assert_eq!(dispositions(&answer), [Disposition::Recorded; 2], "{id}");
            assert_eq!((answer.job_state(), answer.stop), (JobState::Running, false), "nothing has ended yet");
            stack[1].release(point);
            sealing.await.unwrap().unwrap();
            let state = if cancels { JobState::Cancelled } else { JobState::Succeeded };
            assert_eq!(ended(&stack[0], &id).await.state(), state, "{id}");
            Stored::of(&stack, &id).await.holds(&late);
            let digest = if cancels { [1, 5, 0, 0] } else { [0, 6, 0, 0] };
            every_gateway_shows(&stack, &id, state, &[[0, 6, 0, 0], digest]).await;
            assert_eq!(ledger(&stack).await, 0);
        }
    }
}

/// A row that would come between the commit's look at the ledger and its end has to wait, and is then none.
#[tokio::test]
async fn what_would_be_recorded_while_an_end_is_committed_is_superseded() {
    let stack = settling(2).start().await;
    stack[0].links().redis.set(Link::Cut);
    for point in ["commit.locked", "commit.written"] {
        stack[1].create(six_tasks(point)).await.unwrap();
        stack[1].report(point, succeeded(0..3, "read")).await.unwrap();
        stack[1].order(point, Fault::Stall);
        let client = stack[1].client();
        let cancelling = beside(async move { client.cancel(point, "enough").await });
        stack[1].reached(point).await;
        let client = stack[0].client();
        let late = beside(async move { client.report(point, succeeded([4], "read")).await });
        let waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waiting = async || (stack.postgres.value::<i64>(waits).await > 0).then_some(());
        crate::support::eventually("the row waits", waiting).await;
        stack[1].release(point);
        assert_eq!(cancelling.await.unwrap().unwrap().state(), JobState::Cancelled);
        let answer = late.await.unwrap().unwrap();
        assert_eq!((dispositions(&answer), answer.stop), (vec![Disposition::Superseded], true), "{point}");
        let progress = stack[0].progress(point).await.unwrap();
        assert_eq!(stages(&progress), [[3, 3, 0, 0], [6, 0, 0, 0]]);
    }
}
