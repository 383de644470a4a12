//! A tracker does what a plain model says, whatever is asked of it in whatever order; and at every moment its counts
//! are those of its cells (invariants I2, I3).

mod held;
mod life;

use std::time::Duration;

use highwater::domain::{Cause, Cells, JobId, Layout, Mark, Marking};
use highwater::live::{HEADER_BYTES, Header, Marked, Refusal, Seal, Tracker};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

use super::header::summed;
use super::{Bench, SEALED_TTL, TRACKER_TTL, TTL_BEFORE, marks, soon};
use held::Held;
use life::{Command, Expected, Footing, a_life};

/// A tracker and its model.
struct Pair<'a> {
    bench: &'a Bench,
    id: JobId,
    layout: Layout,
    model: Option<Held>,
}

impl Pair<'_> {
    async fn obey(&mut self, command: &Command) -> TestCaseResult {
        let (live, id, layout) = (&self.bench.live, &self.id, self.layout);
        match command {
            Command::Open(incarnation) => {
                let found = live.open(id, layout, *incarnation, None, soon()).await.unwrap();
                let expected = match &self.model {
                    Some(held) if held.incarnation >= *incarnation => Err(Refusal::OtherIncarnation),
                    _ => {
                        let (own_generation, ttl) = (true, TRACKER_TTL);
                        let held = Held { incarnation: *incarnation, own_generation, ttl, ..Held::default() };
                        self.model = Some(held);
                        Ok(())
                    }
                };
                prop_assert_eq!(found, expected);
            }
            Command::Adopt(incarnation) => {
                let found = live.adopt(id, *incarnation, Duration::ZERO, soon()).await.unwrap();
                let expected = Held::own(self.model.as_mut(), *incarnation).and_then(Held::adopt);
                prop_assert_eq!(found.map(drop), expected);
            }
            Command::Report(incarnation, footing, expected, marks) => {
                return self.report(*incarnation, *footing, *expected, marks).await;
            }
            Command::SealComplete(incarnation) => {
                let found = live.seal(id, *incarnation, Seal::Complete, soon()).await.unwrap();
                let held = Held::own(self.model.as_mut(), *incarnation);
                prop_assert_eq!(found.map(drop), held.and_then(|held| held.seal(Cause::Complete, layout)));
            }
            Command::SealCancelled(incarnation) => {
                let why = format!("by {incarnation}");
                let found = live.seal(id, *incarnation, Seal::Cancelled(&why), soon()).await.unwrap();
                let held = Held::own(self.model.as_mut(), *incarnation);
                let was_open = held.as_ref().is_ok_and(|held| held.seal.is_none());
                prop_assert_eq!(found.map(drop), held.and_then(|held| held.seal(Cause::Cancelled, layout)));
                if was_open {
                    prop_assert_eq!(live.reason(id, soon()).await.unwrap(), why);
                }
            }
            Command::Expire(incarnation) => {
                let found = live.expire(id, *incarnation, soon()).await.unwrap();
                let expected = Held::own(self.model.as_mut(), *incarnation).and_then(|held| {
                    held.seal.ok_or(Refusal::NotSealed)?;
                    held.ttl = SEALED_TTL;
                    Ok(())
                });
                prop_assert_eq!(found.map(drop), expected);
            }
            Command::Repair | Command::RepairLate => return self.repair(matches!(command, Command::Repair)).await,
            Command::Restart => {
                if let Some(held) = &mut self.model {
                    let bytes = self.bench.bytes(id).await;
                    let (header, cells) = bytes.split_at(HEADER_BYTES);
                    let mut header = header.to_vec();
                    header[20..36].copy_from_slice(b"0000000000000000");
                    self.bench.put(id, &[&summed(header)[..], cells].concat()).await;
                    (held.own_generation, held.ttl) = (false, TTL_BEFORE);
                }
            }
            Command::Vanish => {
                let () = self.bench.ask(&[b"DEL", marks(id).as_bytes()]).await;
                self.model = None;
            }
        }
        Ok(())
    }

    async fn report(
        &mut self,
        incarnation: u64,
        footing: Footing,
        expected: Expected,
        marks: &[Mark],
    ) -> TestCaseResult {
        let only_adopted = footing == Footing::Adopted;
        let step = Marking::plan(self.layout, marks.iter().copied()).remove(0);
        let current = self.current(&step).await;
        let mut bytes = if matches!(expected, Expected::Blank) { step.blank() } else { current.clone() };
        if let (Expected::Stale(number), false) = (expected, bytes.is_empty()) {
            let place = number % bytes.len();
            bytes[place][0] ^= 0xff;
        }
        let change = step.apply(&bytes).unwrap();
        let report = (&step, &bytes[..], &change);
        let marked = self.bench.live.report(&self.id, incarnation, only_adopted, report, soon()).await.unwrap();

        let refused = match Held::own(self.model.as_mut(), incarnation) {
            Err(refusal) => Err(refusal),
            Ok(held) if held.seal.is_some() => Err(Refusal::Sealed),
            Ok(held) if !held.own_generation => Err(Refusal::Stale),
            Ok(held) if only_adopted && !held.adopted => Err(Refusal::NotAdopted),
            Ok(held) => Ok(held),
        };
        match (marked, refused) {
            (Marked::Refused(found), Err(expected)) => prop_assert_eq!(found, expected),
            (Marked::Conflict(found), Ok(_)) => {
                prop_assert_ne!(&bytes, &current);
                prop_assert_eq!(found, current);
            }
            (Marked::Applied(_), Ok(held)) => {
                prop_assert_eq!(&bytes, &current);
                let new = marks.iter().filter(|mark| held.mark(**mark)).count();
                held.revision += u64::from(new > 0);
                held.ttl = TRACKER_TTL;
            }
            (found, expected) => prop_assert!(false, "{found:?}, but {expected:?}"),
        }
        Ok(())
    }

    /// The bytes of the runs; blank where there is no tracker.
    async fn current(&self, step: &Marking) -> Vec<Vec<u8>> {
        if self.model.is_none() {
            return step.blank();
        }
        let bytes = self.bench.bytes(&self.id).await;
        step.runs().iter().map(|run| bytes[HEADER_BYTES..][run.clone()].to_vec()).collect()
    }

    /// Gives the tracker counts that are not those of its cells, and repairs them, unless another header came between.
    async fn repair(&mut self, in_time: bool) -> TestCaseResult {
        let Tracker::Present { header: right, .. } = self.bench.tracker(&self.id).await else { return Ok(()) };
        let mut wrong = right.clone();
        let first = &mut wrong.counts.stages[0];
        (first.succeeded, first.failed) = (first.failed, first.succeeded);
        let bytes = self.bench.bytes(&self.id).await;
        self.bench.put(&self.id, &[&wrong.encode()[..], &bytes[HEADER_BYTES..]].concat()).await;
        let mut found = wrong.clone();
        found.revision += u64::from(!in_time);
        let repaired = self.bench.live.repair(&self.id, &found, &right, soon()).await.unwrap();
        if in_time {
            prop_assert_eq!(repaired, Ok(right));
        } else {
            prop_assert_eq!(repaired, Err(Refusal::Changed));
            self.bench.put(&self.id, &bytes).await;
        }
        if let Some(held) = &mut self.model {
            held.ttl = TTL_BEFORE;
        }
        Ok(())
    }

    /// Tracker and model are the same to every reader.
    async fn agree(&self) -> TestCaseResult {
        let tracker = self.bench.tracker(&self.id).await;
        let Some(held) = &self.model else {
            prop_assert_eq!(tracker, Tracker::Missing);
            return Ok(());
        };
        let Tracker::Present { header, believed, .. } = tracker else {
            return Err(TestCaseError::fail(format!("{tracker:?}")));
        };
        prop_assert_eq!(believed, held.believed());
        let Header { incarnation, adopted, seal, revision, .. } = header;
        prop_assert_eq!(
            (incarnation, adopted, seal, revision),
            (held.incarnation, held.adopted, held.seal, held.revision)
        );
        let bytes = self.bench.bytes(&self.id).await;
        let cells = Cells::new(self.layout, bytes[HEADER_BYTES..].to_vec()).unwrap();
        prop_assert_eq!(&header.counts, &cells.count());
        prop_assert_eq!(&header.counts, &held.counts(self.layout));
        for task in held.tasks() {
            let statuses: Vec<_> = cells.cell(task).statuses(self.layout.stages).collect();
            let expected: Vec<_> = (0..self.layout.stages).map(|stage| held.status(task, stage)).collect();
            prop_assert_eq!(statuses, expected, "task {}", task);
        }
        let left = self.bench.ttl(&marks(&self.id)).await;
        prop_assert!(left <= held.ttl && left + Duration::from_secs(60) > held.ttl, "{left:?} of {:?}", held.ttl);
        if seal.is_some() {
            let read = self.bench.live.cells(&self.id, &header, soon()).await.unwrap();
            prop_assert_eq!(read.as_ref().map(Cells::bytes), Some(cells.bytes()));
        }
        Ok(())
    }
}

#[test]
fn a_tracker_does_what_a_plain_model_says() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bench = runtime.block_on(Bench::start(&[]));
    let config = Config { cases: 100, failure_persistence: None, ..Config::default() };
    let agreed = TestRunner::new(config).run(&a_life(), |(layout, commands)| {
        runtime.block_on(async {
            let mut pair = Pair { bench: &bench, id: JobId::generate(), layout, model: None };
            // A life begins with its birth.
            for command in [Command::Open(1), Command::Adopt(1)].iter().chain(&commands) {
                pair.obey(command).await?;
                pair.agree().await?;
            }
            Ok(())
        })
    });
    agreed.unwrap();
}
