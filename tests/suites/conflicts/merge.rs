//! `dfs conflicts merge` on real mounts: what merges cleanly becomes one file, what does not stays as it is.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use dfs_tests::{Cluster, Setup, run};

use super::{conflicts, dfs, expect, listing};

/// Makes conflicts: of each file what both sides had, what the first mount made of it, and the second one.
fn conflict(cluster: &mut Cluster, files: &[(&str, &str, &str, &str)]) -> Result<()> {
    for (name, base, _, _) in files.iter().filter(|(_, base, _, _)| !base.is_empty()) {
        fs::write(cluster.a().join(name), base)?;
    }
    cluster.expect_equal_trees()?;
    cluster.proxies[1].cut();
    for (name, _, first, second) in files {
        fs::write(cluster.a().join(name), first)?;
        fs::write(cluster.b().join(name), second)?;
    }
    cluster.mounts[0].wait_synced()?;
    cluster.proxies[1].restore();
    cluster.expect_equal_trees()?;
    Ok(())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

const MERGING: (&str, &str, &str, &str) = (
    "a.txt",
    "\u{feff}a\r\nb\r\nc\r\nd\r\ne",
    "\u{feff}A\r\nb\r\nc\r\nd\r\ne",
    "\u{feff}a\r\nb\r\nc\r\nd\r\nE",
);
const SAME_LINE: (&str, &str, &str, &str) = ("b.txt", "a\nb\nc\n", "a\nfirst\nc\n", "a\nsecond\nc\n");
const NO_TEXT: (&str, &str, &str, &str) = ("c.bin", "a\0\nb\nc\nd\n", "A\0\nb\nc\nd\n", "a\0\nb\nc\nD\n");
const MADE_TWICE: (&str, &str, &str, &str) = ("d.txt", "", "a\nb\nfirst\n", "second\na\nb\n");
const MERGING_TOO: (&str, &str, &str, &str) =
    ("e.txt", "a\nb\nc\nd\ne\n", "A\nb\nc\nd\ne\n", "a\nb\nc\nd\nE\n");

// S41
#[test]
fn a_conflict_that_merges_cleanly_becomes_one_file_and_any_other_stays_as_it_is() {
    run(&Setup::mounts(2).through_proxies(), |cluster| {
        conflict(cluster, &[MERGING, SAME_LINE, NO_TEXT, MADE_TWICE, MERGING_TOO])?;
        let open = conflicts(cluster)?;
        ensure!(open.len() == 5, "{open:?}");
        dfs(cluster, 2, &["conflicts", "merge"])?;
        let (_, said) = dfs(cluster, 3, &["conflicts", "merge", &text(&cluster.b().join("none"))])?;
        ensure!(said.contains("none"), "{said}");
        // Without the server nobody knows what both sides had.
        cluster.proxies[1].cut();
        let before = listing(cluster.b())?;
        dfs(cluster, 5, &["conflicts", "merge", &text(&open[0].0)])?;
        ensure!(listing(cluster.b())? == before, "nothing is changed");
        cluster.proxies[1].restore();
        cluster.expect_equal_trees()?;
        // By the name of the copy, after a crash.
        cluster.mounts[1].kill();
        cluster.mounts[1].start()?;
        cluster.expect_equal_trees()?;
        let (out, _) = dfs(cluster, 0, &["conflicts", "merge", &text(&open[0].1)])?;
        ensure!(out.contains("a.txt: merged"), "{out}");
        let merged = "\u{feff}A\r\nb\r\nc\r\nd\r\nE";
        ensure!(fs::read_to_string(&open[0].0)? == merged && !open[0].1.exists());
        let before: Vec<_> =
            listing(cluster.b())?.into_iter().filter(|(name, _)| !name.starts_with('e')).collect();
        let (out, said) = dfs(cluster, 1, &["conflicts", "merge", "--all", &text(cluster.b())])?;
        ensure!(out.contains("e.txt: merged") && out.lines().count() == 1, "{out}");
        for (_, copy) in &open[1..4] {
            ensure!(said.contains(&format!("{}: not merged", copy.display())), "{said}");
        }
        ensure!(!said.contains("e (conflict") && !said.contains("a.txt"), "{said}");
        let (mut after, merged): (Vec<_>, Vec<_>) =
            listing(cluster.b())?.into_iter().partition(|(name, _)| !name.starts_with('e'));
        after.sort();
        ensure!(after == before, "what does not merge stays as it is: {after:#?}");
        expect(&merged, &[("e.txt", "A\nb\nc\nd\nE\n")])?;
        ensure!(conflicts(cluster)?.len() == 3, "they are left to be decided");
        cluster.expect_equal_trees()?;
        Ok(())
    });
}
