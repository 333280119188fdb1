//! Where can be mounted, and how a mount ends.

use std::io::{BufRead, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dfs_mountd::cache::OpenFiles;
use dfs_mountd::fuse::{MountError, MountOptions, mount};
use dfs_mountd::limits::SETTLE_MS_MAX;
use dfs_mountd::tree::{Effect, EffectSink};
use dfs_shared::name::Name;

use super::kit::{Local, can_mount};

#[test]
fn a_mount_point_that_is_a_file_or_not_empty_is_refused() {
    let Some(local) = Local::new() else { return };
    let dir = tempfile::tempdir().unwrap();
    let options = |name: &str| MountOptions { mount_point: dir.path().join(name), ..MountOptions::default() };
    std::fs::write(dir.path().join("file"), b"x").unwrap();
    let refused = mount(Arc::clone(&local.fs), &options("file")).err();
    assert!(matches!(refused, Some(MountError::NotDirectory { .. })), "{refused:?}");
    std::fs::create_dir(dir.path().join("full")).unwrap();
    std::fs::write(dir.path().join("full/file"), b"x").unwrap();
    let refused = mount(Arc::clone(&local.fs), &options("full")).err();
    assert!(matches!(refused, Some(MountError::NotEmpty { .. })), "{refused:?}");
    assert!(refused.unwrap().to_string().contains("not empty"));
    assert!(local.path().exists());
}

#[test]
fn a_mount_that_was_just_written_to_can_be_unmounted() {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let Some(mut local) = Local::new() else { return };
    for round in 0..5 {
        for n in 0..300 {
            let dir = local.at(format!("d{}", n % 20));
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(dir.join(format!("{round}-{n}")), b"x").unwrap();
        }
        let path = std::ffi::CString::new(local.path().as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends with NUL.
        let done = unsafe { libc::umount2(path.as_ptr(), 0) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        local = local.restart();
        assert_eq!(std::fs::read_dir(local.at("d0")).unwrap().count(), 15 * (round + 1));
    }
}

#[test]
fn a_mount_says_what_it_is() {
    let Some(local) = Local::new() else { return };
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let line = mounts.lines().find(|line| line.contains(local.path().to_str().unwrap())).unwrap();
    assert!(line.starts_with("dfs ") && line.contains(" fuse.dfs "), "{line}");
}

/// The variable that makes a process of this test program a mount that is to be killed, and says where.
const GUARDED: &str = "DFS_TESTS_GUARDED";
const PATIENCE: Duration = Duration::from_secs(20);

/// The harness may have begun a line.
fn say(word: &str) {
    std::io::stdout().write_all(format!("\n{word}\n").as_bytes()).unwrap();
}

/// Not a test of its own: mounts, waits for a word, and then makes the kernel forget a name in a directory that a program holds.
#[test]
fn serves_as_the_mount_that_is_killed() {
    let Some(root) = std::env::var_os(GUARDED) else { return };
    let local = Local::guarded(root.as_ref());
    std::fs::create_dir(local.at("d")).unwrap();
    say("mounted");
    std::io::stdin().lines().next();
    let _nothing_is_answered = local.fs.hold();
    say("held");
    let (dir, name) = (local.node("d").ino, Name::new(b"other").unwrap());
    loop {
        local.fs.effects(vec![Effect::Entry { parent: dir, name: name.clone() }]);
        let began = Instant::now();
        local.fs.settle();
        if began.elapsed() >= Duration::from_millis(SETTLE_MS_MAX) {
            say("stuck");
        }
    }
}

/// Ends what the test started, also when it fails.
struct Victim {
    process: Child,
    root: tempfile::TempDir,
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let point = std::ffi::CString::new(self.root.path().join("mnt").as_os_str().as_bytes()).unwrap();
        // SAFETY: the path ends with NUL.
        unsafe { libc::umount2(point.as_ptr(), libc::MNT_FORCE | libc::MNT_DETACH) };
        let _ = self.process.wait();
    }
}

// S43
#[test]
fn a_program_that_waits_for_a_killed_mount_goes_on_also_when_the_kernel_holds_the_mounts_thread() {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 && !std::path::Path::new("/sys/fs/fuse/connections/").exists() {
        eprintln!("skipped: without root, ending a connection needs fusectl");
        return;
    }
    if !can_mount() {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "mounting::serves_as_the_mount_that_is_killed", "--nocapture"]);
    command.env(GUARDED, root.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut victim = Victim { process: command.spawn().unwrap(), root };
    let mut said = std::io::BufReader::new(victim.process.stdout.take().unwrap()).lines();
    let mut wait_for = |word: &str| assert!(said.any(|line| line.unwrap() == word), "{word}");
    wait_for("mounted");
    let dir = victim.root.path().join("mnt/d");
    let mut file = std::fs::File::create(dir.join("file")).unwrap();
    file.write_all(b"x").unwrap();
    writeln!(victim.process.stdin.take().unwrap()).unwrap();
    wait_for("held");
    // Renaming an open file waits for the mount, and keeps the directory to itself meanwhile.
    let renamed = std::thread::spawn(move || std::fs::rename(dir.join("file"), dir.join("name")));
    wait_for("stuck");
    victim.process.kill().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !renamed.is_finished() {
        assert!(Instant::now() < deadline, "the program still waits");
        std::thread::sleep(Duration::from_millis(5));
    }
    let error = renamed.join().unwrap().unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(libc::ECONNABORTED | libc::ENOTCONN)), "{error}");
    victim.process.wait().unwrap();
    let asked = std::fs::metadata(victim.root.path().join("mnt/never"));
    let dead = asked.err().and_then(|error| error.raw_os_error());
    assert_eq!(dead, Some(libc::ENOTCONN), "it is dead, but not gone");
}
