//! The tasks of the demo: the files below a directory, and the list of them that the workers share.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Returns at most `limit` files below `directory`: regular files and dangling symbolic links. The tasks of the links
/// fail.
///
/// The order is stable as long as the files do not change. Directories that cannot be read are skipped.
pub fn find(directory: &Path, limit: usize) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(directory) = open.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        let mut below = Vec::new();
        for entry in entries {
            let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
            if kind.is_dir() {
                below.push(path);
            } else if kind.is_file() || kind.is_symlink() && !path.exists() {
                found.push(path);
                if found.len() == limit {
                    return found;
                }
            }
        }
        open.extend(below.into_iter().rev());
    }
    found
}

/// Writes the list of paths. Each path ends with a NUL, the only byte that a path cannot contain.
pub fn write(list: &Path, files: &[PathBuf]) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(list)?);
    for file in files {
        out.write_all(file.as_os_str().as_bytes())?;
        out.write_all(b"\0")?;
    }
    out.flush()
}

/// Reads a list that [`write()`] wrote.
pub fn read(list: &Path) -> io::Result<Vec<PathBuf>> {
    let bytes = fs::read(list)?;
    let paths = bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Ok(paths.map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_dangling_links_are_found_and_survive_the_list() {
        let directory = std::env::temp_dir().join(format!("highwater-files-{}", std::process::id()));
        fs::create_dir_all(directory.join("b")).unwrap();
        for file in ["a\n", "b/inner", "c"] {
            fs::write(directory.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink("nowhere", directory.join("d")).unwrap();
        std::os::unix::fs::symlink("c", directory.join("e")).unwrap();
        let found = find(&directory, 100);
        assert_eq!(found, ["a\n", "c", "d", "b/inner"].map(|file| directory.join(file)));
        assert_eq!(find(&directory, 2), found[..2]);
        let list = directory.join("list");
        write(&list, &found).unwrap();
        assert_eq!(read(&list).unwrap(), found);
        fs::remove_dir_all(directory).unwrap();
    }
}
