//! Tests in which Redis fails over to a lagging replica.

use std::time::{Duration, Instant};

use redis::cmd;

use super::workload::{Workload, final_counts, new_job};
use super::{SETTLE, assert_all_gateways_show, fast_settling, wait_for_live};
use crate::faults::{six_task_job, wait_for_end};
use crate::support::{Directory, Redis, eventually, failed, pb, stage_counts, succeeded};
use pb::{JobState, Source};

const JOBS: i64 = 12;
const TASKS: i64 = 600;
/// The maximum time from a failover to LIVE reads: the settle time, one or two reconcile rounds before and after it,
/// and slack for a busy machine.
const BACK_WITHIN: Duration = SETTLE.saturating_add(Duration::from_secs(3));

#[tokio::test]
async fn failover_to_a_lagging_replica_loses_no_report_and_live_reads_return() {
    let stack = fast_settling(2).redis(&[("repl-diskless-sync-delay", "0")]).start().await;
    let directory = Directory::new();
    let replica = Redis::start(&directory, &[]);
    let () = replica.run(cmd("REPLICAOF").arg("127.0.0.1").arg(stack.redis.port())).await;
    let caught_up = async || {
        let info: String = replica.run(cmd("INFO").arg("replication")).await;
        info.contains("master_link_status:up").then_some(())
    };
    eventually("the replica follows the primary", caught_up).await;
    let id = |number: i64| format!("job-{number}");
    for number in 0..JOBS {
        stack[0].create(six_task_job(&id(number))).await.unwrap();
    }
    stack[0].create(new_job("busy", TASKS)).await.unwrap();
    for number in 0..JOBS {
        stack[0].report(&id(number), succeeded(0..2, "read")).await.unwrap();
    }
    let workload = Workload::start(&stack, "busy", TASKS);
    workload.reaches_percent(30).await;
    // From here on, the replica misses all writes to the primary.
    let () = replica.run(cmd("REPLICAOF").arg("NO").arg("ONE")).await;
    for number in 0..JOBS {
        let gateway = &stack[usize::try_from(number).unwrap() % 2];
        gateway.report(&id(number), succeeded(2..5, "read")).await.unwrap();
    }
    stack[1].report(&id(0), succeeded(0..3, "digest")).await.unwrap();
    workload.reaches_percent(60).await;
    for gateway in stack.gateways() {
        gateway.links().redis.set_target(replica.port());
        gateway.links().redis.close_connections();
    }
    let failed_over = Instant::now();
    for gateway in stack.gateways() {
        for number in 0..JOBS {
            let progress = wait_for_restored(gateway, &id(number)).await;
            let digest = if number == 0 { [3, 3, 0, 0] } else { [6, 0, 0, 0] };
            assert_eq!(stage_counts(&progress), [[1, 5, 0, 0], digest], "{number}");
        }
    }
    assert!(failed_over.elapsed() < BACK_WITHIN, "{:?}", failed_over.elapsed());
    let reads = workload.finish().await;
    assert!(reads.live > 0 && reads.fallback > 0, "{reads:?}");
    assert_eq!(wait_for_end(&stack[1], "busy").await.state(), JobState::Succeeded);
    assert_all_gateways_show(&stack, "busy", JobState::Succeeded, &final_counts(TASKS)).await;

    // Reads stay LIVE until the jobs end.
    for number in 0..JOBS {
        let rest = [succeeded([5], "read"), succeeded(0..6, "digest")].concat();
        assert_eq!(wait_for_live(&stack[0], &id(number)).await.source(), Source::Live);
        assert_eq!(stack[1].report(&id(number), rest).await.unwrap().job_state(), JobState::Succeeded);
    }
}

/// Waits until the job is read LIVE from its restored tracker.
async fn wait_for_restored(gateway: &crate::support::Gateway, id: &str) -> pb::Progress {
    let restored = async || {
        let progress = gateway.progress(id).await.ok()?;
        (progress.source() == Source::Live && progress.restore_time.is_some()).then_some(progress)
    };
    eventually(&format!("{id} is read LIVE again"), restored).await
}

/// Continuous reports through every gateway must not delay the adoption of the restored tracker.
#[tokio::test]
async fn live_reads_return_under_continuous_reports() {
    let stack = fast_settling(2).redis(&[("save", "3600 1000")]).start().await;
    stack[0].create(six_task_job("a")).await.unwrap();
    stack[0].report("a", [succeeded([0], "read"), failed([1], "read")].concat()).await.unwrap();
    let () = stack.redis.run(&cmd("SAVE")).await;
    let reporters = stack.gateways().iter().map(|gateway| {
        let client = gateway.new_connection();
        tokio::spawn(async move {
            loop {
                // Duplicate results also go through the whole report path.
                let _ = client.report("a", succeeded([0, 2], "read")).await;
            }
        })
    });
    let reporters: Vec<_> = reporters.collect();
    let mut stack = stack;
    stack.redis.kill();
    stack.redis.restart().unwrap();
    let restarted = Instant::now();
    for gateway in stack.gateways() {
        wait_for_restored(gateway, "a").await;
    }
    assert!(restarted.elapsed() < BACK_WITHIN + Duration::from_secs(2), "{:?}", restarted.elapsed());
    reporters.iter().for_each(tokio::task::JoinHandle::abort);
}
