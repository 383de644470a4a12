//! The user that runs Postgres. Postgres refuses to run as root. If this process runs as root, it therefore runs
//! Postgres as another user, in a directory that this user can reach.

#![expect(unsafe_code, reason = "geteuid(2)")]

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::{Error, Result};

/// Names of the users that may run Postgres instead of root, in order of preference.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];
/// Permission of other users to pass through a directory.
const OTHERS_MAY_TRAVERSE: u32 = 0o001;

/// Whether this process runs as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid(2) has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A user of this machine.
#[derive(Debug, PartialEq)]
pub(super) struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// Returns the user that must run Postgres, or `None` if the current user can run it.
    pub fn for_postgres() -> Result<Option<Self>> {
        if !is_root() {
            return Ok(None);
        }
        let users =
            std::fs::read_to_string("/etc/passwd").map_err(|error| Error::new("cannot read /etc/passwd", error))?;
        let found = CANDIDATES.iter().find_map(|name| find(&users, name));
        let missing = || {
            Error(format!(
                "Postgres refuses to run as root, and there is no user {} that could run it; create one, or run this \
                 command as another user",
                CANDIDATES.join(" or ")
            ))
        };
        found.map(Some).ok_or_else(missing)
    }

    /// Makes this user the owner of `directory`. Fails if the user cannot reach the directory.
    pub fn own(&self, directory: &Path) -> Result<()> {
        for parent in directory.ancestors().skip(1) {
            let mode = parent.metadata().map_or(0, |metadata| metadata.permissions().mode());
            if mode & OTHERS_MAY_TRAVERSE == 0 {
                return Err(Error(format!(
                    "Postgres must run as the user {}, which has no access to {}; choose another directory, such as one \
                     below /var/tmp",
                    self.name,
                    parent.display()
                )));
            }
        }
        let changed = chown(directory, Some(self.uid), Some(self.gid));
        changed.map_err(|error| {
            Error::new(format!("cannot make {} the owner of {}", self.name, directory.display()), error)
        })
    }
}

/// Finds a user in `/etc/passwd`: one line per user, `NAME:PASSWORD:UID:GID:…`.
fn find(users: &str, name: &str) -> Option<User> {
    let mut fields = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
    Some(User { name: name.to_owned(), uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_full_name() {
        let users =
            "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(find(users, "postgres"), Some(User { name: "postgres".into(), uid: 101, gid: 104 }));
        assert_eq!(find(users, "nobody"), None);
    }
}
