//! Reads compressed values that may have megabytes. Their memory is reserved before they are read.

use sqlx::PgConnection;

use super::{Error, Store, zlib};
use crate::deadline::Deadline;
use crate::domain::JobId;
use crate::memory::Reserved;

/// The number of attempts to read a value whose size is known. An attempt fails if the value was replaced after its
/// size was read. An end is replaced at most once.
const ATTEMPTS: usize = 2;

/// A compressed value of a job.
#[derive(Debug, Clone, Copy)]
pub(super) enum Blob {
    /// The cells of an ended job.
    Cells,
    /// The origins of a retry.
    Origins,
}

impl Blob {
    /// Reads the size of the value. Returns `None` if there is no value.
    async fn size(self, connection: &mut PgConnection, id: &JobId) -> Result<Option<i32>, sqlx::Error> {
        let query = match self {
            Self::Cells => {
                sqlx::query_scalar!("SELECT octet_length(cells) FROM jobs WHERE job_id = $1", id.as_str())
                    .fetch_optional(connection)
                    .await
            }
            Self::Origins => {
                sqlx::query_scalar!("SELECT octet_length(origins) FROM retries WHERE job_id = $1", id.as_str())
                    .fetch_optional(connection)
                    .await
            }
        };
        query.map(Option::flatten)
    }

    /// Reads the value if it has this size.
    async fn read(self, connection: &mut PgConnection, id: &JobId, size: i32) -> Result<Option<Vec<u8>>, sqlx::Error> {
        match self {
            Self::Cells => {
                let query = sqlx::query_scalar!(
                    r#"SELECT cells AS "cells!" FROM jobs WHERE job_id = $1 AND octet_length(cells) = $2"#,
                    id.as_str(),
                    size
                );
                query.fetch_optional(connection).await
            }
            Self::Origins => {
                let query = sqlx::query_scalar!(
                    "SELECT origins FROM retries WHERE job_id = $1 AND octet_length(origins) = $2",
                    id.as_str(),
                    size
                );
                query.fetch_optional(connection).await
            }
        }
    }

    /// Returns the error for a value that cannot belong to the job.
    pub(super) fn invalid(self, id: &JobId, fault: &str) -> Error {
        let column = match self {
            Self::Cells => "cells",
            Self::Origins => "origins",
        };
        Error::Invalid { job: id.clone(), fault: format!("{column}: {fault}") }
    }
}

impl Store {
    /// Reads a value that has at most `max` bytes when decompressed. Returns `None` if there is no value. The
    /// reservation covers the compressed value, which exists twice while it is received, and `max` bytes. A value that
    /// is too large is not read, and is [`Error::Invalid`].
    pub(super) async fn blob(
        &self,
        blob: Blob,
        id: &JobId,
        max: usize,
        deadline: Deadline,
    ) -> Result<Option<Reserved<Vec<u8>>>, Error> {
        for _ in 0..ATTEMPTS {
            let Some(length) = self.call(deadline, async |connection| blob.size(connection, id).await).await? else {
                return Ok(None);
            };
            let compressed = usize::try_from(length).map_err(|error| Error::Unexpected(error.to_string()))?;
            if compressed > zlib::max_compressed(max) {
                return Err(blob.invalid(id, "the job cannot have so many bytes"));
            }
            let reservation = self.memory.reserve(2 * compressed + max)?;
            let read = self.long_call(deadline, async |connection| blob.read(connection, id, length).await);
            if let Some(value) = read.await? {
                return Ok(Some(Reserved::new(value, reservation)));
            }
        }
        Err(Error::Unexpected("a value changed while it was read".to_owned()))
    }
}
