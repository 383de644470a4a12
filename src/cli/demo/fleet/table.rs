//! The result of the fleet: a table of the jobs, and the checks that must pass.

use std::time::Duration;

use super::{CANCELLED, Fleet};
use crate::cli::wording;
use crate::grpc::pb::{JobState, Progress};

/// Returns the table with one line per job and a legend.
pub fn format(fleet: &Fleet, ends: &[Progress]) -> String {
    let mut lines = vec![format!(
        "\n{:<9}  {:>9}  {:<9}  {:>9}  {:>6}  {:>8}  {:>8}  {:>6}  {:>9}",
        "job", "tasks", "ended as", "done", "claims", "share", "even", "wasted", "slack"
    )];
    for ((job, row), end) in fleet.jobs.iter().zip(fleet.board.rows().iter()).zip(ends) {
        let (share, even) = row.shares();
        let done = end.succeeded_task_count.map_or_else(|| "?".to_owned(), wording::number);
        lines.push(format!(
            "{:<9}  {:>9}  {:<9}  {done:>9}  {:>6}  {share:>6.1} %  {even:>6.1} %  {:>6}  {:>9}",
            job.name,
            wording::number(job.tasks),
            wording::state(end),
            row.claims,
            milliseconds(row.wasted),
            milliseconds(row.slack)
        ));
    }
    lines.push(
        "\nshare: share of all claims while the job was eligible; even: an even share among the eligible jobs.\n\
         wasted: time spent on claims whose call was sent after the end of the job was known, including the call.\n\
         slack: time that workers spent after the end of the job on tasks that they had taken before the end.\n"
            .to_owned(),
    );
    lines.join("\n")
}

/// Returns each check as its result and a description.
pub fn checks(fleet: &Fleet, ends: &[Progress]) -> Vec<(bool, String)> {
    let rows = fleet.board.rows();
    let uneven: Vec<_> = fleet.jobs.iter().zip(rows.iter()).filter(|(_, row)| !row.is_even()).collect();
    let names: Vec<_> = uneven.iter().map(|(job, _)| job.name).collect();
    let exceptions = if names.is_empty() { String::new() } else { format!(" (except {})", names.join(", ")) };
    let (late, wasted) = (rows.iter().map(|row| row.late).sum::<u32>(), rows.iter().map(|row| row.wasted).sum());
    let finished = ends.iter().filter(|end| end.state() == JobState::Succeeded);
    let all_counted = finished.clone().all(|end| end.succeeded_task_count == Some(end.task_count));
    let finished = finished.count();
    let redelivered: u32 = fleet.jobs.iter().map(|job| job.queue.redelivered()).sum();
    vec![
        (
            names.is_empty(),
            format!("each job was handed out equally often, within 20 %, whatever its size{exceptions}"),
        ),
        (
            late == 0,
            format!("ended jobs were handed out {late} times, and workers spent {} on them", milliseconds(wasted)),
        ),
        (ends[CANCELLED].state() == JobState::Cancelled, "one job was cancelled halfway".to_owned()),
        (
            finished > 0 && all_counted,
            format!(
                "{finished} jobs were finished, with every task counted once; {redelivered} batches were delivered twice"
            ),
        ),
    ]
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
