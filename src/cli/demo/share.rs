//! What the demo and its workers tell each other: a share of the work by the command line, a tally by stdout.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use serde::{Deserialize, Serialize};

use super::STAGES;

/// The subcommand, which people are not shown.
pub const COMMAND: &str = "demo-worker";

/// What the demo tells a worker.
#[derive(Debug, PartialEq, Args)]
pub struct Share {
    #[arg(long)]
    pub address: String,
    #[arg(long)]
    pub job: String,
    /// The list of all files.
    #[arg(long)]
    pub list: PathBuf,
    /// Where the digests go, as sha1sum writes them.
    #[arg(long)]
    pub digests: PathBuf,
    /// Which worker this is, of how many: it does every such task.
    #[arg(long)]
    pub number: usize,
    #[arg(long)]
    pub of: usize,
    /// The least time from the begin of one task to that of the next, on average.
    #[arg(long)]
    pub interval_micros: u64,
}

impl Share {
    /// The command line that this is parsed from.
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

/// What a worker did, and what it was answered; printed as JSON when it is done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkSummary {
    /// Results at each stage that succeeded, and that failed.
    pub succeeded: [u64; STAGES.len()],
    pub failed: [u64; STAGES.len()],
    /// Results that were reported twice on purpose.
    pub redelivered: u64,
    /// How many results were answered with each disposition.
    pub applied: u64,
    pub duplicate: u64,
    pub superseded: u64,
    pub unknown_task: u64,
}

impl MarkSummary {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        for stage in 0..STAGES.len() {
            self.succeeded[stage] += other.succeeded[stage];
            self.failed[stage] += other.failed[stage];
        }
        self.redelivered += other.redelivered;
        self.applied += other.applied;
        self.duplicate += other.duplicate;
        self.superseded += other.superseded;
        self.unknown_task += other.unknown_task;
    }
}
