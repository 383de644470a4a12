//! Stores the errors of a job: the newest samples, and a count of each code. Errors are best effort: they are stored
//! separately from the marks, and nothing depends on their accuracy. A failure here never fails a report or a read.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use redis::{Pipeline, Value};

use super::scripts::Call;
use super::{Error, Live, scripts, ttl_millis};
use crate::deadline::Deadline;
use crate::domain::{ErrorSample, Errors, JobId, MAX_ERROR_SAMPLES};

/// The maximum number of distinct codes that are counted separately.
const COUNTED_CODES: usize = 64;
/// The code under which all further codes are counted, here and in `record_errors.lua`.
const OTHER_CODES: &str = "OTHER";
/// The number of replies to the commands that [`Live::ask_errors`] adds to a pipeline.
pub(super) const ANSWERS: usize = 2;

impl Live {
    /// Records new errors. `errors` are ordered from oldest to newest.
    pub async fn record_errors(&self, id: &JobId, errors: &[ErrorSample], deadline: Deadline) -> Result<(), Error> {
        let counts = counts(errors);
        let newest = &errors[errors.len().saturating_sub(MAX_ERROR_SAMPLES)..];
        let mut call = Call::of(&scripts::RECORD_ERRORS, &[self.keys.error_samples(id), self.keys.error_counts(id)]);
        call.arg(MAX_ERROR_SAMPLES).arg(COUNTED_CODES).arg(ttl_millis(self.tracker_ttl)).arg(newest.len());
        for sample in newest {
            call.arg(serde_json::to_vec(sample).map_err(|error| Error::Unexpected(error.to_string()))?);
        }
        for (code, count) in counts {
            call.arg(code).arg(count);
        }
        self.connection.script::<Value>(&call, deadline).await.map(drop)
    }

    /// Adds commands that read a job's errors, with at most `samples` of the newest samples.
    pub(super) fn ask_errors(&self, commands: &mut Pipeline, id: &JobId, samples: usize) {
        // Without samples, the range begins after its end, so that LRANGE returns no elements.
        let first = if samples == 0 { MAX_ERROR_SAMPLES } else { 0 };
        commands.cmd("LRANGE").arg(self.keys.error_samples(id)).arg(first).arg(samples.max(1) - 1);
        commands.cmd("HGETALL").arg(self.keys.error_counts(id));
    }
}

/// Counts the errors by code, most frequent first. Codes beyond the first [`COUNTED_CODES`] are summed up as
/// [`OTHER_CODES`], which bounds the work of the script.
fn counts(errors: &[ErrorSample]) -> Vec<(&str, u64)> {
    let mut by_code: BTreeMap<&str, u64> = BTreeMap::new();
    for error in errors {
        *by_code.entry(&error.code).or_default() += 1;
    }
    let mut counts: Vec<_> = by_code.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    let others: u64 = counts.split_off(counts.len().min(COUNTED_CODES)).into_iter().map(|(_, count)| count).sum();
    if others > 0 {
        counts.push((OTHER_CODES, others));
    }
    counts
}

/// Parses the replies to the commands of [`Live::ask_errors`]. Leaves out values that cannot be parsed.
pub(super) fn read(mut answers: impl Iterator<Item = Value>) -> Errors {
    let mut next = || answers.next().unwrap_or_default();
    let samples: Vec<Vec<u8>> = redis::from_redis_value(next()).unwrap_or_default();
    let counts: BTreeMap<String, u64> = redis::from_redis_value(next()).unwrap_or_default();
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    Errors { counts, samples: samples.iter().filter_map(|sample| serde_json::from_slice(sample).ok()).collect() }
}
