//! Live display of a job's progress: bars on a terminal, lines elsewhere, or JSON.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{self, OutputError, print_line};
use super::{Failure, json, wording};
use crate::grpc::pb::Progress;

/// Minimum interval between two lines about a running job.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum width of a bar.
const MAX_BAR_WIDTH: usize = 40;
/// Minimum width of a bar. If less space is left, no bar is drawn.
const MIN_BAR_WIDTH: usize = 10;
/// Minimum width to which a stage key is cut to make room for a bar.
const MIN_KEY_WIDTH: usize = 8;
/// Columns around a bar: two spaces and two brackets.
const BAR_FRAME: usize = 4;

/// Shows the progress of one job.
pub enum Display {
    /// One line with a bar for each stage, and the headline below.
    Bars { screen: MultiProgress, stages: Vec<ProgressBar>, headline: ProgressBar },
    /// One line per change, at most one per [`LINE_INTERVAL`].
    Lines { last: String, printed: Option<Instant> },
    /// One JSON object per update.
    Json,
}

impl Display {
    /// Creates a display with bars if stdout is a terminal, and with lines otherwise.
    pub fn new() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::Lines { last: String::new(), printed: None };
        }
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let headline = screen.add(line());
        Self::Bars { screen, stages: Vec::new(), headline }
    }

    /// Shows the current progress.
    pub fn show(&mut self, progress: &Progress) -> Result<(), Failure> {
        match self {
            Self::Bars { screen, stages, headline } => {
                let (_, columns) = Term::stdout().size();
                for (index, text) in bars(progress, columns.into()).into_iter().enumerate() {
                    if stages.len() <= index {
                        stages.push(screen.insert(index, line()));
                    }
                    stages[index].set_message(text);
                }
                headline.set_message(wording::headline(progress));
            }
            Self::Lines { last, printed } => {
                let stages = progress.stages.iter().map(wording::stage);
                let line = std::iter::once(wording::headline(progress)).chain(stages).collect::<Vec<_>>().join("  |  ");
                let due =
                    wording::has_ended(progress) || printed.is_none_or(|printed| printed.elapsed() >= LINE_INTERVAL);
                if due && line != *last {
                    print_line(&line)?;
                    (*last, *printed) = (line, Some(Instant::now()));
                }
            }
            Self::Json => print_line(json::progress(progress)?)?,
        }
        Ok(())
    }

    /// Shows a message that is not part of the progress.
    pub fn note(&self, text: &str) {
        match self {
            // This fails only if the terminal is gone.
            Self::Bars { screen, .. } => drop(screen.println(text)),
            // The note is printed to stderr, because programs that read stdout expect only progress.
            Self::Lines { .. } | Self::Json => output::note(text),
        }
    }

    /// Shows the final progress of an ended job.
    pub fn conclude(&self, last: &Progress) -> Result<(), OutputError> {
        self.finish();
        if matches!(self, Self::Json) { Ok(()) } else { print_line(wording::snapshot(last)) }
    }

    /// Stops the updates. The last state stays on the screen.
    pub fn finish(&self) {
        if let Self::Bars { stages, headline, .. } = self {
            stages.iter().chain([headline]).for_each(ProgressBar::abandon);
        }
    }
}

/// Returns one line of a live display, cut at the width of the terminal.
pub fn line() -> ProgressBar {
    // The template is constant, so the fallback is never used.
    let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

/// Returns one line per stage: key, bar and counts. The key and the bar shrink to make room for the counts, which are
/// never cut.
fn bars(progress: &Progress, columns: usize) -> Vec<String> {
    let longest = |texts: &[String]| texts.iter().map(|text| text.chars().count()).max().unwrap_or_default();
    let keys: Vec<_> = progress.stages.iter().map(|stage| wording::escaped(&stage.stage).into_owned()).collect();
    let counts: Vec<_> = progress.stages.iter().map(wording::counts).collect();
    let available = columns.saturating_sub(longest(&counts) + BAR_FRAME);
    let key_width = longest(&keys).min(available.saturating_sub(MIN_BAR_WIDTH).max(MIN_KEY_WIDTH));
    let bar_width = available.saturating_sub(key_width).min(MAX_BAR_WIDTH);
    let lines = progress.stages.iter().zip(keys).zip(counts);
    lines
        .map(|((stage, key), counts)| {
            let key = shortened(&key, key_width);
            if bar_width < MIN_BAR_WIDTH {
                return format!("{key:<key_width$} {counts}");
            }
            // A job without tasks has no counts; its stages show the percentage of the job.
            let (done, total) = match stage.total_count {
                0 => (progress.percent.map_or(0, i64::from), 100),
                total => (stage.pending_count.map_or(0, |pending| total - pending), total),
            };
            format!("{key:<key_width$} [{}] {counts}", bar(done, total, bar_width))
        })
        .collect()
}

/// Returns a bar such as `=====>    `. The bar is full only when everything is done.
fn bar(done: i64, total: i64, width: usize) -> String {
    let [done, total] = [done, total].map(|count| u128::try_from(count).unwrap_or_default());
    let full = if done >= total { width } else { usize::try_from(done * width as u128 / total).unwrap_or(width) };
    let head = if full > 0 && full < width { "=".repeat(full - 1) + ">" } else { "=".repeat(full) };
    format!("{head:<width$}")
}

/// Cuts text to `width` characters, including an ellipsis at the cut.
fn shortened(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::pb::StageProgress;

    fn stage(stage: &str, total_count: i64, done: Option<i64>, failed_count: Option<i64>) -> StageProgress {
        let pending_count = done.map(|done| total_count - done);
        StageProgress { stage: stage.to_owned(), total_count, pending_count, failed_count, ..StageProgress::default() }
    }

    fn drawn(stages: &[StageProgress], columns: usize) -> String {
        let progress = Progress { stages: stages.to_vec(), ..Progress::default() };
        let lines = bars(&progress, columns);
        for line in &lines {
            assert!(line.chars().count() <= columns, "{line}");
        }
        lines.join("\n")
    }

    #[test]
    fn counts_are_never_cut() {
        let short_keys = [stage("read", 20_000, Some(8_577), Some(23)), stage("digest", 20_000, Some(20_000), None)];
        insta::assert_snapshot!(drawn(&short_keys, 80), @r"
        read   [================>                       ] 8,577 of 20,000, 23 failed
        digest [========================================] 20,000 of 20,000
        ");
        let large = [
            stage("fetch-the-original-from-the-archive", 10_000_000, Some(9_999_999), Some(4_999_999)),
            stage("parse", 10_000_000, None, None),
        ];
        insta::assert_snapshot!(drawn(&large, 80), @r"
        fetch-the-original-from-… [========> ] 9,999,999 of 10,000,000, 4,999,999 failed
        parse                     [          ] ? of 10,000,000
        ");
        insta::assert_snapshot!(drawn(&large, 50), @r"
        fetch-t… 9,999,999 of 10,000,000, 4,999,999 failed
        parse    ? of 10,000,000
        ");
    }

    #[test]
    fn bar_of_a_job_without_tasks_is_full_only_after_its_end() {
        let drawn = |percent| {
            let stages = vec![stage("read", 0, Some(0), Some(0))];
            bars(&Progress { stages, percent: Some(percent), ..Progress::default() }, 30).remove(0)
        };
        assert_eq!(drawn(0), "read [                ] 0 of 0");
        assert_eq!(drawn(100), "read [================] 0 of 0");
    }

    #[test]
    fn bar_is_full_only_when_everything_is_done() {
        assert_eq!(bar(0, 10, 5), "     ");
        assert_eq!(bar(9_999, 10_000, 5), "===> ");
        assert_eq!(bar(10, 10, 5), "=====");
        assert_eq!(bar(i64::MAX - 1, i64::MAX, 5), "===> ");
    }
}
