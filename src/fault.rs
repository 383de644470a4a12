//! Fault points: named places in the code at which a test can stall, kill or panic a real gateway process. They exist
//! only in builds with the feature `fault-points`. In all other builds, [`point`] does nothing.
//!
//! A test sets the environment variable `HIGHWATER_FAULT_DIR` to a directory. In the directory it writes a file that
//! has the name of a fault point, and contains the word `stall`, `kill` or `panic`. The first task that reaches the
//! point renames the file to `NAME.reached`, so that each file takes effect once. Then the task waits until the renamed
//! file is removed, kills the process, or panics.

/// The names of all fault points, roughly in the order in which a job reaches them.
pub const POINTS: [&str; 31] = [
    "load.begun",
    "claim.checked",
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

/// Does nothing, because this build has no fault points.
#[cfg(not(feature = "fault-points"))]
#[inline]
#[expect(clippy::unused_async, reason = "waits in a build with `fault-points`")]
pub async fn point(_name: &'static str) {}

/// Waits, kills the process or panics if a test has requested that for the fault point `name`. Returns at once
/// otherwise.
///
/// # Panics
/// Panics if a test has requested a panic at this point.
#[cfg(feature = "fault-points")]
#[expect(unsafe_code, clippy::panic, reason = "a test can request kill(2) or a panic")]
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
        // SAFETY: `kill` has no effect on memory, and the process may always signal itself.
        "kill" => drop(unsafe { libc::kill(libc::getpid(), libc::SIGKILL) }),
        "panic" => panic!("a test requested a panic at {name}"),
        _ => {}
    }
    while reached.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
