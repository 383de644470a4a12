//! What README and docs name is there: files, and the tests that are said to watch an invariant.

use std::fs;

use crate::source::{root, rust_files};

const DOCS: [&str; 2] = ["README.md", "docs/design.md"];

#[test]
fn every_file_that_the_docs_name_is_there() {
    for (doc, word) in words() {
        let is_path = ["src/", "tests/", "docs/", "proto/", "migrations/"].iter().any(|top| word.starts_with(top));
        assert!(!is_path || root().join(&word).exists(), "{doc} names {word}, which is not there");
    }
}

#[test]
fn every_test_and_metric_that_the_docs_name_is_there() {
    let mut text = String::new();
    for file in rust_files(&root().join("src")).iter().chain(&rust_files(&root().join("tests"))) {
        text += &fs::read_to_string(file).unwrap();
    }
    let mut found = 0;
    // Names of tests are sentences, those of metrics nearly.
    for (doc, word) in words().filter(|(_, word)| word.matches('_').count() > 2 && !word.contains([' ', '/', '.'])) {
        if word.chars().all(|character| character.is_ascii_lowercase() || "_0123456789".contains(character)) {
            let named = [format!("fn {word}("), format!("\"{word}\"")];
            assert!(named.iter().any(|name| text.contains(name)), "{doc} names {word}, which is not there");
            found += 1;
        }
    }
    assert!(found >= 10, "only {found} names of tests were found");
}

/// Every word in `code` style, with the file that it stands in.
fn words() -> impl Iterator<Item = (&'static str, String)> {
    DOCS.into_iter().flat_map(|doc| {
        let text = fs::read_to_string(root().join(doc)).unwrap();
        // Every second piece stands between backticks.
        text.split('`').skip(1).step_by(2).map(|word| (doc, word.to_owned())).collect::<Vec<_>>()
    })
}
