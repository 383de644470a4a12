//! Refusals: errors with which Postgres answers because of its configuration or its resources, not because a statement
//! is wrong. A server that refuses is reachable, so no outage is reported; the metric and the log show the refusals.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use super::Error;
use crate::log_throttle::LogThrottle;
use crate::sync::lock;

/// The time without a refusal after which the next one is logged again.
const QUIET: Duration = Duration::from_secs(60);

/// Why Postgres refuses calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The server is a standby, or transactions are read-only by default.
    ReadOnly,
    /// The role lacks a privilege.
    MissingGrant,
    /// The role may not log in: it is unknown, its password is wrong, or `pg_hba.conf` rejects it.
    Login,
    /// The server, the database or the role has no free connection.
    TooManyConnections,
    /// The disk is full.
    DiskFull,
    /// The server lacks another resource, such as memory.
    Resources,
    /// The database does not exist.
    NoDatabase,
}

impl Refusal {
    /// Returns the refusal that a SQLSTATE code reports, or `None` if the code does not report one.
    pub(super) fn from_code(code: &str) -> Option<Self> {
        match code {
            "25006" => Some(Self::ReadOnly),
            "42501" => Some(Self::MissingGrant),
            "53100" => Some(Self::DiskFull),
            "53300" => Some(Self::TooManyConnections),
            _ if code.starts_with("28") => Some(Self::Login),
            _ if code.starts_with("53") => Some(Self::Resources),
            _ if code.starts_with("3D") => Some(Self::NoDatabase),
            _ => None,
        }
    }

    /// The value of the metric's label `reason`.
    const fn label(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::MissingGrant => "missing_grant",
            Self::Login => "login",
            Self::TooManyConnections => "too_many_connections",
            Self::DiskFull => "disk_full",
            Self::Resources => "resources",
            Self::NoDatabase => "no_database",
        }
    }

    /// What the operator can do.
    const fn remedy(self) -> &'static str {
        match self {
            Self::ReadOnly => {
                "set --postgres-url to the address of the primary, and default_transaction_read_only to off"
            }
            Self::MissingGrant => "run the GRANT statements of docs/operating.md as the owner of the tables",
            Self::Login => "check the user, the password and pg_hba.conf",
            Self::TooManyConnections => "raise max_connections of Postgres, or lower --postgres-connections",
            Self::DiskFull => "free space on the disk of Postgres",
            Self::Resources => "read the log of Postgres",
            Self::NoDatabase => "create the database, then run `highwater migrate`",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.remedy())
    }
}

/// Counts the refusals of one store client. Logs the first refusal of each kind, and the first after a quiet time.
#[derive(Default)]
pub(super) struct Refusals(Mutex<HashMap<Refusal, LogThrottle>>);

impl Refusals {
    /// Notes the result of a call, and returns it.
    pub fn noted<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.inspect_err(|error| self.note(error))
    }

    /// Notes an error of a call. Errors that are no refusals are ignored.
    pub fn note(&self, error: &Error) {
        let Error::Refused { refusal, reason } = error else { return };
        metrics::counter!("highwater_store_refusals_total", "store" => "postgres", "reason" => refusal.label())
            .increment(1);
        let mut logged = lock(&self.0);
        let throttle = logged.entry(*refusal).or_insert_with(|| LogThrottle::once_after_quiet(QUIET));
        if throttle.should_log() {
            tracing::warn!(
                reason,
                "Postgres answers but refuses calls. Until it accepts them, jobs do not start, and complete jobs stay \
                 RUNNING. {refusal}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_states_of_the_server_are_refusals() {
        for (code, refusal) in [
            ("25006", Some(Refusal::ReadOnly)),
            ("42501", Some(Refusal::MissingGrant)),
            ("28P01", Some(Refusal::Login)),
            ("28000", Some(Refusal::Login)),
            ("53100", Some(Refusal::DiskFull)),
            ("53200", Some(Refusal::Resources)),
            ("53300", Some(Refusal::TooManyConnections)),
            ("3D000", Some(Refusal::NoDatabase)),
            ("57P01", None),
            ("23505", None),
        ] {
            assert_eq!(Refusal::from_code(code), refusal, "{code}");
        }
    }
}
