//! Tests the table that a short run of `demo --fleet` prints about workers that claim their jobs.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::support::Directory;

/// The limit for the whole demo. The fleet works for eight seconds, and both servers start and stop.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn fleet_demo_shares_work_evenly_and_wastes_none_on_ended_jobs() {
    let directory = Directory::new();
    let data = format!("--data-dir={}", directory.join("fleet").display());
    let mut demo = Command::new(env!("CARGO_BIN_EXE_highwater"));
    demo.args(["demo", "--fleet", "--seconds=8", "--listen=127.0.0.1:0", &data]).env_clear();
    // The demo needs PATH to find the server programs.
    demo.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    let ended = tokio::time::timeout(ENDS_WITHIN, demo.stdin(Stdio::null()).kill_on_drop(true).output()).await;
    let output = ended.expect("the demo exits by itself").unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!printed.contains("NOT SO"), "{printed}");
    let rows = table(&printed);
    assert_eq!(rows.len(), 6, "{printed}");
    for (job, row) in &rows {
        let number = |place: usize| row[place].replace(',', "").parse::<f64>().unwrap();
        let (claims, share, even) = (number(3), number(4), number(6));
        let ended = if ["cancelled", "huge"].contains(&job.as_str()) { "CANCELLED" } else { "SUCCEEDED" };
        assert_eq!((row[1].as_str(), row[0] == row[2]), (ended, ended == "SUCCEEDED"), "{job}: {printed}");
        assert!(claims > 0.0 && (share / even - 1.0).abs() <= 0.2, "{job}: {printed}");
        assert_eq!(row[8], "0", "wasted on {job}: {printed}");
    }
    assert!(
        printed.contains("handed out 0 times") && !printed.contains(" 0 batches were delivered twice"),
        "{printed}"
    );
}

/// The columns of each job: tasks, final state, done, claims, share, `%`, even share, `%`, wasted, `ms` and further
/// ones.
fn table(printed: &str) -> BTreeMap<String, Vec<String>> {
    let lines =
        printed.lines().skip_while(|line| !line.starts_with("job ")).skip(1).take_while(|line| !line.is_empty());
    let words = lines.map(|line| line.split_whitespace().map(str::to_owned));
    words.map(|mut words| (words.next().unwrap(), words.collect())).collect()
}
