//! How the demo's job ended, held against what the workers know and what Postgres logged.

use std::path::PathBuf;

use indicatif::HumanCount;

use super::proof::Written;
use super::share::MarkSummary;
use crate::cli::calls::Calls;
use crate::cli::output::program;
use crate::cli::private::Private;
use crate::cli::words;
use crate::grpc::pb::{JobState, Progress, Source, StageProgress};

/// How much of a statement is shown.
const SHOWN_CHARACTERS: usize = 100;

/// All that is known at the end.
pub struct Ending {
    /// The job's id.
    pub job: String,
    /// The answer of the gateway.
    pub snapshot: Progress,
    /// What the workers did and were answered.
    pub tally: MarkSummary,
    /// What Postgres logged.
    pub written: Written,
    /// Where.
    pub log: PathBuf,
    /// Where the workers' digests are.
    pub work: PathBuf,
}

impl Ending {
    /// Whether all is as it must be.
    pub fn fits(&self) -> bool {
        self.checks().iter().all(|(right, _)| *right)
    }

    /// What must be so, and whether it is.
    fn checks(&self) -> Vec<(bool, String)> {
        let state = self.snapshot.state();
        let stored = self.snapshot.source() == Source::Snapshot && !self.snapshot.lower_bound;
        let ended = matches!(state, JobState::Succeeded | JobState::Failed) && stored;
        let mut checks = vec![(ended, "the job has ended by itself, and its snapshot is stored".to_owned())];
        for (index, stage) in self.snapshot.stages.iter().enumerate() {
            let (succeeded, failed) = (self.tally.succeeded[index], self.tally.failed[index]);
            let text = format!(
                "{}: the workers counted {} succeeded and {} failed; so does the snapshot",
                stage.stage,
                HumanCount(succeeded),
                HumanCount(failed)
            );
            checks.push((agrees(stage, succeeded, failed), text));
        }
        let MarkSummary { redelivered, applied, duplicate, superseded, unknown_task, .. } = self.tally;
        let text = format!(
            "{} results were delivered twice and counted once (answers: {} APPLIED, {} DUPLICATE, {} SUPERSEDED)",
            HumanCount(redelivered),
            HumanCount(applied),
            HumanCount(duplicate),
            HumanCount(superseded)
        );
        checks.push((redelivered > 0 && duplicate + superseded >= redelivered && unknown_task == 0, text));
        let while_running = self.written.while_running.len();
        checks.push((
            while_running == 0,
            format!("Postgres logged {while_running} modifying statements while the job ran"),
        ));
        checks
    }

    /// All of it, for people.
    pub fn report(&self) -> String {
        let mut lines =
            vec![String::new(), "The stored snapshot".to_owned(), words::snapshot(&self.snapshot), String::new()];
        let mark = |right| if right { "  ✓" } else { "  ✗ NOT SO:" };
        lines.extend(self.checks().into_iter().map(|(right, text)| format!("{} {text}", mark(right))));
        lines.extend(self.written.while_running.iter().map(|statement| format!("      {}", shortened(statement))));
        lines.push(format!(
            "    Looked at: {}, to which\n    this Postgres logs every INSERT, UPDATE, DELETE, TRUNCATE, COPY and DDL \
             statement (log_statement = mod),\n    from the answer to CreateJob to the last answer that showed the job \
             running. What follows there, its end:",
            self.log.display()
        ));
        lines.extend(self.written.by_the_end.iter().map(|statement| format!("      {}", shortened(statement))));
        lines.join("\n")
    }
}

/// Whether a stored stage is complete and says what the workers say.
fn agrees(stage: &StageProgress, succeeded: u64, failed: u64) -> bool {
    let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let counts = [stage.succeeded_count, stage.failed_count, stage.skipped_count, stage.pending_count].map(count);
    let total = count(Some(stage.total_count));
    let [Some(stored), Some(stored_failed), Some(skipped), Some(0)] = counts else { return false };
    (stored, stored_failed) == (succeeded, failed) && Some(stored + stored_failed + skipped) == total
}

fn shortened(statement: &str) -> String {
    let mut short: String = statement.chars().take(SHOWN_CHARACTERS).collect();
    if short.len() < statement.len() {
        short.push('…');
    }
    words::shown(&short).into_owned()
}

/// Lines to try next.
pub fn what_to_try(private: &Private, ending: &Ending) -> String {
    let (job, digests) = (&ending.job, ending.work.join("digests-*"));
    let (address, program, psql) = (private.address(), program(), private.psql());
    let calls = Calls::to(address);
    let look = calls.line("ProgressService/GetProgress", &format!(r#"{{"job_id":"{job}"}}"#));
    format!(
        "
Try, from another terminal{}
  {look}
  {program} watch --address {address} {job}
  {psql} -xc \"SELECT * FROM jobs WHERE job_id = '{job}'\"
  {psql} -c \"UPDATE jobs SET state = 'RUNNING'\"  # refused: an ended job stays as it is
  cat {} | sha1sum --check --quiet  # the work was really done

The gateway stays up. Ctrl-C stops all of it.",
        calls.needed(),
        digests.display()
    )
}
