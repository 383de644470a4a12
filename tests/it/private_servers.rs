//! Tests of gateways that are started as in the README: by `highwater dev` with private servers that keep their data,
//! and by `highwater serve` with a configuration file.

use std::fs;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::{Client, Directory, Stack, eventually, job, pb, succeeded};

fn highwater(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

/// Starts a command that serves, and waits until it is ready.
async fn serving(arguments: &[&str]) -> (Child, Client) {
    let mut child = highwater(arguments).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        let line = lines.next_line().await.unwrap().expect("the address is printed");
        if let Some(address) = line.strip_prefix("listening on ") {
            break address.parse().unwrap();
        }
    };
    // The output is read until its end, so that the process never blocks on a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let client = Client::new(address);
    eventually("the gateway is ready", async || client.is_ready().await.ok().filter(|ready| *ready)).await;
    (child, client)
}

async fn interrupt(mut child: Child) {
    let pid = child.id().expect("it runs").to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    assert!(child.wait().await.unwrap().success(), "SIGINT exits with success");
}

#[tokio::test]
async fn dev_gateway_with_private_servers_keeps_its_data_between_runs() {
    let directory = Directory::new();
    let data = directory.join("data");
    let flags = ["dev", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--data-dir", data.to_str().unwrap()];
    let (first, client) = serving(&flags).await;
    client.create(pb::CreateJobRequest { start: true, ..job("mine", &["s"], 2) }).await.unwrap();
    client.report("mine", succeeded([0], "s")).await.unwrap();
    interrupt(first).await;

    let (second, client) = serving(&flags).await;
    client.report("mine", succeeded([1], "s")).await.unwrap();
    let ended = async || {
        let progress = client.progress("mine").await.ok()?;
        (progress.state() == pb::JobState::Succeeded).then_some(progress.succeeded_task_count)
    };
    assert_eq!(eventually("the job ends", ended).await, Some(2));
    interrupt(second).await;
}

#[tokio::test]
async fn gateway_reads_its_settings_from_a_file() {
    let stack = Stack::start(0).await;
    stack.postgres.run("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();
    let directory = Directory::new();
    let file = directory.join("highwater.toml");
    let settings = [
        ("redis-url", stack.redis.url()),
        ("postgres-url", stack.postgres.url()),
        ("listen", "127.0.0.1:0".into()),
        ("admin-listen", "127.0.0.1:0".into()),
    ];
    let lines: Vec<_> = settings.iter().map(|(name, value)| format!("{name} = {value:?}\n")).collect();
    fs::write(&file, lines.concat()).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let migrated = highwater(&[&["migrate"][..], &config].concat()).output().await.unwrap();
    assert!(migrated.status.success(), "{migrated:?}");
    let (gateway, client) = serving(&[&["serve"][..], &config].concat()).await;
    client.create(job("a", &["s"], 1)).await.unwrap();
    interrupt(gateway).await;
}
