//! Reads only the parts of jobs' rows that decide whether the jobs run.

use std::collections::HashMap;

use super::jobs::{if_valid, parse, texts, to_incarnation};
use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::{JobId, RowStatus};

impl Store {
    /// Reads the status of each of these jobs. Jobs that do not exist, and jobs whose rows are invalid, are absent.
    pub async fn row_statuses(&self, ids: &[JobId], deadline: Deadline) -> Result<HashMap<JobId, RowStatus>, Error> {
        let query = sqlx::query!(
            r#"SELECT job_id, state AS "state?", incarnation AS "incarnation?",
                      EXISTS (SELECT FROM ledger WHERE ledger.job_id = jobs.job_id) AS "ledger!"
               FROM jobs WHERE job_id = ANY($1)"#,
            &texts(ids)
        );
        let rows = self.call(deadline, async |connection| query.fetch_all(connection).await).await?;
        let status = |id: &str, state: Option<String>, incarnation, ledger| {
            let state = parse(state.as_deref().unwrap_or_default())?;
            Ok((parse(id)?, RowStatus::of_row(state, to_incarnation(incarnation)?, ledger)))
        };
        let statuses = rows
            .into_iter()
            .filter_map(|row| if_valid(&row.job_id, status(&row.job_id, row.state, row.incarnation, row.ledger)));
        Ok(statuses.collect())
    }
}
