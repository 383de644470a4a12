//! A tracker does what a plain model says, whatever is asked of it in whatever order; and at every moment its counts
//! are those of its cells (invariants I2, I3).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater::domain::{Cells, Counts, EndCause, JobId, Layout, Mark, MarkStep, Outcome, Status};
use highwater::live::{HEADER_BYTES, Header, MarkReply, Refusal, Seal, Tracker};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

use super::header::summed;
use super::{Bench, SEALED_TTL, TRACKER_TTL, TTL_BEFORE, marks, soon, succeeded};

/// What callers do to a tracker, and what befalls it. The numbers are incarnations.
#[derive(Debug, Clone)]
enum Command {
    Open(u64),
    Adopt(u64, Settle),
    /// What a restore finds under the first number, and takes up under the second.
    TakeUp(u64, u64),
    /// Marks that come back, whether or not it is adopted.
    Merge(u64, Vec<Mark>),
    SetAside,
    Report(u64, Footing, Expected, Vec<Mark>),
    SealComplete(u64),
    SealCancelled(u64),
    Expire(u64),
    /// A bug gave it wrong counts; a finish finds out.
    Repair,
    /// The same, but another was faster.
    RepairLate,
    /// Redis was restarted: the tracker's generation is not the one that answers.
    Restart,
    /// Evicted, or flushed.
    Vanish,
}

/// Whether a restored tracker has had its time.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Settle {
    Over,
    UnderWay,
}

/// Whether the report needs an adopted tracker, or its caller asks Postgres.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Footing {
    Adopted,
    Postgres,
}

/// What bytes the caller computed from.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Blank,
    Current,
    /// What others have changed since: one of the places that are compared, by number.
    Stale(usize),
}

/// The model of one tracker.
#[derive(Debug, Clone, Default)]
struct Held {
    incarnation: u64,
    adopted: bool,
    /// Of the generation that answers.
    own_generation: bool,
    restored: bool,
    seal: Option<EndCause>,
    /// The best that was reported.
    best: BTreeMap<(u32, usize), Outcome>,
    revision: u64,
    ttl: Duration,
}

impl Held {
    fn believed(&self) -> bool {
        self.adopted && self.own_generation
    }

    /// Sets a mark; whether it was new.
    fn mark(&mut self, mark: Mark) -> bool {
        match self.best.entry((mark.task, mark.stage)) {
            Entry::Occupied(held) if *held.get() == Outcome::Succeeded || mark.outcome == Outcome::Failed => false,
            better => {
                better.insert_entry(mark.outcome);
                true
            }
        }
    }

    fn status(&self, task: u32, stage: usize) -> Status {
        let failed_before = (0..stage).any(|earlier| self.best.get(&(task, earlier)) == Some(&Outcome::Failed));
        match self.best.get(&(task, stage)) {
            Some(Outcome::Succeeded) => Status::Succeeded,
            Some(Outcome::Failed) => Status::Failed,
            None if failed_before => Status::Skipped,
            None => Status::Pending,
        }
    }

    /// The tasks that something was reported of.
    fn tasks(&self) -> BTreeSet<u32> {
        self.best.keys().map(|(task, _)| *task).collect()
    }

    fn counts(&self, layout: Layout) -> Counts {
        let mut counts = Counts::none(layout.total, layout.stages);
        for task in self.tasks() {
            for (stage, counts) in counts.stages.iter_mut().enumerate() {
                match self.status(task, stage) {
                    Status::Pending => {}
                    Status::Succeeded => counts.succeeded += 1,
                    Status::Failed => counts.failed += 1,
                    Status::Skipped => counts.skipped += 1,
                }
            }
        }
        counts
    }

    /// What everyone is refused who comes with an incarnation; and who wants to change something that is sealed.
    fn own(held: Option<&mut Self>, incarnation: u64) -> Result<&mut Self, Refusal> {
        let held = held.ok_or(Refusal::Missing)?;
        if held.incarnation == incarnation { Ok(held) } else { Err(Refusal::OtherIncarnation) }
    }

    fn adopt(&mut self, settle: Settle) -> Result<(), Refusal> {
        match self.seal {
            Some(_) => Err(Refusal::Sealed),
            None if !self.own_generation => Err(Refusal::NotAdopted),
            None if self.restored && !self.adopted && settle == Settle::UnderWay => Err(Refusal::Settling),
            None => {
                self.adopted = true;
                Ok(())
            }
        }
    }

    /// The marks stay; another incarnation takes the seal off.
    fn reopen(&mut self, incarnation: u64) -> Result<(), Refusal> {
        let same = self.incarnation == incarnation;
        if same && self.seal.is_some() {
            return Err(Refusal::Sealed);
        }
        if !same || !self.own_generation {
            (self.incarnation, self.own_generation, self.restored) = (incarnation, true, true);
            (self.adopted, self.seal, self.ttl) = (false, None, TRACKER_TTL);
        }
        Ok(())
    }

    fn seal(&mut self, cause: EndCause, layout: Layout) -> Result<(), Refusal> {
        if self.seal.is_some() {
            return Ok(());
        }
        if cause == EndCause::Complete {
            let counts = self.counts(layout);
            if !counts.is_complete() {
                return Err(Refusal::Incomplete);
            }
            if !counts.all_succeeded() && !self.believed() {
                return Err(Refusal::NotAdopted);
            }
        }
        (self.seal, self.adopted) = (Some(cause), self.believed());
        Ok(())
    }
}

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
            Command::Adopt(incarnation, settle) => {
                let time = if *settle == Settle::Over { Duration::ZERO } else { Duration::from_secs(3600) };
                let found = live.adopt(id, *incarnation, time, soon()).await.unwrap();
                let expected = Held::own(self.model.as_mut(), *incarnation).and_then(|held| held.adopt(*settle));
                prop_assert_eq!(found.map(drop), expected);
            }
            Command::TakeUp(found, incarnation) => {
                let taken = live.reopen(id, *found, *incarnation, soon()).await.unwrap();
                let expected = Held::own(self.model.as_mut(), *found).and_then(|held| held.reopen(*incarnation));
                prop_assert_eq!(taken.map(drop), expected);
            }
            Command::Merge(incarnation, marks) => return self.merge(*incarnation, marks).await,
            Command::SetAside => prop_assert!(!live.quarantine(id, soon()).await.unwrap()),
            Command::Report(incarnation, footing, expected, marks) => {
                return self.report(*incarnation, *footing, *expected, marks).await;
            }
            Command::SealComplete(incarnation) => {
                let found = live.seal(id, *incarnation, Seal::Complete, soon()).await.unwrap();
                let held = Held::own(self.model.as_mut(), *incarnation);
                prop_assert_eq!(found.map(drop), held.and_then(|held| held.seal(EndCause::Complete, layout)));
            }
            Command::SealCancelled(incarnation) => {
                let why = format!("by {incarnation}");
                let found = live.seal(id, *incarnation, Seal::Cancelled(&why), soon()).await.unwrap();
                let held = Held::own(self.model.as_mut(), *incarnation);
                let was_open = held.as_ref().is_ok_and(|held| held.seal.is_none());
                prop_assert_eq!(found.map(drop), held.and_then(|held| held.seal(EndCause::Cancelled, layout)));
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
        let step = MarkStep::plan(self.layout, marks.iter().copied()).remove(0);
        let current = self.current(&step).await;
        let mut bytes = if matches!(expected, Expected::Blank) { step.blank() } else { current.clone() };
        if let (Expected::Stale(number), false) = (expected, bytes.is_empty()) {
            let place = number % bytes.len();
            bytes[place] ^= 0xff;
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
            (MarkReply::Refused(found), Err(expected)) => prop_assert_eq!(found, expected),
            (MarkReply::Conflict(found), Ok(_)) => {
                prop_assert_ne!(&bytes, &current);
                prop_assert_eq!(found, current);
            }
            (MarkReply::Applied(_), Ok(held)) => {
                prop_assert_eq!(&bytes, &current);
                let new = marks.iter().filter(|mark| held.mark(**mark)).count();
                held.revision += u64::from(new > 0);
                held.ttl = TRACKER_TTL;
            }
            (found, expected) => prop_assert!(false, "{found:?}, but {expected:?}"),
        }
        Ok(())
    }

    /// From the bytes as they are, so that it is never a conflict.
    async fn merge(&mut self, incarnation: u64, marks: &[Mark]) -> TestCaseResult {
        let step = MarkStep::plan(self.layout, marks.iter().copied()).remove(0);
        let bytes = self.current(&step).await;
        let change = step.apply(&bytes).unwrap();
        let merged = self.bench.live.merge(&self.id, incarnation, (&step, &bytes, &change), soon()).await.unwrap();
        match (merged, Held::own(self.model.as_mut(), incarnation)) {
            (MarkReply::Refused(found), Err(expected)) => prop_assert_eq!(found, expected),
            (MarkReply::Refused(found), Ok(held)) => {
                prop_assert!(held.seal.is_some() || !held.own_generation);
                prop_assert_eq!(found, if held.seal.is_some() { Refusal::Sealed } else { Refusal::Stale });
            }
            (MarkReply::Applied(_), Ok(held)) => {
                prop_assert_eq!((held.seal, held.own_generation), (None, true));
                let new = marks.iter().filter(|mark| held.mark(**mark)).count();
                held.revision += u64::from(new > 0);
                held.ttl = TRACKER_TTL;
            }
            (found, expected) => prop_assert!(false, "{found:?}, but {expected:?}"),
        }
        Ok(())
    }

    /// The bytes of the runs; blank where there is no tracker.
    async fn current(&self, step: &MarkStep) -> Vec<u8> {
        if self.model.is_none() {
            return step.blank();
        }
        let bytes = self.bench.bytes(&self.id).await;
        step.runs().iter().flat_map(|run| bytes[HEADER_BYTES..][run.clone()].to_vec()).collect()
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
        let Tracker::Present { header, believed, current } = tracker else {
            return Err(TestCaseError::fail(format!("{tracker:?}")));
        };
        prop_assert_eq!((believed, current), (held.believed(), held.own_generation));
        prop_assert_eq!(
            (header.restored, header.mark_summary().restore_time.is_some()),
            (held.restored, held.restored)
        );
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

/// A job of which every `spread`th task is reported, and now and then every single one.
#[derive(Debug, Clone, Copy)]
struct Plan {
    layout: Layout,
    spread: u32,
}

fn a_mark(Plan { layout, spread }: Plan) -> impl Strategy<Value = Mark> {
    let outcome = prop_oneof![3 => Just(Outcome::Succeeded), 1 => Just(Outcome::Failed)];
    (0..layout.total / spread, 0..layout.stages, outcome).prop_map(move |(number, stage, outcome)| Mark {
        task: number * spread,
        stage,
        outcome,
    })
}

/// What a worker reports that has caught up.
fn all(layout: Layout) -> Vec<Mark> {
    (0..layout.total).flat_map(|task| (0..layout.stages).map(move |stage| succeeded(task, stage))).collect()
}

fn a_command(plan: Plan) -> impl Strategy<Value = Command> {
    // Mostly the same, so that there is something to refuse only now and then.
    let incarnation = || prop_oneof![12 => Just(1_u64), 2 => Just(2), 1 => Just(3)];
    let footing = || prop_oneof![Just(Footing::Adopted), Just(Footing::Postgres)];
    let expected = prop_oneof![
        1 => Just(Expected::Blank),
        6 => Just(Expected::Current),
        1 => any::<usize>().prop_map(Expected::Stale),
    ];
    let some = || prop::collection::vec(a_mark(plan), 0..8);
    let settle = prop_oneof![2 => Just(Settle::Over), 1 => Just(Settle::UnderWay)];
    let every = all(plan.layout);
    prop_oneof![
        2 => incarnation().prop_map(Command::Open),
        4 => (incarnation(), settle).prop_map(|(incarnation, settle)| Command::Adopt(incarnation, settle)),
        2 => (incarnation(), incarnation()).prop_map(|(found, incarnation)| Command::TakeUp(found, incarnation)),
        2 => (incarnation(), some()).prop_map(|(incarnation, marks)| Command::Merge(incarnation, marks)),
        1 => Just(Command::SetAside),
        16 => (incarnation(), footing(), expected, some()).prop_map(|(i, f, e, marks)| Command::Report(i, f, e, marks)),
        1 => (incarnation(), footing())
            .prop_map(move |(i, f)| Command::Report(i, f, Expected::Current, every.clone())),
        2 => incarnation().prop_map(Command::SealComplete),
        1 => incarnation().prop_map(Command::SealCancelled),
        1 => incarnation().prop_map(Command::Expire),
        1 => Just(Command::Repair),
        1 => Just(Command::RepairLate),
        1 => Just(Command::Restart),
        1 => Just(Command::Vanish),
    ]
}

/// A small job, or one whose tasks lie so far apart that each is a place of its own.
fn a_life() -> impl Strategy<Value = (Layout, Vec<Command>)> {
    let small =
        (1_u32..12, 1_usize..=8).prop_map(|(total, stages)| Plan { layout: Layout { total, stages }, spread: 1 });
    let wide = (2_u32..6, 6_usize..=8).prop_map(|(number, stages)| {
        // No whole bytes: of seven stages, some cells lie in two bytes and some in three, which go to Redis otherwise.
        let spread = 201;
        Plan { layout: Layout { total: number * spread, stages }, spread }
    });
    prop_oneof![3 => small, 1 => wide]
        .prop_flat_map(|plan| (Just(plan.layout), prop::collection::vec(a_command(plan), 1..60)))
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
            for command in [Command::Open(1), Command::Adopt(1, Settle::Over)].iter().chain(&commands) {
                pair.obey(command).await?;
                pair.agree().await?;
            }
            Ok(())
        })
    });
    agreed.unwrap();
}
