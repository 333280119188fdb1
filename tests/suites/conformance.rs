//! A short form of `tests/conformance/run`: the pjdfstest crate and fsx on a mount of root and of an ordinary user.
//!
//! `.ci/test` installs the two programs.
//! The script itself runs these and more on the bare disk and on mounts of every sort; docs/TESTING.md describes it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::machine::{self, Need};
use dfs_tests::{Cluster, Setup, process, run, user};

const SUITE_DEADLINE: Duration = Duration::from_secs(240);

macro_rules! beside_the_script {
    ($($name:literal),+) => { [$(($name, include_str!(concat!("../conformance/", $name)))),+] };
}

const CONFIGURATIONS: [(&str, &str); 5] = beside_the_script!(
    "pjdfstest.toml",
    "fsx-all.toml",
    "fsx-calls.toml",
    "fsx-pages.toml",
    "fsx-unsynced.toml"
);
const EXCLUSIONS: &str = include_str!("../conformance/exclusions");
const SEMANTICS: &str = include_str!("../../docs/SEMANTICS.md");

/// What the run may find on a mount and not on the bare disk: suite, modes, test and sentence of each line. A question mark before
/// the modes says that it happens sometimes only.
fn exclusions() -> Result<Vec<[String; 4]>> {
    let lines = EXCLUSIONS.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let words: [&str; 4] =
                words.try_into().ok().with_context(|| format!("not four words: {line}"))?;
            Ok(words.map(str::to_owned))
        })
        .collect()
}

/// Writes a configuration that lies beside the script where an ordinary user may read it.
fn configuration(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let (_, text) = CONFIGURATIONS.iter().find(|(known, _)| *known == name).context("a known name")?;
    let path = cluster.scratch("configuration")?.join(name);
    std::fs::write(&path, text)?;
    Ok(path)
}

#[test]
fn pjdfstest_fails_nowhere_on_a_mount_and_skips_what_is_excluded() {
    // `.ci/tools` may have had no way to build it, nor fsx.
    let name = "pjdfstest_fails_nowhere_on_a_mount_and_skips_what_is_excluded";
    if machine::leaves_out(name, Need::Program("pjdfstest")) {
        return;
    }
    run(&Setup::mounts(2), |cluster| {
        let directory = cluster.a().join("pjdfstest");
        std::fs::create_dir(&directory)?;
        let mut command = Command::new("pjdfstest");
        command.arg("-c").arg(configuration(cluster, "pjdfstest.toml")?).arg("-p").arg(&directory);
        let output = process::output(&mut command, SUITE_DEADLINE)?;
        let said = String::from_utf8_lossy(&output.stdout);
        let summary = said.lines().rfind(|line| line.starts_with("Summary:")).context("no summary")?;
        let excluded: Vec<_> = exclusions()?.into_iter().filter(|[suite, ..]| suite == "pjdfstest").collect();
        let sometimes =
            |name: &str| excluded.iter().any(|[_, modes, test, _]| test == name && modes.starts_with('?'));
        let failed = said.lines().filter_map(|line| line.strip_suffix("FAILED")).map(str::trim);
        let failed: Vec<&str> = failed.collect();
        ensure!(output.status.success() || !failed.is_empty(), "{said}");
        ensure!(summary.starts_with(&format!("Summary: {} failed,", failed.len())), "{said}");
        ensure!(failed.iter().all(|test| sometimes(test)), "{said}");
        let count = |part: &str| part.strip_suffix(" passed")?.parse::<u32>().ok();
        let passed = summary.split(", ").find_map(count).context("no count of what passed")?;
        ensure!(passed > 200, "hardly a test ran: {summary}");
        for [_, _, test, _] in excluded.iter().filter(|[_, modes, ..]| !modes.starts_with('?')) {
            let result = said.lines().find(|line| line.split_whitespace().next() == Some(test));
            let is_skipped = result.is_some_and(|line| line.ends_with("skipped"));
            ensure!(is_skipped, "{test} is excluded for nothing: {result:?}");
        }
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn fsx_finds_every_byte_where_it_put_it() {
    if machine::leaves_out("fsx_finds_every_byte_where_it_put_it", Need::Program("fsx")) {
        return;
    }
    let operations = machine::scale("DFS_TESTS_FSX_OPERATIONS", 500);
    let seed = machine::scale("DFS_TESTS_SEED", 1);
    run(&Setup::mounts(2), |cluster| {
        for (name, _) in CONFIGURATIONS.iter().filter(|(name, _)| name.starts_with("fsx-")) {
            let mut command = Command::new("fsx");
            command.arg("-q").arg("-f").arg(configuration(cluster, name)?);
            command.args(["-S", &seed.to_string(), "-N", &operations.to_string()]);
            command.arg("-P").arg(cluster.scratch("fsx")?).arg(cluster.a().join(name));
            let deadline = SUITE_DEADLINE + Duration::from_millis(20 * operations);
            let output = process::output(&mut command, deadline)?;
            ensure!(output.status.success(), "{name}, seed {seed}: {output:?}");
        }
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn all_of_this_holds_for_an_ordinary_user() -> Result<()> {
    user::rerun_suite_as_ordinary_user("all_of_this_holds_for_an_ordinary_user")
}

#[test]
fn every_exclusion_of_the_conformance_run_has_its_sentence() -> Result<()> {
    let (_, not_promised) = SEMANTICS.split_once("## Not promised, and why").context("no such part")?;
    let numbers: Vec<u32> = not_promised
        .lines()
        .filter_map(|line| line.strip_prefix('N')?.split_once('.')?.0.parse().ok())
        .collect();
    let wanted: Vec<u32> = (1..).take(numbers.len()).collect();
    ensure!(!numbers.is_empty() && numbers == wanted, "the sentences are numbered {numbers:?}");
    let known: BTreeSet<String> = numbers.iter().map(|number| format!("N{number}")).collect();
    for [suite, _, test, sentence] in exclusions()? {
        ensure!(known.contains(&sentence), "{suite} {test}: there is no sentence {sentence}");
    }
    Ok(())
}
