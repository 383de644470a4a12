//! Directories, log files, ports and programs: what a server needs before it can run.

use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// Below the range that the kernel takes outgoing connections' ports from: none of them takes a server's port while it
/// is being restarted.
const PORTS: Range<u16> = 15_000..32_000;
/// The longest path of a Unix socket, in bytes, by `sockaddr_un`.
const LONGEST_SOCKET_PATH: usize = 107;
/// How much of a log an error quotes.
const QUOTED_LINES: usize = 8;

/// Makes the directory that servers are given, unless it is there. Others may pass it, but not look into it: Postgres
/// may have to run as somebody else.
pub fn make_base(base: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o711).create(base);
    made.map_err(|error| Error::new(format!("cannot make the directory {}", base.display()), error))
}

/// Makes the directory `name` below `base`, for its owner alone, unless it is there; returns its absolute path.
pub(super) fn make_directory(base: &Path, name: &str) -> Result<PathBuf> {
    make_base(base)?;
    let directory = base.join(name);
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&directory).and_then(|()| directory.canonicalize());
    made.map_err(|error| Error::new(format!("cannot make the directory {}", directory.display()), error))
}

/// The path of the socket `name` in `directory`, refused if it is too long for one.
pub(super) fn socket(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    let length = path.as_os_str().len();
    if length > LONGEST_SOCKET_PATH {
        let wrong = format!("a socket's path has at most {LONGEST_SOCKET_PATH} bytes, this one has {length}");
        return Err(Error::new(format!("use a shorter directory than {}", directory.display()), wrong));
    }
    Ok(path)
}

/// Opens a log file to append to.
pub(super) fn append_to(log: &Path) -> Result<File> {
    let opened = File::options().create(true).append(true).open(log);
    opened.map_err(|error| Error::new(format!("cannot write {}", log.display()), error))
}

/// The last lines of a log file.
pub(super) fn end_of(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let quoted = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n");
    format!("{} ends with\n{quoted}", log.display())
}

/// A port of 127.0.0.1 on which nobody listens now. Somebody may before the server does: then it ends, and is started
/// again on another.
pub(super) fn free_port() -> Result<u16> {
    let random = RandomState::new().build_hasher().finish();
    let count = u64::from(PORTS.end - PORTS.start);
    let shuffled = (0..count).map(|n| PORTS.start + u16::try_from((random % count + n) % count).unwrap_or_default());
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    shuffled.into_iter().find(free).ok_or_else(|| Error(format!("no port in {PORTS:?} is free")))
}

/// The first of the directories on `PATH`, then of `more`, that holds one of the programs, with its path.
pub(super) fn find_program(names: &[&str], more: &[PathBuf], how_to_get_it: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).chain(more.iter().cloned()).collect();
    let candidates = directories.iter().flat_map(|directory| names.iter().map(|name| directory.join(name)));
    let missing = || Error(format!("there is no {} on this machine: {how_to_get_it}", names.join(" or ")));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_whose_path_is_too_long_is_refused_with_the_way_out() {
        let directory = PathBuf::from(format!("/tmp/{}", "d".repeat(100)));
        let error = socket(&directory, "redis.sock").unwrap_err().to_string();
        assert!(error.starts_with("use a shorter directory than /tmp/d"), "{error}");
        assert!(socket(Path::new("/tmp"), "redis.sock").is_ok());
    }

    #[test]
    fn ports_are_not_those_of_outgoing_connections() {
        assert!(PORTS.contains(&free_port().unwrap()));
    }

    #[test]
    fn a_missing_program_is_named_with_the_way_to_get_it() {
        let error = find_program(&["no-such-program"], &[], "install it").unwrap_err();
        assert_eq!(error.to_string(), "there is no no-such-program on this machine: install it");
        assert!(find_program(&["no-such-program", "sh"], &[], "").unwrap().ends_with("sh"));
    }
}
