//! The README's two set-up commands are the ones that CI runs, and its links lead somewhere.

use anyhow::{Context, Result, ensure};
use dfs_tests::binaries::workspace;

fn read(name: &str) -> Result<String> {
    std::fs::read_to_string(workspace().join(name)).with_context(|| format!("read {name}"))
}

/// The fenced blocks marked `sh` in the section "Set up", trimmed.
fn set_up_commands(text: &str) -> Vec<String> {
    let section = text.split("\n## ").find(|section| section.starts_with("Set up")).unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1);
    blocks.filter_map(|block| Some(block.split_once("```")?.0.trim().to_owned())).collect()
}

#[test]
fn the_two_set_up_commands_are_what_ci_runs() -> Result<()> {
    let commands = set_up_commands(&read("README.md")?);
    ensure!(commands.len() == 2, "two commands set it up, not {commands:?}");
    let ci = read(".ci/run")?;
    for command in &commands {
        ensure!(!command.contains('\n'), "one command is one line: {command}");
        ensure!(ci.lines().any(|line| line.trim() == command), ".ci/run does not run: {command}");
    }
    Ok(())
}

#[test]
fn links_of_readme_and_docs_lead_to_files() -> Result<()> {
    let mut pages = vec![String::from("README.md")];
    for entry in std::fs::read_dir(workspace().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    for page in pages {
        let text = read(&page)?;
        let base = workspace().join(&page);
        let base = base.parent().context("a page is in a directory")?;
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            ensure!(base.join(target).exists(), "{page} links to {target}, which is not there");
        }
    }
    Ok(())
}

#[test]
fn nothing_names_a_path_of_one_machine() -> Result<()> {
    for name in ["README.md", ".ci/run", ".ci/test", ".deny.toml", "Cargo.toml"] {
        let text = read(name)?;
        ensure!(!text.contains("/home/") && !text.contains("/root/"), "{name} names a path of one machine");
    }
    Ok(())
}
