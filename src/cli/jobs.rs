//! `highwater jobs`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use prost_types::Timestamp;

use super::output::{self, QUIET_LOG_FILTER, init_log, print_line};
use super::wording::{self, escaped};
use super::{Common, Failure, UsageError, client, json};
use crate::config::sources::ONE_CALL;
use crate::grpc::pb::job_service_client::JobServiceClient;
use crate::grpc::pb::{Job, JobOrder, JobState, ListJobsRequest, Progress, ProgressResult, Source, progress_result};

/// Page size of the calls that list jobs.
const PAGE_SIZE: usize = 200;

/// Lists jobs, newest first
///
/// The command prints one line per job: ID, state, percentage, number of tasks, creation time and labels. If the
/// percentage is not exact, the line ends with its source and the reason, or with the error; `>=` marks a lower bound,
/// and `?` an unknown percentage.
#[derive(Debug, Args)]
pub struct Flags {
    /// List only jobs in this state: pending, running, succeeded, failed, cancelled or revoked; if the option is
    /// repeated, jobs in any of the states
    #[arg(long, value_name = "STATE", help_heading = ONE_CALL)]
    state: Vec<String>,
    /// List only jobs with this label; if the option is repeated, only jobs with all of the labels
    #[arg(long, value_name = "KEY=VALUE", help_heading = ONE_CALL)]
    label: Vec<String>,
    /// List only jobs that have ended, earliest end first
    #[arg(long, help_heading = ONE_CALL)]
    ended: bool,
    /// Maximum number of jobs to list
    #[arg(long, value_name = "COUNT", default_value = "50", help_heading = ONE_CALL)]
    limit: usize,
    /// Print each job as one line of JSON
    #[arg(long, help_heading = ONE_CALL)]
    json: bool,
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Prints the jobs page by page.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    init_log(&flags.common, QUIET_LOG_FILTER);
    let client = flags.gateway.client()?;
    let mut request = ListJobsRequest {
        states: flags.state.iter().map(|state| parse_state(state, flags.ended)).collect::<Result<_, _>>()?,
        labels: parse_labels(&flags.label)?,
        with_progress: !flags.json,
        ..ListJobsRequest::default()
    };
    request.set_order(if flags.ended { JobOrder::EarliestEndFirst } else { JobOrder::NewestFirst });
    let mut remaining = flags.limit;
    while remaining > 0 {
        request.page_size = i32::try_from(remaining.min(PAGE_SIZE))?;
        let page =
            client.retry(async |channel| JobServiceClient::new(channel).list_jobs(request.clone()).await).await?;
        remaining = remaining.saturating_sub(page.jobs.len());
        for (index, job) in page.jobs.iter().enumerate() {
            print_line(if flags.json { json::job(job)? } else { line(job, page.progress.get(index)) })?;
        }
        for id in &page.unreadable_job_ids {
            output::warn(&format!("job {} is not listed: its row in Postgres is invalid", escaped(id)));
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_state(text: &str, ended: bool) -> Result<i32, UsageError> {
    let state = JobState::from_str_name(&format!("JOB_STATE_{}", text.to_uppercase()));
    let state = state.filter(|state| *state != JobState::Unspecified);
    let invalid = || {
        let states = "pending, running, succeeded, failed, cancelled, revoked";
        UsageError(format!("`{}` is not a job state; the states are {states}", escaped(text)))
    };
    let state = state.ok_or_else(invalid)?;
    if ended && !wording::is_end_state(state) {
        let message = format!("a job that has ended is never {}; omit --ended or this --state", escaped(text));
        return Err(UsageError(message));
    }
    Ok(state.into())
}

fn parse_labels(texts: &[String]) -> Result<BTreeMap<String, String>, UsageError> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let invalid = || UsageError(format!("`{}` is not a label; write KEY=VALUE", escaped(text)));
        let (key, value) = text.split_once('=').ok_or_else(invalid)?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            let message = format!(
                "the label `{}` is given twice, but a job has only one value for a label; omit one",
                escaped(key)
            );
            return Err(UsageError(message));
        }
    }
    Ok(labels)
}

/// Returns a line such as `17  RUNNING  43 %  20,000 tasks  2026-01-02T03:04:05Z  team=search`.
fn line(job: &Job, progress: Option<&ProgressResult>) -> String {
    let created = job.create_time.map(to_second).unwrap_or_default();
    let labels = job.labels.iter().map(|(key, value)| format!("{}={}", escaped(key), escaped(value)));
    let labels: Vec<_> = labels.collect();
    let (percent, hint) = match progress.and_then(|progress| progress.result.as_ref()) {
        Some(progress_result::Result::Progress(progress)) => (wording::percent(progress), hint(progress)),
        Some(progress_result::Result::Error(error)) => (None, escaped(&error.message).into_owned()),
        None => (None, String::new()),
    };
    let percent = percent.unwrap_or_else(|| "? %".to_owned());
    let (id, state, tasks) = (escaped(&job.job_id), wording::job_state(job.state()), wording::number(job.task_count));
    let line = format!("{id}  {state:<9}  {percent:>5}  {tasks} tasks  {created}  {}", labels.join(" "));
    format!("{}  {hint}", line.trim_end()).trim_end().to_owned()
}

/// Returns why the percentage is not current or not complete, such as `FALLBACK (REDIS_UNREACHABLE), at least`. The
/// text is empty if the percentage is exact.
fn hint(progress: &Progress) -> String {
    let exact = progress.source() != Source::Fallback && !progress.lower_bound;
    if exact { String::new() } else { wording::source(progress) }
}

/// Formats a time without the fraction of a second.
fn to_second(time: Timestamp) -> String {
    Timestamp { nanos: 0, ..time }.to_string()
}
