//! Tests of the checker with hand-made histories. In valid histories it finds no violation. In invalid histories it
//! finds exactly the expected violation.

use super::super::history::{
    Call, Disposition, End, History, Incident, Job, Limits, Mark, Moment, ObservedProgress, Reply, Request, RowChange,
    SECOND, Source, State,
};
use super::{RULES, Rule, judge};

const LIMITS: Limits = Limits { deadline: 2 * SECOND, slack: SECOND, settle: 3 * SECOND, feed: 2 * SECOND };

/// A call to gateway 0 that takes ten milliseconds.
fn call(sent: Moment, request: Request, reply: Reply) -> Call {
    Call { job: "a".to_owned(), gateway: 0, process: 0, sent, answered: sent + 10_000, request, reply }
}

fn mark(task: u32, stage: usize, succeeded: bool) -> Mark {
    Mark { task, stage, succeeded }
}

fn report(sent: Moment, marks: &[Mark], disposition: Disposition) -> Call {
    let state = if disposition == Disposition::Superseded { State::Failed } else { State::Running };
    let dispositions = vec![disposition; marks.len()];
    call(sent, Request::Report(marks.to_vec()), Reply::Reported { dispositions, state })
}

fn read(sent: Moment, state: State, source: Source, counts: [[u32; 4]; 2]) -> Call {
    let observed =
        ObservedProgress { state, source, reason: String::new(), lower_bound: false, counts: Some(counts.to_vec()) };
    call(sent, Request::Progress, Reply::Progress(observed))
}

fn observed_in(call: &mut Call) -> &mut ObservedProgress {
    match &mut call.reply {
        Reply::Progress(observed) => observed,
        _ => unreachable!("the call is not a read"),
    }
}

/// A valid history of two tasks in two stages. One task succeeds. The other task fails at the first stage, which
/// exceeds the failure threshold.
fn valid_history() -> History {
    let job = Job { id: "a".to_owned(), tasks: 2, stages: 2, threshold: 0.1 };
    let last = report(4 * SECOND, &[mark(0, 1, true)], Disposition::Applied);
    let calls = vec![
        call(0, Request::Create, Reply::Job(State::Running)),
        read(SECOND, State::Running, Source::Live, [[2, 0, 0, 0], [2, 0, 0, 0]]),
        report(2 * SECOND, &[mark(0, 0, true), mark(1, 0, false)], Disposition::Applied),
        read(3 * SECOND, State::Running, Source::Live, [[0, 1, 1, 0], [1, 0, 0, 1]]),
        last,
        read(5 * SECOND, State::Failed, Source::Snapshot, [[0, 1, 1, 0], [0, 1, 0, 1]]),
        report(6 * SECOND, &[mark(0, 1, true)], Disposition::Superseded),
    ];
    let end = End {
        job: "a".to_owned(),
        state: State::Failed,
        lower_bound: false,
        counts: vec![[1, 1, 0], [1, 0, 1]],
        cells: vec![0b1111_0100],
        changes: vec![RowChange { from: State::Running, to: State::Failed, lower_bound: false, revision: 2 }],
    };
    History { limits: LIMITS, jobs: vec![job], calls, incidents: Vec::new(), ends: vec![end] }
}

/// The rules that are violated after a change of the valid history.
fn violations_after(change: impl FnOnce(&mut History)) -> Vec<Rule> {
    let mut history = valid_history();
    change(&mut history);
    judge(&history).violations.into_iter().map(|violation| violation.rule).collect()
}

#[test]
fn valid_history_is_checked_by_every_rule_without_violations() {
    let findings = judge(&valid_history());
    assert_eq!(findings.violations, []);
    assert!(RULES.iter().all(|rule| findings.checks[rule] > 0), "{:?}", findings.checks);
}

#[test]
fn acknowledged_mark_missing_from_the_end_is_a_violation() {
    // An acknowledged success is missing from the end. Its disposition makes no difference.
    for disposition in [Disposition::Applied, Disposition::Duplicate, Disposition::Recorded] {
        let late = report(3_500_000, &[mark(1, 0, true)], disposition);
        assert_eq!(violations_after(|history| history.calls.push(late)), [Rule::LostMark], "{disposition:?}");
    }
    // A success that was refused, or answered after the deadline, is not acknowledged.
    let refused = Reply::Error { code: "Unavailable".to_owned(), reason: "REDIS_UNAVAILABLE".to_owned() };
    let unacknowledged = call(3_500_000, Request::Report(vec![mark(1, 0, true)]), refused);
    assert_eq!(violations_after(|history| history.calls.push(unacknowledged)), []);
    let mut late = report(3_500_000, &[mark(1, 0, true)], Disposition::Applied);
    late.answered = late.sent + LIMITS.deadline + LIMITS.slack + 1;
    let stalled = Incident::Stalled { gateway: 0, from: 4 * SECOND, to: 4 * SECOND + 10 };
    assert_eq!(violations_after(|history| (history.calls.push(late), history.incidents.push(stalled)).0), []);
}

/// At 3.5 s, gateway 0 acknowledges a success that is missing from the end. Returns the violated rules and the number
/// of excused marks.
fn findings_with(incidents: &[Incident]) -> (Vec<Rule>, usize) {
    let mut history = valid_history();
    history.calls.push(report(3_500_000, &[mark(1, 0, true)], Disposition::Applied));
    history.incidents.extend_from_slice(incidents);
    let findings = judge(&history);
    (findings.violations.into_iter().map(|violation| violation.rule).collect(), findings.unrecoverable.len())
}

#[test]
fn lost_mark_is_excused_only_if_redis_lost_data_and_its_gateway_was_down() {
    let flushed = Incident::DataLost { from: 3_600_000, to: 3_601_000 };
    let killed = |gateway, process, at| Incident::GatewayDown { gateway, process, at, back: at + SECOND };
    let stalled = |gateway, to| Incident::Stalled { gateway, from: 3_550_000, to };
    assert_eq!(findings_with(&[flushed, killed(0, 0, 3_700_000)]), (vec![], 1));
    assert_eq!(findings_with(&[flushed, stalled(0, 7_000_000)]), (vec![], 1));
    let violation = (vec![Rule::LostMark], 0);
    assert_eq!(findings_with(&[flushed]), violation);
    assert_eq!(findings_with(&[killed(0, 0, 3_700_000)]), violation);
    assert_eq!(findings_with(&[flushed, killed(1, 0, 3_700_000)]), violation, "another gateway was killed");
    assert_eq!(findings_with(&[flushed, killed(0, 1, 3_700_000)]), violation, "a later process was killed");
    assert_eq!(findings_with(&[flushed, killed(0, 0, 3_400_000)]), violation, "killed before the report");
    assert_eq!(findings_with(&[flushed, killed(0, 0, 20 * SECOND)]), violation, "merged long before the kill");
    assert_eq!(findings_with(&[flushed, stalled(0, 5_000_000)]), violation, "resumed in time");
    let earlier = Incident::DataLost { from: 3_000_000, to: 3_100_000 };
    assert_eq!(findings_with(&[earlier, killed(0, 0, 3_700_000)]), violation, "data lost before the report");
    // A LIVE answer shows that the tracker has settled, so it contains the gateway's marks.
    let settled = |killed_at| {
        violations_after(|history| {
            history.calls.push(report(3_500_000, &[mark(1, 0, true)], Disposition::Applied));
            history.incidents.extend([flushed, killed(0, 0, killed_at)]);
            history.calls.push(read(4_500_000, State::Running, Source::Live, [[0, 1, 1, 0], [0, 1, 0, 1]]));
        })
    };
    assert_eq!(settled(4_400_000), []);
    assert_eq!(settled(4_600_000), [Rule::LostMark, Rule::LiveTooLow]);
}

#[test]
fn lower_bound_end_may_miss_marks_that_redis_lost() {
    let lower_bound_end = |lost: &[Incident]| {
        violations_after(|history| {
            history.calls.push(report(3_500_000, &[mark(1, 0, true)], Disposition::Applied));
            history.ends[0].lower_bound = true;
            history.incidents.extend_from_slice(lost);
        })
    };
    assert_eq!(lower_bound_end(&[Incident::DataLost { from: 3_600_000, to: 3_700_000 }]), []);
    assert_eq!(lower_bound_end(&[]), [Rule::LostMark], "it could have been amended");
    assert_eq!(
        lower_bound_end(&[Incident::DataLost { from: 3_000_000, to: 3_100_000 }]),
        [Rule::LostMark],
        "data lost before the report"
    );
    let later = Incident::DataLost { from: 20 * SECOND, to: 20 * SECOND + 1 };
    assert_eq!(lower_bound_end(&[later]), [Rule::LostMark], "it could have been amended long before");
}

#[test]
fn wrong_counts_are_violations() {
    assert_eq!(violations_after(|history| history.ends[0].counts[0] = [2, 0, 0]), [Rule::WrongCounts, Rule::SecondEnd]);
    // This history has a stored mark that was never reported.
    let unreported = |history: &mut History| {
        history.ends[0].cells = vec![0b1111_1100];
        history.ends[0].counts = vec![[2, 0, 0], [1, 0, 0]];
        history.ends[0].state = State::Cancelled;
        history.calls.truncate(5);
        history.calls.push(call(5 * SECOND, Request::Cancel, Reply::Job(State::Cancelled)));
    };
    assert_eq!(violations_after(unreported), [Rule::WrongCounts]);
    // This read counts a duplicate twice.
    let counted_twice = read(3_500_000, State::Running, Source::Live, [[0, 2, 0, 0], [1, 0, 0, 1]]);
    assert_eq!(
        violations_after(|history| history.calls.push(counted_twice)),
        [Rule::WrongCounts, Rule::CountsDecreased],
        "the final counts are lower"
    );
    let incomplete = read(3_500_000, State::Running, Source::Live, [[0, 1, 1, 0], [0, 0, 0, 1]]);
    assert_eq!(violations_after(|history| history.calls.push(incomplete)), [Rule::WrongCounts]);
}

#[test]
fn ends_that_contradict_the_marks_are_violations() {
    let pending = |history: &mut History| {
        history.ends[0].cells = vec![0b1100_0100];
        history.ends[0].counts = vec![[1, 1, 0], [0, 0, 1]];
        history.calls.remove(5);
        history.calls.remove(4);
    };
    assert_eq!(violations_after(pending), [Rule::FalseEnd]);
    assert_eq!(violations_after(|history| history.jobs[0].threshold = 0.5), [Rule::FalseEnd]);
    let ended_as = |state: State| {
        move |history: &mut History| {
            history.ends[0].state = state;
            history.calls.truncate(5);
        }
    };
    assert_eq!(violations_after(ended_as(State::Cancelled)), [Rule::FalseEnd], "no cancel request");
    assert_eq!(violations_after(ended_as(State::Revoked)), [Rule::FalseEnd]);
}

#[test]
fn second_end_is_a_violation() {
    let other = call(7 * SECOND, Request::Get, Reply::Job(State::Succeeded));
    assert_eq!(violations_after(|history| history.calls.push(other)), [Rule::SecondEnd]);
    let again = RowChange { from: State::Failed, to: State::Failed, lower_bound: false, revision: 3 };
    assert_eq!(violations_after(|history| history.ends[0].changes.push(again)), [Rule::SecondEnd]);
    let other_counts = read(7 * SECOND, State::Failed, Source::Snapshot, [[0, 1, 1, 0], [1, 0, 0, 1]]);
    assert_eq!(violations_after(|history| history.calls.push(other_counts)), [Rule::SecondEnd, Rule::CountsDecreased]);
}

#[test]
fn lower_bound_may_be_amended_once() {
    let lower_bound_end = |amendments: usize| {
        move |history: &mut History| {
            let end = &mut history.ends[0];
            end.changes[0].lower_bound = true;
            let amended = RowChange { from: State::Failed, to: State::Failed, lower_bound: false, revision: 3 };
            end.changes.extend(vec![amended; amendments]);
        }
    };
    assert_eq!(violations_after(lower_bound_end(1)), []);
    assert_eq!(violations_after(lower_bound_end(2)), [Rule::SecondEnd]);
}

#[test]
fn running_after_an_observed_end_is_a_violation() {
    let counts = [[0, 1, 1, 0], [0, 1, 0, 1]];
    let again = read(5_500_000, State::Running, Source::Live, counts);
    assert_eq!(violations_after(|history| history.calls.push(again.clone())), [Rule::StateRegression]);
    // This read was sent before the end was reported.
    let mut before = again.clone();
    before.sent = 5_005_000;
    assert_eq!(violations_after(|history| history.calls.push(before)), []);
    // The gateway of this read reports that it cannot reach Postgres.
    let mut cut_off = again.clone();
    observed_in(&mut cut_off).source = Source::Fallback;
    observed_in(&mut cut_off).reason = "POSTGRES_UNREACHABLE".to_owned();
    observed_in(&mut cut_off).lower_bound = true;
    assert_eq!(violations_after(|history| history.calls.push(cut_off)), []);
    // A claim returned this state.
    let observed = ObservedProgress {
        source: Source::Live,
        reason: String::new(),
        state: State::Running,
        lower_bound: true,
        counts: None,
    };
    let claimed = call(5_500_000, Request::Claim, Reply::Progress(observed));
    assert_eq!(violations_after(|history| history.calls.push(claimed.clone())), [Rule::StateRegression]);
    let mut claimed_without_postgres = claimed.clone();
    observed_in(&mut claimed_without_postgres).source = Source::Fallback;
    observed_in(&mut claimed_without_postgres).reason = "POSTGRES_UNREACHABLE".to_owned();
    let without_postgres = claimed_without_postgres.clone();
    assert_eq!(violations_after(|history| history.calls.push(without_postgres)), [Rule::StateRegression]);
    // After an end without a seal, RUNNING is allowed until the feed has reached every gateway.
    let unsealed = |read: Call| {
        violations_after(|history| {
            history.ends[0].changes[0].revision = 0;
            history.calls.push(read);
        })
    };
    let mut later = again.clone();
    later.sent = 7_200_000;
    later.answered = 7_210_000;
    assert_eq!(unsealed(again), []);
    assert_eq!(unsealed(claimed_without_postgres), []);
    assert_eq!(unsealed(claimed), [Rule::StateRegression], "a claim does not depend on the feed");
    assert_eq!(unsealed(later), [Rule::StateRegression]);
    let read_in_postgres = call(5_500_000, Request::Get, Reply::Job(State::Running));
    assert_eq!(unsealed(read_in_postgres), [Rule::StateRegression]);
    // SUPERSEDED shows the end as well.
    let superseded = report(4_500_000, &[mark(0, 1, true)], Disposition::Superseded);
    let between = read(4_800_000, State::Running, Source::Live, counts);
    assert_eq!(violations_after(|history| history.calls.extend([superseded, between])), [Rule::StateRegression]);
}

#[test]
fn pending_after_an_observed_start_is_a_violation() {
    let pending = call(SECOND, Request::Get, Reply::Job(State::Pending));
    assert_eq!(violations_after(|history| history.calls.push(pending)), [Rule::StateRegression]);
}

#[test]
fn live_answer_below_acknowledged_results_is_a_violation() {
    let below = read(2_500_000, State::Running, Source::Live, [[1, 1, 0, 0], [2, 0, 0, 0]]);
    assert_eq!(violations_after(|history| history.calls.push(below.clone())), [Rule::LiveTooLow]);
    // A failure in place of an acknowledged success is also too low.
    let downgraded = read(2_500_000, State::Running, Source::Live, [[0, 0, 2, 0], [0, 0, 0, 2]]);
    assert_eq!(violations_after(|history| history.calls.push(downgraded)), [Rule::LiveTooLow]);
    let mut bound = below.clone();
    observed_in(&mut bound).lower_bound = true;
    assert_eq!(violations_after(|history| history.calls.push(bound)), []);
    // This read was sent before the report was acknowledged.
    let mut before = below;
    before.sent = 2_005_000;
    assert_eq!(violations_after(|history| history.calls.push(before)), []);
}

#[test]
fn answer_below_an_earlier_answer_is_a_violation_unless_redis_lost_data() {
    // At 2.005 s, a read counts a success that its report acknowledges later. A later read does not count it.
    let decreased = |change: fn(&mut Call), incidents: &[Incident]| {
        violations_after(|history| {
            history.calls[2].answered = 2_900_000;
            let first = read(2_005_000, State::Running, Source::Live, [[0, 1, 1, 0], [1, 0, 0, 1]]);
            let mut second = read(2_500_000, State::Running, Source::Live, [[1, 1, 0, 0], [2, 0, 0, 0]]);
            second.gateway = 1;
            change(&mut second);
            history.calls.extend([first, second]);
            history.incidents.extend_from_slice(incidents);
        })
    };
    assert_eq!(decreased(|_| {}, &[]), [Rule::CountsDecreased]);
    assert_eq!(decreased(|call| observed_in(call).lower_bound = true, &[]), []);
    assert_eq!(decreased(|call| call.sent = 2_010_000, &[]), [], "it was sent before the first read was answered");
    let lost = |from: Moment| Incident::DataLost { from, to: from + 1 };
    assert_eq!(decreased(|_| {}, &[lost(2_200_000)]), []);
    assert_eq!(decreased(|_| {}, &[lost(1_900_000)]), [Rule::CountsDecreased], "lost before the first read");
    assert_eq!(decreased(|_| {}, &[lost(2_600_000)]), [Rule::CountsDecreased], "lost after the second read");
}

#[test]
fn fallback_answer_that_is_not_marked_as_a_lower_bound_is_a_violation() {
    let fallback = |lower_bound: bool| {
        violations_after(|history| {
            let mut fallback = read(3_500_000, State::Running, Source::Fallback, [[0, 1, 1, 0], [1, 0, 0, 1]]);
            observed_in(&mut fallback).lower_bound = lower_bound;
            history.calls.push(fallback);
        })
    };
    assert_eq!(fallback(false), [Rule::UnmarkedLowerBound]);
    assert_eq!(fallback(true), []);
}

#[test]
fn live_answer_may_miss_ledger_rows_of_other_gateways_within_the_feed_delay() {
    let recorded = |gateway, sent| {
        violations_after(|history| {
            history.calls[2] = report(2 * SECOND, &[mark(0, 0, true), mark(1, 0, false)], Disposition::Recorded);
            history.calls.remove(3);
            let mut read = read(sent, State::Running, Source::Live, [[2, 0, 0, 0], [2, 0, 0, 0]]);
            read.gateway = gateway;
            history.calls.push(read);
        })
    };
    assert_eq!(recorded(0, 2_100_000), [Rule::LiveTooLow], "a gateway knows its own row");
    assert_eq!(recorded(1, 2_100_000), [], "the feed may still lag");
    assert_eq!(recorded(1, 4_500_000), [Rule::LiveTooLow]);
}

#[test]
fn reply_after_the_deadline_is_a_violation() {
    let slow = |incidents: Vec<Incident>| {
        violations_after(|history| {
            let mut slow = call(6 * SECOND, Request::Get, Reply::Job(State::Failed));
            slow.answered = slow.sent + 4 * SECOND;
            history.calls.push(slow);
            history.incidents = incidents;
        })
    };
    assert_eq!(slow(vec![]), [Rule::LateReply]);
    assert_eq!(slow(vec![Incident::Stalled { gateway: 0, from: 7 * SECOND, to: 9 * SECOND }]), []);
    assert_eq!(slow(vec![Incident::Stalled { gateway: 1, from: 7 * SECOND, to: 9 * SECOND }]), [Rule::LateReply]);
    assert_eq!(slow(vec![Incident::HarnessPaused { from: 7 * SECOND, to: 9 * SECOND }]), []);
}

#[test]
fn error_without_an_excusing_fault_is_a_violation() {
    let refused = |code: &str, reason: &str, request: Request| {
        let reply = Reply::Error { code: code.to_owned(), reason: reason.to_owned() };
        violations_after(|history| history.calls.push(call(3_500_000, request, reply)))
    };
    let cancel = || Request::Cancel;
    assert_eq!(refused("Internal", "INTERNAL", Request::Get), [Rule::UnexpectedError]);
    assert_eq!(refused("NotFound", "JOB_NOT_FOUND", Request::Get), [Rule::UnexpectedError]);
    assert_eq!(refused("FailedPrecondition", "JOB_ENDED", Request::Create), [Rule::UnexpectedError]);
    assert_eq!(refused("FailedPrecondition", "JOB_ENDED", cancel()), []);
    assert_eq!(refused("Unavailable", "POSTGRES_UNAVAILABLE", Request::Get), []);
    let broken = |incidents: Vec<Incident>| {
        violations_after(|history| {
            history.calls.push(call(3_500_000, Request::Get, Reply::Unanswered("connection refused".to_owned())));
            history.incidents = incidents;
        })
    };
    assert_eq!(broken(vec![]), [Rule::UnexpectedError]);
    assert_eq!(broken(vec![Incident::GatewayDown { gateway: 0, process: 0, at: 3 * SECOND, back: 5 * SECOND }]), []);
    assert_eq!(
        broken(vec![Incident::GatewayDown { gateway: 1, process: 0, at: 3 * SECOND, back: 5 * SECOND }]),
        [Rule::UnexpectedError]
    );
}

#[test]
fn job_that_never_ends_is_a_violation() {
    assert_eq!(violations_after(|history| (history.calls.truncate(4), history.ends.clear()).1), [Rule::NeverEnded]);
    let running = |history: &mut History| {
        history.calls.truncate(4);
        history.ends[0].state = State::Running;
    };
    assert_eq!(violations_after(running), [Rule::NeverEnded]);
}
