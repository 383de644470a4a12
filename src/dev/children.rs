//! Processes by their ids: children, states, signals. A Postgres is many processes, each in a group of its own, so a
//! signal to a process group does not reach them.

#![expect(unsafe_code, reason = "kill(2)")]

use std::time::{Duration, Instant};

/// How long a signal that cannot be caught may take to show.
const SHOWS_WITHIN: Duration = Duration::from_secs(5);

/// What `/proc` says of a process.
struct Stat {
    state: char,
    parent: u32,
}

/// The processes whose parent is `pid`.
pub(super) fn of(pid: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|child| stat(*child).is_some_and(|stat| stat.parent == pid)).collect()
}

/// Sends `signal`; false if there is no such process.
pub(super) fn signal(pid: u32, signal: libc::c_int) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: kill(2) touches no memory of ours; `pid` is positive, so it names one process and no group.
    pid > 0 && unsafe { libc::kill(pid, signal) } == 0
}

/// Whether there is such a process, be it only to be waited for.
pub(super) fn exists(pid: u32) -> bool {
    stat(pid).is_some()
}

/// Waits until a stopped process stands still.
pub(super) fn wait_until_stopped(pid: u32) {
    let _ = wait_until(|| stat(pid).is_none_or(|stat| matches!(stat.state, 'T' | 't' | 'Z' | 'X')));
}

/// Waits until a killed process is gone, or only waits for its parent to notice; false if it takes too long.
pub(super) fn wait_until_gone(pid: u32) -> bool {
    wait_until(|| stat(pid).is_none_or(|stat| matches!(stat.state, 'Z' | 'X')))
}

fn wait_until(done: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > SHOWS_WITHIN {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

fn stat(pid: u32) -> Option<Stat> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `PID (NAME) STATE PARENT …`, where the name may hold anything, spaces and parentheses too.
fn parse(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some(Stat { state: fields.next()?.chars().next()?, parent: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_look_like_anything() {
        let stat = parse("4242 (a) R (b) S 17 4242 4242 0 -1").unwrap();
        assert_eq!((stat.state, stat.parent), ('S', 17));
        assert!(parse("4242").is_none());
    }

    #[test]
    fn children_are_found_and_are_gone_when_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(of(std::process::id()).contains(&child.id()));
        assert!(signal(child.id(), libc::SIGKILL));
        wait_until_gone(child.id());
        child.wait().unwrap();
        assert!(!of(std::process::id()).contains(&child.id()));
        assert!(!signal(0, libc::SIGKILL), "0 would be our whole process group");
    }
}
