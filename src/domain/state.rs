//! The states of a job, the allowed transitions, and the final state of a complete job (invariants I1, I2).

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::StageCounts;

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum JobState {
    /// The job is created but not started.
    Pending,
    /// The job is started.
    Running,
    /// The job is complete, and the share of failed tasks is within its failure threshold.
    Succeeded,
    /// The job is complete, and the share of failed tasks exceeds its failure threshold.
    Failed,
    /// A caller cancelled the job.
    Cancelled,
    /// The job made no progress for its stall timeout.
    Revoked,
}

/// Why a job ends. The seal of a tracker contains the cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndCause {
    /// Nothing is pending. The verdict decides between SUCCEEDED and FAILED.
    Complete,
    /// A caller cancelled the job.
    Cancelled,
    /// The job made no progress for its stall timeout.
    Revoked,
}

impl JobState {
    /// All states, in the order of a job's life.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Revoked];

    /// Returns whether the state is final.
    pub const fn is_ended(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// Returns whether the state of a job may change from this state to `next`. A final state never changes (I1).
    pub const fn can_become(self, next: Self) -> bool {
        match self {
            // A job without tasks succeeds at its start.
            Self::Pending => matches!(next, Self::Running | Self::Cancelled | Self::Succeeded),
            Self::Running => next.is_ended(),
            _ => false,
        }
    }

    /// Returns whether the job is running, so that reports can change its outcome.
    pub const fn takes_reports(self) -> bool {
        self.can_become(Self::Failed)
    }

    /// Returns the name of the state in Postgres and in messages. The API adds a prefix to the name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::Revoked => "REVOKED",
        }
    }
}

/// The text is not the name of a job state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a job state")]
pub struct UnknownState(String);

impl FromStr for JobState {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == word).ok_or_else(|| UnknownState(word.to_owned()))
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the final state of a complete job: FAILED if the share of failed tasks is greater than `threshold`, else
/// SUCCEEDED. `last` holds the counts of the last stage. A task that was skipped at the last stage failed at an earlier
/// stage, so it counts as failed.
pub fn complete_state(last: StageCounts, total: u32, threshold: f64) -> JobState {
    let failed = last.failed + last.skipped;
    // The comparison of quotients is exact for decimal thresholds. If failed / total equals a threshold such as 0.29,
    // both round to the same double, but threshold × total may differ from failed.
    if total > 0 && f64::from(failed) / f64::from(total) > threshold { JobState::Failed } else { JobState::Succeeded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_states_allow_no_transition() {
        for from in JobState::ALL.into_iter().filter(|state| state.is_ended()) {
            assert!(JobState::ALL.into_iter().all(|to| !from.can_become(to)), "{from}");
        }
    }

    #[test]
    fn transitions_never_go_back_or_skip_the_start() {
        assert!(!JobState::Running.can_become(JobState::Pending));
        assert!(!JobState::Running.can_become(JobState::Running));
        assert!(!JobState::Pending.can_become(JobState::Failed));
    }

    fn ends(failed: u32, skipped: u32, total: u32, threshold: f64) -> JobState {
        complete_state(StageCounts { succeeded: total - failed - skipped, failed, skipped }, total, threshold)
    }

    #[test]
    fn exactly_the_threshold_succeeds_and_one_more_fails() {
        assert_eq!(ends(5, 0, 10, 0.5), JobState::Succeeded);
        assert_eq!(ends(6, 0, 10, 0.5), JobState::Failed);
        assert_eq!(ends(3, 3, 10, 0.5), JobState::Failed);
    }

    #[test]
    fn decimal_thresholds_are_exact() {
        for hundredths in 0..=100_u32 {
            let threshold: f64 = format!("0.{hundredths:02}").replace("0.100", "1.0").parse().unwrap();
            assert_eq!(ends(hundredths, 0, 100, threshold), JobState::Succeeded, "{threshold}");
            if hundredths < 100 {
                assert_eq!(ends(hundredths + 1, 0, 100, threshold), JobState::Failed, "{threshold}");
            }
        }
    }

    #[test]
    fn state_names_round_trip() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("running".parse::<JobState>().is_err());
    }
}
