//! Checks the mentions in backticks in comments and documents: the files, tests, types and modules must exist.
//!
//! The check is a text search. A mention resolves if a file has the path, or if code outside comments defines or uses
//! the name. Other words, such as flags, values and commands, are not checked.

use std::collections::{BTreeSet, HashSet};

use crate::prose::{File, files};

/// Prefixes of paths. A word with one of these prefixes is a path from the root of the project, or from a directory
/// above the file that mentions it.
const TOP_DIRECTORIES: [&str; 6] = ["src/", "tests/", "docs/", "proto/", "migrations/", "benches/"];
/// Extensions of files. A path with one of these extensions may begin at any directory of the project.
const SOURCE_EXTENSIONS: [&str; 6] = [".rs", ".lua", ".sql", ".proto", ".py", ".md"];
/// Keywords before the name of a defined item.
const DEFINITIONS: [&str; 9] =
    ["fn ", "struct ", "enum ", "type ", "const ", "static ", "trait ", "mod ", "macro_rules! "];
/// Crates of the Rust toolchain, which Cargo.lock does not list.
const LANGUAGE_CRATES: [&str; 3] = ["std", "core", "alloc"];
/// First segments that name no module.
const RELATIVE: [&str; 4] = ["crate", "self", "super", "highwater"];

#[test]
fn every_mentioned_path_and_item_exists() {
    let lock = std::fs::read_to_string(crate::source::root().join("Cargo.lock")).unwrap();
    let project = Project::new(files(), &lock);
    let (checked, misses) = project.check();
    assert!(checked > 100, "only {checked} mentions were checked");
    assert!(misses.is_empty(), "{} of {checked} mentions do not exist:\n{}", misses.len(), misses.join("\n"));
}

#[test]
fn planted_misses_are_found_with_their_lines() {
    let (checked, misses) = planted(&[
        "/// `src/live/gone.rs`, `live/gone.rs`, `gone.lua`, `docs/gone/` and `src/only_there.rs`.",
        "///",
        "/// The test `a_name_of_no_test`, the type `NoType`, the method",
        "/// `live::Header::no_method`, `live::NoItem`, `no_module::Header` and `live::header::NoItem`,",
        "/// `Header::no_method`, and `src/{live,gone}/mod.rs`.",
        "fn f() {}",
    ]);
    let expected = [
        "1: `src/live/gone.rs`",
        "1: `live/gone.rs`",
        "1: `gone.lua`",
        "1: `docs/gone/`",
        "1: `src/only_there.rs`",
        "3: `a_name_of_no_test`",
        "3: `NoType`",
        "4: `live::Header::no_method`",
        "4: `live::NoItem`",
        "4: `no_module::Header`",
        "4: `live::header::NoItem`",
        "5: `Header::no_method`",
        "5: `src/{live,gone}/mod.rs`",
    ];
    assert_eq!(misses, expected.map(|miss| format!("src/planted.rs:{miss}")));
    // One more mention was checked, and it exists. Its path is relative to the package of the file.
    assert_eq!(checked, expected.len() + 1);
}

#[test]
fn existing_mentions_and_other_words_are_no_misses() {
    let (_, misses) = planted(&[
        "/// `src/live/header.rs`, `live/header.rs`, `header.rs`, `src/live/`, `src/live/*.rs`, `src/{live,live}/mod.rs`,",
        "/// `a_test_that_exists`, `Header`, `Header::decode()`, `live::Header`, `crate::live::header::Header::decode`,",
        "/// `super::header::Header`, `self::decode`, `tokio::spawn`, `std::fs`, `Kind::Other`, `live::header`, a span",
        "/// of `two",
        "/// lines`, ``a ` in a span``, `--redis-url`, `1.5S`, `highwater watch JOB`, `page_size`, `results[3].stage`.",
        "fn f() {}",
    ]);
    assert_eq!(misses, [""; 0]);
}

/// Checks a small project with one more file.
fn planted(lines: &[&str]) -> (usize, Vec<String>) {
    let file = |(path, text): (&str, &str)| File { path: path.to_owned(), text: text.to_owned() };
    let files = [
        ("src/live/mod.rs", "pub mod header;\npub use header::Header;\n"),
        (
            "src/live/header.rs",
            "pub struct Header;\nimpl Header {\n    fn decode() {}\n}\nuse std::io::ErrorKind as Kind;",
        ),
        ("tests/it/live.rs", "#[test]\nfn a_test_that_exists() {}\n// NoType is not code.\n"),
        ("benches/src/only_there.rs", "//! As `src/only_there.rs`.\n"),
        ("src/planted.rs", &lines.join("\n")),
    ];
    Project::new(files.map(file).into(), "name = \"tokio\"").check()
}

struct Project {
    files: Vec<File>,
    /// The code of each file, without comments.
    code: Vec<String>,
    /// All identifiers in code.
    identifiers: HashSet<String>,
    crates: HashSet<String>,
}

impl Project {
    fn new(files: Vec<File>, cargo_lock: &str) -> Self {
        let code: Vec<_> = files.iter().map(|file| file.code().collect::<Vec<_>>().join("\n")).collect();
        let identifiers = code.iter().flat_map(|code| identifiers(code)).map(str::to_owned).collect();
        let locked = cargo_lock.lines().filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        let crates = locked.map(|name| name.replace('-', "_")).chain(LANGUAGE_CRATES.map(str::to_owned));
        Self { files, code, identifiers, crates: crates.collect() }
    }

    /// Returns the number of mentions, and the mentions that do not exist, as `file:line: word`.
    fn check(&self) -> (usize, Vec<String>) {
        let (mut checked, mut misses) = (0, vec![]);
        for file in &self.files {
            for (line, word) in code_spans(&file.prose()) {
                if let Some(exists) = self.exists(&file.path, word.trim_end_matches("()").trim_end_matches('!')) {
                    checked += 1;
                    if !exists {
                        misses.push(format!("{}:{line}: `{word}`", file.path));
                    }
                }
            }
        }
        (checked, misses)
    }

    /// Returns whether the mentioned path or item exists. `None` if the word is neither a path nor an item.
    fn exists(&self, file: &str, word: &str) -> Option<bool> {
        let is_path = word.chars().all(|character| character.is_ascii_alphanumeric() || "_-./{},*".contains(character));
        if is_path && TOP_DIRECTORIES.iter().any(|top| word.starts_with(top)) {
            let above =
                |path: &str| file.match_indices('/').any(|(at, _)| self.has_path(&format!("{}/{path}", &file[..at])));
            return Some(alternatives(word).iter().all(|path| self.has_path(path) || above(path)));
        }
        if is_path
            && SOURCE_EXTENSIONS.iter().any(|extension| word.len() > extension.len() && word.ends_with(extension))
        {
            let is_end =
                |path: &str| path.strip_suffix(word).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'));
            return Some(self.files.iter().any(|file| is_end(&file.path)));
        }
        let segments: Vec<_> = word.split("::").skip_while(|segment| RELATIVE.contains(segment)).collect();
        if !segments.iter().all(|segment| is_identifier(segment)) {
            return None;
        }
        match segments[..] {
            [] => None,
            [name] if word.contains("::") || is_type_or_long_name(name) => Some(self.identifiers.contains(name)),
            [_] => None,
            [first, ref rest @ ..] => Some(self.resolves(first, rest)),
        }
    }

    fn has_path(&self, path: &str) -> bool {
        match path.split_once('*') {
            None => {
                let directory = format!("{}/", path.trim_end_matches('/'));
                self.files.iter().any(|file| file.path == path || file.path.starts_with(&directory))
                    || crate::source::root().join(path).is_file()
            }
            Some((before, after)) => {
                self.files.iter().any(|file| file.path.starts_with(before) && file.path.ends_with(after))
            }
        }
    }

    /// Returns whether a path resolves that begins at a crate, a type, or a module anywhere in the project.
    fn resolves(&self, first: &str, rest: &[&str]) -> bool {
        if first.starts_with(char::is_uppercase) {
            // The members of a type of another crate are not known.
            let members = if self.defining("", first).is_empty() { &[] } else { rest };
            return self.identifiers.contains(first) && members.iter().all(|name| self.identifiers.contains(*name));
        }
        let modules = self.modules("", first);
        if modules.is_empty() {
            return self.crates.contains(first) || !self.defining("", first).is_empty();
        }
        modules.iter().any(|module| self.resolves_in(module, rest))
    }

    /// Returns whether a path resolves in a module. `scope` is the path of the module's file without `.rs`, or the
    /// module's directory.
    fn resolves_in(&self, scope: &str, segments: &[&str]) -> bool {
        let Some((name, rest)) = segments.split_first() else { return true };
        let modules = self.modules(scope, name);
        modules.iter().any(|module| self.resolves_in(module, rest))
            || !self.defining(scope, name).is_empty()
                && rest.iter().all(|name| self.code_in(scope).any(|code| identifiers(code).any(|word| word == *name)))
    }

    /// The modules with this name below a module, as scopes.
    fn modules(&self, scope: &str, name: &str) -> BTreeSet<String> {
        let below = if scope.is_empty() { String::new() } else { format!("{scope}/") };
        let scopes = self.files.iter().filter_map(|file| {
            let module = file.path.strip_suffix("/mod.rs").or_else(|| file.path.strip_suffix(".rs"))?;
            (module.starts_with(&below) && module.rsplit('/').next() == Some(name)).then(|| module.to_owned())
        });
        scopes.collect()
    }

    fn code_in<'a>(&'a self, scope: &'a str) -> impl Iterator<Item = &'a str> {
        let inside = move |path: &str| {
            path.strip_prefix(scope).is_some_and(|rest| scope.is_empty() || rest == ".rs" || rest.starts_with('/'))
        };
        self.files.iter().zip(&self.code).filter(move |(file, _)| inside(&file.path)).map(|(_, code)| code.as_str())
    }

    /// The code in a module that defines an item of this name.
    fn defining<'a>(&'a self, scope: &'a str, name: &str) -> Vec<&'a str> {
        let definitions = DEFINITIONS.map(|keyword| format!("{keyword}{name}"));
        let defines = |code: &&str| definitions.iter().any(|definition| has_word(code, definition));
        self.code_in(scope).filter(defines).collect()
    }
}

/// Returns whether the word is the name of a type, or has more than two underscores like the name of a test or a
/// metric.
fn is_type_or_long_name(word: &str) -> bool {
    let is_type = word.starts_with(char::is_uppercase) && word.contains(char::is_lowercase) && !word.contains('_');
    let is_long = word.matches('_').count() > 2 && !word.contains(char::is_uppercase);
    is_type || is_long
}

fn is_identifier(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

fn identifiers(code: &str) -> impl Iterator<Item = &str> {
    code.split(|character: char| !character.is_ascii_alphanumeric() && character != '_').filter(|word| !word.is_empty())
}

/// Returns whether `text` contains these words, not followed by more of an identifier.
fn has_word(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, _)| {
        !text[at + words.len()..].starts_with(|character: char| character.is_ascii_alphanumeric() || character == '_')
    })
}

/// The paths that a word with one group `{a,b}` means.
fn alternatives(word: &str) -> Vec<String> {
    let group = word.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    group.map_or_else(
        || vec![word.to_owned()],
        |(before, (group, after))| group.split(',').map(|one| format!("{before}{one}{after}")).collect(),
    )
}

/// The code spans of prose, each with the line where it begins. A span may continue on the next line. As in Markdown, a
/// span ends at as many backticks as it began with.
fn code_spans(prose: &[(usize, &str)]) -> Vec<(usize, String)> {
    let mut spans = vec![];
    for block in prose.chunk_by(|(before, _), (after, _)| before + 1 == *after) {
        let text = block.iter().map(|(_, line)| *line).collect::<Vec<_>>().join("\n");
        let mut rest = text.as_str();
        while let Some(start) = rest.find('`') {
            let ticks = rest[start..].len() - rest[start..].trim_start_matches('`').len();
            let (fence, inside) = (&rest[start..start + ticks], &rest[start + ticks..]);
            let before = text.len() - inside.len();
            let end = inside
                .match_indices(fence)
                .find(|(at, _)| !inside[..*at].ends_with('`') && !inside[at + ticks..].starts_with('`'));
            let Some((end, _)) = end else {
                rest = inside;
                continue;
            };
            let line = block[0].0 + text[..before].matches('\n').count();
            spans.push((line, inside[..end].split_whitespace().collect::<Vec<_>>().join(" ")));
            rest = &inside[end + ticks..];
        }
    }
    spans
}
