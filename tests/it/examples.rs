//! Tests that the programs in docs/examples work as documented, even if one of them is killed.

use std::process::Stdio;

use redis::cmd;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::clients::tool;
use crate::source::root;
use crate::support::{Directory, Redis, Stack, eventually, job, pb, succeeded};

const TASKS: i64 = 60;

fn example(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(tool("HIGHWATER_TEST_PYTHON", "python"));
    command.arg(root().join("docs/examples").join(name)).args(arguments);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Starts a worker and waits until it is ready for tasks.
async fn worker(address: &str, queue: &Redis, name: &str, pace: &str) -> Child {
    let mut command = example("worker.py", &[address, &queue.url(), name]);
    let mut worker = command.env("SECONDS_A_TASK", pace).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(worker.stdout.take().unwrap()).lines();
    assert_eq!(output.next_line().await.unwrap().unwrap(), format!("{name} is at work"));
    worker
}

async fn stop_gracefully(mut worker: Child) {
    let pid = worker.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    assert!(worker.wait().await.unwrap().success(), "a worker that receives SIGTERM exits with success");
}

#[tokio::test]
async fn queue_workers_finish_every_job_although_one_is_killed() {
    let stack = Stack::start(2).await;
    let directory = Directory::new();
    let queue = Redis::start(&directory, &[]);
    let (address, other) = (stack[0].address().to_string(), stack[1].address().to_string());
    for id in ["film-1", "film-2"] {
        let ran = example("dispatcher.py", &[&address, &queue.url(), id, &TASKS.to_string()]).output().await.unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    }
    // This worker is slow, and is killed while it holds tasks.
    let mut doomed = worker(&address, &queue, "doomed", "0.2").await;
    let holds = async || {
        let mut connection = queue.connection().await;
        for id in ["film-1", "film-2"] {
            let mut pending = cmd("XPENDING");
            pending.arg(format!("tasks:{id}")).arg("workers").arg("-").arg("+").arg(1).arg("doomed");
            // The group does not exist before a worker reads the first task.
            let held = pending.query_async::<Vec<redis::Value>>(&mut connection).await.unwrap_or_default();
            if !held.is_empty() {
                return Some(());
            }
        }
        None
    };
    eventually("the worker holds tasks", holds).await;
    doomed.kill().await.unwrap();
    let workers = [worker(&address, &queue, "one", "0").await, worker(&other, &queue, "two", "0").await];
    for id in ["film-1", "film-2"] {
        let ended = async || {
            let progress = stack[1].progress(id).await.ok()?;
            (progress.state() != pb::JobState::Running).then_some(progress)
        };
        let progress = eventually(&format!("{id} ends"), ended).await;
        assert_eq!(progress.state(), pb::JobState::Succeeded);
        assert_eq!(progress.succeeded_task_count, Some(TASKS));
    }
    for worker in workers {
        stop_gracefully(worker).await;
    }
}

/// The worker that learns of the end first deletes the queue of the job.
#[tokio::test]
async fn worker_survives_a_queue_deleted_while_it_waits() {
    let stack = Stack::start(1).await;
    let directory = Directory::new();
    let queue = Redis::start(&directory, &[]);
    stack[0].create(job("film", &["render"], 5)).await.unwrap();
    let worker = worker(&stack[0].address().to_string(), &queue, "one", "0").await;
    for _ in 0..3 {
        let waits = async || {
            let clients: String = queue.run(cmd("INFO").arg("clients")).await;
            clients.contains("blocked_clients:1").then_some(())
        };
        eventually("the worker waits for a task", waits).await;
        let () = queue.run(cmd("DEL").arg("tasks:film")).await;
    }
    stop_gracefully(worker).await;
}

#[tokio::test]
async fn worker_moves_messages_of_unknown_tasks_to_a_dead_letter_stream() {
    let stack = Stack::start(1).await;
    let directory = Directory::new();
    let queue = Redis::start(&directory, &[]);
    stack[0].create(job("film", &["render"], 2)).await.unwrap();
    for task in [7, 0, 1] {
        let _: String = queue.run(cmd("XADD").arg("tasks:film").arg("*").arg("task").arg(task)).await;
    }
    let worker = worker(&stack[0].address().to_string(), &queue, "one", "0").await;
    let ended = async || (stack[0].progress("film").await.unwrap().state() == pb::JobState::Succeeded).then_some(());
    eventually("the job ends", ended).await;
    stop_gracefully(worker).await;
    let dead: Vec<(String, Vec<String>)> = queue.run(cmd("XRANGE").arg("dead:film").arg("-").arg("+")).await;
    let fields: Vec<_> = dead.into_iter().map(|(_, fields)| fields).collect();
    assert_eq!(fields, [["task", "7", "why", "DISPOSITION_UNKNOWN_TASK"]]);
}

#[tokio::test]
async fn a_backend_adopts_highwater_step_by_step() {
    let stack = Stack::start(1).await;
    // The job of the README, which belongs to nobody's backend, and a job with a number that is none of the backend's.
    for id in ["mine", "17"] {
        stack[0].create(job(id, &["fetch"], 1)).await.unwrap();
        stack[0].report(id, succeeded([0], "fetch")).await.unwrap();
    }
    stack[0].create(job("running", &["fetch"], 1)).await.unwrap();
    let line = format!("./dev python docs/examples/adopting/rehearse.py {}", stack[0].address());
    for run in ["the first run", "another run on the same gateway"] {
        let rehearsed = Command::new("bash").args(["-c", &line]).current_dir(root()).output().await.unwrap();
        assert!(rehearsed.status.success(), "{run}: {}", String::from_utf8_lossy(&rehearsed.stderr));
    }
}
