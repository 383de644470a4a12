//! `highwater tasks`.

use std::process::ExitCode;

use clap::Args;

use super::output::{QUIET_LOG, say, start_log, warn};
use super::words::shown;
use super::{Common, Failure, client, job_id};
use crate::config::sources::ONE_CALL;
use crate::grpc::pb::job_service_client::JobServiceClient;
use crate::grpc::pb::{ListTasksRequest, TaskRange, TaskStatus};

/// How many ranges, or names, one call asks for.
const PAGE: i32 = 10_000;

/// Lists the tasks of a job that are outstanding, have failed, have succeeded or were skipped
///
/// A line a task, or a range of tasks such as 7-12; names, where the tasks have them; and nothing else to stdout. That
/// marks may be missing, so that more is listed as outstanding than is, is said on stderr.
#[derive(Debug, Args)]
pub struct Flags {
    /// The job's id
    #[arg(value_name = "JOB")]
    job: String,
    #[command(flatten)]
    status: Status,
    /// At this stage; without it, the tasks as a whole
    #[arg(long, value_name = "STAGE", default_value = "", hide_default_value = true, help_heading = ONE_CALL)]
    stage: String,
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Where the tasks stand.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
#[command(next_help_heading = ONE_CALL)]
#[expect(clippy::struct_excessive_bools, reason = "flags, of which exactly one is given")]
struct Status {
    /// Those that nobody has reported yet
    #[arg(long)]
    outstanding: bool,
    /// Those that failed
    #[arg(long)]
    failed: bool,
    /// Those that succeeded
    #[arg(long)]
    succeeded: bool,
    /// Those that were skipped at the stage, since they failed before it
    #[arg(long)]
    skipped: bool,
}

/// Prints them page by page.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    let client = flags.gateway.client()?;
    let mut request = ListTasksRequest {
        job_id: job_id(&flags.job)?.to_string(),
        stage: flags.stage.clone(),
        status: flags.status.asked().into(),
        page_size: PAGE,
        page_token: String::new(),
    };
    let mut short = false;
    let mut open = None;
    loop {
        let page =
            client.again(async |channel| JobServiceClient::new(channel).list_tasks(request.clone()).await).await?;
        // One for each task of all ranges, in a job whose tasks have names.
        if page.task_names.is_empty() {
            for range in page.ranges {
                let whole;
                (whole, open) = joined(open, range);
                whole.iter().map(line).try_for_each(say)?;
            }
        } else {
            page.task_names.iter().map(|name| shown(name)).try_for_each(say)?;
        }
        if page.lower_bound && !std::mem::replace(&mut short, true) {
            warn("marks may be missing: tasks may be listed as outstanding that were reported");
        }
        if page.next_page_token.is_empty() {
            open.iter().map(line).try_for_each(say)?;
            return Ok(ExitCode::SUCCESS);
        }
        request.page_token = page.next_page_token;
    }
}

impl Status {
    fn asked(&self) -> TaskStatus {
        match self {
            Self { failed: true, .. } => TaskStatus::Failed,
            Self { succeeded: true, .. } => TaskStatus::Succeeded,
            Self { skipped: true, .. } => TaskStatus::Skipped,
            Self { .. } => TaskStatus::Outstanding,
        }
    }
}

/// What is whole now that `next` is known, and what may still go on: pages end anywhere.
fn joined(open: Option<TaskRange>, next: TaskRange) -> (Option<TaskRange>, Option<TaskRange>) {
    match open {
        Some(open) if open.last + 1 == next.first => (None, Some(TaskRange { last: next.last, ..open })),
        whole => (whole, Some(next)),
    }
}

/// `7`, or `7-12`.
fn line(TaskRange { first, last, .. }: &TaskRange) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}
