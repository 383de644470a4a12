//! Reads as fast as possible, by h2load. It does not check the gRPC status or the message of a response, so a client of
//! ours checks a sample of responses during the load.

use std::fs;
use std::process::{Output, Stdio};
use std::time::Duration;

use highwater::grpc::pb;
use pb::progress_service_client::ProgressServiceClient;
use prost::Message;
use tokio::process::Command;

use super::{LoadResult, new_histogram};
use crate::Result;
use crate::environment::{Environment, Server};

/// A server processes one HTTP/2 connection in one task, so there are several, as in a backend.
pub const CONNECTIONS: usize = 8;
/// The number of open calls per connection.
pub const STREAMS: usize = 16;
/// The warm-up, as a fraction (one in this many) of the measured time. It fills caches and is not measured.
const WARM_UP: u32 = 4;
/// The pause between two checked responses.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Returns what is wrong with a progress, or none.
pub type Check = fn(&pb::Progress) -> Option<String>;

/// Reads one job for a time. Fails if a sampled response does not pass `check`.
pub async fn read(
    environment: &Environment,
    server: &Server,
    id: &str,
    connections: usize,
    streams: usize,
    length: Duration,
    check: Check,
) -> Result<LoadResult> {
    let port = server.address.port();
    let body = environment.file(&format!("request-{port}"));
    fs::write(&body, framed(&pb::GetProgressRequest { job_id: id.to_owned() }))?;
    let log = environment.file(&format!("calls-{port}"));
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
        async {
            loading.await.map_err(|error| format!("cannot run h2load (Debian package nghttp2-client): {error}").into())
        },
        check_sample(server, id, length, check)
    )?;
    let log = fs::read_to_string(&log).map_err(|error| format!("h2load left no log: {error}: {loaded:?}"))?;
    parse(&loaded, &log, length, cpu)
}

/// Checks responses during the load. Returns the server's CPU time in the measured part of the load.
async fn check_sample(server: &Server, id: &str, length: Duration, check: Check) -> Result<Duration> {
    let mut reads = ProgressServiceClient::new(server.channel()?);
    let begin = tokio::time::Instant::now() + length / WARM_UP;
    tokio::time::sleep_until(begin).await;
    let before = server.cpu_time()?;
    while begin.elapsed() < length {
        let response = reads.get_progress(pb::GetProgressRequest { job_id: id.to_owned() }).await?.into_inner();
        let progress = response.progress.ok_or("a response without progress")?;
        if let Some(wrong) = check(&progress) {
            return Err(format!("a wrong response: {wrong}: {progress:?}").into());
        }
        tokio::time::sleep(CHECK_INTERVAL).await;
    }
    Ok(server.cpu_time()?.saturating_sub(before))
}

/// Checks that a progress is LIVE and has counts.
pub fn check_live(progress: &pb::Progress) -> Option<String> {
    if progress.source() != pb::Source::Live {
        return Some("not live".to_owned());
    }
    (progress.succeeded_task_count.is_none() || progress.stages.is_empty()).then(|| "counts are missing".to_owned())
}

/// The result of a load, from the output and the log of h2load.
fn parse(output: &Output, log: &str, length: Duration, cpu: Duration) -> Result<LoadResult> {
    let text = String::from_utf8_lossy(&output.stdout);
    let counts = text.lines().find_map(|line| line.strip_prefix("requests: ")).ok_or("h2load printed no counts")?;
    let count = |name: &str| {
        let part = counts.split(", ").find(|part| part.ends_with(name));
        part.and_then(|part| part.split(' ').next()?.parse::<u64>().ok()).ok_or(format!("no {name}: {counts}"))
    };
    if count("failed")? + count("errored")? + count("timeout")? > 0 {
        return Err(format!("h2load: {counts}").into());
    }
    let mut latency = new_histogram()?;
    for line in log.lines() {
        let micros = line.split('\t').nth(2).and_then(|field| field.parse::<u64>().ok());
        latency.record(micros.ok_or("h2load logged no latency")?.max(1))?;
    }
    Ok(LoadResult { calls: count("succeeded")?, elapsed: length, latency, cpu })
}

/// A gRPC message frame: uncompressed flag, length, bytes.
fn framed(message: &impl Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend(bytes);
    framed
}
