//! Requirements of a Postgres: the server's programs and a data directory (which Postgres calls a *cluster*).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::user::User;
use super::{Error, Result, files, proc};

/// Name of the cluster's superuser.
pub(super) const SUPERUSER: &str = "postgres";
/// Directory of the server's programs on Debian-based systems. It has one subdirectory per major version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// Returns the path of the data directory.
pub(super) fn data(directory: &Path) -> PathBuf {
    directory.join("data")
}

/// Creates the data directory unless it exists, either completely or not at all.
///
/// If `volatile` is set, the data need not survive a power failure, and nothing is flushed to disk.
pub(super) fn make(directory: &Path, user: Option<&User>, volatile: bool) -> Result<()> {
    if data(directory).exists() {
        return Ok(());
    }
    let unfinished = directory.join("data.unfinished");
    let action = "cannot create the data directory of Postgres";
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(Error::new(action, error)),
        _ => {}
    }
    let mut command = Command::new(program("initdb")?);
    command.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--username", SUPERUSER, "--pgdata"]);
    command.arg(&unfinished).args(volatile.then_some("--no-sync"));
    // initdb resolves the current directory, so its user must be able to read that directory.
    command.current_dir(directory).env_remove("PGDATA").stdin(Stdio::null());
    if let Some(user) = user {
        std::os::unix::process::CommandExt::uid(&mut command, user.uid);
        std::os::unix::process::CommandExt::gid(&mut command, user.gid);
    }
    let output = command.output().map_err(|error| Error::new(action, error))?;
    if !output.status.success() {
        return Err(Error::new(action, String::from_utf8_lossy(&output.stderr)));
    }
    std::fs::rename(&unfinished, data(directory)).map_err(|error| Error::new(action, error))
}

/// Waits for the exit of a server that was killed together with the process that started it. Removes the PID file if
/// the server has become a zombie.
///
/// Postgres does not start while the PID file names an existing process, and a zombie is an existing process. In a
/// container there may be no init process that reaps zombies.
pub(super) fn remove_stale_pid_file(directory: &Path) {
    let pid_file = data(directory).join("postmaster.pid");
    let pid = std::fs::read_to_string(&pid_file).ok().and_then(|text| text.lines().next()?.parse().ok());
    if let Some(pid) = pid
        && proc::wait_until_gone(pid)
        && proc::exists(pid)
    {
        let _ = std::fs::remove_file(pid_file);
    }
}

/// Returns the path of one of the server's programs.
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
    fn versions_are_sorted_as_numbers() {
        let found = newest_first(["9", "15", "150", "common"].map(str::to_owned).into_iter());
        let expected = ["150", "15", "9"].map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin")));
        assert_eq!(found, expected);
    }
}
