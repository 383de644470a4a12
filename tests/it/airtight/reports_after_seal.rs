//! Tests of reports that arrive between a seal and its commit, at gateways that cannot read the seal.

use super::{assert_all_gateways_show, fast_settling, ledger_rows};
use crate::faults::{StoredEnd, six_task_job, spawn_call, wait_for_end};
use crate::support::{Fault, Link, dispositions, failed, pb, stage_counts, succeeded};
use pb::{Disposition, JobState};

/// A gateway without Redis records results in the ledger after another gateway sealed the tracker. The end contains
/// these results, and the verdict counts them.
#[tokio::test]
async fn results_recorded_between_seal_and_commit_are_in_the_end() {
    let stack = fast_settling(2).start().await;
    stack[0].links().redis.set(Link::Cut);
    for point in ["finish.sealed", "finish.read"] {
        for cancels in [false, true] {
            let id = format!("{point}-{}", if cancels { "cancelled" } else { "complete" });
            let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_task_job(&id) };
            stack[1].create(strict).await.unwrap();
            stack[1].report(&id, [succeeded(0..5, "read"), failed([5], "read")].concat()).await.unwrap();
            stack[1].report(&id, succeeded(0..4, "digest")).await.unwrap();
            stack[1].inject(point, Fault::Stall);
            let (client, job) = (stack[1].client(), id.clone());
            let sealing = spawn_call(async move {
                if cancels {
                    client.cancel(&job, "enough").await.map(drop)
                } else {
                    client.report(&job, succeeded([4], "digest")).await.map(drop)
                }
            });
            stack[1].wait_until_reached(point).await;

            let late = [succeeded([5], "read"), succeeded([5], "digest")].concat();
            let answer = stack[0].report(&id, late.clone()).await.unwrap();
            assert_eq!(dispositions(&answer), [Disposition::Recorded; 2], "{id}");
            assert_eq!((answer.job_state(), answer.stop), (JobState::Running, false), "the job has not ended yet");
            stack[1].release(point);
            sealing.await.unwrap().unwrap();
            let state = if cancels { JobState::Cancelled } else { JobState::Succeeded };
            assert_eq!(wait_for_end(&stack[0], &id).await.state(), state, "{id}");
            StoredEnd::load(&stack, &id).await.assert_contains(&late);
            let digest = if cancels { [1, 5, 0, 0] } else { [0, 6, 0, 0] };
            assert_all_gateways_show(&stack, &id, state, &[[0, 6, 0, 0], digest]).await;
            assert_eq!(ledger_rows(&stack).await, 0);
        }
    }
}

/// A ledger insert arrives after the commit has read the ledger. The insert waits for the row lock. It then inserts
/// nothing, because the job has ended.
#[tokio::test]
async fn results_recorded_during_a_commit_are_superseded() {
    let stack = fast_settling(2).start().await;
    stack[0].links().redis.set(Link::Cut);
    for point in ["commit.locked", "commit.written"] {
        stack[1].create(six_task_job(point)).await.unwrap();
        stack[1].report(point, succeeded(0..3, "read")).await.unwrap();
        stack[1].inject(point, Fault::Stall);
        let client = stack[1].client();
        let cancelling = spawn_call(async move { client.cancel(point, "enough").await });
        stack[1].wait_until_reached(point).await;
        let client = stack[0].client();
        let late = spawn_call(async move { client.report(point, succeeded([4], "read")).await });
        let lock_waits = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waiting = async || (stack.postgres.value::<i64>(lock_waits).await > 0).then_some(());
        crate::support::eventually("the insert waits for the lock", waiting).await;
        stack[1].release(point);
        assert_eq!(cancelling.await.unwrap().unwrap().state(), JobState::Cancelled);
        let answer = late.await.unwrap().unwrap();
        assert_eq!((dispositions(&answer), answer.stop), (vec![Disposition::Superseded], true), "{point}");
        let progress = stack[0].progress(point).await.unwrap();
        assert_eq!(stage_counts(&progress), [[3, 3, 0, 0], [6, 0, 0, 0]]);
    }
}
