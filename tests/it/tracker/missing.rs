//! Tests that operations on a missing tracker do not create it (invariant I5).

use std::time::Duration;

use highwater::domain::{ErrorSample, Layout, MarkStep};
use highwater::live::{CellsReading, Header, MarkReply, Refusal, Seal, StepWrite, Tracker};
use time::OffsetDateTime;

use super::{FIRST, SECOND, TRACKER_TTL, TestRedis, deadline, job_id, succeeded, tracker_key};

const LAYOUT: Layout = Layout { total: 10, stages: 2 };

#[tokio::test]
async fn late_operations_do_not_recreate_a_missing_tracker() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("gone");
    let header: Header = redis.open_adopted(&id, LAYOUT, FIRST).await;
    redis.report(&id, LAYOUT, FIRST, &[succeeded(1, 0)]).await.unwrap();
    let () = redis.query(&[b"DEL", tracker_key(&id).as_bytes()]).await;

    assert_eq!(redis.tracker(&id).await, Tracker::Missing);
    let live = &redis.live;
    assert_eq!(live.read_trackers(std::slice::from_ref(&id), deadline()).await.unwrap().trackers, [Tracker::Missing]);
    for marks in [vec![], vec![succeeded(1, 0)], vec![succeeded(9, 1)]] {
        let step = MarkStep::plan(LAYOUT, marks.into_iter()).remove(0);
        // One report expects blank cells, and the other one expects no cells at all.
        for bytes in [step.blank(), vec![]] {
            let change = step.apply(&step.blank()).unwrap();
            for require_adopted in [true, false] {
                let marked = live
                    .apply_marks(
                        &id,
                        FIRST,
                        require_adopted,
                        StepWrite { step: &step, expected: &bytes, change: &change },
                        deadline(),
                    )
                    .await
                    .unwrap();
                assert!(matches!(marked, MarkReply::Refused(Refusal::Missing)), "{marked:?}");
            }
            let merged = live
                .merge_marks(&id, FIRST, StepWrite { step: &step, expected: &bytes, change: &change }, deadline())
                .await
                .unwrap();
            assert!(matches!(merged, MarkReply::Refused(Refusal::Missing)), "{merged:?}");
        }
    }
    assert_eq!(live.adopt(&id, FIRST, Duration::ZERO, deadline()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.reopen(&id, FIRST, FIRST, deadline()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.reopen(&id, FIRST, SECOND, deadline()).await.unwrap(), Err(Refusal::Missing));
    assert!(!live.quarantine(&id, None, deadline()).await.unwrap());
    assert_eq!(live.seal(&id, FIRST, Seal::Complete, deadline()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.seal(&id, FIRST, Seal::Cancelled("no need"), deadline()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.expire(&id, FIRST, deadline()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.repair(&id, &header, &header, deadline()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.cells(&id, &header, deadline()).await.unwrap(), CellsReading::Absent);
    live.renew(std::slice::from_ref(&id), deadline()).await.unwrap();
    assert_eq!(redis.keys(&id).await, [""; 0]);
}

/// Errors are not marks. Without a tracker they are harmless, and they expire.
#[tokio::test]
async fn errors_recorded_without_a_tracker_expire() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("gone");
    let (code, message, report_time) = ("TIMEOUT".to_owned(), "too slow".to_owned(), OffsetDateTime::now_utc());
    let sample = ErrorSample { task: 1, task_name: String::new(), stage: 0, code, message, report_time };
    redis.live.record_errors(&id, &[sample], deadline()).await.unwrap();
    let mut keys = redis.keys(&id).await;
    keys.sort();
    assert_eq!(keys, ["hw:{gone}:error_counts", "hw:{gone}:error_samples"]);
    for key in keys {
        let left = redis.ttl(&key).await;
        assert!(left > Duration::ZERO && left <= TRACKER_TTL, "{key}: {left:?}");
    }
    assert_eq!(redis.tracker(&id).await, Tracker::Missing);
}
