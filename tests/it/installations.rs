//! Tests with two installations that use one Redis, by mistake or under different prefixes. No installation counts or
//! ends the jobs of the other.

use crate::support::{
    Database, Directory, Gateway, Link, Proxy, Redis, Stack, dispositions, eventually, job, pb, stage_counts, succeeded,
};
use pb::{Disposition, JobState, Source};

const FOREIGN: &str = "belong to another installation";

/// Gives the database a name of its own. All databases of the tests are copies, which have one name.
async fn other_installation() -> Database {
    let postgres = Database::new().await;
    postgres.run("UPDATE installation SET id = '\\x00000000000000ff'").await.unwrap();
    postgres
}

async fn start(directory: &Directory, redis: &Redis, postgres: &Database, prefix: &str) -> Gateway {
    let flags = [("redis-url", redis.url()), ("postgres-url", postgres.url()), ("redis-prefix", prefix.to_owned())];
    let flags = flags.map(|(name, value)| format!("--{name}={value}")).to_vec();
    Gateway::start(directory.join("other"), flags, None).await
}

#[tokio::test]
async fn second_installation_on_a_redis_uses_the_ledger_and_is_not_ready() {
    let (stack, directory, postgres) = (Stack::start(1).await, Directory::new(), other_installation().await);
    let other = start(&directory, &stack.redis, &postgres, "hw").await;
    let logged = async || other.log().contains(FOREIGN).then_some(());
    eventually("the foreign Redis is reported", logged).await;
    assert!(!other.is_ready().await.unwrap());
    let (status, reasons) = other.http("/readyz").await;
    assert!(status == 503 && reasons.contains("--redis-prefix") && reasons.contains("hw:installation"), "{reasons}");

    for gateway in [&stack[0], &other] {
        gateway.create(job("17", &["s"], 4)).await.unwrap();
        gateway.create(job("18", &["s"], 4)).await.unwrap();
    }
    let own = stack[0].report("17", succeeded([0, 1], "s")).await.unwrap();
    assert_eq!(dispositions(&own), [Disposition::Applied; 2]);
    let recorded = other.report("17", succeeded([2, 3], "s")).await.unwrap();
    assert_eq!(dispositions(&recorded), [Disposition::Recorded; 2]);
    assert_eq!(other.cancel("18", "").await.unwrap().state(), JobState::Cancelled);
    for (gateway, source) in [(&stack[0], Source::Live), (&other, Source::Fallback)] {
        let progress = gateway.progress("17").await.unwrap();
        assert_eq!((progress.source(), progress.state()), (source, JobState::Running));
        assert_eq!(stage_counts(&progress), [[2, 2, 0, 0]]);
    }
    assert_eq!(stack[0].progress("18").await.unwrap().state(), JobState::Running);
    assert_eq!(stack[0].cancel("18", "").await.unwrap().state(), JobState::Cancelled);
}

#[tokio::test]
async fn installations_share_a_redis_under_different_prefixes() {
    let (stack, directory, postgres) = (Stack::start(1).await, Directory::new(), other_installation().await);
    let other = start(&directory, &stack.redis, &postgres, "blue").await;
    other.wait_until_ready().await;
    for (gateway, tasks) in [(&stack[0], 0..2), (&other, 2..4)] {
        gateway.create(job("17", &["s"], 4)).await.unwrap();
        let answer = gateway.report("17", succeeded(tasks, "s")).await.unwrap();
        assert_eq!(dispositions(&answer), [Disposition::Applied; 2]);
    }
    for gateway in [&stack[0], &other] {
        let progress = gateway.progress("17").await.unwrap();
        assert_eq!((progress.source(), stage_counts(&progress)), (Source::Live, vec![[2, 2, 0, 0]]));
    }
}

/// The other installation has a job with the same ID and incarnation, whose tracker is adopted. The connection moves to
/// its Redis while the gateway runs, for example because a name resolves to another address.
#[tokio::test]
async fn running_gateway_whose_connection_moves_to_a_foreign_redis_does_not_use_it() {
    let stack = Stack::builder(1).links().start().await;
    let (foreign, directory, postgres) = (Stack::start(0).await, Directory::new(), other_installation().await);
    let other = start(&directory, &foreign.redis, &postgres, "hw").await;
    other.wait_until_ready().await;
    for gateway in [&stack[0], &other] {
        gateway.create(job("17", &["s"], 4)).await.unwrap();
        gateway.report("17", succeeded([0], "s")).await.unwrap();
    }
    let redis = &stack[0].links().redis;
    move_to(redis, foreign.redis.port());
    let recorded = async || {
        let answer = stack[0].report("17", succeeded([1], "s")).await.ok()?;
        (dispositions(&answer) == [Disposition::Recorded]).then_some(())
    };
    eventually("the report is recorded", recorded).await;
    let progress = stack[0].progress("17").await.unwrap();
    assert_eq!((progress.source(), progress.lower_bound), (Source::Fallback, true));
    assert_eq!(stage_counts(&other.progress("17").await.unwrap()), [[3, 1, 0, 0]]);

    move_to(redis, stack.redis.port());
    let live = async || {
        let progress = stack[0].progress("17").await.ok()?;
        (progress.source() == Source::Live && stage_counts(&progress) == [[2, 2, 0, 0]]).then_some(())
    };
    eventually("the gateway uses its own Redis again", live).await;
}

fn move_to(link: &Proxy, port: u16) {
    link.set(Link::Cut);
    link.set_target(port);
    link.close_connections();
    link.set(Link::Open);
}
