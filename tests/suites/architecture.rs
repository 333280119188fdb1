//! The house stays as docs/ARCHITECTURE.md draws it: allowed edges, one door to each outside world, files of one idea.
//!
//! The edges stand in the document's table under "Allowed edges"; this suite reads it, so that neither can go
//! its own way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use dfs_tests::binaries::workspace;
use dfs_tests::ops::files_below;
use dfs_tests::source::{SourceFile, source_files};

const CRATES: [&str; 3] = ["shared", "server", "mountd"];
const FILE_LINES_MAX: usize = 600;

/// A crate or path of std, the crate of ours in question, and the only places in it that may name it.
const DOORS: &[(&str, &str, &[&str])] = &[
    ("fuser", "mountd", &["fuse"]),
    ("reqwest", "mountd", &["remote"]),
    ("fjall", "mountd", &["tree"]),
    ("rusqlite", "mountd", &[]),
    ("dfs_server", "mountd", &["bin/dfs-mount", "embedded"]),
    ("tokio::net", "mountd", &["control", "bin/dfs"]),
    ("std::net::TcpListener", "mountd", &[]),
    ("std::net::TcpStream", "mountd", &[]),
    ("rusqlite", "server", &["metadata"]),
    ("tokio::net", "server", &["engine", "server"]),
    ("std::net::TcpListener", "server", &["engine", "server"]),
    ("std::net::TcpStream", "server", &["engine"]),
    ("std::net::UdpSocket", "server", &[]),
    ("fuser", "server", &[]),
    ("reqwest", "server", &[]),
    ("dfs_mountd", "server", &[]),
    ("tokio", "shared", &[]),
    ("reqwest", "shared", &[]),
    ("fuser", "shared", &[]),
    ("rusqlite", "shared", &[]),
    ("fjall", "shared", &[]),
    ("std::net::TcpListener", "shared", &[]),
    ("std::net::TcpStream", "shared", &[]),
    ("std::net::UdpSocket", "shared", &[]),
    ("std::fs", "shared", &[]),
    ("dfs_server", "shared", &[]),
    ("dfs_mountd", "shared", &[]),
];

/// What a module may use, in its own crate: module paths written with `/`, or `all`.
type Edges = BTreeMap<(String, String), BTreeSet<String>>;

/// Reads the rows `| crate | module | may use |` below the heading "Allowed edges".
fn read_edges(text: &str) -> Result<Edges> {
    let is_heading = |line: &str| line.starts_with('#') && line.trim_end().ends_with("Allowed edges");
    let section = text.lines().skip_while(|line| !is_heading(line)).skip(1);
    let mut edges = Edges::new();
    for line in section.take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with('|')) {
        let cells: Vec<String> =
            line.trim().trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
        let [krate, module, uses] = cells.as_slice() else { bail!("not three columns: {line}") };
        if krate == "crate" || krate.starts_with('-') {
            continue;
        }
        ensure!(CRATES.contains(&krate.as_str()), "unknown crate in: {line}");
        let uses = uses.split(',').map(|name| name.trim().to_owned());
        let uses = uses.filter(|name| !name.is_empty() && name != "—" && name != "-").collect();
        ensure!(
            edges.insert((krate.clone(), module.clone()), uses).is_none(),
            "two rows for {module}: {line}"
        );
    }
    ensure!(!edges.is_empty(), "no table under a heading \"Allowed edges\"");
    Ok(edges)
}

fn edges_of_the_document() -> Result<Edges> {
    let path = workspace().join("docs/ARCHITECTURE.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    read_edges(&text).context("docs/ARCHITECTURE.md")
}

/// The row that speaks about `module`: the longest name that it lies below.
fn row<'e>(edges: &'e Edges, krate: &str, module: &str) -> Option<(&'e str, &'e BTreeSet<String>)> {
    let rows = edges.iter().filter(|((of, name), _)| of == krate && is_below(module, name));
    rows.max_by_key(|((_, name), _)| name.len()).map(|((_, name), uses)| (name.as_str(), uses))
}

fn is_below(module: &str, name: &str) -> bool {
    module == name || module.strip_prefix(name).is_some_and(|rest| rest.starts_with('/'))
}

/// Every reference of `file` that the table does not allow.
fn forbidden(edges: &Edges, krate: &str, file: &SourceFile) -> Result<Vec<String>> {
    let module = file.module.join("/");
    if module.is_empty() {
        return Ok(Vec::new());
    }
    let (name, uses) = row(edges, krate, &module)
        .with_context(|| format!("no row for module {module} of {krate} under \"Allowed edges\""))?;
    let everywhere = edges.get(&(krate.to_owned(), String::from("*")));
    let modules: BTreeSet<&str> =
        edges.keys().filter(|(of, _)| of == krate).map(|(_, name)| top(name)).collect();
    let mut found = Vec::new();
    for reference in file.references() {
        let [root, target @ ..] = reference.path.as_slice() else { continue };
        if root != "crate" || target.is_empty() {
            continue;
        }
        let target = target.join("/");
        let is_module =
            modules.contains(top(&target)) || everywhere.is_some_and(|all| all.contains(top(&target)));
        let is_allowed = is_below(&target, name)
            || !is_module
            || uses.contains("all")
            || uses.iter().chain(everywhere.into_iter().flatten()).any(|used| is_below(&target, used));
        if !is_allowed {
            found.push(format!("{}:{}: {name} may not use {target}", file.path.display(), reference.line));
        }
    }
    Ok(found)
}

fn top(module: &str) -> &str {
    module.split('/').next().unwrap_or(module)
}

#[test]
fn modules_use_only_what_the_table_of_allowed_edges_lets_them() -> Result<()> {
    let edges = edges_of_the_document()?;
    let mut found = Vec::new();
    for krate in CRATES {
        for file in source_files(&workspace(), krate)? {
            found.extend(forbidden(&edges, krate, &file)?);
        }
    }
    ensure!(found.is_empty(), "forbidden edges:\n{}", found.join("\n"));
    Ok(())
}

#[test]
fn every_row_of_the_table_names_modules_that_exist() -> Result<()> {
    for ((krate, module), uses) in edges_of_the_document()? {
        let exists = |name: &str| {
            let base = workspace().join(&krate).join("src").join(name);
            base.with_extension("rs").is_file() || name == "*" || name == "all"
        };
        ensure!(exists(&module), "{krate} has no module {module}");
        for used in uses {
            ensure!(exists(&used), "{krate} has no module {used}, which {module} may use");
        }
    }
    Ok(())
}

#[test]
fn edges_between_modules_make_no_circle() -> Result<()> {
    let edges = edges_of_the_document()?;
    for krate in CRATES {
        let mut left: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for ((of, module), uses) in &edges {
            if of == krate && module != "*" && !uses.contains("all") {
                let uses = uses.iter().map(|used| top(used)).filter(|used| *used != top(module));
                left.entry(top(module)).or_default().extend(uses);
            }
        }
        loop {
            let before = left.len();
            let open: BTreeSet<&str> = left.keys().copied().collect();
            left.retain(|_, uses| uses.iter().any(|used| open.contains(used)));
            if left.len() == before {
                break;
            }
        }
        ensure!(left.is_empty(), "modules of {krate} in a circle: {left:?}");
    }
    Ok(())
}

#[test]
fn each_outside_world_has_one_door() -> Result<()> {
    let mut found = Vec::new();
    for krate in CRATES {
        for file in source_files(&workspace(), krate)? {
            let module = file.module.join("/");
            for reference in file.references() {
                let path = reference.path.join("::");
                for (thing, of, doors) in DOORS {
                    let rest = path.strip_prefix(thing);
                    let is_it = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
                    let is_door = doors.iter().any(|door| is_below(&module, door));
                    if *of == krate && is_it && !is_door {
                        found.push(format!(
                            "{}:{}: {path} outside of {doors:?}",
                            file.path.display(),
                            reference.line
                        ));
                    }
                }
            }
        }
    }
    ensure!(found.is_empty(), "not through the door:\n{}", found.join("\n"));
    Ok(())
}

#[test]
fn every_file_says_what_it_owns_and_stays_one_idea() -> Result<()> {
    let mut found = Vec::new();
    for krate in ["shared", "server", "mountd", "tests"] {
        for path in files_below(&workspace().join(krate))? {
            if path.extension().is_none_or(|extension| extension != "rs") || is_generated(&path) {
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            let lines = text.lines().count();
            if !text.starts_with("//!") {
                found.push(format!("{} does not open with //!", path.display()));
            }
            if lines > FILE_LINES_MAX {
                found.push(format!("{} has {lines} lines", path.display()));
            }
            if path.file_name().is_some_and(|name| name == "mod.rs") {
                found.push(format!("{}: a module is foo.rs beside foo/", path.display()));
            }
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if ["utils", "util", "helpers", "common", "manager", "misc"].contains(&stem.as_str()) {
                found.push(format!("{}: the name says nothing", path.display()));
            }
        }
    }
    ensure!(found.is_empty(), "{}", found.join("\n"));
    Ok(())
}

fn is_generated(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "target")
}

#[test]
fn the_top_level_holds_what_the_layout_names() -> Result<()> {
    let known =
        ["Cargo.toml", "Cargo.lock", "server", "mountd", "shared", "tests", "docs", "README.md", "target"];
    for entry in std::fs::read_dir(workspace())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let is_known = known.contains(&name.as_str()) || name.starts_with('.') || name.starts_with("LICENSE");
        ensure!(is_known, "{name} has no place at the top level");
    }
    Ok(())
}

#[test]
fn a_forbidden_edge_is_found_and_an_allowed_one_is_not() -> Result<()> {
    let table = "# x\n## Allowed edges\n\n| crate | module | may use |\n|---|---|---|\n\
                 | mountd | fs | tree, `cache` |\n| mountd | tree | — |\n| mountd | cache | — |\n\
                 | mountd | engine | all |\n| mountd | engine/plan | — |\n| mountd | * | limits |\n\n## next\n";
    let edges = read_edges(table)?;
    let check = |module: &str, text: &str| -> Result<usize> {
        let module = module.split('/').map(str::to_owned).collect();
        let file = SourceFile { path: "x.rs".into(), module, text: text.into() };
        Ok(forbidden(&edges, "mountd", &file)?.len())
    };
    ensure!(check("fs/read", "use crate::{tree::X, cache, fs::Y, limits::Z};")? == 0, "allowed");
    ensure!(check("tree", "use crate::fs::X;")? == 1, "upwards");
    ensure!(check("tree/node", "use super::super::cache::X;")? == 1, "sideways through super");
    ensure!(check("engine/upload", "use crate::{tree, cache, engine::plan};")? == 0, "all");
    ensure!(check("engine/plan", "use crate::engine::upload::X; use super::retry;")? == 2, "plan is pure");
    ensure!(check("engine/plan/row", "use super::super::plan::X;")? == 0, "its own");
    ensure!(check("unknown", "").is_err(), "a module without a row");
    Ok(())
}
