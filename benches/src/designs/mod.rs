//! Against the designs that Highwater replaces: the same jobs, on the same Redis and Postgres, by the same loads.
//!
//! | file | what |
//! |---|---|
//! | `blob`, `counters`, `receipts`, `rendered` | the designs; `schema/` and `pools`: how they are tuned |
//! | `service` | Highwater's interface in front of each, `row` and `tally`: what they have in common |
//! | `load`, `truth` | one hot job: reporters, people who look, and what was really reported |
//! | `ends`, `small` | small jobs reported to their end, with a cancel that races it |
//! | `judge` | what went wrong with them |
//! | `run`, `contender` | who is measured, and in which order |
//! | `figures`, `tables`, `outcome` | what is kept of it |
//! | `page`, `prose` | what is told of it |

#![allow(
    clippy::disallowed_methods,
    reason = "the designs' tables are no part of the schema that queries are checked against"
)]

mod blob;
mod contender;
mod counters;
mod ends;
mod figures;
mod judge;
mod load;
mod outcome;
mod page;
mod pools;
mod prose;

mod receipts;
mod rendered;
mod row;
mod run;
mod service;
mod small;
mod tables;
mod tally;
mod truth;

use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::Result;
use blob::{Blob, Care};
use counters::Counters;
use pools::{Commit, Pools};
use receipts::Receipts;
use rendered::Rendered;
use service::Design;

pub use run::run;

/// A design.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Kind {
    /// A blob, read, changed and written back, state and all
    Saved,
    /// The same, but nothing is written to a job that has ended
    Blob,
    /// The same, under a lock
    Locked,
    /// A column for each count
    Counters,
    /// The same, with a row for each result that was counted
    Receipts,
    /// Bits in Redis, rendered by a single writer every second
    Rendered,
}

/// Which design to be, over what.
#[derive(Debug, Args)]
pub struct Serve {
    /// Be a design, until killed
    #[arg(long = "design", hide = true)]
    pub kind: Option<Kind>,
    #[arg(long, hide = true, default_value = "")]
    redis_url: String,
    #[arg(long, hide = true, default_value = "")]
    postgres_url: String,
    /// Answer no report that is not on disk
    #[arg(long, hide = true)]
    durable: bool,
}

impl Kind {
    /// In one word; it is also its schema in Postgres.
    pub fn name(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Blob => "blob",
            Self::Locked => "locked",
            Self::Counters => "counters",
            Self::Receipts => "receipts",
            Self::Rendered => "rendered",
        }
    }

    /// What it keeps in Postgres.
    fn schema(self) -> String {
        match self {
            Self::Saved | Self::Blob | Self::Locked => include_str!("schema/blob.sql").to_owned(),
            Self::Counters | Self::Rendered => include_str!("schema/counters.sql").to_owned(),
            Self::Receipts => receipts::schema(),
        }
    }
}

impl Serve {
    /// Serves a design.
    pub async fn serve(&self, kind: Kind) -> Result<()> {
        let commit = if self.durable { Commit::Now } else { Commit::Soon };
        let pools = Pools::connect(&self.postgres_url, kind, commit).await?;
        let design: Arc<dyn Design> = match kind {
            Kind::Saved => Arc::new(Blob::new(pools, Care::Saved)),
            Kind::Blob => Arc::new(Blob::new(pools, Care::Unlocked)),
            Kind::Locked => Arc::new(Blob::new(pools, Care::Locked)),
            Kind::Counters => Arc::new(Counters::new(pools)),
            Kind::Receipts => Arc::new(Receipts::new(pools)),
            Kind::Rendered => Rendered::begin(pools, &self.redis_url).await?,
        };
        service::serve(design).await
    }
}
