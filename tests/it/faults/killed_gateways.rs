//! SIGKILL at every fault point: whatever a gateway was doing, others finish it, once, and nothing that was
//! acknowledged is lost.

use std::time::Duration;

use highwater::fault::POINTS;

use super::{CANARY, DONE, STAGES, Stored, TASKS, ended, reports, six_tasks, uses_redis_again};
use crate::support::{Fault, Gateway, Link, Stack, dispositions, eventually, pb, stages, tracker_key};

/// Long enough to get gateway 1 out of the way.
const STALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What a gateway is doing when it dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Deed {
    /// Adding tasks to a job that has a third of them.
    Grow,
    Start,
    Read,
    Report,
    LastReport,
    Cancel,
    /// A report while it cannot reach Redis.
    Record,
    /// It can again, and its reconciler takes the ledger's rows over.
    Drain,
    /// Redis has lost the tracker.
    Restore,
    /// Nobody can reach Redis, from the start on.
    EndWithoutRedis,
    /// Its reconciler finds that the job makes no progress.
    Revoke,
}

/// What leads by the point.
fn deeds(point: &str) -> &'static [Deed] {
    match point.split_once('.') {
        Some(("grow", _)) => &[Deed::Grow],
        Some(("start", _)) => &[Deed::Start],
        Some(("round", _)) => &[Deed::Read, Deed::Report],
        Some(("report", _)) => &[Deed::Report, Deed::LastReport],
        Some(("read", _)) => &[Deed::Read],
        Some(("cancel", _)) => &[Deed::Cancel],
        Some(("record", _)) => &[Deed::Record],
        Some(("drain", _)) => &[Deed::Drain],
        Some(("restore", _)) => &[Deed::Restore],
        Some(("revoke", _)) => &[Deed::Revoke],
        Some(("commit", _) | ("finish", "committed")) => &[Deed::LastReport, Deed::Cancel, Deed::EndWithoutRedis],
        Some(("finish", _)) => &[Deed::LastReport, Deed::Cancel],
        _ => panic!("no test kills a gateway at {point}"),
    }
}

impl Deed {
    /// What is done before gateway 0 is told to die, through both gateways.
    async fn prepare(self, stack: &mut Stack, id: &str) {
        let cut = |gateway: &Gateway| gateway.links().redis.set(Link::Cut);
        if self == Self::EndWithoutRedis {
            stack.gateways().iter().for_each(cut);
        }
        let stall_timeout = (self == Self::Revoke).then(|| STALL_TIMEOUT.try_into().unwrap());
        let start = !matches!(self, Self::Start | Self::Grow);
        let task_count = if self == Self::Grow { 2 } else { TASKS.into() };
        let new = pb::CreateJobRequest { start, task_count, stall_timeout, ..six_tasks(id) };
        stack[1].create(new).await.unwrap();
        let [first, second, _] = reports();
        match self {
            Self::Start | Self::Grow => {}
            Self::Read | Self::Report | Self::Cancel | Self::Revoke => drop(stack[0].report(id, first).await.unwrap()),
            Self::Record => {
                stack[0].report(id, first).await.unwrap();
                cut(&stack[0]);
            }
            Self::Drain => {
                stack[0].report(id, first).await.unwrap();
                cut(&stack[0]);
                let answer = stack[0].report(id, second).await.unwrap();
                assert_eq!(dispositions(&answer), [pb::Disposition::Recorded; 3]);
            }
            // Both have acknowledged it: what only the dead one has is lost with the tracker.
            Self::Restore => {
                for gateway in stack.gateways() {
                    gateway.report(id, first.clone()).await.unwrap();
                }
            }
            Self::LastReport | Self::EndWithoutRedis => {
                drop(stack[0].report(id, [first, second].concat()).await.unwrap());
            }
        }
    }

    /// What leads gateway 0 by the point. Where a reconciler goes, the call may be answered before.
    async fn call(self, stack: &Stack, id: &str) {
        let gateway = &stack[0];
        let [_, second, last] = reports();
        let answer = match self {
            Self::Grow => gateway.grow(id, TASKS.into()).await.map(drop),
            Self::Start => gateway.start(id).await.map(drop),
            Self::Read => gateway.progress(id).await.map(drop),
            Self::Report | Self::Record => gateway.report(id, second).await.map(drop),
            Self::LastReport => gateway.report(id, last).await.map(drop),
            Self::Cancel => gateway.cancel(id, "enough").await.map(drop),
            Self::Restore => {
                let _: i64 = stack.redis.ask(redis::cmd("DEL").arg(tracker_key(id))).await;
                gateway.report(id, second).await.map(drop)
            }
            Self::Drain => return gateway.links().redis.set(Link::Open),
            Self::Revoke => return,
            Self::EndWithoutRedis => return drop(gateway.report(id, last).await.unwrap()),
        };
        answer.expect_err("a dead gateway answers nothing");
    }

    /// The results that are acknowledged before it dies.
    fn acknowledged(self) -> Vec<pb::TaskResult> {
        let [first, second, last] = reports();
        match self {
            Self::Start | Self::Grow => vec![],
            Self::Read | Self::Report | Self::Cancel | Self::Record | Self::Restore | Self::Revoke => first,
            Self::LastReport | Self::Drain => [first, second].concat(),
            Self::EndWithoutRedis => [first, second, last].concat(),
        }
    }
}

#[tokio::test]
async fn a_gateway_that_dies_while_it_adds_tasks_leaves_all_of_them_or_none() {
    die_at_every_point_of("grow").await;
}

#[tokio::test]
async fn a_gateway_that_dies_in_a_start_leaves_a_job_that_starts() {
    die_at_every_point_of("start").await;
}

#[tokio::test]
async fn a_gateway_that_dies_in_a_report_loses_nothing_that_it_acknowledged() {
    die_at_every_point_of("report").await;
}

#[tokio::test]
async fn a_gateway_that_dies_with_calls_that_share_a_round_loses_nothing_that_it_acknowledged() {
    die_at_every_point_of("round").await;
    die_at_every_point_of("read").await;
}

#[tokio::test]
async fn a_gateway_that_dies_in_a_cancel_leaves_a_job_that_runs_or_is_cancelled() {
    die_at_every_point_of("cancel").await;
}

#[tokio::test]
async fn what_a_gateway_that_dies_began_to_finish_is_finished() {
    die_at_every_point_of("finish").await;
}

#[tokio::test]
async fn a_gateway_that_dies_in_a_commit_leaves_an_end_or_none() {
    die_at_every_point_of("commit").await;
}

#[tokio::test]
async fn a_gateway_that_dies_while_it_records_loses_nothing_that_it_acknowledged() {
    die_at_every_point_of("record").await;
}

#[tokio::test]
async fn what_a_gateway_that_dies_had_drained_counts_once() {
    die_at_every_point_of("drain").await;
}

#[tokio::test]
async fn what_a_gateway_that_dies_began_to_restore_is_restored() {
    die_at_every_point_of("restore").await;
}

#[tokio::test]
async fn what_a_gateway_that_dies_began_to_revoke_is_revoked() {
    die_at_every_point_of("revoke").await;
}

#[test]
fn a_gateway_dies_at_every_point() {
    let tested = [
        "grow", "start", "round", "report", "read", "record", "drain", "restore", "cancel", "revoke", "finish",
        "commit",
    ];
    for point in POINTS {
        assert!(!deeds(point).is_empty());
        assert!(tested.contains(&point.split_once('.').unwrap().0), "{point}");
    }
}

/// One after the other, so that no finish but the one that is meant comes by. A point that is not reached fails.
async fn die_at_every_point_of(part: &str) {
    let settling = Stack::of(2).links().settling(Duration::from_millis(100), Duration::from_secs(3));
    let mut stack = settling.start().await;
    stack[0].create(six_tasks(CANARY)).await.unwrap();
    let mut ends = Vec::new();
    for point in POINTS.into_iter().filter(|point| point.split_once('.').unwrap().0 == part) {
        for deed in deeds(point) {
            let id = format!("{point}-{deed:?}");
            ends.push((id.clone(), dies(&mut stack, point, *deed, &id).await));
        }
    }
    assert!(!ends.is_empty(), "there is no point in {part}");
    for (id, end) in ends {
        assert_eq!(Stored::of(&stack, &id).await, end, "{id} ended once");
    }
}

/// Gateway 0 dies, gateway 1 takes over, and gateway 0 comes back and sees the same.
async fn dies(stack: &mut Stack, point: &str, deed: Deed, id: &str) -> Stored {
    deed.prepare(stack, id).await;
    // So that it is not faster.
    stack[1].pause();
    stack[0].order(point, Fault::Kill);
    deed.call(stack, id).await;
    stack[0].reached(point).await;
    stack[0].ended().await;
    stack[1].resume();

    let end = taken_over(stack, point, deed, id).await;
    assert_eq!(end.snapshot.counts.stages.len(), STAGES.len());
    assert!(!end.snapshot.lower_bound, "{id}: {end:?}");
    end.holds(&deed.acknowledged());

    for gateway in stack.gateways() {
        gateway.links().redis.set(Link::Open);
    }
    stack[0].restart().await;
    stack[0].ready().await;
    for gateway in stack.gateways() {
        uses_redis_again(gateway).await;
    }
    let shown = [stack[0].progress(id).await.unwrap(), stack[1].progress(id).await.unwrap()];
    assert_eq!(shown[0], shown[1]);
    assert_eq!((shown[0].source(), &shown[0].cancel_reason), (pb::Source::Snapshot, &end.cancel_reason));
    let told = (shown[0].state(), stages(&shown[0]));
    match deed {
        Deed::Cancel => {}
        Deed::Revoke => assert_eq!(told, (pb::JobState::Revoked, vec![[3, 3, 0, 0], [6, 0, 0, 0]])),
        _ => assert_eq!(told, (pb::JobState::Succeeded, DONE.to_vec())),
    }
    end
}

/// What the clients of the dead gateway do next, until the job has ended.
async fn taken_over(stack: &Stack, point: &str, deed: Deed, id: &str) -> Stored {
    let began_to_end = !point.starts_with("report.") && !point.starts_with("cancel.");
    match deed {
        Deed::Start | Deed::Grow => {
            // Its call is repeated.
            if deed == Deed::Grow {
                let grown = eventually("it grows", async || stack[1].grow(id, TASKS.into()).await.ok()).await;
                assert_eq!(grown.task_count, i64::from(TASKS));
            }
            let started = eventually("it starts", async || stack[1].start(id).await.ok()).await;
            assert_eq!(started.state(), pb::JobState::Running);
            for results in reports() {
                stack[1].report(id, results).await.unwrap();
            }
        }
        Deed::Read | Deed::Report | Deed::Record | Deed::Restore => {
            for results in &reports()[1..] {
                let answer = stack[1].report(id, results.clone()).await.unwrap();
                assert_eq!(answer.dispositions.len(), results.len());
            }
        }
        // The reconciler does it, without any call.
        Deed::EndWithoutRedis | Deed::Revoke => {}
        Deed::LastReport | Deed::Cancel if began_to_end => {}
        Deed::LastReport | Deed::Drain => drop(stack[1].report(id, reports()[2].clone()).await.unwrap()),
        Deed::Cancel => {
            assert_eq!(stack[1].get(id).await.unwrap().state(), pb::JobState::Running);
            stack[1].cancel(id, "enough").await.unwrap();
        }
    }
    let job = ended(&stack[1], id).await;
    // Repeating the call is harmless.
    if deed == Deed::Cancel {
        assert_eq!(stack[1].cancel(id, "again").await.unwrap(), job);
        assert_eq!((job.state(), job.cancel_reason.as_str()), (pb::JobState::Cancelled, "enough"));
    } else {
        assert!(stack[1].report(id, reports()[2].clone()).await.unwrap().stop);
        assert!(!stack[1].progress(id).await.unwrap().lower_bound);
    }
    Stored::of(stack, id).await
}
