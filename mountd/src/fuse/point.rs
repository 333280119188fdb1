//! The mount point: made if missing, refused if unfit, cleaned of a dead mount.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::mount::MountError;
use crate::limits::READ_AHEAD_KIB;

/// Makes a directory ready to be mounted on. Returns its path without symlinks.
pub(super) fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    let unusable = |source| MountError::Point { path: path.to_owned(), source };
    // The kernel answers for a dead mount's attributes and entries from its cache, but not for its size.
    let looked = std::fs::metadata(path).and_then(|stat| stat_file_system(path).map(|()| stat));
    let stat = match looked {
        Err(error) if is_dead(&error) => {
            tracing::warn!(path = %path.display(), "cleaning up the dead mount that a killed dfs-mount left");
            unmount(path, true).map_err(unusable)?;
            std::fs::metadata(path)
        }
        other => other,
    };
    match stat {
        Ok(stat) if !stat.is_dir() => return Err(MountError::NotDirectory { path: path.to_owned() }),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(unusable)?;
        }
        Err(error) => return Err(unusable(error)),
    }
    if std::fs::read_dir(path).map_err(unusable)?.next().is_some() {
        return Err(MountError::NotEmpty { path: path.to_owned() });
    }
    path.canonicalize().map_err(unusable)
}

/// Asks whoever serves the file system that holds a path.
fn stat_file_system(path: &Path) -> io::Result<()> {
    let name = c_path(path)?;
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path ends with NUL and `stat` is valid for writes.
    match unsafe { libc::statfs(name.as_ptr(), stat.as_mut_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Tells whether the error is what a mount whose daemon is gone answers.
fn is_dead(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

/// Unmounts; `lazily` also when somebody is using it.
pub(super) fn unmount(path: &Path, lazily: bool) -> io::Result<()> {
    match umount2(path, if lazily { libc::MNT_DETACH } else { 0 }) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        done => return done,
    }
    // An ordinary user has to ask the set-user-id helper.
    let option = if lazily { "-uqz" } else { "-uq" };
    let helper = Command::new("fusermount3")
        .arg(option)
        .arg("--")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    match helper.success() {
        true => Ok(()),
        false if lazily => Err(io::Error::from_raw_os_error(libc::EPERM)),
        false => Err(io::Error::from_raw_os_error(libc::EBUSY)),
    }
}

/// Ends the kernel's connection with whoever serves a mount, and unmounts it unless somebody uses it (EBUSY). Needs root.
pub(super) fn force(path: &Path) -> io::Result<()> {
    umount2(path, libc::MNT_FORCE)
}

fn umount2(path: &Path, flags: libc::c_int) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path ends with NUL.
    match unsafe { libc::umount2(path.as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Returns a path as system calls take it.
pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Lets the kernel read ahead as far as pays off. Needs root; without it sequential reads are slower.
pub(super) fn set_read_ahead(path: &Path) {
    let Ok(stat) = look_at(path) else { return };
    let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", stat.stx_dev_major, stat.stx_dev_minor);
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%setting, %error, "read-ahead stays at the kernel's default");
    }
}

/// Looks at a mount point without asking the file system: a process that waits for itself cannot be killed.
pub(super) fn look_at(path: &Path) -> io::Result<libc::statx> {
    let path = c_path(path)?;
    let mut found = std::mem::MaybeUninit::<libc::statx>::uninit();
    // SAFETY: the path ends with NUL and `found` has room for what the call fills on success.
    let done = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_DONT_SYNC,
            libc::STATX_MNT_ID,
            found.as_mut_ptr(),
        )
    };
    match done {
        // SAFETY: the call succeeded, so it filled the structure.
        0 => Ok(unsafe { found.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}
