//! The fleet while it works: a line for each job on a terminal, one for all of them elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

use super::Fleet;
use crate::cli::display::line;
use crate::cli::output::{Unwritten, say};
use crate::cli::words;
use crate::grpc::pb::Progress;

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

pub enum Screen {
    Terminal { screen: MultiProgress, lines: Vec<ProgressBar> },
    Lines { printed: Option<Instant> },
}

impl Screen {
    pub fn new(fleet: &Fleet) -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::Lines { printed: None };
        }
        let screen = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let lines = fleet.jobs.iter().map(|_| screen.add(line())).collect();
        Self::Terminal { screen, lines }
    }

    /// Shows how far the jobs are.
    pub fn show(&mut self, fleet: &Fleet, progress: &[Progress]) -> Result<(), Unwritten> {
        let claims: Vec<u32> = fleet.board.rows().iter().map(|row| row.claims).collect();
        let jobs = fleet.jobs.iter().zip(progress).zip(claims);
        match self {
            Self::Terminal { lines, .. } => {
                for (line, ((job, progress), claims)) in lines.iter().zip(jobs) {
                    let (state, done) = (words::state(progress), done(progress));
                    line.set_message(format!("{:<9}  {state:<9}  {done:>22}  {claims:>5} claims", job.name));
                }
            }
            Self::Lines { printed } if printed.is_none_or(|printed| printed.elapsed() >= LINE_EVERY) => {
                let jobs = jobs.map(|((job, progress), claims)| format!("{} {} ({claims})", job.name, done(progress)));
                say(format_args!("done (claims): {}", jobs.collect::<Vec<_>>().join("  |  ")))?;
                *printed = Some(Instant::now());
            }
            Self::Lines { .. } => {}
        }
        Ok(())
    }

    /// Says what happens.
    pub fn note(&self, text: &str) -> Result<(), Unwritten> {
        match self {
            Self::Terminal { screen, .. } => Ok(screen.println(text)?),
            Self::Lines { .. } => say(text),
        }
    }

    /// Leaves what is shown as it stands.
    pub fn end(&self) {
        if let Self::Terminal { lines, .. } = self {
            lines.iter().for_each(ProgressBar::abandon);
        }
    }
}

fn done(progress: &Progress) -> String {
    let done = progress.pending_task_count.map(|pending| words::number(progress.task_count - pending));
    format!("{} of {}", done.as_deref().unwrap_or("?"), words::number(progress.task_count))
}
