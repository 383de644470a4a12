//! The newest errors of a job and how often each code came: best effort, beside the marks and never needed to be
//! right. A fault here is no fault of a report or a read.

use std::collections::BTreeMap;

use redis::{Pipeline, Value};

use super::{Error, Live, keys, scripts, ttl_millis};
use crate::deadline::Deadline;
use crate::domain::{ErrorSample, Errors, JobId, KEPT_SAMPLES};

/// How many different codes are counted apart.
const COUNTED_CODES: usize = 64;
/// How many answers [`ask`] adds to a pipeline.
pub(super) const ANSWERS: usize = 2;

impl Live {
    /// Notes new errors, oldest first.
    pub async fn note_errors(&self, id: &JobId, errors: &[ErrorSample], deadline: Deadline) -> Result<(), Error> {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for error in errors {
            *counts.entry(&error.code).or_default() += 1;
        }
        let newest = &errors[errors.len().saturating_sub(KEPT_SAMPLES)..];
        let mut call = scripts::NOTE_ERRORS.key(keys::error_samples(id));
        call.key(keys::error_counts(id));
        call.arg(KEPT_SAMPLES).arg(COUNTED_CODES).arg(ttl_millis(self.tracker_ttl)).arg(newest.len());
        for sample in newest {
            call.arg(serde_json::to_vec(sample).map_err(|error| Error::Unexpected(error.to_string()))?);
        }
        for (code, count) in counts {
            call.arg(code).arg(count);
        }
        self.connection.script::<Value>(&call, deadline).await.map(drop)
    }
}

/// Asks for what was noted.
pub(super) fn ask(commands: &mut Pipeline, id: &JobId) {
    commands.cmd("LRANGE").arg(keys::error_samples(id)).arg(0).arg(-1);
    commands.cmd("HGETALL").arg(keys::error_counts(id));
}

/// Reads what [`ask`] asked; what cannot be read is left out.
pub(super) fn read(mut answers: impl Iterator<Item = Value>) -> Errors {
    let mut next = || answers.next().unwrap_or_default();
    let samples: Vec<Vec<u8>> = redis::from_redis_value(next()).unwrap_or_default();
    let counts: BTreeMap<String, u64> = redis::from_redis_value(next()).unwrap_or_default();
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Errors { counts, samples: samples.iter().filter_map(|sample| serde_json::from_slice(sample).ok()).collect() }
}
