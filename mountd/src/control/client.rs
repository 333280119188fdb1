//! Finds a running mount and asks it. Used by `dfs`; blocks.

use std::ffi::CString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use super::{Answer, CONTROL_XATTR, Failure, PinLine, Request, VerifyLine, Version};
use crate::engine::verify::Verified;

/// Why a mount could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing is mounted.
    #[error("no dfs volume is mounted; mount one with `dfs-mount MOUNTPOINT`")]
    NothingMounted,
    /// Several are mounted and none was named.
    #[error("several dfs volumes are mounted ({}): name one", list(points))]
    Ambiguous {
        /// Their mount points.
        points: Vec<PathBuf>,
    },
    /// The path is in no dfs mount.
    #[error("{} is not in a dfs mount", path.display())]
    NotMounted {
        /// The path.
        path: PathBuf,
    },
    /// The path does not exist, or cannot be looked at.
    #[error("cannot use {}: {source}", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mount's process is gone.
    #[error("the process of the mount on {} is gone; `dfs umount {}` cleans up", point.display(), point.display())]
    Dead {
        /// The mount point.
        point: PathBuf,
    },
    /// The mount does not tell where its socket is.
    #[error("the mount on {} does not tell where it listens (user.dfs.control): {source}", point.display())]
    Attribute {
        /// The mount point.
        point: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket does not answer.
    #[error("the mount on {} does not answer: {source}", point.display())]
    Socket {
        /// The mount point.
        point: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The mount answered with a failure.
    #[error(transparent)]
    Refused(#[from] Failure),
}

fn list(points: &[PathBuf]) -> String {
    points.iter().map(|point| point.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// A running mount, and a place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Where it is mounted.
    pub point: PathBuf,
    /// The rest of the path that was asked for, without a slash at either end.
    pub relative: Vec<u8>,
}

/// Finds the mount that holds a path, or the one that holds the working directory, or the only one.
///
/// # Errors
/// [`ClientError`].
pub fn find(path: Option<&Path>) -> Result<Found, ClientError> {
    let points = mount_points(&std::fs::read("/proc/self/mounts").unwrap_or_default());
    let Some(path) = path else {
        let here = std::env::current_dir().ok().and_then(|here| within(&points, &here));
        return match (here, &points[..]) {
            (Some(here), _) => Ok(Found { relative: Vec::new(), ..here }),
            (None, []) => Err(ClientError::NothingMounted),
            (None, [point]) => Ok(Found { point: point.clone(), relative: Vec::new() }),
            (None, _) => Err(ClientError::Ambiguous { points }),
        };
    };
    let full = match std::path::absolute(path) {
        // The path of a dead mount cannot be resolved, but may be named as it stands.
        Ok(full) if points.contains(&full) => full,
        _ => resolve(path).map_err(|source| ClientError::Path { path: path.to_owned(), source })?,
    };
    within(&points, &full).ok_or_else(|| ClientError::NotMounted { path: path.to_owned() })
}

/// Finds the mount of a path that may not exist any more.
///
/// # Errors
/// [`ClientError`].
pub fn find_past(path: &Path) -> Result<Found, ClientError> {
    let points = mount_points(&std::fs::read("/proc/self/mounts").unwrap_or_default());
    let failed = |source| ClientError::Path { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(failed)?;
    // The last name stays as it is; of the directories before it those that are left are resolved.
    let (mut at, mut gone) = (absolute.as_path(), Vec::new());
    let full = loop {
        let (Some(parent), Some(name)) = (at.parent(), at.file_name()) else {
            break at.canonicalize().map_err(failed)?;
        };
        gone.push(name);
        match parent.canonicalize() {
            Ok(parent) => break gone.iter().rev().fold(parent, |path, name| path.join(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => at = parent,
            Err(error) => return Err(failed(error)),
        }
    };
    within(&points, &full).ok_or_else(|| ClientError::NotMounted { path: path.to_owned() })
}

/// Resolves symlinks of the directory only: a symlink in a mount is a file of its own.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => {
            std::fs::symlink_metadata(path)?;
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => path.canonicalize(),
    }
}

fn within(points: &[PathBuf], path: &Path) -> Option<Found> {
    let best =
        points.iter().filter(|point| path.starts_with(point)).max_by_key(|point| point.as_os_str().len())?;
    let relative = path.strip_prefix(best).ok()?.as_os_str().as_bytes().to_vec();
    Some(Found { point: best.clone(), relative })
}

/// Reads the dfs mounts out of `/proc/self/mounts`.
fn mount_points(mounts: &[u8]) -> Vec<PathBuf> {
    let lines = mounts.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == b"fuse.dfs" || (kind == b"fuse" && device == b"dfs"))
            .then(|| PathBuf::from(std::ffi::OsString::from_vec(unescape(point))))
    });
    points.collect()
}

/// Takes back the octal escapes that the kernel's tables of mounts have for spaces, tabs, newlines and backslashes.
#[must_use]
pub fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                bytes.push(u8::try_from(value).unwrap_or(b'?'));
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// Asks a mount and waits for the answer.
///
/// # Errors
/// [`ClientError`].
pub fn ask<R: DeserializeOwned>(found: &Found, request: &Request) -> Result<R, ClientError> {
    let mut stream = connect(found)?;
    send(&mut stream, found, request)
}

/// Takes a piece of a version's bytes.
pub type Sink<'a> = dyn FnMut(&Version, &[u8]) -> io::Result<()> + 'a;

/// Asks for the bytes of a version ([`Request::Version`]) and hands them to `sink`, piece by piece.
///
/// # Errors
/// [`ClientError`]; the bytes so far are no whole version then.
pub fn fetch(found: &Found, request: &Request, sink: &mut Sink<'_>) -> Result<Version, ClientError> {
    let failed = |source| ClientError::Socket { point: found.point.clone(), source };
    let mut stream = BufReader::new(connect(found)?);
    let version: Version = {
        let mut line = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        stream.get_mut().write_all(&line).map_err(failed)?;
        read_answer(&mut stream, found)?
    };
    let mut piece = Vec::new();
    loop {
        let mut len = [0; 4];
        stream.read_exact(&mut len).map_err(failed)?;
        match u32::from_be_bytes(len) {
            0 => return Ok(version),
            super::history::FAILED => {
                let mut line = String::new();
                stream.read_line(&mut line).map_err(failed)?;
                let failure: Failure = serde_json::from_str(&line).map_err(|error| failed(error.into()))?;
                return Err(failure.into());
            }
            len if len as usize > super::history::FRAME_LEN_MAX => {
                return Err(failed(io::ErrorKind::InvalidData.into()));
            }
            len => {
                piece.resize(len as usize, 0);
                stream.read_exact(&mut piece).map_err(failed)?;
                sink(&version, &piece).map_err(failed)?;
            }
        }
    }
}

/// Asks a mount to verify ([`Request::Verify`]) and hands every line but the last to `sink`.
///
/// # Errors
/// [`ClientError`].
pub fn verify(
    found: &Found,
    request: &Request,
    sink: &mut dyn FnMut(VerifyLine) -> io::Result<()>,
) -> Result<Verified, ClientError> {
    each_line(found, request, |line| match line {
        VerifyLine::Verified(verified) => Ok(Some(verified)),
        VerifyLine::Error(failure) => Err(failure.into()),
        line => {
            sink(line).map_err(|source| ClientError::Socket { point: found.point.clone(), source })?;
            Ok(None)
        }
    })
}

/// Asks a mount to pin something ([`Request::Pin`]) and hands every line but the last to `sink`.
///
/// # Errors
/// [`ClientError`].
pub fn pin(found: &Found, request: &Request, sink: &mut dyn FnMut(PinLine)) -> Result<(), ClientError> {
    each_line(found, request, |line| match line {
        PinLine::Pinned {} => Ok(Some(())),
        PinLine::Error(failure) => Err(failure.into()),
        line @ PinLine::Progress { .. } => {
            sink(line);
            Ok(None)
        }
    })
}

/// Sends a request that is answered by several lines and hands each to `take`, until that has what was asked for.
fn each_line<L: DeserializeOwned, T>(
    found: &Found,
    request: &Request,
    mut take: impl FnMut(L) -> Result<Option<T>, ClientError>,
) -> Result<T, ClientError> {
    let failed = |source| ClientError::Socket { point: found.point.clone(), source };
    let mut stream = BufReader::new(connect(found)?);
    let mut line = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    stream.get_mut().write_all(&line).map_err(failed)?;
    let mut text = String::new();
    loop {
        text.clear();
        if stream.read_line(&mut text).map_err(failed)? == 0 {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        let line = serde_json::from_str(&text).map_err(|error| failed(error.into()))?;
        if let Some(done) = take(line)? {
            return Ok(done);
        }
    }
}

/// Asks a mount to end and waits until it has.
///
/// # Errors
/// [`ClientError`].
pub fn unmount(found: &Found, flush: bool) -> Result<(), ClientError> {
    let mut stream = connect(found)?;
    let _: serde_json::Value = send(&mut stream, found, &Request::Unmount { flush })?;
    let mut rest = Vec::new();
    let _ = io::Read::read_to_end(&mut stream, &mut rest);
    Ok(())
}

fn connect(found: &Found) -> Result<UnixStream, ClientError> {
    let socket = control_path(&found.point).map_err(|source| match source.raw_os_error() {
        Some(libc::ENOTCONN | libc::ECONNABORTED) => ClientError::Dead { point: found.point.clone() },
        _ => ClientError::Attribute { point: found.point.clone(), source },
    })?;
    UnixStream::connect(socket).map_err(|source| ClientError::Socket { point: found.point.clone(), source })
}

fn send<R: DeserializeOwned>(
    stream: &mut UnixStream,
    found: &Found,
    request: &Request,
) -> Result<R, ClientError> {
    let failed = |source| ClientError::Socket { point: found.point.clone(), source };
    let mut line = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed)?;
    read_answer(&mut BufReader::new(&*stream), found)
}

fn read_answer<R: DeserializeOwned>(stream: &mut impl BufRead, found: &Found) -> Result<R, ClientError> {
    let failed = |source| ClientError::Socket { point: found.point.clone(), source };
    let mut answer = String::new();
    if stream.read_line(&mut answer).map_err(failed)? == 0 {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    match serde_json::from_str(&answer).map_err(|error| failed(error.into()))? {
        Answer::Error { error } => Err(error.into()),
        Answer::Done(value) => serde_json::from_value(value).map_err(|error| failed(error.into())),
    }
}

fn control_path(point: &Path) -> io::Result<PathBuf> {
    let path = CString::new(point.as_os_str().as_bytes())?;
    let name = CString::new(CONTROL_XATTR)?;
    let mut value = vec![0_u8; 4096];
    // SAFETY: both strings end with NUL and `value` has the given length.
    let len = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    value.truncate(len);
    Ok(PathBuf::from(std::ffi::OsString::from_vec(value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dfs_mounts_are_found_whatever_their_names_hold() {
        let mounts =
            b"proc /proc proc rw 0 0\ndfs /mnt/a\\040b fuse.dfs rw 0 0\ndfs /mnt/a\\040b/c fuse.dfs rw 0 0\n";
        let points = mount_points(mounts);
        assert_eq!(points, [Path::new("/mnt/a b"), Path::new("/mnt/a b/c")]);
        let found = within(&points, Path::new("/mnt/a b/c/d/e")).expect("in a mount");
        assert_eq!((found.point.as_path(), &found.relative[..]), (Path::new("/mnt/a b/c"), &b"d/e"[..]));
        assert_eq!(within(&points, Path::new("/mnt/a")), None);
        assert_eq!(unescape(b"a\\134b\\011c\\9"), b"a\\b\tc\\9");
    }
}
