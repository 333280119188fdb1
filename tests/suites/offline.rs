//! Without a server everything goes on; when it returns both sides reconcile and no content is lost.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::mount::Mount;
use dfs_tests::random::Random;
use dfs_tests::{Cluster, Setup, eventually, fixture, ops, process, run};

fn apart(test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(2).through_proxies(), test);
}

fn cut(cluster: &Cluster) {
    cluster.proxies.iter().for_each(dfs_tests::proxy::Proxy::cut);
}

fn restore(cluster: &Cluster) {
    cluster.proxies.iter().for_each(dfs_tests::proxy::Proxy::restore);
}

/// Contents of the files directly in `directory`, sorted.
fn contents(directory: &Path) -> Result<Vec<Vec<u8>>> {
    let mut contents = Vec::new();
    for name in ops::names(directory)? {
        let path = directory.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&name));
        if path.is_file() {
            contents.push(fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
    }
    contents.sort();
    Ok(contents)
}

// S12, S14
#[test]
fn a_mount_starts_without_a_server_accepts_changes_and_delivers_them_later() {
    run(&Setup::mounts(2).unstarted(), |cluster| {
        cluster.server.kill();
        cluster.mounts[0].start()?;
        fixture::write_small_tree(&cluster.a().join("tree"), &mut Random::new(41))?;
        let state = ops::state(&cluster.a().join("tree/directory 1/file-6"))?;
        ensure!(["journaled", "uploading"].contains(&state.as_str()), "{state}");
        cluster.mounts[0].restart()?;
        ensure!(cluster.a().join("tree/directory 3/below/link").is_symlink(), "it is there after a restart");
        cluster.server.start()?;
        cluster.mounts[1].start()?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S14
#[test]
fn different_changes_on_both_sides_are_all_there_afterwards() {
    apart(|cluster| {
        for name in ["edited in a", "edited in b", "removed in a", "moved in b"] {
            fs::write(cluster.a().join(name), b"before")?;
        }
        fs::create_dir(cluster.a().join("directory"))?;
        cluster.expect_equal_trees()?;
        cut(cluster);
        let (a, b) = (cluster.a().to_owned(), cluster.b().to_owned());
        fs::write(a.join("edited in a"), b"by a")?;
        fs::remove_file(a.join("removed in a"))?;
        fs::write(a.join("directory/new from a"), b"a")?;
        fs::write(b.join("edited in b"), b"by b")?;
        fs::rename(b.join("moved in b"), b.join("directory/moved"))?;
        fs::create_dir_all(b.join("new/tree"))?;
        fs::write(b.join("new/tree/file"), b"b")?;
        restore(cluster);
        let tree = cluster.expect_equal_trees()?;
        for (name, wanted) in [
            ("edited in a", "by a"),
            ("edited in b", "by b"),
            ("directory/moved", "before"),
            ("directory/new from a", "a"),
            ("new/tree/file", "b"),
        ] {
            ensure!(fs::read(b.join(name))? == wanted.as_bytes(), "{name}");
        }
        ensure!(
            tree.len() == 9,
            "{:?}",
            tree.keys().map(|key| key.escape_ascii().to_string()).collect::<Vec<_>>()
        );
        Ok(())
    });
}

// S15
#[test]
fn a_file_edited_on_both_sides_is_kept_twice() {
    apart(|cluster| {
        let directory = Path::new("directory");
        fs::create_dir(cluster.a().join(directory))?;
        fs::write(cluster.a().join("directory/file.bin"), b"\0base")?;
        cluster.expect_equal_trees()?;
        cut(cluster);
        fs::write(cluster.a().join("directory/file.bin"), b"\0edited in a")?;
        fs::write(cluster.b().join("directory/file.bin"), b"\0edited in b")?;
        restore(cluster);
        both_are_kept(cluster, &[b"\0edited in a", b"\0edited in b"])?;
        for name in ops::names(&cluster.a().join(directory))? {
            let name = String::from_utf8(name)?;
            let is_kept =
                name == "file.bin" || (name.starts_with("file (conflict ") && name.ends_with(").bin"));
            ensure!(is_kept, "an unexpected name: {name}");
        }
        Ok(())
    });
}

// S17
#[test]
fn one_name_made_on_both_sides_is_kept_twice() {
    apart(|cluster| {
        fs::create_dir(cluster.a().join("directory"))?;
        cluster.expect_equal_trees()?;
        cut(cluster);
        fs::write(cluster.a().join("directory/name"), b"\0made in a")?;
        fs::write(cluster.b().join("directory/name"), b"\0made in b")?;
        restore(cluster);
        both_are_kept(cluster, &[b"\0made in a", b"\0made in b"])
    });
}

#[test]
fn a_save_by_rename_on_both_sides_is_kept_twice() {
    apart(|cluster| {
        fs::create_dir(cluster.a().join("directory"))?;
        fs::write(cluster.a().join("directory/name"), b"\0base")?;
        cluster.expect_equal_trees()?;
        cut(cluster);
        for (mount, text) in [(0, b"\0saved in a"), (1, b"\0saved in b")] {
            let path = cluster.mounts[mount].path("directory/.name.new");
            ops::write_synced(&path, text)?;
            fs::rename(&path, cluster.mounts[mount].path("directory/name"))?;
        }
        restore(cluster);
        both_are_kept(cluster, &[b"\0saved in a", b"\0saved in b"])
    });
}

fn both_are_kept(cluster: &Cluster, wanted: &[&[u8]]) -> Result<()> {
    eventually("both contents are in both mounts", || {
        for mount in &cluster.mounts {
            let seen = contents(&mount.path("directory"))?;
            ensure!(seen == wanted, "{} has {seen:?}", mount.root().display());
        }
        Ok(true)
    })?;
    cluster.expect_equal_trees()?;
    Ok(())
}

// S17
#[test]
fn identical_files_made_on_both_sides_become_one() {
    apart(|cluster| {
        fs::create_dir(cluster.a().join("directory"))?;
        cluster.expect_equal_trees()?;
        cut(cluster);
        for mount in &cluster.mounts {
            fs::write(mount.path("directory/name"), b"the same")?;
        }
        restore(cluster);
        cluster.expect_equal_trees()?;
        ensure!(contents(&cluster.a().join("directory"))? == [b"the same"], "one file");
        Ok(())
    });
}

// S17
#[test]
fn directories_made_under_one_name_on_both_sides_merge() {
    apart(|cluster| {
        cut(cluster);
        for (mount, name) in [(0, "from a"), (1, "from b")] {
            fs::create_dir_all(cluster.mounts[mount].path("directory/below"))?;
            fs::write(cluster.mounts[mount].path("directory/below").join(name), name)?;
        }
        restore(cluster);
        let tree = cluster.expect_equal_trees()?;
        let names: Vec<String> = tree.keys().map(|name| name.escape_ascii().to_string()).collect();
        let wanted = ["", "directory", "directory/below", "directory/below/from a", "directory/below/from b"];
        ensure!(names == wanted, "{names:?}");
        Ok(())
    });
}

// S16
#[test]
fn an_edit_survives_a_deletion_on_the_other_side_in_both_orders() {
    apart(|cluster| {
        for name in ["edited in a", "edited in b"] {
            fs::write(cluster.a().join(name), b"before")?;
        }
        cluster.expect_equal_trees()?;
        cut(cluster);
        fs::write(cluster.a().join("edited in a"), b"edited")?;
        fs::remove_file(cluster.b().join("edited in a"))?;
        fs::write(cluster.b().join("edited in b"), b"edited")?;
        fs::remove_file(cluster.a().join("edited in b"))?;
        restore(cluster);
        eventually("the edits are in both mounts", || {
            Ok(contents(cluster.a())? == [b"edited", b"edited"]
                && contents(cluster.b())? == [b"edited", b"edited"])
        })?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn what_is_added_under_a_directory_survives_its_deletion_elsewhere() {
    apart(|cluster| {
        fs::create_dir_all(cluster.a().join("outer/inner"))?;
        fs::write(cluster.a().join("outer/inner/old"), b"old")?;
        cluster.expect_equal_trees()?;
        cut(cluster);
        fs::write(cluster.a().join("outer/inner/added"), b"added")?;
        fs::remove_dir_all(cluster.b().join("outer"))?;
        restore(cluster);
        cluster.settle()?;
        for mount in &cluster.mounts {
            let kept = ops::files_below(mount.root())?;
            let is_added = |path: &std::path::PathBuf| fs::read(path).is_ok_and(|bytes| bytes == b"added");
            ensure!(kept.iter().any(is_added), "what was added is lost in {}", mount.root().display());
        }
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S18
#[test]
fn crossing_moves_make_no_cycle_and_lose_nothing() {
    apart(|cluster| {
        for name in ["left", "right"] {
            fs::create_dir(cluster.a().join(name))?;
            fs::write(cluster.a().join(name).join("inside"), name)?;
        }
        cluster.expect_equal_trees()?;
        cut(cluster);
        fs::rename(cluster.a().join("left"), cluster.a().join("right/left"))?;
        fs::rename(cluster.b().join("right"), cluster.b().join("left/right"))?;
        restore(cluster);
        cluster.expect_equal_trees()?;
        let files = ops::files_below(cluster.b())?;
        let mut texts = files.iter().map(fs::read_to_string).collect::<std::io::Result<Vec<_>>>()?;
        texts.sort();
        ensure!(texts == ["left", "right"], "{texts:?}");
        Ok(())
    });
}

// S13
#[test]
fn reading_what_is_not_here_fails_clearly_and_never_hangs() {
    apart(|cluster| {
        fs::write(cluster.a().join("large"), Random::new(42).bytes(8 << 20))?;
        cluster.settle()?;
        cluster.proxies[1].cut();
        let start = std::time::Instant::now();
        let result = fs::read(cluster.b().join("large"));
        ensure!(result.is_err(), "content that is not here can't be read");
        ensure!(start.elapsed() < std::time::Duration::from_secs(60), "it took {:?}", start.elapsed());
        ensure!(fs::metadata(cluster.b().join("large"))?.len() == 8 << 20, "its size is known all the same");
        cluster.proxies[1].restore();
        eventually("it is read when the server is back", || {
            Ok(fs::read(cluster.b().join("large"))? == fs::read(cluster.a().join("large"))?)
        })
    });
}

#[test]
fn a_whole_tree_made_offline_over_several_restarts_arrives_in_full() {
    run(&Setup::mounts(2), |cluster| {
        cluster.server.kill();
        let mut random = Random::new(43);
        for round in 0..3 {
            fixture::write_small_tree(&cluster.a().join(format!("round {round}")), &mut random)?;
            if round > 0 {
                fs::remove_dir_all(cluster.a().join(format!("round {}/directory 2", round - 1)))?;
                let from = cluster.a().join(format!("round {}/directory 1", round - 1));
                fs::rename(from, cluster.a().join(format!("moved {round}")))?;
            }
            if round == 1 {
                cluster.mounts[0].kill();
                cluster.mounts[0].start()?;
            } else {
                cluster.mounts[0].restart()?;
            }
        }
        cluster.server.start()?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S29
#[test]
fn a_server_restored_from_an_older_backup_gets_back_what_the_mounts_have() {
    run(&Setup::mounts(2), |cluster| {
        fs::write(cluster.a().join("edited"), b"before")?;
        fs::write(cluster.a().join("moved"), b"moved")?;
        let large = Random::new(71).bytes(300_000);
        cluster.settle()?;
        cluster.server.stop()?;
        let (data, backup) = (cluster.server.data().to_owned(), cluster.directory().join("backup"));
        let copy = |from: &Path, to: &Path| -> Result<()> {
            process::succeed(Command::new("cp").arg("-a").arg(from).arg(to), Duration::from_secs(30))
                .map(drop)
        };
        copy(&data, &backup)?;
        cluster.server.start()?;
        fs::write(cluster.a().join("edited"), b"after the backup")?;
        fs::create_dir(cluster.a().join("directory"))?;
        fs::rename(cluster.a().join("moved"), cluster.a().join("directory/moved"))?;
        fs::write(cluster.a().join("directory/large"), &large)?;
        cluster.expect_equal_trees()?;
        cluster.server.stop()?;
        fs::remove_dir_all(&data)?;
        copy(&backup, &data)?;
        // Without these, what the first mount sends again may bring the server to the very state that the second one saw.
        fs::write(cluster.a().join("offline on a"), b"a")?;
        fs::write(cluster.b().join("offline on b"), b"b")?;
        cluster.server.start()?;
        for mount in &cluster.mounts {
            eventually("the mount says what happened", || {
                Ok(mount.status()?["notices"].to_string().contains("older backup"))
            })?;
        }
        cluster.expect_equal_trees()?;
        for root in [cluster.a(), cluster.b()] {
            ensure!(fs::read(root.join("edited"))? == b"after the backup");
            ensure!(fs::read(root.join("directory/moved"))? == b"moved");
            ensure!(fs::read(root.join("directory/large"))? == large);
            ensure!(
                fs::read(root.join("offline on a"))? == b"a" && fs::read(root.join("offline on b"))? == b"b"
            );
            ensure!(ops::names(root)?.len() == 4, "{:?}", ops::names(root)?);
        }
        let mut fresh =
            Mount::new(cluster.directory(), "fresh", Some(format!("127.0.0.1:{}", cluster.server.port())));
        fresh.start()?;
        ensure!(fs::read(fresh.path("directory/large"))? == large, "the server has the bytes again");
        fresh.stop()
    });
}
