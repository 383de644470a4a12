//! The report at the end of the demo: the stored snapshot, checked against the counts of the workers and the log of
//! Postgres.

use std::path::PathBuf;

use indicatif::HumanCount;

use super::assignment::Tally;
use super::postgres_log::Statements;
use crate::cli::example_calls::ExampleCalls;
use crate::cli::output::program;
use crate::cli::private_gateway::PrivateGateways;
use crate::cli::wording;
use crate::grpc::pb::{JobState, Progress, Source, StageProgress};

/// Maximum number of characters of a statement that are shown.
const STATEMENT_WIDTH: usize = 100;

/// The results of the demo.
pub struct Report {
    /// ID of the job.
    pub job: String,
    /// The last progress that the gateway returned.
    pub snapshot: Progress,
    /// Sum of the workers' tallies.
    pub tally: Tally,
    /// Statements that Postgres logged.
    pub statements: Statements,
    /// Path of the log of Postgres.
    pub log: PathBuf,
    /// Directory of the workers' digests.
    pub work: PathBuf,
}

impl Report {
    /// Whether every check passes.
    pub fn all_checks_pass(&self) -> bool {
        self.checks().iter().all(|(passes, _)| *passes)
    }

    /// Returns each check as its result and a description.
    fn checks(&self) -> Vec<(bool, String)> {
        let state = self.snapshot.state();
        let stored = self.snapshot.source() == Source::Snapshot && !self.snapshot.lower_bound;
        let ended = matches!(state, JobState::Succeeded | JobState::Failed) && stored;
        let mut checks =
            vec![(ended, "the job ended when all tasks were reported, and its snapshot is stored".to_owned())];
        for (index, stage) in self.snapshot.stages.iter().enumerate() {
            let (succeeded, failed) = (self.tally.succeeded[index], self.tally.failed[index]);
            let text = format!(
                "{}: the snapshot and the workers both counted {} succeeded and {} failed",
                stage.stage,
                HumanCount(succeeded),
                HumanCount(failed)
            );
            checks.push((agrees(stage, succeeded, failed), text));
        }
        let Tally { redelivered, applied, duplicate, superseded, rejected, .. } = self.tally;
        let text = format!(
            "{} results were delivered twice and counted once (answers: {} APPLIED, {} DUPLICATE, {} SUPERSEDED)",
            HumanCount(redelivered),
            HumanCount(applied),
            HumanCount(duplicate),
            HumanCount(superseded)
        );
        checks.push((redelivered > 0 && duplicate + superseded >= redelivered && rejected == 0, text));
        let while_running = self.statements.while_running.len();
        checks.push((
            while_running == 0,
            format!("Postgres logged {while_running} modifying statements while the job ran"),
        ));
        checks
    }

    /// Returns the report as text.
    pub fn text(&self) -> String {
        let mut lines =
            vec![String::new(), "The stored snapshot".to_owned(), wording::snapshot(&self.snapshot), String::new()];
        let mark = |passes| if passes { "  ✓" } else { "  ✗ NOT SO:" };
        lines.extend(self.checks().into_iter().map(|(passes, text)| format!("{} {text}", mark(passes))));
        lines.extend(self.statements.while_running.iter().map(|statement| format!("      {}", shortened(statement))));
        lines.push(format!(
            "    Source: {}\n    This Postgres logs every INSERT, UPDATE, DELETE, TRUNCATE, COPY and DDL statement \
             (log_statement = mod).\n    The check counts the statements between the answer to CreateJob and the last \
             answer that showed pending tasks.\n    The following statements ended the job:",
            self.log.display()
        ));
        lines.extend(self.statements.at_end.iter().map(|statement| format!("      {}", shortened(statement))));
        lines.join("\n")
    }
}

/// Whether a stored stage has nothing pending and has the counts of the workers.
fn agrees(stage: &StageProgress, succeeded: u64, failed: u64) -> bool {
    let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let counts = [stage.succeeded_count, stage.failed_count, stage.skipped_count, stage.pending_count].map(count);
    let total = count(Some(stage.total_count));
    let [Some(stored), Some(stored_failed), Some(skipped), Some(0)] = counts else { return false };
    (stored, stored_failed) == (succeeded, failed) && Some(stored + stored_failed + skipped) == total
}

fn shortened(statement: &str) -> String {
    let mut short: String = statement.chars().take(STATEMENT_WIDTH).collect();
    if short.len() < statement.len() {
        short.push('…');
    }
    wording::escaped(&short).into_owned()
}

/// Returns commands to try while the gateway is still running.
pub fn next_steps(private: &PrivateGateways, report: &Report) -> String {
    let (job, digests) = (&report.job, report.work.join("digests-*"));
    let (address, program, psql) = (private.address(), program(), private.psql());
    let calls = ExampleCalls::to(address);
    let get_progress = calls.line("ProgressService/GetProgress", &format!(r#"{{"jobId":"{job}"}}"#));
    format!(
        "
To explore the result, run from another terminal{}:
  {get_progress}
  {program} watch --address {address} {job}
  {psql} -xc \"SELECT * FROM jobs WHERE job_id = '{job}'\"
  {psql} -c \"UPDATE jobs SET state = 'RUNNING'\"  # fails: an ended job never changes
  cat {} | sha1sum --check --quiet  # verifies the digests that the workers computed

The gateway keeps running. Press Ctrl-C to stop the gateway and both servers.",
        calls.requirement(),
        digests.display()
    )
}
