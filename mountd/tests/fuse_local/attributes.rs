//! Attributes on a real mount.

use std::ffi::CString;
use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use dfs_mountd::cache::OpenFiles;

use super::kit::Local;

#[test]
fn times_are_kept_to_the_nanosecond_also_over_a_close_after_writing() {
    for mount in Local::both() {
        let path = mount.at("f");
        let at = UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        let mut file = File::create(&path).unwrap();
        file.write_all(b"x").unwrap();
        file.set_times(FileTimes::new().set_modified(at).set_accessed(at)).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), at);
        drop(file);
        let stat = std::fs::metadata(&path).unwrap();
        assert_eq!((stat.modified().unwrap(), stat.accessed().unwrap()), (at, at));
        assert!(mount.node("f").dirty_content.is_some());
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().modified().unwrap(), at);
        file.write_all(b"y").unwrap();
        assert!(file.metadata().unwrap().modified().unwrap() > at + Duration::from_secs(1));
    }
}

#[test]
fn blocks_are_those_of_the_bytes() {
    for mount in Local::both() {
        std::fs::write(mount.at("f"), vec![1; 100_000]).unwrap();
        let blocks = std::fs::metadata(mount.at("f")).unwrap().blocks();
        assert!((196..=216).contains(&blocks), "{blocks}");
    }
}

#[test]
fn writing_by_an_ordinary_user_takes_set_id_bits_away() {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    for mount in Local::both() {
        let path = mount.at("f");
        std::fs::write(&path, b"x").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o6777)).unwrap();
        std::fs::set_permissions(mount.path(), Permissions::from_mode(0o777)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o6777);
        open_up(mount.path().parent().unwrap());
        let written = std::process::Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", "echo y >> \"$0\""])
            .arg(&path)
            .status()
            .unwrap();
        assert!(written.success());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o777);
    }
}

fn open_up(dir: &Path) {
    std::fs::set_permissions(dir, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_new_owner_takes_set_id_bits_away() {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let Some(mount) = Local::new() else { return };
    let kinds = [libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK, libc::S_IFCHR, libc::S_IFBLK];
    for (number, kind) in kinds.into_iter().enumerate() {
        let path = mount.at(format!("node {number}"));
        let name = c(path.as_os_str().as_bytes());
        // SAFETY: the name ends with NUL.
        assert_eq!(unsafe { libc::mknod(name.as_ptr(), kind | 0o600, libc::makedev(7, 1)) }, 0);
        std::fs::set_permissions(&path, Permissions::from_mode(0o6755)).unwrap();
        std::os::unix::fs::chown(&path, Some(7), Some(8)).unwrap();
        let stat = std::fs::metadata(&path).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (7, 8, 0o755), "{kind:o}");
    }
    let dir = mount.at("dir");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, Permissions::from_mode(0o6755)).unwrap();
    std::os::unix::fs::chown(&dir, Some(7), Some(8)).unwrap();
    assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o7777, 0o6755, "directories keep theirs");
}

fn c(text: impl AsRef<[u8]>) -> CString {
    CString::new(text.as_ref()).unwrap()
}

fn get(path: &Path, name: &str) -> Result<Vec<u8>, i32> {
    let mut value = vec![0; 70_000];
    let (path, name) = (c(path.as_os_str().as_bytes()), c(name));
    // SAFETY: both strings end with NUL and the buffer is as long as said.
    let len =
        unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    match usize::try_from(len) {
        Ok(len) => Ok(value[..len].to_vec()),
        Err(_) => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
    }
}

fn set(path: &Path, name: &str, value: &[u8], flags: i32) -> Result<(), i32> {
    let (path, name) = (c(path.as_os_str().as_bytes()), c(name));
    // SAFETY: both strings end with NUL and the value is as long as said.
    match unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags) }
    {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().raw_os_error().unwrap()),
    }
}

#[test]
fn extended_attributes_are_set_listed_replaced_and_removed() {
    let Some(mount) = Local::new() else { return };
    let path = mount.at("f");
    std::fs::write(&path, b"x").unwrap();
    set(&path, "user.one", b"1", libc::XATTR_CREATE).unwrap();
    assert_eq!(set(&path, "user.one", b"1", libc::XATTR_CREATE), Err(libc::EEXIST));
    assert_eq!(set(&path, "user.two", b"2", libc::XATTR_REPLACE), Err(libc::ENODATA));
    set(&path, "user.one", &[7; 60_000], 0).unwrap();
    assert_eq!(get(&path, "user.one").unwrap(), [7; 60_000]);
    assert_eq!(get(&path, "user.none"), Err(libc::ENODATA));
    assert_eq!(set(&path, "user.big", &[7; 65_537], 0), Err(libc::E2BIG));
    let mut names = vec![0; 100];
    let cpath = c(path.as_os_str().as_bytes());
    // SAFETY: the path ends with NUL and the buffer is as long as said.
    let len = unsafe { libc::llistxattr(cpath.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    assert_eq!(&names[..usize::try_from(len).unwrap()], b"user.one\0");
}

#[test]
fn virtual_attributes_tell_where_a_file_stands_and_cannot_be_set() {
    let Some(mount) = Local::new() else { return };
    let path = mount.at("f");
    std::fs::write(&path, b"x").unwrap();
    assert_eq!(get(&path, "user.dfs.state").unwrap(), b"journaled");
    // SHA-256 of `x`, from the bytes that are here.
    let hash = b"2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
    assert_eq!(get(&path, "user.dfs.hash").unwrap(), hash);
    assert_eq!(get(&path, "user.dfs.version"), Err(libc::ENODATA));
    assert_eq!(set(&path, "user.dfs.state", b"synced", 0), Err(libc::EPERM));
    assert_eq!(get(&path, "system.posix_acl_access"), Err(libc::EOPNOTSUPP));
    assert_eq!(get(&mount.path(), "user.dfs.control").unwrap(), b"/run/control");
    assert_eq!(get(&path, "user.dfs.control"), Err(libc::ENODATA));
}

#[test]
fn the_file_system_has_the_room_of_the_disk() {
    let Some(mount) = Local::new() else { return };
    let path = c(mount.path().as_os_str().as_bytes());
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with NUL; the structure is filled on success.
    let stat = unsafe {
        assert_eq!(libc::statvfs(path.as_ptr(), stat.as_mut_ptr()), 0);
        stat.assume_init()
    };
    assert!(stat.f_blocks > 0 && stat.f_bavail <= stat.f_blocks);
    assert_eq!(stat.f_namemax, 255);
}

#[test]
fn a_file_that_is_being_written_never_shows_an_older_length() {
    let Some(mount) = Local::new() else { return };
    let file = std::fs::File::create(mount.at("f")).unwrap();
    let node = mount.node("f").id;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The daemon looks at the file all the time, and is asked about it all the time.
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                mount.fs.notice(&[node]);
            }
        });
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                std::fs::metadata(mount.at("f")).unwrap();
            }
        });
        let mut older = None;
        for n in 1..=4_000_u64 {
            std::os::unix::fs::FileExt::write_all_at(&file, b"x", n - 1).unwrap();
            let shown = file.metadata().unwrap().len();
            if shown != n {
                older = Some((shown, n));
                break;
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert_eq!(older, None, "shown and written");
    });
}
