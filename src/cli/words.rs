//! Progress in words: what `watch` and `demo` print. Unknown is said, never shown as zero.

use std::time::Duration;

use indicatif::HumanCount;

use crate::grpc::pb::{JobState, Progress, Source, SourceReason, StageProgress};

/// `RUNNING  43 %  812/s  12 s left  LIVE`
pub fn headline(progress: &Progress) -> String {
    let mut parts = vec![state(progress).to_owned()];
    parts.push(progress.percent.map_or_else(|| "how far is not known".to_owned(), |percent| format!("{percent} %")));
    parts.extend(progress.results_per_second.map(|rate| format!("{}/s", HumanCount(rounded(rate)))));
    parts.extend(eta(progress).map(|eta| format!("{} left", duration(eta))));
    parts.push(source(progress));
    parts.join("  ")
}

/// `read 8,577 of 20,000, 23 failed`
pub fn stage(stage: &StageProgress) -> String {
    let total = HumanCount(count(stage.total_count));
    let Some(pending) = stage.pending_count else { return format!("{} ? of {total}", stage.stage) };
    let done = HumanCount(count(stage.total_count - pending));
    format!("{} {done} of {total}{}", stage.stage, troubles(stage))
}

/// `, 23 failed, 4 skipped`; nothing if there are none.
pub fn troubles(stage: &StageProgress) -> String {
    let trouble = |number: Option<i64>, what: &str| {
        number.filter(|number| *number > 0).map(|number| format!(", {} {what}", HumanCount(count(number))))
    };
    trouble(stage.failed_count, "failed").into_iter().chain(trouble(stage.skipped_count, "skipped")).collect()
}

/// All that a progress says, over several lines.
pub fn snapshot(progress: &Progress) -> String {
    let known =
        |number: Option<i64>| number.map_or_else(|| "?".to_owned(), |number| HumanCount(count(number)).to_string());
    let mut lines = vec![headline(progress)];
    lines.push(format!("  {:<16}{:>12}{:>12}{:>12}{:>12}", "", "succeeded", "failed", "skipped", "pending"));
    for stage in &progress.stages {
        let StageProgress { succeeded_count, failed_count, skipped_count, pending_count, .. } = stage;
        let [succeeded, failed, skipped, pending] =
            [succeeded_count, failed_count, skipped_count, pending_count].map(|number| known(*number));
        lines.push(format!("  {:<16}{succeeded:>12}{failed:>12}{skipped:>12}{pending:>12}", stage.stage));
    }
    if !progress.error_counts.is_empty() {
        let counts = progress.error_counts.iter();
        let counts: Vec<_> = counts.map(|error| format!("{} {}", error.code, HumanCount(count(error.count)))).collect();
        lines.push(format!("  errors reported, by code: {}", counts.join(", ")));
    }
    for sample in progress.error_samples.iter().take(3) {
        lines.push(format!("  e.g. task {} at {}: {} {}", sample.task, sample.stage, sample.code, sample.message));
    }
    if !progress.cancel_reason.is_empty() {
        lines.push(format!("  cancelled: {}", progress.cancel_reason));
    }
    lines.join("\n")
}

/// The state without its prefix.
pub fn state(progress: &Progress) -> &'static str {
    progress.state().as_str_name().trim_start_matches("JOB_STATE_")
}

/// Whether the job has ended.
pub fn ended(progress: &Progress) -> bool {
    !matches!(progress.state(), JobState::Unspecified | JobState::Pending | JobState::Running)
}

fn source(progress: &Progress) -> String {
    let mut words = progress.source().as_str_name().trim_start_matches("SOURCE_").to_owned();
    if progress.source() == Source::Fallback && progress.source_reason() != SourceReason::Unspecified {
        words += &format!(" ({})", progress.source_reason().as_str_name().trim_start_matches("SOURCE_REASON_"));
    }
    if progress.lower_bound {
        words += ", at least";
    }
    words
}

fn eta(progress: &Progress) -> Option<Duration> {
    Duration::try_from(progress.eta?).ok()
}

/// `12 s`, `3 min 20 s`, `2 h 5 min`: the two largest units.
fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is only shown")]
fn rounded(rate: f64) -> u64 {
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_is_not_shown_as_zero() {
        let read = StageProgress { stage: "read".into(), total_count: 20_000, ..StageProgress::default() };
        assert_eq!(stage(&read), "read ? of 20,000");
        let mut progress = Progress { state: JobState::Running.into(), stages: vec![read], ..Progress::default() };
        progress.set_source(Source::Fallback);
        progress.set_source_reason(SourceReason::TrackerMissing);
        assert_eq!(headline(&progress), "RUNNING  how far is not known  FALLBACK (TRACKER_MISSING)");
    }

    #[test]
    fn a_running_job_says_how_far_how_fast_and_how_long() {
        let counts = (Some(11_423), Some(8_554), Some(23), Some(0));
        let (pending_count, succeeded_count, failed_count, skipped_count) = counts;
        let total_count = 20_000;
        let stage = "read".to_owned();
        let read = StageProgress { stage, total_count, pending_count, succeeded_count, failed_count, skipped_count };
        assert_eq!(super::stage(&read), "read 8,577 of 20,000, 23 failed");
        let mut progress = Progress { percent: Some(42), results_per_second: Some(1_811.6), ..Progress::default() };
        progress.set_state(JobState::Running);
        progress.set_source(Source::Live);
        progress.eta = Some(prost_types::Duration { seconds: 200, nanos: 5 });
        assert_eq!(headline(&progress), "RUNNING  42 %  1,812/s  3 min 20 s left  LIVE");
    }
}
