//! What README and docs name is there: files, and the tests that are said to watch an invariant.

use std::collections::HashSet;
use std::fs;

use highwater::domain::JobState;
use highwater::grpc::pb;

use crate::source::{root, rust_files};

const DOCS: [&str; 6] =
    ["README.md", "docs/adopting.md", "docs/api.md", "docs/design.md", "docs/operating.md", "docs/runbook.md"];

#[test]
fn every_mentioned_path_exists() {
    for (doc, word) in words() {
        let is_path = ["src/", "tests/", "docs/", "proto/", "migrations/"].iter().any(|top| word.starts_with(top));
        assert!(!is_path || root().join(&word).exists(), "{doc} names {word}, which is not there");
    }
}

#[test]
fn every_mentioned_test_and_metric_exists() {
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
fn every_link_between_documents_resolves() {
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

#[test]
fn api_guide_covers_every_method_and_error_reason() {
    let guide = fs::read_to_string(root().join("docs/api.md")).unwrap();
    let reasons = (1..100).filter_map(|number| pb::ErrorReason::try_from(number).ok());
    let mut words: Vec<_> =
        reasons.map(|reason| reason.as_str_name().replace("ERROR_REASON_", "| `") + "` |").collect();
    for service in ["job_service", "report_service", "progress_service"] {
        let proto = fs::read_to_string(root().join(format!("proto/highwater/v1/{service}.proto"))).unwrap();
        let calls = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split_once('('));
        words.extend(calls.map(|(call, _)| call.to_owned()));
    }
    assert!(words.len() > 25, "{words:?}");
    for word in words {
        assert!(guide.contains(&word), "docs/api.md does not know {word}");
    }
}

/// The table of transitions, as a diagram.
#[test]
fn state_diagram_matches_the_transition_table() {
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

/// Who types the lines that the docs give for a shell.
const TYPED: [(&str, &str); 8] = [
    ("./dev curl ", "api_guide_commands_run_as_written"),
    ("redis-cli ", "runbook_commands_run_as_written"),
    ("psql ", "runbook_commands_run_as_written"),
    ("target/tools/venv/bin/python docs/examples/adopting/rehearse.py ", "a_backend_adopts_highwater_step_by_step"),
    ("highwater ", "gateway_reads_its_settings_from_a_file"),
    ("./dev run", "dev_gateway_with_private_servers_keeps_its_data_between_runs"),
    // The checks themselves, and what begins with a build: by people.
    ("./dev test ", ""),
    ("./dev demo ", ""),
];

#[test]
fn every_shell_line_of_the_docs_is_run_by_a_test() {
    let mut found = 0;
    for doc in DOCS {
        let text = fs::read_to_string(root().join(doc)).unwrap();
        for block in text.split("```sh").skip(1) {
            let (lines, _) = block.split_once("```").unwrap();
            for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
                assert!(TYPED.iter().any(|(begins, _)| line.starts_with(begins)), "{doc}: nobody types {line}");
                found += 1;
            }
        }
    }
    assert!(found > 30, "only {found} lines");
    let tests: String =
        rust_files(&root().join("tests")).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert!(TYPED.iter().all(|(_, test)| test.is_empty() || tests.contains(&format!("fn {test}("))));
}
