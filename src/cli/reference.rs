//! The reference of settings and measures, written from their definitions: what docs/reference.md is made of.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Arg, Command};

use super::Failure;
use super::output::say;
use crate::config::sources;
use crate::server::{METRICS, Metric};

/// The name of the command; hidden, for it is for the docs alone.
pub const COMMAND: &str = "reference";

const PREAMBLE: &str = "\
# Reference

Written by the program itself (`./dev reference`); a test holds it and the program together.

## Settings

Each is a flag (`--redis-url`), a variable (`HIGHWATER_REDIS_URL`) or a line of the TOML file that `--config` names
(`redis-url`). A flag wins over a variable, a variable over the file. Durations are written 500ms, 2s, 1h30m or 7d, sizes
65536, 512KiB or 8MiB.
";

const MEASURES: &str = "
## Metrics

At `/metrics` of the admin port, as Prometheus reads them. No label names a job, a task or a caller.

| metric | kind | labels | what it says |
|---|---|---|---|
";

/// Prints it.
pub fn run(command: &Command) -> Result<ExitCode, Failure> {
    say(written(command).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

fn written(command: &Command) -> String {
    let metrics: String = METRICS.iter().map(metric).collect();
    format!("{PREAMBLE}{}{MEASURES}{metrics}", settings(command))
}

/// A table for each heading, in the order in which the commands have them; a setting of several commands stands once.
fn settings(command: &Command) -> String {
    let mut order = Vec::new();
    let mut rows: BTreeMap<&str, Vec<(&Arg, Vec<&str>)>> = BTreeMap::new();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        for arg in sub.get_arguments().filter(|arg| sources::is_setting(arg)) {
            let heading = arg.get_help_heading().unwrap_or("Of single commands");
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
        format!("\n### {heading}\n\n| setting | default | what it says | commands |\n|---|---|---|---|\n{rows}")
    };
    order.into_iter().map(table).collect()
}

fn row(arg: &Arg, commands: &[&str]) -> String {
    let name = arg.get_long().unwrap_or_default();
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string).unwrap_or_default();
    // A cell is one line.
    let paragraphs = help.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let help = paragraphs.collect::<Vec<_>>().join("<br>").replace('|', "\\|");
    let (help, told) = match help.split_once(" [default: ") {
        Some((before, rest)) => rest
            .split_once(']')
            .map_or((help.clone(), None), |(default, after)| (format!("{before}{after}"), Some(default.to_owned()))),
        None => (help, None),
    };
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let default = match told {
        Some(told) => told,
        None if arg.is_required_set() => "must be given".to_owned(),
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
