//! Simulated runs, in which the remaining time is known. The estimate must be within a factor of two of it, or absent,
//! at every moment. `tests/it/tracker/rate.rs` tests that the tracker computes the rates that are simulated here.

use highwater::domain::{Counts, Rates, StageRate};

/// When the simulated runs begin, in milliseconds since 1970.
const START: u64 = 1_700_000_000_000;
/// The number of random runs of each shape.
const RUNS: u64 = 60;
/// The number of moments at which each run is observed, at equal distances.
const MOMENTS: u32 = 1000;

/// A report: its time in seconds, its stage, and how many tasks it says have succeeded and failed.
#[derive(Debug, Clone, Copy)]
struct Report(f64, usize, u32, u32);

/// A run of a job.
#[derive(Debug)]
struct Run {
    tasks: u32,
    stages: usize,
    reports: Vec<Report>,
}

/// The estimates during a run.
#[derive(Debug, Default)]
struct Estimates {
    /// The largest factor between an estimate and the remaining time, with the time, the estimate and the remaining
    /// time.
    worst: (f64, f64, f64, f64),
    /// The share of the moments after 20 seconds that have an estimate.
    present: f64,
}

/// Pseudo-random numbers that depend only on the seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            random.between(0.0, 1.0);
        }
        random
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        low + (high - low) * f64::from(u32::try_from(self.0 >> 32).unwrap()) / 4_294_967_296.0
    }

    /// A number whose logarithm is evenly distributed.
    fn log(&mut self, low: f64, high: f64) -> f64 {
        self.between(low.ln(), high.ln()).exp()
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.between(0.0, 1.0) < probability
    }
}

/// The parameters of a shape.
#[derive(Debug, Clone, Copy)]
struct Parameters {
    tasks: u32,
    /// Results per second, on average.
    rate: f64,
    /// Tasks per report.
    batch: u32,
    /// The largest deviation of the time between two reports from its average, as a share.
    jitter: f64,
}

impl Parameters {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the numbers are small and positive")]
    fn random(random: &mut Random) -> Self {
        loop {
            let (tasks, rate) = (random.log(50.0, 1e6) as u32, random.log(0.2, 5000.0));
            let batch = if random.chance(0.5) { 1 } else { random.log(1.0, 1000.0) as u32 };
            let jitter = if random.chance(0.3) { 0.0 } else { random.between(0.0, 0.4) };
            if tasks / batch <= 30_000 && f64::from(tasks) / rate >= 5.0 {
                return Self { tasks, rate, batch, jitter };
            }
        }
    }

    /// The average duration of one stage.
    fn duration(self) -> f64 {
        f64::from(self.tasks) / self.rate
    }

    fn with_rate(self, factor: f64) -> Self {
        Self { rate: self.rate * factor, ..self }
    }

    /// Whether an estimate must be present most of the time: the run is long, and reports arrive every second.
    fn is_dense(self) -> bool {
        f64::from(self.batch) / self.rate <= 1.0 && self.duration() >= 100.0
    }
}

impl Run {
    fn new(tasks: u32, stages: usize) -> Self {
        Self { tasks, stages, reports: Vec::new() }
    }

    /// Adds the reports of `count` tasks at a stage, beginning at `start`. `speed` maps the share of them that is done
    /// to a factor for the rate. Returns the time of the last report.
    fn report(
        &mut self,
        random: &mut Random,
        parameters: Parameters,
        (stage, start, count): (usize, f64, u32),
        speed: impl Fn(f64) -> f64,
    ) -> f64 {
        let (mut time, mut done) = (start, 0);
        while done < count {
            let batch = parameters.batch.min(count - done);
            let jitter = 1.0 + random.between(-parameters.jitter, parameters.jitter);
            let rate = parameters.rate * speed(f64::from(done) / f64::from(count));
            time += f64::from(batch) / rate * jitter;
            done += batch;
            self.reports.push(Report(time, stage, batch, 0));
        }
        time
    }

    /// Changes the time of each report.
    fn map_times(&mut self, map: impl Fn(f64) -> f64) {
        self.reports.iter_mut().for_each(|report| report.0 = map(report.0));
    }

    fn estimates(mut self) -> Estimates {
        self.reports.sort_by(|a, b| a.0.total_cmp(&b.0));
        let end = self.reports.last().unwrap().0;
        let mut rates = Rates { stages: vec![StageRate::default(); self.stages], open_millis: START, now_millis: 0 };
        let mut counts = Counts::none(self.tasks, self.stages);
        let mut reports = self.reports.iter().peekable();
        let (mut estimates, mut late, mut present) = (Estimates::default(), 0, 0);
        for moment in 0..MOMENTS {
            let time = end * f64::from(moment) / f64::from(MOMENTS);
            while let Some(report) = reports.next_if(|report| report.0 <= time) {
                record(&mut rates, &mut counts, *report);
            }
            rates.now_millis = millis(time);
            let eta = rates.eta(&counts).map(|eta| eta.as_secs_f64());
            (late, present) = (late + u32::from(time >= 20.0), present + u32::from(time >= 20.0 && eta.is_some()));
            let left = end - time;
            if let Some(eta) = eta.filter(|eta| (eta / left).max(left / eta) > estimates.worst.0) {
                estimates.worst = ((eta / left).max(left / eta), time, eta, left);
            }
        }
        Estimates { present: f64::from(present) / f64::from(late.max(1)), ..estimates }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the times are positive")]
fn millis(seconds: f64) -> u64 {
    START + (seconds * 1000.0) as u64
}

/// Records a report as the tracker does. A task that fails is skipped at all later stages.
fn record(rates: &mut Rates, counts: &mut Counts, Report(time, stage, succeeded, failed): Report) {
    rates.stages[stage].record(millis(time), (succeeded + failed).into());
    counts.stages[stage].succeeded += succeeded;
    counts.stages[stage].failed += failed;
    counts.stages[stage + 1..].iter_mut().for_each(|later| later.skipped += failed);
}

/// A run of one stage at a constant speed.
fn steady(random: &mut Random, parameters: Parameters) -> Run {
    let mut run = Run::new(parameters.tasks, 1);
    run.report(random, parameters, (0, 0.0, parameters.tasks), |_| 1.0);
    run
}

/// A run that begins with the results of an earlier one, reported at once or within two seconds.
fn resumed(random: &mut Random, parameters: Parameters) -> Run {
    let mut run = Run::new(parameters.tasks, 1);
    let earlier = parameters.tasks / 10 * if random.chance(0.5) { 5 } else { 3 };
    let begin = if random.chance(0.5) {
        run.reports.push(Report(0.01, 0, earlier, 0));
        0.01
    } else {
        let batch = parameters.batch.max(earlier / 1000);
        let burst = Parameters { batch, rate: f64::from(earlier) / 2.0, ..parameters };
        run.report(random, burst, (0, 0.0, earlier), |_| 1.0)
    };
    run.report(random, parameters, (0, begin, parameters.tasks - earlier), |_| 1.0);
    run
}

/// A run whose stages are reported independently, the first one faster.
fn two_speeds(random: &mut Random, parameters: Parameters) -> Run {
    let mut run = Run::new(parameters.tasks, 2);
    let faster = random.log(1.5, 100.0);
    run.report(random, parameters.with_rate(faster), (0, 0.0, parameters.tasks), |_| 1.0);
    run.report(random, parameters, (1, 0.0, parameters.tasks), |_| 1.0);
    run
}

/// A run whose second stage begins when the first one is done.
fn sequential(random: &mut Random, parameters: Parameters) -> Run {
    let mut run = Run::new(parameters.tasks, 2);
    let first = random.log(0.3, 3.0);
    let end = run.report(random, parameters.with_rate(first), (0, 0.0, parameters.tasks), |_| 1.0);
    run.report(random, parameters, (1, end, parameters.tasks), |_| 1.0);
    run
}

/// A run whose tasks fail at the first stage. The second stage begins at the start or when the first one is done.
fn failing(random: &mut Random, parameters: Parameters) -> Run {
    let mut run = Run::new(parameters.tasks, 2);
    let one_by_one = Parameters { batch: 1, ..parameters };
    let mut end = run.report(random, one_by_one, (0, 0.0, parameters.tasks), |_| 1.0);
    let mut failed = 0;
    let every = [2, 5, 20][usize::from(random.chance(0.5)) + usize::from(random.chance(0.5))];
    for Report(_, _, succeeded, fails) in run.reports.iter_mut().step_by(every) {
        (*succeeded, *fails) = (0, 1);
        failed += 1;
    }
    let rate = parameters.rate * f64::from(parameters.tasks - failed) / f64::from(parameters.tasks);
    if random.chance(0.5) {
        end = 0.0;
    }
    run.report(random, Parameters { rate, ..one_by_one }, (1, end, parameters.tasks - failed), |_| 1.0);
    run
}

/// A run that stops for up to 6 % of its time.
fn paused(random: &mut Random, parameters: Parameters) -> Run {
    let mut run = steady(random, parameters);
    let (begin, length) = (random.between(0.2, 0.8), random.between(0.0, 0.06));
    let duration = parameters.duration();
    run.map_times(|time| if time < begin * duration { time } else { time + length * duration });
    run
}

/// A run that stops for hours after the first result.
fn late(random: &mut Random, parameters: Parameters) -> Run {
    let mut run = steady(random, parameters);
    run.map_times(|time| time + 7200.0);
    run.reports[0].0 = 0.0;
    run
}

/// A run whose speed decreases by half, linearly or exponentially.
fn slowing_down(random: &mut Random, parameters: Parameters) -> Run {
    let mut run = Run::new(parameters.tasks, 1);
    let exponential = random.chance(0.5);
    let speed = |done: f64| if exponential { (-0.7 * done).exp() } else { 1.0 - 0.5 * done };
    run.report(random, parameters, (0, 0.0, parameters.tasks), speed);
    run
}

/// A run that pauses regularly.
fn bursts(random: &mut Random, parameters: Parameters) -> Run {
    let mut run = steady(random, parameters);
    let (period, share) = (random.log(0.5, 10.0), random.between(0.3, 0.9));
    let work = period * share;
    run.map_times(|time| (time / work).floor() * period + time % work);
    run
}

/// A run of workers that begin and end their tasks together.
fn clusters(random: &mut Random, parameters: Parameters) -> Run {
    let workers = [2, 7, 40][usize::from(random.chance(0.5)) + usize::from(random.chance(0.5))];
    let mut run = Run::new(parameters.tasks, 1);
    run.report(random, Parameters { batch: workers, ..parameters }, (0, 0.0, parameters.tasks), |_| 1.0);
    let single = |Report(time, stage, tasks, _): Report| {
        (0..tasks).map(move |worker| Report(time + 0.001 * f64::from(worker), stage, 1, 0))
    };
    run.reports = run.reports.into_iter().flat_map(single).collect();
    run
}

/// A run whose last task takes longer.
fn straggler(random: &mut Random, parameters: Parameters) -> Run {
    let mut run = steady(random, Parameters { batch: 1, ..parameters });
    run.reports.last_mut().unwrap().0 += (0.08 * parameters.duration()).min(50.0) * random.between(0.0, 1.0);
    run
}

type Shape = fn(&mut Random, Parameters) -> Run;

/// All shapes; whether an estimate must be present in at least 80 % of each run; and the smallest average of this
/// share. The averages are for runs in which reports arrive every second. They show that no shape goes without
/// estimates. Nothing can be known during the hours in which a late run waits, nor about a stage that has not begun.
const SHAPES: [(&str, Shape, bool, f64); 11] = [
    ("steady", steady, true, 0.9),
    ("resumed", resumed, true, 0.85),
    ("two speeds", two_speeds, true, 0.9),
    ("sequential", sequential, false, 0.35),
    ("failing", failing, false, 0.6),
    ("paused", paused, true, 0.85),
    ("late", late, false, 0.05),
    ("slowing down", slowing_down, false, 0.85),
    ("bursts", bursts, false, 0.85),
    ("clusters", clusters, false, 0.8),
    ("straggler", straggler, false, 0.85),
];

#[test]
fn estimates_of_random_runs_are_within_a_factor_of_two_or_absent() {
    for (name, shape, mostly_present, least_average) in SHAPES {
        let mut dense = Vec::new();
        for seed in 1..=RUNS {
            let mut random = Random::new(seed);
            let parameters = Parameters::random(&mut random);
            let estimates = shape(&mut random, parameters).estimates();
            assert!(estimates.worst.0 <= 2.0, "{name}, seed {seed}: {parameters:?} {estimates:?}");
            if parameters.is_dense() {
                let enough = !mostly_present || estimates.present >= 0.8;
                assert!(enough, "{name}, seed {seed}: {parameters:?} {estimates:?}");
                dense.push(estimates.present);
            }
        }
        let runs = f64::from(u32::try_from(dense.len()).unwrap());
        assert!(runs > 10.0, "{name}: only {runs} runs had to have an estimate");
        let average = dense.iter().sum::<f64>() / runs;
        assert!(average >= least_average, "{name}: estimates were present in {average} of the runs");
    }
}

/// A run with a report at every second.
fn every_second(tasks: u32, stages: usize) -> (Random, Parameters, Run) {
    (Random::new(1), Parameters { tasks, rate: 1.0, batch: 1, jitter: 0.0 }, Run::new(tasks, stages))
}

#[test]
fn estimate_of_a_resumed_run_ignores_the_results_of_the_earlier_one() {
    for reports in [1, 5, 50] {
        let (mut random, parameters, mut run) = every_second(100, 1);
        (0..reports).for_each(|n| run.reports.push(Report(0.005 * f64::from(n), 0, 50 / reports, 0)));
        run.report(&mut random, parameters, (0, 0.0, 50), |_| 1.0);
        let estimates = run.estimates();
        assert!(estimates.worst.0 < 1.1 && estimates.present >= 0.8, "{reports} reports: {estimates:?}");
    }
}

#[test]
fn estimate_of_two_stages_follows_the_slow_one() {
    let (mut random, parameters, mut run) = every_second(2000, 2);
    run.report(&mut random, parameters.with_rate(50.0), (0, 0.0, 2000), |_| 1.0);
    run.report(&mut random, parameters, (1, 0.0, 2000), |_| 1.0);
    let estimates = run.estimates();
    assert!(estimates.worst.0 < 1.1 && estimates.present >= 0.9, "{estimates:?}");
}

#[test]
fn estimate_during_and_after_a_pause_is_not_distorted() {
    for pause in [5.0, 10.0, 20.0, 30.0] {
        let (mut random, parameters, mut run) = every_second(300, 1);
        run.report(&mut random, parameters, (0, 0.0, 300), |_| 1.0);
        run.map_times(|time| if time <= 100.0 { time } else { time + pause });
        let estimates = run.estimates();
        assert!(estimates.worst.0 <= 1.7 && estimates.present >= 0.8, "{pause} s: {estimates:?}");
    }
}
