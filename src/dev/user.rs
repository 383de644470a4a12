//! Whom Postgres runs as: it refuses root, so root runs it as somebody else, in a directory that they can reach.

#![expect(unsafe_code, reason = "geteuid(2)")]

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use super::{Error, Result};

/// The users that root may run Postgres as, best first.
const CANDIDATES: [&str; 2] = ["postgres", "nobody"];
/// The permission of everybody to pass through a directory.
const OTHERS_MAY_PASS: u32 = 0o001;

/// Whether this process may do anything.
pub fn we_are_root() -> bool {
    // SAFETY: reads a number of our own process and cannot fail.
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
    /// Whom to run Postgres as; `None` for ourselves, who are not root.
    pub fn for_postgres() -> Result<Option<Self>> {
        if !we_are_root() {
            return Ok(None);
        }
        let users =
            std::fs::read_to_string("/etc/passwd").map_err(|error| Error::new("cannot read /etc/passwd", error))?;
        let found = CANDIDATES.iter().find_map(|name| find(&users, name));
        let missing =
            || Error(format!("Postgres refuses to run as root, and there is no user {}", CANDIDATES.join(" or ")));
        found.map(Some).ok_or_else(missing)
    }

    /// Gives this user `directory`, which must lie where they can reach it.
    pub fn own(&self, directory: &Path) -> Result<()> {
        for above in directory.ancestors().skip(1) {
            let mode = above.metadata().map_or(0, |metadata| metadata.permissions().mode());
            if mode & OTHERS_MAY_PASS == 0 {
                return Err(Error(format!(
                    "Postgres must run as the user {}, who cannot pass {}: use a directory elsewhere, such as one below /var/tmp",
                    self.name,
                    above.display()
                )));
            }
        }
        let given = chown(directory, Some(self.uid), Some(self.gid));
        given.map_err(|error| Error::new(format!("cannot give {} to {}", directory.display(), self.name), error))
    }
}

/// `NAME:PASSWORD:UID:GID:…`, a line a user.
fn find(users: &str, name: &str) -> Option<User> {
    let mut fields = users.lines().find(|line| line.split(':').next() == Some(name))?.split(':').skip(2);
    Some(User { name: name.to_owned(), uid: fields.next()?.parse().ok()?, gid: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let users =
            "root:x:0:0::/root:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(find(users, "postgres"), Some(User { name: "postgres".into(), uid: 101, gid: 104 }));
        assert_eq!(find(users, "nobody"), None);
    }
}
