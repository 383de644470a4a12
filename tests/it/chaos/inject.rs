//! Does what the schedule says, and undoes it.

use std::time::Duration;

use tokio::time::sleep;

use super::history::Happening;
use super::log::Log;
use super::schedule::{Fault, Kind, Store};
use super::stand::{Pair, Site, Stand, ask, tell};
use crate::support::{Link, eventually};

/// How long gateways that keep their connections to a demoted primary keep them.
const KEPT: Duration = Duration::from_millis(700);

/// Injects the faults of one lane; returns once the last of them is over.
pub async fn lane(stand: &Stand, log: &Log, faults: &[Fault]) {
    for fault in faults {
        stand.wait_until(fault.at).await;
        let from = stand.now();
        inject(stand, log, fault).await;
        log.fault(fault, from, stand.now());
    }
}

async fn inject(stand: &Stand, log: &Log, fault: &Fault) {
    let site = &stand.sites[fault.gateway];
    match fault.kind {
        Kind::RedisKilled | Kind::RedisStalled | Kind::RedisFlushed | Kind::RedisFull => redis(stand, log, fault).await,
        Kind::RedisOldDump => old_dump(stand, log, fault).await,
        Kind::RedisFailover => failover(stand, log, fault).await,
        Kind::PostgresKilled | Kind::PostgresStalled => postgres(stand, fault).await,
        Kind::GatewayKilled => kill(stand, log, site, fault.lasts).await,
        Kind::GatewayStalled | Kind::GatewayUnsettled => stall(stand, log, site, fault.lasts).await,
        Kind::LinkBlackhole => link(site, fault, Link::Blackhole).await,
        Kind::LinkHalfOpen => link(site, fault, Link::HalfOpen).await,
        Kind::LinkCut => link(site, fault, Link::Cut).await,
        Kind::LinkSlow => {
            let delay = 20 + fault.lasts.subsec_millis() / 4;
            link(site, fault, Link::Slow(Duration::from_millis(delay.into()))).await;
        }
        Kind::Cancelled => {}
    }
}

async fn redis(stand: &Stand, log: &Log, fault: &Fault) {
    let mut pair = stand.redis.lock().await;
    let from = stand.now();
    match fault.kind {
        Kind::RedisKilled => {
            pair.primary_mut().kill();
            forget_dump(&pair);
            sleep(fault.lasts).await;
            pair.primary_mut().restart().unwrap();
        }
        Kind::RedisStalled => {
            pair.primary_mut().pause();
            sleep(fault.lasts).await;
            pair.primary_mut().resume();
            return;
        }
        Kind::RedisFull => {
            tell(pair.primary(), redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1")).await;
            sleep(fault.lasts).await;
            tell(pair.primary(), redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0")).await;
            return;
        }
        _ => tell(pair.primary(), &redis::cmd("FLUSHALL")).await,
    }
    log.happening(Happening::Lost { from, to: stand.now() });
}

async fn old_dump(stand: &Stand, log: &Log, fault: &Fault) {
    let mut pair = stand.redis.lock().await;
    save(&pair).await;
    sleep(fault.lasts).await;
    let from = stand.now();
    pair.primary_mut().kill();
    pair.primary_mut().restart().unwrap();
    log.happening(Happening::Lost { from, to: stand.now() });
    forget_dump(&pair);
}

/// Dumps, once no dump for the replica is under way any more.
async fn save(pair: &Pair) {
    let saved = async || ask::<()>(pair.primary(), &redis::cmd("SAVE")).await.ok();
    eventually("Redis has written a dump", saved).await;
}

async fn failover(stand: &Stand, log: &Log, fault: &Fault) {
    let mut pair = stand.redis.lock().await;
    pair.lag();
    sleep(fault.lasts).await;
    let from = stand.now();
    pair.fail_over(&stand.sites).await;
    // Half of the time gateways go on asking the demoted primary for a while.
    let tidy = fault.gateway == 0 || fault.store == Store::Postgres;
    if tidy {
        stand.sites.iter().for_each(|site| site.redis.hang_up());
    }
    pair.follow().await;
    log.happening(Happening::Lost { from, to: stand.now() });
    if !tidy {
        sleep(KEPT).await;
        stand.sites.iter().for_each(|site| site.redis.hang_up());
    }
}

/// What was dumped, by us or for a replica, is not what the next restart begins with.
fn forget_dump(pair: &Pair) {
    let dump = pair.primary().socket().with_file_name("dump.rdb");
    let _ = std::fs::remove_file(dump);
}

async fn postgres(stand: &Stand, fault: &Fault) {
    let mut database = stand.postgres.clone().lock_owned().await;
    if fault.kind == Kind::PostgresStalled {
        database.own_server().pause();
        sleep(fault.lasts).await;
        database.own_server().resume();
        return;
    }
    database.own_server().kill();
    sleep(fault.lasts).await;
    // Recovers first, which takes its time.
    tokio::task::spawn_blocking(move || database.own_server().restart().unwrap()).await.unwrap();
}

async fn kill(stand: &Stand, log: &Log, site: &Site, lasts: Duration) {
    let mut gateway = site.gateway.lock().await;
    let (at, life) = (stand.now(), site.door().life);
    gateway.kill();
    sleep(lasts).await;
    gateway.restart().await;
    site.moved(gateway.client());
    log.happening(Happening::Died { gateway: site.number, life, at, back: stand.now() });
}

async fn stall(stand: &Stand, log: &Log, site: &Site, lasts: Duration) {
    let mut gateway = site.gateway.lock().await;
    let from = stand.now();
    gateway.pause();
    sleep(lasts).await;
    gateway.resume();
    log.happening(Happening::Stalled { gateway: site.number, from, to: stand.now() });
}

async fn link(site: &Site, fault: &Fault, state: Link) {
    let proxy = match fault.store {
        Store::Redis => &site.redis,
        Store::Postgres => &site.postgres,
    };
    proxy.set(state);
    sleep(fault.lasts).await;
    proxy.set(Link::Open);
}
