//! The filter and order of a list of jobs.

use std::collections::BTreeMap;

use serde::Serialize;
use time::OffsetDateTime;

use super::JobState;

/// The filter and order of a list of jobs. Page tokens are bound to its serialized form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JobQuery {
    /// Only jobs in these states are listed. If `states` is empty, jobs in every state are listed.
    pub states: Vec<JobState>,
    /// Only jobs that have all these labels, with exactly these values, are listed.
    pub labels: BTreeMap<String, String>,
    /// The order of the list.
    pub order: JobOrder,
}

/// The order of a list of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum JobOrder {
    /// By creation time, newest first.
    NewestFirst,
    /// By end time, earliest first. Only jobs that have ended are listed.
    EarliestEndFirst {
        /// Only jobs that ended after this time are listed. If `None`, all ended jobs are listed.
        ended_after: Option<OffsetDateTime>,
    },
}

impl JobQuery {
    /// Returns whether the list contains jobs in this state.
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
    fn empty_state_filter_lists_every_state_that_the_order_allows() {
        let by_end = JobOrder::EarliestEndFirst { ended_after: None };
        assert_eq!(wanted(&[], JobOrder::NewestFirst), JobState::ALL);
        assert_eq!(wanted(&[], by_end), JobState::ALL[2..]);
        assert_eq!(wanted(&[JobState::Failed], by_end), [JobState::Failed]);
        assert_eq!(wanted(&[JobState::Pending], JobOrder::NewestFirst), [JobState::Pending]);
    }
}
