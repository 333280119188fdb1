//! Names on a real mount.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use super::kit::Local;

#[test]
fn directories_list_what_was_made_in_them_and_nothing_else() {
    let Some(mount) = Local::new() else { return };
    let dir = mount.at("dir");
    std::fs::create_dir(&dir).unwrap();
    let names: BTreeSet<Vec<u8>> =
        (0..700_u32).map(|n| [b"\xff\xfe", n.to_string().as_bytes()].concat()).collect();
    for name in &names {
        std::fs::write(dir.join(OsStr::from_bytes(name)), b"x").unwrap();
    }
    let listed: BTreeSet<Vec<u8>> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().as_bytes().to_vec())
        .collect();
    assert_eq!(listed, names);
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 0);
}

#[test]
fn names_are_accepted_up_to_255_bytes() {
    let Some(mount) = Local::new() else { return };
    std::fs::write(mount.at("n".repeat(255)), b"x").unwrap();
    let error = std::fs::write(mount.at("n".repeat(256)), b"x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn hard_links_share_one_inode_and_count() {
    let Some(mount) = Local::new() else { return };
    std::fs::write(mount.at("a"), b"one").unwrap();
    std::fs::hard_link(mount.at("a"), mount.at("b")).unwrap();
    let (a, b) = (std::fs::metadata(mount.at("a")).unwrap(), std::fs::metadata(mount.at("b")).unwrap());
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    std::fs::write(mount.at("b"), b"two").unwrap();
    assert_eq!(std::fs::read(mount.at("a")).unwrap(), b"two");
    std::fs::remove_file(mount.at("a")).unwrap();
    assert_eq!(std::fs::metadata(mount.at("b")).unwrap().nlink(), 1);
    assert_eq!(std::fs::read(mount.at("b")).unwrap(), b"two");
}

#[test]
fn rename_replaces_exchanges_and_refuses() {
    let Some(mount) = Local::new() else { return };
    let rename = |from: &str, to: &str, flags| {
        let path = |name: &str| std::ffi::CString::new(mount.at(name).as_os_str().as_bytes()).unwrap();
        let (from, to) = (path(from), path(to));
        // SAFETY: both paths end with NUL.
        let done =
            unsafe { libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags) };
        if done == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap() }
    };
    std::fs::write(mount.at("a"), b"a").unwrap();
    std::fs::write(mount.at("b"), b"b").unwrap();
    std::fs::create_dir(mount.at("d")).unwrap();
    assert_eq!(rename("a", "b", libc::RENAME_NOREPLACE), libc::EEXIST);
    assert_eq!(rename("a", "d", libc::RENAME_EXCHANGE), 0);
    assert!(std::fs::metadata(mount.at("a")).unwrap().is_dir());
    assert_eq!(std::fs::read(mount.at("d")).unwrap(), b"a");
    assert_eq!(rename("d", "b", 0), 0);
    assert_eq!(std::fs::read(mount.at("b")).unwrap(), b"a");
    assert_eq!(rename("b", "missing/b", 0), libc::ENOENT);
    std::fs::create_dir(mount.at("a/sub")).unwrap();
    assert_eq!(rename("a", "a/sub/a", 0), libc::EINVAL);
    assert_eq!(rename("b", "a", 0), libc::EISDIR);
}

#[test]
fn a_name_that_was_looked_for_in_vain_is_found_once_it_is_made() {
    let Some(mount) = Local::new() else { return };
    assert!(!mount.at("late").exists());
    std::fs::write(mount.at("late"), b"x").unwrap();
    assert!(mount.at("late").exists());
}

#[test]
fn special_files_and_symlinks_are_what_they_were_made_as() {
    let Some(mount) = Local::new() else { return };
    symlink("/some/where", mount.at("link")).unwrap();
    assert_eq!(std::fs::read_link(mount.at("link")).unwrap().to_str(), Some("/some/where"));
    let path = std::ffi::CString::new(mount.at("fifo").as_os_str().as_bytes()).unwrap();
    // SAFETY: the path ends with NUL.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o640) }, 0);
    assert!(std::fs::symlink_metadata(mount.at("fifo")).unwrap().file_type().is_fifo());
    let _socket = std::os::unix::net::UnixListener::bind(mount.at("sock")).unwrap();
    assert!(std::fs::symlink_metadata(mount.at("sock")).unwrap().file_type().is_socket());
}

#[test]
fn new_nodes_take_the_group_of_a_set_group_id_directory() {
    use std::os::unix::fs::PermissionsExt;
    let Some(mount) = Local::new() else { return };
    std::fs::create_dir(mount.at("d")).unwrap();
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    std::os::unix::fs::chown(mount.at("d"), None, Some(4242)).unwrap();
    std::fs::set_permissions(mount.at("d"), std::fs::Permissions::from_mode(0o2775)).unwrap();
    std::fs::write(mount.at("d/f"), b"x").unwrap();
    std::fs::create_dir(mount.at("d/sub")).unwrap();
    assert_eq!(std::fs::metadata(mount.at("d/f")).unwrap().gid(), 4242);
    let sub = std::fs::metadata(mount.at("d/sub")).unwrap();
    assert_eq!((sub.gid(), sub.mode() & 0o2000), (4242, 0o2000));
}

#[test]
fn an_answer_on_its_way_does_not_bring_back_what_a_change_replaced() {
    const DIRS: usize = 300;
    let Some(mount) = Local::new() else { return };
    for n in 0..DIRS {
        std::fs::create_dir_all(mount.at(format!("p/d{n}"))).unwrap();
    }
    let changes_are_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A listing tells the attributes of all of them at once, so it is long on its way.
        scope.spawn(|| {
            while !changes_are_over.load(Ordering::Relaxed) {
                // The kernel answers from its own listing unless a name has changed.
                std::fs::write(mount.at("p/x"), b"").unwrap();
                std::fs::remove_file(mount.at("p/x")).unwrap();
                for entry in std::fs::read_dir(mount.at("p")).unwrap() {
                    drop(entry.unwrap());
                }
            }
        });
        for n in 0..6_000_usize {
            let name = format!("p/d{}", n % DIRS);
            std::fs::File::create(mount.at(&name).join(format!("f{n}"))).unwrap();
            let told = mount.node(&name).live().unwrap().mtime;
            let shown =
                || std::fs::metadata(mount.at(&name)).map(|dir| (dir.mtime(), dir.mtime_nsec())).unwrap();
            // The kernel itself shows the older time for a moment while it takes in an answer, but not again and again.
            if (0..100).all(|_| shown() != (told.secs, i64::from(told.nanos))) {
                changes_are_over.store(true, Ordering::Relaxed);
                panic!("after change {n} the directory shows {:?} instead of {told:?}", shown());
            }
        }
        changes_are_over.store(true, Ordering::Relaxed);
    });
}

/// Reads the names that one `getdents` gives.
fn some_names(dir: &File) -> Vec<String> {
    let mut buffer = vec![0_u8; 1 << 16];
    // SAFETY: the buffer is as long as said.
    let read =
        unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.as_mut_ptr(), buffer.len()) };
    let mut left = &buffer[..usize::try_from(read).unwrap()];
    let mut names = Vec::new();
    // A struct linux_dirent64: inode, offset, length, kind, name with a NUL.
    while left.len() > 19 {
        let len = usize::from(u16::from_ne_bytes([left[16], left[17]]));
        let name = left[19..len].split(|byte| *byte == 0).next().unwrap();
        names.push(String::from_utf8(name.to_vec()).unwrap());
        left = &left[len..];
    }
    names
}

#[test]
fn a_listing_that_began_before_a_change_adds_nothing_to_one_that_began_after_it() {
    let Some(mount) = Local::new() else { return };
    std::fs::create_dir(mount.at("d")).unwrap();
    for name in ["d/a", "d/b", "d/new"] {
        std::fs::write(mount.at(name), name).unwrap();
    }
    let early = File::open(mount.at("d")).unwrap();
    assert_eq!(some_names(&early), [".", "..", "a", "b", "new"]);
    std::fs::remove_file(mount.at("d/new")).unwrap();
    let late = File::open(mount.at("d")).unwrap();
    let mut seen = some_names(&late);
    some_names(&early);
    seen.extend(some_names(&late));
    seen.sort();
    assert_eq!(seen, [".", "..", "a", "b"]);
}
