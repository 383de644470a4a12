//! Tests in which Postgres is restored from a backup that is older than ends that clients have seen.

use std::path::Path;
use std::process::Command;

use super::{assert_all_gateways_show, fast_settling};
use crate::faults::{FINAL_COUNTS, StoredEnd, reports, six_task_job, wait_for_end};
use crate::support::{Database, eventually, pb, succeeded};
use pb::JobState;

/// Copies a directory with its contents, owners and permissions.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cp -a {} {}", from.display(), to.display());
}

/// The server's data directory. A copy that is made while the server is stopped serves as a base backup.
fn data_directory(postgres: &mut Database) -> std::path::PathBuf {
    postgres.private_server().socket_directory().join("data")
}

#[tokio::test]
async fn end_lost_by_postgres_is_committed_again_unchanged() {
    let mut stack = fast_settling(2).private_postgres(&[]).start().await;
    let [first, second, last] = reports();
    for id in ["succeeds", "cancelled"] {
        stack[0].create(six_task_job(id)).await.unwrap();
        stack[0].report(id, first.clone()).await.unwrap();
        stack[1].report(id, second.clone()).await.unwrap();
    }
    let data = data_directory(&mut stack.postgres);
    let backup = data.with_file_name("backup");
    stack.postgres.private_server().stop();
    copy(&data, &backup);
    stack.postgres.private_server().restart().unwrap();

    let job_ended = async || stack[0].report("succeeds", last.clone()).await.ok().filter(|answer| answer.stop);
    eventually("the job ends", job_ended).await;
    let cancelled = async || stack[0].cancel("cancelled", "enough").await.ok();
    eventually("the job is cancelled", cancelled).await;
    let ends = [StoredEnd::load(&stack, "succeeds").await, StoredEnd::load(&stack, "cancelled").await];

    stack[1].kill();
    stack.postgres.private_server().stop();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&backup, &data).unwrap();
    stack.postgres.private_server().restart().unwrap();
    // Gateway 0 has the ends in its cache. Gateway 1 was restarted, so its cache is empty.
    stack[1].restart().await;
    stack[1].wait_until_ready().await;
    for (id, end) in ["succeeds", "cancelled"].into_iter().zip(ends) {
        wait_for_end(&stack[1], id).await;
        let again = StoredEnd::load(&stack, id).await;
        assert_eq!((&again.state, &again.cancel_reason), (&end.state, &end.cancel_reason));
        assert_eq!((&again.cells, again.snapshot), (&end.cells, end.snapshot), "{id}");
        let answer =
            eventually("a report is answered", async || stack[1].report(id, succeeded([0], "read")).await.ok());
        assert!(answer.await.stop, "the job does not run again");
    }
    assert_all_gateways_show(&stack, "succeeds", JobState::Succeeded, &FINAL_COUNTS).await;
    assert_all_gateways_show(&stack, "cancelled", JobState::Cancelled, &[[0, 5, 1, 0], [5, 0, 0, 1]]).await;
}
