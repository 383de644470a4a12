//! Redis fails over to a replica that lags.

use std::time::{Duration, Instant};

use redis::cmd;

use super::crew::{Crew, done, new_job};
use super::{SETTLE, every_gateway_shows, live, settling};
use crate::faults::{ended, six_tasks};
use crate::support::{Directory, Redis, eventually, failed, pb, stages, succeeded};
use pb::{JobState, Source};

const JOBS: i64 = 12;
const TASKS: i64 = 600;
/// From a failover to the fast path: the settle time, and a round or two before and after it; and what a busy machine
/// adds.
const BACK_WITHIN: Duration = SETTLE.saturating_add(Duration::from_secs(3));

#[tokio::test]
async fn after_a_failover_every_running_job_is_back_on_the_fast_path_and_no_report_is_lost() {
    let stack = settling(2).redis(&[("repl-diskless-sync-delay", "0")]).start().await;
    let directory = Directory::new();
    let replica = Redis::start(&directory, &[]);
    let () = replica.ask(cmd("REPLICAOF").arg("127.0.0.1").arg(stack.redis.port())).await;
    let follows = async || {
        let info: String = replica.ask(cmd("INFO").arg("replication")).await;
        info.contains("master_link_status:up").then_some(())
    };
    eventually("the replica follows", follows).await;
    let id = |number: i64| format!("job-{number}");
    for number in 0..JOBS {
        stack[0].create(six_tasks(&id(number))).await.unwrap();
    }
    stack[0].create(new_job("worked-at", TASKS)).await.unwrap();
    for number in 0..JOBS {
        stack[0].report(&id(number), succeeded(0..2, "read")).await.unwrap();
    }
    let crew = Crew::start(&stack, "worked-at", TASKS);
    crew.has_done(30).await;
    // From here on it misses what the primary takes.
    let () = replica.ask(cmd("REPLICAOF").arg("NO").arg("ONE")).await;
    for number in 0..JOBS {
        let gateway = &stack[usize::try_from(number).unwrap() % 2];
        gateway.report(&id(number), succeeded(2..5, "read")).await.unwrap();
    }
    stack[1].report(&id(0), succeeded(0..3, "digest")).await.unwrap();
    crew.has_done(60).await;
    for gateway in stack.gateways() {
        gateway.links().redis.point_at(replica.port());
        gateway.links().redis.hang_up();
    }
    let failed_over = Instant::now();
    for gateway in stack.gateways() {
        for number in 0..JOBS {
            let progress = live_and_restored(gateway, &id(number)).await;
            let digest = if number == 0 { [3, 3, 0, 0] } else { [6, 0, 0, 0] };
            assert_eq!(stages(&progress), [[1, 5, 0, 0], digest], "{number}");
        }
    }
    assert!(failed_over.elapsed() < BACK_WITHIN, "{:?}", failed_over.elapsed());
    let seen = crew.finish().await;
    assert!(seen.live > 0 && seen.fallback > 0, "{seen:?}");
    assert_eq!(ended(&stack[1], "worked-at").await.state(), JobState::Succeeded);
    every_gateway_shows(&stack, "worked-at", JobState::Succeeded, &done(TASKS)).await;

    // And they stay there.
    for number in 0..JOBS {
        let rest = [succeeded([5], "read"), succeeded(0..6, "digest")].concat();
        assert_eq!(live(&stack[0], &id(number)).await.source(), Source::Live);
        assert_eq!(stack[1].report(&id(number), rest).await.unwrap().job_state(), JobState::Succeeded);
    }
}

/// Waits until the job is read LIVE from the tracker that was taken over.
async fn live_and_restored(gateway: &crate::support::Gateway, id: &str) -> pb::Progress {
    let look = async || {
        let progress = gateway.progress(id).await.ok()?;
        (progress.source() == Source::Live && progress.restore_time.is_some()).then_some(progress)
    };
    eventually(&format!("{id} is on the fast path again"), look).await
}

/// Reports all the time, through every gateway: the job must not have to rest in order to be believed again.
#[tokio::test]
async fn a_job_that_is_worked_on_all_the_time_is_back_on_the_fast_path_as_well() {
    let stack = settling(2).redis(&[("save", "3600 1000")]).start().await;
    stack[0].create(six_tasks("a")).await.unwrap();
    stack[0].report("a", [succeeded([0], "read"), failed([1], "read")].concat()).await.unwrap();
    let () = stack.redis.ask(&cmd("SAVE")).await;
    let at_work = stack.gateways().iter().map(|gateway| {
        let client = gateway.another();
        tokio::spawn(async move {
            loop {
                // Twice the same is as much a report as any.
                let _ = client.report("a", succeeded([0, 2], "read")).await;
            }
        })
    });
    let at_work: Vec<_> = at_work.collect();
    let mut stack = stack;
    stack.redis.kill();
    stack.redis.restart().unwrap();
    let restarted = Instant::now();
    for gateway in stack.gateways() {
        live_and_restored(gateway, "a").await;
    }
    assert!(restarted.elapsed() < BACK_WITHIN + Duration::from_secs(2), "{:?}", restarted.elapsed());
    at_work.iter().for_each(tokio::task::JoinHandle::abort);
}
