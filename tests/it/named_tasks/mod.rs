//! Tests of named tasks. They are added before the start through any gateway, and reported by name or by index.

mod manifest;
mod racing;

use std::collections::{BTreeMap, BTreeSet};

use tonic::Code;
use tonic_types::StatusExt;

use crate::support::{
    Stack, code_and_reason, dispositions, eventually, failed_with, job, named_job, pb, stage_counts, succeeded,
    succeeded_by_name,
};

const APPLIED: pb::Disposition = pb::Disposition::Applied;
const DUPLICATE: pb::Disposition = pb::Disposition::Duplicate;
const UNKNOWN_TASK: pb::Disposition = pb::Disposition::UnknownTask;

/// The names of the malformed fields.
fn fields(status: &tonic::Status) -> Vec<String> {
    let bad = status.get_details_bad_request().unwrap_or_else(|| panic!("no BadRequest detail: {status:?}"));
    bad.field_violations.into_iter().map(|violation| violation.field).collect()
}

#[tokio::test]
async fn names_are_added_through_any_gateway_and_returned_with_indexes() {
    let stack = Stack::start(2).await;
    let created = stack[0].create(named_job("a", &["s"])).await.unwrap();
    assert_eq!((created.named_tasks, created.task_count), (true, 0));
    let added = stack[0].add("a", &["north", "south"]).await.unwrap();
    assert_eq!((added.added_count, added.existing_count, added.task_count), (2, 0, 2));
    assert_eq!(added.tasks, [0, 1]);
    let added = stack[1].add("a", &["east", "north", "west ü/%"]).await.unwrap();
    assert_eq!((added.added_count, added.existing_count, added.task_count), (2, 1, 4));
    assert_eq!(added.tasks, [2, 0, 3]);
    // This caller did not receive the response, so it repeats the call.
    let again = stack[0].add("a", &["east", "north", "west ü/%"]).await.unwrap();
    assert_eq!((again.added_count, again.existing_count, again.tasks), (0, 3, vec![2, 0, 3]));
    assert_eq!(stack[0].get("a").await.unwrap().task_count, 4);
}

#[tokio::test]
async fn tasks_are_reported_by_name_or_index_and_unknown_names_change_nothing() {
    let stack = Stack::start(2).await;
    stack[0].create(named_job("a", &["s"])).await.unwrap();
    stack[0].add("a", &["north", "south", "east"]).await.unwrap();
    stack[1].start("a").await.unwrap();
    let results = [succeeded_by_name(["south", "up"], "s"), succeeded([1, 0, 3], "s")].concat();
    let answer = stack[0].report("a", results).await.unwrap();
    assert_eq!(dispositions(&answer), [APPLIED, UNKNOWN_TASK, DUPLICATE, APPLIED, UNKNOWN_TASK]);
    assert_eq!(stage_counts(&stack[1].progress("a").await.unwrap()), [[1, 2, 0, 0]]);
    let answer = stack[1].report("a", succeeded_by_name(["north", "east"], "s")).await.unwrap();
    assert_eq!((dispositions(&answer), answer.job_state()), (vec![DUPLICATE, APPLIED], pb::JobState::Succeeded));
    let late = stack[0].report("a", succeeded_by_name(["north", "up"], "s")).await.unwrap();
    assert_eq!((dispositions(&late), late.stop), (vec![pb::Disposition::Superseded; 2], true));
}

#[tokio::test]
async fn invalid_additions_and_reports_name_the_field_and_change_nothing() {
    let stack = Stack::start(1).await;
    stack[0].create(named_job("named", &["s"])).await.unwrap();
    stack[0].create(pb::CreateJobRequest { start: false, ..job("counted", &["s"], 2) }).await.unwrap();
    let long = "x".repeat(257);
    let many = vec!["x"; 10_001];
    let refused = [
        (stack[0].add("named", &["a", "b", "a", "", &long, "a\nb"]).await, "task_names[2] [3] [4] [5]"),
        (stack[0].add("named", &many).await, "task_names"),
        (stack[0].add("named", &[]).await, "task_names"),
        (stack[0].grow("named", 3).await, "task_count"),
        (stack[0].add("counted", &["a"]).await, "task_names"),
        (stack[0].grow("counted", 1).await, "task_count"),
        (stack[0].grow("counted", -1).await, "task_count"),
        (stack[0].grow("counted", 10_000_001).await, "task_count"),
        (stack[0].grow("no id", 1).await, "job_id"),
    ];
    for (answer, expected) in refused {
        let refused = answer.unwrap_err();
        assert_eq!(code_and_reason(&refused), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
        assert_eq!(fields(&refused).join(" ").replace(" task_names[", " ["), expected);
    }
    assert_eq!(stack[0].get("named").await.unwrap().task_count, 0);
    assert_eq!(stack[0].get("counted").await.unwrap().task_count, 2);

    let started = pb::CreateJobRequest { start: true, task_count: Some(5), ..named_job("other", &["s"]) };
    assert_eq!(fields(&stack[0].create(started).await.unwrap_err()), ["task_count", "start"]);

    stack[0].add("named", &["a"]).await.unwrap();
    for id in ["named", "counted"] {
        stack[0].start(id).await.unwrap();
    }
    let both = pb::TaskResult { task: Some(0), ..succeeded_by_name(["a"], "s").remove(0) };
    for id in ["named", "counted"] {
        let refused = stack[0].report(id, vec![both.clone()]).await.unwrap_err();
        assert_eq!(fields(&refused), ["results[0].task_name"]);
        assert_eq!(stack[0].progress(id).await.unwrap().succeeded_task_count, Some(0));
    }
}

#[tokio::test]
async fn unnamed_job_grows_and_can_still_be_created_again() {
    let stack = Stack::start(2).await;
    let request = pb::CreateJobRequest { start: false, ..job("a", &["s"], 2) };
    stack[0].create(request.clone()).await.unwrap();
    let grown = stack[0].grow("a", 5).await.unwrap();
    assert_eq!((grown.added_count, grown.existing_count, grown.task_count), (3, 0, 5));
    assert!(grown.tasks.is_empty());
    assert_eq!(stack[1].grow("a", 5).await.unwrap().added_count, 0, "a repeated call adds nothing");
    assert_eq!(stack[1].grow("a", 7).await.unwrap().added_count, 2);
    assert_eq!(stack[0].create(request.clone()).await.unwrap().task_count, 7, "the current task count");
    let other = pb::CreateJobRequest { task_count: Some(7), ..request };
    assert_eq!(stack[0].create(other).await.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(stage_counts(&stack[0].progress("a").await.unwrap()), [[7, 0, 0, 0]]);
    assert_eq!(stack[1].start("a").await.unwrap().task_count, 7);
    let answer = stack[0].report("a", succeeded([6, 7], "s")).await.unwrap();
    assert_eq!(dispositions(&answer), [APPLIED, UNKNOWN_TASK]);
    assert_eq!(stage_counts(&stack[1].progress("a").await.unwrap()), [[6, 1, 0, 0]]);
}

#[tokio::test]
async fn no_tasks_can_be_added_after_the_start() {
    let stack = Stack::start(2).await;
    for id in ["running", "ended"] {
        stack[0].create(named_job(id, &["s"])).await.unwrap();
        stack[0].add(id, &["a"]).await.unwrap();
        stack[0].start(id).await.unwrap();
    }
    stack[0].cancel("ended", "").await.unwrap();
    stack[0].create(job("counted", &["s"], 1)).await.unwrap();
    for gateway in stack.gateways() {
        let refused = [
            (gateway.add("running", &["b"]).await, "JOB_STARTED"),
            (gateway.add("running", &["a"]).await, "JOB_STARTED"),
            (gateway.grow("counted", 2).await, "JOB_STARTED"),
            (gateway.add("ended", &["b"]).await, "JOB_ENDED"),
        ];
        for (answer, reason) in refused {
            let refused = answer.unwrap_err();
            assert_eq!(code_and_reason(&refused), (Code::FailedPrecondition, reason.to_owned()));
            let precondition = refused.get_details_precondition_failure().unwrap();
            assert_eq!(precondition.violations[0].r#type, reason);
        }
        assert_eq!(gateway.add("nowhere", &["b"]).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn error_samples_include_task_names_live_and_after_the_end() {
    let stack = Stack::start(2).await;
    stack[0].create(named_job("a", &["s"])).await.unwrap();
    stack[0].add("a", &["north", "south", "east"]).await.unwrap();
    stack[0].start("a").await.unwrap();
    let by_index = failed_with(1, "s", "TIMEOUT", "slow");
    let by_name = pb::TaskResult { task: None, task_name: "east".to_owned(), ..failed_with(0, "s", "BROKEN", "") };
    stack[1].report("a", vec![by_index, by_name]).await.unwrap();
    let names = |progress: &pb::Progress| -> BTreeMap<i64, String> {
        progress.error_samples.iter().map(|sample| (sample.task, sample.task_name.clone())).collect()
    };
    let expected = BTreeMap::from([(1, "south".to_owned()), (2, "east".to_owned())]);
    assert_eq!(names(&stack[0].progress("a").await.unwrap()), expected);
    stack[1].report("a", succeeded_by_name(["north"], "s")).await.unwrap();
    let ended = eventually("the job ends", async || {
        Some(stack[0].progress("a").await.unwrap()).filter(|progress| progress.source() == pb::Source::Snapshot)
    });
    assert_eq!(names(&ended.await), expected);
}

/// Six callers add all names through three gateways. Each caller adds them in another order and in parts of another
/// size.
#[tokio::test]
async fn concurrent_adds_of_the_same_names_give_each_name_one_index() {
    const NAMES: usize = 300;
    let stack = Stack::start(3).await;
    stack[0].create(named_job("a", &["s"])).await.unwrap();
    let adders = (0..6).map(|number| {
        let client = stack[number % 3].new_connection();
        tokio::spawn(async move {
            let mut names: Vec<String> = (0..NAMES).map(|name| format!("task-{name}")).collect();
            names.rotate_left(number * 50);
            let (mut tasks, mut added) = (BTreeMap::new(), 0);
            for part in names.chunks(7 + number * 11) {
                let part: Vec<&str> = part.iter().map(String::as_str).collect();
                let answer = client.add("a", &part).await.unwrap();
                assert_eq!(answer.added_count + answer.existing_count, i64::try_from(part.len()).unwrap());
                added += answer.added_count;
                tasks.extend(part.iter().map(|name| (*name).to_owned()).zip(answer.tasks));
            }
            (tasks, added)
        })
    });
    let adders: Vec<_> = adders.collect();
    let mut answers = BTreeSet::new();
    let mut sum = 0;
    for adder in adders {
        let (tasks, added) = adder.await.unwrap();
        answers.insert(tasks);
        sum += added;
    }
    assert_eq!(
        (answers.len(), sum),
        (1, i64::try_from(NAMES).unwrap()),
        "all indexes agree, and each name is added once"
    );
    let tasks = answers.pop_first().unwrap();
    let indexes: BTreeSet<i64> = tasks.values().copied().collect();
    assert_eq!(indexes, (0..i64::try_from(NAMES).unwrap()).collect(), "indexes have no gaps");
    let started = stack[1].start("a").await.unwrap();
    assert_eq!(started.task_count, i64::try_from(NAMES).unwrap());
    for (name, task) in tasks.iter().step_by(29) {
        let results = [succeeded_by_name([name.as_str()], "s"), succeeded([*task], "s")].concat();
        assert_eq!(dispositions(&stack[2].report("a", results).await.unwrap()), [APPLIED, DUPLICATE], "{name}");
    }
}
