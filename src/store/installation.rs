//! Reads the identity of the installation, which the schema creates.

use super::{Error, Store};
use crate::deadline::Deadline;
use crate::domain::Installation;

impl Store {
    /// Reads the identity of the installation to which this database belongs.
    pub async fn installation(&self, deadline: Deadline) -> Result<Installation, Error> {
        let query = sqlx::query_scalar!("SELECT id FROM installation");
        let id = self.call(deadline, async |connection| query.fetch_one(connection).await).await?;
        let invalid = || Error::Unexpected("the installation has an ID of another length than 8 bytes".to_owned());
        id.try_into().map(Installation).map_err(|_| invalid())
    }
}
