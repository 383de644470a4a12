//! Generates docs/reference.md from the definitions of the settings and metrics.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Arg, Command};

use super::Failure;
use super::output::print_line;
use crate::config::sources;
use crate::server::{METRICS, Metric};

/// Name of the command, which is hidden because only `./dev reference` uses it.
pub const COMMAND: &str = "reference";

const PREAMBLE: &str = "\
# Reference

`./dev reference` generates this page from the program, and a test checks that it is up to date.

## Settings

Each setting is a flag (`--redis-url`), an environment variable (`HIGHWATER_REDIS_URL`) or a line of the TOML file given
by `--config` (`redis-url`). Flags override variables, and variables override the file. Durations are written as 500ms,
2s, 1h30m or 7d, and sizes as 65536, 512KiB or 8MiB.
";

const METRICS_HEADER: &str = "
## Metrics

The admin port serves the metrics at `/metrics` in the Prometheus text format. No label contains a job, a task or a
client.

| metric | kind | labels | meaning |
|---|---|---|---|
";

/// Prints the reference.
pub fn run(command: &Command) -> Result<ExitCode, Failure> {
    print_line(reference(command).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn reference(command: &Command) -> String {
    let metrics: String = METRICS.iter().map(metric).collect();
    format!("{PREAMBLE}{}{METRICS_HEADER}{metrics}", settings(command))
}

/// Returns one table per help heading, in the order of the commands. A setting of several commands is listed once.
fn settings(command: &Command) -> String {
    let mut order = Vec::new();
    let mut rows: BTreeMap<&str, Vec<(&Arg, Vec<&str>)>> = BTreeMap::new();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        for arg in sub.get_arguments().filter(|arg| sources::is_setting(arg)) {
            let heading = arg.get_help_heading().unwrap_or("Other");
            if !order.contains(&heading) {
                order.push(heading);
            }
            let rows = rows.entry(heading).or_default();
            match rows.iter_mut().find(|(known, _)| known.get_long() == arg.get_long()) {
                Some((_, commands)) => commands.push(sub.get_name()),
                None => rows.push((arg, vec![sub.get_name()])),
            }
        }
    }
    let table = |heading: &str| {
        let rows: String = rows.get(heading).into_iter().flatten().map(|(arg, commands)| row(arg, commands)).collect();
        format!("\n### {heading}\n\n| setting | default | meaning | commands |\n|---|---|---|---|\n{rows}")
    };
    order.into_iter().map(table).collect()
}

fn row(arg: &Arg, commands: &[&str]) -> String {
    let name = arg.get_long().unwrap_or_default();
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    // A table cell must be one line.
    let paragraphs = help.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let help = paragraphs.collect::<Vec<_>>().join("<br>").replace('|', "\\|");
    let (help, stated_default) = match help.split_once(" [default: ") {
        Some((before, rest)) => rest
            .split_once(']')
            .map_or((help.clone(), None), |(default, after)| (format!("{before}{after}"), Some(default.to_owned()))),
        None => (help, None),
    };
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match stated_default {
        Some(default) => default,
        None if arg.is_required_set() => "required".to_owned(),
        None if !arg.get_action().takes_values() => "`false`".to_owned(),
        None => {
            defaults.first().filter(|value| !value.is_empty()).map_or_else(String::new, |value| format!("`{value}`"))
        }
    };
    format!("| `{name}` | {default} | {help} | {} |\n", commands.join(", "))
}

fn metric(metric: &Metric) -> String {
    let Metric { name, kind, labels, help } = metric;
    let kind = format!("{kind:?}").to_lowercase();
    let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "))
}
