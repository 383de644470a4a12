//! The demo's tasks: the files below a directory, and the list of them that the workers share.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Regular files below `directory`, and links to nothing, which are there to fail; at most `limit`. The same ones in
/// the same order every time, as long as nobody changes them. What may not be looked into is passed over.
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

/// Writes the list: paths, a NUL behind each, since a path may hold anything else.
pub fn write(list: &Path, files: &[PathBuf]) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(list)?);
    for file in files {
        out.write_all(file.as_os_str().as_bytes())?;
        out.write_all(b"\0")?;
    }
    out.flush()
}

/// Reads what [`write()`] wrote.
pub fn read(list: &Path) -> io::Result<Vec<PathBuf>> {
    let bytes = fs::read(list)?;
    let paths = bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Ok(paths.map(|path| PathBuf::from(OsString::from_vec(path.to_vec()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_links_to_nothing_are_tasks_and_the_list_keeps_them() {
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
