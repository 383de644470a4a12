//! Checks the layers. The tests parse every file in `src`, and fail if a path names a layer that the layer of the file
//! may not use.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use crate::source::{root, rust_files};

/// Each layer, with the other layers that it may use. A layer is a top-level module with everything below it. To allow
/// a new dependency, add it here, and explain in the commit why the design still holds.
const MAY_USE: [(&str, &[&str]); 23] = [
    ("domain", &[]),
    ("deadline", &[]),
    ("blocking", &[]),
    ("breaker", &["deadline"]),
    ("fault", &[]),
    ("jitter", &[]),
    ("open_files", &[]),
    ("log_throttle", &[]),
    ("memory", &[]),
    ("memory_limit", &[]),
    ("sync", &[]),
    ("dev", &[]),
    ("error", &["blocking", "domain", "memory"]),
    ("live", &["domain", "deadline", "breaker", "fault", "log_throttle", "sync"]),
    ("store", &["blocking", "domain", "deadline", "breaker", "fault", "log_throttle", "memory", "sync"]),
    (
        "gateway",
        &[
            "live",
            "store",
            "domain",
            "error",
            "blocking",
            "deadline",
            "fault",
            "jitter",
            "log_throttle",
            "memory",
            "sync",
        ],
    ),
    ("grpc", &["gateway", "domain", "error", "deadline", "jitter", "log_throttle", "memory", "sync"]),
    ("server", &["grpc", "gateway", "deadline", "jitter", "log_throttle", "memory", "sync"]),
    ("config", &["server", "gateway", "live", "store", "domain", "memory", "memory_limit"]),
    ("app", &["config", "server", "gateway", "live", "store", "deadline", "memory", "open_files"]),
    (
        "cli",
        &[
            "app",
            "config",
            "server",
            "gateway",
            "live",
            "store",
            "dev",
            "grpc",
            "deadline",
            "domain",
            "log_throttle",
            "memory",
            "sync",
        ],
    ),
    ("main", &["cli"]),
    // This file only declares the modules.
    ("lib", &[]),
];

/// Each submodule of `gateway`, with the other submodules that it may use. The root (`gateway/mod.rs`) wires all
/// submodules, and no submodule uses the root. To allow a new dependency, add it here, and explain in the commit why
/// the design still holds.
const GATEWAY_MAY_USE: [(&str, &[&str]); 16] = [
    ("state", &[]),
    ("jobs", &["state"]),
    ("names", &["state"]),
    ("ended_cells", &["state"]),
    ("core", &["state", "ended_cells", "jobs", "names"]),
    ("installation", &[]),
    ("feed", &["state", "installation"]),
    ("quotas", &["core"]),
    ("job_loader", &["state", "jobs"]),
    ("finish", &["core", "state", "jobs"]),
    ("reconcile", &["core", "state", "jobs", "finish"]),
    ("report", &["core", "state", "jobs", "names", "finish", "reconcile"]),
    ("read", &["core", "state", "jobs", "finish"]),
    ("list", &["core", "state", "ended_cells", "jobs", "names", "finish", "read"]),
    ("lifecycle", &["core", "state", "ended_cells", "jobs", "names", "quotas", "finish", "reconcile"]),
    ("claim", &["core", "state"]),
];

/// Crates, each with the only layers that may use it.
const ONLY_IN: [(&str, &[&str]); 10] = [
    ("redis", &["live"]),
    // `dev` creates databases on the private servers that it starts.
    ("sqlx", &["store", "dev"]),
    ("tonic", &["grpc", "server", "cli"]),
    ("tonic_prost", &["grpc"]),
    ("tonic_health", &["server", "cli"]),
    ("tonic_reflection", &["server"]),
    ("metrics_exporter_prometheus", &["server"]),
    ("prost_reflect", &["cli"]),
    ("tonic_types", &["grpc", "server"]),
    ("prost", &["grpc", "server", "cli"]),
];

/// The crates that `domain` may use: no store, network, runtime or clock.
const DOMAIN_CRATES: [&str; 4] = ["serde", "thiserror", "time", "uuid"];

/// Layers that test modules may use in addition to those of their own layer.
const TESTS_MAY_USE: [&str; 1] = ["dev"];

#[test]
fn no_layer_is_crossed() {
    let source = root().join("src");
    let files = rust_files(&source);
    assert!(files.len() > 30, "only {} files: is {} the source?", files.len(), source.display());
    let crates = dependencies();
    let crossed: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let text = fs::read_to_string(file).unwrap();
            crossings(file.strip_prefix(&source).unwrap(), &text, &crates)
        })
        .collect();
    assert!(crossed.is_empty(), "layers are crossed (the table: tests/it/layers.rs):\n{}", crossed.join("\n"));
}

#[test]
fn layers_have_no_cycles() {
    assert_acyclic(&MAY_USE);
    assert_acyclic(&GATEWAY_MAY_USE);
}

fn assert_acyclic(may_use: &[(&str, &[&str])]) {
    let mut settled = BTreeSet::new();
    while settled.len() < may_use.len() {
        let before = settled.len();
        let ready = may_use.iter().filter(|(_, uses)| uses.iter().all(|used| settled.contains(used)));
        settled.extend(ready.map(|(layer, _)| *layer).collect::<Vec<_>>());
        assert!(settled.len() > before, "a layer is in a cycle or unknown; it is none of {settled:?}");
    }
}

#[test]
fn planted_crossings_are_found() {
    let crates = dependencies();
    for (file, text, expected) in [
        ("domain/marks.rs", "use crate::live::Live;", "1: domain uses live"),
        ("domain/mod.rs", "use crate::{domain::Job, store::{self, Store}};", "1: domain uses store"),
        ("live/write.rs", "\nfn f(job: crate::store::Row) {}", "2: live uses store"),
        ("live/write.rs", "use super::super::gateway::Gateway;", "1: live uses gateway"),
        ("live/mod.rs", "mod inner { use super::super::gateway; }", "1: live uses gateway"),
        ("store/jobs.rs", "fn f() { let x = vec![crate::live::Header::new()]; }", "1: store uses live"),
        ("store/jobs.rs", "use ::redis as r;", "1: store uses the crate redis"),
        ("gateway/read/mod.rs", "async fn f() { sqlx::query!(\"SELECT 1\"); }", "1: gateway uses the crate sqlx"),
        ("gateway/read/mod.rs", "fn f() -> Result<(), tonic::Status> { Ok(()) }", "1: gateway uses the crate tonic"),
        ("gateway/read/mod.rs", "#[derive(Clone, prost::Message)] struct S;", "1: gateway uses the crate prost"),
        ("domain/resolve.rs", "use tokio::time::Instant;", "1: domain uses the crate tokio"),
        ("domain/resolve.rs", "fn f() { tracing::info!(\"x\"); }", "1: domain uses the crate tracing"),
        ("grpc/jobs.rs", "use crate::live;", "1: grpc uses live"),
        ("grpc/jobs.rs", "#[cfg(test)] mod tests { use crate::store::Store; }", "1: grpc uses store"),
        ("gateway/mod.rs", "pub use crate::live::Live;", "1: gateway exports live as its own"),
        ("gateway/read/mod.rs", "use super::report::Reporter;", "1: gateway::read uses report"),
        ("gateway/finish/amend.rs", "use super::super::reconcile::Restorer;", "1: gateway::finish uses reconcile"),
        ("gateway/state/mirrors.rs", "use super::super::Gateway;", "1: gateway::state uses Gateway"),
        ("gateway/extra.rs", "use super::jobs::Jobs;", "1: gateway has a submodule extra that is not in the table"),
        ("main.rs", "use highwater::gateway::Gateway;", "1: main uses gateway"),
        ("grpc/mod.rs", "use crate::*;", "1: grpc uses everything"),
        ("lib.rs", "mod surprise;\nuse surprise::Thing;", "2: lib uses surprise"),
        ("surprise.rs", "fn f() {}", "0: surprise is in no layer"),
    ] {
        let expected = format!("{file}:{expected}");
        assert_eq!(crossings(Path::new(file), text, &crates), [expected], "{text}");
    }
}

#[test]
fn allowed_dependencies_are_not_reported() {
    let crates = dependencies();
    for (file, text) in [
        ("gateway/read/mod.rs", "use crate::{live::Live, store::Store, domain::resolve}; use super::jobs::Jobs;"),
        ("gateway/mod.rs", "mod read; use read::Reader;"),
        ("live/read.rs", "use redis::Value; use crate::live::keys; fn f() { self::g(); super::h(); }"),
        // `redis` is the sibling module here, not the crate.
        ("dev/mod.rs", "mod redis; pub use redis::Redis;"),
        ("store/mod.rs", "#[cfg(test)] mod tests { use crate::dev::Postgres; use super::*; }"),
        ("main.rs", "fn main() { highwater::cli::main() }"),
        ("domain/ids.rs", "/// Not `crate::live`.\npub(crate) struct Id(uuid::Uuid);"),
    ] {
        assert_eq!(crossings(Path::new(file), text, &crates), [""; 0], "{text}");
    }
}

/// Returns the crossings in one file, formatted as `file:line: what`. `file` is relative to `src`.
fn crossings(file: &Path, text: &str, crates: &BTreeSet<String>) -> Vec<String> {
    let module = module_of(file);
    let layer = module.first().cloned().unwrap_or_else(|| file.with_extension("").display().to_string());
    let mut reader = Reader { layer, module, crates, in_tests: false, siblings: vec![], found: BTreeSet::new() };
    if reader.allowed().is_none() {
        reader.cross(0, "is in no layer");
    } else {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        reader.siblings = modules_in(&parsed.items);
        reader.visit_file(&parsed);
    }
    reader.found.into_iter().map(|(line, what)| format!("{}:{line}: {what}", file.display())).collect()
}

/// Walks the syntax tree of one file and tracks the current module.
struct Reader<'a> {
    layer: String,
    /// The path of the current module from the crate root.
    module: Vec<String>,
    crates: &'a BTreeSet<String>,
    in_tests: bool,
    /// The child modules that the current module declares. Their names shadow crates.
    siblings: Vec<String>,
    found: BTreeSet<(usize, String)>,
}

impl Reader<'_> {
    fn allowed(&self) -> Option<&'static [&'static str]> {
        MAY_USE.iter().find(|(layer, _)| *layer == self.layer).map(|(_, uses)| *uses)
    }

    fn cross(&mut self, line: usize, what: &str) {
        self.found.insert((line, format!("{} {what}", self.layer)));
    }

    /// Checks one path. `exported` says that a `pub use` makes the path available to other modules.
    fn judge(&mut self, path: &[String], global: bool, exported: bool, line: usize) {
        let Some(first) = path.first() else { return };
        let from_root = match first.as_str() {
            _ if global => None,
            "crate" => Some(path[1..].to_vec()),
            "highwater" if self.layer == "main" => Some(path[1..].to_vec()),
            "self" => Some([&self.module[..], &path[1..]].concat()),
            "super" => {
                let up = path.iter().take_while(|segment| *segment == "super").count();
                Some([&self.module[..self.module.len().saturating_sub(up)], &path[up..]].concat())
            }
            name if self.siblings.iter().any(|sibling| sibling == name) => Some([&self.module[..], path].concat()),
            _ => None,
        };
        match from_root {
            Some(path) => self.judge_layer(&path, exported, line),
            None => self.judge_crate(first, line),
        }
    }

    fn judge_layer(&mut self, path: &[String], exported: bool, line: usize) {
        let Some(used) = path.first() else { return };
        if *used == self.layer {
            return self.judge_submodule(path, line);
        }
        let allowed = self.allowed().is_some_and(|uses| uses.contains(&used.as_str()))
            || self.in_tests && TESTS_MAY_USE.contains(&used.as_str());
        match used.as_str() {
            "*" => self.cross(line, "uses everything"),
            _ if !allowed => self.cross(line, &format!("uses {used}")),
            _ if exported => self.cross(line, &format!("exports {used} as its own")),
            _ => {}
        }
    }

    /// Checks a path within the gateway.
    fn judge_submodule(&mut self, path: &[String], line: usize) {
        let (Some(own), Some(used)) = (self.module.get(1), path.get(1)) else { return };
        if self.layer != "gateway" || own == used {
            return;
        }
        match GATEWAY_MAY_USE.iter().find(|(submodule, _)| submodule == own) {
            None => self.cross(line, &format!("has a submodule {own} that is not in the table")),
            Some((_, allowed)) if !allowed.contains(&used.as_str()) => {
                self.found.insert((line, format!("gateway::{own} uses {used}")));
            }
            Some(_) => {}
        }
    }

    fn judge_crate(&mut self, name: &str, line: usize) {
        let only_in = ONLY_IN.iter().find(|(only, _)| *only == name).map(|(_, layers)| *layers);
        let elsewhere = only_in.is_some_and(|layers| !layers.contains(&self.layer.as_str()));
        let impure = self.layer == "domain" && self.crates.contains(name) && !DOMAIN_CRATES.contains(&name);
        if (elsewhere || impure) && !self.in_tests {
            self.cross(line, &format!("uses the crate {name}"));
        }
    }

    /// Checks every branch of a `use` tree.
    fn judge_tree(&mut self, tree: &syn::UseTree, before: &[String], global: bool, exported: bool) {
        let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.judge_tree(&path.tree, &with(&path.ident), global, exported),
            syn::UseTree::Name(name) => self.judge(&with(&name.ident), global, exported, line(&name.ident)),
            syn::UseTree::Rename(name) => self.judge(&with(&name.ident), global, exported, line(&name.ident)),
            syn::UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                self.judge(&[before, &["*".to_owned()]].concat(), global, exported, line);
            }
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.judge_tree(tree, before, global, exported));
            }
        }
    }

    /// Checks the arguments of a macro. They are only tokens, in which a path is a run of names joined by `::`.
    fn judge_tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut colons, mut global) = (Vec::<String>::new(), 0, false);
        let mut at = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 || path.is_empty() {
                        self.judge_run(&path, global, at);
                        (path, global) = (vec![], colons == 2);
                    }
                    at = line(&ident);
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.judge_run(&path, global, at);
                    (path, colons, global) = (vec![], 0, false);
                    if let TokenTree::Group(group) = other {
                        self.judge_tokens(group.stream());
                    }
                }
            }
        }
        self.judge_run(&path, global, at);
    }

    /// Checks a run of names. A single name in a macro is a variable or a key, not a path.
    fn judge_run(&mut self, path: &[String], global: bool, line: usize) {
        if path.len() > 1 {
            self.judge(path, global, false, line);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let exported = !matches!(item.vis, syn::Visibility::Inherited);
        self.judge_tree(&item.tree, &[], item.leading_colon.is_some(), exported);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // A single name is in scope through an import, and the import is checked separately.
        if names.len() > 1 {
            self.judge(&names, path.leading_colon.is_some(), false, line(&path.segments[0].ident));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.judge_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.judge_tokens(list.tokens.clone());
        visit::visit_meta_list(self, list);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let Some((_, items)) = &item.content else { return };
        let tests = item.attrs.iter().any(is_cfg_test);
        let outside = (std::mem::replace(&mut self.siblings, modules_in(items)), self.in_tests);
        self.in_tests |= tests;
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
        (self.siblings, self.in_tests) = outside;
    }
}

fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
}

fn line(ident: &syn::Ident) -> usize {
    ident.span().start().line
}

fn modules_in(items: &[syn::Item]) -> Vec<String> {
    let modules = items.iter().filter_map(|item| match item {
        syn::Item::Mod(module) => Some(module.ident.to_string()),
        _ => None,
    });
    modules.collect()
}

/// The module path of a file from the crate root. It is `live` for `live/mod.rs`, and the root for `lib.rs` and
/// `main.rs`.
fn module_of(file: &Path) -> Vec<String> {
    let path = file.with_extension("");
    let names = path.iter().map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| !["mod", "lib", "main"].contains(&name.as_str())).collect()
}

/// The crates in Cargo.toml, spelled as in code.
fn dependencies() -> BTreeSet<String> {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let names = manifest["dependencies"].as_table().unwrap().keys().map(|name| name.replace('-', "_"));
    names.collect()
}
