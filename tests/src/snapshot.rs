//! What a directory tree is, down to bytes and nanoseconds, and how two trees differ.
//!
//! Content is hashed over its non-zero blocks and their places, so that a sparse file of many GiB costs what its
//! data costs; zeros and holes are the same content, as POSIX has it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::ops;

const BLOCK_LEN: usize = 64 * 1024;
const DIFFERENCES_SHOWN: usize = 40;

/// Everything of one name that must be equal on every mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// "file", "directory", "symlink", "fifo", "socket", "char" or "block".
    pub kind: &'static str,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// Length in bytes; 0 for directories.
    pub size: u64,
    /// Target of a symlink.
    pub target: Vec<u8>,
    /// Device number of a device node.
    pub device: u64,
    /// Names of this file; 1 for directories.
    pub links: u64,
    /// The first name of the same file in this tree, where it has several.
    pub first_link: Option<Vec<u8>>,
    /// Extended attributes that are listed.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// SHA-256 over the non-zero blocks of a file.
    pub digest: Option<[u8; 32]>,
}

/// A tree: relative path → entry. The root itself is the empty path.
pub type Snapshot = BTreeMap<Vec<u8>, Entry>;

/// Reads a whole tree.
///
/// # Errors
/// When something in it can't be read.
pub fn tree_snapshot(root: &Path) -> Result<Snapshot> {
    let mut snapshot = Snapshot::new();
    let mut inodes = HashMap::new();
    add(root, b"", &mut snapshot, &mut inodes)?;
    link_groups(&mut snapshot, &inodes);
    Ok(snapshot)
}

/// Compares two trees.
///
/// # Errors
/// With the first differences, readable.
pub fn expect_equal(left_root: &Path, left: &Snapshot, right_root: &Path, right: &Snapshot) -> Result<()> {
    let differences = differences(left, right);
    if differences.is_empty() {
        return Ok(());
    }
    let shown = differences[..differences.len().min(DIFFERENCES_SHOWN)].join("\n  ");
    bail!(
        "{} (left, {} names) and {} (right, {} names) differ in {} places:\n  {shown}",
        left_root.display(),
        left.len(),
        right_root.display(),
        right.len(),
        differences.len()
    );
}

/// One line for each difference.
#[must_use]
pub fn differences(left: &Snapshot, right: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (path, entry) in left {
        match right.get(path) {
            None => lines.push(format!("only left:  {} {}", entry.kind, show(path))),
            Some(other) if entry != other => lines.push(describe(path, entry, other)),
            Some(_) => {}
        }
    }
    for (path, entry) in right.iter().filter(|(path, _)| !left.contains_key(*path)) {
        lines.push(format!("only right: {} {}", entry.kind, show(path)));
    }
    lines
}

/// SHA-256 over the places and bytes of the non-zero blocks of `file`, and its length.
///
/// # Errors
/// When it can't be read.
pub fn content_digest(file: &File) -> Result<[u8; 32]> {
    let length = file.metadata()?.len();
    let mut hasher = Sha256::new();
    let mut block = vec![0; BLOCK_LEN];
    let mut offset = 0;
    while offset < length {
        offset = match seek(file, SeekFrom::Data(offset)) {
            Ok(data) => data.max(offset) / BLOCK_LEN as u64 * BLOCK_LEN as u64,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error).context("lseek SEEK_DATA"),
        };
        let end = seek(file, SeekFrom::Hole(offset)).context("lseek SEEK_HOLE")?.max(offset + 1);
        while offset < end {
            let filled = fill(file, &mut block, offset)?;
            if filled == 0 {
                break;
            }
            if block[..filled].iter().any(|byte| *byte != 0) {
                hasher.update(offset.to_le_bytes());
                hasher.update(&block[..filled]);
            }
            offset += BLOCK_LEN as u64;
        }
    }
    hasher.update(length.to_le_bytes());
    Ok(hasher.finalize().into())
}

fn fill(file: &File, block: &mut [u8], offset: u64) -> Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match file.read_at(&mut block[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).with_context(|| format!("read at {offset}")),
        }
    }
    Ok(filled)
}

type Inodes = HashMap<Vec<u8>, (u64, u64)>;

fn add(root: &Path, relative: &[u8], snapshot: &mut Snapshot, inodes: &mut Inodes) -> Result<()> {
    let path = if relative.is_empty() { root.to_owned() } else { root.join(OsStr::from_bytes(relative)) };
    let metadata = fs::symlink_metadata(&path).with_context(|| format!("lstat {}", path.display()))?;
    let entry = entry(&path, &metadata).with_context(|| format!("read {}", path.display()))?;
    if entry.links > 1 {
        inodes.insert(relative.to_vec(), (metadata.dev(), metadata.ino()));
    }
    let is_directory = entry.kind == "directory";
    snapshot.insert(relative.to_vec(), entry);
    if !is_directory {
        return Ok(());
    }
    for child in fs::read_dir(&path).with_context(|| format!("list {}", path.display()))? {
        let child = child.with_context(|| format!("list {}", path.display()))?;
        let mut below = relative.to_vec();
        if !below.is_empty() {
            below.push(b'/');
        }
        below.extend_from_slice(child.file_name().as_bytes());
        add(root, &below, snapshot, inodes)?;
    }
    Ok(())
}

fn entry(path: &Path, metadata: &Metadata) -> Result<Entry> {
    let kind = kind(metadata);
    let is_directory = kind == "directory";
    let is_device = matches!(kind, "char" | "block");
    let target =
        if kind == "symlink" { fs::read_link(path)?.as_os_str().as_bytes().to_vec() } else { vec![] };
    let digest = if kind == "file" { Some(content_digest(&File::open(path)?)?) } else { None };
    Ok(Entry {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
        size: if is_directory { 0 } else { metadata.len() },
        target,
        device: if is_device { metadata.rdev() } else { 0 },
        links: if is_directory { 1 } else { metadata.nlink() },
        first_link: None,
        xattrs: ops::xattrs(path)?,
        digest,
    })
}

fn kind(metadata: &Metadata) -> &'static str {
    let kind = metadata.file_type();
    if kind.is_dir() {
        "directory"
    } else if kind.is_symlink() {
        "symlink"
    } else if kind.is_fifo() {
        "fifo"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_char_device() {
        "char"
    } else if kind.is_block_device() {
        "block"
    } else {
        "file"
    }
}

fn link_groups(snapshot: &mut Snapshot, inodes: &Inodes) {
    let mut first: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    for (path, entry) in snapshot.iter_mut() {
        if let Some(inode) = inodes.get(path) {
            entry.first_link = Some(first.entry(*inode).or_insert_with(|| path.clone()).clone());
        }
    }
}

fn show(path: &[u8]) -> String {
    if path.is_empty() { String::from("(root)") } else { path.escape_ascii().to_string() }
}

fn show_all(xattrs: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let one = |(name, value): (&Vec<u8>, &Vec<u8>)| format!("{}={}", show(name), value.escape_ascii());
    xattrs.iter().map(one).collect::<Vec<_>>().join(",")
}

fn describe(path: &[u8], left: &Entry, right: &Entry) -> String {
    let mut line = format!("{}:", show(path));
    let mut field = |name: &str, left: String, right: String| {
        if left != right {
            let _infallible = write!(line, " {name} {left} | {right}");
        }
    };
    field("type", left.kind.into(), right.kind.into());
    field("mode", format!("{:o}", left.mode), format!("{:o}", right.mode));
    field("uid", left.uid.to_string(), right.uid.to_string());
    field("gid", left.gid.to_string(), right.gid.to_string());
    field("mtime", left.mtime_ns.to_string(), right.mtime_ns.to_string());
    field("size", left.size.to_string(), right.size.to_string());
    field("target", show(&left.target), show(&right.target));
    field("device", left.device.to_string(), right.device.to_string());
    field("links", left.links.to_string(), right.links.to_string());
    field("same file as", format!("{:?}", left.first_link), format!("{:?}", right.first_link));
    field("xattrs", show_all(&left.xattrs), show_all(&right.xattrs));
    field("content", short(left.digest), short(right.digest));
    line
}

fn short(digest: Option<[u8; 32]>) -> String {
    digest.map_or_else(
        || String::from("-"),
        |bytes| format!("{:02x}{:02x}{:02x}…", bytes[0], bytes[1], bytes[2]),
    )
}
