//! Finish: seal → commit → expire. Level-triggered: whoever sees a complete or sealed tracker may do it, any number at
//! once, and a crash between any two steps is finished by the next. Holds invariants I1 and I2: one guarded commit
//! wins, and its verdict is computed from the very marks that it stores.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use super::Gateway;
use super::draft::Draft;
use super::known::Ended;
use crate::deadline::Deadline;
use crate::domain::{Cells, Counts, Definition, EndCause, JobId, JobState, Layout};
use crate::error::{Error, Result, Unavailable};
use crate::fault;
use crate::live::{Header, Seal, Tracker};

/// How long one finish may take, whoever waits for it: the cells of ten million tasks are read, counted and stored.
const FINISH_WITHIN: Duration = Duration::from_secs(30);
/// How long a finish tries to learn what became of a commit that failed.
const READ_BACK_WITHIN: Duration = Duration::from_secs(1);

/// The finishes under way in this gateway: one a tracker, however many wait for it. One that is stuck with the seal of
/// an earlier tracker of the job is in nobody's way.
#[derive(Default)]
pub(super) struct Finishes(Mutex<HashMap<TrackerName, Finish>>);

/// A job and an incarnation.
type TrackerName = (JobId, u64);

/// The state that the job has ended in, by whoever; `None` if it cannot end now.
type Finish = Shared<BoxFuture<'static, Result<Option<JobState>>>>;

impl Finishes {
    fn lock(&self) -> MutexGuard<'_, HashMap<TrackerName, Finish>> {
        // Entries are put in and taken out whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a finish off the list however it went.
struct UnderWay(Gateway, TrackerName);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.shared.finishes.lock().remove(&self.1);
    }
}

impl Gateway {
    /// Begins to finish the job whose tracker has this incarnation, or joins who does. It goes on whether or not
    /// somebody waits for it.
    pub fn finish(&self, id: &JobId, incarnation: u64) -> Finish {
        let name = (id.clone(), incarnation);
        let mut under_way = self.shared.finishes.lock();
        if let Some(finish) = under_way.get(&name) {
            return finish.clone();
        }
        let (gateway, listed) = (self.clone(), name.clone());
        let task = tokio::spawn(async move {
            // Made in here: a runtime that shuts down drops the task at once, while the list is still locked.
            let listed = UnderWay(gateway, listed);
            let UnderWay(gateway, (id, incarnation)) = &listed;
            let outcome = gateway.try_finish(id, *incarnation, Deadline::after(FINISH_WITHIN)).await;
            match &outcome {
                // Said once by whoever watches the stores; it is tried again every round.
                Ok(_) | Err(Error::Unavailable(_)) => {}
                Err(error) => tracing::warn!(job = %id, %error, "could not finish; whoever looks next tries again"),
            }
            outcome
        });
        let finish = task.map(|ended| ended.unwrap_or_else(|error| Err(Error::Internal(error.to_string()))));
        let finish = finish.boxed().shared();
        under_way.insert(name, finish.clone());
        finish
    }

    /// Begins to finish the job whose tracker was seen to be complete or sealed; does not wait for it.
    pub(super) fn finish_if_due(&self, id: &JobId, header: &Header) {
        if header.counts.is_complete() || header.seal.is_some() {
            drop(self.finish(id, header.incarnation));
        }
    }

    async fn try_finish(&self, id: &JobId, incarnation: u64, deadline: Deadline) -> Result<Option<JobState>> {
        let definition = self.definition(id, deadline).await?;
        fault::point("finish.begun").await;
        let header = match self.live().seal(id, incarnation, Seal::Complete, deadline).await.map_err(Error::from) {
            Ok(Ok(header)) => header,
            // What is beyond any change may end without it.
            Err(Error::Unavailable(Unavailable::Redis)) => {
                return self.finish_without_tracker(id, incarnation, deadline).await;
            }
            Err(error) => return Err(error),
            Ok(Err(refusal)) => {
                tracing::debug!(job = %id, ?refusal, "cannot be finished now");
                return Ok(None);
            }
        };
        fault::point("finish.sealed").await;
        let Some(draft) = self.draft(&definition, header, deadline).await? else { return Ok(None) };
        fault::point("finish.read").await;
        let Some(state) = self.commit(id, incarnation, &draft, deadline).await? else { return Ok(None) };
        // Best effort: a sealed tracker that stays goes away with its time to live.
        match self.live().expire(id, incarnation, deadline).await {
            Ok(Ok(_)) => {}
            outcome => tracing::debug!(job = %id, ?outcome, "the sealed tracker stays for now"),
        }
        fault::point("finish.expired").await;
        Ok(Some(state))
    }

    /// Commits an end; the state that the job has ended in, by whoever, or `None` if it runs on.
    pub(super) async fn commit(
        &self,
        id: &JobId,
        incarnation: u64,
        draft: &Draft,
        deadline: Deadline,
    ) -> Result<Option<JobState>> {
        let committed = self.store().commit_end(id, incarnation, |ledger| draft.ending(ledger), deadline).await;
        if committed.is_ok() {
            fault::point("finish.committed").await;
        }
        // Read back: another may have won, and a commit whose answer never came may have happened all the same.
        let within = if committed.is_ok() { deadline } else { deadline.at_most(READ_BACK_WITHIN) };
        let job = self.get(id, within).await?;
        let state = job.state;
        let won = match committed {
            Ok(won) => won,
            Err(error) if !state.is_ended() => return Err(error.into()),
            Err(_) => None,
        };
        let label = if won.is_some() { "true" } else { "false" };
        metrics::counter!("highwater_finishes_total", "won" => label).increment(1);
        if !state.is_ended() {
            tracing::debug!(job = %id, incarnation, "no end: marks are missing, or the tracker is not the job's any more");
            return Ok(None);
        }
        if let Some(snapshot) = won {
            let last = snapshot.counts.last();
            let (succeeded, failed) = (last.succeeded, last.failed + last.skipped);
            let lower_bound = snapshot.lower_bound;
            tracing::info!(job = %id, %state, succeeded, failed, lower_bound, "ended");
            self.known().saw_snapshot(Arc::new(Ended::new(job, snapshot)));
        }
        self.shared.running.ended(id);
        Ok(Some(state))
    }

    /// Ends a job that is complete although its tracker cannot be reached or sealed, from the mirror, the ledger, and
    /// what can be read of the tracker.
    pub(super) async fn finish_without_tracker(
        &self,
        id: &JobId,
        incarnation: u64,
        deadline: Deadline,
    ) -> Result<Option<JobState>> {
        let mut draft = self.draft_without_tracker(id, EndCause::Complete, deadline).await?;
        if let Some(held) = self.readable_cells(id, draft.cells.layout(), deadline.half()).await {
            draft.cells.merge(&held);
        }
        // The commit reads the ledger again, under the row's lock; this only keeps it from being tried in vain.
        let entries = self.store().ledger(id, u32::MAX, deadline).await?;
        let marks: Vec<_> = entries.into_iter().flat_map(|entry| entry.marks).collect();
        if draft.ending(&marks).is_none() {
            return Ok(None);
        }
        self.commit(id, incarnation, &draft, deadline).await
    }

    /// The marks of a tracker that is in order, where Redis can be read.
    async fn readable_cells(&self, id: &JobId, layout: Layout, deadline: Deadline) -> Option<Cells> {
        match self.live().read_tracker(id, deadline).await.ok()?.tracker {
            Tracker::Present { header, .. } if header.layout() == layout => {
                self.live().read_cells(id, layout, deadline).await.ok()?
            }
            _ => None,
        }
    }

    /// The end that this gateway knows of without the tracker.
    pub(super) async fn draft_without_tracker(&self, id: &JobId, cause: EndCause, deadline: Deadline) -> Result<Draft> {
        let job = self.get(id, deadline).await?;
        let cells = self.shared.mirrors.cells(id).unwrap_or_else(|| Cells::blank(job.definition.layout()));
        Ok(Draft::without_tracker(&job.definition, cause, cells, job.tracked))
    }

    /// The end that a seal leads to, from the cells themselves; `None` if it turns out to lead to none.
    async fn draft(&self, definition: &Definition, sealed: Header, deadline: Deadline) -> Result<Option<Draft>> {
        let id = &definition.id;
        if sealed.layout() != definition.layout() {
            return Err(Error::Internal(format!("the tracker of job {id} is that of another job")));
        }
        let Some(cells) = self.live().cells(id, &sealed, deadline).await? else { return Ok(None) };
        let (cells, counts) = recount(cells).await?;
        let Some(header) = self.repaired(id, sealed, counts, deadline).await? else { return Ok(None) };
        let Some(cause) = header.seal else { return Ok(None) };
        let mut draft = Draft::sealed(definition, &header, cause, cells);
        if cause == EndCause::Cancelled {
            draft.cancel_reason = self.live().reason(id, deadline).await?;
        }
        draft.errors = self.live().read_tracker(id, deadline).await?.errors;
        Ok(Some(draft))
    }

    /// Recounts an open tracker. Nothing is done if marks are set meanwhile: whoever meets the wrong counts next tries
    /// again.
    pub(super) async fn put_counts_right(&self, id: &JobId, deadline: Deadline) -> Result<()> {
        let Tracker::Present { header, .. } = self.live().read_tracker(id, deadline).await?.tracker else {
            return Ok(());
        };
        let Some(cells) = self.live().cells(id, &header, deadline).await? else { return Ok(()) };
        let (_, counts) = recount(cells).await?;
        self.repaired(id, header, counts, deadline).await.map(drop)
    }

    /// The header with the counts of the cells. That they differ from its own is a broken invariant: said, counted,
    /// and put right before anything is stored. `None` if the job is not complete after all: the seal is taken off.
    async fn repaired(&self, id: &JobId, found: Header, counts: Counts, deadline: Deadline) -> Result<Option<Header>> {
        if found.counts == counts {
            return Ok(Some(found));
        }
        metrics::counter!("highwater_invariant_violations_total").increment(1);
        tracing::error!(job = %id, header = ?found.counts, cells = ?counts, "the counts were not those of the cells");
        let stands = matches!(found.seal, Some(EndCause::Cancelled | EndCause::Revoked)) || counts.is_complete();
        let mut right = found.clone();
        right.counts = counts;
        // Answers of the same revision have the same counts.
        right.revision += 1;
        if !stands {
            (right.seal, right.seal_time) = (None, None);
        }
        let repaired = self.live().repair(id, &found, &right, deadline).await?;
        Ok((repaired.is_ok() && stands).then_some(right))
    }
}

/// Counts cells, off the runtime: ten million take a while.
async fn recount(cells: Cells) -> Result<(Cells, Counts)> {
    let counted = tokio::task::spawn_blocking(move || {
        let counts = cells.count();
        (cells, counts)
    });
    counted.await.map_err(|error| Error::Internal(error.to_string()))
}
