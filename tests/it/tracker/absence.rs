//! What comes too late, for a tracker that is gone, brings none back (invariant I5).

use std::time::Duration;

use highwater::domain::{ErrorSample, Layout, MarkStep};
use highwater::live::{Header, MarkReply, Refusal, Seal, Tracker};
use time::OffsetDateTime;

use super::{Bench, TRACKER_TTL, job, marks, soon, succeeded};

const LAYOUT: Layout = Layout { total: 10, stages: 2 };

#[tokio::test]
async fn nothing_that_comes_late_brings_a_tracker_back() {
    let bench = Bench::start(&[]).await;
    let id = job("gone");
    let header: Header = bench.adopted(&id, LAYOUT, 1).await;
    bench.report(&id, LAYOUT, 1, &[succeeded(1, 0)]).await.unwrap();
    let () = bench.ask(&[b"DEL", marks(&id).as_bytes()]).await;

    assert_eq!(bench.tracker(&id).await, Tracker::Missing);
    let live = &bench.live;
    assert_eq!(live.read_trackers(std::slice::from_ref(&id), soon()).await.unwrap().trackers, [Tracker::Missing]);
    for marks in [vec![], vec![succeeded(1, 0)], vec![succeeded(9, 1)]] {
        let step = MarkStep::plan(LAYOUT, marks.into_iter()).remove(0);
        // Right for blank cells, and for cells that are not there.
        for bytes in [step.blank(), vec![]] {
            let change = step.apply(&step.blank()).unwrap();
            for only_adopted in [true, false] {
                let marked = live.report(&id, 1, only_adopted, (&step, &bytes, &change), soon()).await.unwrap();
                assert!(matches!(marked, MarkReply::Refused(Refusal::Missing)), "{marked:?}");
            }
            let merged = live.merge(&id, 1, (&step, &bytes, &change), soon()).await.unwrap();
            assert!(matches!(merged, MarkReply::Refused(Refusal::Missing)), "{merged:?}");
        }
    }
    assert_eq!(live.adopt(&id, 1, Duration::ZERO, soon()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.reopen(&id, 1, 1, soon()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.reopen(&id, 1, 2, soon()).await.unwrap(), Err(Refusal::Missing));
    assert!(!live.quarantine(&id, soon()).await.unwrap());
    assert_eq!(live.seal(&id, 1, Seal::Complete, soon()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.seal(&id, 1, Seal::Cancelled("no need"), soon()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.expire(&id, 1, soon()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.repair(&id, &header, &header, soon()).await.unwrap(), Err(Refusal::Missing));
    assert_eq!(live.cells(&id, &header, soon()).await.unwrap(), None);
    live.renew(std::slice::from_ref(&id), soon()).await.unwrap();
    assert_eq!(bench.keys(&id).await, [""; 0]);
}

/// They are not marks: beside a tracker that is gone they harm nobody, and go away by themselves.
#[tokio::test]
async fn errors_that_come_late_are_kept_for_a_while_only() {
    let bench = Bench::start(&[]).await;
    let id = job("gone");
    let (code, message, report_time) = ("TIMEOUT".to_owned(), "too slow".to_owned(), OffsetDateTime::now_utc());
    let sample = ErrorSample { task: 1, task_name: String::new(), stage: 0, code, message, report_time };
    bench.live.record_errors(&id, &[sample], soon()).await.unwrap();
    let mut keys = bench.keys(&id).await;
    keys.sort();
    assert_eq!(keys, ["hw:{gone}:error_counts", "hw:{gone}:error_samples"]);
    for key in keys {
        let left = bench.ttl(&key).await;
        assert!(left > Duration::ZERO && left <= TRACKER_TTL, "{key}: {left:?}");
    }
    assert_eq!(bench.tracker(&id).await, Tracker::Missing);
}
