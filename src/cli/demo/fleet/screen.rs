//! Live display of the fleet: one line per job on a terminal, one line for all jobs elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};

use super::Fleet;
use crate::cli::display::line;
use crate::cli::output::{OutputError, print_line};
use crate::cli::wording;
use crate::grpc::pb::Progress;

/// Interval between two lines if stdout is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

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

    /// Shows the progress of the jobs.
    pub fn show(&mut self, fleet: &Fleet, progress: &[Progress]) -> Result<(), OutputError> {
        let claims: Vec<u32> = fleet.board.rows().iter().map(|row| row.claims).collect();
        let jobs = fleet.jobs.iter().zip(progress).zip(claims);
        match self {
            Self::Terminal { lines, .. } => {
                for (line, ((job, progress), claims)) in lines.iter().zip(jobs) {
                    let (state, done) = (wording::state(progress), done(progress));
                    line.set_message(format!("{:<9}  {state:<9}  {done:>22}  {claims:>5} claims", job.name));
                }
            }
            Self::Lines { printed } if printed.is_none_or(|printed| printed.elapsed() >= LINE_INTERVAL) => {
                let jobs = jobs.map(|((job, progress), claims)| format!("{} {} ({claims})", job.name, done(progress)));
                print_line(format_args!("done (claims): {}", jobs.collect::<Vec<_>>().join("  |  ")))?;
                *printed = Some(Instant::now());
            }
            Self::Lines { .. } => {}
        }
        Ok(())
    }

    /// Shows a message about an event of the run.
    pub fn note(&self, text: &str) -> Result<(), OutputError> {
        match self {
            Self::Terminal { screen, .. } => Ok(screen.println(text)?),
            Self::Lines { .. } => print_line(text),
        }
    }

    /// Stops the updates. The last state stays on the screen.
    pub fn finish(&self) {
        if let Self::Terminal { lines, .. } = self {
            lines.iter().for_each(ProgressBar::abandon);
        }
    }
}

fn done(progress: &Progress) -> String {
    let done = progress.pending_task_count.map(|pending| wording::number(progress.task_count - pending));
    format!("{} of {}", done.as_deref().unwrap_or("?"), wording::number(progress.task_count))
}
