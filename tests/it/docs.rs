//! Checks the documents: their links, the API guide, the state diagram, and the shell lines that tests run.
//!
//! `mentions.rs` checks the names in documents, and `language.rs` checks their language.

use std::collections::HashSet;
use std::fs;

use highwater::domain::JobState;
use highwater::grpc::pb;

use crate::prose::{File, files};
use crate::source::{root, rust_files};

/// All documents except the generated results of benchmarks.
fn documents() -> Vec<File> {
    let written = |file: &File| file.is_markdown() && !file.path.starts_with("docs/benchmarks/");
    let documents: Vec<_> = files().into_iter().filter(written).collect();
    assert!(documents.len() >= 7, "only {} documents were found", documents.len());
    documents
}

#[test]
fn every_link_between_documents_resolves() {
    let mut found = 0;
    for File { path: doc, text } in documents() {
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        for link in links.filter(|link| !link.starts_with("http")) {
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let directory = root().join(&doc).parent().unwrap().to_path_buf();
            let target = if file.is_empty() { root().join(&doc) } else { directory.join(file) };
            assert!(target.exists(), "{doc} links to {link}, which does not exist");
            assert!(
                heading.is_empty() || headings(&fs::read_to_string(target).unwrap()).contains(heading),
                "{doc} links to {link}, which has no such heading"
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
        assert!(guide.contains(&word), "docs/api.md does not mention {word}");
    }
}

/// The expected diagram is generated from the transitions of `JobState`.
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
    assert!(text.contains(&diagram), "docs/design.md must contain\n{diagram}");
}

/// The anchors of the headings of a document.
fn headings(text: &str) -> HashSet<String> {
    let name = |heading: &str| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|character| character.is_alphanumeric() || "-_".contains(*character)).collect()
    };
    text.lines().filter(|line| line.starts_with('#')).map(|line| name(line.trim_start_matches('#').trim())).collect()
}

/// The beginnings of shell lines in documents, each with the test that runs such lines. An empty name means that no
/// test does.
const SHELL_LINES: [(&str, &str); 10] = [
    ("./dev curl ", "api_guide_commands_run_as_written"),
    ("redis-cli ", "runbook_commands_run_as_written"),
    ("psql ", "runbook_commands_run_as_written"),
    ("./dev python docs/examples/adopting/rehearse.py ", "a_backend_adopts_highwater_step_by_step"),
    ("highwater ", "gateway_reads_its_settings_from_a_file"),
    ("./dev run", "dev_gateway_with_private_servers_keeps_its_data_between_runs"),
    // No test runs checks and builds.
    ("./dev test ", ""),
    ("./dev demo ", ""),
    ("./dev model", ""),
    ("cargo test ", ""),
];

#[test]
fn every_shell_line_of_the_docs_is_run_by_a_test() {
    let mut found = 0;
    for File { path: doc, text } in documents() {
        for block in text.split("```sh").skip(1) {
            let (lines, _) = block.split_once("```").unwrap();
            for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
                assert!(SHELL_LINES.iter().any(|(begins, _)| line.starts_with(begins)), "{doc}: no test runs {line}");
                found += 1;
            }
        }
    }
    assert!(found > 30, "only {found} lines");
    let tests: String =
        rust_files(&root().join("tests")).iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    assert!(SHELL_LINES.iter().all(|(_, test)| test.is_empty() || tests.contains(&format!("fn {test}("))));
}
