//! What decides that a job is revoked: the seal itself, by Redis's clock, and since when gateways attend to jobs.

use std::time::Duration;

use highwater::domain::{Availability, EndCause, JobId, Layout, StallCondition};
use highwater::live::{Header, Refusal, Seal};
use time::OffsetDateTime;

use super::{Bench, PATIENCE, failed, job, soon, succeeded};

const LAYOUT: Layout = Layout { total: 4, stages: 1 };
const TIMEOUT: Duration = Duration::from_millis(300);
/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3600);
const EVER: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

impl Bench {
    async fn revoke(&self, id: &JobId, incarnation: u64, stall: StallCondition) -> Result<Header, Refusal> {
        self.live.seal(id, incarnation, Seal::Revoked(stall), soon()).await.unwrap()
    }

    async fn attend(&self, broken: bool, patience: Duration) -> Availability {
        self.live.record_availability(broken, patience, soon()).await.unwrap()
    }
}

fn stall(seen: &Header, timeout: Duration) -> StallCondition {
    StallCondition { revision: seen.revision, timeout, not_before: EVER }
}

#[tokio::test]
async fn a_tracker_is_sealed_as_revoked_once_it_is_idle_for_long_enough() {
    let bench = Bench::start(&[]).await;
    let id = job("stalled");
    bench.adopted(&id, LAYOUT, 1).await;
    let seen = bench.report(&id, LAYOUT, 1, &[succeeded(0, 0)]).await.unwrap();
    assert_eq!(bench.revoke(&id, 1, stall(&seen, TIMEOUT)).await, Err(Refusal::Settling));
    tokio::time::sleep(TIMEOUT).await;
    assert_eq!(bench.revoke(&id, 1, stall(&seen, LONG)).await, Err(Refusal::Settling));
    let sealed = bench.revoke(&id, 1, stall(&seen, TIMEOUT)).await.unwrap();
    assert_eq!((sealed.seal, sealed.revision, &sealed.counts), (Some(EndCause::Revoked), seen.revision, &seen.counts));
    assert!(sealed.seal_time.unwrap() - seen.last_mark_time.unwrap() >= TIMEOUT);
    assert_eq!(bench.report(&id, LAYOUT, 1, &[succeeded(1, 0)]).await, Err(Refusal::Sealed));
    // The first seal counts.
    assert_eq!(bench.live.seal(&id, 1, Seal::Cancelled("late"), soon()).await.unwrap().unwrap(), sealed);
}

#[tokio::test]
async fn without_a_mark_it_is_idle_since_its_adoption() {
    let bench = Bench::start(&[]).await;
    let id = job("blank");
    bench.live.open(&id, LAYOUT, 1, None, soon()).await.unwrap().unwrap();
    tokio::time::sleep(TIMEOUT).await;
    let seen = bench.live.adopt(&id, 1, Duration::ZERO, soon()).await.unwrap().unwrap();
    assert_eq!(bench.revoke(&id, 1, stall(&seen, TIMEOUT)).await, Err(Refusal::Settling));
    tokio::time::sleep(TIMEOUT).await;
    assert_eq!(bench.revoke(&id, 1, stall(&seen, TIMEOUT)).await.unwrap().seal, Some(EndCause::Revoked));
}

#[tokio::test]
async fn a_mark_that_comes_first_wins_and_a_repeated_one_does_not() {
    let bench = Bench::start(&[]).await;
    let id = job("reported");
    bench.adopted(&id, LAYOUT, 1).await;
    let seen = bench.report(&id, LAYOUT, 1, &[failed(0, 0)]).await.unwrap();
    tokio::time::sleep(TIMEOUT).await;
    bench.report(&id, LAYOUT, 1, &[failed(0, 0)]).await.unwrap();
    let now = bench.report(&id, LAYOUT, 1, &[succeeded(0, 0)]).await.unwrap();
    assert_eq!(bench.revoke(&id, 1, stall(&seen, Duration::ZERO)).await, Err(Refusal::Changed));
    assert_eq!(bench.revoke(&id, 1, stall(&now, TIMEOUT)).await, Err(Refusal::Settling));
    tokio::time::sleep(TIMEOUT).await;
    bench.report(&id, LAYOUT, 1, &[failed(0, 0), succeeded(0, 0)]).await.unwrap();
    assert_eq!(bench.revoke(&id, 1, stall(&now, TIMEOUT)).await.unwrap().seal, Some(EndCause::Revoked));
}

#[tokio::test]
async fn nothing_counts_that_was_before_gateways_attended() {
    let bench = Bench::start(&[]).await;
    let id = job("unattended");
    let seen = bench.adopted(&id, LAYOUT, 1).await;
    tokio::time::sleep(TIMEOUT).await;
    let since = bench.attend(true, LONG).await.since;
    let stall = StallCondition { not_before: since, ..stall(&seen, TIMEOUT) };
    assert_eq!(bench.revoke(&id, 1, stall).await, Err(Refusal::Settling));
    tokio::time::sleep(TIMEOUT).await;
    assert_eq!(bench.revoke(&id, 1, stall).await.unwrap().seal, Some(EndCause::Revoked));
}

/// Complete is complete, however long ago.
#[tokio::test]
async fn a_complete_tracker_is_never_sealed_as_revoked() {
    let bench = Bench::start(&[]).await;
    let id = job("complete");
    bench.adopted(&id, LAYOUT, 1).await;
    let marks = [succeeded(0, 0), succeeded(1, 0), failed(2, 0), failed(3, 0)];
    let seen = bench.report(&id, LAYOUT, 1, &marks).await.unwrap();
    let sealed = bench.revoke(&id, 1, stall(&seen, Duration::ZERO)).await.unwrap();
    assert_eq!(sealed.seal, Some(EndCause::Complete));
}

#[tokio::test]
async fn what_is_not_believed_or_not_the_jobs_own_is_not_revoked() {
    let mut bench = Bench::start(&[("save", "3600 1000")]).await;
    let id = job("doubted");
    bench.live.open(&id, LAYOUT, 1, None, soon()).await.unwrap().unwrap();
    let at_once = StallCondition { revision: 0, timeout: Duration::ZERO, not_before: EVER };
    assert_eq!(bench.revoke(&id, 1, at_once).await, Err(Refusal::NotAdopted));
    let adopted = bench.live.adopt(&id, 1, Duration::ZERO, soon()).await.unwrap().unwrap();
    assert_eq!(bench.revoke(&id, 2, at_once).await, Err(Refusal::OtherIncarnation));
    assert_eq!(bench.revoke(&job("none"), 1, at_once).await, Err(Refusal::Missing));
    let () = bench.ask(&[b"SAVE"]).await;
    bench.redis.restart().unwrap();
    let refused = loop {
        // The first calls find out that the connection is that of a server which is gone.
        match bench.live.seal(&id, 1, Seal::Revoked(at_once), soon()).await {
            Ok(answer) => break answer,
            Err(error) => println!("{error}"),
        }
    };
    assert_eq!(refused, Err(Refusal::NotAdopted), "{adopted:?}");
}

#[tokio::test]
async fn gateways_attend_since_the_last_break() {
    let bench = Bench::start(&[]).await;
    let first = bench.attend(false, LONG).await;
    assert_eq!(first.since, first.now);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let later = bench.attend(false, LONG).await;
    assert_eq!(later.since, first.since);
    assert!(later.now > first.now);
    // Seen by one of them.
    let broken = bench.attend(true, LONG).await;
    assert_eq!(broken.since, broken.now);
    assert_eq!(bench.attend(false, LONG).await.since, broken.since);
    // None of them was there.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let after = bench.attend(false, Duration::from_millis(40)).await;
    assert_eq!(after.since, after.now);
    // Nothing that is lost, set by hand or from a clock that was set back lengthens it.
    for found in ["", "x", "1 x", "-1 1", "1e3 1e3", "99999999999999 99999999999999"] {
        let () = bench.ask(&[b"SET", b"hw:availability", found.as_bytes()]).await;
        let anew = bench.attend(false, LONG).await;
        assert_eq!(anew.since, anew.now, "{found:?}");
    }
    let () = bench.ask(&[b"DEL", b"hw:availability"]).await;
    let () = bench.ask(&[b"RPUSH", b"hw:availability", b"x"]).await;
    let anew = bench.attend(false, LONG).await;
    assert_eq!(anew.since, anew.now);
    assert!(bench.ttl("hw:availability").await > PATIENCE);
}
