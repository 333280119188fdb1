//! Linux file operations that std lacks, as tests want to call them.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rustix::fs as sys;
use rustix::io::Errno;

/// `rename2` with flags.
///
/// # Errors
/// What the kernel says.
pub fn rename_with(from: &Path, to: &Path, flags: sys::RenameFlags) -> Result<(), Errno> {
    sys::renameat_with(sys::CWD, from, sys::CWD, to, flags)
}

/// `mknod` of a special file with mode 0640 and, for a device, its number.
///
/// # Errors
/// What the kernel says.
pub fn mknod(path: &Path, kind: sys::FileType, device: u64) -> Result<(), Errno> {
    sys::mknodat(sys::CWD, path, kind, sys::Mode::from_raw_mode(0o640), device)
}

/// Every listed extended attribute, of a symlink itself and not of what it points to.
///
/// # Errors
/// When they can't be read.
pub fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 64 * 1024];
    let length = match sys::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("llistxattr {}", path.display())),
    };
    let mut all = BTreeMap::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let text = CString::new(name).context("attribute name")?;
        let value =
            lgetxattr(path, &text).with_context(|| format!("lgetxattr {text:?} {}", path.display()))?;
        all.insert(name.to_vec(), value);
    }
    Ok(all)
}

/// One extended attribute.
///
/// # Errors
/// What the kernel says.
pub fn xattr(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    lgetxattr(path, &CString::new(name).map_err(|_| Errno::INVAL)?)
}

fn lgetxattr(path: &Path, name: &CString) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 64 * 1024];
    let length = sys::lgetxattr(path, name.as_c_str(), &mut value)?;
    value.truncate(length);
    Ok(value)
}

/// Where a file stands: `user.dfs.state`.
///
/// # Errors
/// When it is not there or not text.
pub fn state(path: &Path) -> Result<String> {
    let value =
        xattr(path, "user.dfs.state").with_context(|| format!("user.dfs.state of {}", path.display()))?;
    String::from_utf8(value).context("user.dfs.state is text")
}

/// Sets one extended attribute.
///
/// # Errors
/// What the kernel says.
pub fn set_xattr(path: &Path, name: &str, value: &[u8], flags: sys::XattrFlags) -> Result<(), Errno> {
    sys::lsetxattr(path, name, value, flags)
}

/// Sets access and modification time of a name, not following a symlink.
///
/// # Errors
/// What the kernel says.
pub fn set_times(path: &Path, atime: (i64, u32), mtime: (i64, u32)) -> Result<(), Errno> {
    let time =
        |(seconds, nanoseconds): (i64, u32)| sys::Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    let times = sys::Timestamps { last_access: time(atime), last_modification: time(mtime) };
    sys::utimensat(sys::CWD, path, &times, sys::AtFlags::SYMLINK_NOFOLLOW)
}

/// Opens for reading and writing, making the file if need be.
///
/// # Errors
/// What the kernel says.
pub fn open_rw(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    options.open(path).with_context(|| format!("open {}", path.display()))
}

/// Writes a whole file, with fsync before close.
///
/// # Errors
/// What the kernel says.
pub fn write_synced(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.write_all(bytes).with_context(|| format!("write {}", path.display()))?;
    file.sync_all().with_context(|| format!("fsync {}", path.display()))
}

/// Flushes a directory.
///
/// # Errors
/// What the kernel says.
pub fn sync_directory(path: &Path) -> Result<()> {
    File::open(path)?.sync_all().with_context(|| format!("fsync {}", path.display()))
}

/// The names in a directory, sorted.
///
/// # Errors
/// When it can't be listed.
pub fn names(path: &Path) -> Result<Vec<Vec<u8>>> {
    let list = std::fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
    let mut names =
        list.map(|entry| Ok(entry?.file_name().as_bytes().to_vec())).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Fails unless `result` is the error `wanted`.
///
/// # Errors
/// When it is not.
pub fn expect_error<T>(what: &str, wanted: Errno, result: std::io::Result<T>) -> Result<()> {
    let seen = result.err().with_context(|| format!("{what} worked where {wanted} is due"))?;
    ensure!(seen.raw_os_error() == Some(wanted.raw_os_error()), "{what}: {seen}, where {wanted} is due");
    Ok(())
}

/// [`expect_error`] for calls that give an [`Errno`].
///
/// # Errors
/// When it is not the wanted one.
pub fn expect_errno<T>(what: &str, wanted: Errno, result: Result<T, Errno>) -> Result<()> {
    expect_error(what, wanted, result.map_err(Into::into))
}

/// Every regular file below `directory`.
///
/// # Errors
/// When something can't be listed.
pub fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(&next).with_context(|| format!("list {}", next.display()))? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Bytes that the files below `directory` take on disk.
///
/// # Errors
/// When something can't be listed.
pub fn disk_usage(directory: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for file in files_below(directory)? {
        // Files may go while we look: a cache evicts.
        total += std::fs::symlink_metadata(&file).map_or(0, |metadata| metadata.blocks() * 512);
    }
    Ok(total)
}
