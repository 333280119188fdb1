//! What a mount tells about itself: where a file stands, what is pending; clean ends; the bounded cache; and a
//! mount that brings its own server.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dfs_tests::machine::Need;
use dfs_tests::mount::{self, Mount};
use dfs_tests::random::Random;
use dfs_tests::{Setup, eventually, eventually_within, http, ops, process, run};
use rustix::process::Signal;
use sha2::{Digest, Sha256};

const MIB: usize = 1 << 20;

// S25
#[test]
fn the_state_of_a_file_climbs_from_journaled_to_synced() {
    run(&Setup::mounts(2), |cluster| {
        cluster.server.kill();
        let file = cluster.a().join("file");
        fs::write(&file, b"content")?;
        let state = ops::state(&file)?;
        ensure!(["journaled", "uploading"].contains(&state.as_str()), "without a server: {state}");
        cluster.server.start()?;
        eventually("it is synced", || Ok(ops::state(&file)? == "synced"))?;
        fs::write(&file, vec![b'x'; 3 * MIB])?;
        cluster.mounts[0].wait_synced()?;
        ensure!(ops::state(&file)? == "synced", "after dfs wait: {}", ops::state(&file)?);
        let there = cluster.b().join("file");
        eventually("b has its size", || Ok(fs::metadata(&there)?.len() == 3 * MIB as u64))?;
        ensure!(["remote", "synced"].contains(&ops::state(&there)?.as_str()), "{}", ops::state(&there)?);
        Ok(())
    });
}

/// An attribute as `getfattr` prints it.
fn getfattr(name: &str, file: &Path) -> Result<String> {
    let mut command = std::process::Command::new("getfattr");
    process::quiet_environment(&mut command);
    process::succeed(command.args(["--only-values", "-n", name]).arg(file), Duration::from_secs(20))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

/// The lines of a text that begin with this key.
fn line<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.trim_start().strip_prefix(key)?.strip_prefix(": "))
}

// S37, S38, S39
#[test]
fn getfattr_prints_a_files_metadata_as_the_server_takes_it() {
    let needs = [Need::Program("getfattr"), Need::Program("curl")];
    run(&Setup::mounts(2).needs(&needs), |cluster| {
        let (file, large) = (cluster.a().join("file"), cluster.a().join("large"));
        let bytes = Random::new(31).bytes(5 * MIB);
        cluster.server.kill();
        fs::write(&file, b"content")?;
        let text = getfattr("user.dfs.metadata", &file)?;
        ensure!(
            ["\"modified\"", "\"syncing\""].contains(&line(&text, "status").unwrap_or_default()),
            "{text}"
        );
        ensure!(line(&text, "size") == Some("7"), "without a server: {text}");
        cluster.server.start()?;
        fs::write(&large, &bytes)?;
        cluster.settle()?;
        for (path, bytes) in [(&file, &b"content"[..]), (&large, &bytes)] {
            let hash = sha256(bytes);
            let text = getfattr("user.dfs.metadata", path)?;
            ensure!(text.starts_with("file_metadata:\n"), "{text}");
            ensure!(line(&text, "hash") == Some(&*format!("\"sha256:{hash}\"")), "{text}");
            ensure!(line(&text, "size") == Some(&*bytes.len().to_string()), "{text}");
            ensure!(line(&text, "status") == Some("\"synced\""), "{text}");
            ensure!(getfattr("user.dfs.hash", path)? == hash, "user.dfs.hash");
            ensure!(getfattr("user.dfs.version", path)?.parse::<u64>()? > 0, "user.dfs.version");
            // The server knows all that it says: adding it changes nothing.
            let port = cluster.server.port();
            let added = http::request(port, "POST", "/api/metadata/add", &[], text.as_bytes())?;
            ensure!(added.status == 200, "{}: {}", added.status, added.text());
            let told = http::get(
                port,
                &format!("/api/metadata/get/{}", path.file_name().context("name")?.display()),
            )?;
            let told = told.json()?;
            for (key, field) in
                [("name", "file_path"), ("last_modified", "last_modified"), ("owner", "owner")]
            {
                ensure!(line(&text, key) == Some(&*told[field].to_string()), "{key}: {text} {told}");
            }
        }
        ensure!(ops::xattrs(&file)?.is_empty(), "copies stay clean");
        for name in ["user.dfs.metadata", "user.dfs.hash", "user.dfs.version"] {
            let set = ops::set_xattr(&file, name, b"x", rustix::fs::XattrFlags::empty());
            ensure!(set == Err(rustix::io::Errno::PERM), "{name} can be set: {set:?}");
        }
        let no_file = ops::xattr(cluster.a(), "user.dfs.metadata");
        ensure!(no_file == Err(rustix::io::Errno::NODATA), "of a directory: {no_file:?}");

        // Bytes that were never read are not here: their hash is left out, nothing is fetched, and nothing waits.
        let there = cluster.b().join("large");
        eventually("b has its size", || Ok(fs::metadata(&there)?.len() == bytes.len() as u64))?;
        cluster.server.kill();
        let text = getfattr("user.dfs.metadata", &there)?;
        ensure!(line(&text, "hash").is_none() && line(&text, "status") == Some("\"synced\""), "{text}");
        ensure!(ops::xattr(&there, "user.dfs.hash") == Err(rustix::io::Errno::NODATA), "user.dfs.hash");
        cluster.server.start()
    });
}

// S38
#[test]
fn a_hash_is_read_from_at_most_16_mib() {
    run(&Setup::mounts(1), |cluster| {
        let file = cluster.a().join("file");
        let bytes = Random::new(32).bytes(16 * MIB + 1);
        fs::write(&file, &bytes[..16 * MIB])?;
        ensure!(ops::xattr(&file, "user.dfs.hash")? == sha256(&bytes[..16 * MIB]).as_bytes(), "16 MiB");
        fs::write(&file, &bytes)?;
        ensure!(ops::xattr(&file, "user.dfs.hash") == Err(rustix::io::Errno::NODATA), "a byte more");
        Ok(())
    });
}

// S5
#[test]
fn status_counts_what_is_pending_and_wait_returns_when_nothing_is() {
    run(&Setup::mounts(1), |cluster| {
        cluster.server.kill();
        for index in 0..20 {
            fs::write(cluster.a().join(format!("file {index}")), b"content")?;
        }
        let mount = &cluster.mounts[0];
        let pending = mount.status()?;
        ensure!(pending["merkle_root"].is_string() && pending["revision"].is_u64(), "{pending}");
        let root = mount.root().to_string_lossy().into_owned();
        let text = mount.dfs(&["status", &root])?;
        ensure!(text.status.success(), "dfs status for people: {text:?}");
        let waiting = mount.dfs(&["wait", &root, "--timeout", "1"])?;
        ensure!(!waiting.status.success(), "dfs wait can't be done without a server");
        ensure!(!waiting.stderr.is_empty(), "and says so");
        cluster.server.start()?;
        cluster.settle()?;
        let synced = cluster.mounts[0].status()?;
        ensure!(synced["revision"].as_u64() > pending["revision"].as_u64(), "{pending} → {synced}");
        Ok(())
    });
}

#[test]
fn a_path_inside_the_mount_is_good_enough_for_status_and_wait() {
    run(&Setup::mounts(1), |cluster| {
        fs::create_dir(cluster.a().join("d"))?;
        fs::write(cluster.a().join("d/file"), b"x")?;
        let path = cluster.a().join("d/file").to_string_lossy().into_owned();
        let wait = cluster.mounts[0].dfs(&["wait", &path, "--timeout", "20"])?;
        ensure!(wait.status.success(), "{wait:?}");
        let status = cluster.mounts[0].dfs(&["status", &path, "--json"])?;
        ensure!(status.status.success(), "{status:?}");
        Ok(())
    });
}

// S4
#[test]
fn sigint_and_sigterm_unmount_cleanly_and_say_what_is_pending() {
    run(&Setup::mounts(2), |cluster| {
        fs::write(cluster.a().join("one"), b"1")?;
        cluster.mounts[0].stop_with(Signal::INT)?;
        cluster.mounts[0].start()?;
        cluster.server.kill();
        fs::write(cluster.a().join("two"), b"2")?;
        cluster.mounts[0].stop_with(Signal::TERM)?;
        let last = cluster.mounts[0].last_line();
        ensure!(last.contains("pending") || last.contains("not on the server"), "the last line is: {last}");
        cluster.server.start()?;
        cluster.mounts[0].start()?;
        eventually("both files reach b", || {
            Ok(fs::read(cluster.b().join("one"))? == b"1" && fs::read(cluster.b().join("two"))? == b"2")
        })?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn fusermount3_unmounts_cleanly() {
    run(&Setup::mounts(1).needs(&[Need::Program("fusermount3")]), |cluster| {
        fs::write(cluster.a().join("file"), b"x")?;
        let mut command = std::process::Command::new("fusermount3");
        process::succeed(command.arg("-u").arg(cluster.a()), Duration::from_secs(20))?;
        cluster.mounts[0].wait_stopped()?;
        cluster.mounts[0].start()?;
        ensure!(fs::read(cluster.a().join("file"))? == b"x", "it is still there");
        Ok(())
    });
}

#[test]
fn dfs_umount_flush_leaves_nothing_behind() {
    run(&Setup::mounts(2), |cluster| {
        let bytes = Random::new(20).bytes(20 * MIB);
        fs::write(cluster.a().join("large"), &bytes)?;
        let root = cluster.a().to_string_lossy().into_owned();
        let umount = cluster.mounts[0].dfs(&["umount", &root, "--flush"])?;
        ensure!(umount.status.success(), "{umount:?}");
        cluster.mounts[0].wait_stopped()?;
        eventually("b reads it although a is gone", || Ok(fs::read(cluster.b().join("large"))? == bytes))
    });
}

// S42
/// A stopped process stands for one that hangs, or that was killed while the kernel waited for a program to forget a name.
#[test]
fn dfs_umount_force_frees_programs_from_a_mount_that_does_not_answer() {
    run(&Setup::mounts(1).needs(&[Need::Root]), |cluster| {
        let root = cluster.a().to_string_lossy().into_owned();
        cluster.mounts[0].signal(Signal::STOP)?;
        let tasks = format!("/proc/{}/task", cluster.mounts[0].id().context("it runs")?);
        // Its threads stop one after the other, and one that has not yet could still answer.
        eventually("all its threads have stopped", || {
            let stats: Vec<_> =
                fs::read_dir(&tasks)?.flatten().map(|task| task.path().join("stat")).collect();
            Ok(stats.iter().all(|stat| fs::read_to_string(stat).is_ok_and(|stat| stat.contains(") T "))))
        })?;
        let stuck = cluster.a().join("file");
        let program = std::thread::spawn(move || fs::write(stuck, b"x"));
        let umount = cluster.mounts[0].dfs(&["umount", &root, "--force"])?;
        ensure!(umount.status.success(), "{umount:?}");
        let written = program.join().map_err(|_| anyhow::anyhow!("the program panicked"))?;
        ensure!(written.is_err(), "nobody took what was written");
        ensure!(!mount::is_mounted(cluster.a()), "it is gone");
        cluster.mounts[0].kill();
        cluster.mounts[0].start()
    });
}

/// The guardians of a mount's process.
fn guardians(process: u32) -> Result<usize> {
    let wanted = format!("--guardian\0{process}\0");
    let is_one = |entry: fs::DirEntry| {
        fs::read(entry.path().join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&wanted))
    };
    Ok(fs::read_dir("/proc")?.flatten().map(is_one).filter(|is_one| *is_one).count())
}

// S43
#[test]
fn a_guardian_stands_by_a_mount_and_ends_with_it_however_it_ends() {
    run(&Setup::mounts(1), |cluster| {
        for is_killed in [true, false] {
            let process = cluster.mounts[0].id().context("it runs")?;
            ensure!(guardians(process)? == 1);
            if is_killed {
                cluster.mounts[0].kill();
            } else {
                let root = cluster.a().display().to_string();
                let umount = cluster.mounts[0].dfs(&["umount", &root])?;
                ensure!(umount.status.success(), "{umount:?}");
                cluster.mounts[0].kill();
            }
            eventually("the guardian has ended, too", || Ok(guardians(process)? == 0))?;
            cluster.mounts[0].start()?;
        }
        Ok(())
    });
}

#[test]
fn everything_is_there_after_a_restart_without_a_server() {
    run(&Setup::mounts(1), |cluster| {
        dfs_tests::fixture::write_small_tree(&cluster.a().join("tree"), &mut Random::new(21))?;
        cluster.settle()?;
        dfs_tests::fixture::write_small_tree(&cluster.a().join("more"), &mut Random::new(22))?;
        let wanted = dfs_tests::snapshot::tree_snapshot(cluster.a())?;
        cluster.server.kill();
        cluster.mounts[0].restart()?;
        let seen = dfs_tests::snapshot::tree_snapshot(cluster.a())?;
        dfs_tests::snapshot::expect_equal("before".as_ref(), &wanted, "after".as_ref(), &seen)
    });
}

#[test]
fn a_file_held_open_for_writing_reaches_the_other_mount() {
    run(&Setup::mounts(2), |cluster| {
        let mut log = File::create(cluster.a().join("log"))?;
        log.write_all(b"first line\n")?;
        let there = cluster.b().join("log");
        eventually("b reads the first line", || Ok(fs::read(&there)? == b"first line\n"))?;
        log.write_all(b"second line\n")?;
        eventually("b reads the second", || Ok(fs::read(&there)? == b"first line\nsecond line\n"))
    });
}

/// Runs `dfs COMMAND PATH…` and wants an exit code; returns what it printed.
fn dfs(mount: &Mount, command: &[&str], path: &Path, code: i32) -> Result<String> {
    let path = path.display().to_string();
    let output = mount.dfs(&[command, &[&path]].concat())?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.code() == Some(code), "dfs {command:?} {path}: {}: {said}", output.status);
    Ok(said)
}

// S45, S46
#[test]
fn a_pinned_directory_can_be_read_without_the_server_and_the_cache_stays_bounded() {
    run(&Setup::mounts(2).unstarted(), |cluster| {
        cluster.mounts[1].arguments.extend(["--cache-size".into(), "24MiB".into()]);
        for mount in &mut cluster.mounts {
            mount.start()?;
        }
        let (a, b) = (cluster.a().to_owned(), cluster.b().to_owned());
        let bytes = |index: u64| Random::new(index).bytes(4 * MIB);
        fs::create_dir_all(a.join("kept/below"))?;
        fs::write(a.join("kept/one"), bytes(1))?;
        fs::write(a.join("kept/below/two"), bytes(2))?;
        for index in 10..18 {
            fs::write(a.join(format!("other {index}")), bytes(index))?;
        }
        cluster.settle()?;
        let mount = &cluster.mounts[1];
        dfs(mount, &["pin"], &b.join("kept"), 0)?;
        let status = mount.status()?;
        ensure!(status["pins"] == 1 && status["pinned_missing_bytes"] == 0, "{status}");
        // What is moved and written there elsewhere comes by itself; only asking makes it certain that it has come.
        fs::rename(a.join("other 10"), a.join("kept/moved"))?;
        fs::write(a.join("kept/one"), bytes(3))?;
        cluster.settle()?;
        dfs(mount, &["pin"], &b.join("kept"), 0)?;
        for index in 11..18 {
            ensure!(fs::read(b.join(format!("other {index}")))? == bytes(index), "other {index}");
        }
        let kept = |mount: &Mount| -> Result<u64> {
            Ok(ops::disk_usage(&mount.cache_dir())? + ops::disk_usage(&mount.state_dir().join("files"))?)
        };
        eventually("the cache is within its bound", || Ok(kept(mount)? <= (24 + 4) * MIB as u64))?;

        let said = dfs(mount, &["evict"], &b.join("kept/one"), 1)?;
        ensure!(said.contains("dfs unpin") && said.contains("kept"), "{said}");
        let said = dfs(mount, &["unpin"], &b.join("kept/below/two"), 1)?;
        ensure!(said.contains("kept is pinned above it"), "{said}");
        let said = dfs(mount, &["explain"], &b.join("kept/below/two"), 0)?;
        ensure!(said.contains("pinned by kept"), "{said}");

        cluster.server.kill();
        cluster.mounts[1].restart()?;
        let mount = &cluster.mounts[1];
        for (name, index) in [("one", 3), ("below/two", 2), ("moved", 10)] {
            ensure!(fs::read(b.join("kept").join(name))? == bytes(index), "{name} without the server");
        }
        let gone = (11..18)
            .filter(|index| ops::state(&b.join(format!("other {index}"))).is_ok_and(|s| s == "remote"));
        let gone: Vec<u64> = gone.collect();
        ensure!(!gone.is_empty(), "everything is here");
        let said = dfs(mount, &["pin"], &b.join(format!("other {}", gone[0])), 5)?;
        ensure!(said.contains("when the server is back"), "{said}");
        cluster.server.start()?;
        eventually("b is online", || Ok(cluster.mounts[1].status()?["state"] == "online"))?;
        dfs(&cluster.mounts[1], &["pin"], &b.join(format!("other {}", gone[0])), 0)?;
        let said = dfs(&cluster.mounts[1], &["unpin"], &b.join("kept"), 0)?;
        ensure!(said.contains("not pinned any more"), "{said}");
        dfs(&cluster.mounts[1], &["unpin"], &b.join("kept"), 1)?;
        dfs(&cluster.mounts[1], &["evict"], &b.join("kept/below/two"), 0)?;
        Ok(())
    });
}

#[test]
fn content_is_fetched_when_it_is_read_and_the_cache_stays_bounded() {
    run(&Setup::mounts(2).unstarted(), |cluster| {
        cluster.mounts[1].arguments.extend(["--cache-size".into(), "16MiB".into()]);
        for mount in &mut cluster.mounts {
            mount.start()?;
        }
        let kept = |mount: &Mount| -> Result<u64> {
            let cache = mount.cache_dir();
            Ok(ops::disk_usage(&cache).unwrap_or(0) + ops::disk_usage(&mount.state_dir())?)
        };
        let before = kept(&cluster.mounts[1])?;
        let bytes = |index: u64| Random::new(index).bytes(4 * MIB);
        for index in 0..12 {
            fs::write(cluster.a().join(format!("file {index}")), bytes(index))?;
        }
        cluster.settle()?;
        ensure!(fs::read_dir(cluster.b())?.count() == 12, "b lists them all");
        ensure!(kept(&cluster.mounts[1])? < before + 4 * MIB as u64, "nothing was read, nothing is fetched");
        let mut part = [0; 1000];
        File::open(cluster.b().join("file 0"))?.read_exact_at(&mut part, 1_000_000)?;
        ensure!(part == bytes(0)[1_000_000..1_001_000], "a part is read right");
        for index in 0..12 {
            ensure!(fs::read(cluster.b().join(format!("file {index}")))? == bytes(index), "file {index}");
        }
        eventually("the cache is within its bound", || {
            Ok(kept(&cluster.mounts[1])? < before + (16 + 8) * MIB as u64)
        })?;
        for index in 0..12 {
            ensure!(
                fs::read(cluster.b().join(format!("file {index}")))? == bytes(index),
                "file {index} again"
            );
        }
        Ok(())
    });
}

#[test]
fn a_deleted_cache_directory_costs_nothing_but_fetching_again() {
    run(&Setup::mounts(2), |cluster| {
        let bytes = Random::new(23).bytes(3 * MIB);
        fs::write(cluster.a().join("file"), &bytes)?;
        eventually("b reads it", || Ok(fs::read(cluster.b().join("file"))? == bytes))?;
        cluster.mounts[1].stop()?;
        if cluster.mounts[1].cache_dir().try_exists()? {
            fs::remove_dir_all(cluster.mounts[1].cache_dir())?;
        }
        cluster.mounts[1].start()?;
        ensure!(fs::read(cluster.b().join("file"))? == bytes, "it is fetched again");
        Ok(())
    });
}

#[test]
fn fsync_with_fsync_server_means_the_server_has_it() {
    run(&Setup::mounts(1).mount_arguments(&["--fsync", "server"]), |cluster| {
        let file = cluster.a().join("file");
        ops::write_synced(&file, &Random::new(24).bytes(MIB))?;
        ensure!(ops::state(&file)? == "synced", "{}", ops::state(&file)?);
        Ok(())
    });
}

#[test]
fn a_mount_without_server_argument_brings_its_own_and_says_how_others_join() {
    run(&Setup::mounts(0).needs(&[Need::FreePort(8080)]), |cluster| {
        let mut alone = Mount::new(cluster.directory(), "alone", None);
        alone.arguments.extend(["--state-dir".into(), alone.state_dir().to_string_lossy().into_owned()]);
        alone.start()?;
        ensure!(http::get(8080, "/health")?.status == 200, "a server answers on 127.0.0.1:8080");
        ensure!(alone.has_said("--server"), "it does not say how others join");
        let mut joined = Mount::new(cluster.directory(), "joined", Some("127.0.0.1:8080".into()));
        joined.start()?;
        fs::write(alone.path("file"), b"from the first")?;
        eventually("the second reads it", || Ok(fs::read(joined.path("file"))? == b"from the first"))?;
        fs::write(joined.path("back"), b"from the second")?;
        eventually("the first reads it", || Ok(fs::read(alone.path("back"))? == b"from the second"))?;
        joined.stop()?;
        alone.stop()?;
        alone.start().context("and again")?;
        ensure!(fs::read(alone.path("back"))? == b"from the second", "its data is kept");
        alone.stop()
    });
}

#[test]
fn a_daemon_returns_when_its_mount_is_usable() {
    run(&Setup::mounts(1).unstarted(), |cluster| {
        cluster.mounts[0].arguments.push("--daemon".into());
        let output = process::output(&mut cluster.mounts[0].command()?, mount::READY_DEADLINE);
        let root = cluster.a().to_string_lossy().into_owned();
        let mounted = mount::is_mounted(cluster.a());
        let umount = cluster.mounts[0].dfs(&["umount", &root])?;
        let output = output?;
        ensure!(output.status.success() && mounted, "{output:?}");
        ensure!(umount.status.success(), "{umount:?}");
        eventually_within(mount::STOP_DEADLINE, "it is unmounted", || {
            Ok((!mount::is_mounted(cluster.a())).then_some(()))
        })
    });
}
