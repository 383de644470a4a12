//! Which jobs a caller wants to see, and in which order.

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;

use super::JobState;

/// The jobs of a list. Serialized, it is what the tokens of its pages are bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobQuery {
    /// In one of these states; none: in any.
    pub states: Vec<JobState>,
    /// With all of these labels, with exactly these values.
    pub labels: BTreeMap<String, String>,
    /// In this order.
    pub order: JobOrder,
}

/// The order of a list of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum JobOrder {
    /// By creation, the newest first.
    NewestFirst,
    /// By end, the earliest first: only jobs that have ended.
    EarliestEndFirst {
        /// Later than this; `None`: all of them.
        ended_after: Option<OffsetDateTime>,
    },
}

impl JobQuery {
    /// Whether a job in this state is on the list.
    pub fn wants(&self, state: JobState) -> bool {
        let in_order = match self.order {
            JobOrder::NewestFirst => true,
            JobOrder::EarliestEndFirst { .. } => state.is_ended(),
        };
        in_order && (self.states.is_empty() || self.states.contains(&state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(states: &[JobState], order: JobOrder) -> Vec<JobState> {
        let query = JobQuery { states: states.to_vec(), labels: BTreeMap::new(), order };
        JobState::ALL.into_iter().filter(|state| query.wants(*state)).collect()
    }

    #[test]
    fn no_state_is_every_state_that_the_order_has() {
        let by_end = JobOrder::EarliestEndFirst { ended_after: None };
        assert_eq!(wanted(&[], JobOrder::NewestFirst), JobState::ALL);
        assert_eq!(wanted(&[], by_end), JobState::ALL[2..]);
        assert_eq!(wanted(&[JobState::Failed], by_end), [JobState::Failed]);
        assert_eq!(wanted(&[JobState::Pending], JobOrder::NewestFirst), [JobState::Pending]);
    }
}
