//! Tests the checks that `demo` prints after its job has ended.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::support::{Directory, eventually};

/// The limit for the whole demo. Two servers start and stop, and the job has a few files.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn statements_of_an_end_that_is_not_committed_yet_do_not_count_as_written_during_the_run() {
    let directory = Directory::new();
    let [files, faults] = ["files", "faults"].map(|name| directory.join(name));
    std::fs::create_dir(&files).unwrap();
    std::fs::create_dir(&faults).unwrap();
    for number in 0..20 {
        std::fs::write(files.join(number.to_string()), "content").unwrap();
    }
    inject_stall(&faults, "commit.written");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_highwater"));
    demo.args(["demo", "--once", "--workers=1", "--listen=127.0.0.1:0"]);
    demo.arg("--dir").arg(&files).arg("--data-dir").arg(directory.join("data")).env_clear();
    // The demo needs PATH to find the server programs.
    demo.envs(std::env::var_os("PATH").map(|path| ("PATH", path))).env("HIGHWATER_FAULT_DIR", &faults);
    let demo = demo.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let demo = demo.spawn().unwrap();
    // The end is logged and not committed. Only the demo reads the job. At the third read, an earlier read has begun
    // and was answered in the meantime.
    wait_until_reached(&faults, "commit.written").await;
    for _ in 0..3 {
        inject_stall(&faults, "read.looked");
        wait_until_reached(&faults, "read.looked").await;
        release(&faults, "read.looked");
    }
    release(&faults, "commit.written");
    let output = tokio::time::timeout(ENDS_WITHIN, demo.wait_with_output()).await.expect("the demo exits by itself");
    let output = output.unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains("Postgres logged 0 modifying statements while the job ran"), "{printed}");
}

fn inject_stall(faults: &Path, point: &str) {
    // The file is renamed into place, because the gateway may read it at any time.
    std::fs::write(faults.join("unfinished"), "stall").unwrap();
    std::fs::rename(faults.join("unfinished"), faults.join(point)).unwrap();
}

async fn wait_until_reached(faults: &Path, point: &str) {
    let reached = faults.join(format!("{point}.reached"));
    eventually(point, async || reached.exists().then_some(())).await;
}

fn release(faults: &Path, point: &str) {
    std::fs::remove_file(faults.join(format!("{point}.reached"))).unwrap();
}
