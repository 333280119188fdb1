//! What a change may look like, whatever the tree holds: pure checks of one change, no store.

use dfs_shared::ids::NodeId;
use dfs_shared::limits::{CHUNK_LEN_MAX, CHUNK_LOG2_MAX, CHUNK_LOG2_MIN, MANIFEST_CHUNKS_MAX};
use dfs_shared::limits::{TARGET_LEN_MAX, XATTR_NAME_LEN_MAX, XATTR_VALUE_LEN_MAX, XATTRS_LEN_MAX};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Change, NodeKind, NodeRecord, Record, RecordKey};
use dfs_shared::time::Timestamp;

/// Says what is wrong with a change by itself, if anything.
pub(super) fn check_change(change: &Change) -> Result<(), String> {
    match &change.value {
        None if change.key == RecordKey::Node(NodeId::ROOT) => {
            Err("the root directory is never removed".to_owned())
        }
        None => Ok(()),
        Some(record) if record.key() != change.key => Err("key and value disagree".to_owned()),
        Some(Record::Entry(_)) => Ok(()),
        Some(Record::Node(node)) => check_node(node),
    }
}

fn check_node(node: &NodeRecord) -> Result<(), String> {
    if node.id == NodeId::ROOT && node.kind != NodeKind::Directory {
        return Err("the root is a directory".to_owned());
    }
    if node.mode > 0o7777 {
        return Err(format!("mode {:o} is over 7777", node.mode));
    }
    let times = [node.atime, node.mtime, node.ctime, node.crtime];
    if times.iter().any(|Timestamp { nanos, .. }| *nanos >= 1_000_000_000) {
        return Err("nanoseconds are below 1,000,000,000".to_owned());
    }
    check_kind(node)?;
    check_xattrs(node)
}

fn check_kind(node: &NodeRecord) -> Result<(), String> {
    let is_device = matches!(node.kind, NodeKind::CharDevice | NodeKind::BlockDevice);
    if node.rdev != 0 && !is_device {
        return Err("only devices have a device number".to_owned());
    }
    if node.content.is_some() != (node.kind == NodeKind::File && node.size > 0) {
        return Err("exactly the files that are not empty have a content".to_owned());
    }
    if i64::try_from(node.size).is_err() {
        return Err(format!("a size of {} is over 2^63-1", node.size));
    }
    match node.kind {
        NodeKind::Symlink if node.target.is_empty() || node.target.len() > TARGET_LEN_MAX => {
            Err(format!("a symlink's target has 1 to {TARGET_LEN_MAX} bytes, this one {}", node.target.len()))
        }
        NodeKind::Symlink if node.size != node.target.len() as u64 => {
            Err("a symlink's size is its target's length".to_owned())
        }
        NodeKind::Symlink => Ok(()),
        _ if !node.target.is_empty() => Err("only symlinks have a target".to_owned()),
        NodeKind::File => Ok(()),
        _ if node.size != 0 => Err("only files and symlinks have a size".to_owned()),
        _ => Ok(()),
    }
}

fn check_xattrs(node: &NodeRecord) -> Result<(), String> {
    let mut sum = 0_usize;
    for (name, value) in &node.xattrs {
        if name.is_empty() || name.len() > XATTR_NAME_LEN_MAX || name.contains(&0) {
            return Err(format!("an attribute's name has 1 to {XATTR_NAME_LEN_MAX} bytes and no NUL"));
        }
        if value.len() > XATTR_VALUE_LEN_MAX {
            return Err(format!("an attribute's value has at most {XATTR_VALUE_LEN_MAX} bytes"));
        }
        sum += name.len() + value.len();
    }
    if sum > XATTRS_LEN_MAX {
        return Err(format!("a node's attributes have at most {XATTRS_LEN_MAX} bytes together, these {sum}"));
    }
    Ok(())
}

/// Says what is wrong with a manifest by itself, if anything.
pub(super) fn check_manifest(manifest: &Manifest) -> Result<(), String> {
    check_chunk_count(manifest.chunks.len())?;
    if manifest.chunk_log2 != 0 && !(CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX).contains(&manifest.chunk_log2) {
        return Err(format!("a chunk size of 2^{} is not allowed", manifest.chunk_log2));
    }
    let fits = |len: u64, is_hole: bool| len >= 1 && (is_hole || len <= CHUNK_LEN_MAX);
    match manifest.chunks.iter().find(|chunk| !fits(chunk.len, chunk.hash.is_hole())) {
        Some(chunk) => Err(format!("chunk {} has a length of {} that is not allowed", chunk.hash, chunk.len)),
        None => Ok(()),
    }
}

fn check_chunk_count(count: usize) -> Result<(), String> {
    match count {
        0..=MANIFEST_CHUNKS_MAX => Ok(()),
        _ => Err(format!("a manifest has at most {MANIFEST_CHUNKS_MAX} chunks, this one {count}")),
    }
}

#[cfg(test)]
mod tests;
