//! Temporary directories, with paths short enough for sockets.

use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// A script that waits until our process ends for any reason, and then removes directory $1. It tries again while a
/// dying server writes to the directory.
const JANITOR: &str = r#"
trap '' HUP INT TERM
read -r _
until rm -rf "$1"; do sleep 0.1; done"#;

/// The directory that contains all other directories. It is removed when our process ends.
struct Root {
    path: PathBuf,
    _janitor: Child,
}

/// A new directory, which is removed when it is dropped.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static ROOT: OnceLock<Root> = OnceLock::new();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = ROOT.get_or_init(Root::new).path.join(number.to_string());
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Root {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("highwater-it-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let mut janitor = Command::new("sh");
        janitor.args(["-c", JANITOR, "sh"]).arg(&path).process_group(0);
        let janitor = janitor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { path, _janitor: janitor }
    }
}

impl Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // The janitor removes leftovers together with the root.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
