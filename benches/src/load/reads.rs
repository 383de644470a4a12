//! Reads, by h2load over several connections. It looks at no grpc-status and no message, so a sample of answers is
//! checked meanwhile by a client of ours.

use std::fs;
use std::process::{Output, Stdio};
use std::time::Duration;

use highwater::grpc::pb;
use pb::progress_service_client::ProgressServiceClient;
use prost::Message;
use tokio::process::Command;

use super::{Seen, latencies};
use crate::Result;
use crate::stand::{Server, Stand};

/// One HTTP/2 connection is served by one task at a time; a backend has several.
pub const CONNECTIONS: usize = 8;
/// How many calls each connection has open.
pub const STREAMS: usize = 16;
/// What is not measured, as a part of what is: connections are made, caches filled.
const WARM_UP: u32 = 4;
/// How often an answer is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Reads one job over and over, for so long; `right` says what is wrong with an answer.
pub async fn read(
    stand: &Stand,
    server: &Server,
    id: &str,
    connections: usize,
    streams: usize,
    length: Duration,
    right: fn(&pb::Progress) -> Option<String>,
) -> Result<Seen> {
    let port = server.address.port();
    let body = stand.file(&format!("request-{port}"));
    fs::write(&body, framed(&pb::GetProgressRequest { job_id: id.to_owned() }))?;
    let log = stand.file(&format!("calls-{port}"));
    let _ = fs::remove_file(&log);
    let mut command = Command::new("h2load");
    command.args(["--threads=1", "--header=content-type: application/grpc", "--header=te: trailers"]);
    command.args([format!("--clients={connections}"), format!("--max-concurrent-streams={streams}")]);
    command.arg(format!("--duration={}ms", length.as_millis()));
    command.arg(format!("--warm-up-time={}ms", (length / WARM_UP).as_millis()));
    command.args([format!("--data={}", body.display()), format!("--log-file={}", log.display())]);
    command.arg(format!("http://{}/highwater.v1.ProgressService/GetProgress", server.address));
    command.stdin(Stdio::null()).kill_on_drop(true);
    let loading = command.output();
    let (loaded, cpu) = tokio::try_join!(
        async { loading.await.map_err(|error| format!("h2load (Debian: nghttp2-client): {error}").into()) },
        watch(server, id, length, right)
    )?;
    let log = fs::read_to_string(&log).map_err(|error| format!("h2load left no log: {error}: {loaded:?}"))?;
    seen(&loaded, &log, length, cpu)
}

/// Looks at answers while the load runs; the CPU time that the server used in `length` of it.
async fn watch(
    server: &Server,
    id: &str,
    length: Duration,
    right: fn(&pb::Progress) -> Option<String>,
) -> Result<Duration> {
    let mut reads = ProgressServiceClient::new(server.channel()?);
    let begin = tokio::time::Instant::now() + length / WARM_UP;
    tokio::time::sleep_until(begin).await;
    let before = server.cpu()?;
    while begin.elapsed() < length {
        let answer = reads.get_progress(pb::GetProgressRequest { job_id: id.to_owned() }).await?.into_inner();
        let progress = answer.progress.ok_or("an answer without progress")?;
        if let Some(wrong) = right(&progress) {
            return Err(format!("a wrong answer: {wrong}: {progress:?}").into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(server.cpu()?.saturating_sub(before))
}

/// What is wrong with an answer that should be LIVE and whole.
pub fn is_live(progress: &pb::Progress) -> Option<String> {
    if progress.source() != pb::Source::Live {
        return Some("not live".to_owned());
    }
    (progress.succeeded_task_count.is_none() || progress.stages.is_empty()).then(|| "counts are missing".to_owned())
}

fn seen(output: &Output, log: &str, length: Duration, cpu: Duration) -> Result<Seen> {
    let text = String::from_utf8_lossy(&output.stdout);
    let counts = text.lines().find_map(|line| line.strip_prefix("requests: ")).ok_or("h2load printed no counts")?;
    let count = |name: &str| {
        let part = counts.split(", ").find(|part| part.ends_with(name));
        part.and_then(|part| part.split(' ').next()?.parse::<u64>().ok()).ok_or(format!("no {name}: {counts}"))
    };
    if count("failed")? + count("errored")? + count("timeout")? > 0 {
        return Err(format!("h2load: {counts}").into());
    }
    let mut latency = latencies()?;
    for line in log.lines() {
        let micros = line.split('\t').nth(2).and_then(|field| field.parse::<u64>().ok());
        latency.record(micros.ok_or("h2load logged no latency")?.max(1))?;
    }
    Ok(Seen { calls: count("succeeded")?, elapsed: length, latency, cpu })
}

/// A message as it goes over the wire: not compressed, its length, its bytes.
fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend(bytes);
    framed
}
