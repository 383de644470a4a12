//! The speed of each stage, and the remaining time that follows from it. `report.lua` runs the formulas of
//! [`StageRate::record`] in the same order of operations on doubles, so both compute the same numbers
//! (`tests/it/tracker/rate.rs`). The constants were found by simulation (`tests/it/estimates.rs`).

use std::time::Duration;

use super::Counts;

/// The unit of stored rates: a rate of 1 means one result in 100,000 seconds.
const UNITS: f64 = 100_000.0;
/// The largest stored rate, which takes 5 bytes: eleven million results per second.
pub const MAX_RATE: u64 = (1 << 40) - 1;
/// The averages forget what is older than this span, in milliseconds, or than [`MAX_GAPS`] gaps if these are longer.
const MAX_SPAN: f64 = 300_000.0;
const MAX_GAPS: f64 = 32.0;
/// A gap up to this length, in milliseconds, counts completely. A longer one counts completely unless it is a pause.
const LEAST_PAUSE: f64 = 20_000.0;
/// A gap between marks counts in the fast average up to this multiple of the usual gap. A last mark that is older says
/// that the stage has stopped.
const USUAL_GAPS: f64 = 4.0;
/// A gap up to this length, in milliseconds, is always usual.
const LEAST_GAP: f64 = 1000.0;
/// A rate needs this span, in milliseconds, and as many gaps.
const NEEDED_SPAN: f64 = 15_000.0;
const NEEDED_GAPS: f64 = 16.0;
/// The averages agree if neither is larger than the other by this factor.
const AGREEMENT: f64 = 1.6;
/// The remaining time is not estimated if it is shorter than this number of gaps, or than this share of the time since
/// the tracker was opened, but at most [`LONGEST_TAIL`]: single tasks can take longer than the average.
const TAIL_GAPS: f64 = 3.0;
const TAIL_SHARE: f64 = 0.1;
const LONGEST_TAIL: f64 = 60_000.0;
const SHORTEST_TAIL: f64 = 1000.0;

/// The recent speed of one stage, as the tracker stores it. Two averages weigh the past differently: the weight of a
/// result at half of the span is 1/2 in the slow average and 1/8 in the fast one, relative to a result at its end. A
/// burst at the start is forgotten quickly, because the span begins with it. If the averages disagree, the speed is
/// changing and unknown.
///
/// A result is a first report of a task at the stage. A skipped task is not a result, because it says nothing about the
/// speed at which the stage will be reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageRate {
    /// When the last result was recorded, in milliseconds since 1970; 0 if none was.
    pub last: u64,
    /// The time over which the averages extend, in milliseconds.
    pub span: u32,
    /// The average gap between marks, in milliseconds. A long gap weighs more than a short one, so that the average of
    /// results that arrive in clusters is the distance between the clusters.
    pub gap: u32,
    /// The slow average, in results per 100,000 seconds. It counts gaps, but at most as long as the span.
    pub slow: u64,
    /// The fast average, in results per 100,000 seconds. It counts gaps only up to four usual gaps, so a pause does not
    /// change it.
    pub fast: u64,
}

/// The recent speed of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rates {
    /// The speed of each stage, in stage order.
    pub stages: Vec<StageRate>,
    /// When the tracker was opened or last restored, in milliseconds since 1970.
    pub open_millis: u64,
    /// The time of the read by Redis's clock, in milliseconds since 1970.
    pub now_millis: u64,
}

impl StageRate {
    /// Records `results` results at `now`, in milliseconds since 1970. The first ones only start the clock: it is
    /// unknown how long they took.
    pub fn record(&mut self, now: u64, results: u64) {
        let (last, span, gap) = (self.last, f64::from(self.span), f64::from(self.gap));
        self.last = now;
        let waited = double(now.saturating_sub(last));
        let counted = waited.min(span.max(USUAL_GAPS * gap).max(LEAST_PAUSE));
        if last == 0 || span + counted == 0.0 {
            return;
        }
        let usual = counted.min((span / 8.0).max(USUAL_GAPS * gap).max(LEAST_GAP));
        let (results, w, v) = (double(results) * 1000.0 * UNITS, span / (span + counted), span / (span + usual));
        let (w2, v2) = (w * w, v * v);
        self.slow = whole(double(self.slow) * w2 + results * (1.0 + w) / (span + counted), MAX_RATE);
        self.fast = whole(double(self.fast) * (v2 * v2) + results * (1.0 + v + v2 + v2 * v) / (span + usual), MAX_RATE);
        let gap = gap * v2 + usual * (1.0 - v2) + 0.5;
        let span = (span + counted).min(MAX_SPAN.max(MAX_GAPS * gap));
        self.gap = u32::try_from(whole(gap, u32::MAX.into())).unwrap_or(u32::MAX);
        self.span = u32::try_from(whole(span, u32::MAX.into())).unwrap_or(u32::MAX);
    }

    /// Returns the results per second, or `None` if they are unknown at `now`: there are too few results yet, the speed
    /// is changing, or the stage has stopped.
    fn per_second(self, now: u64) -> Option<f64> {
        let (span, gap, slow, fast) = (f64::from(self.span), f64::from(self.gap), double(self.slow), double(self.fast));
        let known = span >= NEEDED_SPAN.max(NEEDED_GAPS * gap) && slow > 0.0 && fast > 0.0;
        // The distance in either direction, so that a clock that was set back does not keep a stopped stage going.
        let fresh = double(now.abs_diff(self.last)) <= (USUAL_GAPS * gap).max(LEAST_GAP);
        let agrees = slow < fast * AGREEMENT && fast < slow * AGREEMENT;
        (known && fresh && agrees).then(|| (slow * fast).sqrt() / UNITS)
    }

    /// Returns the time until `results` more results, in milliseconds, and the shortest time that can be estimated.
    fn remaining(self, results: f64, now: u64) -> Option<(f64, f64)> {
        let total = results / self.per_second(now)? * 1000.0;
        Some((total - double(self.age(now)), TAIL_GAPS * f64::from(self.gap)))
    }

    fn age(self, now: u64) -> u64 {
        now.saturating_sub(self.last)
    }
}

impl Rates {
    /// Returns the results per second of a stage. Returns `None` if there are too few results yet, if the speed is
    /// changing, or if the stage has stopped.
    pub fn per_second(&self, stage: usize) -> Option<f64> {
        self.stages.get(stage)?.per_second(self.now_millis)
    }

    /// Returns the results per second of all stages whose speed is known, or `None` if there is no such stage.
    pub fn total_per_second(&self) -> Option<f64> {
        let known = self.stages.iter().filter_map(|stage| stage.per_second(self.now_millis));
        known.fold(None, |sum, rate| Some(sum.unwrap_or(0.0) + rate))
    }

    /// Returns the estimated time until nothing is pending, which the slowest stage determines. Returns `None` if
    /// nothing is pending, if the speed of a stage that expects results is unknown, and shortly before the end.
    pub fn eta(&self, counts: &Counts) -> Option<Duration> {
        let elapsed = double(self.now_millis.saturating_sub(self.open_millis));
        let mut shortest = (TAIL_SHARE * elapsed).clamp(SHORTEST_TAIL, LONGEST_TAIL);
        let mut eta = None;
        for (stage, rate) in self.stages.iter().enumerate() {
            let results = expected_results(counts, stage);
            if results > 0.0 {
                let (remaining, here) = rate.remaining(results, self.now_millis)?;
                shortest = shortest.max(here);
                eta = Some(remaining.max(eta.unwrap_or(0.0)));
            }
        }
        eta.filter(|eta| *eta >= shortest).and_then(|eta| Duration::try_from_secs_f64(eta / 1000.0).ok())
    }
}

/// Returns how many reports the pending tasks of a stage will take. Tasks that will fail at the stage before will be
/// skipped. Their number is estimated from the share of failures there so far.
fn expected_results(counts: &Counts, stage: usize) -> f64 {
    let Some(here) = counts.stages.get(stage) else { return 0.0 };
    let pending = double(counts.pending(*here));
    let Some(before) = stage.checked_sub(1).and_then(|before| counts.stages.get(before)) else { return pending };
    let failed = double(u64::from(before.failed) + u64::from(before.skipped));
    let skips = double(counts.pending(*before)) * failed / double(before.done().max(1));
    let expected = pending - skips;
    if expected < 1.0 { 0.0 } else { expected }
}

/// Converts a number to a double. All numbers here are below 2^53: counts, times in milliseconds, and stored rates.
#[expect(clippy::cast_precision_loss, reason = "the numbers are below 2^53")]
fn double(number: u64) -> f64 {
    number as f64
}

/// Rounds down, and limits to the largest number that the header can hold.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the cast saturates")]
fn whole(number: f64, largest: u64) -> u64 {
    (number as u64).min(largest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::StageCounts;

    /// The rates of a job whose stages were reported in steps of one second, each with a number of results per step.
    fn rates(results: &[u64], steps: u64) -> Rates {
        let mut stages = vec![StageRate::default(); results.len()];
        for step in 0..=steps {
            for (stage, results) in stages.iter_mut().zip(results).filter(|(_, results)| **results > 0) {
                stage.record(1_000_000 + 1000 * step, *results);
            }
        }
        Rates { stages, open_millis: 1_000_000, now_millis: 1_000_000 + 1000 * steps }
    }

    fn counts(total: u32, stages: &[[u32; 3]]) -> Counts {
        let stage = |[succeeded, failed, skipped]: &[u32; 3]| StageCounts {
            succeeded: *succeeded,
            failed: *failed,
            skipped: *skipped,
        };
        Counts { total, stages: stages.iter().map(stage).collect() }
    }

    fn seconds(eta: Option<Duration>) -> Option<u64> {
        eta.map(|eta| (eta + Duration::from_millis(500)).as_secs())
    }

    #[test]
    fn slowest_stage_determines_the_eta() {
        let rates = rates(&[50, 1], 30);
        assert_eq!(rates.total_per_second().map(f64::round), Some(51.0));
        assert_eq!(rates.per_second(1).map(f64::round), Some(1.0));
        assert_eq!(seconds(rates.eta(&counts(2000, &[[1500, 0, 0], [30, 0, 0]]))), Some(1970));
        assert_eq!(seconds(rates.eta(&counts(2000, &[[2000, 0, 0], [2000, 0, 0]]))), None, "nothing is pending");
    }

    #[test]
    fn stage_with_pending_work_and_no_rate_has_no_eta() {
        let rates = rates(&[10, 0], 30);
        assert_eq!(rates.eta(&counts(1000, &[[300, 0, 0], [0, 0, 0]])), None);
        assert_eq!(rates.eta(&counts(1000, &[[270, 30, 0], [0, 0, 30]])), None, "skips are not the speed of the stage");
        let all_skipped = rates.eta(&counts(1000, &[[0, 300, 0], [0, 0, 300]]));
        assert_eq!(seconds(all_skipped), Some(70), "the second stage expects no report");
    }

    #[test]
    fn pending_tasks_that_will_be_skipped_are_not_awaited() {
        let rates = rates(&[10, 5], 30);
        assert_eq!(seconds(rates.eta(&counts(1000, &[[150, 150, 0], [150, 0, 150]]))), Some(70));
    }

    #[test]
    fn first_seconds_stops_and_changes_have_no_rate() {
        assert_eq!(rates(&[10], 14).total_per_second(), None);
        assert!(rates(&[10], 17).total_per_second().is_some());
        let mut stopped = rates(&[10], 30);
        stopped.now_millis += 4000;
        assert!(stopped.total_per_second().is_some());
        stopped.now_millis += 1000;
        assert_eq!(stopped.total_per_second(), None, "the last mark is older than four gaps");
        stopped.now_millis = stopped.stages[0].last - 5000;
        assert_eq!(stopped.total_per_second(), None, "the clock was set back");
        let mut faster = rates(&[10], 30);
        (1..=5).for_each(|step| faster.stages[0].record(1_030_000 + 1000 * step, 1000));
        faster.now_millis += 5000;
        assert_eq!(faster.total_per_second(), None);
    }

    #[test]
    fn numbers_at_their_limits_neither_overflow_nor_divide_by_zero() {
        let most = StageRate { last: 1, span: u32::MAX, gap: u32::MAX, slow: MAX_RATE, fast: MAX_RATE };
        for (mut rate, now) in [(most, u64::MAX >> 11), (most, 0), (StageRate::default(), 0)] {
            rate.record(now, 80_000_000);
            rate.record(now, 80_000_000);
            assert!(rate.slow <= MAX_RATE && rate.fast <= MAX_RATE);
        }
    }
}
