//! What the figures come to, said from the figures: nothing here that a run could contradict.

use super::Kind;
use super::contender::{ALL, Contender};
use super::figures::Figures;
use super::load::Load;
use super::outcome::Outcome;
use super::run::REPORTERS;
use crate::page::count;

/// How it was measured.
pub const MEASURED: &str = "\
Four ways to keep the progress of a job that are met everywhere, and a fifth that a careful person comes to, beside \
Highwater: on the same Postgres and Redis, behind the same interface on the same gRPC server, by the same loads. One hot \
job takes all reports, of one result unless it is said otherwise, from 1, 16 and 64 reporters who each wait for an answer \
before they report again. Where a tenth comes twice, that was reported and answered before, as a queue delivers that \
delivers at least once. Who reports knows what was really reported, so what is shown can be judged. Rounds of all designs \
alternate; reporters, readers, server and both stores share the machine. A run fails if Highwater counts one mark wrongly, or a design that has no race loses one.";

/// How the designs are tuned.
pub const TUNED: &str = "\
Each design is as good as we could make it: every statement prepared, connections open from the start and no ping before \
their use, eight of them for reports (4, 16 and 32 were slower), nothing indexed that changes and room in each page, so \
that updates are HOT, and a transition guarded in the statement that makes it. Commits of reports do not wait for the \
disk (`synchronous_commit = off`), since what Highwater acknowledges is in a Redis that writes its log every second, and \
would be compared with less; what ends a job waits. Where it says *on disk*, every report waits too. The code: \
[benches/src/designs](../../benches/src/designs), the tables: [schema](../../benches/src/designs/schema), the \
connections: [pools.rs](../../benches/src/designs/pools.rs).\n\n\
- **blob, no lock**: a handler reads a JSON blob, adds to it, and writes it back; nothing to a job that has ended. Only \
among the ends below, also one that *saves whole*: an ORM's `save()`, which writes back the state as well.\n\
- **blob, FOR UPDATE**: the same, with the row locked from the read to the commit.\n\
- **counter columns**: `SET n = n + $1`, and the end in the same statement.\n\
- **counters, receipts**: the same, and a row for each result, so that one that comes twice is counted once.\n\
- **rendered by one**: reports set bits in Redis; one writer counts them every second and writes the job's row, which is \
what is read.";

/// A question, and what the figures say to it.
pub struct Answer {
    pub question: &'static str,
    pub paragraphs: Vec<String>,
}

const fn design(kind: Kind) -> Contender {
    Contender::Design(kind)
}

const BLOB: Contender = design(Kind::Blob);
const LOCKED: Contender = design(Kind::Locked);
const COUNTERS: Contender = design(Kind::Counters);
const RECEIPTS: Contender = design(Kind::Receipts);
const RENDERED: Contender = design(Kind::Rendered);

/// All of them.
pub fn answers(outcome: &Outcome) -> Vec<Answer> {
    vec![
        Answer {
            question: "Do statement-scope updates bring the contention back?",
            paragraphs: vec![contention(outcome), on_disk(outcome)],
        },
        Answer { question: "Where does each design break?", paragraphs: vec![breaks(outcome)] },
        Answer { question: "When is one of them the better choice?", paragraphs: vec![better(outcome)] },
    ]
}

fn contention(outcome: &Outcome) -> String {
    let (some, many) = (Load::of(16, 0), Load::of(64, 0));
    let gain = |contender| outcome.rate(contender, many) / outcome.rate(contender, some);
    let (theirs, ours) = (gain(COUNTERS), gain(Contender::Highwater));
    let verdict = if theirs < 1.25 {
        "Yes, at the end of the line: a row is changed by one statement at a time, and who waits for it only makes the line \
         longer."
    } else {
        "Not as far as this goes: the row was still not what limits them."
    };
    let wait = |contender, load| outcome.middle(contender, load, |figures| figures.p50_millis);
    format!(
        "{verdict} From 16 reporters to 64, counter columns take {} times as many reports ({} a second, then {}) and one \
         report takes {:.1} ms instead of {:.1}; Highwater takes {} times as many ({}, then {}), since reports of a job \
         that wait together go as one. (A service in front of Postgres could do that as well; handlers that write by \
         themselves, as in these designs, cannot.) What is saved by not holding a lock between a read and a write is much: at 64 the \
         single statement takes {} times what `FOR UPDATE` takes.",
        times(theirs),
        count(outcome.rate(COUNTERS, some)),
        count(outcome.rate(COUNTERS, many)),
        wait(COUNTERS, many),
        wait(COUNTERS, some),
        times(ours),
        count(outcome.rate(Contender::Highwater, some)),
        count(outcome.rate(Contender::Highwater, many)),
        times(outcome.rate(COUNTERS, many) / outcome.rate(LOCKED, many)),
    )
}

fn on_disk(outcome: &Outcome) -> String {
    let rate = |kind, reporters| count(outcome.rate(Contender::Durable(kind), Load::of(reporters, 0)));
    let many = Load::of(64, 0);
    let slower = outcome.rate(COUNTERS, many) / outcome.rate(Contender::Durable(Kind::Counters), many);
    format!(
        "How long a row is held decides it. Postgres by itself holds it until the commit is on disk: then counter columns \
         take {} reports a second from 1, {} from 16 and {} from 64 reporters, and `FOR UPDATE` {}, {} and {}. Not to wait \
         for the disk is {} times as fast at 64, and a Postgres that crashes has then lost the counts of its last moments, \
         which nothing tells.",
        rate(Kind::Counters, 1),
        rate(Kind::Counters, 16),
        rate(Kind::Counters, 64),
        rate(Kind::Locked, 1),
        rate(Kind::Locked, 16),
        rate(Kind::Locked, 64),
        times(slower),
    )
}

fn breaks(outcome: &Outcome) -> String {
    let off = |contender, reporters, redelivered| {
        outcome.worst(contender, Load::of(reporters, redelivered), Figures::off_percent).abs()
    };
    let [blob, saved] =
        [BLOB, design(Kind::Saved)].map(|contender| outcome.wrongs(contender, 0).and(outcome.wrongs(contender, 10)));
    let [locked, counters] = [LOCKED, COUNTERS].map(|contender| outcome.wrongs(contender, 10));
    let middle = |contender, figure| outcome.middle(contender, Load::of(64, 0), figure);
    let receipts = outcome.left(RECEIPTS).map(|left| left.kept.bytes as f64 / left.kept.inserted.max(1) as f64);
    [
        format!(
            "- **blob, no lock**: as soon as several report. Of what 16 reported, {:.0} % was lost, and {:.0} % of 64's. Of {} \
             small jobs {} have marks missing at last, and {} never ended. Saved whole, the end itself is written over: of {} \
             jobs {} did not stay what somebody had been told.",
            off(BLOB, 16, 0),
            off(BLOB, 64, 0),
            blob.jobs,
            blob.short,
            blob.endless,
            saved.jobs,
            saved.taken_back,
        ),
        format!(
            "- **blob, FOR UPDATE**: counts what is reported once, and takes {} reports a second from 64 reporters at {:.0} ms \
             (p99). What comes twice counts twice: {:.1} % too much, and {} of {} small jobs ended before all of their tasks were \
             reported.",
            count(outcome.rate(LOCKED, Load::of(64, 0))),
            middle(LOCKED, |it| it.p99_millis),
            off(LOCKED, 64, 10),
            locked.early,
            locked.jobs,
        ),
        format!(
            "- **counter columns**: lose nothing, but count twice what comes twice: {:.1} % too much, so {} of {} small jobs \
             ended before all of their tasks were reported. Each report leaves a dead row and {} bytes of WAL.",
            off(COUNTERS, 64, 10),
            counters.early,
            counters.jobs,
            count(middle(COUNTERS, |it| it.wal)),
        ),
        format!(
            "- **counters, receipts**: {}, for {:.0} bytes of table and {} bytes of WAL a mark, which somebody has to delete \
             one day. The receipts tell which task is missing, as Highwater does.",
            right(outcome, RECEIPTS),
            receipts.unwrap_or(f64::NAN),
            count(middle(RECEIPTS, |it| it.wal)),
        ),
        format!(
            "- **rendered by one**: {}, but what is read is {:.0} ms old in the middle, up to {:.0}, and {} reports behind; a \
             job ends as late. Not measured here: when the writer is gone, every job stands still; and bits that Redis loses \
             are lost without a word, since a key that is missing counts as zero.",
            right(outcome, RENDERED),
            middle(RENDERED, |it| it.age_millis),
            outcome.worst(RENDERED, Load::of(64, 0), |it| it.age_most_millis),
            count(middle(RENDERED, |it| it.behind)),
        ),
        format!(
            "- **Highwater**: {}. It takes {} times the reports that the writer's design takes, and needs a Redis.",
            right(outcome, Contender::Highwater),
            times(1.0 / outcome.ratio(RENDERED, Load::of(64, 0))),
        ),
    ]
    .join("\n")
}

/// Whether its counts and ends were right in all of it.
fn right(outcome: &Outcome, contender: Contender) -> &'static str {
    let lines = outcome.loaded.iter().filter(|line| line.contender == contender);
    let exact = lines.flat_map(|line| &line.rounds).all(|figures| figures.off == 0.0);
    let ended = [0, 10].iter().all(|redelivered| outcome.wrongs(contender, *redelivered).is_none());
    match (exact, ended) {
        (true, true) => "every count and every end was right, whatever came twice",
        (true, false) => "every count was right, not every end",
        (false, _) => "not every count was right",
    }
}

fn better(outcome: &Outcome) -> String {
    let (one, many) = (Load::of(1, 0), Load::of(64, 0));
    let exact: Vec<_> = ALL
        .into_iter()
        .filter(|contender| contender.is_repeatable() && *contender != Contender::Highwater)
        .map(|contender| contender.to_string())
        .collect();
    [
        format!(
            "- **Few reporters, small jobs, nothing comes twice** (or one too many does not matter): counter columns are \
             simple and enough. One statement, no second store, and reads that are {:.0} ms old in the middle; one reporter \
             gets {} times what Highwater gives it, and one job may have {} reports a second, or {} on disk.",
            outcome.middle(COUNTERS, many, |it| it.age_millis),
            times(outcome.ratio(COUNTERS, one)),
            count(outcome.rate(COUNTERS, many)),
            count(outcome.rate(Contender::Durable(Kind::Counters), many)),
        ),
        format!(
            "- **Things come twice, and there is no Redis**: counters with receipts. They are as right as Highwater at {} \
             times its reports from 64 reporters, {} from one, and a report that must be on disk can be: {} a second.",
            times(outcome.ratio(RECEIPTS, many)),
            times(outcome.ratio(RECEIPTS, one)),
            count(outcome.rate(Contender::Durable(Kind::Receipts), many)),
        ),
        format!(
            "- **A page that may be a second old, and a Redis that may forget**: one writer. It takes {} times Highwater's \
             reports from 64 reporters, and Postgres is read with whatever is there already.",
            times(outcome.ratio(RENDERED, many)),
        ),
        format!(
            "- **Highwater**, where many report to one job, things come twice, and what is read has to be both right and \
             current. Of the others, only {} are right when things come twice: one of them pays for it in Postgres, and the \
             other shows it late.",
            exact.join(" and "),
        ),
        format!("- **A blob**: {}", blob_or_counters(outcome)),
    ]
    .join("\n")
}

fn blob_or_counters(outcome: &Outcome) -> &'static str {
    let slower = |load| outcome.rate(LOCKED, load) < outcome.rate(COUNTERS, load);
    if REPORTERS.iter().all(|reporters| slower(Load::of(*reporters, 0))) {
        "never. With a lock it is slower than counter columns for any number of reporters, without being more right; without \
         one it is wrong as soon as several report."
    } else {
        "with a lock, where it is as fast as counter columns and its form matters; without one it is wrong as soon as \
         several report."
    }
}

fn times(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}") } else { format!("{ratio:.1}") }
}
