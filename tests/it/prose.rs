//! Finds the prose of the project: comment lines of source files, and Markdown outside code fences.

use std::fs;
use std::path::Path;

use crate::source::root;

/// Directories without any prose of the project.
const SKIPPED: [&str; 6] = ["target", ".git", ".sqlx", "node_modules", "venv", "__pycache__"];

/// Extensions of file names, each with the marker of a comment line. Scripts and the Dockerfile have no extension.
const MARKERS: [(&str, &str); 9] = [
    ("rs", "//"),
    ("proto", "//"),
    ("lua", "--"),
    ("sql", "--"),
    ("py", "#"),
    ("sh", "#"),
    ("toml", "#"),
    ("yaml", "#"),
    ("", "#"),
];

/// A text file of the project.
pub struct File {
    /// The path relative to the root of the project, with `/` between components.
    pub path: String,
    pub text: String,
}

/// All source files and documents of the project, sorted by path.
pub fn files() -> Vec<File> {
    let mut files = vec![];
    collect(root(), &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(directory: &Path, files: &mut Vec<File>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() {
            if !SKIPPED.contains(&&*name) {
                collect(&path, files);
            }
        } else if let relative = path.strip_prefix(root()).unwrap().to_string_lossy()
            && (is_markdown(&relative) || marker(&relative).is_some())
        {
            files.push(File { path: relative.replace('\\', "/"), text: fs::read_to_string(&path).unwrap() });
        }
    }
}

impl File {
    pub fn is_markdown(&self) -> bool {
        is_markdown(&self.path)
    }

    /// The lines of prose with their numbers, without comment markers.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let mut fenced = false;
        let mut lines = vec![];
        for (number, line) in (1..).zip(self.text.lines()) {
            if let Some(text) = self.prose_of(line) {
                let fence = text.starts_with("```");
                if !fence && !fenced {
                    lines.push((number, text));
                }
                fenced ^= fence;
            }
        }
        lines
    }

    /// The lines that are not prose: lines of code that are not comment lines, and the code blocks of documents.
    pub fn code(&self) -> impl Iterator<Item = &str> {
        let comment = |line: &&str| !self.is_markdown() && self.prose_of(line).is_none();
        let without_trailing_comment = |line| str::split_once(line, " // ").map_or(line, |(code, _)| code);
        self.text.lines().filter(comment).map(without_trailing_comment)
    }

    fn prose_of<'a>(&self, line: &'a str) -> Option<&'a str> {
        let line = line.trim();
        if self.is_markdown() {
            return Some(line);
        }
        let marker = marker(&self.path)?;
        (line.starts_with(marker) && !line.starts_with("#!"))
            .then(|| line.trim_start_matches(['/', '!', '-', '#']).trim_start())
    }
}

fn is_markdown(path: &str) -> bool {
    extension(path) == "md"
}

fn marker(path: &str) -> Option<&'static str> {
    MARKERS.iter().find(|(known, _)| *known == extension(path)).map(|(_, marker)| *marker)
}

fn extension(path: &str) -> &str {
    Path::new(path).extension().map_or("", |extension| extension.to_str().unwrap_or_default())
}

#[test]
fn comment_lines_and_markdown_outside_fences_are_prose() {
    for (path, text, expected) in [
        ("a.rs", "//! One.\n/// Two.\nfn f() {} // no\n    // Three.", vec![(1, "One."), (2, "Two."), (4, "Three.")]),
        ("a.rs", "/// One.\n/// ```\n/// code\n/// ```\n/// Two.", vec![(1, "One."), (5, "Two.")]),
        ("a.lua", "-- One.\nlocal a = 1 - 2", vec![(1, "One.")]),
        ("dev", "#!/bin/sh\n# One.\necho '#'", vec![(2, "One.")]),
        ("a.md", "One.\n```sh\ncode\n```\nTwo.", vec![(1, "One."), (5, "Two.")]),
    ] {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        assert_eq!(file.prose(), expected, "{path}: {text}");
    }
}
