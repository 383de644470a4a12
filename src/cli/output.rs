//! What commands print. A reader that has gone away (`| head`) is not worth a panic.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use super::Common;

/// Prints a line that was asked for.
pub fn say(line: impl std::fmt::Display) {
    let mut stdout = io::stdout().lock();
    let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// Prints why a command failed.
pub fn complain(failure: &str) {
    let _ = writeln!(io::stderr().lock(), "error: {failure}");
}

/// Prints what is odd, and no reason to stop.
pub fn warn(warning: &str) {
    let _ = writeln!(io::stderr().lock(), "warning: {warning}");
}

/// How this program was called, for lines that people can copy.
pub fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "highwater".to_owned())
}

/// What a server logs: sqlx's notices are about its own bookkeeping.
pub const SERVER_LOG: &str = "info,sqlx=warn";
/// What a command logs that people look at for other things; sqlx warns of connections that break when a private Postgres
/// is stopped.
pub const QUIET_LOG: &str = "warn,sqlx=error";

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people, with colours on a terminal
    #[default]
    Text,
    /// An object a line, for whoever collects logs
    Json,
}

/// Starts logging to stderr.
pub fn start_log(flags: &Common, default: &str) {
    let filter = flags.log.clone().unwrap_or_else(|| EnvFilter::new(default));
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Only a second call could fail.
    let _ = match flags.log_format {
        LogFormat::Text => log.with_ansi(colours).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
}
