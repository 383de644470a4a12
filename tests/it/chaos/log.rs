//! Keeps the history: in memory for the checker, and line by line in a file for people.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::history::{Call, End, Happening, History, Job, Limits, Moment};
use super::schedule::{Fault, Kind, kinds};

pub struct Log {
    history: Mutex<History>,
    /// How many faults of each kind there were.
    injected: Mutex<BTreeMap<Kind, usize>>,
    file: Mutex<BufWriter<File>>,
    path: PathBuf,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Job(&'a Job),
    Call(&'a Call),
    Fault { what: String, gateway: usize, store: String, from: Moment, to: Moment },
    Happening(Happening),
    End(&'a End),
}

impl Log {
    /// Writes to `history.jsonl` in this directory.
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

    pub fn happening(&self, happening: Happening) {
        self.write(&Line::Happening(happening));
        self.history().happenings.push(happening);
    }

    /// For people: what excuses anything is a happening as well.
    pub fn fault(&self, fault: &Fault, from: Moment, to: Moment) {
        let Fault { kind, gateway, store, .. } = *fault;
        self.injected(kind);
        self.write(&Line::Fault { what: kind.to_string(), gateway, store: format!("{store:?}"), from, to });
    }

    /// There was a fault of this kind.
    pub fn injected(&self, kind: Kind) {
        *self.injected.lock().unwrap_or_else(PoisonError::into_inner).entry(kind).or_default() += 1;
    }

    /// How many faults of each kind there were.
    pub fn faults(&self) -> BTreeMap<Kind, usize> {
        self.injected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn end(&self, end: End) {
        self.write(&Line::End(&end));
        self.history().ends.push(end);
    }

    /// The jobs and calls so far.
    pub fn so_far(&self) -> (usize, usize) {
        let history = self.history();
        (history.jobs.len(), history.calls.len())
    }

    /// The ids of all jobs.
    pub fn jobs(&self) -> Vec<Job> {
        self.history().jobs.clone()
    }

    /// All of it.
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
