//! Revocation of stalled jobs: the seal decides, by the clock of Redis and the time since which gateways have been
//! available.

use std::time::Duration;

use highwater::domain::{Availability, EndCause, Incarnation, JobId, Layout, StallCondition};
use highwater::live::{Header, Refusal, ScriptOutcome, Seal};
use time::OffsetDateTime;

use super::{CALL_TIMEOUT, FIRST, SECOND, TestRedis, deadline, failed, job_id, succeeded};

const LAYOUT: Layout = Layout { total: 4, stages: 1 };
const TIMEOUT: Duration = Duration::from_millis(300);
/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3600);
const EPOCH: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

impl TestRedis {
    async fn revoke(&self, id: &JobId, incarnation: Incarnation, stall: StallCondition) -> ScriptOutcome {
        self.live.seal(id, incarnation, Seal::Revoked(stall), deadline()).await.unwrap()
    }

    async fn record_availability(&self, gap_seen: bool, max_gap: Duration) -> Availability {
        self.live.record_availability(gap_seen, max_gap, deadline()).await.unwrap()
    }
}

fn stall(header: &Header, timeout: Duration) -> StallCondition {
    StallCondition { revision: header.revision, timeout, not_before: EPOCH }
}

#[tokio::test]
async fn idle_tracker_is_sealed_as_revoked_after_the_stall_timeout() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("stalled");
    redis.open_adopted(&id, LAYOUT, FIRST).await;
    let header = redis.report(&id, LAYOUT, FIRST, &[succeeded(0, 0)]).await.unwrap();
    assert_eq!(redis.revoke(&id, FIRST, stall(&header, TIMEOUT)).await, Err(Refusal::Settling));
    tokio::time::sleep(TIMEOUT).await;
    assert_eq!(redis.revoke(&id, FIRST, stall(&header, LONG)).await, Err(Refusal::Settling));
    let sealed = redis.revoke(&id, FIRST, stall(&header, TIMEOUT)).await.unwrap();
    assert_eq!(
        (sealed.seal, sealed.revision, &sealed.counts),
        (Some(EndCause::Revoked), header.revision, &header.counts)
    );
    assert!(sealed.seal_time.unwrap() - header.last_mark_time.unwrap() >= TIMEOUT);
    assert_eq!(redis.report(&id, LAYOUT, FIRST, &[succeeded(1, 0)]).await, Err(Refusal::Sealed));
    // The first seal is kept.
    assert_eq!(redis.live.seal(&id, FIRST, Seal::Cancelled("late"), deadline()).await.unwrap().unwrap(), sealed);
}

#[tokio::test]
async fn tracker_without_marks_is_idle_since_its_adoption() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("blank");
    redis.live.open(&id, LAYOUT, FIRST, None, deadline()).await.unwrap().unwrap();
    tokio::time::sleep(TIMEOUT).await;
    let header = redis.live.adopt(&id, FIRST, Duration::ZERO, deadline()).await.unwrap().unwrap();
    assert_eq!(redis.revoke(&id, FIRST, stall(&header, TIMEOUT)).await, Err(Refusal::Settling));
    tokio::time::sleep(TIMEOUT).await;
    assert_eq!(redis.revoke(&id, FIRST, stall(&header, TIMEOUT)).await.unwrap().seal, Some(EndCause::Revoked));
}

#[tokio::test]
async fn new_mark_prevents_revocation_and_a_repeated_mark_does_not() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("reported");
    redis.open_adopted(&id, LAYOUT, FIRST).await;
    let header = redis.report(&id, LAYOUT, FIRST, &[failed(0, 0)]).await.unwrap();
    tokio::time::sleep(TIMEOUT).await;
    redis.report(&id, LAYOUT, FIRST, &[failed(0, 0)]).await.unwrap();
    let latest = redis.report(&id, LAYOUT, FIRST, &[succeeded(0, 0)]).await.unwrap();
    assert_eq!(redis.revoke(&id, FIRST, stall(&header, Duration::ZERO)).await, Err(Refusal::Changed));
    assert_eq!(redis.revoke(&id, FIRST, stall(&latest, TIMEOUT)).await, Err(Refusal::Settling));
    tokio::time::sleep(TIMEOUT).await;
    redis.report(&id, LAYOUT, FIRST, &[failed(0, 0), succeeded(0, 0)]).await.unwrap();
    assert_eq!(redis.revoke(&id, FIRST, stall(&latest, TIMEOUT)).await.unwrap().seal, Some(EndCause::Revoked));
}

#[tokio::test]
async fn idle_time_before_availability_does_not_count() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("unavailable");
    let header = redis.open_adopted(&id, LAYOUT, FIRST).await;
    tokio::time::sleep(TIMEOUT).await;
    let since = redis.record_availability(true, LONG).await.since;
    let stall = StallCondition { not_before: since, ..stall(&header, TIMEOUT) };
    assert_eq!(redis.revoke(&id, FIRST, stall).await, Err(Refusal::Settling));
    tokio::time::sleep(TIMEOUT).await;
    assert_eq!(redis.revoke(&id, FIRST, stall).await.unwrap().seal, Some(EndCause::Revoked));
}

/// A complete tracker is sealed as complete, however long it was idle.
#[tokio::test]
async fn a_complete_tracker_is_never_sealed_as_revoked() {
    let redis = TestRedis::start(&[]).await;
    let id = job_id("complete");
    redis.open_adopted(&id, LAYOUT, FIRST).await;
    let marks = [succeeded(0, 0), succeeded(1, 0), failed(2, 0), failed(3, 0)];
    let header = redis.report(&id, LAYOUT, FIRST, &marks).await.unwrap();
    let sealed = redis.revoke(&id, FIRST, stall(&header, Duration::ZERO)).await.unwrap();
    assert_eq!(sealed.seal, Some(EndCause::Complete));
}

#[tokio::test]
async fn unadopted_stale_or_foreign_tracker_is_not_revoked() {
    let mut redis = TestRedis::start(&[("save", "3600 1000")]).await;
    let id = job_id("untrusted");
    redis.live.open(&id, LAYOUT, FIRST, None, deadline()).await.unwrap().unwrap();
    let immediate = StallCondition { revision: 0, timeout: Duration::ZERO, not_before: EPOCH };
    assert_eq!(redis.revoke(&id, FIRST, immediate).await, Err(Refusal::NotAdopted));
    let adopted = redis.live.adopt(&id, FIRST, Duration::ZERO, deadline()).await.unwrap().unwrap();
    assert_eq!(redis.revoke(&id, SECOND, immediate).await, Err(Refusal::OtherIncarnation));
    assert_eq!(redis.revoke(&job_id("none"), FIRST, immediate).await, Err(Refusal::Missing));
    let () = redis.query(&[b"SAVE"]).await;
    redis.server.restart().unwrap();
    let refused = loop {
        // The first calls fail because the connection belonged to the stopped server.
        match redis.live.seal(&id, FIRST, Seal::Revoked(immediate), deadline()).await {
            Ok(answer) => break answer,
            Err(error) => println!("{error}"),
        }
    };
    assert_eq!(refused, Err(Refusal::NotAdopted), "{adopted:?}");
}

#[tokio::test]
async fn availability_begins_at_the_last_gap() {
    let redis = TestRedis::start(&[]).await;
    let first = redis.record_availability(false, LONG).await;
    assert_eq!(first.since, first.now);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let later = redis.record_availability(false, LONG).await;
    assert_eq!(later.since, first.since);
    assert!(later.now > first.now);
    // A gap reported by a gateway.
    let gap = redis.record_availability(true, LONG).await;
    assert_eq!(gap.since, gap.now);
    assert_eq!(redis.record_availability(false, LONG).await.since, gap.since);
    // A gap in which no gateway reported.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let after = redis.record_availability(false, Duration::from_millis(40)).await;
    assert_eq!(after.since, after.now);
    // A malformed value or one in the future restarts availability and never extends it.
    for found in ["", "x", "1 x", "-1 1", "1e3 1e3", "99999999999999 99999999999999"] {
        let () = redis.query(&[b"SET", b"hw:availability", found.as_bytes()]).await;
        let restarted = redis.record_availability(false, LONG).await;
        assert_eq!(restarted.since, restarted.now, "{found:?}");
    }
    let () = redis.query(&[b"DEL", b"hw:availability"]).await;
    let () = redis.query(&[b"RPUSH", b"hw:availability", b"x"]).await;
    let restarted = redis.record_availability(false, LONG).await;
    assert_eq!(restarted.since, restarted.now);
    assert!(redis.ttl("hw:availability").await > CALL_TIMEOUT);
}
