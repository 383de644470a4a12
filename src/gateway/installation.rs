//! Tells the Redis client to which installation this gateway belongs. Postgres names the installation.

use crate::deadline::Deadline;
use crate::live::Live;
use crate::store::{Error, Store};

/// Reads the installation from Postgres, and passes it to the Redis client. Fails if Postgres does not answer, or if it
/// names another installation than before: the gateway then reaches the database of another installation.
pub async fn learn(store: &Store, live: &Live, deadline: Deadline) -> Result<(), Error> {
    let installation = store.installation(deadline).await?;
    live.set_installation(installation).map_err(|known| {
        Error::Unexpected(format!(
            "this database belongs to installation {installation}, but the gateway was started with installation \
             {known}; set --postgres-url to the database of this installation, or restart the gateway"
        ))
    })
}
