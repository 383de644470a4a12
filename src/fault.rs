//! Fault points: named places on the way of calls where a test stalls or kills a real gateway process.
//! Compiled in by the feature `fault-points` only; a released build has nothing here.
//!
//! A test names a directory in `HIGHWATER_FAULT_DIR` and puts a file there that has the name of a point and says
//! `stall`, `kill` or `panic`. The first task that comes by takes it (the file becomes `NAME.reached`, so one order is
//! obeyed once), and then waits until that file is removed, dies with its process, or panics alone.

/// Every point, in the order in which a job passes them.
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

/// Passes the point `name`.
#[cfg(not(feature = "fault-points"))]
#[inline]
#[expect(clippy::unused_async, reason = "the other build waits here")]
pub async fn point(_name: &'static str) {}

/// Passes the point `name`, or does there what a test ordered.
///
/// # Panics
/// Where that is what it ordered.
#[cfg(feature = "fault-points")]
#[expect(unsafe_code, clippy::panic, reason = "kill(2), and what a test orders")]
pub async fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is not listed");
    let Ok(directory) = std::env::var("HIGHWATER_FAULT_DIR") else { return };
    let order = std::path::Path::new(&directory).join(name);
    let Ok(what) = std::fs::read_to_string(&order) else { return };
    let reached = order.with_file_name(format!("{name}.reached"));
    if std::fs::rename(&order, &reached).is_err() {
        return; // another task was first
    }
    match what.trim() {
        // SAFETY: signals the own process, which is always there.
        "kill" => drop(unsafe { libc::kill(libc::getpid(), libc::SIGKILL) }),
        "panic" => panic!("ordered at {name}"),
        _ => {}
    }
    while reached.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}
