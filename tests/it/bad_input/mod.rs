//! What callers should not send and what they should not find: each gets the right code and the right details, and
//! leaves everything as it was.

mod calls;
mod hanging;
mod trackers;
mod wire;

use std::collections::BTreeMap;
use std::fmt::Display;

use highwater::grpc::pb;
use redis::aio::MultiplexedConnection;
use sqlx::{Executor, PgConnection, Row};
use tonic::Status;
use tonic_types::StatusExt;

use crate::support::{Client, Stack, job};
use wire::Wire;

/// Nothing of how the gateway works is a caller's business, and none of it helps him.
const INTERNALS: [&str; 12] = [
    "redis://",
    "postgres://",
    "127.0.0.1",
    "sqlx",
    ".rs:",
    "src/",
    "panicked",
    "os error",
    "WRONGTYPE",
    "script",
    "hw:{",
    "SELECT",
];

/// Code, reason, and the details beside ErrorInfo, in one line.
fn told(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("without ErrorInfo: {status:?}"));
    assert_eq!(info.domain, "highwater");
    let text = format!("{} {}", status.message(), String::from_utf8_lossy(status.details()));
    for internal in INTERNALS {
        assert!(!text.contains(internal), "`{internal}` is told: {text}");
    }
    let mut told = format!("{:?} {}", status.code(), info.reason);
    for violation in details.bad_request().into_iter().flat_map(|bad| &bad.field_violations) {
        told += &format!(" field={}", violation.field);
    }
    if let Some(resource) = details.resource_info() {
        told += &format!(" resource={}/{}", resource.resource_type, resource.resource_name);
    }
    for violation in details.precondition_failure().into_iter().flat_map(|failure| &failure.violations) {
        told += &format!(" precondition={}/{}", violation.r#type, violation.subject);
    }
    if let Some(retry) = details.retry_info() {
        told += &format!(" retry={:?}", retry.retry_delay.expect("a RetryInfo that says when"));
    }
    if let Some(state) = info.metadata.get("state") {
        told += &format!(" state={state}");
    }
    told
}

/// What a call of a method is answered, in one line.
fn answered(answer: Result<(), Status>) -> String {
    answer.map_or_else(|status| told(&status), |()| "Ok".to_owned())
}

/// What a read is answered, in one line: counts are there or they are not.
async fn read(client: &Client, id: &str) -> String {
    match client.progress(id).await {
        Err(status) => told(&status),
        Ok(progress) => {
            let (state, source) = (progress.state().as_str_name(), progress.source().as_str_name());
            let reason = progress.source_reason().as_str_name().trim_start_matches("SOURCE_REASON_");
            let counts = progress.stages[0].succeeded_count;
            let counts = counts.map_or("no counts".to_owned(), |count| format!("{count} succeeded"));
            let (state, source) = (state.trim_start_matches("JOB_STATE_"), source.trim_start_matches("SOURCE_"));
            format!("Ok {state} {source} {reason} {counts}")
        }
    }
}

/// A job of two stages and five tasks.
fn small(id: &str) -> pb::CreateJobRequest {
    job(id, &["read", "digest"], 5)
}

/// The table: each row is what a call was answered, after which both stores hold what they held before.
struct Table {
    wire: Wire,
    redis: MultiplexedConnection,
    postgres: PgConnection,
    rows: Vec<String>,
}

impl Table {
    async fn over(stack: &Stack) -> Self {
        Self {
            wire: Wire::to(stack[0].address()).await,
            redis: stack.redis.connection().await,
            postgres: stack.postgres.connection().await,
            rows: Vec::new(),
        }
    }

    async fn row(&mut self, case: impl Display, call: impl Future<Output = String>) {
        let before = self.stored().await;
        let answer = call.await;
        assert!(self.stored().await == before, "{case}: something was done");
        self.rows.push(format!("{case}: {answer}"));
    }

    /// A row for a call as it is on the wire.
    async fn call<M: prost::Message + 'static>(&mut self, case: impl Display, path: &'static str, message: M) {
        let wire = self.wire.clone();
        self.row(case, async { answered(wire.call(path, message).await) }).await;
    }

    /// All that the stores hold: the jobs, but for the incarnation (a number that a start which fails has used up), and
    /// every key that stays.
    async fn stored(&mut self) -> (String, BTreeMap<String, Option<Vec<u8>>>) {
        let jobs = "SELECT string_agg((to_jsonb(jobs) - 'incarnation')::text, ' ' ORDER BY job_id) FROM jobs";
        let jobs: Option<String> = self.postgres.fetch_one(jobs).await.unwrap().get(0);
        let mut keys = BTreeMap::new();
        for key in redis::cmd("KEYS").arg("*").query_async::<Vec<String>>(&mut self.redis).await.unwrap() {
            if key.contains(":image:") {
                // Uploaded for a start that was refused.
                let left: i64 = redis::cmd("PTTL").arg(&key).query_async(&mut self.redis).await.unwrap();
                assert!(left != -1, "{key} stays for ever");
                continue;
            }
            let dump = redis::cmd("DUMP").arg(&key).query_async(&mut self.redis).await.unwrap();
            keys.insert(key, dump);
        }
        (jobs.unwrap_or_default(), keys)
    }
}

/// The name of a method without its service.
fn method(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A caller's mistake is none of ours.
fn no_fault_was_logged(stack: &Stack) {
    let log = stack[0].log();
    let faults: Vec<_> = log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked")).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}
