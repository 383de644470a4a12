//! Reports of one job that come at once are marked together: one group of them is under way at a time, and what comes
//! meanwhile goes in the next.
//!
//! A mark is a compare-and-set on the bytes that it spans. Workers that each report tasks from all over a job would
//! make each other compute again and again: with 64 of them some met 64 conflicts in a row. So a gateway never
//! competes with itself, only gateways do with each other; and the busier a job is, the fewer calls to Redis a report
//! costs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::Gateway;
use super::goes_on::GoesOn;
use super::report::After;
use super::rounds::Rounds;
use crate::deadline::Deadline;
use crate::domain::{Batch, Definition, Disposition, Mark, StepSize, dispositions};
use crate::error::{Error, Result};
use crate::fault;

/// How many results go together at the most, if they are one step as well ([`StepSize`]): being grouped never takes a batch's
/// marks apart. More would only keep those waiting who come first. A larger batch goes alone.
const MAX_TOGETHER: usize = 3_000;

/// How many results the caller marks itself that finds no group under way. More would keep the other calls of its
/// connection waiting, and have a task of their own.
const MAX_BESIDE: usize = 100;

/// What became of a batch.
#[derive(Debug)]
pub(super) struct Taken {
    pub dispositions: Vec<Disposition>,
    pub after: After,
}

/// The batches that wait.
pub(super) type Batches = Rounds<Waiting>;

pub(super) struct Waiting {
    batch: Arc<Batch>,
    extent: StepSize,
    deadline: Deadline,
    answer: oneshot::Sender<Result<Taken>>,
}

impl Gateway {
    /// Marks a batch, together with others of its job that come at the same time.
    pub(super) async fn mark_together(
        &self,
        definition: &Arc<Definition>,
        batch: &Arc<Batch>,
        deadline: Deadline,
    ) -> Result<Taken> {
        let (answer, answered) = oneshot::channel();
        let extent = StepSize::of(definition.layout(), batch.marks().iter().copied().flatten());
        let waiting = Waiting { batch: batch.clone(), extent, deadline, answer };
        let is_first = self.shared.batches.join(&definition.id, waiting);
        let begun = is_first.then(|| GoesOn::new(self.clone().begin_groups(definition.clone())));
        fault::point("round.joined").await;
        match begun {
            Some(begun) if batch.marks().len() <= MAX_BESIDE => begun.await,
            // What is dropped goes on in a task.
            begun => drop(begun),
        }
        // A group ends at the deadline of the most patient; who is not goes away alone, and takes no timer for that.
        answered.await.unwrap_or_else(|_| Err(Error::Internal("a report was lost on its way".to_owned())))
    }

    /// Marks the group of the caller that began it, and leaves those who came meanwhile to a task.
    async fn begin_groups(self, definition: Arc<Definition>) {
        self.mark_next_group(&definition).await;
        if !self.shared.batches.is_over(&definition.id) {
            // In a box: a task is copied four times while it begins.
            tokio::spawn(Box::pin(async move { while self.mark_next_group(&definition).await {} }));
        }
    }

    /// Marks those who wait; false if nobody does.
    async fn mark_next_group(&self, definition: &Definition) -> bool {
        let Some(group) = self.shared.batches.next(&definition.id, group) else { return false };
        let batches: Vec<_> = group.iter().map(|waiting| waiting.batch.clone()).collect();
        // Whoever is less patient goes away alone.
        let Some(deadline) = group.iter().map(|waiting| waiting.deadline).max() else { return true };
        // What waits is not lost with a group that panics.
        let marked = AssertUnwindSafe(self.mark_group(definition, &batches, deadline)).catch_unwind().await;
        let taken = marked.unwrap_or_else(|_| Err(Error::Internal("marking a group panicked".to_owned())));
        match taken {
            Ok(taken) => {
                for (waiting, taken) in group.into_iter().zip(taken) {
                    let _ = waiting.answer.send(Ok(taken));
                }
            }
            Err(error) => {
                for waiting in group {
                    let _ = waiting.answer.send(Err(error.clone()));
                }
            }
        }
        true
    }

    /// Marks the results of all batches, as if they were one.
    async fn mark_group(
        &self,
        definition: &Definition,
        batches: &[Arc<Batch>],
        deadline: Deadline,
    ) -> Result<Vec<Taken>> {
        let layout = definition.layout();
        let all = || batches.iter().flat_map(|batch| batch.marks().iter().copied());
        let marks: Vec<Mark> = all().flatten().collect();
        let mut changes = Vec::new();
        let after = self.mark(definition, &marks, &mut changes, deadline).await?;
        let mut became = match &after {
            After::Recorded => {
                let recorded = |mark: Option<Mark>| mark.map_or(Disposition::UnknownTask, |_| Disposition::Recorded);
                all().map(recorded).collect()
            }
            After::Ended(_) if changes.is_empty() => vec![Disposition::Superseded; all().count()],
            // Of several steps, the first may have been marked before the end.
            After::MarkReply { .. } | After::Ended(_) => dispositions(layout, all(), &changes),
        };
        let mut taken = Vec::with_capacity(batches.len());
        for batch in batches.iter().rev() {
            let dispositions = became.split_off(became.len() - batch.marks().len());
            taken.push(Taken { dispositions, after });
        }
        taken.reverse();
        Ok(taken)
    }
}

/// How many of the first batches go together: at least one.
fn group(waiting: &[Waiting]) -> usize {
    fitting(waiting.iter().map(|waiting| (waiting.batch.marks().len(), waiting.extent)))
}

/// The same, of batches with so many results, and such extents.
fn fitting(batches: impl Iterator<Item = (usize, StepSize)>) -> usize {
    let (mut results, mut extent) = (0, StepSize::default());
    let fit = batches.take_while(|(more, of_more)| {
        results += more;
        extent = extent.with(*of_more);
        results <= MAX_TOGETHER && extent.fits()
    });
    fit.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Layout, Outcome};

    /// How many of these batches go together, whose tasks lie so far apart.
    fn grouped(apart: u32, sizes: &[u32]) -> usize {
        let layout = Layout { total: 10_000_000, stages: 1 };
        let extent = |size: u32| {
            let mark = |number| Mark { task: number * apart, stage: 0, outcome: Outcome::Failed };
            StepSize::of(layout, (0..size).map(mark))
        };
        fitting(sizes.iter().map(|size| (*size as usize, extent(*size))))
    }

    #[test]
    fn a_group_ends_where_the_next_batch_does_not_fit() {
        assert_eq!(grouped(1, &[1]), 1);
        assert_eq!(grouped(1, &[1_500, 1_500, 1]), 2);
        assert_eq!(grouped(1, &[1_500, 1_501, 1]), 1);
        assert_eq!(grouped(1, &[10_000, 1]), 1);
        assert_eq!(grouped(1, &[10; 400]), 300);
    }

    #[test]
    fn tasks_that_lie_apart_go_in_smaller_groups() {
        assert_eq!(grouped(100, &[100; 40]), 30);
        assert_eq!(grouped(10_000, &[100; 40]), 9);
        assert_eq!(grouped(10_000, &[1; 1_000]), 900);
    }
}
