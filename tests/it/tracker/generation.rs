//! Tests that a tracker is trusted only under the generation in which it was adopted. It is not trusted after a
//! restart, a promotion or a demotion of Redis, and it is never trusted on a replica.

use std::time::{Duration, Instant};

use highwater::domain::{JobId, Layout, MarkStep};
use highwater::live::{Error, Live, MarkReply, Refusal, Seal, StepWrite, Tracker};

use super::{FIRST, SEALED_TTL, SECOND, TRACKER_TTL, TestRedis, connect, deadline, failed, job_id, succeeded};

const LAYOUT: Layout = Layout { total: 4, stages: 2 };
/// Settings with which every command is on disk before Redis replies.
const DURABLE: [(&str, &str); 2] = [("appendonly", "yes"), ("appendfsync", "always")];

/// Whether an existing tracker is trusted.
async fn is_trusted(live: &Live, id: &JobId) -> Result<bool, Error> {
    match live.read_tracker(id, deadline()).await?.tracker {
        Tracker::Present { trusted, header, .. } => {
            assert!(header.adopted, "the adopted flag is set");
            Ok(trusted)
        }
        other => panic!("{other:?}"),
    }
}

impl TestRedis {
    /// Reads until Redis answers, and returns whether the tracker is trusted.
    async fn trusted_once_reachable(&self, id: &JobId) -> bool {
        let begun = Instant::now();
        loop {
            match is_trusted(&self.live, id).await {
                Ok(trusted) => return trusted,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asserts that the tracker is not trusted, and that reports and another adoption are refused.
    async fn assert_not_trusted(&self, id: &JobId) {
        assert!(!self.trusted_once_reachable(id).await);
        let step = MarkStep::plan(LAYOUT, [succeeded(3, 1)].into_iter()).remove(0);
        let (blank, change) = (step.blank(), step.apply(&step.blank()).unwrap());
        let write = StepWrite { step: &step, expected: &blank, change: &change };
        for require_adopted in [true, false] {
            let marked = self.live.apply_marks(id, FIRST, require_adopted, write, deadline()).await.unwrap();
            assert!(matches!(marked, MarkReply::Refused(Refusal::Stale)), "{marked:?}");
        }
        assert_eq!(self.live.adopt(id, FIRST, Duration::ZERO, deadline()).await.unwrap(), Err(Refusal::NotAdopted));
    }

    async fn start_replication(&self, from: &Self) {
        let port = from.server.port().to_string();
        let () = self.query(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]).await;
    }

    /// Starts a primary with an adopted tracker, and a replica of this primary. The tracker is adopted after the
    /// replica is attached: the first replica of a primary changes the replication ID, which invalidates earlier
    /// adoptions.
    async fn primary_and_replica(id: &JobId) -> (Self, Self) {
        let settings = [("repl-diskless-sync-delay", "0")];
        let (first, second) = (Self::start(&settings).await, Self::start(&settings).await);
        second.start_replication(&first).await;
        second.wait_until_replicated_from(&first).await;
        first.open_adopted(id, LAYOUT, FIRST).await;
        second.wait_until_replicated_from(&first).await;
        assert_eq!(is_trusted(&first.live, id).await, Ok(true));
        (first, second)
    }

    async fn promote(&self) {
        let () = self.query(&[b"REPLICAOF", b"NO", b"ONE"]).await;
    }

    /// Waits until all earlier direct writes to `from` have arrived at this server.
    async fn wait_until_replicated_from(&self, from: &Self) {
        let latest = uuid::Uuid::new_v4().to_string();
        let () = from.query(&[b"SET", latest.as_bytes(), b""]).await;
        let begun = Instant::now();
        while !self.query::<bool>(&[b"EXISTS", latest.as_bytes()]).await {
            assert!(begun.elapsed() < Duration::from_secs(20), "the replica does not catch up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn restart_with_all_data_ends_trust_for_connected_clients() {
    let mut redis = TestRedis::start(&DURABLE).await;
    let id = job_id("restarted");
    redis.open_adopted(&id, LAYOUT, FIRST).await;
    redis.report(&id, LAYOUT, FIRST, &[succeeded(1, 0)]).await.unwrap();
    assert_eq!(is_trusted(&redis.live, &id).await, Ok(true));
    let before = redis.tracker_bytes(&id).await;

    redis.server.restart().unwrap();

    // Between two reads, the client reconnects. It notices the restart nevertheless.
    redis.assert_not_trusted(&id).await;
    assert!(redis.tracker_bytes(&id).await == before, "all data survived");
    let fresh = connect(&redis.server);
    assert_eq!(is_trusted(&fresh, &id).await, Ok(false));

    // The tracker is trusted again only after it was reopened and has settled.
    let reopened = fresh.reopen(&id, FIRST, FIRST, deadline()).await.unwrap().unwrap();
    assert_eq!((reopened.restored, reopened.adopted, reopened.revision), (true, false, 1));
    assert_eq!(fresh.adopt(&id, FIRST, TRACKER_TTL, deadline()).await.unwrap(), Err(Refusal::Settling));
    assert_eq!(
        fresh.reopen(&id, FIRST, FIRST, deadline()).await.unwrap(),
        Ok(reopened.clone()),
        "the settle time does not restart"
    );
    let adopted = fresh.adopt(&id, FIRST, Duration::ZERO, deadline()).await.unwrap().unwrap();
    assert_eq!(adopted.mark_summary().restore_time, Some(reopened.open_time), "restore_time is kept");
    assert_eq!(is_trusted(&fresh, &id).await, Ok(true));
}

/// The server is killed and restarted while reads continue. No read may trust the tracker on the restarted server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_across_a_restart_never_trust_the_new_server() {
    let mut redis = TestRedis::start(&DURABLE).await;
    let id = job_id("restarted");
    redis.open_adopted(&id, LAYOUT, FIRST).await;
    for _ in 0..5 {
        let (live, read_id) = (redis.live.clone(), id.clone());
        let reads = tokio::spawn(async move {
            let mut results: Vec<bool> = Vec::new();
            while results.iter().filter(|trusted| !**trusted).count() < 20 {
                // A starting server replies that it is loading.
                results.extend(is_trusted(&live, &read_id).await.ok());
            }
            results
        });
        redis.server.kill();
        redis.server.restart().unwrap();
        let results = reads.await.unwrap();
        let first_untrusted = results.iter().position(|trusted| !trusted).unwrap();
        assert!(results[first_untrusted..].iter().all(|trusted| !trusted), "{results:?}");
        // For the next round, the tracker is adopted under the current generation.
        let () = redis.query(&[b"FLUSHALL"]).await;
        redis.open_adopted(&id, LAYOUT, FIRST).await;
    }
}

#[tokio::test]
async fn replica_is_not_trusted_before_or_after_promotion() {
    let id = job_id("replicated");
    let (_first, second) = TestRedis::primary_and_replica(&id).await;
    second.assert_not_trusted(&id).await;
    assert!(matches!(second.live.generation(deadline()).await, Err(Error::Refused(_))));
    assert!(matches!(second.live.open(&id, LAYOUT, SECOND, None, deadline()).await, Err(Error::Refused(_))));
    for incarnation in [FIRST, SECOND] {
        let reopened = second.live.reopen(&id, FIRST, incarnation, deadline()).await.unwrap();
        assert_eq!(reopened, Err(Refusal::NotAdopted), "a replica reopens nothing");
    }

    second.promote().await;
    second.assert_not_trusted(&id).await;
    // A tracker opened after the promotion belongs to the new generation.
    second.live.open(&id, LAYOUT, SECOND, None, deadline()).await.unwrap().unwrap();
    second.live.adopt(&id, SECOND, Duration::ZERO, deadline()).await.unwrap().unwrap();
    assert_eq!(is_trusted(&second.live, &id).await, Ok(true));
}

/// A demoted primary keeps its run ID, data and connections, and still answers.
#[tokio::test]
async fn demoted_primary_that_still_answers_is_not_trusted() {
    let id = job_id("demoted");
    let (first, second) = TestRedis::primary_and_replica(&id).await;
    second.promote().await;
    second.live.reopen(&id, FIRST, FIRST, deadline()).await.unwrap().unwrap();
    second.report_with_postgres(&id, &[succeeded(0, 0)]).await;
    second.live.adopt(&id, FIRST, Duration::ZERO, deadline()).await.unwrap().unwrap();

    // The server is demoted. Its link to the new primary is broken, so its data stay unchanged.
    let () = first.query(&[b"CONFIG", b"SET", b"replica-serve-stale-data", b"yes"]).await;
    let () = first.query(&[b"REPLICAOF", b"127.0.0.1", b"1"]).await;
    first.assert_not_trusted(&id).await;

    // The server is promoted again, with its own data.
    first.promote().await;
    first.assert_not_trusted(&id).await;

    // The server replicates the new primary, and is then promoted with that data.
    first.start_replication(&second).await;
    first.wait_until_replicated_from(&second).await;
    first.assert_not_trusted(&id).await;
    first.promote().await;
    first.assert_not_trusted(&id).await;
}

/// If a tracker is sealed under another generation than it was adopted, the seal clears the adopted flag, because marks
/// may be missing.
#[tokio::test]
async fn seal_set_in_another_generation_marks_a_lower_bound() {
    let mut redis = TestRedis::start(&DURABLE).await;
    let (failing, cancelled, all_succeeded, sealed_before) =
        (job_id("failing"), job_id("cancelled"), job_id("succeeded"), job_id("sealed-before"));
    for id in [&failing, &cancelled, &all_succeeded, &sealed_before] {
        redis.open_adopted(id, LAYOUT, FIRST).await;
        let all = (0..LAYOUT.total).flat_map(|task| (0..LAYOUT.stages).map(move |stage| (task, stage)));
        let marks: Vec<_> = all.map(|(task, stage)| succeeded(task, stage)).collect();
        let marks = if *id == failing { [vec![failed(0, 0)], marks[2..].to_vec()].concat() } else { marks };
        redis.report(id, LAYOUT, FIRST, &marks).await.unwrap();
    }
    let sealed = redis.live.seal(&sealed_before, FIRST, Seal::Complete, deadline()).await.unwrap().unwrap();
    redis.server.restart().unwrap();
    redis.trusted_once_reachable(&failing).await;

    // A lost mark could have replaced the failure by a success.
    let refused = redis.live.seal(&failing, FIRST, Seal::Complete, deadline()).await.unwrap();
    assert_eq!(refused, Err(Refusal::NotAdopted));
    for (id, seal) in [(&cancelled, Seal::Cancelled("")), (&all_succeeded, Seal::Complete)] {
        let header = redis.live.seal(id, FIRST, seal, deadline()).await.unwrap().unwrap();
        assert!(!header.adopted, "{id}");
    }
    // A tracker that was sealed before the restart was complete then, and stays so.
    let again = redis.live.seal(&sealed_before, FIRST, Seal::Complete, deadline()).await.unwrap().unwrap();
    assert_eq!((again.adopted, again), (true, sealed));
    redis.live.expire(&sealed_before, FIRST, deadline()).await.unwrap().unwrap();
    let ttl = redis.ttl(&super::tracker_key(&sealed_before)).await;
    assert!(ttl <= SEALED_TTL && SEALED_TTL < TRACKER_TTL, "{ttl:?}");
}

impl TestRedis {
    /// Reports as the gateway does to a tracker that is not adopted and that Postgres has confirmed.
    async fn report_with_postgres(&self, id: &JobId, marks: &[highwater::domain::Mark]) {
        let step = MarkStep::plan(LAYOUT, marks.iter().copied()).remove(0);
        let (blank, change) = (step.blank(), step.apply(&step.blank()).unwrap());
        let write = StepWrite { step: &step, expected: &blank, change: &change };
        let marked = self.live.apply_marks(id, FIRST, false, write, deadline()).await.unwrap();
        assert!(matches!(marked, MarkReply::Applied(_)), "{marked:?}");
    }
}
