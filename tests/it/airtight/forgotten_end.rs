//! Postgres is restored to a moment before ends that were told.

use std::path::Path;
use std::process::Command;

use super::{every_gateway_shows, settling};
use crate::faults::{DONE, Stored, ended, reports, six_tasks};
use crate::support::{Database, eventually, pb, succeeded};
use pb::JobState;

/// Copies a directory with all that is in it, owners and rights included.
fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success(), "cp -a {} {}", from.display(), to.display());
}

/// While it is stopped, as a base backup is taken and brought back.
fn data(postgres: &mut Database) -> std::path::PathBuf {
    postgres.own_server().socket_directory().join("data")
}

#[tokio::test]
async fn an_end_that_postgres_forgot_comes_again_the_same_way() {
    let mut stack = settling(2).own_postgres(&[]).start().await;
    let [first, second, last] = reports();
    for id in ["succeeds", "cancelled"] {
        stack[0].create(six_tasks(id)).await.unwrap();
        stack[0].report(id, first.clone()).await.unwrap();
        stack[1].report(id, second.clone()).await.unwrap();
    }
    let data = data(&mut stack.postgres);
    let backup = data.with_file_name("backup");
    stack.postgres.own_server().stop();
    copy(&data, &backup);
    stack.postgres.own_server().restart().unwrap();

    let told = async || stack[0].report("succeeds", last.clone()).await.ok().filter(|answer| answer.stop);
    eventually("the job ends", told).await;
    let cancelled = async || stack[0].cancel("cancelled", "enough").await.ok();
    eventually("the job is cancelled", cancelled).await;
    let ends = [Stored::of(&stack, "succeeds").await, Stored::of(&stack, "cancelled").await];

    stack[1].kill();
    stack.postgres.own_server().stop();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&backup, &data).unwrap();
    stack.postgres.own_server().restart().unwrap();
    // By one that remembers the ends, and by one that does not.
    stack[1].restart().await;
    stack[1].ready().await;
    for (id, end) in ["succeeds", "cancelled"].into_iter().zip(ends) {
        ended(&stack[1], id).await;
        let again = Stored::of(&stack, id).await;
        assert_eq!((&again.state, &again.cancel_reason), (&end.state, &end.cancel_reason));
        assert_eq!((&again.cells, again.snapshot), (&end.cells, end.snapshot), "{id}");
        let answer =
            eventually("a report is answered", async || stack[1].report(id, succeeded([0], "read")).await.ok());
        assert!(answer.await.stop, "it is not handed out again");
    }
    every_gateway_shows(&stack, "succeeds", JobState::Succeeded, &DONE).await;
    every_gateway_shows(&stack, "cancelled", JobState::Cancelled, &[[0, 5, 1, 0], [5, 0, 0, 1]]).await;
}
