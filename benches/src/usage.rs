//! CPU time and memory of a process, from `/proc`.

use std::fs;
use std::time::Duration;

use crate::Result;

/// The unit of CPU time in `/proc`: 10 ms on every Linux that Rust's std supports.
const TICK: Duration = Duration::from_millis(10);
const PAGE_BYTES: u64 = 4096;

/// The CPU time of a process and its children, including children that have ended.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut ticks = 0;
    for entry in fs::read_dir("/proc")?.filter_map(std::result::Result::ok) {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let fields = fields(&stat);
        let (own, parent) = (entry.file_name().to_str() == Some(&pid.to_string()), fields.get(1));
        if own {
            ticks += number(&fields, 11) + number(&fields, 12) + number(&fields, 13) + number(&fields, 14);
        } else if parent.is_some_and(|parent| *parent == pid.to_string()) {
            ticks += number(&fields, 11) + number(&fields, 12);
        }
    }
    Ok(TICK * u32::try_from(ticks)?)
}

/// The resident memory (RSS) of a process, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).ok_or("statm has no second field")?.parse()?;
    Ok(pages * PAGE_BYTES)
}

/// The fields after the process name, which may contain spaces. The first is the state, the second the parent.
fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map(|(_, fields)| fields.split_whitespace().collect()).unwrap_or_default()
}

fn number(fields: &[&str], index: usize) -> u64 {
    fields.get(index).and_then(|field| field.parse().ok()).unwrap_or(0)
}
