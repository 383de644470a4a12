//! What a process used of the machine.

use std::fs;
use std::time::Duration;

use crate::Result;

/// What `/proc` counts CPU time in: a hundredth of a second, on every Linux that Rust's std knows.
const TICK: Duration = Duration::from_millis(10);
const PAGE_BYTES: u64 = 4096;

/// The CPU time that a process has used, with its children, also those that have ended.
pub fn cpu(pid: u32) -> Result<Duration> {
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

/// The memory that a process holds, in bytes.
pub fn resident(pid: u32) -> Result<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split(' ').nth(1).ok_or("statm has no second field")?.parse()?;
    Ok(pages * PAGE_BYTES)
}

/// The fields behind the name, which may have spaces: the first is the state, the second the parent.
fn fields(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map(|(_, behind)| behind.split_whitespace().collect()).unwrap_or_default()
}

fn number(fields: &[&str], place: usize) -> u64 {
    fields.get(place).and_then(|field| field.parse().ok()).unwrap_or(0)
}
