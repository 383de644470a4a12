//! Processes by ID: their children, states and signals. Every process of a Postgres has a process group of its own, so
//! signals must be sent to each process instead of to the group.

#![expect(unsafe_code, reason = "kill(2)")]

use std::time::{Duration, Instant};

/// Maximum time until a signal that cannot be caught takes effect.
const SIGNAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Fields of `/proc/PID/stat`.
struct Stat {
    state: char,
    parent: u32,
}

/// Returns the processes whose parent is `pid`.
pub(super) fn children_of(pid: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|child| stat(*child).is_some_and(|stat| stat.parent == pid)).collect()
}

/// Sends `signal` to a process. Returns false if this fails, usually because the process does not exist.
pub(super) fn signal(pid: u32, signal: libc::c_int) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: kill(2) accesses no memory; `pid` is positive, so it names one process and no group.
    pid > 0 && unsafe { libc::kill(pid, signal) } == 0
}

/// Whether the process exists. A zombie counts as existing.
pub(super) fn exists(pid: u32) -> bool {
    stat(pid).is_some()
}

/// Waits until the kernel has stopped a process that was sent SIGSTOP.
pub(super) fn wait_until_stopped(pid: u32) {
    let _ = wait_until(|| stat(pid).is_none_or(|stat| matches!(stat.state, 'T' | 't' | 'Z' | 'X')));
}

/// Waits until a killed process is gone or has become a zombie. Returns false after a timeout.
pub(super) fn wait_until_gone(pid: u32) -> bool {
    wait_until(|| stat(pid).is_none_or(|stat| matches!(stat.state, 'Z' | 'X')))
}

fn wait_until(done: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > SIGNAL_TIMEOUT {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses `PID (NAME) STATE PARENT …`. The name may contain any character, including spaces and parentheses.
fn parse(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some(Stat { state: fields.next()?.chars().next()?, parent: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_names_may_contain_parentheses_and_spaces() {
        let stat = parse("4242 (a) R (b) S 17 4242 4242 0 -1").unwrap();
        assert_eq!((stat.state, stat.parent), ('S', 17));
        assert!(parse("4242").is_none());
    }

    #[test]
    fn children_are_listed_until_they_are_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children_of(std::process::id()).contains(&child.id()));
        assert!(signal(child.id(), libc::SIGKILL));
        wait_until_gone(child.id());
        child.wait().unwrap();
        assert!(!children_of(std::process::id()).contains(&child.id()));
        assert!(!signal(0, libc::SIGKILL), "0 would be our whole process group");
    }
}
