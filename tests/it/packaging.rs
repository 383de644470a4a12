//! What the image is built from. That it is built, and runs, no test can show where there is no container engine.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::source::root;
use crate::support::Directory;

/// Cargo looks at more than it compiles: a package that the workspace names, and that is not copied, fails the build.
#[test]
fn every_file_cargo_needs_is_copied_into_the_image() {
    let dockerfile = fs::read_to_string(root().join("Dockerfile")).unwrap();
    let passed = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let image = Directory::new();
    let copies =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--"));
    for line in copies {
        let mut paths: Vec<&str> = line.split(' ').collect();
        let to = paths.pop().unwrap();
        for path in paths {
            assert!(passed.lines().any(|line| line == format!("!{path}")), ".dockerignore holds {path} back");
            let to = if to.ends_with('/') { image.join(path) } else { image.join(to) };
            copy(&root().join(path), &to);
        }
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--format-version=1", "--quiet"]).current_dir(&*image);
    let looked = cargo.output().unwrap();
    assert!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let copied = Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(copied.success(), "{}", from.display());
}
