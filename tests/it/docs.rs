//! What README and docs name is there: files, and the tests that are said to watch an invariant.

use std::collections::HashSet;
use std::fs;

use highwater::domain::JobState;

use crate::source::{root, rust_files};

const DOCS: [&str; 5] = ["README.md", "docs/adopting.md", "docs/design.md", "docs/operating.md", "docs/runbook.md"];

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

#[test]
fn every_link_within_the_docs_leads_somewhere() {
    let mut found = 0;
    for doc in DOCS {
        let text = fs::read_to_string(root().join(doc)).unwrap();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let directory = root().join(doc).parent().unwrap().to_path_buf();
            let target = if file.is_empty() { root().join(doc) } else { directory.join(file) };
            assert!(target.exists(), "{doc} leads to {link}, which is not there");
            assert!(
                heading.is_empty() || headings(&fs::read_to_string(target).unwrap()).contains(heading),
                "{doc}: {link}"
            );
            found += 1;
        }
    }
    assert!(found >= 5, "only {found} links were found");
}

/// The table of transitions, as a diagram.
#[test]
fn the_diagram_of_states_is_that_of_the_table() {
    let mut diagram = "```mermaid\nstateDiagram-v2\n    [*] --> PENDING\n".to_owned();
    for from in JobState::ALL {
        for to in JobState::ALL.into_iter().filter(|to| from.can_become(*to)) {
            diagram += &format!("    {from} --> {to}\n");
        }
        if from.takes_reports() {
            diagram += &format!("    {from}: {from} (claimable, while work is left)\n");
        }
        if from.is_ended() {
            diagram += &format!("    {from} --> [*]\n");
        }
    }
    diagram += "```\n";
    let text = fs::read_to_string(root().join("docs/design.md")).unwrap();
    assert!(text.contains(&diagram), "docs/design.md must hold\n{diagram}");
}

/// The names by which headings are linked to.
fn headings(text: &str) -> HashSet<String> {
    let name = |heading: &str| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|character| character.is_alphanumeric() || "-_".contains(*character)).collect()
    };
    text.lines().filter(|line| line.starts_with('#')).map(|line| name(line.trim_start_matches('#').trim())).collect()
}

/// Every word in `code` style, with the file that it stands in.
fn words() -> impl Iterator<Item = (&'static str, String)> {
    DOCS.into_iter().flat_map(|doc| {
        let text = fs::read_to_string(root().join(doc)).unwrap();
        // Every second piece stands between backticks.
        text.split('`').skip(1).step_by(2).map(|word| (doc, word.to_owned())).collect::<Vec<_>>()
    })
}
