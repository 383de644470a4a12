//! Records the history: in memory for the checker, and as lines of JSON in a file for people.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::history::{Call, End, History, Incident, Job, Limits, Moment};
use super::schedule::{Fault, FaultKind, kinds};

pub struct Log {
    history: Mutex<History>,
    /// The number of injected faults of each kind.
    injected: Mutex<BTreeMap<FaultKind, usize>>,
    file: Mutex<BufWriter<File>>,
    path: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Job(&'a Job),
    Call(&'a Call),
    Fault { kind: String, gateway: usize, store: String, from: Moment, to: Moment },
    Incident(Incident),
    End(&'a End),
}

impl Log {
    /// Creates a log that writes to `history.jsonl` in this directory.
    pub fn create(directory: &Path, limits: Limits) -> Self {
        let path = directory.join("history.jsonl");
        let file = BufWriter::new(File::create(&path).unwrap());
        let history = Mutex::new(History { limits, ..History::default() });
        let injected = Mutex::new(kinds().map(|kind| (kind, 0)).collect());
        Self { history, injected, file: Mutex::new(file), path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn job(&self, job: Job) {
        self.write(&Line::Job(&job));
        self.history().jobs.push(job);
    }

    pub fn call(&self, call: Call) {
        self.write(&Line::Call(&call));
        self.history().calls.push(call);
    }

    pub fn incident(&self, incident: Incident) {
        self.write(&Line::Incident(incident));
        self.history().incidents.push(incident);
    }

    /// Records an injected fault for people. A fault that excuses violations must be recorded as an incident as well.
    pub fn fault(&self, fault: &Fault, from: Moment, to: Moment) {
        let Fault { kind, gateway, store, .. } = *fault;
        self.count_fault(kind);
        self.write(&Line::Fault { kind: kind.to_string(), gateway, store: format!("{store:?}"), from, to });
    }

    /// Counts an injected fault of this kind.
    pub fn count_fault(&self, kind: FaultKind) {
        *self.injected.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    /// The number of injected faults of each kind.
    pub fn fault_counts(&self) -> BTreeMap<FaultKind, usize> {
        self.injected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn end(&self, end: End) {
        self.write(&Line::End(&end));
        self.history().ends.push(end);
    }

    /// The numbers of jobs and of calls so far.
    pub fn job_and_call_counts(&self) -> (usize, usize) {
        let history = self.history();
        (history.jobs.len(), history.calls.len())
    }

    /// All jobs that were created so far.
    pub fn jobs(&self) -> Vec<Job> {
        self.history().jobs.clone()
    }

    /// Flushes the file and returns the history.
    pub fn finish(&self) -> History {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).flush().unwrap();
        std::mem::take(&mut self.history())
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, line: &Line<'_>) {
        let text = serde_json::to_string(line).unwrap();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{text}").unwrap();
    }
}
