//! Fault points: named places in the code where a test can stall, kill or panic a real gateway process. Compiled in
//! only with the feature `fault-points`; in release builds [`point`] does nothing.
//!
//! A test sets `HIGHWATER_FAULT_DIR` to a directory, and writes a file with the name of a point that contains `stall`,
//! `kill` or `panic`. The first task that reaches the point renames the file to `NAME.reached`, so that each file takes
//! effect once. Then it waits until that file is removed, kills the process, or panics.

/// The names of all fault points, in the order in which a job reaches them.
pub const POINTS: [&str; 29] = [
    "grow.locked",
    "grow.written",
    "grow.committed",
    "start.begun",
    "start.issued",
    "start.opened",
    "start.committed",
    "start.adopted",
    "round.joined",
    "report.computed",
    "report.marked",
    "report.confirmed",
    "read.looked",
    "record.begun",
    "record.done",
    "drain.merged",
    "restore.begun",
    "restore.issued",
    "restore.opened",
    "cancel.checked",
    "revoke.checked",
    "revoke.sealed",
    "finish.begun",
    "finish.sealed",
    "finish.read",
    "commit.locked",
    "commit.written",
    "finish.committed",
    "finish.expired",
];

/// Does nothing in this build.
#[cfg(not(feature = "fault-points"))]
#[inline]
#[expect(clippy::unused_async, reason = "waits in a build with `fault-points`")]
pub async fn point(_name: &'static str) {}

/// Marks the fault point `name`, where a test can make this task wait, kill the process, or panic.
///
/// # Panics
/// If a test requested it.
#[cfg(feature = "fault-points")]
#[expect(unsafe_code, clippy::panic, reason = "kill(2) and panics, where a test requests them")]
pub async fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is not listed");
    let Ok(directory) = std::env::var("HIGHWATER_FAULT_DIR") else { return };
    let request = std::path::Path::new(&directory).join(name);
    let Ok(action) = std::fs::read_to_string(&request) else { return };
    let reached = request.with_file_name(format!("{name}.reached"));
    if std::fs::rename(&request, &reached).is_err() {
        return; // another task renamed it first
    }
    match action.trim() {
        // SAFETY: has no memory effects; the process can always signal itself.
        "kill" => drop(unsafe { libc::kill(libc::getpid(), libc::SIGKILL) }),
        "panic" => panic!("a test requested a panic at {name}"),
        _ => {}
    }
    while reached.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
