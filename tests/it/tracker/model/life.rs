//! What may happen to a tracker, at random.

use highwater::domain::{Layout, Mark, Outcome};
use proptest::prelude::*;

use crate::tracker::succeeded;

/// What callers do to a tracker, and what befalls it. The numbers are incarnations.
#[derive(Debug, Clone)]
pub enum Command {
    Open(u64),
    Adopt(u64),
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

/// Whether the report needs an adopted tracker, or its caller asks Postgres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Footing {
    Adopted,
    Postgres,
}

/// What bytes the caller computed from.
#[derive(Debug, Clone, Copy)]
pub enum Expected {
    Blank,
    Current,
    /// What others have changed since: one of the places that are compared, by number.
    Stale(usize),
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
    let some = prop::collection::vec(a_mark(plan), 0..8);
    let every = all(plan.layout);
    prop_oneof![
        2 => incarnation().prop_map(Command::Open),
        4 => incarnation().prop_map(Command::Adopt),
        16 => (incarnation(), footing(), expected, some).prop_map(|(i, f, e, marks)| Command::Report(i, f, e, marks)),
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
pub fn a_life() -> impl Strategy<Value = (Layout, Vec<Command>)> {
    let small =
        (1_u32..12, 1_usize..=8).prop_map(|(total, stages)| Plan { layout: Layout { total, stages }, spread: 1 });
    let wide = (2_u32..6, 6_usize..=8).prop_map(|(number, stages)| {
        let spread = 200;
        Plan { layout: Layout { total: number * spread, stages }, spread }
    });
    prop_oneof![3 => small, 1 => wide]
        .prop_flat_map(|plan| (Just(plan.layout), prop::collection::vec(a_command(plan), 1..60)))
}
