//! Tests of the end of a job: which gateway commits it, what is stored, and how later calls are answered.

use std::time::Instant;

use pb::Disposition::Superseded;

use crate::support::{
    Client, Fault, Stack, dispositions, eventually, failed, failed_with, job, patience, pb, stage_counts, succeeded,
    system_time, task_counts,
};

/// The number of commits of ends that the gateways logged.
fn commits(stack: &Stack) -> usize {
    stack.gateways().iter().map(|gateway| gateway.log().matches("gateway::finish::commit: ended").count()).sum()
}

#[tokio::test]
async fn last_report_ends_the_job_and_the_snapshot_equals_the_live_counts() {
    let stack = Stack::start(2).await;
    stack[0].create(job("a", &["read", "digest"], 4)).await.unwrap();
    let before = [succeeded(0..3, "read"), vec![failed_with(3, "read", "IO", "no such file")]].concat();
    stack[0].report("a", before).await.unwrap();
    stack[0].report("a", succeeded(0..2, "digest")).await.unwrap();
    let live = stack[1].progress("a").await.unwrap();
    assert_eq!((live.state(), live.source()), (pb::JobState::Running, pb::Source::Live));

    let answer = stack[0].report("a", failed([2], "digest")).await.unwrap();
    assert_eq!((answer.job_state(), answer.stop), (pb::JobState::Succeeded, true));
    for gateway in stack.gateways() {
        let ended = gateway.progress("a").await.unwrap();
        assert_eq!((ended.state(), ended.source()), (pb::JobState::Succeeded, pb::Source::Snapshot));
        assert_eq!(stage_counts(&ended), [[0, 3, 1, 0], [0, 2, 1, 1]]);
        assert_eq!((task_counts(&ended), ended.percent, ended.fraction), ([0, 2, 2], Some(100), Some(1.0)));
        assert_eq!(ended.revision(), live.revision() + 1);
        assert!(system_time(ended.last_progress_time) > system_time(live.last_progress_time));
        assert_eq!(ended.error_samples[1..], live.error_samples);
        assert!(!ended.lower_bound);
        assert_eq!(ended.observe_time, gateway.get("a").await.unwrap().end_time);
    }
}

/// Two gateways have read the sealed tracker and try to commit at the same time.
#[tokio::test]
async fn only_one_of_two_concurrent_finishers_commits() {
    let stack = Stack::builder(2).setting("reconcile-interval", "50ms").start().await;
    for gateway in stack.gateways() {
        gateway.inject("finish.read", Fault::Stall);
    }
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    let reports: Vec<_> = (0..2)
        .map(|task| {
            let gateway = stack[usize::try_from(task).unwrap()].client();
            tokio::spawn(async move { gateway.report("a", succeeded([task], "s")).await })
        })
        .collect();
    for gateway in stack.gateways() {
        gateway.wait_until_reached("finish.read").await;
    }
    for gateway in stack.gateways() {
        gateway.release("finish.read");
    }
    for report in reports {
        let answer = report.await.unwrap().unwrap();
        assert_eq!(dispositions(&answer), [pb::Disposition::Applied]);
    }
    let ended = async || {
        let progress = stack[0].progress("a").await.unwrap();
        (progress.state() == pb::JobState::Succeeded).then(|| stage_counts(&progress))
    };
    assert_eq!(eventually("the job ends", ended).await, [[0, 2, 0, 0]]);
    assert_eq!(stack[0].get("a").await.unwrap(), stack[1].get("a").await.unwrap());
    // The gateway logs the commit shortly after Postgres has stored it.
    eventually("the commit is logged", async || (commits(&stack) > 0).then_some(())).await;
    assert_eq!(commits(&stack), 1);
}

#[tokio::test]
async fn jobs_with_concurrent_last_reports_end_once_each() {
    let stack = Stack::builder(2).setting("reconcile-interval", "50ms").start().await;
    let jobs = (0..50).map(|number| {
        let (id, gateways) = (format!("job-{number}"), [stack[0].client(), stack[1].client()]);
        tokio::spawn(async move {
            gateways[0].create(job(&id, &["s"], 2)).await.unwrap();
            let (one, other) = tokio::join!(
                gateways[0].report(&id, succeeded([0], "s")),
                gateways[1].report(&id, succeeded([1], "s"))
            );
            for answer in [one.unwrap(), other.unwrap()] {
                assert_eq!(dispositions(&answer), [pb::Disposition::Applied]);
            }
            id
        })
    });
    for job in jobs.collect::<Vec<_>>() {
        let id = job.await.unwrap();
        // A report waits for the end only briefly, and fifty ends at once may keep a gateway busy for longer.
        for gateway in stack.gateways() {
            let ended = async || {
                let progress = gateway.progress(&id).await.unwrap();
                assert_eq!(stage_counts(&progress), [[0, 2, 0, 0]]);
                (progress.state() == pb::JobState::Succeeded).then_some(())
            };
            eventually("the job ends", ended).await;
        }
    }
    assert_eq!(commits(&stack), 50);
}

/// Reads until the job has ended. Returns the time at which the last read that showed the job running was sent (`None`
/// if no read did), and the time at which the first other response arrived.
async fn follow(gateway: Client, id: String) -> (Option<Instant>, Instant) {
    let (mut running, started) = (None, Instant::now());
    loop {
        let begun = Instant::now();
        assert!(started.elapsed() < patience(), "{id} is still shown as running");
        match gateway.progress(&id).await.unwrap().state() {
            pb::JobState::Running => running = Some(begun),
            _ => return (running, Instant::now()),
        }
    }
}

/// Invariant I6 through three gateways: one gateway learns of the end just after the other gateways have read the job
/// as running.
#[tokio::test]
async fn no_read_shows_running_after_any_read_showed_the_end() {
    let stack = Stack::start(3).await;
    for number in 0..40 {
        let id = format!("job-{number}");
        stack[0].create(job(&id, &["s"], 1)).await.unwrap();
        let readers = [1, 2].map(|reader| tokio::spawn(follow(stack[reader].client(), id.clone())));
        // All gateways have read the job as running.
        for gateway in stack.gateways() {
            assert_eq!(gateway.progress(&id).await.unwrap().state(), pb::JobState::Running);
        }
        if number % 2 == 0 {
            stack[0].report(&id, succeeded([0], "s")).await.unwrap();
        } else {
            stack[0].cancel(&id, "enough").await.unwrap();
        }
        let mut ended = Instant::now();
        let mut running = Vec::new();
        for reader in readers {
            let (last_running, first_ended) = reader.await.unwrap();
            running.extend(last_running);
            ended = ended.min(first_ended);
        }
        assert!(running.iter().all(|begun| *begun <= ended), "{id}: {ended:?} {running:?}");
    }
}

/// This is true even after the sealed tracker has expired, and through a gateway that does not know the job.
#[tokio::test]
async fn report_after_the_end_is_superseded_and_recreates_nothing() {
    let mut stack = Stack::builder(2).setting("sealed-ttl", "50ms").start().await;
    for id in ["succeeded", "failed", "cancelled"] {
        let request = pb::CreateJobRequest { failure_threshold: Some(0.0), ..job(id, &["read", "digest"], 3) };
        stack[0].create(request).await.unwrap();
    }
    let all = [succeeded(0..3, "read"), succeeded(0..3, "digest")].concat();
    stack[0].report("succeeded", all).await.unwrap();
    stack[0].report("failed", failed(0..3, "read")).await.unwrap();
    stack[0].report("cancelled", succeeded([0], "read")).await.unwrap();
    stack[0].cancel("cancelled", "enough").await.unwrap();
    let ends = [
        ("succeeded", pb::JobState::Succeeded, [[0, 3, 0, 0], [0, 3, 0, 0]]),
        ("failed", pb::JobState::Failed, [[0, 0, 3, 0], [0, 0, 0, 3]]),
        ("cancelled", pb::JobState::Cancelled, [[2, 1, 0, 0], [3, 0, 0, 0]]),
    ];
    for (id, ..) in ends {
        eventually("the sealed tracker expires", async || stack.redis.job_keys(id).await.is_empty().then_some(()))
            .await;
    }
    stack[1].restart().await;
    stack[1].wait_until_ready().await;
    for (id, state, counts) in ends {
        for gateway in stack.gateways() {
            let late = [failed([0, 1], "digest"), succeeded([2], "digest")].concat();
            let answer = gateway.report(id, late).await.unwrap();
            assert_eq!((dispositions(&answer), answer.job_state(), answer.stop), (vec![Superseded; 3], state, true));
            let progress = gateway.progress(id).await.unwrap();
            assert_eq!((progress.state(), stage_counts(&progress)), (state, counts.to_vec()));
        }
        assert!(stack.redis.job_keys(id).await.is_empty());
    }
}

#[tokio::test]
async fn ended_job_is_served_without_redis() {
    let mut stack = Stack::start(2).await;
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    stack[0].report("a", vec![failed_with(0, "s", "IO", "no such file")]).await.unwrap();
    stack[0].report("a", succeeded([1], "s")).await.unwrap();
    let ended = stack[0].progress("a").await.unwrap();
    assert_eq!((ended.state(), ended.source()), (pb::JobState::Succeeded, pb::Source::Snapshot));
    stack.redis.kill();
    // The restarted gateway has an empty cache. It cannot become ready without Redis.
    stack[1].restart().await;
    for gateway in stack.gateways() {
        assert_eq!(gateway.progress("a").await.unwrap(), ended);
        assert!(gateway.report("a", succeeded([0], "s")).await.unwrap().stop);
    }
    assert!(!stack[1].is_ready().await.unwrap());
}

#[tokio::test]
async fn job_survives_the_loss_of_every_gateway() {
    let mut stack = Stack::start(2).await;
    stack[0].create(job("a", &["s"], 3)).await.unwrap();
    stack[0].report("a", succeeded([0], "s")).await.unwrap();
    stack[0].kill();
    assert_eq!(stage_counts(&stack[1].progress("a").await.unwrap()), [[2, 1, 0, 0]]);
    stack[1].report("a", succeeded([1], "s")).await.unwrap();
    stack[1].terminate().await;
    stack[0].restart().await;
    stack[0].wait_until_ready().await;
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((stage_counts(&progress), progress.source()), (vec![[1, 2, 0, 0]], pb::Source::Live));
    assert_eq!(stack[0].report("a", succeeded([2], "s")).await.unwrap().job_state(), pb::JobState::Succeeded);
}

/// A gateway dies during a start, before the commit, and leaves a tracker of a job that never ran.
#[tokio::test]
async fn orphaned_tracker_is_removed_and_a_running_one_stays() {
    let short_lived = Stack::builder(2).setting("tracker-ttl", "1s").setting("reconcile-interval", "50ms");
    let mut stack = short_lived.start().await;
    stack[1].create(job("running", &["s"], 2)).await.unwrap();
    stack[0].inject("start.opened", Fault::Kill);
    stack[0].create(job("orphan", &["s"], 2)).await.unwrap_err();
    stack[0].wait_for_exit().await;
    assert!(stack.redis.tracker("orphan").await.is_some());
    let removed = async || stack.redis.job_keys("orphan").await.is_empty().then_some(());
    eventually("the orphaned tracker is removed", removed).await;
    assert_eq!(stack[1].progress("running").await.unwrap().source(), pb::Source::Live);

    assert_eq!(stack[1].progress("orphan").await.unwrap().state(), pb::JobState::Pending);
    stack[1].start("orphan").await.unwrap();
    let answer = stack[1].report("orphan", succeeded(0..2, "s")).await.unwrap();
    assert_eq!(answer.job_state(), pb::JobState::Succeeded);
}
