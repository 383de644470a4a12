//! Tests of starting and stopping a gateway: readiness, messages about wrong settings and stores, and the causes that
//! may delay a shutdown.

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::{
    CallResult, Client, Directory, Fault, Gateway, Link, Redis, Stack, eventually, holds_for, job, pb, succeeded,
};

/// A time that is longer than the interval between two store checks of the gateway.
const A_WHILE: Duration = Duration::from_millis(1500);
const ENDS_WITHIN: Duration = Duration::from_secs(20);
/// The services, and the types that clients need in order to print error details.
const SYMBOLS: [&str; 10] = [
    "highwater.v1.JobService",
    "highwater.v1.ReportService",
    "highwater.v1.ProgressService",
    "highwater.v1.ErrorReason",
    "google.rpc.ErrorInfo",
    "google.rpc.BadRequest",
    "google.rpc.RetryInfo",
    "google.rpc.PreconditionFailure",
    "google.rpc.ResourceInfo",
    "grpc.health.v1.Health",
];

/// Runs a command that must exit by itself.
async fn highwater(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_highwater"));
    let output = command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(ENDS_WITHIN, output).await;
    output.unwrap_or_else(|_| panic!("{arguments:?} does not exit")).unwrap()
}

/// Opens a connection that stays silent. Returns after a later connection gets a response, which shows that the gateway
/// has accepted this one.
async fn silent(gateway: &Gateway) -> TcpStream {
    let silent = TcpStream::connect(gateway.address()).await.unwrap();
    Client::new(gateway.address()).is_ready().await.unwrap();
    silent
}

/// Waits until the log contains this text.
async fn logs(gateway: &Gateway, text: &str) {
    eventually(text, async || gateway.log().contains(text).then_some(())).await;
}

async fn stay_unready(gateway: &Gateway) {
    holds_for(A_WHILE, "not ready", async || !gateway.is_ready().await.unwrap()).await;
}

#[tokio::test]
async fn gateway_starts_without_stores_and_becomes_ready_once_both_answer() {
    let mut stack = Stack::builder(3).links().start().await;
    // The gateways start without both stores, without Redis, and without Postgres.
    for (number, links) in [(true, true), (true, false), (false, true)].into_iter().enumerate() {
        let cut = |cut| if cut { Link::Cut } else { Link::Open };
        stack[number].links().redis.set(cut(links.0));
        stack[number].links().postgres.set(cut(links.1));
        stack[number].restart().await;
    }
    join_all(stack.gateways().iter().map(stay_unready)).await;
    assert_eq!(stack[0].get("a").await.unwrap_err().code(), tonic::Code::Unavailable);
    for gateway in &stack.gateways()[..2] {
        logs(gateway, "not ready: Redis cannot be reached").await;
        logs(gateway, "check that Redis runs and that --redis-url is right").await;
        gateway.links().redis.set(Link::Open);
    }
    stack[1].wait_until_ready().await;
    stay_unready(&stack[0]).await;
    for number in [0, 2] {
        logs(&stack[number], "not ready: Postgres cannot be reached").await;
        logs(&stack[number], "check that Postgres runs and that --postgres-url is right").await;
        stack[number].links().postgres.set(Link::Open);
        stack[number].wait_until_ready().await;
    }
    for (number, gateway) in stack.gateways().iter().enumerate() {
        gateway.create(job(&number.to_string(), &["s"], 1)).await.unwrap();
    }
}

#[tokio::test]
async fn missing_or_old_tables_are_reported_with_the_migrate_command() {
    let mut stack = Stack::start(1).await;
    let url = format!("--postgres-url={}", stack.postgres.url());
    // There is only one migration, so an older schema is simulated by a lower recorded version.
    let old = "UPDATE _sqlx_migrations SET version = -1";
    let none = "DROP SCHEMA public CASCADE; CREATE SCHEMA public";
    let newest: i64 = stack.postgres.value("SELECT max(version) FROM _sqlx_migrations").await;
    for (sql, found) in [(old, -1), (none, 0)] {
        stack.postgres.run(sql).await.unwrap();
        stack[0].restart().await;
        let wrong =
            format!("the schema has version {found}, but this gateway needs version {newest}; run `highwater migrate`");
        logs(&stack[0], &wrong).await;
        assert!(!stack[0].is_ready().await.unwrap());
    }
    // A new schema is a new installation, to which the marks in Redis do not belong.
    let () = stack.redis.run(redis::cmd("DEL").arg("hw:installation")).await;
    let migrated = highwater(&["migrate", &url]).await;
    assert!(migrated.status.success(), "{migrated:?}");
    assert!(String::from_utf8(migrated.stdout).unwrap().starts_with("applied 0001 "));
    let again = highwater(&["migrate", &url]).await;
    assert_eq!(String::from_utf8(again.stdout).unwrap(), "nothing to do: the tables are up to date\n");
    stack.postgres.grant().await;
    // The waiting gateway becomes ready without a restart.
    stack[0].wait_until_ready().await;
    stack[0].create(job("a", &["s"], 1)).await.unwrap();
}

/// A rollback of a deployment runs the older program's `migrate`.
#[tokio::test]
async fn migrating_a_newer_schema_changes_nothing_and_succeeds() {
    let stack = Stack::start(1).await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'newer', true, '', 0)";
    stack.postgres.run(newer).await.unwrap();
    let migrated = highwater(&["migrate", &format!("--postgres-url={}", stack.postgres.url())]).await;
    let printed = String::from_utf8(migrated.stdout).unwrap();
    assert!(
        migrated.status.success() && printed.starts_with("nothing to do: the tables have version 9999"),
        "{printed}"
    );
    let versions: i64 = stack.postgres.value("SELECT count(*) FROM _sqlx_migrations WHERE version = 9999").await;
    assert_eq!(versions, 1);
}

#[tokio::test]
async fn listen_addresses_may_have_host_names() {
    let directory = Directory::new();
    let flags = ["--redis-url=redis://127.0.0.1:1", "--postgres-url=postgres://127.0.0.1:1/none"];
    let flags = flags.into_iter().chain(["--listen=localhost:0", "--admin-listen=localhost:0"]).map(str::to_owned);
    let gateway = Gateway::start(directory.join("gateway"), flags.collect(), None).await;
    assert!(gateway.address().ip().is_loopback() && gateway.admin().ip().is_loopback());
    assert!(!gateway.is_ready().await.unwrap());
    assert_eq!(gateway.http("/livez").await.0, 200);
    let malformed = highwater(&["serve", "--listen=localhost", "--redis-url=redis://a", "--postgres-url=postgres://a"]);
    let malformed = malformed.await;
    let error = String::from_utf8(malformed.stderr).unwrap();
    assert!(malformed.status.code() == Some(2) && error.contains("an address must be HOST:PORT"), "{error}");
}

/// Other programs rotate logs with SIGHUP, and some supervisors send SIGUSR1. Neither may stop a gateway.
#[tokio::test]
async fn hangup_reloads_the_log_filter_and_user_signal_is_ignored() {
    let directory = Directory::new();
    let file = directory.join("settings.toml");
    let configure = |log: &str| std::fs::write(&file, format!("log = {log:?}\n")).unwrap();
    configure("info");
    let flags = ["--redis-url=redis://127.0.0.1:1", "--postgres-url=postgres://127.0.0.1:1/none"];
    let flags = flags.into_iter().map(str::to_owned).chain([format!("--config={}", file.display())]);
    let mut gateway = Gateway::start(directory.join("gateway"), flags.collect(), None).await;
    gateway.signal(libc::SIGUSR1);
    configure("no[filter");
    gateway.signal(libc::SIGHUP);
    logs(&gateway, "the settings are invalid, so nothing was reloaded").await;
    assert!(!gateway.log().contains("DEBUG"));
    configure("debug");
    gateway.signal(libc::SIGHUP);
    logs(&gateway, "reloaded the log filter").await;
    // The transport logs each connection at this level.
    assert!(!gateway.is_ready().await.unwrap());
    logs(&gateway, "DEBUG").await;
    gateway.terminate().await;
    assert!(gateway.log().contains("stopped"));
}

#[tokio::test]
async fn evicting_redis_and_replica_redis_cause_warnings() {
    let mut stack = Stack::start(1).await;
    let evicting = redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").to_owned();
    let () = stack.redis.run(&evicting).await;
    stack[0].restart().await;
    let warning =
        "maxmemory-policy is allkeys-lru, so Redis may evict trackers when its memory is full; set it to noeviction";
    logs(&stack[0], warning).await;
    stack[0].wait_until_ready().await;

    let directory = Directory::new();
    let primary = Redis::start(&directory, &[]);
    let replicate = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(primary.port()).to_owned();
    let () = stack.redis.run(&replicate).await;
    stack[0].restart().await;
    logs(&stack[0], "this Redis is a replica").await;
}

/// The responses of another kind of server do not make the gateway ready.
#[tokio::test]
async fn wrong_servers_at_store_addresses_keep_the_gateway_unready() {
    let stack = Stack::start(0).await;
    let (redis, postgres) = (stack.redis.url(), stack.postgres.url());
    let swapped = [
        format!("--redis-url=redis://127.0.0.1:{}", stack.postgres.port()),
        format!("--postgres-url=postgres://nobody@127.0.0.1:{}/none", stack.redis.port()),
    ];
    let mixed = [
        [swapped[0].clone(), format!("--postgres-url={postgres}")],
        [format!("--redis-url={redis}"), swapped[1].clone()],
    ];
    let stay_unready_checks = mixed.map(async |flags| {
        let directory = Directory::new();
        let gateway = Gateway::start(directory.join("gateway"), flags.to_vec(), None).await;
        logs(&gateway, "not ready: ").await;
        stay_unready(&gateway).await;
    });
    join_all(stay_unready_checks).await;
}

#[tokio::test]
async fn malformed_store_urls_are_rejected_without_printing_passwords() {
    let (redis, postgres) = ("--redis-url=redis://127.0.0.1:1", "--postgres-url=postgres://127.0.0.1:1/none");
    for (arguments, flag) in [
        (["serve", "--redis-url=http://a:hunter2@b", postgres], "--redis-url"),
        (["serve", "--redis-url=redis://a:hunter2@b:port", postgres], "--redis-url"),
        (["serve", "--redis-url=hunter2", postgres], "--redis-url"),
        (["serve", redis, "--postgres-url=mysql://a:hunter2@b/c"], "--postgres-url"),
        (["serve", redis, "--postgres-url=postgres://a:hunter2@b:port/c"], "--postgres-url"),
        (["serve", redis, "--postgres-url=hunter2"], "--postgres-url"),
    ] {
        let output = highwater(&arguments).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(flag) && !error.contains("hunter2"), "{arguments:?}: {error}");
        assert!(
            error.contains("the expected form is redis://") || error.contains("the expected form is postgres://"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn default_listen_address_is_loopback() {
    let help = String::from_utf8(highwater(&["serve", "--help"]).await.stdout).unwrap();
    assert!(help.contains("[default: 127.0.0.1:"), "{help}");
}

#[tokio::test]
async fn in_flight_call_is_answered_before_shutdown() {
    let mut stack = Stack::builder(1).setting("drain-timeout", "20s").start().await;
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    stack[0].inject("report.marked", Fault::Stall);
    let report = tokio::spawn({
        let client = stack[0].client();
        async move { client.report("a", succeeded([0], "s")).await }
    });
    stack[0].wait_until_reached("report.marked").await;
    stack[0].signal(libc::SIGTERM);
    let address = stack[0].address();
    eventually("no new connections", async || TcpStream::connect(address).await.is_err().then_some(())).await;
    assert!(!report.is_finished());
    stack[0].release("report.marked");
    assert_eq!(report.await.unwrap().unwrap().job_state(), pb::JobState::Running);
    stack[0].wait_for_exit().await;
    assert!(stack[0].log().contains("stopped"));
}

/// Each of these connections alone could block a graceful shutdown forever.
#[tokio::test]
async fn idle_connections_and_open_streams_do_not_delay_shutdown() {
    let mut stack = Stack::builder(1).setting("drain-timeout", "60s").start().await;
    let silent = silent(&stack[0]).await;
    let channel = || stack[0].new_connection().channel();
    let mut reflection = v1::server_reflection_client::ServerReflectionClient::new(channel());
    let stream = reflection.server_reflection_info(futures_util::stream::pending()).await.unwrap().into_inner();
    let watch = HealthClient::new(channel()).watch(HealthCheckRequest::default()).await.unwrap();
    stack[0].create(job("a", &["s"], 2)).await.unwrap();
    let watched = pb::WatchProgressRequest { job_id: "a".to_owned() };
    let states =
        pb::progress_service_client::ProgressServiceClient::new(channel()).watch_progress(watched).await.unwrap();
    // This client has spoken HTTP/2, and ignores GOAWAY.
    let mut ignoring = TcpStream::connect(stack[0].address()).await.unwrap();
    ignoring.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    ignoring.read_exact(&mut [0; 9]).await.unwrap();

    let signalled = Instant::now();
    stack[0].signal(libc::SIGTERM);
    stack[0].wait_for_exit().await;
    assert!(signalled.elapsed() < Duration::from_secs(10), "{:?}", signalled.elapsed());
    drop((silent, stream, watch, states, ignoring));
}

/// A call that hangs in the gateway is dropped together with its connection.
#[tokio::test]
async fn shutdown_ends_at_the_drain_timeout_despite_hanging_calls() {
    let mut stack = Stack::builder(1).setting("drain-timeout", "1s").start().await;
    let report = hang(&stack[0]).await;
    let signalled = Instant::now();
    stack[0].signal(libc::SIGTERM);
    stack[0].wait_for_exit().await;
    assert!(signalled.elapsed() < Duration::from_secs(8), "{:?}", signalled.elapsed());
    assert!(report.await.unwrap().is_err());
}

/// Starts a call that hangs in the gateway.
async fn hang(gateway: &Gateway) -> JoinHandle<CallResult<pb::ReportResultsResponse>> {
    gateway.create(job("a", &["s"], 2)).await.unwrap();
    gateway.inject("report.marked", Fault::Stall);
    let client = gateway.client();
    let report = tokio::spawn(async move { client.report("a", succeeded([0], "s")).await });
    gateway.wait_until_reached("report.marked").await;
    report
}

#[tokio::test]
async fn second_signal_stops_immediately() {
    let (terminate, interrupt) = (libc::SIGTERM, libc::SIGINT);
    let stop_at_once =
        [(terminate, terminate), (interrupt, interrupt), (terminate, interrupt)].map(async |(first, second)| {
            let mut stack =
                Stack::builder(1).setting("drain-timeout", "60s").setting("request-timeout", "12s").start().await;
            let report = hang(&stack[0]).await;
            stack[0].signal(first);
            logs(&stack[0], "a second signal stops at once").await;
            holds_for(Duration::from_millis(300), "the gateway drains", async || !stack[0].log().contains("stopped"))
                .await;
            let signalled = Instant::now();
            stack[0].signal(second);
            stack[0].wait_for_exit().await;
            assert!(signalled.elapsed() < Duration::from_secs(5), "{:?}", signalled.elapsed());
            assert!(report.await.unwrap().is_err());
        });
    join_all(stop_at_once).await;
}

/// Supervisors rely on the exit code: 0 after a graceful stop, and 1 after an immediate stop.
#[tokio::test]
async fn exit_code_distinguishes_graceful_from_immediate_shutdown() {
    for (signals, code) in [(1, 0), (2, 1)] {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_highwater"));
        // This address accepts connections in place of Postgres, and never responds.
        let postgres = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("--postgres-url=postgres://nobody@{}/none", postgres.local_addr().unwrap());
        command.args(["serve", "--listen=127.0.0.1:0", "--redis-url=redis://127.0.0.1:1", "--drain-timeout=60s"]);
        command.args([&url, "--postgres-timeout=60s", "--request-timeout=60s", "--settle-time=90s"]);
        command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
        let mut gateway = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(gateway.stdout.take().unwrap()).lines();
        let line = output.next_line().await.unwrap().unwrap();
        let address: SocketAddr = line.strip_prefix("listening on ").unwrap().parse().unwrap();
        let client = Client::new(address);
        client.is_ready().await.unwrap();
        // A pending call delays the graceful shutdown, so that the second signal arrives during it.
        let pending = (signals > 1).then(|| {
            let client = client.clone();
            tokio::spawn(async move { client.get("a").await })
        });
        tokio::task::yield_now().await;
        // A later call on the same connection shows that the pending call has arrived.
        client.is_ready().await.unwrap();
        let mut log = BufReader::new(gateway.stderr.take().unwrap()).lines();
        for _ in 0..signals {
            let pid = gateway.id().unwrap().to_string();
            assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
            while log.next_line().await.unwrap().is_some_and(|line| !line.contains("stopping")) {}
        }
        let ended = tokio::time::timeout(ENDS_WITHIN, gateway.wait()).await.expect("the gateway ends");
        assert_eq!(ended.unwrap().code(), Some(code));
        drop((pending, output, postgres));
    }
}

#[tokio::test]
async fn both_reflection_versions_resolve_services_and_error_details() {
    let stack = Stack::start(1).await;
    let channel = stack[0].client().channel();
    let mut resolved = Vec::new();
    {
        use v1::server_reflection_request::MessageRequest::FileContainingSymbol;
        let request = |symbol: &str| v1::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(FileContainingSymbol(symbol.to_owned())),
        };
        let requests = futures_util::stream::iter(SYMBOLS.map(request));
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
        while let Some(answer) = answers.message().await.unwrap() {
            use v1::server_reflection_response::MessageResponse::FileDescriptorResponse;
            resolved.push(matches!(answer.message_response, Some(FileDescriptorResponse(_))));
        }
    }
    {
        use v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol;
        let request = |symbol: &str| v1alpha::ServerReflectionRequest {
            host: String::new(),
            message_request: Some(FileContainingSymbol(symbol.to_owned())),
        };
        let requests = futures_util::stream::iter(SYMBOLS.map(request));
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
        let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
        while let Some(answer) = answers.message().await.unwrap() {
            use v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse;
            resolved.push(matches!(answer.message_response, Some(FileDescriptorResponse(_))));
        }
    }
    assert_eq!(resolved, [true; 2 * SYMBOLS.len()]);
}
