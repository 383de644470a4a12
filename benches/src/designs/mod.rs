//! Compares Highwater with the designs that it replaces: the same jobs and loads, on the same Redis and Postgres.
//!
//! | file | contents |
//! |---|---|
//! | `blob`, `counters`, `receipts`, `single_writer` | the designs; tables in `schema/`, connections in `pools` |
//! | `service`, `row`, `tally` | Highwater's gRPC interface for all designs; the row and the counts of a job |
//! | `hot_job`, `acknowledged` | one hot job: reporters, readers, and the acknowledged marks |
//! | `small_job`, `small_jobs` | small jobs that are reported completely, with a concurrent cancel |
//! | `end_errors` | the errors of small jobs |
//! | `run`, `contender` | the contenders, and the order of measurements |
//! | `measurement`, `postgres_stats`, `results` | the results |
//! | `page` | tables, plots and figures of the page |

#![allow(
    clippy::disallowed_methods,
    reason = "the designs' tables are not part of the schema that the query macros check"
)]

mod acknowledged;
mod blob;
mod contender;
mod counters;
mod end_errors;
mod hot_job;
mod measurement;
mod page;
mod pools;
mod postgres_stats;
mod receipts;
mod results;
mod row;
mod run;
mod service;
mod single_writer;
mod small_job;
mod small_jobs;
mod tally;

use std::sync::Arc;

use clap::{Args, ValueEnum};

use crate::Result;
use blob::{Blob, WriteMode};
use counters::Counters;
use pools::{Commit, Pools};
use receipts::Receipts;
use service::Design;
use single_writer::SingleWriter;

pub use page::render;
pub use run::measure;

/// A design.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A JSON blob that is read, changed and written back together with the state
    Saved,
    /// A JSON blob that is read, changed and written back unless the job has ended
    Blob,
    /// A JSON blob that is read, changed and written back under a row lock
    Locked,
    /// A column per count
    Counters,
    /// A column per count, and a row per result
    Receipts,
    /// Bits in Redis, which a single writer counts every second
    #[value(name = "writer")]
    SingleWriter,
}

/// Flags of the hidden mode in which the program serves a design.
#[derive(Debug, Args)]
pub struct Serve {
    /// Serve this design until killed
    #[arg(long = "design", hide = true)]
    pub kind: Option<Kind>,
    #[arg(long, hide = true, default_value = "")]
    redis_url: String,
    #[arg(long, hide = true, default_value = "")]
    postgres_url: String,
    /// Acknowledge reports after they are on disk
    #[arg(long, hide = true)]
    durable: bool,
}

impl Kind {
    /// The name of its schema in Postgres, and of the `--design` flag.
    pub fn name(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Blob => "blob",
            Self::Locked => "locked",
            Self::Counters => "counters",
            Self::Receipts => "receipts",
            Self::SingleWriter => "writer",
        }
    }

    /// The statements that create its tables.
    fn schema(self) -> String {
        match self {
            Self::Saved | Self::Blob | Self::Locked => include_str!("schema/blob.sql").to_owned(),
            Self::Counters | Self::SingleWriter => include_str!("schema/counters.sql").to_owned(),
            Self::Receipts => receipts::schema(),
        }
    }
}

impl Serve {
    /// Serves a design.
    pub async fn serve(&self, kind: Kind) -> Result<()> {
        let commit = if self.durable { Commit::Synchronous } else { Commit::Asynchronous };
        let pools = Pools::connect(&self.postgres_url, kind, commit).await?;
        let design: Arc<dyn Design> = match kind {
            Kind::Saved => Arc::new(Blob::new(pools, WriteMode::SaveWhole)),
            Kind::Blob => Arc::new(Blob::new(pools, WriteMode::Unlocked)),
            Kind::Locked => Arc::new(Blob::new(pools, WriteMode::Locked)),
            Kind::Counters => Arc::new(Counters::new(pools)),
            Kind::Receipts => Arc::new(Receipts::new(pools)),
            Kind::SingleWriter => SingleWriter::start(pools, &self.redis_url).await?,
        };
        service::serve(design).await
    }
}
