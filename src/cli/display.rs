//! Progress as it changes: bars on a terminal, lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::output::say;
use super::words;
use crate::grpc::pb::Progress;

/// Between two lines about a job that goes on.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// Shows one job.
pub enum Display {
    /// A bar for each stage, and the headline below.
    Bars { screen: MultiProgress, stages: Vec<ProgressBar>, headline: ProgressBar },
    /// A line whenever something changed, but not too often.
    Lines { last: String, printed: Option<Instant> },
}

impl Display {
    /// Bars if stdout is a terminal.
    pub fn new() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::Lines { last: String::new(), printed: None };
        }
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let headline = screen.add(ProgressBar::no_length().with_style(style("{wide_msg}")));
        Self::Bars { screen, stages: Vec::new(), headline }
    }

    /// Shows how far the job is now.
    pub fn show(&mut self, progress: &Progress) {
        match self {
            Self::Bars { screen, stages, headline } => {
                for (index, stage) in progress.stages.iter().enumerate() {
                    if stages.len() <= index {
                        let bar = ProgressBar::new(0).with_style(style("{prefix:<12!} [{bar:40}] {wide_msg}"));
                        stages.push(screen.insert(index, bar.with_prefix(stage.stage.clone())));
                    }
                    let total = stage.total_count;
                    let done = stage.pending_count.map_or(0, |pending| total - pending);
                    stages[index].set_length(u64::try_from(total).unwrap_or_default());
                    stages[index].set_position(u64::try_from(done).unwrap_or_default());
                    let text = words::stage(stage);
                    stages[index].set_message(text.strip_prefix(&stage.stage).unwrap_or(&text).trim_start().to_owned());
                }
                headline.set_message(words::headline(progress));
            }
            Self::Lines { last, printed } => {
                let stages = progress.stages.iter().map(words::stage);
                let line = std::iter::once(words::headline(progress)).chain(stages).collect::<Vec<_>>().join("  |  ");
                let due = words::ended(progress) || printed.is_none_or(|printed| printed.elapsed() >= LINE_EVERY);
                if due && line != *last {
                    say(&line);
                    (*last, *printed) = (line, Some(Instant::now()));
                }
            }
        }
    }

    /// Says something beside the job's progress.
    pub fn note(&self, text: &str) {
        match self {
            // Fails only if the terminal has gone away.
            Self::Bars { screen, .. } => drop(screen.println(text)),
            Self::Lines { .. } => say(text),
        }
    }

    /// Leaves what is shown as it stands.
    pub fn end(&self) {
        if let Self::Bars { stages, headline, .. } = self {
            stages.iter().chain([headline]).for_each(ProgressBar::abandon);
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates stand above: a wrong one shows plainly.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}
