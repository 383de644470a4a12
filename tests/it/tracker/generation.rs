//! A tracker is believed only by the Redis that it was adopted on, in the life in which it was: not after a restart, a
//! promotion or a demotion, and never on a replica.

use std::time::{Duration, Instant};

use highwater::domain::{JobId, Layout, MarkStep};
use highwater::live::{Error, Live, MarkReply, Refusal, Seal, Tracker};

use super::{Bench, SEALED_TTL, TRACKER_TTL, failed, job, live, soon, succeeded};

const LAYOUT: Layout = Layout { total: 4, stages: 2 };
/// Every command is on disk before it is answered.
const DURABLE: [(&str, &str); 2] = [("appendonly", "yes"), ("appendfsync", "always")];

/// Whether a tracker that is there is believed.
async fn believed(live: &Live, id: &JobId) -> Result<bool, Error> {
    match live.read_tracker(id, soon()).await?.tracker {
        Tracker::Present { believed, header, .. } => {
            assert!(header.adopted, "it was adopted once, and says so");
            Ok(believed)
        }
        other => panic!("{other:?}"),
    }
}

impl Bench {
    /// Looks, through whatever breaks, until something answers.
    async fn believed_at_last(&self, id: &JobId) -> bool {
        let begun = Instant::now();
        loop {
            match believed(&self.live, id).await {
                Ok(believed) => return believed,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(10), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What is refused to those who report to it, and to those who would adopt it again.
    async fn is_not_believed(&self, id: &JobId) {
        assert!(!self.believed_at_last(id).await);
        let step = MarkStep::plan(LAYOUT, [succeeded(3, 1)].into_iter()).remove(0);
        let (blank, change) = (step.blank(), step.apply(&step.blank()).unwrap());
        for only_adopted in [true, false] {
            let marked = self.live.report(id, 1, only_adopted, (&step, &blank, &change), soon()).await.unwrap();
            assert!(matches!(marked, MarkReply::Refused(Refusal::Stale)), "{marked:?}");
        }
        assert_eq!(self.live.adopt(id, 1, Duration::ZERO, soon()).await.unwrap(), Err(Refusal::NotAdopted));
    }

    async fn replicate(&self, from: &Self) {
        let port = from.redis.port().to_string();
        let () = self.ask(&[b"REPLICAOF", b"127.0.0.1", port.as_bytes()]).await;
    }

    /// Two servers, the second of which follows the first, with an adopted tracker. In this order: its first replica
    /// gives a primary another replication id, which ends belief in what was adopted before.
    async fn primary_and_replica(id: &JobId) -> (Self, Self) {
        let at_once = [("repl-diskless-sync-delay", "0")];
        let (first, second) = (Self::start(&at_once).await, Self::start(&at_once).await);
        second.replicate(&first).await;
        second.has_caught_up_with(&first).await;
        first.adopted(id, LAYOUT, 1).await;
        second.has_caught_up_with(&first).await;
        assert_eq!(believed(&first.live, id).await, Ok(true));
        (first, second)
    }

    async fn is_master(&self) {
        let () = self.ask(&[b"REPLICAOF", b"NO", b"ONE"]).await;
    }

    /// Waits until all that `from` was told by hand is here too.
    async fn has_caught_up_with(&self, from: &Self) {
        let latest = uuid::Uuid::new_v4().to_string();
        let () = from.ask(&[b"SET", latest.as_bytes(), b""]).await;
        let begun = Instant::now();
        while !self.ask::<bool>(&[b"EXISTS", latest.as_bytes()]).await {
            assert!(begun.elapsed() < Duration::from_secs(20), "the replica does not catch up");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn a_restart_with_all_its_data_ends_belief_also_for_who_was_connected() {
    let mut bench = Bench::start(&DURABLE).await;
    let id = job("restarted");
    bench.adopted(&id, LAYOUT, 1).await;
    bench.report(&id, LAYOUT, 1, &[succeeded(1, 0)]).await.unwrap();
    assert_eq!(believed(&bench.live, &id).await, Ok(true));
    let before = bench.bytes(&id).await;

    bench.redis.restart().unwrap();

    // The same connection's object: it is remade between two looks, and that does not go unseen.
    bench.is_not_believed(&id).await;
    assert!(bench.bytes(&id).await == before, "everything survived");
    let fresh = live(&bench.redis);
    assert_eq!(believed(&fresh, &id).await, Ok(false));

    // It is believed again only after it was taken up, and has settled.
    let taken = fresh.reopen(&id, 1, 1, soon()).await.unwrap().unwrap();
    assert_eq!((taken.restored, taken.adopted, taken.revision), (true, false, 1));
    assert_eq!(fresh.adopt(&id, 1, TRACKER_TTL, soon()).await.unwrap(), Err(Refusal::Settling));
    assert_eq!(fresh.reopen(&id, 1, 1, soon()).await.unwrap(), Ok(taken.clone()), "its time does not begin again");
    let adopted = fresh.adopt(&id, 1, Duration::ZERO, soon()).await.unwrap().unwrap();
    assert_eq!(adopted.mark_summary().restore_time, Some(taken.open_time), "it says for ever that it was restored");
    assert_eq!(believed(&fresh, &id).await, Ok(true));
}

/// Looks go on while the server is killed and started again: none of them, before or after, may believe what it reads
/// once the server is another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_look_across_a_restart_believes_the_new_server() {
    let mut bench = Bench::start(&DURABLE).await;
    let id = job("restarted");
    bench.adopted(&id, LAYOUT, 1).await;
    for _ in 0..5 {
        let (live, looked) = (bench.live.clone(), id.clone());
        let looks = tokio::spawn(async move {
            let mut seen: Vec<bool> = Vec::new();
            while seen.iter().filter(|believed| !**believed).count() < 20 {
                // A server that starts says that it is loading.
                seen.extend(believed(&live, &looked).await.ok());
            }
            seen
        });
        bench.redis.kill();
        bench.redis.restart().unwrap();
        let seen = looks.await.unwrap();
        let first_other = seen.iter().position(|believed| !believed).unwrap();
        assert!(seen[first_other..].iter().all(|believed| !believed), "{seen:?}");
        // For the next round: adopted under this life.
        let () = bench.ask(&[b"FLUSHALL"]).await;
        bench.adopted(&id, LAYOUT, 1).await;
    }
}

#[tokio::test]
async fn a_replica_is_never_believed_and_neither_is_one_that_was_promoted() {
    let id = job("replicated");
    let (_first, second) = Bench::primary_and_replica(&id).await;
    second.is_not_believed(&id).await;
    assert!(matches!(second.live.generation(soon()).await, Err(Error::Refused(_))));
    assert!(matches!(second.live.open(&id, LAYOUT, 2, None, soon()).await, Err(Error::Refused(_))));
    for incarnation in [1, 2] {
        let taken = second.live.reopen(&id, 1, incarnation, soon()).await.unwrap();
        assert_eq!(taken, Err(Refusal::NotAdopted), "a replica takes nothing up");
    }

    second.is_master().await;
    second.is_not_believed(&id).await;
    // What is opened now is the promoted one's own.
    second.live.open(&id, LAYOUT, 2, None, soon()).await.unwrap().unwrap();
    second.live.adopt(&id, 2, Duration::ZERO, soon()).await.unwrap().unwrap();
    assert_eq!(believed(&second.live, &id).await, Ok(true));
}

/// A primary that was demoted keeps its run id, its data and its connections; it answers as before.
#[tokio::test]
async fn a_demoted_primary_that_still_answers_is_not_believed() {
    let id = job("demoted");
    let (first, second) = Bench::primary_and_replica(&id).await;
    second.is_master().await;
    second.live.reopen(&id, 1, 1, soon()).await.unwrap().unwrap();
    second.report_with_postgres(&id, &[succeeded(0, 0)]).await;
    second.live.adopt(&id, 1, Duration::ZERO, soon()).await.unwrap().unwrap();

    // Demoted, and its link to the new primary is broken: the data stay as they are.
    let () = first.ask(&[b"CONFIG", b"SET", b"replica-serve-stale-data", b"yes"]).await;
    let () = first.ask(&[b"REPLICAOF", b"127.0.0.1", b"1"]).await;
    first.is_not_believed(&id).await;

    // And when somebody makes it a primary again, with what it has.
    first.is_master().await;
    first.is_not_believed(&id).await;

    // Or when it follows at last, and is promoted with the other's data.
    first.replicate(&second).await;
    first.has_caught_up_with(&second).await;
    first.is_not_believed(&id).await;
    first.is_master().await;
    first.is_not_believed(&id).await;
}

/// What was sealed under a life that has ended says of itself that marks may be missing.
#[tokio::test]
async fn a_seal_that_is_set_in_another_life_is_that_of_a_lower_bound() {
    let mut bench = Bench::start(&DURABLE).await;
    let (failing, cancelled, perfect, before) = (job("failing"), job("cancelled"), job("perfect"), job("before"));
    for id in [&failing, &cancelled, &perfect, &before] {
        bench.adopted(id, LAYOUT, 1).await;
        let all = (0..LAYOUT.total).flat_map(|task| (0..LAYOUT.stages).map(move |stage| (task, stage)));
        let marks: Vec<_> = all.map(|(task, stage)| succeeded(task, stage)).collect();
        let marks = if *id == failing { [vec![failed(0, 0)], marks[2..].to_vec()].concat() } else { marks };
        bench.report(id, LAYOUT, 1, &marks).await.unwrap();
    }
    let sealed = bench.live.seal(&before, 1, Seal::Complete, soon()).await.unwrap().unwrap();
    bench.redis.restart().unwrap();
    bench.believed_at_last(&failing).await;

    // A retry that was lost could still turn the failure into a success.
    let refused = bench.live.seal(&failing, 1, Seal::Complete, soon()).await.unwrap();
    assert_eq!(refused, Err(Refusal::NotAdopted));
    for (id, seal) in [(&cancelled, Seal::Cancelled("")), (&perfect, Seal::Complete)] {
        let header = bench.live.seal(id, 1, seal, soon()).await.unwrap().unwrap();
        assert!(!header.adopted, "{id}");
    }
    // One that was set before was whole, and stays so.
    let again = bench.live.seal(&before, 1, Seal::Complete, soon()).await.unwrap().unwrap();
    assert_eq!((again.adopted, again), (true, sealed));
    bench.live.expire(&before, 1, soon()).await.unwrap().unwrap();
    let left = bench.ttl(&super::marks(&before)).await;
    assert!(left <= SEALED_TTL && SEALED_TTL < TRACKER_TTL, "{left:?}");
}

impl Bench {
    /// As the gateway reports to a tracker that is not believed: Postgres has said that it is the job's.
    async fn report_with_postgres(&self, id: &JobId, marks: &[highwater::domain::Mark]) {
        let step = MarkStep::plan(LAYOUT, marks.iter().copied()).remove(0);
        let (blank, change) = (step.blank(), step.apply(&step.blank()).unwrap());
        let marked = self.live.report(id, 1, false, (&step, &blank, &change), soon()).await.unwrap();
        assert!(matches!(marked, MarkReply::Applied(_)), "{marked:?}");
    }
}
