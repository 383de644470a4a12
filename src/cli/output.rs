//! What commands print. That it cannot be written makes a command fail; a reader that has gone away (`| head`) has had
//! enough, and is told nothing.

use std::io::{self, ErrorKind, IsTerminal, Write};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing_subscriber::EnvFilter;

use super::Common;

/// What was asked for could not be printed.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to stdout: {0}")]
pub struct Unwritten(#[from] io::Error);

impl Unwritten {
    /// Whether nobody reads it any more.
    pub fn reader_is_gone(&self) -> bool {
        self.0.kind() == ErrorKind::BrokenPipe
    }
}

/// Prints a line that was asked for.
pub fn say(line: impl std::fmt::Display) -> Result<(), Unwritten> {
    let mut stdout = io::stdout().lock();
    Ok(writeln!(stdout, "{line}").and_then(|()| stdout.flush())?)
}

/// Waits until nobody can read what is printed: for what may have nothing to print for long. Only a pipe has such an end.
pub async fn reader_gone() -> Unwritten {
    // SAFETY: stdout is open for as long as the process lives, and nobody here puts another file in its place.
    #[expect(unsafe_code, reason = "that an end of stdout is waited on cannot be said otherwise")]
    let stdout = unsafe { AsyncFd::register_with_interest(io::stdout(), Interest::ERROR) };
    // A file cannot be waited on.
    if let Ok(stdout) = stdout
        && stdout.ready(Interest::ERROR).await.is_ok()
    {
        return Unwritten(ErrorKind::BrokenPipe.into());
    }
    std::future::pending().await
}

/// Prints why a command failed.
pub fn complain(failure: &str) {
    beside("error", failure);
}

/// Prints what happens beside what was asked for.
pub fn note(note: &str) {
    beside("note", note);
}

/// Prints what is odd, and no reason to stop.
pub fn warn(warning: &str) {
    beside("warning", warning);
}

/// A line to stderr, in one piece: several processes may write there.
fn beside(what: &str, text: &str) {
    let _ = io::stderr().write_all(format!("{what}: {text}\n").as_bytes());
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
