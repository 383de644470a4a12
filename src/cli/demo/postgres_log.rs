//! The statements that Postgres logged while the demo's job ran.
//!
//! The private Postgres logs every modifying statement before it executes the statement (`log_statement = mod`). The
//! statistics of Postgres would not prove anything, because they lag by seconds.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// Prefixes of the log line of a simple statement and of a prepared statement.
const STATEMENT_PREFIXES: [&str; 2] = ["LOG:  statement: ", "LOG:  execute "];

/// Reads the part of the log that was written since the job started.
pub struct PostgresLog {
    path: PathBuf,
    /// Length of the log when the job was known to have started.
    started: u64,
    /// Length of the log when the job was last known to have pending tasks, so that its end had not begun.
    last_incomplete: u64,
}

/// The modifying statements that Postgres logged.
#[derive(Debug)]
pub struct Statements {
    /// The statements from the start of the job to the last answer that showed pending tasks.
    pub while_running: Vec<String>,
    /// The later statements, which ended the job.
    pub at_end: Vec<String>,
}

impl PostgresLog {
    /// Begins at the current end of the log. Call this when the job has just started.
    pub fn begin(path: PathBuf) -> io::Result<Self> {
        let started = path.metadata()?.len();
        Ok(Self { path, started, last_incomplete: started })
    }

    /// Returns the current length of the log. Call this before a read of the job, and pass the length to
    /// [`PostgresLog::was_incomplete_at`] if the read shows pending tasks.
    pub fn position(&self) -> io::Result<u64> {
        Ok(self.path.metadata()?.len())
    }

    /// Records that the end of the job had not begun at `position`.
    pub fn was_incomplete_at(&mut self, position: u64) {
        self.last_incomplete = position;
    }

    /// Returns the statements that were logged since the job started.
    pub fn statements(&self) -> io::Result<Statements> {
        let mut log = File::open(&self.path)?;
        log.seek(SeekFrom::Start(self.started))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        let running = usize::try_from(self.last_incomplete - self.started).unwrap_or_default().min(bytes.len());
        let (running, end) = bytes.split_at(running);
        Ok(Statements { while_running: parse(running), at_end: parse(end) })
    }
}

/// Returns the first line of each statement.
fn parse(log: &[u8]) -> Vec<String> {
    let statement = |line: &str| {
        let mut prefixes = STATEMENT_PREFIXES.iter();
        prefixes.find_map(|prefix| Some(line[line.find(prefix)? + prefix.len()..].trim().to_owned()))
    };
    String::from_utf8_lossy(log).lines().filter_map(statement).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_split_at_the_last_position_where_the_job_was_incomplete() -> io::Result<()> {
        let path = std::env::temp_dir().join(format!("highwater-postgres-log-{}", std::process::id()));
        let append = |line: &str| std::fs::write(&path, std::fs::read_to_string(&path).unwrap_or_default() + line);
        append("… LOG:  statement: INSERT INTO jobs\n")?;
        let mut log = PostgresLog::begin(path.clone())?;
        append("… LOG:  checkpoint starting: time\n… LOG:  execute s_1: DELETE\n\tFROM jobs\n")?;
        log.was_incomplete_at(log.position()?);
        append("… LOG:  execute s_2: UPDATE jobs\n")?;
        let statements = log.statements()?;
        assert_eq!(statements.while_running, ["s_1: DELETE"]);
        assert_eq!(statements.at_end, ["s_2: UPDATE jobs"]);
        std::fs::remove_file(path)
    }
}
