//! docs/SEMANTICS.md and the tests hold each other: every numbered sentence has a test that carries its number.
//!
//! A sentence begins a line with `S1.` (a list mark or bold may come before); a test that holds it has a comment
//! `// S1` or `// S1, S4` on a line of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use dfs_tests::binaries::workspace;
use dfs_tests::ops::files_below;

fn number(text: &str) -> Option<(u32, &str)> {
    let rest = text.strip_prefix('S')?;
    let digits = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    Some((rest[..digits].parse().ok()?, &rest[digits..]))
}

/// The numbers of the sentences, in order.
fn sentences(text: &str) -> Vec<u32> {
    let starts = text.lines().map(|line| line.trim_start_matches([' ', '-', '*', '|', '#']));
    starts
        .filter_map(|line| {
            number(line).filter(|(_, rest)| rest.starts_with('.')).map(|(sentence, _)| sentence)
        })
        .collect()
}

/// The numbers that one comment line carries; `None` for any other line.
fn markers(line: &str) -> Option<Vec<u32>> {
    let list = line.trim().strip_prefix("// ")?;
    list.split(", ")
        .map(|part| number(part).filter(|(_, rest)| rest.is_empty()).map(|(marker, _)| marker))
        .collect()
}

fn marked() -> Result<BTreeMap<u32, Vec<PathBuf>>> {
    let mut found: BTreeMap<u32, Vec<PathBuf>> = BTreeMap::new();
    for krate in ["tests", "shared", "server", "mountd"] {
        for path in files_below(&workspace().join(krate))? {
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            for line in std::fs::read_to_string(&path)?.lines() {
                for marker in markers(line).into_iter().flatten() {
                    found.entry(marker).or_default().push(path.clone());
                }
            }
        }
    }
    Ok(found)
}

#[test]
fn every_sentence_has_a_test_and_every_marker_a_sentence() -> Result<()> {
    let path = workspace().join("docs/SEMANTICS.md");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let sentences = sentences(&text);
    ensure!(sentences.len() >= 8, "only {} numbered sentences", sentences.len());
    ensure!(sentences.windows(2).all(|pair| pair[0] < pair[1]), "numbers out of order: {sentences:?}");
    let marked = marked()?;
    let sentences: BTreeSet<u32> = sentences.into_iter().collect();
    let untested: Vec<&u32> = sentences.iter().filter(|sentence| !marked.contains_key(sentence)).collect();
    ensure!(untested.is_empty(), "sentences without a test: {untested:?}");
    let unknown: Vec<_> = marked.iter().filter(|(marker, _)| !sentences.contains(marker)).collect();
    ensure!(unknown.is_empty(), "markers without a sentence: {unknown:?}");
    Ok(())
}

#[test]
fn sentences_and_markers_are_recognised_and_other_text_is_not() {
    assert_eq!(sentences("# S\nS1. A\n- S2. B\n**S3.** C\nas S4. says\nS5 no dot\nSome. S6."), [1, 2, 3]);
    assert_eq!(markers("    // S1"), Some(vec![1]));
    assert_eq!(markers("// S1, S12"), Some(vec![1, 12]));
    assert_eq!(markers("// S1 and more"), None);
    assert_eq!(markers("let x = 1; // S1"), None);
    assert_eq!(markers("// Some"), None);
}
