//! What Linux does to set-id bits, attributes of removed files and names of attributes, on a real mount; each found by
//! running the same calls on the bare disk.

use std::ffi::CString;
use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use super::kit::Local;

const USER: u32 = 1005;

/// Changes the bytes of an open file.
type Way<'a> = &'a (dyn Fn(&File) + Sync);

fn is_root() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// Runs `work` in a thread that is an ordinary user's.
fn as_user(work: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| {
            // SAFETY: the raw calls change this thread only, which ends with `work`.
            unsafe {
                assert_eq!(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<u32>()), 0);
                assert_eq!(libc::syscall(libc::SYS_setresgid, USER, USER, USER), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, USER, USER, USER), 0);
            }
            work();
        });
        ran.join().unwrap();
    });
}

fn done(result: i32) {
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

fn c(text: impl AsRef<[u8]>) -> CString {
    CString::new(text.as_ref()).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

fn allocate(file: &File, mode: i32) {
    // SAFETY: the descriptor is open.
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, 0, 9000) });
}

fn copy(file: &File, from: &File) {
    let (mut at, mut to) = (0, 0);
    // SAFETY: the descriptors are open, the offsets are valid for writes.
    let copied =
        unsafe { libc::copy_file_range(from.as_raw_fd(), &raw mut at, file.as_raw_fd(), &raw mut to, 4, 0) };
    assert_eq!(copied, 4, "{}", io::Error::last_os_error());
}

#[test]
fn every_way_to_change_bytes_takes_an_ordinary_users_set_id_bits() {
    if !is_root() {
        return;
    }
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    for mount in Local::both() {
        std::fs::set_permissions(mount.path().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
        let (path, source) = (mount.at("f"), mount.at("source"));
        std::fs::write(&path, b"bytes").unwrap();
        std::fs::write(&source, b"more bytes").unwrap();
        let ways: [(&str, Way<'_>); 5] = [
            ("write", &|mut file| io::Write::write_all(&mut file, b"y").unwrap()),
            ("truncate", &|file| file.set_len(3).unwrap()),
            ("allocate", &|file| allocate(file, 0)),
            ("punch", &|file| allocate(file, punch)),
            ("copy", &|file| copy(file, &File::open(&source).unwrap())),
        ];
        for (name, way) in ways {
            for (before, after) in [(0o6777, 0o777), (0o6767, 0o767), (0o2777, 0o777), (0o2767, 0o767)] {
                std::fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
                assert_eq!(mode(&path), before);
                as_user(|| way(&OpenOptions::new().write(true).open(&path).unwrap()));
                assert_eq!(mode(&path), after, "{name} {before:o}");
                std::fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
                way(&OpenOptions::new().write(true).open(&path).unwrap());
                assert_eq!(mode(&path), before, "{name} {before:o} by root");
            }
        }
    }
}

#[test]
fn an_owner_that_is_set_to_what_it_is_takes_set_id_bits_away() {
    let Some(mount) = Local::new() else { return };
    let path = mount.at("f");
    std::fs::write(&path, b"x").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o6755)).unwrap();
    std::os::unix::fs::chown(&path, None, None).unwrap();
    assert_eq!(mode(&path), 0o755);
}

#[test]
fn a_removed_file_takes_times_and_extended_attributes_while_it_is_open() {
    for mount in Local::both() {
        let path = mount.at("gone");
        let file = File::create(&path).unwrap();
        io::Write::write_all(&mut &file, b"bytes").unwrap();
        std::fs::remove_file(&path).unwrap();
        let at = UNIX_EPOCH + Duration::new(1_000_000_000, 7);
        file.set_times(FileTimes::new().set_modified(at)).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), at);
        let name = c("user.a");
        let set = |value: &[u8], flags| {
            let fd = file.as_raw_fd();
            // SAFETY: the name ends with NUL and the value is as long as is said.
            match unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), flags) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error().raw_os_error().unwrap()),
            }
        };
        set(b"one", 0).unwrap();
        assert_eq!(set(b"two", libc::XATTR_CREATE), Err(libc::EEXIST));
        let mut value = [0u8; 16];
        // SAFETY: the buffer is as long as is said.
        let len = unsafe {
            libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
        };
        assert_eq!(&value[..usize::try_from(len).unwrap()], b"one");
        // SAFETY: the name ends with NUL.
        done(unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) });
        assert_eq!(set(b"two", libc::XATTR_REPLACE), Err(libc::ENODATA));
    }
}

fn list(path: &Path) -> Vec<u8> {
    let mut names = vec![0u8; 4096];
    let path = c(path.as_os_str().as_bytes());
    // SAFETY: the path ends with NUL, the buffer is as long as is said.
    let len = unsafe { libc::listxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    names.truncate(usize::try_from(len).unwrap());
    names
}

#[test]
fn trusted_attributes_are_listed_to_root_only_and_a_bare_prefix_is_no_name() {
    if !is_root() {
        return;
    }
    let Some(mount) = Local::new() else { return };
    std::fs::set_permissions(mount.path().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    let path = mount.at("f");
    std::fs::write(&path, b"x").unwrap();
    let at = c(path.as_os_str().as_bytes());
    let set = |name: &str| {
        // SAFETY: path and name end with NUL, the value is one byte.
        match unsafe { libc::setxattr(at.as_ptr(), c(name).as_ptr(), b"v".as_ptr().cast(), 1, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error().raw_os_error().unwrap()),
        }
    };
    set("trusted.t").unwrap();
    set("user.u").unwrap();
    assert_eq!(set("user."), Err(libc::EINVAL));
    assert_eq!(set("bogus.a"), Err(libc::EOPNOTSUPP));
    assert_eq!(list(&path), b"trusted.t\0user.u\0");
    as_user(|| assert_eq!(list(&path), b"user.u\0"));
}
