//! The conflict table on real mounts: every row, in both orders of arrival, with and without a crash between.
//!
//! All rows run at once, each in directories of its own: the bases are made, both mounts are cut off, each does its part, the
//! first is connected and then the second. In the directory `RULE.a` the left part is done in the mount that arrives first,
//! in `RULE.b` the right one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use dfs_tests::{Cluster, Setup, ops, run};

#[path = "conflicts/last_write.rs"]
mod last_write;
#[path = "conflicts/merge.rs"]
mod merge;
#[path = "conflicts/rows.rs"]
mod rows;

use rows::{ROWS, Row};

/// The order in which the two parts of a row reach the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    Left,
    Right,
}

/// Host name of the mount that arrives second: its version gets the conflict copy's name.
const SECOND: &str = "host-b";

impl Row {
    fn directory(&self, root: &Path, first: First) -> PathBuf {
        root.join(format!("{}.{}", self.name, if first == First::Left { "a" } else { "b" }))
    }
}

fn each(mut work: impl FnMut(&Row, First) -> Result<()>) -> Result<()> {
    for row in ROWS {
        for first in [First::Left, First::Right] {
            work(row, first).with_context(|| format!("{}, {first:?} first", row.name))?;
        }
    }
    Ok(())
}

fn table(crash: bool) {
    run(&Setup::mounts(2).through_proxies(), |cluster| {
        each(|row, first| {
            let directory = row.directory(cluster.a(), first);
            fs::create_dir(&directory)?;
            (row.base)(&directory)
        })?;
        cluster.expect_equal_trees()?;
        cluster.proxies.iter().for_each(dfs_tests::proxy::Proxy::cut);
        each(|row, first| {
            let (earlier, later) =
                if first == First::Left { (row.left, row.right) } else { (row.right, row.left) };
            earlier(&row.directory(cluster.a(), first))?;
            later(&row.directory(cluster.b(), first))
        })?;
        meet(cluster, crash)?;
        cluster.expect_equal_trees()?;
        each(|row, first| {
            let directory = row.directory(cluster.a(), first);
            let found = listing(&directory)?;
            (row.check)(&found, first).with_context(|| format!("found {found:#?}"))?;
            rows::check_attributes(row.name, &directory, first)
        })
    });
}

/// What is below a directory: relative path, and content where it is a file, `/` where it is a directory, the target behind an
/// arrow where it is a symlink. A conflict copy's time is cut out of its name.
type Listing = Vec<(String, String)>;

fn listing(directory: &Path) -> Result<Listing> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at)? {
            let path = entry?.path();
            let kind = fs::symlink_metadata(&path)?.file_type();
            let what = if kind.is_dir() {
                open.push(path.clone());
                "/".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path)?.display())
            } else {
                String::from_utf8_lossy(&fs::read(&path)?).into_owned()
            };
            let name = path.strip_prefix(directory)?.to_string_lossy().into_owned();
            found.push((without_time(&name), what));
        }
    }
    found.sort();
    Ok(found)
}

/// `x (conflict host 2026-01-02 03.04.05).txt` → `x (conflict host).txt`, if the time has that form.
fn without_time(name: &str) -> String {
    let Some(mark) = name.find(" (conflict ") else { return name.to_owned() };
    let Some(end) = name[mark..].find(')').map(|end| mark + end) else { return name.to_owned() };
    let stamp = name.get(end - 20..end).unwrap_or_default();
    let form = " dddd-dd-dd dd.dd.dd";
    let fits = stamp.len() == form.len()
        && stamp.bytes().zip(form.bytes()).all(|(b, f)| if f == b'd' { b.is_ascii_digit() } else { b == f });
    if fits { format!("{}{}", &name[..end - 20], &name[end..]) } else { name.to_owned() }
}

/// The first mount gets its connection back and sends all it has, then the second one, which may have been killed meanwhile.
fn meet(cluster: &mut Cluster, crash: bool) -> Result<()> {
    if crash {
        cluster.mounts[1].kill();
    }
    cluster.proxies[0].restore();
    cluster.mounts[0].wait_synced()?;
    if crash {
        cluster.mounts[1].start()?;
    }
    cluster.proxies[1].restore();
    Ok(())
}

/// The listing is exactly this, in any order.
fn expect(found: &Listing, wanted: &[(&str, &str)]) -> Result<()> {
    let mut wanted: Vec<_> = wanted.iter().map(|(path, what)| (path.to_string(), what.to_string())).collect();
    wanted.sort();
    ensure!(*found == wanted, "wanted {wanted:#?}");
    Ok(())
}

// S15, S16, S17, S18
#[test]
fn every_row_of_the_conflict_table_holds_in_both_orders() {
    table(false);
}

// S15, S16, S17, S18
#[test]
fn every_row_of_the_conflict_table_holds_after_a_crash_of_the_second_mount() {
    table(true);
}

/// Two mounts, the second one offline, that changed `f.txt` and `g.txt` on both sides; the first has arrived.
fn two_conflicts(cluster: &mut dfs_tests::Cluster) -> Result<()> {
    for name in ["f.txt", "g.txt"] {
        fs::write(cluster.a().join(name), "one\ntwo\nthree\n")?;
    }
    cluster.expect_equal_trees()?;
    cluster.proxies[1].cut();
    for name in ["f.txt", "g.txt"] {
        fs::write(cluster.a().join(name), "one\ntwo of a\nthree\n")?;
        fs::write(cluster.b().join(name), "one\ntwo of b\nthree\n")?;
    }
    cluster.mounts[0].wait_synced()?;
    cluster.proxies[1].restore();
    cluster.expect_equal_trees()?;
    Ok(())
}

/// Runs `dfs`, wants this exit code, and returns what it printed and said.
fn dfs(cluster: &dfs_tests::Cluster, code: i32, arguments: &[&str]) -> Result<(String, String)> {
    let output = cluster.mounts[1].dfs(arguments)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, said) = (text(&output.stdout), text(&output.stderr));
    ensure!(output.status.code() == Some(code), "dfs {arguments:?}: {}: {out}{said}", output.status);
    Ok((out, said))
}

fn conflicts(cluster: &dfs_tests::Cluster) -> Result<Vec<(PathBuf, PathBuf)>> {
    let (out, _) = dfs(cluster, 0, &["conflicts", "list", &cluster.b().to_string_lossy(), "--json"])?;
    let list: serde_json::Value = serde_json::from_str(&out)?;
    let list = list["conflicts"].as_array().context("a list")?.clone();
    list.iter()
        .map(|conflict| {
            ensure!(conflict["host"] == SECOND && conflict["at_ms"].as_i64() > Some(0), "{conflict}");
            let path = |key: &str| conflict[key].as_str().map(PathBuf::from).context("a path");
            Ok((path("path")?, path("copy")?))
        })
        .collect()
}

// S34
#[test]
fn conflicts_are_listed_compared_and_decided_also_after_a_crash() {
    run(&Setup::mounts(2).through_proxies(), |cluster| {
        two_conflicts(cluster)?;
        cluster.mounts[1].kill();
        cluster.mounts[1].start()?;
        let open = conflicts(cluster)?;
        let [(f, f_copy), (g, g_copy)] = &open[..] else { anyhow::bail!("two are wanted: {open:?}") };
        ensure!(f.ends_with("f.txt") && g.ends_with("g.txt"), "{open:?}");
        ensure!(fs::read_to_string(g_copy)? == "one\ntwo of b\nthree\n", "the copy is the local version");
        ensure!(ops::state(f)? == "synced", "keep-both waits for nobody");
        let (f, f_copy) = (f.to_string_lossy(), f_copy.to_string_lossy());
        let (diff, _) = dfs(cluster, 0, &["conflicts", "diff", &f])?;
        ensure!(diff.contains("-two of a\n+two of b\n") && diff.contains(&format!("+++ {f_copy}")), "{diff}");
        let (_, said) = dfs(cluster, 3, &["resolve", &cluster.b().join("none").to_string_lossy()])?;
        ensure!(said.contains("none"), "{said}");
        dfs(cluster, 2, &["conflicts", "take", "local"])?;
        dfs(cluster, 0, &["conflicts", "take", "local", &f])?;
        ensure!(conflicts(cluster)?.len() == 1, "one is decided");
        dfs(cluster, 0, &["conflicts", "take", "remote", "--all", &cluster.b().to_string_lossy()])?;
        ensure!(conflicts(cluster)?.is_empty(), "all are decided");
        let (_, said) = dfs(cluster, 3, &["conflicts", "diff", &f])?;
        ensure!(said.contains("no conflict"), "{said}");
        cluster.expect_equal_trees()?;
        let of = |side: &str| format!("one\ntwo of {side}\nthree\n");
        let found = listing(cluster.a())?;
        expect(&found, &[("f.txt", &of("b")), ("g.txt", &of("a"))])
    });
}

// S35
#[test]
fn with_the_manual_policy_a_path_is_marked_until_somebody_decides() {
    let policy = ["--on-conflict-for", "f.*=manual"];
    run(&Setup::mounts(2).through_proxies().mount_arguments(&policy), |cluster| {
        two_conflicts(cluster)?;
        cluster.mounts[1].kill();
        cluster.mounts[1].start()?;
        let open = conflicts(cluster)?;
        let [(f, f_copy), (g, g_copy)] = &open[..] else { anyhow::bail!("two are wanted: {open:?}") };
        for (path, wanted) in [(f, "conflict"), (f_copy, "conflict"), (g, "synced"), (g_copy, "synced")] {
            ensure!(ops::state(path)? == wanted, "{}: {}", path.display(), ops::state(path)?);
        }
        let both = [fs::read_to_string(f)?, fs::read_to_string(f_copy)?];
        dfs(cluster, 0, &["resolve", &f.to_string_lossy()])?;
        ensure!(both == [fs::read_to_string(f)?, fs::read_to_string(f_copy)?], "both versions stay");
        ensure!(ops::state(f)? == "synced" && ops::state(f_copy)? == "synced", "the mark is gone");
        ensure!(conflicts(cluster)?.len() == 1, "only the other is left");
        Ok(())
    });
}

// S36
#[test]
fn with_the_merge_policy_edits_of_different_lines_end_in_one_text_that_no_other_mount_saw_twice() {
    let policy = ["--on-conflict", "merge"];
    run(&Setup::mounts(2).through_proxies().mount_arguments(&policy), |cluster| {
        let long = |first: &str, last: &str| format!("{first}\n{}{last}", "the same line\n".repeat(5_000));
        let texts = [("short.txt", "a\nb\nc\nd\ne\n".to_owned()), ("long.txt", long("first", "last"))];
        for (name, text) in &texts {
            fs::write(cluster.a().join(name), text)?;
        }
        for name in ["same line.txt", "saved.txt"] {
            fs::write(cluster.a().join(name), "a\nb\nc\nd\ne\n")?;
        }
        fs::write(cluster.a().join("binary"), b"a\0\nb\nc\nd\n")?;
        cluster.expect_equal_trees()?;
        cluster.proxies.iter().for_each(dfs_tests::proxy::Proxy::cut);
        // Many saves on both sides.
        for n in 0..20 {
            fs::write(cluster.a().join("short.txt"), format!("a{n}\nb\nc\nd\ne\n"))?;
            fs::write(cluster.b().join("short.txt"), format!("a\nb\nc\nd\ne{n}\n"))?;
        }
        fs::write(cluster.a().join("long.txt"), long("first of a", "last"))?;
        fs::write(cluster.b().join("long.txt"), long("first", "last of b\n"))?;
        fs::write(cluster.a().join("same line.txt"), "a\nb\nc of a\nd\ne\n")?;
        fs::write(cluster.b().join("same line.txt"), "a\nb\nc of b\nd\ne\n")?;
        fs::write(cluster.a().join("binary"), b"A\0\nb\nc\nd\n")?;
        fs::write(cluster.b().join("binary"), b"a\0\nb\nc\nD\n")?;
        for (mount, text) in [(0, "a of a\nb\nc\nd\ne\n"), (1, "a\nb\nc\nd\ne of b\n")] {
            let path = cluster.mounts[mount].path(".saved.new");
            ops::write_synced(&path, text.as_bytes())?;
            fs::rename(&path, cluster.mounts[mount].path("saved.txt"))?;
        }
        cluster.mounts[1].kill();
        cluster.proxies[0].restore();
        cluster.mounts[0].wait_synced()?;
        cluster.mounts[1].start()?;
        cluster.proxies[1].restore();
        cluster.expect_equal_trees()?;
        let read = |name: &str| fs::read_to_string(cluster.a().join(name));
        ensure!(read("short.txt")? == "a19\nb\nc\nd\ne19\n", "{:?}", read("short.txt")?);
        ensure!(read("saved.txt")? == "a of a\nb\nc\nd\ne of b\n", "{:?}", read("saved.txt")?);
        ensure!(read("long.txt")? == long("first of a", "last of b\n"), "the long text");
        let names: Vec<_> = listing(cluster.a())?.into_iter().map(|(name, _)| name).collect();
        let copies = [format!("binary (conflict {SECOND})"), format!("same line (conflict {SECOND}).txt")];
        let mut wanted =
            ["binary", "long.txt", "same line.txt", "saved.txt", "short.txt"].map(String::from).to_vec();
        wanted.extend(copies);
        wanted.sort();
        ensure!(names == wanted, "{names:?}");
        ensure!(conflicts(cluster)?.len() == 2, "two are left to be decided");
        Ok(())
    });
}
