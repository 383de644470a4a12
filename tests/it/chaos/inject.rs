//! Injects the scheduled faults and reverts them.

use std::time::Duration;

use tokio::time::sleep;

use super::environment::{Environment, Node, RedisPair, execute, query};
use super::history::Incident;
use super::log::Log;
use super::schedule::{Fault, FaultKind, Store};
use crate::support::{Link, eventually};

/// The time for which gateways keep their connections to a demoted primary if they are not disconnected at once.
const KEPT_CONNECTED: Duration = Duration::from_millis(700);

/// Injects the faults of one lane, one after another. Returns when the last fault is over.
pub async fn run_lane(environment: &Environment, log: &Log, faults: &[Fault]) {
    for fault in faults {
        environment.wait_until(fault.at).await;
        let from = environment.now();
        inject(environment, log, fault).await;
        log.fault(fault, from, environment.now());
    }
}

async fn inject(environment: &Environment, log: &Log, fault: &Fault) {
    let node = &environment.nodes[fault.gateway];
    match fault.kind {
        FaultKind::RedisKilled | FaultKind::RedisStalled | FaultKind::RedisFlushed | FaultKind::RedisFull => {
            redis(environment, log, fault).await;
        }
        FaultKind::RedisOldDump => old_dump(environment, log, fault).await,
        FaultKind::RedisFailover => failover(environment, log, fault).await,
        FaultKind::PostgresKilled | FaultKind::PostgresStalled => postgres(environment, fault).await,
        FaultKind::GatewayKilled => kill(environment, log, node, fault.duration).await,
        FaultKind::GatewayStalled | FaultKind::GatewayUnsettled => stall(environment, log, node, fault.duration).await,
        FaultKind::LinkBlackhole => link(node, fault, Link::Blackhole).await,
        FaultKind::LinkHalfOpen => link(node, fault, Link::HalfOpen).await,
        FaultKind::LinkCut => link(node, fault, Link::Cut).await,
        FaultKind::LinkSlow => {
            let delay = 20 + fault.duration.subsec_millis() / 4;
            link(node, fault, Link::Slow(Duration::from_millis(delay.into()))).await;
        }
        FaultKind::Cancelled => {}
    }
}

async fn redis(environment: &Environment, log: &Log, fault: &Fault) {
    let mut pair = environment.redis.lock().await;
    let from = environment.now();
    match fault.kind {
        FaultKind::RedisKilled => {
            pair.primary_mut().kill();
            delete_dump(&pair);
            sleep(fault.duration).await;
            pair.primary_mut().restart().unwrap();
        }
        FaultKind::RedisStalled => {
            pair.primary_mut().pause();
            sleep(fault.duration).await;
            pair.primary_mut().resume();
            return;
        }
        FaultKind::RedisFull => {
            execute(pair.primary(), redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1")).await;
            sleep(fault.duration).await;
            execute(pair.primary(), redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0")).await;
            return;
        }
        _ => execute(pair.primary(), &redis::cmd("FLUSHALL")).await,
    }
    log.incident(Incident::DataLost { from, to: environment.now() });
}

async fn old_dump(environment: &Environment, log: &Log, fault: &Fault) {
    let mut pair = environment.redis.lock().await;
    save(&pair).await;
    sleep(fault.duration).await;
    let from = environment.now();
    pair.primary_mut().kill();
    pair.primary_mut().restart().unwrap();
    log.incident(Incident::DataLost { from, to: environment.now() });
    delete_dump(&pair);
}

/// Writes a dump as soon as Redis is not writing a dump for the replica.
async fn save(pair: &RedisPair) {
    let dumped = async || query::<()>(pair.primary(), &redis::cmd("SAVE")).await.ok();
    eventually("Redis has written a dump", dumped).await;
}

async fn failover(environment: &Environment, log: &Log, fault: &Fault) {
    let mut pair = environment.redis.lock().await;
    pair.stop_replication();
    sleep(fault.duration).await;
    let from = environment.now();
    pair.fail_over(&environment.nodes).await;
    // In some failovers, gateways keep using the demoted primary for a while.
    let disconnect_at_once = fault.gateway == 0 || fault.store == Store::Postgres;
    if disconnect_at_once {
        environment.nodes.iter().for_each(|node| node.redis.close_connections());
    }
    pair.start_replication().await;
    log.incident(Incident::DataLost { from, to: environment.now() });
    if !disconnect_at_once {
        sleep(KEPT_CONNECTED).await;
        environment.nodes.iter().for_each(|node| node.redis.close_connections());
    }
}

/// Deletes the dump, so that the next restart of Redis does not load it.
fn delete_dump(pair: &RedisPair) {
    let dump = pair.primary().socket().with_file_name("dump.rdb");
    let _ = std::fs::remove_file(dump);
}

async fn postgres(environment: &Environment, fault: &Fault) {
    let mut database = environment.postgres.clone().lock_owned().await;
    if fault.kind == FaultKind::PostgresStalled {
        database.private_server().pause();
        sleep(fault.duration).await;
        database.private_server().resume();
        return;
    }
    database.private_server().kill();
    sleep(fault.duration).await;
    // A restart blocks until crash recovery is done.
    tokio::task::spawn_blocking(move || database.private_server().restart().unwrap()).await.unwrap();
}

async fn kill(environment: &Environment, log: &Log, node: &Node, duration: Duration) {
    let mut gateway = node.gateway.lock().await;
    let (at, process) = (environment.now(), node.endpoint().process);
    gateway.kill();
    sleep(duration).await;
    gateway.restart().await;
    node.restarted(gateway.client());
    log.incident(Incident::GatewayDown { gateway: node.number, process, at, back: environment.now() });
}

async fn stall(environment: &Environment, log: &Log, node: &Node, duration: Duration) {
    let mut gateway = node.gateway.lock().await;
    let from = environment.now();
    gateway.pause();
    sleep(duration).await;
    gateway.resume();
    log.incident(Incident::Stalled { gateway: node.number, from, to: environment.now() });
}

async fn link(node: &Node, fault: &Fault, state: Link) {
    let proxy = match fault.store {
        Store::Redis => &node.redis,
        Store::Postgres => &node.postgres,
    };
    proxy.set(state);
    sleep(fault.duration).await;
    proxy.set(Link::Open);
}
