//! Tests of trackers in a real Redis. They use [`Live`], the gateway's only interface to trackers.

mod command_time;
mod damage;
mod generation;
mod header;
mod invalid_calls;
mod missing;
mod model;
mod rate;
mod revocation;

use std::time::Duration;

use highwater::deadline::Deadline;
use highwater::dev::Redis;
use highwater::domain::{Incarnation, Installation, JobId, Layout, Mark, MarkStep, Outcome};
use highwater::live::{Header, Live, MarkReply, ScriptOutcome, Settings, StepWrite, Tracker};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};

use crate::support::Directory;

/// A script as the gateway sends it. Tests call it with arguments that the gateway never sends.
macro_rules! script {
    ($file:literal) => {
        redis::Script::new(concat!(
            include_str!("../../../src/live/scripts/header.lua"),
            include_str!(concat!("../../../src/live/scripts/", $file))
        ))
    };
}
use script;

/// The incarnations that tests use.
/// The installation of the clients in these tests.
const INSTALLATION: Installation = Installation(*b"\0tracker");
/// The argument by which scripts recognise a tracker of this installation with the incarnation 5.
const OWNER: &[u8] = b"\0tracker5";
const FIRST: Incarnation = Incarnation::new(1);
const SECOND: Incarnation = Incarnation::new(2);
const THIRD: Incarnation = Incarnation::new(3);
/// The time to live that scripts set for a tracker.
const TRACKER_TTL: Duration = Duration::from_secs(7200);
/// The time to live that tests set for keys. It differs from [`TRACKER_TTL`], so that a renewal is detected.
const TTL_BEFORE: Duration = Duration::from_secs(3600);
/// The timeout of calls, which keeps tests from hanging.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// The time to live that scripts set for the tracker of an ended job.
const SEALED_TTL: Duration = Duration::from_secs(600);

/// A Redis server for one test, with the client under test and a direct connection.
struct TestRedis {
    server: Redis,
    live: Live,
    /// The direct connection, for commands that the code under test does not send.
    connection: ConnectionManager,
    _directory: Directory,
}

impl TestRedis {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let directory = Directory::new();
        let server = Redis::start(&directory, settings).unwrap();
        let live = connect(&server);
        let client = redis::Client::open(server.socket_url()).unwrap();
        let config = ConnectionManagerConfig::new().set_number_of_retries(20).set_response_timeout(Some(CALL_TIMEOUT));
        let connection = ConnectionManager::new_with_config(client, config).await.unwrap();
        Self { server, live, connection, _directory: directory }
    }

    /// Sends a command directly. Tries again if the connection belonged to a server that has stopped.
    async fn query<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let mut answer = command.query_async(&mut self.connection.clone()).await;
        while answer.as_ref().is_err_and(redis::RedisError::is_connection_dropped) {
            answer = command.query_async(&mut self.connection.clone()).await;
        }
        answer.unwrap()
    }

    /// The serialised value of a key of any type. `None` if there is no such key.
    async fn dump(&self, key: &str) -> Option<Vec<u8>> {
        self.query(&[b"DUMP", key.as_bytes()]).await
    }

    /// The bytes of the job's tracker.
    async fn tracker_bytes(&self, id: &JobId) -> Vec<u8> {
        self.query(&[b"GET", tracker_key(id).as_bytes()]).await
    }

    /// Writes bytes to the tracker's key, with [`TTL_BEFORE`].
    async fn write_tracker(&self, id: &JobId, bytes: &[u8]) {
        let ttl = TTL_BEFORE.as_millis().to_string();
        let () = self.query(&[b"SET", tracker_key(id).as_bytes(), bytes, b"PX", ttl.as_bytes()]).await;
    }

    /// The remaining time to live of a key.
    async fn ttl(&self, key: &str) -> Duration {
        let millis: i64 = self.query(&[b"PTTL", key.as_bytes()]).await;
        Duration::from_millis(millis.try_into().expect("the key has a time to live"))
    }

    /// All keys of the job.
    async fn keys(&self, id: &JobId) -> Vec<String> {
        self.query(&[b"KEYS", format!("hw:{{{id}}}:*").as_bytes()]).await
    }

    /// Opens a tracker and adopts it.
    async fn open_adopted(&self, id: &JobId, layout: Layout, incarnation: Incarnation) -> Header {
        self.live.open(id, layout, incarnation, None, deadline()).await.unwrap().unwrap();
        self.live.adopt(id, incarnation, Duration::ZERO, deadline()).await.unwrap().unwrap()
    }

    /// Reports as the gateway does. The first attempt expects blank cells. After a conflict, the next attempt expects
    /// the cells that were found.
    async fn report(&self, id: &JobId, layout: Layout, incarnation: Incarnation, marks: &[Mark]) -> ScriptOutcome {
        let mut last = None;
        for step in MarkStep::plan(layout, marks.iter().copied()) {
            let mut bytes = step.blank();
            last = loop {
                let change = step.apply(&bytes).unwrap();
                let write = StepWrite { step: &step, expected: &bytes, change: &change };
                match self.mark(id, incarnation, write).await {
                    MarkReply::Applied(header) => break Some(header),
                    MarkReply::Conflict(found) => bytes = found,
                    MarkReply::Refused(refusal) => return Err(refusal),
                }
            };
        }
        Ok(last.unwrap())
    }

    async fn mark(&self, id: &JobId, incarnation: Incarnation, write: StepWrite<'_>) -> MarkReply {
        self.live.apply_marks(id, incarnation, true, write, deadline()).await.unwrap()
    }

    /// Runs a script, and returns its status or the error that it raises.
    async fn run_script(&self, script: &redis::Script, keys: &[String], arguments: &[&[u8]]) -> Result<String, String> {
        let mut call = script.prepare_invoke();
        for key in keys {
            call.key(key);
        }
        for argument in arguments {
            call.arg(*argument);
        }
        let reply: redis::RedisResult<Vec<Vec<u8>>> = call.invoke_async(&mut self.connection.clone()).await;
        reply.map(|parts| String::from_utf8(parts[0].clone()).unwrap()).map_err(|error| error.to_string())
    }

    async fn tracker(&self, id: &JobId) -> Tracker {
        self.live.read_tracker(id, deadline()).await.unwrap().tracker
    }
}

fn connect(redis: &Redis) -> Live {
    let url = redis.socket_url();
    let prefix = "hw".to_owned();
    let settings = Settings { url, prefix, timeout: CALL_TIMEOUT, tracker_ttl: TRACKER_TTL, sealed_ttl: SEALED_TTL };
    let live = Live::new(&settings).unwrap();
    live.set_installation(INSTALLATION).unwrap();
    live
}

/// The key of the tracker. It is written out here, because other gateways, versions and operators rely on it.
fn tracker_key(id: &JobId) -> String {
    format!("hw:{{{id}}}:marks")
}

fn job_id(name: &str) -> JobId {
    name.parse().unwrap()
}

fn deadline() -> Deadline {
    Deadline::after(CALL_TIMEOUT)
}

fn succeeded(task: u32, stage: usize) -> Mark {
    Mark { task, stage, outcome: Outcome::Succeeded }
}

fn failed(task: u32, stage: usize) -> Mark {
    Mark { task, stage, outcome: Outcome::Failed }
}
