//! What a Postgres starts from: its programs and its data directory (a *cluster*, as Postgres calls it).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::user::User;
use super::{Error, Result, children, files};

/// The cluster's superuser.
pub(super) const SUPERUSER: &str = "postgres";
/// Where Debian and its relatives keep the server's programs, one directory a major version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// The data directory.
pub(super) fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// Makes the data directory unless it is there: whole or not at all. `volatile` data need not survive a power cut.
pub(super) fn make(directory: &Path, user: Option<&User>, volatile: bool) -> Result<()> {
    if data(directory).exists() {
        return Ok(());
    }
    let unfinished = directory.join("data.unfinished");
    let doing = "cannot make a data directory for Postgres";
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::new(doing, error)),
        _ => {}
    }
    let mut command = Command::new(program("initdb")?);
    command.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--username", SUPERUSER, "--pgdata"]);
    command.arg(&unfinished).args(volatile.then_some("--no-sync"));
    // initdb wants to know where it is, and its user may not know our directory.
    command.current_dir(directory).env_remove("PGDATA").stdin(Stdio::null());
    if let Some(user) = user {
        std::os::unix::process::CommandExt::uid(&mut command, user.uid);
        std::os::unix::process::CommandExt::gid(&mut command, user.gid);
    }
    let output = command.output().map_err(|error| Error::new(doing, error))?;
    if !output.status.success() {
        return Err(Error::new(doing, String::from_utf8_lossy(&output.stderr)));
    }
    std::fs::rename(&unfinished, data(directory)).map_err(|error| Error::new(doing, error))
}

/// Waits for a server that was killed with whoever started it, and clears away what would keep the next from starting:
/// Postgres takes a dead process that nobody has waited for (a container may have nobody to do it) for a living one.
pub(super) fn bury_killed_server(directory: &Path) {
    let pid_file = data(directory).join("postmaster.pid");
    let pid = std::fs::read_to_string(&pid_file).ok().and_then(|text| text.lines().next()?.parse().ok());
    if let Some(pid) = pid
        && children::wait_until_gone(pid)
        && children::exists(pid)
    {
        let _ = std::fs::remove_file(pid_file);
    }
}

/// The path of one of the server's programs.
pub(super) fn program(name: &str) -> Result<PathBuf> {
    let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let names = versions.filter_map(|entry| entry.file_name().into_string().ok());
    files::find_program(&[name], &newest_first(names), "install PostgreSQL 15 or newer (its server programs)")
}

fn newest_first(versions: impl Iterator<Item = String>) -> Vec<PathBuf> {
    let mut numbers: Vec<u32> = versions.filter_map(|version| version.parse().ok()).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.into_iter().map(|number| Path::new(VERSIONS).join(number.to_string()).join("bin")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        let found = newest_first(["9", "15", "150", "common"].map(str::to_owned).into_iter());
        let expected = ["150", "15", "9"].map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
        assert_eq!(found, expected);
    }
}
