//! The results of the benchmark, and how they are summarised.

use serde::{Deserialize, Serialize};

use super::contender::Contender;
use super::end_errors::EndErrors;
use super::hot_job::Load;
use super::measurement::Measurement;
use super::postgres_stats::TableStats;
use super::small_job::Round;
use crate::effort::median;

/// All results.
#[derive(Serialize, Deserialize)]
pub struct Results {
    pub loads: Vec<LoadRounds>,
    pub tables: Vec<TableUse>,
    pub small_jobs: Vec<SmallJobs>,
}

/// One load of a hot job by one contender, with a measurement per round.
#[derive(Serialize, Deserialize)]
pub struct LoadRounds {
    pub contender: Contender,
    pub load: Load,
    pub rounds: Vec<Measurement>,
}

/// The tables of a contender after all loads.
#[derive(Serialize, Deserialize)]
pub struct TableUse {
    pub contender: Contender,
    pub reports: f64,
    pub stats: TableStats,
}

/// The small jobs of a contender in one kind of round.
#[derive(Serialize, Deserialize)]
pub struct SmallJobs {
    pub contender: Contender,
    #[serde(flatten)]
    pub round: Round,
    pub errors: EndErrors,
}

impl Results {
    /// The median of the rounds.
    pub fn median(&self, contender: Contender, load: Load, figure: fn(&Measurement) -> f64) -> f64 {
        median(self.rounds(contender, load).map(figure).collect())
    }

    /// The value of the rounds with the largest magnitude.
    pub fn worst(&self, contender: Contender, load: Load, figure: fn(&Measurement) -> f64) -> f64 {
        self.rounds(contender, load)
            .map(figure)
            .fold(0.0, |worst, next| if next.abs() > worst.abs() { next } else { worst })
    }

    /// Reports per second.
    pub fn rate(&self, contender: Contender, load: Load) -> f64 {
        self.median(contender, load, |measurement| measurement.rate)
    }

    /// Reports per second divided by Highwater's in the same round; the median of the rounds.
    pub fn ratio(&self, contender: Contender, load: Load) -> f64 {
        let both = self.rounds(contender, load).zip(self.rounds(Contender::Highwater, load));
        median(both.map(|(theirs, ours)| theirs.rate / ours.rate).collect())
    }

    /// The tables of a contender.
    pub fn tables(&self, contender: Contender) -> Option<&TableUse> {
        self.tables.iter().find(|tables| tables.contender == contender)
    }

    /// The errors of small jobs, with a percentage of redelivered reports.
    pub fn errors(&self, contender: Contender, redelivered: u64) -> EndErrors {
        let lines = self.small_jobs.iter().filter(|line| line.contender == contender);
        lines
            .filter(|line| line.round.redelivered == redelivered)
            .fold(EndErrors::default(), |sum, line| sum.and(line.errors))
    }

    fn rounds(&self, contender: Contender, load: Load) -> impl Iterator<Item = &Measurement> {
        let lines = self.loads.iter().filter(move |line| line.contender == contender && line.load == load);
        lines.flat_map(|line| &line.rounds)
    }
}
