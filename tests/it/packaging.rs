//! Checks the Dockerfile. The checks need no container engine, because they do not build the image.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::source::root;
use crate::support::Directory;

/// Cargo reads more than it compiles. If a workspace member is not copied into the image, the build fails.
#[test]
fn every_file_cargo_needs_is_copied_into_the_image() {
    let dockerfile = fs::read_to_string(root().join("Dockerfile")).unwrap();
    let ignored = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let image = Directory::new();
    let copies =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--"));
    for line in copies {
        let mut paths: Vec<&str> = line.split(' ').collect();
        let to = paths.pop().unwrap();
        for path in paths {
            assert!(ignored.lines().any(|line| line == format!("!{path}")), ".dockerignore excludes {path}");
            let to = if to.ends_with('/') { image.join(path) } else { image.join(to) };
            copy(&root().join(path), &to);
        }
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version=1", "--quiet"]).current_dir(&*image);
    let metadata = cargo.output().unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(copied.success(), "{}", from.display());
}
