//! What the fleet was handed out, as a table, and what must be so.

use std::time::Duration;

use super::{CANCELLED, Fleet};
use crate::cli::words;
use crate::grpc::pb::{JobState, Progress};

/// A line for each job.
pub fn written(fleet: &Fleet, ends: &[Progress]) -> String {
    let mut lines = vec![format!(
        "\n{:<9}  {:>9}  {:<9}  {:>9}  {:>6}  {:>8}  {:>8}  {:>6}  {:>9}",
        "job", "tasks", "ended as", "done", "claims", "share", "even", "wasted", "in hands"
    )];
    for ((job, row), end) in fleet.jobs.iter().zip(fleet.board.rows().iter()).zip(ends) {
        let (share, even) = row.shares();
        let done = end.succeeded_task_count.map_or_else(|| "?".to_owned(), words::number);
        lines.push(format!(
            "{:<9}  {:>9}  {:<9}  {done:>9}  {:>6}  {share:>6.1} %  {even:>6.1} %  {:>6}  {:>9}",
            job.name,
            words::number(job.tasks),
            words::state(end),
            row.claims,
            milliseconds(row.wasted),
            milliseconds(row.slack)
        ));
    }
    lines.push(
        "\nshare: of all claims while the job was eligible; even: what each of those that were eligible would have had.\n\
         wasted: time on a job that was handed out by a call sent after its end had been answered to anybody, and that call.\n\
         in hands: time that workers went on, after the end, with what they had been handed out before.\n"
            .to_owned(),
    );
    lines.join("\n")
}

/// What must be so, and whether it is.
pub fn checks(fleet: &Fleet, ends: &[Progress]) -> Vec<(bool, String)> {
    let rows = fleet.board.rows();
    let uneven: Vec<_> = fleet.jobs.iter().zip(rows.iter()).filter(|(_, row)| !row.is_even()).collect();
    let names: Vec<_> = uneven.iter().map(|(job, _)| job.name).collect();
    let but = if names.is_empty() { String::new() } else { format!(" (not {})", names.join(", ")) };
    let (late, wasted) = (rows.iter().map(|row| row.late).sum::<u32>(), rows.iter().map(|row| row.wasted).sum());
    let finished = ends.iter().filter(|end| end.state() == JobState::Succeeded);
    let whole = finished.clone().all(|end| end.succeeded_task_count == Some(end.task_count));
    let finished = finished.count();
    let redelivered: u32 = fleet.jobs.iter().map(|job| job.queue.redelivered()).sum();
    vec![
        (
            names.is_empty(),
            format!("each job was handed out as often as any other, within 20 %, whatever its size{but}"),
        ),
        (
            late == 0,
            format!(
                "jobs that had ended were handed out {late} times, and workers were busy with them for {}",
                milliseconds(wasted)
            ),
        ),
        (ends[CANCELLED].state() == JobState::Cancelled, "one job was cancelled in the middle".to_owned()),
        (
            finished > 0 && whole,
            format!(
                "{finished} jobs were finished, with every task counted once; {redelivered} batches were delivered twice"
            ),
        ),
    ]
}

fn milliseconds(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
