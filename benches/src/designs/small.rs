//! Small jobs of every design, to their ends.

use std::time::{Duration, Instant};

use super::Kind;
use super::contender::{ALL, Contender};
use super::ends::{self, ROUNDS, Told};
use super::judge::Wrongs;
use super::outcome::Judged;
use super::tables::Tables;
use crate::effort::{Effort, step};
use crate::stand::{Server, Stand};
use crate::{Result, jobs};

/// How long a job that is complete may take to end. A design that loses marks ends a job by a report, or never.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Small jobs to their ends, also by the design that saves its blob whole.
pub async fn judge_all(stand: &Stand, tables: &Tables, effort: Effort) -> Result<Vec<Judged>> {
    let mut judged = Vec::new();
    for contender in [Contender::Design(Kind::Saved)].into_iter().chain(ALL) {
        step(format_args!("to the end: {contender}"));
        let server = contender.start(stand).await?;
        tables.watch_ends(contender).await?;
        let told = to_the_ends(&server, effort).await?;
        for line in judge(contender, &server, tables, &told).await? {
            if !line.wrongs.is_none() && contender.is_right(line.round.redelivered) {
                return Err(format!("{}, {:?}: {:?}", contender, line.round, line.wrongs).into());
            }
            judged.push(line);
        }
    }
    Ok(judged)
}

/// Reports jobs to their ends, one after the other.
async fn to_the_ends(server: &Server, effort: Effort) -> Result<Vec<Told>> {
    let channel = server.channel()?;
    let mut told = Vec::new();
    // A short turn has what comes twice without a cancel, and a cancel where nothing comes twice.
    for round in effort.pick(&ROUNDS[..], &ROUNDS[1..3]) {
        for number in 0..effort.pick(8, 1) {
            let id = format!("small-{}-{}-{number}", round.redelivered, round.cancelled);
            jobs::start(&channel, &id, ends::TASKS.cast_signed()).await?;
            told.push(ends::report(server, &id, *round).await?);
        }
    }
    Ok(told)
}

/// Judges all of them, when all of them had the time to end.
async fn judge(contender: Contender, server: &Server, tables: &Tables, told: &[Told]) -> Result<Vec<Judged>> {
    let until = Instant::now() + if contender.is_right(0) { ENDS_WITHIN } else { Duration::ZERO };
    let mut judged = ROUNDS.map(|round| Judged { contender, round, wrongs: Wrongs::default() });
    for told in told {
        let at_last = ends::at_last(server, &told.id, until).await?;
        let writes = tables.ends(contender, &told.id).await?;
        for line in judged.iter_mut().filter(|line| line.round == told.round) {
            line.wrongs = line.wrongs.and(Wrongs::of(told, &at_last, writes));
        }
    }
    Ok(judged.into())
}
