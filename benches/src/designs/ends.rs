//! Small jobs that are reported to their end, by reporters who all report to the same one, and in some rounds a cancel
//! that comes just before it. What everybody was told is kept, and judged when nothing is under way any more.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use highwater::grpc::pb;
use pb::job_service_client::JobServiceClient;
use pb::progress_service_client::ProgressServiceClient;
use pb::report_service_client::ReportServiceClient;
use serde::Serialize;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

use super::row::is_end;
use crate::Result;
use crate::jobs::{STAGES, success};
use crate::stand::Server;

pub const REPORTERS: u64 = 16;
/// Tasks of each job, so three times as many marks.
pub const TASKS: u64 = 200;
pub const MARKS: u64 = TASKS * STAGES.len() as u64;
/// How many marks before the last one the cancel comes.
const CANCEL_BEFORE: u64 = 2 * REPORTERS;
/// How many connections they share.
const CONNECTIONS: usize = 8;
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How a job is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Round {
    /// How many of a hundred reports come a second time.
    pub redelivered: u64,
    pub cancelled: bool,
}

/// All ways.
pub const ROUNDS: [Round; 4] = [
    Round { redelivered: 0, cancelled: false },
    Round { redelivered: 10, cancelled: false },
    Round { redelivered: 0, cancelled: true },
    Round { redelivered: 10, cancelled: true },
];

/// What everybody was told of a job.
#[derive(Debug, Default)]
pub struct Told {
    pub id: String,
    pub round: Round,
    /// Marks that were said to be counted.
    pub counted: u64,
    /// Marks that came for the first time, and were refused, since the job had ended.
    pub refused: u64,
    /// Ends that anybody was told: the reporters, who looked, and who cancelled.
    pub ends: BTreeSet<&'static str>,
}

/// Who reports, and what they share.
#[derive(Clone)]
struct Shared {
    id: String,
    round: Round,
    taken: Arc<AtomicU64>,
    nearly: Arc<Notify>,
    ended: Arc<Notify>,
}

/// Reports a job, which was started, to its end.
pub async fn report(server: &Server, id: &str, round: Round) -> Result<Told> {
    let shared =
        Shared { id: id.to_owned(), round, taken: Arc::default(), nearly: Arc::default(), ended: Arc::default() };
    let channels = (0..CONNECTIONS).map(|_| server.channel()).collect::<Result<Vec<_>>>()?;
    let looking = tokio::spawn(look(server.channel()?, shared.clone()));
    let cancelling = tokio::spawn(cancel(server.channel()?, shared.clone()));
    let mut reporters = JoinSet::new();
    for number in 0..REPORTERS as usize {
        reporters.spawn(reporter(channels[number % CONNECTIONS].clone(), shared.clone()));
    }
    let mut told = Told { id: id.to_owned(), round, ..Told::default() };
    while let Some(done) = reporters.join_next().await {
        told.add(done??);
    }
    // A cancel that still waits is not wanted any more.
    shared.nearly.notify_one();
    told.add(cancelling.await??);
    shared.ended.notify_one();
    told.add(looking.await??);
    Ok(told)
}

impl Told {
    fn add(&mut self, other: Self) {
        self.counted += other.counted;
        self.refused += other.refused;
        self.ends.extend(other.ends);
    }

    fn hear(&mut self, state: pb::JobState) {
        if is_end(state) {
            self.ends.insert(state.as_str_name());
        }
    }
}

/// Reports marks as long as there are any; a tenth of them again, where that is asked for, and all of them although the
/// job may have ended: a queue that is not told to stop goes on.
async fn reporter(channel: Channel, shared: Shared) -> Result<Told> {
    let mut client = ReportServiceClient::new(channel);
    let (mut told, mut mine) = (Told::default(), Vec::new());
    for turn in 1.. {
        let due = shared.round.redelivered > 0 && turn % (100 / shared.round.redelivered) == 0;
        let again = mine.get(mine.len() / 2).copied().filter(|_| due);
        let mark = again.unwrap_or_else(|| shared.taken.fetch_add(1, Ordering::Relaxed));
        if mark >= MARKS {
            break;
        }
        if mark + CANCEL_BEFORE == MARKS {
            shared.nearly.notify_one();
        }
        // Task by task through all stages, as workers take them.
        let stage = STAGES[mark as usize % STAGES.len()];
        let results = vec![success(mark / STAGES.len() as u64, stage)];
        let request = pb::ReportResultsRequest { job_id: shared.id.clone(), results };
        let answer = client.report_results(request).await?.into_inner();
        told.hear(answer.job_state());
        let refused = answer.dispositions == [i32::from(pb::Disposition::Superseded)];
        if again.is_none() {
            mine.push(mark);
            told.counted += u64::from(!refused);
            told.refused += u64::from(refused);
        }
    }
    Ok(told)
}

async fn look(channel: Channel, shared: Shared) -> Result<Told> {
    let mut client = ProgressServiceClient::new(channel);
    let mut told = Told::default();
    loop {
        told.hear(progress(&mut client, &shared.id).await?.state());
        tokio::select! {
            () = shared.ended.notified() => return Ok(told),
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn cancel(channel: Channel, shared: Shared) -> Result<Told> {
    let mut told = Told::default();
    shared.nearly.notified().await;
    if !shared.round.cancelled {
        return Ok(told);
    }
    let request = pb::CancelJobRequest { job_id: shared.id, reason: "measured".to_owned() };
    match JobServiceClient::new(channel).cancel_job(request).await {
        Ok(_) => told.hear(pb::JobState::Cancelled),
        // It had ended before.
        Err(status) if status.code() == Code::FailedPrecondition => {}
        Err(status) => return Err(status.into()),
    }
    Ok(told)
}

async fn progress(client: &mut ProgressServiceClient<Channel>, id: &str) -> Result<pb::Progress> {
    let answer = client.get_progress(pb::GetProgressRequest { job_id: id.to_owned() }).await?.into_inner();
    Ok(answer.progress.ok_or("an answer without progress")?)
}

/// A job as it is at last: once it has ended, or when nobody waits for that any longer.
pub async fn at_last(server: &Server, id: &str, until: Instant) -> Result<pb::Progress> {
    let mut client = ProgressServiceClient::new(server.channel()?);
    loop {
        let progress = progress(&mut client, id).await?;
        if is_end(progress.state()) || Instant::now() > until {
            return Ok(progress);
        }
        tokio::time::sleep(LOOK_EVERY * 10).await;
    }
}
