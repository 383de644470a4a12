//! Tests that a tracker behaves like a simple reference model under any sequence of commands, and that its counts
//! always match its cells (invariants I2 and I3).

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use highwater::domain::{
    Cells, Counts, Digests, EndCause, Incarnation, JobId, Layout, Mark, MarkStep, Outcome, Status,
};
use highwater::live::{CellsReading, HEADER_BYTES, Header, MarkReply, Refusal, Seal, StepWrite, Tracker};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

use super::header::with_checksum;
use super::{FIRST, SEALED_TTL, SECOND, THIRD, TRACKER_TTL, TTL_BEFORE, TestRedis, deadline, succeeded, tracker_key};

/// A call or an event that affects a tracker.
#[derive(Debug, Clone)]
enum Command {
    Open(Incarnation),
    Adopt(Incarnation, Settling),
    /// Reopens a tracker of the first incarnation under the second.
    Reopen(Incarnation, Incarnation),
    /// Merges marks of a mirror, whether or not the tracker is adopted.
    Merge(Incarnation, Vec<Mark>),
    Quarantine,
    Report(Incarnation, Confirmation, Expected, Vec<Mark>),
    SealComplete(Incarnation),
    SealCancelled(Incarnation),
    Expire(Incarnation),
    /// Wrong counts are written, and then a finish finds and repairs them.
    Repair,
    /// A repair is refused, because the header has changed since it was read.
    RepairConflict,
    /// Redis is restarted, so the generation of the tracker is no longer the current one.
    Restart,
    /// The key is evicted or flushed.
    Vanish,
}

/// Whether the settle time of a restored tracker is over.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Settling {
    Done,
    InProgress,
}

/// Whether a report requires an adopted tracker. If it does not, its caller confirms the tracker with Postgres.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Confirmation {
    Adopted,
    Postgres,
}

/// The bytes from which the caller computed its change.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Blank,
    Current,
    /// Bytes that have changed since then. The number selects the changed byte.
    Stale(usize),
}

/// The model of one tracker.
#[derive(Debug, Clone)]
struct Model {
    incarnation: Incarnation,
    adopted: bool,
    /// Whether the generation of the tracker is the current one.
    own_generation: bool,
    restored: bool,
    seal: Option<EndCause>,
    /// The best reported outcome of each task and stage.
    best: BTreeMap<(u32, usize), Outcome>,
    revision: u64,
    ttl: Duration,
}

impl Model {
    fn opened(incarnation: Incarnation) -> Self {
        Self {
            incarnation,
            adopted: false,
            own_generation: true,
            restored: false,
            seal: None,
            best: BTreeMap::new(),
            revision: 0,
            ttl: TRACKER_TTL,
        }
    }

    fn trusted(&self) -> bool {
        self.adopted && self.own_generation
    }

    /// Sets a mark, and returns whether it changed anything.
    fn mark(&mut self, mark: Mark) -> bool {
        match self.best.entry((mark.task, mark.stage)) {
            Entry::Occupied(best) if *best.get() == Outcome::Succeeded || mark.outcome == Outcome::Failed => false,
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

    /// The tasks that have marks.
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

    /// Checks that the tracker exists and has this incarnation.
    fn with_incarnation(model: Option<&mut Self>, incarnation: Incarnation) -> Result<&mut Self, Refusal> {
        let model = model.ok_or(Refusal::Missing)?;
        if model.incarnation == incarnation { Ok(model) } else { Err(Refusal::OtherIncarnation) }
    }

    fn adopt(&mut self, settling: Settling) -> Result<(), Refusal> {
        match self.seal {
            Some(_) => Err(Refusal::Sealed),
            None if !self.own_generation => Err(Refusal::NotAdopted),
            None if self.restored && !self.adopted && settling == Settling::InProgress => Err(Refusal::Settling),
            None => {
                self.adopted = true;
                Ok(())
            }
        }
    }

    /// Keeps the marks. A new incarnation removes the seal.
    fn reopen(&mut self, incarnation: Incarnation) -> Result<(), Refusal> {
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
            if !counts.all_succeeded() && !self.trusted() {
                return Err(Refusal::NotAdopted);
            }
        }
        (self.seal, self.adopted) = (Some(cause), self.trusted());
        Ok(())
    }
}

/// A tracker and its reference model.
struct TrackerAndModel<'a> {
    redis: &'a TestRedis,
    id: JobId,
    layout: Layout,
    model: Option<Model>,
}

impl TrackerAndModel<'_> {
    async fn run(&mut self, command: &Command) -> TestCaseResult {
        let (live, id, layout) = (&self.redis.live, &self.id, self.layout);
        match command {
            Command::Open(incarnation) => {
                let found = live.open(id, layout, *incarnation, None, deadline()).await.unwrap();
                let expected = match &self.model {
                    Some(model) if model.incarnation >= *incarnation => Err(Refusal::OtherIncarnation),
                    _ => {
                        self.model = Some(Model::opened(*incarnation));
                        Ok(())
                    }
                };
                prop_assert_eq!(found, expected);
            }
            Command::Adopt(incarnation, settling) => {
                let time = if *settling == Settling::Done { Duration::ZERO } else { Duration::from_secs(3600) };
                let found = live.adopt(id, *incarnation, time, deadline()).await.unwrap();
                let expected =
                    Model::with_incarnation(self.model.as_mut(), *incarnation).and_then(|model| model.adopt(*settling));
                prop_assert_eq!(found.map(drop), expected);
            }
            Command::Reopen(found, incarnation) => {
                let taken = live.reopen(id, *found, *incarnation, deadline()).await.unwrap();
                let expected =
                    Model::with_incarnation(self.model.as_mut(), *found).and_then(|model| model.reopen(*incarnation));
                prop_assert_eq!(taken.map(drop), expected);
            }
            Command::Merge(incarnation, marks) => return self.merge(*incarnation, marks).await,
            Command::Quarantine => prop_assert!(!live.quarantine(id, None, deadline()).await.unwrap()),
            Command::Report(incarnation, confirmation, expected, marks) => {
                return self.report(*incarnation, *confirmation, *expected, marks).await;
            }
            Command::SealComplete(incarnation) => {
                let found = live.seal(id, *incarnation, Seal::Complete, deadline()).await.unwrap();
                let model = Model::with_incarnation(self.model.as_mut(), *incarnation);
                prop_assert_eq!(found.map(drop), model.and_then(|model| model.seal(EndCause::Complete, layout)));
            }
            Command::SealCancelled(incarnation) => {
                let why = format!("by {incarnation}");
                let found = live.seal(id, *incarnation, Seal::Cancelled(&why), deadline()).await.unwrap();
                let model = Model::with_incarnation(self.model.as_mut(), *incarnation);
                let was_open = model.as_ref().is_ok_and(|model| model.seal.is_none());
                prop_assert_eq!(found.map(drop), model.and_then(|model| model.seal(EndCause::Cancelled, layout)));
                if was_open {
                    prop_assert_eq!(live.reason(id, deadline()).await.unwrap(), why);
                }
            }
            Command::Expire(incarnation) => {
                let found = live.expire(id, *incarnation, deadline()).await.unwrap();
                let expected = Model::with_incarnation(self.model.as_mut(), *incarnation).and_then(|model| {
                    model.seal.ok_or(Refusal::NotSealed)?;
                    model.ttl = SEALED_TTL;
                    Ok(())
                });
                prop_assert_eq!(found.map(drop), expected);
            }
            Command::Repair | Command::RepairConflict => return self.repair(matches!(command, Command::Repair)).await,
            Command::Restart => {
                if let Some(model) = &mut self.model {
                    let bytes = self.redis.tracker_bytes(id).await;
                    let (header, cells) = bytes.split_at(HEADER_BYTES);
                    let mut header = header.to_vec();
                    header[20..36].copy_from_slice(b"0000000000000000");
                    self.redis.write_tracker(id, &[&with_checksum(header)[..], cells].concat()).await;
                    (model.own_generation, model.ttl) = (false, TTL_BEFORE);
                }
            }
            Command::Vanish => {
                let () = self.redis.query(&[b"DEL", tracker_key(id).as_bytes()]).await;
                self.model = None;
            }
        }
        Ok(())
    }

    async fn report(
        &mut self,
        incarnation: Incarnation,
        confirmation: Confirmation,
        expected: Expected,
        marks: &[Mark],
    ) -> TestCaseResult {
        let require_adopted = confirmation == Confirmation::Adopted;
        let step = MarkStep::plan(self.layout, marks.iter().copied()).remove(0);
        let current = self.current(&step).await;
        let mut bytes = if matches!(expected, Expected::Blank) { step.blank() } else { current.clone() };
        if let (Expected::Stale(number), false) = (expected, bytes.is_empty()) {
            let index = number % bytes.len();
            bytes[index] ^= 0xff;
        }
        let change = step.apply(&bytes).unwrap();
        let write = StepWrite { step: &step, expected: &bytes, change: &change };
        let marked =
            self.redis.live.apply_marks(&self.id, incarnation, require_adopted, write, deadline()).await.unwrap();

        let refused = match Model::with_incarnation(self.model.as_mut(), incarnation) {
            Err(refusal) => Err(refusal),
            Ok(model) if model.seal.is_some() => Err(Refusal::Sealed),
            Ok(model) if !model.own_generation => Err(Refusal::Stale),
            Ok(model) if require_adopted && !model.adopted => Err(Refusal::NotAdopted),
            Ok(model) => Ok(model),
        };
        match (marked, refused) {
            (MarkReply::Refused(found), Err(expected)) => prop_assert_eq!(found, expected),
            (MarkReply::Conflict(found), Ok(_)) => {
                prop_assert_ne!(&bytes, &current);
                prop_assert_eq!(found, current);
            }
            (MarkReply::Applied(_), Ok(model)) => {
                prop_assert_eq!(&bytes, &current);
                let new = marks.iter().filter(|mark| model.mark(**mark)).count();
                model.revision += u64::from(new > 0);
                model.ttl = TRACKER_TTL;
            }
            (found, expected) => prop_assert!(false, "{found:?}, but {expected:?}"),
        }
        Ok(())
    }

    /// Merges marks. The change is computed from the current bytes, so that there is never a conflict.
    async fn merge(&mut self, incarnation: Incarnation, marks: &[Mark]) -> TestCaseResult {
        let step = MarkStep::plan(self.layout, marks.iter().copied()).remove(0);
        let bytes = self.current(&step).await;
        let change = step.apply(&bytes).unwrap();
        let write = StepWrite { step: &step, expected: &bytes, change: &change };
        let merged = self.redis.live.merge_marks(&self.id, incarnation, write, deadline()).await.unwrap();
        match (merged, Model::with_incarnation(self.model.as_mut(), incarnation)) {
            (MarkReply::Refused(found), Err(expected)) => prop_assert_eq!(found, expected),
            (MarkReply::Refused(found), Ok(model)) => {
                prop_assert!(model.seal.is_some() || !model.own_generation);
                prop_assert_eq!(found, if model.seal.is_some() { Refusal::Sealed } else { Refusal::Stale });
            }
            (MarkReply::Applied(_), Ok(model)) => {
                prop_assert_eq!((model.seal, model.own_generation), (None, true));
                let new = marks.iter().filter(|mark| model.mark(**mark)).count();
                model.revision += u64::from(new > 0);
                model.ttl = TRACKER_TTL;
            }
            (found, expected) => prop_assert!(false, "{found:?}, but {expected:?}"),
        }
        Ok(())
    }

    /// The current bytes of the runs of the step. They are blank if there is no tracker.
    async fn current(&self, step: &MarkStep) -> Vec<u8> {
        if self.model.is_none() {
            return step.blank();
        }
        let bytes = self.redis.tracker_bytes(&self.id).await;
        step.runs().iter().flat_map(|run| bytes[HEADER_BYTES..][run.clone()].to_vec()).collect()
    }

    /// Writes wrong counts and repairs them. If `in_time` is false, the repair expects another header and is refused.
    async fn repair(&mut self, in_time: bool) -> TestCaseResult {
        let Tracker::Present { header: right, .. } = self.redis.tracker(&self.id).await else { return Ok(()) };
        let mut wrong = right.clone();
        let first = &mut wrong.counts.stages[0];
        (first.succeeded, first.failed) = (first.failed, first.succeeded);
        let bytes = self.redis.tracker_bytes(&self.id).await;
        self.redis.write_tracker(&self.id, &[&wrong.encode()[..], &bytes[HEADER_BYTES..]].concat()).await;
        let mut found = wrong.clone();
        found.revision += u64::from(!in_time);
        let repaired = self.redis.live.repair(&self.id, &found, &right, deadline()).await.unwrap();
        if in_time {
            prop_assert_eq!(repaired, Ok(right));
        } else {
            prop_assert_eq!(repaired, Err(Refusal::Changed));
            self.redis.write_tracker(&self.id, &bytes).await;
        }
        if let Some(model) = &mut self.model {
            model.ttl = TTL_BEFORE;
        }
        Ok(())
    }

    /// Asserts that readers see the state that the model predicts.
    async fn compare(&self) -> TestCaseResult {
        let tracker = self.redis.tracker(&self.id).await;
        let Some(model) = &self.model else {
            prop_assert_eq!(tracker, Tracker::Missing);
            return Ok(());
        };
        let Tracker::Present { header, trusted, current } = tracker else {
            return Err(TestCaseError::fail(format!("{tracker:?}")));
        };
        prop_assert_eq!((trusted, current), (model.trusted(), model.own_generation));
        prop_assert_eq!(
            (header.restored, header.mark_summary().restore_time.is_some()),
            (model.restored, model.restored)
        );
        let Header { incarnation, adopted, seal, revision, .. } = header;
        prop_assert_eq!(
            (incarnation, adopted, seal, revision),
            (model.incarnation, model.adopted, model.seal, model.revision)
        );
        let bytes = self.redis.tracker_bytes(&self.id).await;
        let cells = Cells::new(self.layout, bytes[HEADER_BYTES..].to_vec()).unwrap();
        prop_assert_eq!(&header.counts, &cells.count());
        prop_assert_eq!(&header.counts, &model.counts(self.layout));
        for task in model.tasks() {
            let statuses: Vec<_> = cells.cell(task).statuses(self.layout.stages).collect();
            let expected: Vec<_> = (0..self.layout.stages).map(|stage| model.status(task, stage)).collect();
            prop_assert_eq!(statuses, expected, "task {}", task);
        }
        let ttl = self.redis.ttl(&tracker_key(&self.id)).await;
        prop_assert!(ttl <= model.ttl && ttl + Duration::from_secs(60) > model.ttl, "{ttl:?} of {:?}", model.ttl);
        prop_assert_eq!(*header.digests, Digests::of(self.layout, cells.bytes()));
        if seal.is_some() {
            let read = self.redis.live.cells(&self.id, &header, deadline()).await.unwrap();
            prop_assert_eq!(read, CellsReading::Intact(cells));
        }
        Ok(())
    }
}

/// The layout of a job in which every `spread`th task is reported, and sometimes every task.
#[derive(Debug, Clone, Copy)]
struct JobShape {
    layout: Layout,
    spread: u32,
}

fn any_mark(JobShape { layout, spread }: JobShape) -> impl Strategy<Value = Mark> {
    let outcome = prop_oneof![3 => Just(Outcome::Succeeded), 1 => Just(Outcome::Failed)];
    (0..layout.total / spread, 0..layout.stages, outcome).prop_map(move |(number, stage, outcome)| Mark {
        task: number * spread,
        stage,
        outcome,
    })
}

/// A success for every task and stage.
fn all_succeeded(layout: Layout) -> Vec<Mark> {
    (0..layout.total).flat_map(|task| (0..layout.stages).map(move |stage| succeeded(task, stage))).collect()
}

fn any_command(shape: JobShape) -> impl Strategy<Value = Command> {
    // Most commands use the same incarnation, so that few commands are refused.
    let incarnation = || prop_oneof![12 => Just(FIRST), 2 => Just(SECOND), 1 => Just(THIRD)];
    let confirmation = || prop_oneof![Just(Confirmation::Adopted), Just(Confirmation::Postgres)];
    let expected = prop_oneof![
        1 => Just(Expected::Blank),
        6 => Just(Expected::Current),
        1 => any::<usize>().prop_map(Expected::Stale),
    ];
    let few_marks = || prop::collection::vec(any_mark(shape), 0..8);
    let settling = prop_oneof![2 => Just(Settling::Done), 1 => Just(Settling::InProgress)];
    let all_marks = all_succeeded(shape.layout);
    prop_oneof![
        2 => incarnation().prop_map(Command::Open),
        4 => (incarnation(), settling).prop_map(|(incarnation, settling)| Command::Adopt(incarnation, settling)),
        2 => (incarnation(), incarnation()).prop_map(|(found, incarnation)| Command::Reopen(found, incarnation)),
        2 => (incarnation(), few_marks()).prop_map(|(incarnation, marks)| Command::Merge(incarnation, marks)),
        1 => Just(Command::Quarantine),
        16 => (incarnation(), confirmation(), expected, few_marks())
            .prop_map(|(i, c, e, marks)| Command::Report(i, c, e, marks)),
        1 => (incarnation(), confirmation())
            .prop_map(move |(i, c)| Command::Report(i, c, Expected::Current, all_marks.clone())),
        2 => incarnation().prop_map(Command::SealComplete),
        1 => incarnation().prop_map(Command::SealCancelled),
        1 => incarnation().prop_map(Command::Expire),
        1 => Just(Command::Repair),
        1 => Just(Command::RepairConflict),
        1 => Just(Command::Restart),
        1 => Just(Command::Vanish),
    ]
}

/// Commands for a small job, or for a job whose tasks are so far apart that each task has its own run of bytes.
fn any_history() -> impl Strategy<Value = (Layout, Vec<Command>)> {
    let small =
        (1_u32..12, 1_usize..=8).prop_map(|(total, stages)| JobShape { layout: Layout { total, stages }, spread: 1 });
    let wide = (2_u32..6, 6_usize..=8).prop_map(|(number, stages)| {
        // With seven stages, cells are not byte-aligned. Some cells span two bytes and some span three, and both are
        // sent differently.
        let spread = 201;
        JobShape { layout: Layout { total: number * spread, stages }, spread }
    });
    prop_oneof![3 => small, 1 => wide]
        .prop_flat_map(|shape| (Just(shape.layout), prop::collection::vec(any_command(shape), 1..60)))
}

#[test]
fn tracker_behaves_like_the_reference_model() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let redis = runtime.block_on(TestRedis::start(&[]));
    let config = Config { cases: 100, failure_persistence: None, ..Config::default() };
    let agreed = TestRunner::new(config).run(&any_history(), |(layout, commands)| {
        runtime.block_on(async {
            let mut both = TrackerAndModel { redis: &redis, id: JobId::generate(), layout, model: None };
            // Every sequence begins with an open and adopted tracker.
            for command in [Command::Open(FIRST), Command::Adopt(FIRST, Settling::Done)].iter().chain(&commands) {
                both.run(command).await?;
                both.compare().await?;
            }
            Ok(())
        })
    });
    agreed.unwrap();
}
