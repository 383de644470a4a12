//! Output of commands: results on stdout, messages and the log on stderr.
//!
//! A command that cannot write its result fails. If stdout is a pipe whose reader has closed it (`| head`), the command
//! ends without a message.

use std::io::{self, ErrorKind, IsTerminal, Write};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing_subscriber::{EnvFilter, reload};

use super::Common;

/// The result of a command could not be written to stdout.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to stdout: {0}")]
pub struct OutputError(#[from] io::Error);

impl OutputError {
    /// Whether stdout is a pipe whose reader has closed it.
    pub fn is_closed_pipe(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// Prints one line of the result to stdout and flushes it.
pub fn print_line(line: impl std::fmt::Display) -> Result<(), OutputError> {
    let mut stdout = io::stdout().lock();
    Ok(writeln!(stdout, "{line}").and_then(|()| stdout.flush())?)
}

/// Waits until the reader of stdout closes the pipe. Waits forever if stdout is not a pipe.
///
/// This is for commands that may have nothing to print for a long time. Without it, they would not notice that their
/// reader has exited.
pub async fn stdout_closed() -> OutputError {
    // SAFETY: stdout stays open until the process exits, and this program never replaces its file descriptor.
    #[expect(unsafe_code, reason = "AsyncFd has no safe constructor for a descriptor that it does not own")]
    let stdout = unsafe { AsyncFd::register_with_interest(io::stdout(), Interest::ERROR) };
    // Registering a regular file fails.
    if let Ok(stdout) = stdout
        && stdout.ready(Interest::ERROR).await.is_ok()
    {
        return OutputError(ErrorKind::BrokenPipe.into());
    }
    std::future::pending().await
}

/// Prints to stderr why a command failed.
pub fn error(failure: &str) {
    print_to_stderr("error", failure);
}

/// Prints to stderr what a command is doing, such as a retry.
pub fn note(note: &str) {
    print_to_stderr("note", note);
}

/// Prints to stderr a problem that does not stop the command.
pub fn warn(warning: &str) {
    print_to_stderr("warning", warning);
}

/// Writes the line in one call, because several processes may write to the same stderr.
fn print_to_stderr(kind: &str, text: &str) {
    let _ = io::stderr().write_all(format!("{kind}: {text}\n").as_bytes());
}

/// Returns the path by which this program was called, for command lines that users can copy.
#[cfg(feature = "private-servers")]
pub fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "highwater".to_owned())
}

/// Default log filter of servers. At `info`, sqlx would log notices about its own migrations table.
pub const SERVER_LOG_FILTER: &str = "info,sqlx=warn";
/// Default log filter of other commands. At `warn`, sqlx would log connections that break when a private Postgres
/// stops.
pub const QUIET_LOG_FILTER: &str = "warn,sqlx=error";

/// Format of the log.
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines of text, coloured on a terminal
    #[default]
    Text,
    /// One JSON object per line, for log collectors
    Json,
}

/// Replaces the filter of the log while the program runs.
pub struct FilterReload(Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>);

impl FilterReload {
    /// Uses this filter from now on.
    pub fn apply(&self, filter: EnvFilter) -> Result<(), reload::Error> {
        (self.0)(filter)
    }
}

/// Returns the filter from the flags or, if they set none, the filter `default`.
pub fn log_filter(flags: &Common, default: &str) -> EnvFilter {
    flags.log.clone().unwrap_or_else(|| EnvFilter::new(default))
}

/// Starts logging to stderr, with the filter from the flags or, if they set none, with `default`.
pub fn init_log(flags: &Common, default: &str) -> FilterReload {
    let filter = log_filter(flags, default);
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // Installing a subscriber fails only if one is already installed.
    match flags.log_format {
        LogFormat::Text => {
            let log = log.with_ansi(colours).with_filter_reloading();
            let reload = log.reload_handle();
            let _ = log.try_init();
            FilterReload(Box::new(move |filter| reload.reload(filter)))
        }
        LogFormat::Json => {
            let log = log.json().flatten_event(true).with_filter_reloading();
            let reload = log.reload_handle();
            let _ = log.try_init();
            FilterReload(Box::new(move |filter| reload.reload(filter)))
        }
    }
}
