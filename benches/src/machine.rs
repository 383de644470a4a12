//! The machine and the date of a run, for the pages.

use std::fs;
use std::process::Command;

/// One line: processor, cores, memory, kernel, Redis version, and the load before the run.
pub fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo.lines().next().and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{model}, {cores} cores, {} GiB, Linux {}, {}; load before the run {}",
        kib >> 20,
        kernel.trim(),
        redis(),
        load.split(' ').next().unwrap_or_default()
    )
}

/// Today's date, as `2026-11-28`.
pub fn today() -> String {
    first_line(Command::new("date").arg("+%Y-%m-%d"))
}

fn redis() -> String {
    let version = first_line(Command::new("redis-server").arg("--version"));
    let version = version.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or("?").to_owned();
    format!("Redis {version}")
}

fn first_line(command: &mut Command) -> String {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().next().unwrap_or_default().to_owned()
}
