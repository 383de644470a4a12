//! Tests in which bits of a tracker's cells flip, or its counts are wrong. No end and no mirror is computed from damaged
//! cells: the tracker is quarantined and restored.

use std::time::Duration;

use highwater::domain::StageCounts;
use highwater::live::HEADER_BYTES;

use super::finishing::plant_counts;
use super::{StoredEnd, wait_for_end};
use crate::support::{
    Gateway, Link, Stack, dispositions, eventually, failed, job, pb, stage_counts, succeeded, tracker_key,
};
use pb::{Disposition, JobState, Source};

const DAMAGED: &str = "the marks in a tracker do not match their digest";

async fn start(gateways: usize) -> Stack {
    start_with_tasks(gateways, 4).await
}

async fn start_with_tasks(gateways: usize, tasks: i64) -> Stack {
    let stack = Stack::builder(gateways).links().reconciling(Duration::from_millis(100), Duration::from_secs(3));
    let stack = stack.start().await;
    let request = pb::CreateJobRequest { failure_threshold: Some(0.0), ..job("a", &["s"], tasks) };
    stack[0].create(request).await.unwrap();
    stack
}

/// Sets both bits of a task of a job with one stage, as a program that does not know Highwater could.
async fn set_bits(stack: &Stack, task: usize, bits: [u8; 2]) {
    let mut transaction = redis::pipe();
    transaction.atomic();
    for (index, bit) in bits.into_iter().enumerate() {
        transaction.cmd("SETBIT").arg(tracker_key("a")).arg(8 * HEADER_BYTES + 2 * task + index).arg(bit).ignore();
    }
    let () = transaction.query_async(&mut stack.redis.connection().await).await.unwrap();
}

/// Waits until a read through this gateway is LIVE after the damaged tracker was replaced.
async fn live_after_restore(gateway: &Gateway) -> pb::Progress {
    let restored = async || {
        let progress = gateway.progress("a").await.ok()?;
        (progress.restore_time.is_some() && progress.source() == Source::Live).then_some(progress)
    };
    eventually("the restored tracker is adopted", restored).await
}

#[tokio::test]
async fn flipped_bits_of_an_idle_job_are_found_and_its_marks_restored() {
    let stack = start(2).await;
    stack[0].report("a", succeeded([1], "s")).await.unwrap();
    stack[1].report("a", failed([2], "s")).await.unwrap();
    set_bits(&stack, 0, [1, 1]).await;
    for gateway in stack.gateways() {
        assert_eq!(stage_counts(&live_after_restore(gateway).await), [[2, 1, 1, 0]]);
    }
    let quarantined = stack.gateways().iter().map(|gateway| gateway.log().matches(DAMAGED).count()).sum::<usize>();
    assert_eq!(quarantined, 1);
    assert!(stack.redis.job_keys("a").await.iter().any(|key| key.ends_with(":corrupt")));
    let answer = stack[0].report("a", failed([0], "s")).await.unwrap();
    assert_eq!(dispositions(&answer), [Disposition::Applied]);
}

/// The flipped bits say that task 0 succeeded, so the report of its failure changes nothing in the tracker.
#[tokio::test]
async fn failure_that_flipped_bits_hide_is_not_lost() {
    let stack = start(2).await;
    stack[0].report("a", succeeded([1], "s")).await.unwrap();
    set_bits(&stack, 0, [1, 1]).await;
    stack[1].report("a", failed([0], "s")).await.unwrap();
    stack[0].report("a", succeeded([2, 3], "s")).await.unwrap();
    assert_eq!(wait_for_end(&stack[0], "a").await.state(), JobState::Failed);
    let end = StoredEnd::load(&stack, "a").await.snapshot;
    assert_eq!((end.counts.stages[0].failed, end.counts.stages[0].succeeded), (1, 3));
}

/// The mark of task 0 is cleared and reported again, so its success counts twice, and the header says that the job is
/// complete.
#[tokio::test]
async fn damaged_tracker_that_seems_complete_does_not_end_the_job() {
    let stack = start(1).await;
    stack[0].report("a", succeeded([0, 1, 2], "s")).await.unwrap();
    set_bits(&stack, 0, [0, 0]).await;
    stack[0].report("a", succeeded([0], "s")).await.unwrap();
    let progress = live_after_restore(&stack[0]).await;
    assert_eq!((progress.state(), stage_counts(&progress)), (JobState::Running, vec![[1, 3, 0, 0]]));
    stack[0].report("a", succeeded([3], "s")).await.unwrap();
    assert_eq!(stack[0].get("a").await.unwrap().state(), JobState::Succeeded);
}

#[tokio::test]
async fn cancel_of_a_job_with_a_damaged_tracker_stores_only_true_marks() {
    let stack = start(1).await;
    stack[0].report("a", succeeded([1], "s")).await.unwrap();
    set_bits(&stack, 0, [1, 1]).await;
    assert_eq!(stack[0].cancel("a", "enough").await.unwrap().state(), JobState::Cancelled);
    assert_eq!(stage_counts(&stack[0].progress("a").await.unwrap()), [[3, 1, 0, 0]]);
}

#[tokio::test]
async fn wrong_counts_of_an_idle_job_are_corrected() {
    let stack = start(1).await;
    stack[0].report("a", succeeded([1], "s")).await.unwrap();
    plant_counts(&stack, "a", &[StageCounts { succeeded: 3, ..StageCounts::default() }]).await;
    let corrected = async || (stage_counts(&stack[0].progress("a").await.unwrap()) == [[3, 1, 0, 0]]).then_some(());
    eventually("the counts are corrected", corrected).await;
}

/// The wrong counts refuse the marks of the ledger, because the sum would exceed the number of tasks.
#[tokio::test]
async fn wrong_counts_do_not_keep_the_ledger_from_being_drained() {
    let stack = start(1).await;
    stack[0].report("a", succeeded([1], "s")).await.unwrap();
    stack[0].links().redis.set(Link::Cut);
    let answer = stack[0].report("a", failed([0], "s")).await.unwrap();
    assert_eq!(dispositions(&answer), [Disposition::Recorded]);
    plant_counts(&stack, "a", &[StageCounts { succeeded: 4, ..StageCounts::default() }]).await;
    stack[0].links().redis.set(Link::Open);
    let drained = async || {
        let progress = stack[0].progress("a").await.ok()?;
        (progress.source() == Source::Live && stage_counts(&progress) == [[2, 1, 1, 0]]).then_some(())
    };
    eventually("the ledger is drained", drained).await;
}

/// The job has three regions. No gateway has a copy of its marks when the damage is found.
#[tokio::test]
async fn marks_of_intact_regions_survive_the_damage_of_another_region() {
    let mut stack = start_with_tasks(1, 140_000).await;
    stack[0].report("a", succeeded([1, 70_000, 139_999], "s")).await.unwrap();
    stack[0].kill();
    set_bits(&stack, 0, [1, 1]).await;
    stack[0].restart().await;
    let progress = live_after_restore(&stack[0]).await;
    assert_eq!(stage_counts(&progress), [[139_998, 2, 0, 0]]);
}
