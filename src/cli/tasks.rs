//! `highwater tasks`.

use std::process::ExitCode;

use clap::Args;

use super::output::{QUIET_LOG_FILTER, init_log, print_line, warn};
use super::wording::{self, escaped};
use super::{Common, Failure, client, job_id};
use crate::config::sources::ONE_CALL;
use crate::grpc::pb::job_service_client::JobServiceClient;
use crate::grpc::pb::{ListTasksRequest, SourceReason, TaskRange, TaskStatus};

/// Page size of the calls that list tasks: the number of ranges or names.
const PAGE_SIZE: i32 = 10_000;

/// Lists the outstanding, failed, succeeded or skipped tasks of a job
///
/// The command prints one line per task or range of tasks, such as 7-12. If the tasks are named, it prints one line per
/// name. If marks may be missing, a warning on stderr says why, and that reported tasks may be listed as outstanding.
#[derive(Debug, Args)]
pub struct Flags {
    /// ID of the job
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    status: Status,
    /// Stage at which the tasks have the status; by default, tasks are listed by their overall status
    #[arg(long, value_name = "STAGE", default_value = "", hide_default_value = true, help_heading = ONE_CALL)]
    stage: String,
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Status of the tasks to list.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[command(next_help_heading = ONE_CALL)]
#[expect(clippy::struct_excessive_bools, reason = "flags, of which exactly one is given")]
struct Status {
    /// List tasks that have not been reported yet
    #[arg(long)]
    outstanding: bool,
    /// List tasks that failed
    #[arg(long)]
    failed: bool,
    /// List tasks that succeeded
    #[arg(long)]
    succeeded: bool,
    /// List tasks that skip the stage because they failed at an earlier stage
    #[arg(long)]
    skipped: bool,
}

/// Prints the tasks page by page.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    init_log(&flags.common, QUIET_LOG_FILTER);
    let client = flags.gateway.client()?;
    let mut request = ListTasksRequest {
        job_id: job_id(&flags.job)?.to_string(),
        stage: flags.stage.clone(),
        status: flags.status.task_status().into(),
        page_size: PAGE_SIZE,
        page_token: String::new(),
    };
    let mut warned = false;
    let mut open_range = None;
    loop {
        let page =
            client.retry(async |channel| JobServiceClient::new(channel).list_tasks(request.clone()).await).await?;
        let reason = page.source_reason();
        // If the job has named tasks, the page has one name for each task of its ranges.
        if page.task_names.is_empty() {
            for range in page.ranges {
                let complete;
                (complete, open_range) = join(open_range, range);
                complete.iter().map(line).try_for_each(print_line)?;
            }
        } else {
            page.task_names.iter().map(|name| escaped(name)).try_for_each(print_line)?;
        }
        if page.lower_bound && !std::mem::replace(&mut warned, true) {
            warn(&incomplete(reason));
        }
        if page.next_page_token.is_empty() {
            open_range.iter().map(line).try_for_each(print_line)?;
            return Ok(ExitCode::SUCCESS);
        }
        request.page_token = page.next_page_token;
    }
}

impl Status {
    fn task_status(&self) -> TaskStatus {
        match self {
            Self { failed: true, .. } => TaskStatus::Failed,
            Self { succeeded: true, .. } => TaskStatus::Succeeded,
            Self { skipped: true, .. } => TaskStatus::Skipped,
            Self { .. } => TaskStatus::Outstanding,
        }
    }
}

/// Returns the warning that marks may be missing, with the reason if there is one.
fn incomplete(reason: SourceReason) -> String {
    let why = match reason {
        SourceReason::Unspecified => String::new(),
        reason => format!(" ({})", wording::source_reason(reason)),
    };
    format!("marks may be missing{why}, so reported tasks may be listed as outstanding; `highwater inspect` shows why")
}

/// Appends `next` to the open range if it continues that range, because a page may end within a range. Returns the
/// range that is complete, if any, and the range that the next page may continue.
fn join(open: Option<TaskRange>, next: TaskRange) -> (Option<TaskRange>, Option<TaskRange>) {
    match open {
        Some(open) if open.last + 1 == next.first => (None, Some(TaskRange { last: next.last, ..open })),
        complete => (complete, Some(next)),
    }
}

/// Returns a line such as `7` or `7-12`.
fn line(TaskRange { first, last, .. }: &TaskRange) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
