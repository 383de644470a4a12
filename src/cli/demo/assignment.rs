//! Communication between the demo and its worker processes. A worker gets its assignment on the command line, and
//! prints its tally to stdout.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::STAGES;

/// Name of the hidden subcommand that runs a worker.
pub const COMMAND: &str = "demo-worker";

/// The work of one worker process.
#[derive(Debug, PartialEq, Args)]
pub struct Assignment {
    /// Address of the gateway.
    #[arg(long)]
    pub address: String,
    /// ID of the job.
    #[arg(long)]
    pub job: String,
    /// Path of the list of all files.
    #[arg(long)]
    pub list: PathBuf,
    /// Path of the file for the digests, in the format of sha1sum.
    #[arg(long)]
    pub digests: PathBuf,
    /// Number of this worker, from 0. The worker does the tasks whose index modulo `of` equals this number.
    #[arg(long)]
    pub number: usize,
    /// Number of workers.
    #[arg(long)]
    pub of: usize,
    /// Minimum average interval between the starts of two tasks, in microseconds.
    #[arg(long)]
    pub interval_micros: u64,
}

impl Assignment {
    /// Returns the arguments that parse to this assignment.
    pub fn arguments(&self) -> Vec<OsString> {
        let (list, digests) = (self.list.clone().into(), self.digests.clone().into());
        let [number, of, interval] =
            [self.number.to_string(), self.of.to_string(), self.interval_micros.to_string()].map(OsString::from);
        let flags = [
            ("--address", OsString::from(&self.address)),
            ("--job", OsString::from(&self.job)),
            ("--list", list),
            ("--digests", digests),
            ("--number", number),
            ("--of", of),
            ("--interval-micros", interval),
        ];
        let flags = flags.into_iter().flat_map(|(flag, value)| [OsString::from(flag), value]);
        std::iter::once(OsString::from(COMMAND)).chain(flags).collect()
    }
}

/// Counts of a worker's results and of the answers to its reports. The worker prints the counts as JSON when it is
/// done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Number of results that succeeded, for each stage.
    pub succeeded: [u64; STAGES.len()],
    /// Number of results that failed, for each stage.
    pub failed: [u64; STAGES.len()],
    /// Number of results that were reported twice on purpose.
    pub redelivered: u64,
    /// Number of results that were answered with APPLIED or RECORDED.
    pub applied: u64,
    /// Number of results that were answered with DUPLICATE.
    pub duplicate: u64,
    /// Number of results that were answered with SUPERSEDED.
    pub superseded: u64,
    /// Number of results that were answered with `UNKNOWN_TASK`, `UNKNOWN_STAGE` or an unknown disposition.
    pub rejected: u64,
}

impl Tally {
    /// Adds the tally of another worker.
    pub fn add(&mut self, other: &Self) {
        for stage in 0..STAGES.len() {
            self.succeeded[stage] += other.succeeded[stage];
            self.failed[stage] += other.failed[stage];
        }
        self.redelivered += other.redelivered;
        self.applied += other.applied;
        self.duplicate += other.duplicate;
        self.superseded += other.superseded;
        self.rejected += other.rejected;
    }
}
