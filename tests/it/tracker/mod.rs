//! Trackers on a real Redis, by way of [`Live`], which is all that the gateway knows of them.

mod absence;
mod damage;
mod generation;
mod header;
mod misuse;
mod model;
mod rate;
mod stalled;
mod time_held;

use std::time::Duration;

use highwater::deadline::Deadline;
use highwater::dev::Redis;
use highwater::domain::{Change, JobId, Layout, Mark, MarkStep, Outcome};
use highwater::live::{Header, Live, MarkReply, Refusal, Settings, Tracker};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use crate::support::Directory;

/// A script as the gateway sends it, to be called with what the gateway never sends.
macro_rules! script {
    ($file:literal) => {
        redis::Script::new(concat!(
            include_str!("../../../src/live/scripts/header.lua"),
            include_str!(concat!("../../../src/live/scripts/", $file))
        ))
    };
}
use script;

/// The time to live that scripts give, and the one that keys have before: a script that renews it is seen.
const TRACKER_TTL: Duration = Duration::from_secs(7200);
const TTL_BEFORE: Duration = Duration::from_secs(3600);
/// So that no test hangs.
const PATIENCE: Duration = Duration::from_secs(20);
/// What an ended job's tracker has left.
const SEALED_TTL: Duration = Duration::from_secs(600);

/// A Redis of its own, and both ways to it.
struct Bench {
    redis: Redis,
    live: Live,
    /// By hand: what the code under test does not do, and what it must not.
    hand: ConnectionManager,
    _directory: Directory,
}

impl Bench {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let directory = Directory::new();
        let redis = Redis::start(&directory, settings).unwrap();
        let live = live(&redis);
        let client = redis::Client::open(redis.socket_url()).unwrap();
        let patient = ConnectionManagerConfig::new().set_number_of_retries(20).set_response_timeout(Some(PATIENCE));
        let hand = ConnectionManager::new_with_config(client, patient).await.unwrap();
        Self { redis, live, hand, _directory: directory }
    }

    /// A command by hand; again, where the connection turns out to be that of a server which is gone.
    async fn ask<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let mut answer = command.query_async(&mut self.hand.clone()).await;
        while answer.as_ref().is_err_and(redis::RedisError::is_connection_dropped) {
            answer = command.query_async(&mut self.hand.clone()).await;
        }
        answer.unwrap()
    }

    /// Whatever lies there, as Redis would move it elsewhere; `None` for nothing.
    async fn dump(&self, key: &str) -> Option<Vec<u8>> {
        self.ask(&[b"DUMP", key.as_bytes()]).await
    }

    async fn bytes(&self, id: &JobId) -> Vec<u8> {
        self.ask(&[b"GET", marks(id).as_bytes()]).await
    }

    /// Puts bytes where the tracker is, with the time to live that they had before.
    async fn put(&self, id: &JobId, bytes: &[u8]) {
        let ttl = TTL_BEFORE.as_millis().to_string();
        let () = self.ask(&[b"SET", marks(id).as_bytes(), bytes, b"PX", ttl.as_bytes()]).await;
    }

    /// What is left to a key.
    async fn ttl(&self, key: &str) -> Duration {
        let millis: i64 = self.ask(&[b"PTTL", key.as_bytes()]).await;
        Duration::from_millis(millis.try_into().expect("a key with a time to live"))
    }

    /// All keys of the job.
    async fn keys(&self, id: &JobId) -> Vec<String> {
        self.ask(&[b"KEYS", format!("hw:{{{id}}}:*").as_bytes()]).await
    }

    /// Opens a tracker and adopts it.
    async fn adopted(&self, id: &JobId, layout: Layout, incarnation: u64) -> Header {
        self.live.open(id, layout, incarnation, None, soon()).await.unwrap().unwrap();
        self.live.adopt(id, incarnation, Duration::ZERO, soon()).await.unwrap().unwrap()
    }

    /// Reports as the gateway does: from blank cells, and again from what they are.
    async fn report(&self, id: &JobId, layout: Layout, incarnation: u64, marks: &[Mark]) -> Result<Header, Refusal> {
        let mut last = None;
        for step in MarkStep::plan(layout, marks.iter().copied()) {
            let mut bytes = step.blank();
            last = loop {
                let change = step.apply(&bytes).unwrap();
                match self.mark(id, incarnation, (&step, &bytes, &change)).await {
                    MarkReply::Applied(header) => break Some(header),
                    MarkReply::Conflict(found) => bytes = found,
                    MarkReply::Refused(refusal) => return Err(refusal),
                }
            };
        }
        Ok(last.unwrap())
    }

    async fn mark(&self, id: &JobId, incarnation: u64, step: (&MarkStep, &[u8], &Change)) -> MarkReply {
        self.live.report(id, incarnation, true, step, soon()).await.unwrap()
    }

    /// The status that a script answers, or the error that it raises.
    async fn run(&self, script: &redis::Script, keys: &[String], arguments: &[&[u8]]) -> Result<String, String> {
        let mut call = script.prepare_invoke();
        for key in keys {
            call.key(key);
        }
        for argument in arguments {
            call.arg(*argument);
        }
        let reply: redis::RedisResult<Vec<Vec<u8>>> = call.invoke_async(&mut self.hand.clone()).await;
        reply.map(|parts| String::from_utf8(parts[0].clone()).unwrap()).map_err(|error| error.to_string())
    }

    async fn tracker(&self, id: &JobId) -> Tracker {
        self.live.read_tracker(id, soon()).await.unwrap().tracker
    }
}

fn live(redis: &Redis) -> Live {
    let url = redis.socket_url();
    Live::new(&Settings { url, timeout: PATIENCE, tracker_ttl: TRACKER_TTL, sealed_ttl: SEALED_TTL }).unwrap()
}

/// The tracker's key. Once more, since other gateways, versions and people rely on it.
fn marks(id: &JobId) -> String {
    format!("hw:{{{id}}}:marks")
}

fn job(name: &str) -> JobId {
    name.parse().unwrap()
}

fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

fn succeeded(task: u32, stage: usize) -> Mark {
    Mark { task, stage, outcome: Outcome::Succeeded }
}

fn failed(task: u32, stage: usize) -> Mark {
    Mark { task, stage, outcome: Outcome::Failed }
}
