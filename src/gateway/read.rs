//! The way of a read: look at the tracker, ask Postgres unless the feed says that the job runs, and let the read
//! table (`domain::resolve`) decide what that means. Never waits for an end that it sees coming.

use std::sync::Arc;

use time::OffsetDateTime;

use super::Gateway;
use super::known::Ended;
use crate::deadline::Deadline;
use crate::domain::{
    Cells, Counts, Definition, Errors, Job, JobId, JobState, Progress, Resolution, Row, Source, SourceReason, Standing,
    Tally, TrackerView, resolve,
};
use crate::error::{Error, Result, Unavailable};
use crate::live::{Header, Tracker, View};

impl Gateway {
    /// How far the job is, with its definition (for the stages' keys).
    pub async fn progress(&self, id: &JobId, deadline: Deadline) -> Result<(Arc<Definition>, Progress)> {
        if self.known().ended(id).is_some() {
            // This gateway has said so, and never shows the job running again, also not while Postgres is away (I6).
            return Ok(self.ended(id, deadline).await?.told());
        }
        let mirror = self.shared.mirrors.holds(id);
        let known_running = self.shared.running.get(id).filter(|running| !running.ledger);
        if let Some(incarnation) = known_running.map(|running| running.incarnation) {
            let look = self.look(id, deadline).await;
            let row = Row::NotAsked { known_running: Some(incarnation) };
            let resolution = resolve(tracker_view(look.as_ref()), row, mirror);
            if resolution != Resolution::AskPostgres {
                return self.answer(id, resolution, look, deadline).await;
            }
        }
        // In this order: what was drained from the ledger before Postgres said that nothing is left in it is in the
        // tracker, but perhaps not in an older look at it.
        let row = self.row(id, deadline).await?;
        let look = self.look(id, deadline).await;
        let resolution = resolve(tracker_view(look.as_ref()), row, mirror);
        self.answer(id, resolution, look, deadline).await
    }

    async fn answer(
        &self,
        id: &JobId,
        resolution: Resolution,
        look: Option<View>,
        deadline: Deadline,
    ) -> Result<(Arc<Definition>, Progress)> {
        let definition = match resolution {
            Resolution::NotFound => return Err(Error::NotFound(id.clone())),
            Resolution::Unavailable | Resolution::AskPostgres => {
                return Err(Error::Unavailable(Unavailable::Postgres));
            }
            Resolution::Snapshot => return Ok(self.ended(id, deadline).await?.told()),
            Resolution::Pending | Resolution::Unknown(_) | Resolution::Mirror(_) | Resolution::Tracker { .. } => {
                self.definition(id, deadline).await?
            }
        };
        let progress = match (resolution, look) {
            (
                Resolution::Tracker { source, lower_bound },
                Some(View { tracker: Tracker::Present { header, current, .. }, errors, time }),
            ) => {
                if header.counts.is_complete() || header.seal.is_some() {
                    drop(self.finish(id, header.incarnation));
                }
                let mut tally = header.tally();
                if let Source::Fallback(SourceReason::InLedger | SourceReason::TrackerNotAdopted) = source {
                    tally.counts = self.counts_with_tracker(&definition, &header, current, deadline).await?;
                }
                Progress {
                    source,
                    lower_bound,
                    observe_time: time,
                    tally: Some(tally),
                    rate: Some(header.rate(time)),
                    errors,
                    ..running_unknown()
                }
            }
            (Resolution::Mirror(reason), look) => {
                let counts = self.mirror_and_ledger(&definition, deadline).await?.0.count();
                Progress {
                    source: Source::Fallback(reason),
                    lower_bound: true,
                    tally: Some(Tally { counts, revision: None, last_progress_time: None, restore_time: None }),
                    errors: look.map_or_else(Errors::default, |look| look.errors),
                    ..running_unknown()
                }
            }
            (Resolution::Unknown(reason), look) => Progress {
                source: Source::Fallback(reason),
                errors: look.map_or_else(Errors::default, |look| look.errors),
                ..running_unknown()
            },
            _ => pending(&definition),
        };
        Ok((definition, progress))
    }

    /// What tracker, mirror and ledger hold together.
    async fn counts_with_tracker(
        &self,
        definition: &Definition,
        header: &Header,
        current: bool,
        deadline: Deadline,
    ) -> Result<Counts> {
        let (id, layout) = (&definition.id, definition.layout());
        let standing = Standing { incarnation: header.incarnation, generation: header.generation };
        // What the mirror held is in the tracker, unless Redis has gone back since.
        let ahead = if current { self.shared.mirrors.is_ahead(id, standing) } else { self.shared.mirrors.holds(id) };
        let (mut cells, rows) = self.mirror_and_ledger(definition, deadline).await?;
        if !ahead && !rows {
            return Ok(header.counts.clone());
        }
        match self.live().read_cells(id, layout, deadline).await.map_err(Error::from) {
            Ok(Some(held)) => {
                cells.merge(&held);
                Ok(cells.count())
            }
            // It was there a moment ago, and no mark is ever taken back.
            Ok(None) | Err(Error::Unavailable(_)) => Ok(header.counts.clone()),
            Err(error) => Err(error),
        }
    }

    /// The marks that mirror and ledger hold, and whether the ledger has any. Postgres being away adds nothing.
    async fn mirror_and_ledger(&self, definition: &Definition, deadline: Deadline) -> Result<(Cells, bool)> {
        let (id, layout) = (&definition.id, definition.layout());
        let mut cells = self.shared.mirrors.cells(id).unwrap_or_else(|| Cells::blank(layout));
        match self.store().ledger(id, u32::MAX, deadline.half()).await.map_err(Error::from) {
            Ok(entries) => {
                for entry in &entries {
                    cells.mark(&entry.marks);
                }
                Ok((cells, !entries.is_empty()))
            }
            Err(Error::Unavailable(_)) => Ok((cells, false)),
            Err(error) => Err(error),
        }
    }

    /// Looks at the tracker; leaves time to ask Postgres when Redis hangs.
    async fn look(&self, id: &JobId, deadline: Deadline) -> Option<View> {
        let look = self.live().look(id, deadline.half()).await;
        look.inspect_err(|error| tracing::debug!(job = %id, %error, "a look at the tracker failed")).ok()
    }

    /// What Postgres says of the job now; leaves time to answer with the tracker when Postgres hangs.
    async fn row(&self, id: &JobId, deadline: Deadline) -> Result<Row> {
        match self.ask(id, deadline.half()).await {
            Ok(job) => Ok(row(job.as_ref())),
            Err(Error::Unavailable(_)) => Ok(Row::Unreachable),
            Err(error) => Err(error),
        }
    }

    /// The ended job with its snapshot: from memory, or from Postgres and remembered.
    async fn ended(&self, id: &JobId, deadline: Deadline) -> Result<Arc<Ended>> {
        if let Some(ended) = self.known().snapshot(id) {
            return Ok(ended);
        }
        let snapshot = self.store().snapshot(id, deadline).await?;
        let snapshot = snapshot.ok_or_else(|| Error::Internal(format!("job {id} has ended without a snapshot")))?;
        let ended = Arc::new(Ended { job: self.get(id, deadline).await?, snapshot });
        self.known().saw_snapshot(ended.clone());
        Ok(ended)
    }
}

impl Ended {
    fn told(&self) -> (Arc<Definition>, Progress) {
        let progress = Progress {
            state: self.job.state,
            source: Source::Snapshot,
            lower_bound: self.snapshot.lower_bound,
            observe_time: self.job.end_time.unwrap_or(self.job.create_time),
            tally: Some(self.snapshot.tally()),
            rate: None,
            errors: self.snapshot.errors.clone(),
            cancel_reason: self.job.cancel_reason.clone(),
        };
        (Arc::new(self.job.definition.clone()), progress)
    }
}

/// A running job of which nothing more is known.
fn running_unknown() -> Progress {
    Progress {
        state: JobState::Running,
        source: Source::Fallback(SourceReason::TrackerMissing),
        lower_bound: false,
        observe_time: OffsetDateTime::now_utc(),
        tally: None,
        rate: None,
        errors: Errors::default(),
        cancel_reason: String::new(),
    }
}

/// A job that was not started: all is pending, and that is known for certain.
fn pending(definition: &Definition) -> Progress {
    let layout = definition.layout();
    let counts = Counts::none(layout.total, layout.stages);
    Progress {
        state: JobState::Pending,
        source: Source::Snapshot,
        tally: Some(Tally { counts, revision: Some(0), last_progress_time: None, restore_time: None }),
        ..running_unknown()
    }
}

fn row(job: Option<&Job>) -> Row {
    match job.map(|job| (job.state, job)) {
        None => Row::Absent,
        Some((JobState::Pending, _)) => Row::Pending,
        Some((JobState::Running, job)) => Row::Running { incarnation: job.incarnation, ledger: job.ledger },
        Some(_) => Row::Ended,
    }
}

fn tracker_view(look: Option<&View>) -> TrackerView {
    look.map_or(TrackerView::Unreachable, |look| look.tracker.view())
}
