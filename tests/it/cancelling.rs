//! Tests of races between a cancel and the completion of a job. The first commit wins, and all callers see the same
//! result.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pb::Disposition::{Applied, Superseded};
use pb::JobState::{Cancelled, Running, Succeeded};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tonic_types::StatusExt;

use crate::support::{
    CallResult, Client, Fault, Random, Stack, code_and_reason, dispositions, job, pb, stage_counts, succeeded,
};

const JOBS: u64 = 1_000;
const CONCURRENT_RACES: usize = 16;
/// The maximum delay in microseconds between the two calls: enough for each side to win often.
const HEAD_START: usize = 4_000;

/// The final state that the cancel call returned, in its job or in its error.
fn final_state(answer: &CallResult<pb::Job>) -> pb::JobState {
    match answer {
        Ok(job) => job.state(),
        Err(refused) => {
            assert_eq!(code_and_reason(refused).1, "JOB_ENDED", "{refused:?}");
            let state = &refused.get_details_error_info().unwrap().metadata["state"];
            pb::JobState::from_str_name(&format!("JOB_STATE_{state}")).unwrap()
        }
    }
}

/// Reports all tasks of a job through one gateway, and cancels the job through another gateway slightly earlier or
/// later. Returns the final state of the job.
async fn race(id: String, gateways: [Client; 2], seed: u64) -> pb::JobState {
    gateways[0].create(job(&id, &["s"], 2)).await.unwrap();
    let mut random = Random::seeded(seed);
    let head_start = Duration::from_micros(u64::try_from(random.below(HEAD_START)).unwrap());
    let late = random.one_in(2);
    let wait = async |waits: bool| {
        if waits {
            tokio::time::sleep(head_start).await;
        }
    };
    let report = async {
        wait(late).await;
        gateways[0].report(&id, succeeded(0..2, "s")).await.unwrap()
    };
    let cancel = async {
        wait(!late).await;
        gateways[1].cancel(&id, "race").await
    };
    let (reported, cancelled) = tokio::join!(report, cancel);

    let state = final_state(&cancelled);
    assert!(matches!(state, Cancelled | Succeeded), "{cancelled:?}");
    // A report that was marked before the seal may be answered before the end is committed.
    assert!(reported.job_state() == state || reported.job_state() == Running, "{reported:?} {cancelled:?}");
    let answered = dispositions(&reported);
    assert!(answered == [Applied; 2] || (answered == [Superseded; 2] && state == Cancelled), "{answered:?} {state:?}");
    for gateway in &gateways {
        let progress = gateway.progress(&id).await.unwrap();
        assert_eq!(progress.state(), state);
        let counts = if answered == [Applied; 2] { [0, 2, 0, 0] } else { [2, 0, 0, 0] };
        assert_eq!(stage_counts(&progress), [counts], "the snapshot has exactly the acknowledged marks");
    }
    state
}

#[tokio::test]
async fn a_thousand_cancel_and_completion_races_each_end_the_job_once() {
    // The timeout is long, because a thousand jobs at once slow Redis on a busy machine, and this test is not about
    // timeouts.
    let stack = Stack::builder(2).setting("reconcile-interval", "100ms").setting("redis-timeout", "5s").start().await;
    let slots = Arc::new(Semaphore::new(CONCURRENT_RACES));
    let mut races = JoinSet::new();
    for seed in 0..JOBS {
        let (slots, gateways) = (slots.clone(), [stack[0].client(), stack[1].client()]);
        races.spawn(async move {
            let _slot = slots.acquire().await.unwrap();
            race(format!("job-{seed}"), gateways, seed).await
        });
    }
    let mut ends: HashMap<pb::JobState, usize> = HashMap::new();
    for state in races.join_all().await {
        *ends.entry(state).or_default() += 1;
    }
    // The test is meaningful only if both sides won often.
    assert!(ends.len() == 2 && ends.values().all(|count| *count > 100), "{ends:?}");
    let ended: i64 = stack.postgres.value("SELECT count(*) FROM jobs WHERE end_time IS NOT NULL").await;
    assert_eq!(ended, i64::try_from(JOBS).unwrap());
}

/// The cancel call stalls after its check. The job completes, and then the cancel call continues.
#[tokio::test]
async fn cancel_after_the_end_returns_the_final_state() {
    let stack = Stack::start(2).await;
    stack[0].create(job("a", &["s"], 1)).await.unwrap();
    stack[1].inject("cancel.checked", Fault::Stall);
    let cancel = tokio::spawn({
        let gateway = stack[1].client();
        async move { gateway.cancel("a", "too late").await }
    });
    stack[1].wait_until_reached("cancel.checked").await;
    assert_eq!(stack[0].report("a", succeeded([0], "s")).await.unwrap().job_state(), Succeeded);
    stack[1].release("cancel.checked");
    assert_eq!(final_state(&cancel.await.unwrap()), Succeeded);
    assert_eq!(stack[1].progress("a").await.unwrap().cancel_reason, "");
}

/// The tracker is sealed as cancelled, but the end is not committed. The last report is superseded, and its response
/// waits for the commit.
#[tokio::test]
async fn report_that_finds_a_cancel_seal_commits_the_end() {
    let stack = Stack::start(2).await;
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    stack[0].report("a", succeeded([0], "s")).await.unwrap();
    stack[1].inject("finish.sealed", Fault::Stall);
    let cancel = tokio::spawn({
        let gateway = stack[1].client();
        async move { gateway.cancel("a", "enough").await }
    });
    stack[1].wait_until_reached("finish.sealed").await;
    assert_eq!(stack[1].get("a").await.unwrap().state(), Running);

    let answer = stack[0].report("a", succeeded([1], "s")).await.unwrap();
    assert_eq!((dispositions(&answer), answer.job_state()), (vec![Superseded], Cancelled));
    let ended = stack[0].get("a").await.unwrap();
    assert_eq!((ended.state(), ended.cancel_reason.as_str()), (Cancelled, "enough"));
    stack[1].release("finish.sealed");
    assert_eq!(cancel.await.unwrap().unwrap(), ended);
    assert_eq!(stage_counts(&stack[1].progress("a").await.unwrap()), [[1, 1, 0, 0]]);
}
