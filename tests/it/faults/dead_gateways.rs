//! SIGKILL at every fault point: whatever a gateway was doing, others finish it, once, and nothing that was
//! acknowledged is lost.

use highwater::fault::POINTS;
use tonic::Status;

use super::{DONE, STAGES, Stored, ended, gateways, reports, six_tasks};
use crate::support::{Fault, Gateway, Stack, eventually, pb, stages};

/// What a gateway is doing when it dies.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Deed {
    Start,
    Report,
    LastReport,
    Cancel,
}

/// What leads by the point.
fn deeds(point: &str) -> &'static [Deed] {
    match point.split_once('.') {
        Some(("start", _)) => &[Deed::Start],
        Some(("report", _)) => &[Deed::Report, Deed::LastReport],
        Some(("cancel", _)) => &[Deed::Cancel],
        Some(("finish" | "commit", _)) => &[Deed::LastReport, Deed::Cancel],
        _ => panic!("no test kills a gateway at {point}"),
    }
}

impl Deed {
    async fn call(self, gateway: &Gateway, id: &str) -> Result<(), Status> {
        let [_, second, last] = reports();
        match self {
            Self::Start => gateway.start(id).await.map(drop),
            Self::Report => gateway.report(id, second).await.map(drop),
            Self::LastReport => gateway.report(id, last).await.map(drop),
            Self::Cancel => gateway.cancel(id, "enough").await.map(drop),
        }
    }

    /// The results that are acknowledged before.
    fn acknowledged(self) -> Vec<pb::TaskResult> {
        let [first, second, _] = reports();
        match self {
            Self::Start => vec![],
            Self::Report | Self::Cancel => first,
            Self::LastReport => [first, second].concat(),
        }
    }
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

#[test]
fn a_gateway_dies_at_every_point() {
    let tested = ["start", "report", "cancel", "finish", "commit"];
    for point in POINTS {
        assert!(!deeds(point).is_empty());
        assert!(tested.contains(&point.split_once('.').unwrap().0), "{point}");
    }
}

/// One after the other, so that no finish but the one that is meant comes by. A point that is not reached fails.
async fn die_at_every_point_of(part: &str) {
    let mut stack = gateways(2, "100ms").start().await;
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
    stack[1].create(pb::CreateJobRequest { start: deed != Deed::Start, ..six_tasks(id) }).await.unwrap();
    if deed != Deed::Start {
        stack[0].report(id, deed.acknowledged()).await.unwrap();
    }
    // So that it is not faster.
    stack[1].pause();
    stack[0].order(point, Fault::Kill);
    deed.call(&stack[0], id).await.expect_err("a dead gateway answers nothing");
    stack[0].reached(point).await;
    stack[0].ended().await;
    stack[1].resume();

    let end = taken_over(stack, point, deed, id).await;
    assert_eq!(end.snapshot.counts.stages.len(), STAGES.len());
    assert!(!end.snapshot.lower_bound, "{id}: {end:?}");
    end.holds(&deed.acknowledged());

    stack[0].restart().await;
    stack[0].ready().await;
    let shown = [stack[0].progress(id).await.unwrap(), stack[1].progress(id).await.unwrap()];
    assert_eq!(shown[0], shown[1]);
    assert_eq!((shown[0].source(), &shown[0].cancel_reason), (pb::Source::Snapshot, &end.cancel_reason));
    if deed != Deed::Cancel {
        assert_eq!((shown[0].state(), stages(&shown[0])), (pb::JobState::Succeeded, DONE.to_vec()));
    }
    end
}

/// What the clients of the dead gateway do next, until the job has ended.
async fn taken_over(stack: &Stack, point: &str, deed: Deed, id: &str) -> Stored {
    let began_to_end = !point.starts_with("report.") && !point.starts_with("cancel.");
    match deed {
        Deed::Start => {
            // Its call is repeated.
            let started = eventually("it starts", async || stack[1].start(id).await.ok()).await;
            assert_eq!(started.state(), pb::JobState::Running);
            for results in reports() {
                stack[1].report(id, results).await.unwrap();
            }
        }
        Deed::Report => {
            for results in &reports()[1..] {
                let answer = stack[1].report(id, results.clone()).await.unwrap();
                assert_eq!(answer.dispositions.len(), results.len());
            }
        }
        // The reconciler does it, without any call.
        Deed::LastReport | Deed::Cancel if began_to_end => {}
        Deed::LastReport => drop(stack[1].report(id, reports()[2].clone()).await.unwrap()),
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
    }
    Stored::of(stack, id).await
}
