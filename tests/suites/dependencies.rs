//! What the project stands on: licences that are allowed, no crate twice without a reason, each used as declared.
//!
//! The rules stand in `.deny.toml`, in the format of cargo-deny, so that either tool reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::binaries::workspace;
use dfs_tests::process;
use serde_json::Value;

struct Rules {
    licences: BTreeSet<String>,
    twice: BTreeMap<String, String>,
    banned: BTreeMap<String, String>,
}

fn rules() -> Result<Rules> {
    let text = std::fs::read_to_string(workspace().join(".deny.toml")).context("read .deny.toml")?;
    let table: toml::Table = text.parse().context("parse .deny.toml")?;
    let list = |section: &str, key: &str| -> Vec<toml::Value> {
        let array = table.get(section).and_then(|section| section.get(key)).and_then(toml::Value::as_array);
        array.cloned().unwrap_or_default()
    };
    let with_reasons = |key: &str| -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        for row in list("bans", key) {
            let field = |name: &str| row.get(name).and_then(toml::Value::as_str).map(str::to_owned);
            let name = field("crate").with_context(|| format!("[bans] {key}: no crate in {row}"))?;
            all.insert(
                name.clone(),
                field("reason").with_context(|| format!("[bans] {key}: no reason for {name}"))?,
            );
        }
        Ok(all)
    };
    let licences =
        list("licenses", "allow").iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    Ok(Rules { licences, twice: with_reasons("skip")?, banned: with_reasons("deny")? })
}

/// The packages that are built for this machine's platform.
fn packages() -> Result<Vec<Value>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--locked", "--offline"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]).current_dir(workspace());
    let metadata: Value = serde_json::from_str(&process::succeed(&mut command, Duration::from_secs(120))?)?;
    let nodes = metadata["resolve"]["nodes"].as_array().context("no resolve")?;
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let all = metadata["packages"].as_array().context("no packages")?;
    Ok(all
        .iter()
        .filter(|package| package["id"].as_str().is_some_and(|id| used.contains(id)))
        .cloned()
        .collect())
}

/// Whether an SPDX expression can be met with the allowed licences.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let result = any_of(&words, &mut at, allowed);
    result && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut result = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        result |= all_of(words, at, allowed);
    }
    result
}

fn all_of(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let mut result = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        result &= one(words, at, allowed);
    }
    result
}

fn one(words: &[&str], at: &mut usize, allowed: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let result = any_of(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return result && closed;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    // `+` is "or any later version": this one will do.
    allowed.contains(name.strip_suffix('+').unwrap_or(&name))
}

#[test]
fn every_licence_is_allowed() -> Result<()> {
    let rules = rules()?;
    let mut found = Vec::new();
    for package in packages()? {
        let licence = package["license"].as_str().unwrap_or("(none)");
        if !is_allowed(licence, &rules.licences) {
            found.push(format!("{} {}: {licence}", package["name"], package["version"]));
        }
    }
    ensure!(found.is_empty(), "licences that .deny.toml does not allow:\n{}", found.join("\n"));
    Ok(())
}

#[test]
fn no_crate_is_built_twice_without_a_reason() -> Result<()> {
    let rules = rules()?;
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages()? {
        let field = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
        versions.entry(field("name")).or_default().insert(field("version"));
    }
    let twice: BTreeMap<_, _> = versions.iter().filter(|(_, versions)| versions.len() > 1).collect();
    let found: Vec<_> = twice.iter().filter(|(name, _)| !rules.twice.contains_key(**name)).collect();
    ensure!(found.is_empty(), "built in several versions, without a reason in .deny.toml: {found:?}");
    let stale: Vec<_> = rules.twice.keys().filter(|name| !twice.contains_key(name)).collect();
    ensure!(stale.is_empty(), "no longer built in several versions, so drop from .deny.toml: {stale:?}");
    let banned: Vec<_> = rules.banned.iter().filter(|(name, _)| versions.contains_key(*name)).collect();
    ensure!(banned.is_empty(), "banned: {banned:?}");
    Ok(())
}

#[test]
fn dependencies_are_declared_once_in_the_workspace() -> Result<()> {
    for krate in ["shared", "server", "mountd", "tests"] {
        let path = workspace().join(krate).join("Cargo.toml");
        let table: toml::Table = std::fs::read_to_string(&path)?.parse()?;
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in table.get(section).and_then(toml::Value::as_table).into_iter().flatten() {
                let inherits = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                ensure!(inherits, "{}: {name} does not come from [workspace.dependencies]", path.display());
            }
        }
    }
    Ok(())
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = BTreeSet::from(["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(String::from));
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "Zlib/MIT",
        "(GPL-2.0 OR MIT) AND Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "MIT+",
    ] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in
        ["GPL-3.0", "GPL-3.0+", "MIT AND GPL-3.0", "(none)", "", "(MIT", "Apache-2.0 WITH Other-exception"]
    {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}
