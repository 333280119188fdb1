//! Where can be mounted, and how a mount ends.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use dfs_mountd::fuse::{MountError, MountOptions, mount};

use super::kit::Local;

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
