//! The clients: dispatchers create jobs and sometimes cancel them, workers report results and some of them twice, and
//! readers poll. Every call goes to a random gateway, is retried until it is answered, and is recorded with its reply.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::convert::{batch_result, claimed_job, disposition, error_reply, observed, state, task_result};
use super::environment::Environment;
use super::history::{Call, Disposition, Mark, ObservedProgress, Reply, Request, Source};
use super::log::Log;
use super::plan::Plan;
use super::schedule::FaultKind;
use crate::support::{CallResult, Client, Random};

/// The number of workers per job.
const WORKERS: usize = 3;
/// The maximum pause of a worker between batches, in milliseconds.
const MAX_PAUSE_MILLIS: usize = 2_000;
/// One in this number of acknowledged batches is delivered again.
const REDELIVERED_ONE_IN: usize = 10;
/// The number of jobs from which readers choose. These are the newest jobs, running or ended.
const VISIBLE_JOBS: usize = 30;
/// The maximum number of additional jobs in a batch read.
const BATCH_READ: usize = 5;
/// The time for which LIVE reads must show pending tasks before lost results are reported again.
const REPORT_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The clients of a run, with their shared state.
pub struct Clients {
    environment: Arc<Environment>,
    log: Arc<Log>,
    seed: u64,
    jobs: AtomicUsize,
    ended: AtomicUsize,
    /// The jobs from which readers choose.
    visible_jobs: Mutex<VecDeque<String>>,
    /// Whether dispatchers create no further jobs.
    no_more_jobs: AtomicBool,
    /// Whether all clients stop.
    stopped: AtomicBool,
}

/// A job that clients run.
struct RunningJob {
    plan: Plan,
    batches: Mutex<VecDeque<Vec<Mark>>>,
    done: AtomicUsize,
    ended: AtomicBool,
}

impl Clients {
    pub fn new(environment: Arc<Environment>, log: Arc<Log>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            environment,
            log,
            seed,
            jobs: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            visible_jobs: Mutex::default(),
            no_more_jobs: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        })
    }

    /// Stops the creation of jobs. Running jobs continue.
    pub fn stop_creating_jobs(&self) {
        self.no_more_jobs.store(true, Ordering::Relaxed);
    }

    /// Makes all clients stop.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// The number of jobs that clients saw end.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// Runs one job after another until no more jobs are to be created.
    pub async fn run_jobs(self: Arc<Self>) {
        while !self.no_more_jobs.load(Ordering::Relaxed) {
            let number = self.jobs.fetch_add(1, Ordering::Relaxed);
            let mut random = self.random(number);
            self.clone().run(Plan::random(number, &mut random), random).await;
        }
    }

    /// Polls random jobs until the clients stop.
    pub async fn poll(self: Arc<Self>, number: usize) {
        let mut random = self.random(1_000_000 + number);
        while !self.is_stopped() {
            sleep(millis(10, 40, &mut random)).await;
            let Some(job) = self.random_visible_job(&mut random) else { continue };
            match random.below(10) {
                0 => drop(self.get(&job, &mut random).await),
                1 => self.claim(&mut random).await,
                2 => {
                    let more = (0..BATCH_READ).filter_map(|_| self.random_visible_job(&mut random));
                    let jobs: BTreeSet<String> = more.chain([job]).collect();
                    self.read_batch(jobs.into_iter().collect(), &mut random).await;
                }
                _ => drop(self.read(&job, &mut random).await),
            }
        }
    }

    /// Reads the job once at every gateway.
    pub async fn read_everywhere(&self, job: &str) {
        for gateway in 0..self.environment.nodes.len() {
            self.progress_from(gateway, job).await;
        }
    }

    async fn run(self: Arc<Self>, plan: Plan, mut random: Random) {
        while !matches!(self.create(&plan, &mut random).await, Reply::Job(_)) {
            if self.is_stopped() {
                return;
            }
            sleep(millis(50, 300, &mut random)).await;
        }
        self.log.job(plan.job.clone());
        self.make_visible(&plan.job.id);
        let batches = Mutex::new(plan.batches.iter().cloned().collect());
        let job = Arc::new(RunningJob { plan, batches, done: AtomicUsize::new(0), ended: AtomicBool::new(false) });
        let mut tasks = JoinSet::new();
        for _ in 0..WORKERS {
            tasks.spawn(self.clone().work(job.clone(), fork(&mut random)));
        }
        if let Some(percent) = job.plan.cancelled_after {
            tasks.spawn(self.clone().cancel_after(job.clone(), percent, fork(&mut random)));
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        self.wait_for_end(&job, &mut random).await;
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Reports batches until none remains or the job has ended.
    async fn work(self: Arc<Self>, job: Arc<RunningJob>, mut random: Random) {
        let mut redelivered = JoinSet::new();
        let pause = (job.plan.work_millis * WORKERS / job.plan.batches.len().max(1)).min(MAX_PAUSE_MILLIS);
        loop {
            sleep(millis(pause / 2, pause + pause / 2 + 1, &mut random)).await;
            let batch = job.batches.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(batch) = batch.filter(|_| !job.has_ended()) else { break };
            self.report(&job, &batch, &mut random).await;
            job.done.fetch_add(1, Ordering::Relaxed);
            if random.one_in(REDELIVERED_ONE_IN) {
                let (clients, job, mut random) = (self.clone(), job.clone(), fork(&mut random));
                redelivered.spawn(async move {
                    sleep(millis(0, 3_000, &mut random)).await;
                    clients.report(&job, &batch, &mut random).await;
                });
            }
        }
        while let Some(task) = redelivered.join_next().await {
            task.unwrap();
        }
    }

    /// Sends a batch until it is answered, as a queue with redelivery does.
    async fn report(&self, job: &RunningJob, batch: &[Mark], random: &mut Random) {
        while !self.is_stopped() {
            let reply = self.send(&job.plan.job.id, batch, random).await;
            if let Reply::Reported { dispositions, state } = &reply {
                if state.is_final() || dispositions.contains(&Disposition::Superseded) {
                    job.ended.store(true, Ordering::Relaxed);
                }
                return;
            }
            sleep(millis(50, 300, random)).await;
        }
    }

    async fn cancel_after(self: Arc<Self>, job: Arc<RunningJob>, percent: usize, mut random: Random) {
        while 100 * job.done.load(Ordering::Relaxed) < percent * job.plan.batches.len() {
            if job.has_ended() || self.is_stopped() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        while !self.is_stopped() {
            match self.cancel(&job.plan.job.id, &mut random).await {
                Reply::Job(_) => {
                    self.log.count_fault(FaultKind::Cancelled);
                    break;
                }
                Reply::Error { code, .. } if code == "FailedPrecondition" => break,
                _ => sleep(millis(50, 300, &mut random)).await,
            }
        }
    }

    /// Waits until the job has ended. If LIVE reads show pending tasks although every result was acknowledged, Redis
    /// and the gateways that held the marks have lost these marks. The results are then reported again.
    async fn wait_for_end(&self, job: &RunningJob, random: &mut Random) {
        let mut incomplete_since = None;
        while !self.is_stopped() {
            let reply = self.read(&job.plan.job.id, random).await;
            match reply {
                Reply::Progress(observed) if observed.state.is_final() => return,
                Reply::Progress(ObservedProgress { source: Source::Live, counts: Some(counts), .. })
                    if counts.iter().any(|[pending, ..]| *pending > 0) =>
                {
                    let since = *incomplete_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > REPORT_AGAIN_AFTER {
                        for batch in &job.plan.batches {
                            self.report(job, batch, random).await;
                        }
                        incomplete_since = None;
                    }
                }
                Reply::Progress(_) => incomplete_since = None,
                _ => {}
            }
            sleep(millis(50, 200, random)).await;
        }
    }

    async fn create(&self, plan: &Plan, random: &mut Random) -> Reply {
        let request = plan.request();
        let create = async |client: Client| client.create(request).await.map(|job| Reply::Job(state(job.state())));
        self.call(self.random_gateway(random), &plan.job.id, Request::Create, create).await
    }

    async fn cancel(&self, job: &str, random: &mut Random) -> Reply {
        let cancel =
            async |client: Client| client.cancel(job, "enough").await.map(|job| Reply::Job(state(job.state())));
        self.call(self.random_gateway(random), job, Request::Cancel, cancel).await
    }

    async fn get(&self, job: &str, random: &mut Random) -> Reply {
        let get = async |client: Client| client.get(job).await.map(|job| Reply::Job(state(job.state())));
        self.call(self.random_gateway(random), job, Request::Get, get).await
    }

    async fn read(&self, job: &str, random: &mut Random) -> Reply {
        self.progress_from(self.random_gateway(random), job).await
    }

    async fn progress_from(&self, gateway: usize, job: &str) -> Reply {
        let read =
            async |client: Client| client.progress(job).await.map(|progress| Reply::Progress(observed(&progress)));
        self.call(gateway, job, Request::Progress, read).await
    }

    /// Reads several jobs in one call and records a reply for each.
    async fn read_batch(&self, jobs: Vec<String>, random: &mut Random) {
        let gateway = self.random_gateway(random);
        let endpoint = self.environment.nodes[gateway].endpoint();
        let sent = self.environment.now();
        let answer = endpoint.client.batch_progress(jobs.clone()).await;
        let answered = self.environment.now();
        let replies = match answer {
            Ok(results) => results.iter().map(|result| (result.job_id.clone(), batch_result(result))).collect(),
            Err(status) => jobs.into_iter().map(|job| (job, error_reply(&status))).collect::<Vec<_>>(),
        };
        for (job, reply) in replies {
            self.log.call(Call {
                job,
                gateway,
                process: endpoint.process,
                sent,
                answered,
                request: Request::Progress,
                reply,
            });
        }
    }

    /// Claims a job, and records the reply without working on the job.
    async fn claim(&self, random: &mut Random) {
        let gateway = self.random_gateway(random);
        let endpoint = self.environment.nodes[gateway].endpoint();
        let sent = self.environment.now();
        let answer = endpoint.client.next_job(&[]).await;
        let answered = self.environment.now();
        let (job, reply) = match answer {
            Ok(answer) => match &answer.job {
                Some(job) => (job.job_id.clone(), claimed_job(job, answer.source_reason())),
                None => (String::new(), Reply::NoJob),
            },
            Err(status) => (String::new(), error_reply(&status)),
        };
        self.log.call(Call { job, gateway, process: endpoint.process, sent, answered, request: Request::Claim, reply });
    }

    async fn send(&self, job: &str, batch: &[Mark], random: &mut Random) -> Reply {
        let results = batch.iter().map(task_result).collect();
        let report = async |client: Client| {
            let answer = client.report(job, results).await?;
            let dispositions = answer.dispositions().map(disposition).collect();
            Ok(Reply::Reported { dispositions, state: state(answer.job_state()) })
        };
        self.call(self.random_gateway(random), job, Request::Report(batch.to_vec()), report).await
    }

    /// Calls a gateway, and records the call with its reply.
    async fn call(
        &self,
        gateway: usize,
        job: &str,
        request: Request,
        call: impl AsyncFnOnce(Client) -> CallResult<Reply>,
    ) -> Reply {
        let endpoint = self.environment.nodes[gateway].endpoint();
        let sent = self.environment.now();
        let reply = call(endpoint.client).await.unwrap_or_else(|status| error_reply(&status));
        let answered = self.environment.now();
        let (job, process) = (job.to_owned(), endpoint.process);
        self.log.call(Call { job, gateway, process, sent, answered, request, reply: reply.clone() });
        reply
    }

    /// A random job that readers may read.
    fn random_visible_job(&self, random: &mut Random) -> Option<String> {
        let visible_jobs = self.visible_jobs.lock().unwrap_or_else(PoisonError::into_inner);
        (!visible_jobs.is_empty()).then(|| visible_jobs[random.below(visible_jobs.len())].clone())
    }

    fn random_gateway(&self, random: &mut Random) -> usize {
        random.below(self.environment.nodes.len())
    }

    /// Lets readers choose the job.
    fn make_visible(&self, job: &str) {
        let mut visible_jobs = self.visible_jobs.lock().unwrap_or_else(PoisonError::into_inner);
        visible_jobs.push_back(job.to_owned());
        if visible_jobs.len() > VISIBLE_JOBS {
            visible_jobs.pop_front();
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn random(&self, number: usize) -> Random {
        Random::seeded(self.seed.wrapping_mul(1_000_003).wrapping_add(number as u64))
    }
}

impl RunningJob {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

fn fork(random: &mut Random) -> Random {
    Random::seeded(random.below(usize::MAX) as u64)
}

fn millis(least: usize, most: usize, random: &mut Random) -> Duration {
    Duration::from_millis((least + random.below(most - least)) as u64)
}
