//! `highwater jobs`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use prost_types::Timestamp;

use super::output::{QUIET_LOG, say, start_log};
use super::words::{self, shown};
use super::{Common, Failure, Misuse, client, json};
use crate::config::sources::ONE_CALL;
use crate::grpc::pb::job_service_client::JobServiceClient;
use crate::grpc::pb::{Job, JobOrder, JobState, ListJobsRequest, Progress, ProgressResult, progress_result};

/// How many jobs one call asks for at most.
const PAGE: usize = 200;

/// Lists jobs, the newest first
///
/// A line a job: id, state, how far it is, its tasks, when it was created, its labels.
#[derive(Debug, Args)]
pub struct Flags {
    /// Only jobs in this state: pending, running, succeeded, failed, cancelled or revoked; may be given again
    #[arg(long, value_name = "STATE", help_heading = ONE_CALL)]
    state: Vec<String>,
    /// Only jobs with this label; may be given again, for jobs with all of them
    #[arg(long, value_name = "KEY=VALUE", help_heading = ONE_CALL)]
    label: Vec<String>,
    /// Only jobs that have ended, the earliest end first
    #[arg(long, help_heading = ONE_CALL)]
    ended: bool,
    /// How many at most
    #[arg(long, value_name = "COUNT", default_value = "50", help_heading = ONE_CALL)]
    limit: usize,
    /// Prints each job as JSON, one a line
    #[arg(long, help_heading = ONE_CALL)]
    json: bool,
    #[command(flatten)]
    gateway: client::Address,
    #[command(flatten)]
    common: Common,
}

/// Prints them page by page.
pub async fn run(flags: Flags) -> Result<ExitCode, Failure> {
    start_log(&flags.common, QUIET_LOG);
    let client = flags.gateway.client()?;
    let mut request = ListJobsRequest {
        states: flags.state.iter().map(|state| state_of(state, flags.ended)).collect::<Result<_, _>>()?,
        labels: labels_of(&flags.label)?,
        with_progress: !flags.json,
        ..ListJobsRequest::default()
    };
    request.set_order(if flags.ended { JobOrder::EarliestEndFirst } else { JobOrder::NewestFirst });
    let mut left = flags.limit;
    while left > 0 {
        request.page_size = i32::try_from(left.min(PAGE))?;
        let page =
            client.again(async |channel| JobServiceClient::new(channel).list_jobs(request.clone()).await).await?;
        left = left.saturating_sub(page.jobs.len());
        for (place, job) in page.jobs.iter().enumerate() {
            say(if flags.json { json::job(job)? } else { line(job, page.progress.get(place)) })?;
        }
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    Ok(ExitCode::SUCCESS)
}

fn state_of(text: &str, ended: bool) -> Result<i32, Misuse> {
    let state = JobState::from_str_name(&format!("JOB_STATE_{}", text.to_uppercase()));
    let state = state.filter(|state| *state != JobState::Unspecified);
    let wrong = || {
        let states = "pending, running, succeeded, failed, cancelled, revoked";
        Misuse(format!("`{}` is no state: {states}", shown(text)))
    };
    let state = state.ok_or_else(wrong)?;
    if ended && !words::has_ended(state) {
        return Err(Misuse(format!("no job that has ended is {}: leave one of --ended and --state out", shown(text))));
    }
    Ok(state.into())
}

fn labels_of(texts: &[String]) -> Result<BTreeMap<String, String>, Misuse> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let label = text.split_once('=').ok_or_else(|| Misuse(format!("`{}` is no label: KEY=VALUE", shown(text))));
        let (key, value) = label?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Misuse(format!("the label `{}` is given twice: a job has one value of it", shown(key))));
        }
    }
    Ok(labels)
}

/// `17  RUNNING  43 %  20,000 tasks  2026-01-02T03:04:05Z  team=search`
fn line(job: &Job, progress: Option<&ProgressResult>) -> String {
    let created = job.create_time.map(moment).unwrap_or_default();
    let labels = job.labels.iter().map(|(key, value)| format!("{}={}", shown(key), shown(value)));
    let labels: Vec<_> = labels.collect();
    let far = match progress.and_then(|progress| progress.result.as_ref()) {
        Some(progress_result::Result::Progress(Progress { percent: Some(percent), .. })) => format!("{percent} %"),
        _ => "? %".to_owned(),
    };
    let (state, tasks) = (words::job_state(job.state()), words::number(job.task_count));
    let line = format!("{}  {state:<9}  {far:>5}  {tasks} tasks  {created}  {}", shown(&job.job_id), labels.join(" "));
    line.trim_end().to_owned()
}

/// To the second.
fn moment(time: Timestamp) -> String {
    Timestamp { nanos: 0, ..time }.to_string()
}
