//! Tests of counting: which results count, which dispositions they get, and to which state of the job they lead.

use highwater::domain::{Cells, Layout};
use pb::Disposition::{Applied, Duplicate, Superseded, UnknownStage, UnknownTask};

use crate::support::{
    Stack, code_and_reason, dispositions, failed, failed_with, job, named_job, pb, stage_counts, succeeded,
    succeeded_by_name, task_counts,
};

#[tokio::test]
async fn new_job_is_all_pending_at_every_stage() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["read", "digest"], 5)).await.unwrap();
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.state(), progress.source()), (pb::JobState::Running, pb::Source::Live));
    assert_eq!(stage_counts(&progress), [[5, 0, 0, 0]; 2]);
    assert!(progress.stages.iter().all(|stage| stage.total_count == 5));
    assert_eq!((progress.percent, progress.fraction), (Some(0), Some(0.0)));
}

#[tokio::test]
async fn percent_reads_40_80_and_100_after_2_4_and_5_of_5_tasks() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 5)).await.unwrap();
    let mut read = Vec::new();
    for part in [0..2, 2..4, 4..5] {
        stack[0].report("a", succeeded(part, "s")).await.unwrap();
        let progress = stack[0].progress("a").await.unwrap();
        read.push((progress.percent.unwrap(), task_counts(&progress)));
    }
    assert_eq!(read, [(40, [3, 2, 0]), (80, [1, 4, 0]), (100, [0, 5, 0])]);
}

#[tokio::test]
async fn stages_advance_independently_and_a_failure_skips_the_later_ones() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["read", "digest", "store"], 4)).await.unwrap();
    stack[0].report("a", succeeded(0..1, "digest")).await.unwrap();
    stack[0].report("a", succeeded(0..3, "read")).await.unwrap();
    assert_eq!(stage_counts(&stack[0].progress("a").await.unwrap()), [[1, 3, 0, 0], [3, 1, 0, 0], [4, 0, 0, 0]]);

    stack[0].report("a", failed([3], "read")).await.unwrap();
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!(stage_counts(&progress), [[0, 3, 1, 0], [2, 1, 0, 1], [3, 0, 0, 1]]);
    assert_eq!(task_counts(&progress), [3, 0, 1], "the last stage decides the status of the task");

    let rest = [succeeded(1..3, "digest"), succeeded(0..3, "store")].concat();
    let answer = stack[0].report("a", rest).await.unwrap();
    assert_eq!((answer.job_state(), answer.stop), (pb::JobState::Succeeded, true));
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!(stage_counts(&progress), [[0, 3, 1, 0], [0, 3, 0, 1], [0, 3, 0, 1]]);
    assert_eq!((progress.percent, task_counts(&progress)), (Some(100), [0, 3, 1]));
}

#[tokio::test]
async fn a_task_moves_from_failed_to_succeeded_and_never_back() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    let mut outcomes = Vec::new();
    for result in [failed([0], "s"), failed([0], "s"), succeeded([0], "s"), failed([0], "s"), succeeded([0], "s")] {
        let answered = dispositions(&stack[0].report("a", result).await.unwrap());
        outcomes.push((answered, stage_counts(&stack[0].progress("a").await.unwrap())[0]));
    }
    let (one_failed, one_succeeded) = ([1, 0, 1, 0], [1, 1, 0, 0]);
    let expected = [
        (vec![Applied], one_failed),
        (vec![Duplicate], one_failed),
        (vec![Applied], one_succeeded),
        (vec![Duplicate], one_succeeded),
        (vec![Duplicate], one_succeeded),
    ];
    assert_eq!(outcomes, expected);
}

#[tokio::test]
async fn partly_duplicate_batch_counts_only_new_results() {
    let stack = Stack::start(2).await;
    stack[0].create(job("a", &["s"], 10)).await.unwrap();
    stack[0].report("a", succeeded(0..4, "s")).await.unwrap();
    let before = stack[0].progress("a").await.unwrap().revision;

    let answer = stack[1].report("a", succeeded(2..6, "s")).await.unwrap();
    assert_eq!(dispositions(&answer), [Duplicate, Duplicate, Applied, Applied]);
    assert_eq!(stage_counts(&stack[0].progress("a").await.unwrap()), [[4, 6, 0, 0]]);

    let twice_in_one_batch = [succeeded([6], "s"), failed([6], "s"), succeeded([6], "s")].concat();
    let answer = stack[1].report("a", twice_in_one_batch).await.unwrap();
    assert_eq!(dispositions(&answer), [Applied, Duplicate, Duplicate]);

    let between = stack[0].progress("a").await.unwrap();
    assert_eq!(stage_counts(&between), [[3, 7, 0, 0]]);
    assert!(between.revision > before, "{before:?} {:?}", between.revision);
    let answer = stack[1].report("a", succeeded(0..7, "s")).await.unwrap();
    assert_eq!(dispositions(&answer), [Duplicate; 7]);
    let after = stack[0].progress("a").await.unwrap();
    assert_eq!((after.revision, after.last_progress_time), (between.revision, between.last_progress_time));
}

#[tokio::test]
async fn unknown_task_changes_nothing_and_is_reported_as_unknown() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 3)).await.unwrap();
    let fresh = stack[0].progress("a").await.unwrap();
    let answer = stack[0].report("a", succeeded([3, 1 << 32, i64::MAX], "s")).await.unwrap();
    assert_eq!(dispositions(&answer), [UnknownTask; 3]);
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((stage_counts(&progress), progress.revision), (stage_counts(&fresh), fresh.revision));

    let answer = stack[0].report("a", succeeded([0, 3, 1], "s")).await.unwrap();
    assert_eq!(dispositions(&answer), [Applied, UnknownTask, Applied], "the other results of its batch are applied");
    assert_eq!(stage_counts(&stack[0].progress("a").await.unwrap()), [[1, 2, 0, 0]]);
}

/// A result that does not match the job is never counted. It affects no other result of its batch.
#[tokio::test]
async fn results_that_do_not_match_the_job_are_rejected_one_by_one() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 3)).await.unwrap();
    let long = "x".repeat(257);
    let batch = [
        succeeded([0], "s"),
        succeeded([1], "nowhere"),
        succeeded([-1, 9], "s"),
        succeeded([9], "no where\n"),
        succeeded_by_name(["of no task", "a\nb", &long], "s"),
        vec![failed_with(1, "s", &format!("x{}", "ä".repeat(40)), &"ä".repeat(200))],
    ]
    .concat();
    let answer = stack[0].report("a", batch.clone()).await.unwrap();
    let expected =
        [Applied, UnknownStage, UnknownTask, UnknownTask, UnknownStage, UnknownTask, UnknownTask, UnknownTask, Applied];
    assert_eq!((dispositions(&answer), answer.rejected_count), (expected.to_vec(), 7));
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!(stage_counts(&progress), [[1, 1, 1, 0]]);
    let sample = &progress.error_samples[0];
    assert_eq!((sample.code.as_str(), sample.message.len()), (format!("x{}", "ä".repeat(31)).as_str(), 256));

    let answer = stack[0].report("a", succeeded(0..3, "s")).await.unwrap();
    assert_eq!((answer.job_state(), answer.rejected_count), (pb::JobState::Succeeded, 0));
    let late = stack[0].report("a", batch).await.unwrap();
    assert_eq!((dispositions(&late), late.rejected_count), (vec![Superseded; 9], 0), "the end decides first");
}

/// An index of 0 that is not on the wire is no index.
#[tokio::test]
async fn result_without_a_task_is_refused_and_marks_nothing() {
    let stack = Stack::start(1).await;
    stack[0].create(named_job("named", &["s"])).await.unwrap();
    stack[0].add("named", &["a", "b"]).await.unwrap();
    stack[0].start("named").await.unwrap();
    stack[0].create(job("counted", &["s"], 2)).await.unwrap();
    for id in ["named", "counted"] {
        let without_task = pb::TaskResult { task: None, ..succeeded([0], "s").remove(0) };
        let refused = stack[0].report(id, [succeeded([1], "s"), vec![without_task]].concat()).await.unwrap_err();
        assert_eq!(code_and_reason(&refused), (tonic::Code::InvalidArgument, "INVALID_FIELD".to_owned()));
        let text = "results[1].task: must be set: send the index of the task (also if it is 0) or task_name";
        assert!(refused.message().contains(text), "{refused:?}");
        assert_eq!(stage_counts(&stack[0].progress(id).await.unwrap()), [[2, 0, 0, 0]]);
        let answer = stack[0].report(id, succeeded([0], "s")).await.unwrap();
        assert_eq!(dispositions(&answer), [Applied], "an index of 0 that is set");
    }
}

/// Without these checks, a missing number of tasks would end the job as SUCCEEDED, at once or when it is started.
#[tokio::test]
async fn missing_task_count_is_refused_where_it_would_end_the_job() {
    let stack = Stack::start(1).await;
    let request = |start| pb::CreateJobRequest { task_count: None, start, ..job("a", &["s"], 1) };
    let refused = stack[0].create(request(true)).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (tonic::Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    assert!(refused.message().contains("task_count: must be set with start"), "{refused:?}");
    assert_eq!(stack[0].get("a").await.unwrap_err().code(), tonic::Code::NotFound);

    assert_eq!(stack[0].create(request(false)).await.unwrap().state(), pb::JobState::Pending);
    let nothing = pb::AddTasksRequest { job_id: "a".to_owned(), ..pb::AddTasksRequest::default() };
    let refused = stack[0].add_tasks(nothing).await.unwrap_err();
    assert_eq!(code_and_reason(&refused), (tonic::Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    assert!(refused.message().contains("task_count: must be set"), "{refused:?}");
    assert_eq!(stack[0].grow("a", 0).await.unwrap().task_count, 0, "a total of 0 that is set");
}

/// A failure skips the later stages of a task. A success that replaces it makes them pending again, so `percent`
/// decreases. The share of reported results does not.
#[tokio::test]
async fn percent_can_decrease_but_the_reported_percent_does_not() {
    let stack = Stack::start(2).await;
    stack[0].create(job("a", &["one", "two", "three", "four"], 2)).await.unwrap();
    let reports = [failed([0], "one"), succeeded([0], "one"), failed([0], "one"), succeeded([0], "two")];
    let mut read = Vec::new();
    for results in reports {
        stack[0].report("a", results).await.unwrap();
        let progress = stack[1].progress("a").await.unwrap();
        assert_eq!(progress.source(), pb::Source::Live);
        read.push((progress.percent.unwrap(), progress.reported_percent.unwrap(), progress.reported_fraction.unwrap()));
    }
    assert_eq!(read, [(50, 12, 0.125), (12, 12, 0.125), (12, 12, 0.125), (25, 25, 0.25)]);
    let rest = [failed([1], "one"), succeeded([0], "three"), succeeded([0], "four")].concat();
    assert!(stack[0].report("a", rest).await.unwrap().stop);
    let ended = stack[1].progress("a").await.unwrap();
    assert_eq!((ended.source(), ended.percent, ended.reported_percent), (pb::Source::Snapshot, Some(100), Some(62)));
}

#[tokio::test]
async fn percent_is_99_while_one_of_a_thousand_tasks_is_pending() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["s"], 1000)).await.unwrap();
    stack[0].report("a", succeeded(0..999, "s")).await.unwrap();
    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.percent, progress.fraction), (Some(99), Some(0.999)));
    assert_eq!((progress.state(), progress.pending_task_count), (pb::JobState::Running, Some(1)));
}

#[tokio::test]
async fn job_without_tasks_succeeds_at_start() {
    let stack = Stack::start(1).await;
    let created = stack[0].create(pb::CreateJobRequest { start: false, ..job("a", &["s"], 0) }).await.unwrap();
    assert_eq!(created.state(), pb::JobState::Pending);
    let started = stack[0].start("a").await.unwrap();
    assert_eq!(started.state(), pb::JobState::Succeeded);
    assert!(started.start_time.is_some() && started.end_time.is_some());
    assert_eq!(stack[0].start("a").await.unwrap(), started, "starting it again changes nothing");
    assert_eq!(stack[0].create(job("b", &["s"], 0)).await.unwrap().state(), pb::JobState::Succeeded);

    let progress = stack[0].progress("a").await.unwrap();
    assert_eq!((progress.state(), progress.source()), (pb::JobState::Succeeded, pb::Source::Snapshot));
    assert_eq!((progress.percent, task_counts(&progress)), (Some(100), [0, 0, 0]));
    let answer = stack[0].report("a", succeeded([0], "s")).await.unwrap();
    assert!(answer.stop);
}

#[tokio::test]
async fn job_fails_only_above_its_failure_threshold() {
    let stack = Stack::start(1).await;
    for (id, failures, ends) in [("half", 5, pb::JobState::Succeeded), ("more", 6, pb::JobState::Failed)] {
        stack[0].create(job(id, &["s"], 10)).await.unwrap();
        stack[0].report(id, failed(0..failures, "s")).await.unwrap();
        let answer = stack[0].report(id, succeeded(failures..10, "s")).await.unwrap();
        assert_eq!(answer.job_state(), ends, "{failures} of 10 failed");
        let progress = stack[0].progress(id).await.unwrap();
        assert_eq!((progress.state(), task_counts(&progress)), (ends, [0, 10 - failures, failures]));
    }
    let strict = pb::CreateJobRequest { failure_threshold: Some(0.0), ..job("strict", &["read", "digest"], 1000) };
    stack[0].create(strict).await.unwrap();
    stack[0].report("strict", [succeeded(0..999, "read"), succeeded(0..999, "digest")].concat()).await.unwrap();
    let answer = stack[0].report("strict", failed([999], "read")).await.unwrap();
    assert_eq!(answer.job_state(), pb::JobState::Failed, "a task skipped at the last stage has failed");
    let lenient = pb::CreateJobRequest { failure_threshold: Some(1.0), ..job("lenient", &["s"], 3) };
    stack[0].create(lenient).await.unwrap();
    assert_eq!(stack[0].report("lenient", failed(0..3, "s")).await.unwrap().job_state(), pb::JobState::Succeeded);
}

/// A worker loses its lease. Another worker completes the stage and starts the next stage. Then the failure of the
/// first worker arrives. This failure must not close the stages in progress, and the end is the same in every order of
/// the reports.
#[tokio::test]
async fn late_failure_of_a_first_attempt_closes_no_stage_in_any_order() {
    let stack = Stack::start(1).await;
    let [first, second, next] = [failed([0], "read"), succeeded([0], "read"), failed([0], "digest")];
    let orders = [
        [&first, &second, &next],
        [&first, &next, &second],
        [&second, &first, &next],
        [&second, &next, &first],
        [&next, &first, &second],
        [&next, &second, &first],
    ];
    let mut ends = Vec::new();
    for (number, order) in orders.into_iter().enumerate() {
        let id = format!("order-{number}");
        // The second task keeps the job running until all orders are reported.
        stack[0].create(job(&id, &["read", "digest", "store"], 2)).await.unwrap();
        for result in order {
            stack[0].report(&id, result.clone()).await.unwrap();
        }
        let progress = stack[0].progress(&id).await.unwrap();
        assert_eq!(stage_counts(&progress), [[1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1]]);
        stack[0].report(&id, failed([1], "read")).await.unwrap();
        ends.push((stage_counts(&stack[0].progress(&id).await.unwrap()), stack.postgres.cells(&id).await));
    }
    assert_eq!(ends[0].0, [[0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 2]]);
    assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");

    stack[0].create(job("open", &["read", "digest"], 2)).await.unwrap();
    stack[0].report("open", [second, first].concat()).await.unwrap();
    assert_eq!(stage_counts(&stack[0].progress("open").await.unwrap()), [[1, 1, 0, 0], [2, 0, 0, 0]]);
}

#[tokio::test]
async fn one_report_takes_up_to_ten_thousand_results() {
    let stack = Stack::start(1).await;
    let keys = ["a", "b", "c", "d", "e", "f", "g", "h"];
    stack[0].create(job("wide", &keys, 10_001)).await.unwrap();
    let failures = (0..10_000).map(|task| failed_with(task, "a", "TIMEOUT", &"x".repeat(256))).collect();
    let answer = stack[0].report("wide", failures).await.unwrap();
    assert_eq!(dispositions(&answer), vec![Applied; 10_000]);
    let progress = stack[0].progress("wide").await.unwrap();
    assert_eq!(stage_counts(&progress)[0], [1, 0, 10_000, 0]);
    assert_eq!(stage_counts(&progress)[1..], [[1, 0, 0, 10_000]; 7]);
    assert_eq!((progress.error_counts[0].count, progress.error_samples.len()), (10_000, 20));

    let refused = stack[0].report("wide", succeeded(0..10_001, "a")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let refused = stack[0].report("wide", Vec::new()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

/// The stored end holds the status of each task at each stage, not only counts.
#[tokio::test]
async fn ended_job_keeps_every_task_status_at_every_stage() {
    let stack = Stack::start(1).await;
    stack[0].create(job("a", &["read", "digest"], 5)).await.unwrap();
    let marks = [succeeded([0, 2, 4], "read"), failed([1, 3], "read"), succeeded([0], "digest")].concat();
    stack[0].report("a", marks).await.unwrap();
    stack[0].report("a", failed([2, 4], "digest")).await.unwrap();

    let layout = Layout { total: 5, stages: 2 };
    let cells = Cells::new(layout, stack.postgres.cells("a").await).unwrap();
    let statuses: Vec<_> =
        (0..5).map(|task| format!("{:?}", cells.cell(task).statuses(2).collect::<Vec<_>>())).collect();
    let (completed, failed_read, failed_digest) =
        ("[Succeeded, Succeeded]", "[Failed, Skipped]", "[Succeeded, Failed]");
    assert_eq!(statuses, [completed, failed_read, failed_digest, failed_read, failed_digest]);
}
