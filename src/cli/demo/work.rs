//! The demo's work: reading a file, and digesting it. Really done, so it may really fail.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use sha1_smol::Sha1;

/// The largest file that is taken.
const MOST_BYTES: u64 = 1 << 20;

/// Why a task failed.
#[derive(Debug, PartialEq)]
pub struct Trouble {
    /// A word to count by.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

/// Reads the file to its end; answers how long it is.
pub fn read(path: &Path) -> Result<u64, Trouble> {
    let mut length = 0;
    pass(path, |bytes| length += bytes.len() as u64)?;
    Ok(length)
}

/// The SHA-1 of the file, in hex.
pub fn digest(path: &Path) -> Result<String, Trouble> {
    let mut digest = Sha1::new();
    pass(path, |bytes| digest.update(bytes))?;
    Ok(digest.digest().to_string())
}

fn pass(path: &Path, mut over: impl FnMut(&[u8])) -> Result<(), Trouble> {
    let trouble = |error: std::io::Error| Trouble {
        code: match error.kind() {
            ErrorKind::NotFound => "NOT_FOUND",
            ErrorKind::PermissionDenied => "PERMISSION_DENIED",
            _ => "IO",
        },
        message: format!("{}: {error}", path.display()),
    };
    let mut file = File::open(path).map_err(trouble)?;
    let length = file.metadata().map_err(trouble)?.len();
    if length > MOST_BYTES {
        let message = format!("{}: {length} bytes, this demo takes {MOST_BYTES}", path.display());
        return Err(Trouble { code: "TOO_LARGE", message });
    }
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer).map_err(trouble)? {
            0 => return Ok(()),
            length => over(&buffer[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_or_says_why_not() {
        let path = std::env::temp_dir().join(format!("highwater-work-{}", std::process::id()));
        assert_eq!(read(&path).unwrap_err().code, "NOT_FOUND");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(read(&path), Ok(3));
        assert_eq!(digest(&path).unwrap(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        File::options().write(true).open(&path).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert_eq!(digest(&path).unwrap_err().code, "TOO_LARGE");
        std::fs::remove_file(path).unwrap();
    }
}
