//! What Postgres wrote while the demo's job ran, by its own word: a private server logs every statement that modifies
//! anything before it runs it (`log_statement = mod`; its statistics lag by seconds, so they prove nothing).

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

/// How Postgres begins the log line of a statement that came as text, and of one that was prepared.
const STATEMENT: [&str; 2] = ["LOG:  statement: ", "LOG:  execute "];

/// A look at the log, from the job's start on.
pub struct Proof {
    log: PathBuf,
    /// Where the log ended when the job was known to have started.
    started: u64,
    /// Where it ended when the job was last seen running.
    last_running: u64,
}

/// The modifying statements that Postgres logged.
#[derive(Debug)]
pub struct Written {
    /// From the start to the last answer that showed the job running.
    pub while_running: Vec<String>,
    /// From there on: those that ended the job.
    pub by_the_end: Vec<String>,
}

impl Proof {
    /// Begins to look; the job has just started.
    pub fn begin(log: PathBuf) -> io::Result<Self> {
        let started = log.metadata()?.len();
        Ok(Self { log, started, last_running: started })
    }

    /// Where the log ends now: to be asked before the job is, and kept if the job still runs then.
    pub fn position(&self) -> io::Result<u64> {
        Ok(self.log.metadata()?.len())
    }

    /// At `position` the job had not ended.
    pub fn ran_at(&mut self, position: u64) {
        self.last_running = position;
    }

    /// What was logged since.
    pub fn end(&self) -> io::Result<Written> {
        let mut log = File::open(&self.log)?;
        log.seek(SeekFrom::Start(self.started))?;
        let mut bytes = Vec::new();
        log.read_to_end(&mut bytes)?;
        let running = usize::try_from(self.last_running - self.started).unwrap_or_default().min(bytes.len());
        let (running, end) = bytes.split_at(running);
        Ok(Written { while_running: statements(running), by_the_end: statements(end) })
    }
}

/// The first line of each statement.
fn statements(log: &[u8]) -> Vec<String> {
    let statement =
        |line: &str| STATEMENT.iter().find_map(|begin| Some(line[line.find(begin)? + begin.len()..].trim().to_owned()));
    String::from_utf8_lossy(log).lines().filter_map(statement).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_found_before_and_after_the_job_was_last_seen_running() -> io::Result<()> {
        let path = std::env::temp_dir().join(format!("highwater-proof-{}", std::process::id()));
        let append = |line: &str| std::fs::write(&path, std::fs::read_to_string(&path).unwrap_or_default() + line);
        append("… LOG:  statement: INSERT INTO jobs\n")?;
        let mut proof = Proof::begin(path.clone())?;
        append("… LOG:  checkpoint starting: time\n… LOG:  execute s_1: DELETE\n\tFROM jobs\n")?;
        proof.ran_at(proof.position()?);
        append("… LOG:  execute s_2: UPDATE jobs\n")?;
        let written = proof.end()?;
        assert_eq!(written.while_running, ["s_1: DELETE"]);
        assert_eq!(written.by_the_end, ["s_2: UPDATE jobs"]);
        std::fs::remove_file(path)
    }
}
