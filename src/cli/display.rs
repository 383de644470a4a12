//! Progress as it changes: bars on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::{self, Unwritten, say};
use super::{Failure, json, words};
use crate::grpc::pb::Progress;

/// Between two lines about a job that goes on.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// A bar is no longer than this, and where less than the least is left for it, there is none.
const LONGEST_BAR: usize = 40;
const LEAST_BAR: usize = 10;
/// A stage's key is cut to make room for a bar, but not further.
const LEAST_KEY: usize = 8;
/// Two spaces and two brackets.
const BESIDE_BAR: usize = 4;

/// Shows one job.
pub enum Display {
    /// A line with a bar for each stage, and the headline below.
    Bars { screen: MultiProgress, stages: Vec<ProgressBar>, headline: ProgressBar },
    /// A line whenever something changed, but not too often.
    Lines { last: String, printed: Option<Instant> },
    /// All of it, as an object a line.
    Json,
}

impl Display {
    /// Bars if stdout is a terminal.
    pub fn new() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::Lines { last: String::new(), printed: None };
        }
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let headline = screen.add(line());
        Self::Bars { screen, stages: Vec::new(), headline }
    }

    /// Shows how far the job is now.
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
                headline.set_message(words::headline(progress));
            }
            Self::Lines { last, printed } => {
                let stages = progress.stages.iter().map(words::stage);
                let line = std::iter::once(words::headline(progress)).chain(stages).collect::<Vec<_>>().join("  |  ");
                let due = words::ended(progress) || printed.is_none_or(|printed| printed.elapsed() >= LINE_EVERY);
                if due && line != *last {
                    say(&line)?;
                    (*last, *printed) = (line, Some(Instant::now()));
                }
            }
            Self::Json => say(json::progress(progress)?)?,
        }
        Ok(())
    }

    /// Says something beside the job's progress.
    pub fn note(&self, text: &str) {
        match self {
            // Fails only if the terminal has gone away.
            Self::Bars { screen, .. } => drop(screen.println(text)),
            // What reads the lines expects nothing else among them.
            Self::Lines { .. } | Self::Json => output::note(text),
        }
    }

    /// Shows how the job ended.
    pub fn conclude(&self, last: &Progress) -> Result<(), Unwritten> {
        self.end();
        if matches!(self, Self::Json) { Ok(()) } else { say(words::snapshot(last)) }
    }

    /// Leaves what is shown as it stands.
    pub fn end(&self) {
        if let Self::Bars { stages, headline, .. } = self {
            stages.iter().chain([headline]).for_each(ProgressBar::abandon);
        }
    }
}

/// One line of the screen, cut where that ends.
pub fn line() -> ProgressBar {
    // The template stands here: a wrong one shows plainly.
    let style = ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::no_length().with_style(style)
}

/// A line for each stage: key, bar, and all of its numbers, which are never cut for the other two.
fn bars(progress: &Progress, columns: usize) -> Vec<String> {
    let longest = |texts: &[String]| texts.iter().map(|text| text.chars().count()).max().unwrap_or_default();
    let keys: Vec<_> = progress.stages.iter().map(|stage| words::shown(&stage.stage).into_owned()).collect();
    let counts: Vec<_> = progress.stages.iter().map(words::counts).collect();
    let left = columns.saturating_sub(longest(&counts) + BESIDE_BAR);
    let key_width = longest(&keys).min(left.saturating_sub(LEAST_BAR).max(LEAST_KEY));
    let bar_width = left.saturating_sub(key_width).min(LONGEST_BAR);
    let lines = progress.stages.iter().zip(keys).zip(counts);
    lines
        .map(|((stage, key), counts)| {
            let key = shortened(&key, key_width);
            if bar_width < LEAST_BAR {
                return format!("{key:<key_width$} {counts}");
            }
            // A stage without tasks is as far as its job.
            let (done, total) = match stage.total_count {
                0 => (progress.percent.map_or(0, i64::from), 100),
                total => (stage.pending_count.map_or(0, |pending| total - pending), total),
            };
            format!("{key:<key_width$} [{}] {counts}", bar(done, total, bar_width))
        })
        .collect()
}

/// `=====>    `; full only when all is done.
fn bar(done: i64, total: i64, width: usize) -> String {
    let [done, total] = [done, total].map(|count| u128::try_from(count).unwrap_or_default());
    let full = if done >= total { width } else { usize::try_from(done * width as u128 / total).unwrap_or(width) };
    let head = if full > 0 && full < width { "=".repeat(full - 1) + ">" } else { "=".repeat(full) };
    format!("{head:<width$}")
}

/// At most `width` characters, with an ellipsis for what is left out.
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
    fn the_numbers_are_whole_at_80_columns() {
        let usual = [stage("read", 20_000, Some(8_577), Some(23)), stage("digest", 20_000, Some(20_000), None)];
        insta::assert_snapshot!(drawn(&usual, 80), @r"
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
    fn a_job_without_tasks_has_a_full_bar_only_once_it_is_complete() {
        let drawn = |percent| {
            let stages = vec![stage("read", 0, Some(0), Some(0))];
            bars(&Progress { stages, percent: Some(percent), ..Progress::default() }, 30).remove(0)
        };
        assert_eq!(drawn(0), "read [                ] 0 of 0");
        assert_eq!(drawn(100), "read [================] 0 of 0");
    }

    #[test]
    fn a_bar_is_full_only_when_all_is_done() {
        assert_eq!(bar(0, 10, 5), "     ");
        assert_eq!(bar(9_999, 10_000, 5), "===> ");
        assert_eq!(bar(10, 10, 5), "=====");
        assert_eq!(bar(i64::MAX - 1, i64::MAX, 5), "===> ");
    }
}
