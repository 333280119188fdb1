//! Ordinary programs run inside a mount, end with 0, and the other mount holds the result.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use dfs_tests::log::Log;
use dfs_tests::machine::Need;
use dfs_tests::process::Daemon;
use dfs_tests::random::Random;
use dfs_tests::snapshot::{expect_equal, tree_snapshot};
use dfs_tests::{Cluster, Setup, eventually, fixture, process, run};

const DEADLINE: Duration = Duration::from_secs(300);

fn with(programs: &[&'static str], test: impl FnOnce(&mut Cluster) -> Result<()>) {
    let needs: Vec<Need> = programs.iter().map(|name| Need::Program(name)).collect();
    run(&Setup::mounts(2).needs(&needs), test);
}

#[test]
fn git_clones_commits_and_finds_nothing_changed_in_the_other_mount() {
    with(&["git"], |cluster| {
        let origin = cluster.scratch("origin")?;
        fixture::write_small_tree(&origin, &mut Random::new(91))?;
        process::shell(&origin, "git init -q -b main && git add . && git commit -q -m one", DEADLINE)?;
        let script = "git clone -q \"$0\" clone; cd clone; git status --porcelain; test -z \"$(git status --porcelain)\"
            echo more > more; git add more; git commit -q -m two; git gc -q; git checkout -q -b side
            git mv more moved; git commit -q -a -m three; git checkout -q main; git merge -q side
            git fsck --full --strict; test -z \"$(git status --porcelain)\"";
        let script = script.replace("\"$0\"", &format!("'{}'", origin.display()));
        process::shell(cluster.a(), &script, DEADLINE)?;
        cluster.expect_equal_trees()?;
        let there = "cd clone; git fsck --full --strict; git status --porcelain; git log --oneline | wc -l";
        let said = process::shell(cluster.b(), there, DEADLINE)?;
        ensure!(said.trim() == "3", "git in the other mount says:\n{said}");
        Ok(())
    });
}

#[test]
fn cargo_builds_a_project_that_runs_in_the_other_mount() {
    with(&["cargo"], |cluster| {
        let project = cluster.a().join("project");
        fs::create_dir_all(project.join("src"))?;
        let manifest = "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n";
        fs::write(project.join("Cargo.toml"), manifest)?;
        fs::write(project.join("src/lib.rs"), "pub fn greeting() -> &'static str { \"hello\" }\n")?;
        fs::write(project.join("src/main.rs"), "fn main() { println!(\"{}\", hello::greeting()); }\n")?;
        process::shell(&project, "cargo build --offline --quiet && cargo test --offline --quiet", DEADLINE)?;
        cluster.expect_equal_trees()?;
        let said = process::shell(cluster.b(), "project/target/debug/hello", DEADLINE)?;
        ensure!(said.trim() == "hello", "{said}");
        let again = process::shell(&project, "cargo build --offline -v 2>&1", DEADLINE)?;
        ensure!(again.contains("Fresh"), "nothing is to be built again:\n{again}");
        Ok(())
    });
}

#[test]
fn sqlite_transactions_hold_in_every_journal_mode() {
    run(&Setup::mounts(2).needs(&[Need::PythonSqlite]), |cluster| {
        let script = "
import sqlite3, sys
for mode in ('delete', 'truncate', 'persist', 'wal'):
    connection = sqlite3.connect(f'{mode}.db', isolation_level=None)
    assert connection.execute(f'pragma journal_mode={mode}').fetchone()[0] == mode
    connection.execute('create table t(id integer primary key, v text)')
    for batch in range(20):
        connection.execute('begin')
        connection.executemany('insert into t(v) values (?)', [(str(batch) * 50,) for _ in range(50)])
        connection.execute('rollback' if batch % 5 == 4 else 'commit')
    reader = sqlite3.connect(f'{mode}.db')
    assert reader.execute('select count(*) from t').fetchone()[0] == 16 * 50
    reader.close()
    connection.execute('vacuum')
    connection.close()
";
        fs::write(cluster.scratch("scripts")?.join("write.py"), script)?;
        let path = cluster.directory().join("scratch/scripts/write.py");
        process::shell(cluster.a(), &format!("python3 '{}'", path.display()), DEADLINE)?;
        cluster.expect_equal_trees()?;
        let check = "
import sqlite3
for mode in ('delete', 'truncate', 'persist', 'wal'):
    connection = sqlite3.connect(f'{mode}.db')
    assert connection.execute('pragma integrity_check').fetchone()[0] == 'ok', mode
    assert connection.execute('select count(*) from t').fetchone()[0] == 16 * 50, mode
";
        fs::write(cluster.scratch("scripts")?.join("check.py"), check)?;
        let path = cluster.directory().join("scratch/scripts/check.py");
        process::shell(cluster.b(), &format!("python3 '{}'", path.display()), DEADLINE)?;
        Ok(())
    });
}

#[test]
fn tar_unpacks_what_it_packed() {
    with(&["tar"], |cluster| {
        let source = cluster.scratch("source")?;
        fixture::write_small_tree(&source.join("tree"), &mut Random::new(92))?;
        process::shell(&source, "tar cf ../tree.tar --xattrs tree", DEADLINE)?;
        process::shell(cluster.a(), &format!("tar xpf '{}/../tree.tar'", source.display()), DEADLINE)?;
        equal(&source.join("tree"), &cluster.a().join("tree"))?;
        process::shell(cluster.a(), "tar cf packed.tar tree && tar df packed.tar", DEADLINE)?;
        cluster.expect_equal_trees()?;
        process::shell(cluster.b(), "tar df packed.tar", DEADLINE)?;
        Ok(())
    });
}

#[test]
fn rsync_copies_once_and_finds_nothing_to_do_afterwards() {
    with(&["rsync"], |cluster| {
        let source = cluster.scratch("source")?;
        fixture::write_small_tree(&source.join("tree"), &mut Random::new(93))?;
        // rsync takes times of the same second for equal, so the source must be older than the copying.
        let age = |day: u32| {
            let touch =
                format!("find . -depth -exec touch -h -d '2020-01-{day:02} 03:04:05.123456789' {{}} +");
            process::shell(&source, &touch, DEADLINE)
        };
        age(2)?;
        let sync = format!("rsync -aHX --itemize-changes '{}/' copy/", source.display());
        ensure!(process::shell(cluster.a(), &sync, DEADLINE)?.contains("file-6"), "it copies");
        equal(&source, &cluster.a().join("copy"))?;
        let again = process::shell(cluster.a(), &sync, DEADLINE)?;
        ensure!(again.trim().is_empty(), "nothing is to be done:\n{again}");
        fs::write(source.join("tree/directory 1/file-6"), b"changed")?;
        fs::remove_dir_all(source.join("tree/directory 2"))?;
        age(3)?;
        process::shell(cluster.a(), &sync.replace("-aHX", "-aHX --delete --inplace"), DEADLINE)?;
        equal(&source, &cluster.a().join("copy"))?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn rsync_keeps_everything_from_the_disk_through_both_mounts_back_to_the_disk() {
    with(&["rsync"], |cluster| {
        let (source, back) = (cluster.scratch("source")?, cluster.scratch("back")?);
        let sizes = fixture::AwkwardSizes { sparse_len: 64 << 20, random_len: 3 << 20, wide_entries: 100 };
        fixture::write_awkward_tree(&source.join("tree"), sizes)?;
        // Archive, hard links, ACLs, extended attributes, holes; owners by number; access times where they are kept. Times are
        // compared to the nanosecond: otherwise rsync leaves those of a directory that differ by less than a second.
        let copy = |from: &Path, to: &Path, more: &str| {
            let flags = format!("-aHAXS{more} --modify-window=-1 --numeric-ids --delete --itemize-changes");
            let script = format!("rsync {flags} '{}/' '{}/'", from.display(), to.display());
            process::shell(cluster.directory(), &script, DEADLINE)
        };
        let nothing_is_left = |from: &Path, to: &Path, more: &str| {
            let said = copy(from, to, more)?;
            ensure!(said.trim().is_empty(), "nothing is to be done from {}:\n{said}", from.display());
            anyhow::Ok(())
        };
        let (here, there) = (cluster.a().join("copy"), cluster.b().join("copy"));
        copy(&source, &here, "U --open-noatime")?;
        nothing_is_left(&source, &here, "U --open-noatime")?;
        cluster.expect_equal_trees()?;
        copy(&there, &back, "U")?;
        nothing_is_left(&there, &back, "U")?;
        nothing_is_left(&here, &back, "")?;
        nothing_is_left(&source, &here, "")?;
        equal(&source, &here)?;
        equal(&source, &back)?;
        Ok(())
    });
}

#[test]
fn find_newer_finds_what_changed_and_nothing_else() {
    run(&Setup::mounts(2), |cluster| {
        // The mark and its followers are a nanosecond apart.
        let script = "touch -d '2020-01-02 03:04:05.000000001' older; touch -d '2020-01-02 03:04:05.000000002' mark
            touch -d '2020-01-02 03:04:05.000000003' newer; mkdir tree; echo 1 > tree/changed; echo 1 > tree/same
            find . -exec touch -h -d '2020-01-02 03:04:05.000000002' {} + ; touch -d '2020-01-02 03:04:05.000000001' older
            touch -d '2020-01-02 03:04:05.000000003' newer";
        process::shell(cluster.a(), script, DEADLINE)?;
        let find = |mount: &Path| -> Result<Vec<String>> {
            let said = process::shell(mount, "find . -newer mark | sort", DEADLINE)?;
            Ok(said.lines().map(str::to_owned).collect())
        };
        cluster.settle()?;
        for mount in [cluster.a(), cluster.b()] {
            ensure!(find(mount)? == ["./newer"], "{}: {:?}", mount.display(), find(mount)?);
        }
        fs::write(cluster.b().join("tree/changed"), b"2")?;
        cluster.settle()?;
        for mount in [cluster.b(), cluster.a()] {
            ensure!(find(mount)? == ["./newer", "./tree/changed"], "{}: {:?}", mount.display(), find(mount)?);
        }
        Ok(())
    });
}

#[test]
fn inotifywait_tells_what_is_done_here() {
    with(&["inotifywait"], |cluster| {
        let mut command = Command::new("inotifywait");
        command.args(["-m", "-r", "--format", "%e %f"]).arg(cluster.a());
        let log = Log::default();
        let _watcher = Daemon::spawn("inotifywait", &mut command, &log)?;
        log.wait_for("its watches", DEADLINE, |line| line.contains("Watches established").then_some(()))?;
        let script = "echo 1 > one; echo 2 >> one; mv one two; chmod 600 two; ln two link; cat two >/dev/null; rm two; mkdir three; : > last";
        process::shell(cluster.a(), script, DEADLINE)?;
        log.wait_for("the last file", DEADLINE, |line| {
            line.contains("CLOSE_WRITE,CLOSE last").then_some(())
        })?;
        let wanted = [
            "CREATE one",
            "MODIFY one",
            "CLOSE_WRITE,CLOSE one",
            "MOVED_FROM one",
            "MOVED_TO two",
            "ATTRIB two",
        ];
        let more =
            ["CREATE link", "ACCESS two", "CLOSE_NOWRITE,CLOSE two", "DELETE two", "CREATE,ISDIR three"];
        for event in wanted.iter().chain(&more) {
            ensure!(log.text().lines().any(|line| line == *event), "no '{event}' in:\n{}", log.text());
        }
        Ok(())
    });
}

fn equal(left: &Path, right: &Path) -> Result<()> {
    expect_equal(left, &tree_snapshot(left)?, right, &tree_snapshot(right)?)
}

#[test]
fn editors_save_in_every_way_they_know() {
    run(&Setup::mounts(2), |cluster| {
        let (here, there) = (cluster.a().join("note.txt"), cluster.b().join("note.txt"));
        let saves: [(&str, &str); 5] = [
            ("in place", "printf '%s' \"$TEXT\" > note.txt"),
            (
                "new file renamed over",
                "printf '%s' \"$TEXT\" > .note.txt.swp && sync .note.txt.swp && mv .note.txt.swp note.txt",
            ),
            ("old one kept as backup", "mv note.txt note.txt~ && printf '%s' \"$TEXT\" > note.txt"),
            (
                "hard-linked backup",
                "ln -f note.txt note.bak && printf '%s' \"$TEXT\" > new && mv -f new note.txt",
            ),
            ("removed and made anew", "rm note.txt && printf '%s' \"$TEXT\" > note.txt"),
        ];
        fs::write(&here, b"first")?;
        for round in 0..3 {
            for (how, script) in saves {
                let text = format!("saved {how}, round {round}");
                process::shell(cluster.a(), &format!("TEXT='{text}'\n{script}"), DEADLINE)?;
                ensure!(fs::read_to_string(&here)? == text, "{how} in a");
                eventually(how, || Ok(fs::read_to_string(&there)? == text))?;
            }
        }
        let conflicts = dfs_tests::ops::names(cluster.a())?;
        let is_conflict = |name: &Vec<u8>| name.windows(9).any(|window| window == b"(conflict");
        ensure!(!conflicts.iter().any(is_conflict), "no save is a conflict: {conflicts:?}");
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn ordinary_tools_do_their_work() {
    run(&Setup::mounts(2), |cluster| {
        let script = "mkdir -p x/y/z && cp /bin/ls x/tool && x/tool -la x >/dev/null && cmp /bin/ls x/tool
            seq 1 100000 > numbers && sort -R numbers > shuffled && sort -n shuffled | cmp - numbers
            sed -i 's/^5$/five/' numbers && grep -q five numbers && split -l 9999 numbers x/part- && cat x/part-* | cmp - numbers
            dd if=/dev/urandom of=x/y/random bs=64k count=40 conv=fsync status=none && truncate -s 3M x/y/random
            find . -type f ! -name sums | xargs -d '\\n' sha256sum > sums && sha256sum --quiet -c sums
            mv x moved && du -s moved >/dev/null && ls -lR . >/dev/null && df . >/dev/null && rm -r moved/y && touch -d 2001-02-03 sums";
        process::shell(cluster.a(), script, DEADLINE)?;
        cluster.expect_equal_trees()?;
        process::shell(cluster.b(), "seq 1 100000 | sed 's/^5$/five/' | cmp - numbers", DEADLINE)?;
        Ok(())
    });
}
