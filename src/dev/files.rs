//! Directories, log files, ports and programs that a server needs before it can run.

use std::fs::{DirBuilder, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::{Error, Result};

/// Ports for servers. They are below the kernel's range of ephemeral ports, so that no outgoing connection takes the
/// port of a server while the server restarts.
const PORTS: Range<u16> = 15_000..32_000;
/// Maximum length of the path of a Unix socket, in bytes. It is the size of the path in `sockaddr_un` without the final
/// NUL.
const MAX_SOCKET_PATH: usize = 107;
/// Number of lines of a log that an error quotes.
const QUOTED_LINES: usize = 8;

/// Creates the base directory of servers unless it exists. Other users can pass through the directory but cannot list
/// it, because Postgres may have to run as another user.
pub fn make_base(base: &Path) -> Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o711).create(base);
    created.map_err(|error| Error::new(format!("cannot create the directory {}", base.display()), error))
}

/// Creates the directory `name` below `base`, accessible only to its owner, unless it exists. Returns its absolute
/// path.
pub(super) fn make_directory(base: &Path, name: &str) -> Result<PathBuf> {
    make_base(base)?;
    let directory = base.join(name);
    let created = DirBuilder::new().recursive(true).mode(0o700).create(&directory);
    let absolute = created.and_then(|()| directory.canonicalize());
    absolute.map_err(|error| Error::new(format!("cannot create the directory {}", directory.display()), error))
}

/// Returns the path of the socket `name` in `directory`. Fails if the path is too long for a socket.
pub(super) fn socket(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    let length = path.as_os_str().len();
    if length > MAX_SOCKET_PATH {
        return Err(Error(format!(
            "the path of the directory {} is too long: the path of a socket in it would have {length} bytes, and the \
             maximum is {MAX_SOCKET_PATH}; choose a directory with a shorter path",
            directory.display()
        )));
    }
    Ok(path)
}

/// Opens a log file for appending.
pub(super) fn append_to(log: &Path) -> Result<File> {
    let opened = File::options().create(true).append(true).open(log);
    opened.map_err(|error| Error::new(format!("cannot write to {}", log.display()), error))
}

/// Returns the last lines of a log file, for an error message.
pub(super) fn end_of(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let quoted = lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n");
    format!("{} ends with\n{quoted}", log.display())
}

/// Returns a port of 127.0.0.1 that is free now. If another process takes the port before the server does, the server
/// exits, and the caller starts it again on another port.
pub(super) fn free_port() -> Result<u16> {
    let random = RandomState::new().build_hasher().finish();
    let count = u64::from(PORTS.end - PORTS.start);
    let shuffled = (0..count).map(|n| PORTS.start + u16::try_from((random % count + n) % count).unwrap_or_default());
    let free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    shuffled.into_iter().find(free).ok_or_else(|| Error(format!("no port of 127.0.0.1 in {PORTS:?} is free")))
}

/// Returns the path of the first program that exists. Searches the directories of `PATH` and then `more`.
pub(super) fn find_program(names: &[&str], more: &[PathBuf], remedy: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories: Vec<PathBuf> = std::env::split_paths(&path).chain(more.iter().cloned()).collect();
    let candidates = directories.iter().flat_map(|directory| names.iter().map(|name| directory.join(name)));
    let missing = || Error(format!("{} was not found on this machine: {remedy}", names.join(" or ")));
    candidates.into_iter().find(|path| path.is_file()).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_long_socket_paths_are_rejected_with_a_remedy() {
        let directory = PathBuf::from(format!("/tmp/{}", "d".repeat(100)));
        let error = socket(&directory, "redis.sock").unwrap_err().to_string();
        assert!(error.starts_with("the path of the directory /tmp/d"), "{error}");
        assert!(error.ends_with("choose a directory with a shorter path"), "{error}");
        assert!(socket(Path::new("/tmp"), "redis.sock").is_ok());
    }

    #[test]
    fn free_ports_are_below_the_ephemeral_range() {
        assert!(PORTS.contains(&free_port().unwrap()));
    }

    #[test]
    fn missing_programs_are_reported_with_a_remedy() {
        let error = find_program(&["no-such-program"], &[], "install it").unwrap_err();
        assert_eq!(error.to_string(), "no-such-program was not found on this machine: install it");
        assert!(find_program(&["no-such-program", "sh"], &[], "").unwrap().ends_with("sh"));
    }
}
