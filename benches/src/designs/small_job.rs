//! One small job that is reported completely by concurrent reporters. In some rounds, a cancel arrives shortly before
//! the last report. The responses to all callers are collected, and compared with the final state afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater::grpc::pb;
use pb::job_service_client::JobServiceClient;
use pb::progress_service_client::ProgressServiceClient;
use pb::report_service_client::ReportServiceClient;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use super::row::is_end;
use crate::Result;
use crate::environment::Server;
use crate::jobs::{STAGES, success};

const REPORTERS: u64 = 16;
/// The tasks of a job.
pub const TASKS: u64 = 200;
/// The marks of a job: one per task and stage.
pub const MARKS: u64 = TASKS * STAGES.len() as u64;
/// How many marks before the last one the cancel is sent.
const CANCEL_BEFORE: u64 = 2 * REPORTERS;
/// The number of connections that the reporters share.
const CONNECTIONS: usize = 8;
const READ_INTERVAL: Duration = Duration::from_millis(2);

/// How a job is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Round {
    /// The percentage of reports that are delivered a second time.
    pub redelivered: u64,
    /// Whether the job is cancelled shortly before the last report.
    pub cancelled: bool,
}

/// All kinds of rounds.
pub const ROUNDS: [Round; 4] = [
    Round { redelivered: 0, cancelled: false },
    Round { redelivered: 10, cancelled: false },
    Round { redelivered: 0, cancelled: true },
    Round { redelivered: 10, cancelled: true },
];

/// The responses to the callers of a job.
#[derive(Debug, Default)]
pub struct Observed {
    pub id: String,
    pub round: Round,
    /// Marks that were acknowledged as counted, without duplicates.
    pub counted: u64,
    /// Marks that were refused at their first delivery, because the job had ended.
    pub refused: u64,
    /// The ends that the reporters, the reader and the canceller got.
    pub ends: BTreeSet<&'static str>,
}

/// The state that the callers of a job share.
#[derive(Clone)]
struct Shared {
    id: String,
    round: Round,
    /// The number of marks that reporters have taken.
    taken: Arc<AtomicU64>,
    /// Notified when it is time to cancel.
    cancel: Arc<Notify>,
    /// Notified when all other callers have finished.
    finished: Arc<Notify>,
}

/// Reports a running job completely.
pub async fn report(server: &Server, id: &str, round: Round) -> Result<Observed> {
    let shared =
        Shared { id: id.to_owned(), round, taken: Arc::default(), cancel: Arc::default(), finished: Arc::default() };
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<Result<Vec<_>>>()?;
    let reading = tokio::spawn(read(server.channel()?, shared.clone()));
    let cancelling = tokio::spawn(cancel(server.channel()?, shared.clone()));
    let mut reporters = JoinSet::new();
    for number in 0..REPORTERS as usize {
        reporters.spawn(reporter(channels[number % CONNECTIONS].clone(), shared.clone()));
    }
    let mut observed = Observed { id: id.to_owned(), round, ..Observed::default() };
    while let Some(done) = reporters.join_next().await {
        observed.add(done??);
    }
    // Ends a canceller that still waits.
    shared.cancel.notify_one();
    observed.add(cancelling.await??);
    shared.finished.notify_one();
    observed.add(reading.await??);
    Ok(observed)
}

impl Observed {
    fn add(&mut self, other: Self) {
        self.counted += other.counted;
        self.refused += other.refused;
        self.ends.extend(other.ends);
    }

    fn add_state(&mut self, state: pb::JobState) {
        if is_end(state) {
            self.ends.insert(state.as_str_name());
        }
    }
}

/// Reports marks until none is left, and some of them a second time. Continues after the job has ended, like a queue
/// that is not stopped.
async fn reporter(channel: Channel, shared: Shared) -> Result<Observed> {
    let mut client = ReportServiceClient::new(channel);
    let (mut observed, mut reported) = (Observed::default(), Vec::new());
    for turn in 1.. {
        let redeliver = shared.round.redelivered > 0 && turn % (100 / shared.round.redelivered) == 0;
        let again = reported.get(reported.len() / 2).copied().filter(|_| redeliver);
        let mark = again.unwrap_or_else(|| shared.taken.fetch_add(1, Ordering::Relaxed));
        if mark >= MARKS {
            break;
        }
        if mark + CANCEL_BEFORE == MARKS {
            shared.cancel.notify_one();
        }
        // Each task passes all stages before the next, as with workers.
        let stage = STAGES[mark as usize % STAGES.len()];
        let results = vec![success(mark / STAGES.len() as u64, stage)];
        let request = pb::ReportResultsRequest { job_id: shared.id.clone(), results };
        let response = client.report_results(request).await?.into_inner();
        observed.add_state(response.job_state());
        let refused = response.dispositions == [i32::from(pb::Disposition::Superseded)];
        if again.is_none() {
            reported.push(mark);
            observed.counted += u64::from(!refused);
            observed.refused += u64::from(refused);
        }
    }
    Ok(observed)
}

/// Reads the job until all other callers have finished.
async fn read(channel: Channel, shared: Shared) -> Result<Observed> {
    let mut client = ProgressServiceClient::new(channel);
    let mut observed = Observed::default();
    loop {
        observed.add_state(progress(&mut client, &shared.id).await?.state());
        tokio::select! {
            () = shared.finished.notified() => return Ok(observed),
            () = tokio::time::sleep(READ_INTERVAL) => {}
        }
    }
}

/// Cancels the job when it is time, in rounds with a cancel.
async fn cancel(channel: Channel, shared: Shared) -> Result<Observed> {
    let mut observed = Observed::default();
    shared.cancel.notified().await;
    if !shared.round.cancelled {
        return Ok(observed);
    }
    let request = pb::CancelJobRequest { job_id: shared.id, reason: "benchmark".to_owned() };
    match JobServiceClient::new(channel).cancel_job(request).await {
        Ok(_) => observed.add_state(pb::JobState::Cancelled),
        // The job had already ended.
        Err(status) if status.code() == Code::FailedPrecondition => {}
        Err(status) => return Err(status.into()),
    }
    Ok(observed)
}

async fn progress(client: &mut ProgressServiceClient<Channel>, id: &str) -> Result<pb::Progress> {
    let response = client.get_progress(pb::GetProgressRequest { job_id: id.to_owned() }).await?.into_inner();
    Ok(response.progress.ok_or("a response without progress")?)
}

/// The progress of a job once it has ended, or at the deadline.
pub async fn final_progress(server: &Server, id: &str, deadline: Instant) -> Result<pb::Progress> {
    let mut client = ProgressServiceClient::new(server.channel()?);
    loop {
        let progress = progress(&mut client, id).await?;
        if is_end(progress.state()) || Instant::now() > deadline {
            return Ok(progress);
        }
        tokio::time::sleep(READ_INTERVAL * 10).await;
    }
}
