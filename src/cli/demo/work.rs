//! The work of the demo: reading a file and computing its digest. This is real work, so a task may fail.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use sha1_smol::Sha1;

/// Maximum size of a file, in bytes. Tasks with larger files fail.
const MAX_FILE_SIZE: u64 = 1 << 20;

/// Why a task failed.
#[derive(Debug, PartialEq)]
pub struct TaskFailure {
    /// Error code, for the counts by code.
    pub code: &'static str,
    /// Error message.
    pub message: String,
}

/// Reads the file to its end and returns its length in bytes.
pub fn read(path: &Path) -> Result<u64, TaskFailure> {
    let mut length = 0;
    for_each_block(path, |bytes| length += bytes.len() as u64)?;
    Ok(length)
}

/// Returns the SHA-1 of the file, in hex.
pub fn digest(path: &Path) -> Result<String, TaskFailure> {
    let mut digest = Sha1::new();
    for_each_block(path, |bytes| digest.update(bytes))?;
    Ok(digest.digest().to_string())
}

fn for_each_block(path: &Path, mut visit: impl FnMut(&[u8])) -> Result<(), TaskFailure> {
    let failure = |error: std::io::Error| TaskFailure {
        code: match error.kind() {
            ErrorKind::NotFound => "NOT_FOUND",
            ErrorKind::PermissionDenied => "PERMISSION_DENIED",
            _ => "IO",
        },
        message: format!("{}: {error}", path.display()),
    };
    let mut file = File::open(path).map_err(failure)?;
    let length = file.metadata().map_err(failure)?.len();
    if length > MAX_FILE_SIZE {
        let message =
            format!("{}: the file has {length} bytes, the maximum of the demo is {MAX_FILE_SIZE}", path.display());
        return Err(TaskFailure { code: "TOO_LARGE", message });
    }
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).map_err(failure)? {
            0 => return Ok(()),
            length => visit(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_succeeds_or_fails_with_a_code() {
        let path = std::env::temp_dir().join(format!("highwater-work-{}", std::process::id()));
        assert_eq!(read(&path).unwrap_err().code, "NOT_FOUND");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(read(&path), Ok(3));
        assert_eq!(digest(&path).unwrap(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        File::options().write(true).open(&path).unwrap().set_len(MAX_FILE_SIZE + 1).unwrap();
        assert_eq!(digest(&path).unwrap_err().code, "TOO_LARGE");
        std::fs::remove_file(path).unwrap();
    }
}
