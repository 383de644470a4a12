//! Redis answers, and refuses writes.

use redis::cmd;

use super::crew::{Crew, done, new_job};
use super::{every_gateway_shows, ledger, live, settling};
use crate::faults::{Stored, ended, six_tasks};
use crate::support::{Stack, dispositions, eventually, failed, pb, stages, succeeded};
use pb::{Disposition, JobState};

/// Why it refuses: what makes it so, and what ends it.
#[derive(Clone, Copy)]
struct Refusal {
    name: &'static str,
    begins: &'static [&'static str],
    ends: &'static [&'static str],
}

const REFUSALS: [Refusal; 3] = [
    Refusal {
        name: "out-of-memory",
        begins: &["CONFIG", "SET", "maxmemory", "1"],
        ends: &["CONFIG", "SET", "maxmemory", "0"],
    },
    Refusal {
        name: "too-few-replicas",
        begins: &["CONFIG", "SET", "min-replicas-to-write", "1"],
        ends: &["CONFIG", "SET", "min-replicas-to-write", "0"],
    },
    // Last: it ends belief in what was adopted before.
    Refusal { name: "read-only", begins: &["REPLICAOF", "127.0.0.1", "1"], ends: &["REPLICAOF", "NO", "ONE"] },
];

async fn ask(stack: &Stack, words: &[&str]) {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    let () = stack.redis.ask(&command).await;
}

/// Jobs that were there before, and jobs that start meanwhile, are reported to and end as if Redis were away.
#[tokio::test]
async fn while_redis_refuses_writes_reports_are_recorded_and_jobs_end() {
    let stack = settling(2).start().await;
    for Refusal { name, begins, ends } in REFUSALS {
        let id = |what: &str| format!("{name}-{what}");
        let before = [id("succeeds"), id("fails"), id("complete"), id("cancelled")];
        for job in &before {
            let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_tasks(job) };
            stack[0].create(strict).await.unwrap();
            stack[0].report(job, succeeded(0..3, "read")).await.unwrap();
            assert_eq!(stages(&live(&stack[1], job).await), [[3, 3, 0, 0], [6, 0, 0, 0]]);
        }
        ask(&stack, begins).await;
        let recorded = async |number: usize, job: &str, results: Vec<pb::TaskResult>| {
            let count = results.len();
            let answer = stack[number].report(job, results).await.unwrap();
            assert_eq!(dispositions(&answer), vec![Disposition::Recorded; count], "{job}");
            let progress = stack[number].progress(job).await.unwrap();
            if answer.job_state() == JobState::Running && progress.state() == JobState::Running {
                assert_eq!((progress.source(), progress.lower_bound), (pb::Source::Fallback, true), "{job}");
            }
            progress
        };
        for job in [id("succeeds"), id("fails")] {
            let progress = recorded(0, &job, succeeded(3..5, "read")).await;
            assert_eq!(stages(&progress), [[1, 5, 0, 0], [6, 0, 0, 0]], "tracker and ledger");
            recorded(1, &job, succeeded(0..5, "digest")).await;
        }
        let fresh = id("fresh");
        let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..six_tasks(&fresh) };
        assert_eq!(stack[1].create(strict).await.unwrap().state(), JobState::Running);
        recorded(0, &fresh, [succeeded(0..5, "read"), failed([5], "read")].concat()).await;
        recorded(1, &fresh, succeeded(0..5, "digest")).await;
        recorded(1, &id("succeeds"), [succeeded([5], "read"), succeeded([5], "digest")].concat()).await;
        recorded(1, &id("fails"), failed([5], "read")).await;
        let cancelled = stack[1].cancel(&id("cancelled"), "enough").await.unwrap();
        assert_eq!(cancelled.state(), JobState::Cancelled);

        // What nothing can change any more has ended; so has what never had a tracker.
        assert_eq!(ended(&stack[0], &id("succeeds")).await.state(), JobState::Succeeded, "{name}");
        every_gateway_shows(&stack, &id("succeeds"), JobState::Succeeded, &[[0, 6, 0, 0]; 2]).await;
        assert_eq!(ended(&stack[0], &fresh).await.state(), JobState::Failed, "{name}");
        every_gateway_shows(&stack, &fresh, JobState::Failed, &[[0, 5, 1, 0], [0, 5, 0, 1]]).await;
        // Its tracker may hold an upgrade that nobody here knows of.
        assert_eq!(stack[0].get(&id("fails")).await.unwrap().state(), JobState::Running);

        ask(&stack, ends).await;
        assert_eq!(ended(&stack[1], &id("fails")).await.state(), JobState::Failed);
        every_gateway_shows(&stack, &id("fails"), JobState::Failed, &[[0, 5, 1, 0], [0, 5, 0, 1]]).await;
        let whole = async || !stack[0].progress(&id("cancelled")).await.unwrap().lower_bound;
        eventually("the cancelled job is whole", async || whole().await.then_some(())).await;
        every_gateway_shows(&stack, &id("cancelled"), JobState::Cancelled, &[[3, 3, 0, 0], [6, 0, 0, 0]]).await;
        // It can be written to again, and goes on as before.
        assert_eq!(stages(&live(&stack[0], &id("complete")).await), [[3, 3, 0, 0], [6, 0, 0, 0]]);
        let rest = [succeeded(3..6, "read"), succeeded(0..6, "digest")].concat();
        assert_eq!(stack[1].report(&id("complete"), rest).await.unwrap().job_state(), JobState::Succeeded);
        for job in before.iter().chain([&fresh]) {
            assert!(!Stored::of(&stack, job).await.snapshot.lower_bound, "{job}");
        }
        assert_eq!(ledger(&stack).await, 0);
    }
}

/// It can still be read: whoever dies then has left what it acknowledged in the mirrors of the others.
#[tokio::test]
async fn mirrors_learn_of_each_other_while_redis_refuses_writes() {
    let mut stack = settling(2).start().await;
    for job in ["a", "b"] {
        stack[0].create(six_tasks(job)).await.unwrap();
    }
    stack[1].kill();
    stack[0].report("a", succeeded(0..3, "read")).await.unwrap();
    let Refusal { begins, ends, .. } = REFUSALS[0];
    ask(&stack, begins).await;
    // A row that cannot be drained is trouble for every round.
    let recorded = stack[0].report("b", succeeded([0], "read")).await.unwrap();
    assert_eq!(dispositions(&recorded), [Disposition::Recorded]);
    stack[1].restart().await;
    // Six tasks in two stages are three bytes: those of both jobs.
    let both = async || stack[1].http("/metrics").await.1.contains("\nhighwater_mirror_bytes 6\n").then_some(());
    eventually("the other gateway has mirrors", both).await;
    stack[0].kill();
    let () = stack.redis.ask(&cmd("FLUSHALL")).await;
    ask(&stack, ends).await;
    assert_eq!(stages(&live(&stack[1], "a").await), [[3, 3, 0, 0], [6, 0, 0, 0]]);
}

/// With workers and readers at it all the time.
#[tokio::test]
async fn redis_refuses_writes_in_the_middle_of_a_run_and_no_report_is_lost() {
    const TASKS: i64 = 1000;
    let stack = settling(2).start().await;
    for Refusal { name, begins, ends } in REFUSALS {
        stack[0].create(new_job(name, TASKS)).await.unwrap();
        let crew = Crew::start(&stack, name, TASKS);
        crew.has_done(30).await;
        ask(&stack, begins).await;
        crew.has_done(60).await;
        ask(&stack, ends).await;
        let seen = crew.finish().await;
        assert!(seen.live > 0 && seen.fallback > 0, "{name}: {seen:?}");
        assert_eq!(ended(&stack[1], name).await.state(), JobState::Succeeded);
        every_gateway_shows(&stack, name, JobState::Succeeded, &done(TASKS)).await;
    }
}
