//! `demo --fleet`, shortened: what it prints of a fleet that asks for its work.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::support::Directory;

/// Beside the seconds that the fleet works: both servers start and stop.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test]
async fn fleet_demo_shares_work_evenly_and_wastes_none_on_ended_jobs() {
    let directory = Directory::new();
    let data = format!("--data-dir={}", directory.join("fleet").display());
    let mut demo = Command::new(env!("CARGO_BIN_EXE_highwater"));
    demo.args(["demo", "--fleet", "--seconds=8", "--listen=127.0.0.1:0", &data]).env_clear();
    // Where the servers' programs are.
    demo.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    let ended = tokio::time::timeout(ENDS_WITHIN, demo.stdin(Stdio::null()).kill_on_drop(true).output()).await;
    let output = ended.expect("the demo ends by itself").unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("NOT SO"), "{said}");
    let rows = table(&said);
    assert_eq!(rows.len(), 6, "{said}");
    for (job, row) in &rows {
        let number = |place: usize| row[place].replace(',', "").parse::<f64>().unwrap();
        let (claims, share, even) = (number(3), number(4), number(6));
        let ended = if ["cancelled", "huge"].contains(&job.as_str()) { "CANCELLED" } else { "SUCCEEDED" };
        assert_eq!((row[1].as_str(), row[0] == row[2]), (ended, ended == "SUCCEEDED"), "{job}: {said}");
        assert!(claims > 0.0 && (share / even - 1.0).abs() <= 0.2, "{job}: {said}");
        assert_eq!(row[8], "0", "wasted on {job}: {said}");
    }
    assert!(said.contains("handed out 0 times") && !said.contains(" 0 batches were delivered twice"), "{said}");
}

/// The columns of each job: tasks, how it ended, done, claims, share, `%`, the even share, `%`, wasted, `ms`, and so on.
fn table(said: &str) -> BTreeMap<String, Vec<String>> {
    let lines = said.lines().skip_while(|line| !line.starts_with("job ")).skip(1).take_while(|line| !line.is_empty());
    let words = lines.map(|line| line.split_whitespace().map(str::to_owned));
    words.map(|mut words| (words.next().unwrap(), words.collect())).collect()
}
