//! The installation to which a Redis belongs. Two installations that used one Redis under one prefix would mark and end
//! each other's jobs. Therefore a key names the installation, every read of trackers reads it as well, and every tracker
//! carries it, so that scripts reject the trackers of another installation.

use std::sync::{Arc, OnceLock};

use redis::Value;

use super::{Error, Live};
use crate::deadline::Deadline;
use crate::domain::{Incarnation, Installation};

/// The installation of this process. Postgres names it, so it is unknown until Postgres has answered once.
#[derive(Debug, Clone, Default)]
pub(super) struct Known(Arc<OnceLock<Installation>>);

impl Live {
    /// Notes the installation that Postgres names. Returns the installation that was noted before, if it is another
    /// one. A process never changes its installation.
    pub fn set_installation(&self, installation: Installation) -> Result<(), Installation> {
        let known = *self.installation.0.get_or_init(|| installation);
        if known == installation { Ok(()) } else { Err(known) }
    }

    /// Returns whether the installation is known.
    pub fn knows_installation(&self) -> bool {
        self.installation.0.get().is_some()
    }

    /// Returns the installation. Without it, no tracker is read or written.
    pub(super) fn installation(&self) -> Result<Installation, Error> {
        let unknown = || {
            Error::Unreachable(
                "it is not known which installation this is, because Postgres has not answered".to_owned(),
            )
        };
        self.installation.0.get().copied().ok_or_else(unknown)
    }

    /// Returns the argument by which scripts recognise a tracker of this installation with this incarnation.
    pub(super) fn owner(&self, incarnation: Incarnation) -> Result<Vec<u8>, Error> {
        let mut owner = self.installation()?.0.to_vec();
        owner.extend_from_slice(incarnation.to_string().as_bytes());
        Ok(owner)
    }

    /// Returns the error for a Redis or a tracker of another installation.
    pub(super) fn foreign(&self) -> Error {
        Error::Foreign(self.keys.installation())
    }

    /// Checks the reply to a GET of the installation's key. A Redis that names no installation gets the name of this
    /// one, unless it is a replica.
    pub(super) async fn check_installation(
        &self,
        reply: Option<Value>,
        is_primary: bool,
        deadline: Deadline,
    ) -> Result<(), Error> {
        let own = self.installation()?.to_string();
        let mut reply = reply;
        if reply == Some(Value::Nil) {
            if !is_primary {
                return Ok(());
            }
            let mut commands = redis::pipe();
            commands.cmd("SET").arg(self.keys.installation()).arg(&own).arg("NX");
            commands.cmd("GET").arg(self.keys.installation());
            reply = self.connection.pipeline(&mut commands, deadline).await?.pop();
        }
        match reply {
            Some(Value::BulkString(found)) if found == own.as_bytes() => Ok(()),
            Some(Value::ServerError(error)) if error.code() != "WRONGTYPE" => Err(Error::Refused(error.to_string())),
            _ => Err(self.foreign()),
        }
    }
}
