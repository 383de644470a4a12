//! Progress in words: what `watch` and `demo` print. Unknown is said, never shown as zero. What others wrote is shown
//! by [`shown`] alone.

use std::borrow::Cow;
use std::time::Duration;

use indicatif::HumanCount;

use crate::grpc::pb::{JobState, Progress, Source, SourceReason, StageProgress};

/// How wide the column of the stages is, unless one of them is longer.
const NARROWEST_KEYS: usize = 16;

/// What others wrote, with all escaped that would steer a terminal or show a text as another: control characters,
/// line breaks, and what turns the direction of writing.
pub fn shown(text: &str) -> Cow<'_, str> {
    let steers = |c: char| {
        let turns =
            matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
    };
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    text.chars()
        .fold(String::new(), |mut shown, c| {
            if steers(c) {
                shown.extend(c.escape_default());
            } else {
                shown.push(c);
            }
            shown
        })
        .into()
}

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
    format!("{} {}", shown(&stage.stage), counts(stage))
}

/// `8,577 of 20,000, 23 failed`
pub fn counts(stage: &StageProgress) -> String {
    let total = HumanCount(count(stage.total_count));
    let Some(pending) = stage.pending_count else { return format!("? of {total}") };
    let done = HumanCount(count(stage.total_count - pending));
    format!("{done} of {total}{}", troubles(stage))
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
    let keys = progress.stages.iter().map(|stage| shown(&stage.stage).chars().count());
    let width = keys.max().unwrap_or_default().max(NARROWEST_KEYS);
    lines.push(format!("  {:<width$}{:>12}{:>12}{:>12}{:>12}", "", "succeeded", "failed", "skipped", "pending"));
    for stage in &progress.stages {
        let StageProgress { succeeded_count, failed_count, skipped_count, pending_count, .. } = stage;
        let [succeeded, failed, skipped, pending] =
            [succeeded_count, failed_count, skipped_count, pending_count].map(|number| known(*number));
        let key = shown(&stage.stage);
        lines.push(format!("  {key:<width$}{succeeded:>12}{failed:>12}{skipped:>12}{pending:>12}"));
    }
    if !progress.error_counts.is_empty() {
        let counts = progress.error_counts.iter();
        let counts = counts.map(|error| format!("{} {}", shown(&error.code), HumanCount(count(error.count))));
        let counts: Vec<_> = counts.collect();
        lines.push(format!("  errors reported, by code: {}", counts.join(", ")));
    }
    for sample in progress.error_samples.iter().take(3) {
        let [stage, code, message] = [&sample.stage, &sample.code, &sample.message].map(|text| shown(text));
        lines.push(format!("  e.g. task {} at {stage}: {code} {message}", sample.task));
    }
    if !progress.cancel_reason.is_empty() {
        lines.push(format!("  cancelled: {}", shown(&progress.cancel_reason)));
    }
    lines.join("\n")
}

/// The state without its prefix.
pub fn state(progress: &Progress) -> &'static str {
    job_state(progress.state())
}

/// The same of a job.
pub fn job_state(state: JobState) -> &'static str {
    state.as_str_name().trim_start_matches("JOB_STATE_")
}

/// Whether the job has ended.
pub fn ended(progress: &Progress) -> bool {
    has_ended(progress.state())
}

/// Whether that is the state of a job that has ended.
pub fn has_ended(state: JobState) -> bool {
    !matches!(state, JobState::Unspecified | JobState::Pending | JobState::Running)
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

/// `20,000`
pub fn number(number: i64) -> String {
    HumanCount(count(number)).to_string()
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
    use crate::grpc::pb::{ErrorCount, ErrorSample};

    #[test]
    fn what_others_wrote_steers_no_terminal() {
        for (text, expected) in [
            ("no answer in 5 s: größer, 漢字, 🙂", "no answer in 5 s: größer, 漢字, 🙂"),
            ("\u{1b}[2Jgone", "\\u{1b}[2Jgone"),
            ("a\nRUNNING  100 %\r\t", "a\\nRUNNING  100 %\\r\\t"),
            ("\u{9b}31m\u{7f}", "\\u{9b}31m\\u{7f}"),
            ("\u{202e}txt\u{2066}", "\\u{202e}txt\\u{2066}"),
        ] {
            assert_eq!(shown(text), expected);
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
