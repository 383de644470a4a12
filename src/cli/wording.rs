//! Progress as text, for `watch`, `jobs` and `demo`. Unknown counts are shown as unknown, never as zero. Text
//! from clients (IDs, stage keys, error messages) is printed only through [`escaped`].

use std::borrow::Cow;
use std::time::Duration;

use indicatif::HumanCount;

use crate::grpc::pb::{JobState, Progress, Source, SourceReason, StageProgress};

/// Minimum width of the column of stage keys.
const MIN_KEY_WIDTH: usize = 16;

/// Escapes characters that could control a terminal or disguise text: control characters, line and paragraph
/// separators, and marks that change the direction of writing.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let is_unsafe = |c: char| {
        let changes_direction =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || changes_direction || matches!(c, '\u{2028}' | '\u{2029}')
    };
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    text.chars()
        .fold(String::new(), |mut escaped, c| {
            if is_unsafe(c) {
                escaped.extend(c.escape_default());
            } else {
                escaped.push(c);
            }
            escaped
        })
        .into()
}

/// Returns a line such as `RUNNING  43 %  812/s  12 s left  LIVE`, or, for counts that are a lower bound, such as
/// `RUNNING  >= 43 %  FALLBACK (REDIS_UNREACHABLE), at least`.
pub fn headline(progress: &Progress) -> String {
    let mut parts = vec![state(progress).to_owned()];
    parts.push(percent(progress).unwrap_or_else(|| "progress unknown".to_owned()));
    parts.extend(progress.results_per_second.map(|rate| format!("{}/s", HumanCount(rounded(rate)))));
    parts.extend(eta(progress).map(|eta| format!("{} left", duration(eta))));
    parts.push(source(progress));
    parts.join("  ")
}

/// Returns a percentage such as `43 %`, or `>= 43 %` if it is a lower bound. Returns `None` if it is unknown.
pub fn percent(progress: &Progress) -> Option<String> {
    let bound = if progress.lower_bound { ">= " } else { "" };
    progress.percent.map(|percent| format!("{bound}{percent} %"))
}

/// Returns the key and the counts of a stage, such as `read 8,577 of 20,000, 23 failed`.
pub fn stage(stage: &StageProgress) -> String {
    format!("{} {}", escaped(&stage.stage), counts(stage))
}

/// Returns the counts of a stage, such as `8,577 of 20,000, 23 failed`.
pub fn counts(stage: &StageProgress) -> String {
    let total = HumanCount(count(stage.total_count));
    let Some(pending) = stage.pending_count else { return format!("? of {total}") };
    let done = HumanCount(count(stage.total_count - pending));
    format!("{done} of {total}{}", failures(stage))
}

/// Returns text such as `, 23 failed, 4 skipped`. Zero and unknown counts are left out.
fn failures(stage: &StageProgress) -> String {
    let part = |number: Option<i64>, outcome: &str| {
        number.filter(|number| *number > 0).map(|number| format!(", {} {outcome}", HumanCount(count(number))))
    };
    part(stage.failed_count, "failed").into_iter().chain(part(stage.skipped_count, "skipped")).collect()
}

/// Returns the whole progress as several lines: headline, a table of stages, errors and the cancel reason.
pub fn snapshot(progress: &Progress) -> String {
    let known =
        |number: Option<i64>| number.map_or_else(|| "?".to_owned(), |number| HumanCount(count(number)).to_string());
    let mut lines = vec![headline(progress)];
    let keys = progress.stages.iter().map(|stage| escaped(&stage.stage).chars().count());
    let width = keys.max().unwrap_or_default().max(MIN_KEY_WIDTH);
    lines.push(format!("  {:<width$}{:>12}{:>12}{:>12}{:>12}", "", "succeeded", "failed", "skipped", "pending"));
    for stage in &progress.stages {
        let StageProgress { succeeded_count, failed_count, skipped_count, pending_count, .. } = stage;
        let [succeeded, failed, skipped, pending] =
            [succeeded_count, failed_count, skipped_count, pending_count].map(|number| known(*number));
        let key = escaped(&stage.stage);
        lines.push(format!("  {key:<width$}{succeeded:>12}{failed:>12}{skipped:>12}{pending:>12}"));
    }
    if progress.errors_unknown {
        lines.push("  errors reported: unknown".to_owned());
    }
    if !progress.error_counts.is_empty() {
        let counts = progress.error_counts.iter();
        let counts = counts.map(|error| format!("{} {}", escaped(&error.code), HumanCount(count(error.count))));
        let counts: Vec<_> = counts.collect();
        lines.push(format!("  errors reported, by code: {}", counts.join(", ")));
    }
    for sample in progress.error_samples.iter().take(3) {
        let [stage, code, message] = [&sample.stage, &sample.code, &sample.message].map(|text| escaped(text));
        lines.push(format!("  e.g. task {} at {stage}: {code} {message}", sample.task));
    }
    if !progress.cancel_reason.is_empty() {
        lines.push(format!("  cancelled: {}", escaped(&progress.cancel_reason)));
    }
    lines.join("\n")
}

/// Returns the state of a progress without the prefix `JOB_STATE_`.
pub fn state(progress: &Progress) -> &'static str {
    job_state(progress.state())
}

/// Returns a job state without the prefix `JOB_STATE_`.
pub fn job_state(state: JobState) -> &'static str {
    state.as_str_name().trim_start_matches("JOB_STATE_")
}

/// Whether the job of a progress has ended.
pub fn has_ended(progress: &Progress) -> bool {
    is_end_state(progress.state())
}

/// Whether a job in this state has ended.
pub fn is_end_state(state: JobState) -> bool {
    !matches!(state, JobState::Unspecified | JobState::Pending | JobState::Running)
}

/// Returns the source, its reason and `at least` for a lower bound, such as `FALLBACK (REDIS_UNREACHABLE), at least`.
pub fn source(progress: &Progress) -> String {
    let mut text = progress.source().as_str_name().trim_start_matches("SOURCE_").to_owned();
    if progress.source() == Source::Fallback && progress.source_reason() != SourceReason::Unspecified {
        text += &format!(" ({})", source_reason(progress.source_reason()));
    }
    if progress.lower_bound {
        text += ", at least";
    }
    text
}

/// Returns a source reason without the prefix `SOURCE_REASON_`.
pub fn source_reason(reason: SourceReason) -> &'static str {
    reason.as_str_name().trim_start_matches("SOURCE_REASON_")
}

fn eta(progress: &Progress) -> Option<Duration> {
    Duration::try_from(progress.eta?).ok()
}

/// Formats a duration in its two largest units, such as `12 s`, `3 min 20 s` or `2 h 5 min`.
fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Formats a count with separators: `20,000`.
pub fn number(number: i64) -> String {
    HumanCount(count(number)).to_string()
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, and the rate is only displayed"
)]
fn rounded(rate: f64) -> u64 {
    rate.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb::{ErrorCount, ErrorSample};

    #[test]
    fn text_from_others_cannot_control_the_terminal() {
        for (text, expected) in [
            ("no answer in 5 s: größer, 漢字, 🙂", "no answer in 5 s: größer, 漢字, 🙂"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("a\nRUNNING  100 %\r\t", "a\\nRUNNING  100 %\\r\\t"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("\u{202e}txt\u{2066}", "\\u{202e}txt\\u{2066}"),
        ] {
            assert_eq!(escaped(text), expected);
        }
        let evil = || "\u{1b}]0;owned\u{7}\u{202e}\n".to_owned();
        let progress = Progress {
            stages: vec![StageProgress { stage: evil(), ..StageProgress::default() }],
            error_counts: vec![ErrorCount { code: evil(), count: 1 }],
            error_samples: vec![ErrorSample { stage: evil(), code: evil(), message: evil(), ..ErrorSample::default() }],
            cancel_reason: evil(),
            ..Progress::default()
        };
        let printed = snapshot(&progress) + &stage(&progress.stages[0]);
        assert_eq!(printed.matches("\\u{1b}]0;owned").count(), 7);
        assert!(!printed.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{printed:?}");
    }

    #[test]
    fn unknown_counts_are_not_shown_as_zero() {
        let read = StageProgress { stage: "read".into(), total_count: 20_000, ..StageProgress::default() };
        assert_eq!(stage(&read), "read ? of 20,000");
        let mut progress = Progress { state: JobState::Running.into(), stages: vec![read], ..Progress::default() };
        progress.set_source(Source::Fallback);
        progress.set_source_reason(SourceReason::TrackerMissing);
        assert_eq!(headline(&progress), "RUNNING  progress unknown  FALLBACK (TRACKER_MISSING)");
        progress.errors_unknown = true;
        assert!(snapshot(&progress).ends_with("\n  errors reported: unknown"));
        (progress.percent, progress.lower_bound) = (Some(42), true);
        assert_eq!(headline(&progress), "RUNNING  >= 42 %  FALLBACK (TRACKER_MISSING), at least");
    }

    #[test]
    fn headline_of_a_running_job_has_percentage_rate_and_eta() {
        let counts = (Some(11_423), Some(8_554), Some(23), Some(0));
        let (pending_count, succeeded_count, failed_count, skipped_count) = counts;
        let total_count = 20_000;
        let stage = "read".to_owned();
        let read = StageProgress {
            stage,
            total_count,
            pending_count,
            succeeded_count,
            failed_count,
            skipped_count,
            ..StageProgress::default()
        };
        assert_eq!(super::stage(&read), "read 8,577 of 20,000, 23 failed");
        let mut progress = Progress { percent: Some(42), results_per_second: Some(1_811.6), ..Progress::default() };
        progress.set_state(JobState::Running);
        progress.set_source(Source::Live);
        progress.eta = Some(prost_types::Duration { seconds: 200, nanos: 5 });
        assert_eq!(headline(&progress), "RUNNING  42 %  1,812/s  3 min 20 s left  LIVE");
    }
}
