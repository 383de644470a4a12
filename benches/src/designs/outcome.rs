//! What was measured, and what is asked of it.

use serde::Serialize;

use super::contender::Contender;
use super::ends::Round;
use super::figures::Figures;
use super::judge::Wrongs;
use super::load::Load;
use super::tables::Kept;
use crate::effort::median;

/// All of it.
pub struct Outcome {
    pub loaded: Vec<Loaded>,
    pub left: Vec<Left>,
    pub judged: Vec<Judged>,
}

/// What a load of the hot job came to, round by round.
#[derive(Serialize)]
pub struct Loaded {
    pub contender: Contender,
    pub load: Load,
    pub rounds: Vec<Figures>,
}

/// What became of the tables, over all loads.
#[derive(Serialize)]
pub struct Left {
    pub contender: Contender,
    pub reports: f64,
    pub kept: Kept,
}

/// What became of small jobs.
#[derive(Serialize)]
pub struct Judged {
    pub contender: Contender,
    #[serde(flatten)]
    pub round: Round,
    pub wrongs: Wrongs,
}

impl Outcome {
    /// The middle of the rounds.
    pub fn middle(&self, contender: Contender, load: Load, figure: fn(&Figures) -> f64) -> f64 {
        median(self.rounds(contender, load).map(figure).collect())
    }

    /// The worst of the rounds, where less than nothing is as bad as more.
    pub fn worst(&self, contender: Contender, load: Load, figure: fn(&Figures) -> f64) -> f64 {
        self.rounds(contender, load)
            .map(figure)
            .fold(0.0, |worst, next| if next.abs() > worst.abs() { next } else { worst })
    }

    /// Reports a second.
    pub fn rate(&self, contender: Contender, load: Load) -> f64 {
        self.middle(contender, load, |figures| figures.rate)
    }

    /// Its reports a second for each one of Highwater's: the middle of what it was in each round.
    pub fn ratio(&self, contender: Contender, load: Load) -> f64 {
        let both = self.rounds(contender, load).zip(self.rounds(Contender::Highwater, load));
        median(both.map(|(theirs, ours)| theirs.rate / ours.rate).collect())
    }

    /// What became of its tables.
    pub fn left(&self, contender: Contender) -> Option<&Left> {
        self.left.iter().find(|left| left.contender == contender)
    }

    /// What went wrong with its small jobs, with as many redelivered reports.
    pub fn wrongs(&self, contender: Contender, redelivered: u64) -> Wrongs {
        let lines = self.judged.iter().filter(|line| line.contender == contender);
        lines
            .filter(|line| line.round.redelivered == redelivered)
            .fold(Wrongs::default(), |sum, line| sum.and(line.wrongs))
    }

    fn rounds(&self, contender: Contender, load: Load) -> impl Iterator<Item = &Figures> {
        let lines = self.loaded.iter().filter(move |line| line.contender == contender && line.load == load);
        lines.flat_map(|line| &line.rounds)
    }
}
