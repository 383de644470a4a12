//! Hand-made histories: right ones, in which nothing is found, and wrong ones, in each of which just that is found.

use super::super::history::{
    Asked, Call, Change, Disposition, End, Happening, History, Job, Limits, Mark, Moment, SECOND, Said, Shown, Source,
    State,
};
use super::{RULES, Rule, judge};

const LIMITS: Limits = Limits { deadline: 2 * SECOND, slack: SECOND, settle: 3 * SECOND, feed: 2 * SECOND };

/// A call of gateway 0 that took ten milliseconds.
fn call(sent: Moment, asked: Asked, said: Said) -> Call {
    Call { job: "a".to_owned(), gateway: 0, life: 0, sent, answered: sent + 10_000, asked, said }
}

fn mark(task: u32, stage: usize, succeeded: bool) -> Mark {
    Mark { task, stage, succeeded }
}

fn report(sent: Moment, marks: &[Mark], disposition: Disposition) -> Call {
    let state = if disposition == Disposition::Superseded { State::Failed } else { State::Running };
    let dispositions = vec![disposition; marks.len()];
    call(sent, Asked::Report(marks.to_vec()), Said::Reported { dispositions, state })
}

fn shows(sent: Moment, state: State, source: Source, counts: [[u32; 4]; 2]) -> Call {
    let shown = Shown { state, source, reason: String::new(), lower_bound: false, counts: Some(counts.to_vec()) };
    call(sent, Asked::Progress, Said::Progress(shown))
}

fn shown(call: &mut Call) -> &mut Shown {
    match &mut call.said {
        Said::Progress(shown) => shown,
        _ => unreachable!("it is a read"),
    }
}

/// Two tasks in two stages: one succeeds, one fails at the first stage; more than a tenth failed.
fn right() -> History {
    let job = Job { id: "a".to_owned(), tasks: 2, stages: 2, threshold: 0.1 };
    let last = report(4 * SECOND, &[mark(0, 1, true)], Disposition::Applied);
    let calls = vec![
        call(0, Asked::Create, Said::Job(State::Running)),
        shows(SECOND, State::Running, Source::Live, [[2, 0, 0, 0], [2, 0, 0, 0]]),
        report(2 * SECOND, &[mark(0, 0, true), mark(1, 0, false)], Disposition::Applied),
        shows(3 * SECOND, State::Running, Source::Live, [[0, 1, 1, 0], [1, 0, 0, 1]]),
        last,
        shows(5 * SECOND, State::Failed, Source::Snapshot, [[0, 1, 1, 0], [0, 1, 0, 1]]),
        report(6 * SECOND, &[mark(0, 1, true)], Disposition::Superseded),
    ];
    let end = End {
        job: "a".to_owned(),
        state: State::Failed,
        lower_bound: false,
        counts: vec![[1, 1, 0], [1, 0, 1]],
        cells: vec![0b1111_0100],
        changes: vec![Change { from: State::Running, to: State::Failed, lower_bound: false, revision: 2 }],
    };
    History { limits: LIMITS, jobs: vec![job], calls, happenings: Vec::new(), ends: vec![end] }
}

/// What is found once the right history is changed.
fn found(change: impl FnOnce(&mut History)) -> Vec<Rule> {
    let mut history = right();
    change(&mut history);
    judge(&history).violations.into_iter().map(|violation| violation.rule).collect()
}

#[test]
fn a_right_history_is_looked_at_by_every_rule_and_nothing_is_found() {
    let judgement = judge(&right());
    assert_eq!(judgement.violations, []);
    assert!(RULES.iter().all(|rule| judgement.looked[rule] > 0), "{:?}", judgement.looked);
}

#[test]
fn an_acknowledged_mark_that_is_missing_from_the_end() {
    // An upgrade that was acknowledged, in whichever way, and is not there.
    for disposition in [Disposition::Applied, Disposition::Duplicate, Disposition::Recorded] {
        let late = report(3_500_000, &[mark(1, 0, true)], disposition);
        assert_eq!(found(|history| history.calls.push(late)), [Rule::Lost], "{disposition:?}");
    }
    // One that was not acknowledged: refused, superseded, unknown, or answered after the deadline.
    let refused = Said::Refused { code: "Unavailable".to_owned(), reason: "REDIS_UNAVAILABLE".to_owned() };
    let not = call(3_500_000, Asked::Report(vec![mark(1, 0, true)]), refused);
    assert_eq!(found(|history| history.calls.push(not)), []);
    let mut late = report(3_500_000, &[mark(1, 0, true)], Disposition::Applied);
    late.answered = late.sent + LIMITS.deadline + LIMITS.slack + 1;
    let stalled = Happening::Stalled { gateway: 0, from: 4 * SECOND, to: 4 * SECOND + 10 };
    assert_eq!(found(|history| (history.calls.push(late), history.happenings.push(stalled)).0), []);
}

/// The upgrade is acknowledged at 3.5 s by gateway 0, and is not in the end.
fn lost(happenings: &[Happening]) -> (Vec<Rule>, usize) {
    let mut history = right();
    history.calls.push(report(3_500_000, &[mark(1, 0, true)], Disposition::Applied));
    history.happenings.extend_from_slice(happenings);
    let judgement = judge(&history);
    (judgement.violations.into_iter().map(|violation| violation.rule).collect(), judgement.given_up.len())
}

#[test]
fn a_mark_is_given_up_only_where_redis_lost_it_and_the_gateway_that_took_it_was_gone() {
    let flushed = Happening::Lost { from: 3_600_000, to: 3_601_000 };
    let died = |gateway, life, at| Happening::Died { gateway, life, at, back: at + SECOND };
    let stalled = |gateway, to| Happening::Stalled { gateway, from: 3_550_000, to };
    assert_eq!(lost(&[flushed, died(0, 0, 3_700_000)]), (vec![], 1));
    assert_eq!(lost(&[flushed, stalled(0, 7_000_000)]), (vec![], 1));
    let kept = (vec![Rule::Lost], 0);
    assert_eq!(lost(&[flushed]), kept);
    assert_eq!(lost(&[died(0, 0, 3_700_000)]), kept);
    assert_eq!(lost(&[flushed, died(1, 0, 3_700_000)]), kept, "another gateway");
    assert_eq!(lost(&[flushed, died(0, 1, 3_700_000)]), kept, "a later life");
    assert_eq!(lost(&[flushed, died(0, 0, 3_400_000)]), kept, "dead before");
    assert_eq!(lost(&[flushed, died(0, 0, 20 * SECOND)]), kept, "merged long before");
    assert_eq!(lost(&[flushed, stalled(0, 5_000_000)]), kept, "awake in time");
    let earlier = Happening::Lost { from: 3_000_000, to: 3_100_000 };
    assert_eq!(lost(&[earlier, died(0, 0, 3_700_000)]), kept, "lost before it was taken");
    // Once a LIVE answer shows that the tracker has settled, what the gateway knew is in it.
    let settled = |died_at| {
        found(|history| {
            history.calls.push(report(3_500_000, &[mark(1, 0, true)], Disposition::Applied));
            history.happenings.extend([flushed, died(0, 0, died_at)]);
            history.calls.push(shows(4_500_000, State::Running, Source::Live, [[0, 1, 1, 0], [0, 1, 0, 1]]));
        })
    };
    assert_eq!(settled(4_400_000), []);
    assert_eq!(settled(4_600_000), [Rule::Lost, Rule::LiveBelow]);
}

#[test]
fn an_end_that_says_it_is_a_lower_bound_may_miss_marks_that_redis_lost() {
    let bound = |lost: &[Happening]| {
        found(|history| {
            history.calls.push(report(3_500_000, &[mark(1, 0, true)], Disposition::Applied));
            history.ends[0].lower_bound = true;
            history.happenings.extend_from_slice(lost);
        })
    };
    assert_eq!(bound(&[Happening::Lost { from: 3_600_000, to: 3_700_000 }]), []);
    assert_eq!(bound(&[]), [Rule::Lost], "it could have been completed");
    assert_eq!(bound(&[Happening::Lost { from: 3_000_000, to: 3_100_000 }]), [Rule::Lost], "lost before it was taken");
    let later = Happening::Lost { from: 20 * SECOND, to: 20 * SECOND + 1 };
    assert_eq!(bound(&[later]), [Rule::Lost], "it could have been completed long before");
}

#[test]
fn counts_that_are_not_those_of_the_marks_or_above_what_was_reported() {
    assert_eq!(found(|history| history.ends[0].counts[0] = [2, 0, 0]), [Rule::Counted, Rule::SecondEnd]);
    // Marked, though nobody reported it.
    let invented = |history: &mut History| {
        history.ends[0].cells = vec![0b1111_1100];
        history.ends[0].counts = vec![[2, 0, 0], [1, 0, 0]];
        history.ends[0].state = State::Cancelled;
        history.calls.truncate(5);
        history.calls.push(call(5 * SECOND, Asked::Cancel, Said::Job(State::Cancelled)));
    };
    assert_eq!(found(invented), [Rule::Counted]);
    // A duplicate that counts twice.
    let twice = shows(3_500_000, State::Running, Source::Live, [[0, 2, 0, 0], [1, 0, 0, 1]]);
    assert_eq!(found(|history| history.calls.push(twice)), [Rule::Counted]);
    let torn = shows(3_500_000, State::Running, Source::Live, [[0, 1, 1, 0], [0, 0, 0, 1]]);
    assert_eq!(found(|history| history.calls.push(torn)), [Rule::Counted]);
}

#[test]
fn ends_that_are_not_what_the_marks_say() {
    let pending = |history: &mut History| {
        history.ends[0].cells = vec![0b1100_0100];
        history.ends[0].counts = vec![[1, 1, 0], [0, 0, 1]];
        history.calls.remove(5);
        history.calls.remove(4);
    };
    assert_eq!(found(pending), [Rule::FalseEnd]);
    assert_eq!(found(|history| history.jobs[0].threshold = 0.5), [Rule::FalseEnd]);
    let told = |state: State| {
        move |history: &mut History| {
            history.ends[0].state = state;
            history.calls.truncate(5);
        }
    };
    assert_eq!(found(told(State::Cancelled)), [Rule::FalseEnd], "nobody cancelled it");
    assert_eq!(found(told(State::Revoked)), [Rule::FalseEnd]);
}

#[test]
fn two_ends_of_one_job() {
    let other = call(7 * SECOND, Asked::Get, Said::Job(State::Succeeded));
    assert_eq!(found(|history| history.calls.push(other)), [Rule::SecondEnd]);
    let again = Change { from: State::Failed, to: State::Failed, lower_bound: false, revision: 3 };
    assert_eq!(found(|history| history.ends[0].changes.push(again)), [Rule::SecondEnd]);
    let other_counts = shows(7 * SECOND, State::Failed, Source::Snapshot, [[0, 1, 1, 0], [1, 0, 0, 1]]);
    assert_eq!(found(|history| history.calls.push(other_counts)), [Rule::SecondEnd]);
}

#[test]
fn a_lower_bound_may_be_completed_once() {
    let bound = |completions: usize| {
        move |history: &mut History| {
            let end = &mut history.ends[0];
            end.changes[0].lower_bound = true;
            let completed = Change { from: State::Failed, to: State::Failed, lower_bound: false, revision: 3 };
            end.changes.extend(vec![completed; completions]);
        }
    };
    assert_eq!(found(bound(1)), []);
    assert_eq!(found(bound(2)), [Rule::SecondEnd]);
}

#[test]
fn a_job_that_runs_after_it_was_seen_ended() {
    let counts = [[0, 1, 1, 0], [0, 1, 0, 1]];
    let again = shows(5_500_000, State::Running, Source::Live, counts);
    assert_eq!(found(|history| history.calls.push(again.clone())), [Rule::WentBack]);
    // Begun before the end was answered.
    let mut before = again.clone();
    before.sent = 5_005_000;
    assert_eq!(found(|history| history.calls.push(before)), []);
    // By a gateway that says it is cut off from Postgres.
    let mut cut_off = again.clone();
    shown(&mut cut_off).source = Source::Fallback;
    shown(&mut cut_off).reason = "POSTGRES_UNREACHABLE".to_owned();
    assert_eq!(found(|history| history.calls.push(cut_off)), []);
    // Handed out to work on.
    let shown =
        Shown { source: Source::Live, reason: String::new(), state: State::Running, lower_bound: true, counts: None };
    let handed_out = call(5_500_000, Asked::Next, Said::Progress(shown));
    assert_eq!(found(|history| history.calls.push(handed_out)), [Rule::WentBack]);
    // Ended without a seal: until the feed has reached every gateway.
    let unsealed = |read: Call| {
        found(|history| {
            history.ends[0].changes[0].revision = 0;
            history.calls.push(read);
        })
    };
    let mut later = again.clone();
    later.sent = 7_200_000;
    later.answered = 7_210_000;
    assert_eq!(unsealed(again), []);
    assert_eq!(unsealed(later), [Rule::WentBack]);
    let asked_in_postgres = call(5_500_000, Asked::Get, Said::Job(State::Running));
    assert_eq!(unsealed(asked_in_postgres), [Rule::WentBack]);
    // SUPERSEDED shows the end as well.
    let superseded = report(4_500_000, &[mark(0, 1, true)], Disposition::Superseded);
    let between = shows(4_800_000, State::Running, Source::Live, counts);
    assert_eq!(found(|history| history.calls.extend([superseded, between])), [Rule::WentBack]);
}

#[test]
fn a_job_that_is_not_started_after_it_was_seen_started() {
    let pending = call(SECOND, Asked::Get, Said::Job(State::Pending));
    assert_eq!(found(|history| history.calls.push(pending)), [Rule::WentBack]);
}

#[test]
fn a_live_answer_below_what_was_acknowledged() {
    let below = shows(3_500_000, State::Running, Source::Live, [[1, 1, 0, 0], [2, 0, 0, 0]]);
    assert_eq!(found(|history| history.calls.push(below.clone())), [Rule::LiveBelow]);
    // A failure where a success was acknowledged is below as well.
    let downgraded = shows(3_500_000, State::Running, Source::Live, [[0, 0, 2, 0], [0, 0, 0, 2]]);
    assert_eq!(found(|history| history.calls.push(downgraded)), [Rule::LiveBelow]);
    let mut bound = below.clone();
    shown(&mut bound).lower_bound = true;
    assert_eq!(found(|history| history.calls.push(bound)), []);
    // Asked before the answer was there.
    let mut before = below;
    before.sent = 2_005_000;
    assert_eq!(found(|history| history.calls.push(before)), []);
}

#[test]
fn a_row_of_the_ledger_that_another_gateway_does_not_read() {
    let recorded = |gateway, sent| {
        found(|history| {
            history.calls[2] = report(2 * SECOND, &[mark(0, 0, true), mark(1, 0, false)], Disposition::Recorded);
            history.calls.remove(3);
            let mut read = shows(sent, State::Running, Source::Live, [[2, 0, 0, 0], [2, 0, 0, 0]]);
            read.gateway = gateway;
            history.calls.push(read);
        })
    };
    assert_eq!(recorded(0, 2_100_000), [Rule::LiveBelow], "its own row");
    assert_eq!(recorded(1, 2_100_000), [], "the feed is on its way");
    assert_eq!(recorded(1, 4_500_000), [Rule::LiveBelow]);
}

#[test]
fn an_answer_after_the_deadline() {
    let slow = |happenings: Vec<Happening>| {
        found(|history| {
            let mut slow = call(6 * SECOND, Asked::Get, Said::Job(State::Failed));
            slow.answered = slow.sent + 4 * SECOND;
            history.calls.push(slow);
            history.happenings = happenings;
        })
    };
    assert_eq!(slow(vec![]), [Rule::Late]);
    assert_eq!(slow(vec![Happening::Stalled { gateway: 0, from: 7 * SECOND, to: 9 * SECOND }]), []);
    assert_eq!(slow(vec![Happening::Stalled { gateway: 1, from: 7 * SECOND, to: 9 * SECOND }]), [Rule::Late]);
    assert_eq!(slow(vec![Happening::Starved { from: 7 * SECOND, to: 9 * SECOND }]), []);
}

#[test]
fn an_error_that_no_fault_excuses() {
    let refused = |code: &str, reason: &str, asked: Asked| {
        let said = Said::Refused { code: code.to_owned(), reason: reason.to_owned() };
        found(|history| history.calls.push(call(3_500_000, asked, said)))
    };
    let cancel = || Asked::Cancel;
    assert_eq!(refused("Internal", "INTERNAL", Asked::Get), [Rule::Unexcused]);
    assert_eq!(refused("NotFound", "JOB_NOT_FOUND", Asked::Get), [Rule::Unexcused]);
    assert_eq!(refused("FailedPrecondition", "JOB_ENDED", Asked::Create), [Rule::Unexcused]);
    assert_eq!(refused("FailedPrecondition", "JOB_ENDED", cancel()), []);
    assert_eq!(refused("Unavailable", "POSTGRES_UNAVAILABLE", Asked::Get), []);
    let broken = |happenings: Vec<Happening>| {
        found(|history| {
            history.calls.push(call(3_500_000, Asked::Get, Said::Nothing("connection refused".to_owned())));
            history.happenings = happenings;
        })
    };
    assert_eq!(broken(vec![]), [Rule::Unexcused]);
    assert_eq!(broken(vec![Happening::Died { gateway: 0, life: 0, at: 3 * SECOND, back: 5 * SECOND }]), []);
    assert_eq!(
        broken(vec![Happening::Died { gateway: 1, life: 0, at: 3 * SECOND, back: 5 * SECOND }]),
        [Rule::Unexcused]
    );
}

#[test]
fn a_job_that_never_ends() {
    assert_eq!(found(|history| (history.calls.truncate(4), history.ends.clear()).1), [Rule::NeverEnded]);
    let running = |history: &mut History| {
        history.calls.truncate(4);
        history.ends[0].state = State::Running;
    };
    assert_eq!(found(running), [Rule::NeverEnded]);
}
