//! The clients: dispatchers that create jobs and sometimes cancel them, workers that report and redeliver, readers that
//! poll. Each goes through any gateway, sends again what was not answered, and writes down what it saw.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::history::{Asked, Call, Disposition, Mark, Said, Shown, Source};
use super::log::Log;
use super::plan::Plan;
use super::schedule::Kind;
use super::stand::Stand;
use super::words::{disposition, handed_out, one_of_several, refused, result, shown, state};
use crate::support::{Answer, Client, Random};

/// How many work on one job.
const WORKERS: usize = 3;
/// How long a worker of a job with few batches rests, in milliseconds.
const LONGEST_PAUSE: usize = 2_000;
/// Of so many acknowledged batches one is delivered again.
const REDELIVERED: usize = 10;
/// How many jobs readers look at: those under way and the last that ended.
const LOOKED_AT: usize = 30;
/// How many more jobs are read in a call that reads several, at most.
const SEVERAL: usize = 5;
/// What Redis lost together with the gateways that knew it is reported again, once reads say so for so long.
const MISSED_FOR: Duration = Duration::from_secs(2);

/// All clients.
pub struct Crew {
    stand: Arc<Stand>,
    log: Arc<Log>,
    seed: u64,
    jobs: AtomicUsize,
    ended: AtomicUsize,
    board: Mutex<VecDeque<String>>,
    /// No job is created any more.
    over: AtomicBool,
    /// Nobody waits for anything any more.
    given_up: AtomicBool,
}

/// A job under way.
struct Work {
    plan: Plan,
    batches: Mutex<VecDeque<Vec<Mark>>>,
    done: AtomicUsize,
    ended: AtomicBool,
}

impl Crew {
    pub fn new(stand: Arc<Stand>, log: Arc<Log>, seed: u64) -> Arc<Self> {
        Arc::new(Self {
            stand,
            log,
            seed,
            jobs: AtomicUsize::new(0),
            ended: AtomicUsize::new(0),
            board: Mutex::default(),
            over: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
        })
    }

    /// Creates no more jobs.
    pub fn last_round(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// Stops.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// How many jobs were seen to end.
    pub fn ended(&self) -> usize {
        self.ended.load(Ordering::Relaxed)
    }

    /// Runs one job after the other.
    pub async fn slot(self: Arc<Self>) {
        while !self.over.load(Ordering::Relaxed) {
            let number = self.jobs.fetch_add(1, Ordering::Relaxed);
            let mut random = self.random(number);
            self.clone().run(Plan::draw(number, &mut random), random).await;
        }
    }

    /// Polls, until nobody waits any more.
    pub async fn reader(self: Arc<Self>, number: usize) {
        let mut random = self.random(1_000_000 + number);
        while !self.is_given_up() {
            sleep(millis(10, 40, &mut random)).await;
            let Some(job) = self.shown_job(&mut random) else { continue };
            match random.below(10) {
                0 => drop(self.get(&job, &mut random).await),
                1 => self.next(&mut random).await,
                2 => {
                    let others = (0..SEVERAL).filter_map(|_| self.shown_job(&mut random));
                    let several: BTreeSet<String> = others.chain([job]).collect();
                    self.read_several(several.into_iter().collect(), &mut random).await;
                }
                _ => drop(self.read(&job, &mut random).await),
            }
        }
    }

    /// Asks every gateway once more how the job ended.
    pub async fn read_everywhere(&self, job: &str) {
        for gateway in 0..self.stand.sites.len() {
            self.progress_from(gateway, job).await;
        }
    }

    async fn run(self: Arc<Self>, plan: Plan, mut random: Random) {
        while !matches!(self.create(&plan, &mut random).await, Said::Job(_)) {
            if self.is_given_up() {
                return;
            }
            sleep(millis(50, 300, &mut random)).await;
        }
        self.log.job(plan.job.clone());
        self.show(&plan.job.id);
        let batches = Mutex::new(plan.batches.iter().cloned().collect());
        let work = Arc::new(Work { plan, batches, done: AtomicUsize::new(0), ended: AtomicBool::new(false) });
        let mut tasks = JoinSet::new();
        for _ in 0..WORKERS {
            tasks.spawn(self.clone().work(work.clone(), fork(&mut random)));
        }
        if let Some(share) = work.plan.cancelled_after {
            tasks.spawn(self.clone().cancel_after(work.clone(), share, fork(&mut random)));
        }
        while let Some(task) = tasks.join_next().await {
            task.unwrap();
        }
        self.see_it_end(&work, &mut random).await;
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes batches until none is left or the job has ended.
    async fn work(self: Arc<Self>, work: Arc<Work>, mut random: Random) {
        let mut redelivered = JoinSet::new();
        let pause = (work.plan.takes * WORKERS / work.plan.batches.len().max(1)).min(LONGEST_PAUSE);
        loop {
            sleep(millis(pause / 2, pause + pause / 2 + 1, &mut random)).await;
            let batch = work.batches.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(batch) = batch.filter(|_| !work.has_ended()) else { break };
            self.report(&work, &batch, &mut random).await;
            work.done.fetch_add(1, Ordering::Relaxed);
            if random.one_in(REDELIVERED) {
                let (crew, work, mut random) = (self.clone(), work.clone(), fork(&mut random));
                redelivered.spawn(async move {
                    sleep(millis(0, 3_000, &mut random)).await;
                    crew.report(&work, &batch, &mut random).await;
                });
            }
        }
        while let Some(task) = redelivered.join_next().await {
            task.unwrap();
        }
    }

    /// Sends a batch until it is taken, as a queue does.
    async fn report(&self, work: &Work, batch: &[Mark], random: &mut Random) {
        while !self.is_given_up() {
            let said = self.send(&work.plan.job.id, batch, random).await;
            if let Said::Reported { dispositions, state } = &said {
                if state.is_final() || dispositions.contains(&Disposition::Superseded) {
                    work.ended.store(true, Ordering::Relaxed);
                }
                return;
            }
            sleep(millis(50, 300, random)).await;
        }
    }

    async fn cancel_after(self: Arc<Self>, work: Arc<Work>, share: usize, mut random: Random) {
        while 100 * work.done.load(Ordering::Relaxed) < share * work.plan.batches.len() {
            if work.has_ended() || self.is_given_up() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        while !self.is_given_up() {
            match self.cancel(&work.plan.job.id, &mut random).await {
                Said::Job(_) => {
                    self.log.injected(Kind::Cancelled);
                    break;
                }
                Said::Refused { code, .. } if code == "FailedPrecondition" => break,
                _ => sleep(millis(50, 300, &mut random)).await,
            }
        }
    }

    /// Waits for the end. A job whose every result was acknowledged, and that reads all the same say LIVE is not
    /// complete, has lost what only dead gateways knew: it is reported again.
    async fn see_it_end(&self, work: &Work, random: &mut Random) {
        let mut missed = None;
        while !self.is_given_up() {
            let said = self.read(&work.plan.job.id, random).await;
            match said {
                Said::Progress(shown) if shown.state.is_final() => return,
                Said::Progress(Shown { source: Source::Live, counts: Some(counts), .. })
                    if counts.iter().any(|[pending, ..]| *pending > 0) =>
                {
                    let since = *missed.get_or_insert_with(Instant::now);
                    if since.elapsed() > MISSED_FOR {
                        for batch in &work.plan.batches {
                            self.report(work, batch, random).await;
                        }
                        missed = None;
                    }
                }
                Said::Progress(_) => missed = None,
                _ => {}
            }
            sleep(millis(50, 200, random)).await;
        }
    }

    async fn create(&self, plan: &Plan, random: &mut Random) -> Said {
        let request = plan.request();
        let create = async |client: Client| client.create(request).await.map(|job| Said::Job(state(job.state())));
        self.call(self.any(random), &plan.job.id, Asked::Create, create).await
    }

    async fn cancel(&self, job: &str, random: &mut Random) -> Said {
        let cancel = async |client: Client| client.cancel(job, "enough").await.map(|job| Said::Job(state(job.state())));
        self.call(self.any(random), job, Asked::Cancel, cancel).await
    }

    async fn get(&self, job: &str, random: &mut Random) -> Said {
        let get = async |client: Client| client.get(job).await.map(|job| Said::Job(state(job.state())));
        self.call(self.any(random), job, Asked::Get, get).await
    }

    async fn read(&self, job: &str, random: &mut Random) -> Said {
        self.progress_from(self.any(random), job).await
    }

    async fn progress_from(&self, gateway: usize, job: &str) -> Said {
        let read = async |client: Client| client.progress(job).await.map(|progress| Said::Progress(shown(&progress)));
        self.call(gateway, job, Asked::Progress, read).await
    }

    /// Reads several jobs in one call: an answer for each.
    async fn read_several(&self, jobs: Vec<String>, random: &mut Random) {
        let gateway = self.any(random);
        let door = self.stand.sites[gateway].door();
        let sent = self.stand.now();
        let answer = door.client.batch_progress(jobs.clone()).await;
        let answered = self.stand.now();
        let said = match answer {
            Ok(results) => results.iter().map(|result| (result.job_id.clone(), one_of_several(result))).collect(),
            Err(status) => jobs.into_iter().map(|job| (job, refused(&status))).collect::<Vec<_>>(),
        };
        for (job, said) in said {
            self.log.call(Call { job, gateway, life: door.life, sent, answered, asked: Asked::Progress, said });
        }
    }

    /// Asks for a job to work on.
    async fn next(&self, random: &mut Random) {
        let gateway = self.any(random);
        let door = self.stand.sites[gateway].door();
        let sent = self.stand.now();
        let answer = door.client.next_job(&[]).await;
        let answered = self.stand.now();
        let (job, said) = match answer {
            Ok(answer) => match &answer.job {
                Some(job) => (job.job_id.clone(), handed_out(job, answer.source_reason())),
                None => (String::new(), Said::NoJob),
            },
            Err(status) => (String::new(), refused(&status)),
        };
        self.log.call(Call { job, gateway, life: door.life, sent, answered, asked: Asked::Next, said });
    }

    async fn send(&self, job: &str, batch: &[Mark], random: &mut Random) -> Said {
        let results = batch.iter().map(result).collect();
        let report = async |client: Client| {
            let answer = client.report(job, results).await?;
            let dispositions = answer.dispositions().map(disposition).collect();
            Ok(Said::Reported { dispositions, state: state(answer.job_state()) })
        };
        self.call(self.any(random), job, Asked::Report(batch.to_vec()), report).await
    }

    /// Calls a gateway, and writes down what came of it.
    async fn call(
        &self,
        gateway: usize,
        job: &str,
        asked: Asked,
        call: impl AsyncFnOnce(Client) -> Answer<Said>,
    ) -> Said {
        let door = self.stand.sites[gateway].door();
        let sent = self.stand.now();
        let said = call(door.client).await.unwrap_or_else(|status| refused(&status));
        let answered = self.stand.now();
        let (job, life) = (job.to_owned(), door.life);
        self.log.call(Call { job, gateway, life, sent, answered, asked, said: said.clone() });
        said
    }

    /// One of the jobs that readers look at.
    fn shown_job(&self, random: &mut Random) -> Option<String> {
        let board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        (!board.is_empty()).then(|| board[random.below(board.len())].clone())
    }

    fn any(&self, random: &mut Random) -> usize {
        random.below(self.stand.sites.len())
    }

    /// Lets readers look at the job.
    fn show(&self, job: &str) {
        let mut board = self.board.lock().unwrap_or_else(PoisonError::into_inner);
        board.push_back(job.to_owned());
        if board.len() > LOOKED_AT {
            board.pop_front();
        }
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    fn random(&self, number: usize) -> Random {
        Random::seeded(self.seed.wrapping_mul(1_000_003).wrapping_add(number as u64))
    }
}

impl Work {
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
