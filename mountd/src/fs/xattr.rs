//! Extended attributes: those of the record, and read-only ones under `user.dfs.` that tell how a node stands.

use std::os::unix::ffi::OsStrExt;

use dfs_shared::hash::ChunkHash;
use dfs_shared::limits::{XATTR_NAME_LEN_MAX, XATTR_VALUE_LEN_MAX};
use dfs_shared::record::NodeKind;

use super::{Fs, FsError, record_of};
use crate::tree::namespace::XattrMode;
use crate::tree::{Ino, LocalNode};

const VIRTUAL: &[u8] = b"user.dfs.";
const STORED: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// Checks that a name is one of those that are kept in the record.
fn check_stored(name: &[u8]) -> Result<(), FsError> {
    if name.len() > XATTR_NAME_LEN_MAX {
        return Err(FsError::AttributeNameTooLong);
    }
    match STORED.iter().any(|prefix| name.starts_with(prefix) && name.len() > prefix.len()) {
        true => Ok(()),
        false => Err(FsError::NotSupported),
    }
}

impl Fs {
    /// Returns an extended attribute's value.
    ///
    /// # Errors
    /// [`FsError`]: `NoAttribute`, `NotSupported` (the namespace), `NotFound`, or a failing tree or disk.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        check_stored(name)?;
        if name.starts_with(VIRTUAL) {
            return self.virtual_xattr(ino, &name[VIRTUAL.len()..]);
        }
        let node = self.node(ino)?;
        record_of(&node)?.xattrs.get(name).cloned().ok_or(FsError::NoAttribute)
    }

    /// Returns the names of the stored attributes, each with a NUL behind it. Those under `user.dfs.` are not among them.
    ///
    /// # Errors
    /// [`FsError`]: `NotFound`, or a failing tree.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let node = self.node(ino)?;
        let mut names = Vec::new();
        for name in record_of(&node)?.xattrs.keys().filter(|name| !name.starts_with(VIRTUAL)) {
            names.extend_from_slice(name);
            names.push(0);
        }
        Ok(names)
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`FsError`]: `ReadOnly`, `NotPermitted` (under `user.dfs.`), `NotSupported` (the namespace), `AttributeTooLong`, `Tree` (`Exists`, `NoAttribute`, `AttributesTooLarge`, …).
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Result<(), FsError> {
        self.check_writable()?;
        check_stored(name)?;
        if name.starts_with(VIRTUAL) {
            return Err(FsError::NotPermitted);
        }
        if value.len() > XATTR_VALUE_LEN_MAX {
            return Err(FsError::AttributeTooLong);
        }
        self.tree.set_xattr(ino, name, value, mode, self.now())?;
        self.told_tree();
        self.attributes_changed(ino);
        Ok(())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`FsError`]: `ReadOnly`, `NotPermitted` (under `user.dfs.`), `NotSupported` (the namespace), `Tree` (`NoAttribute`, …).
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        self.check_writable()?;
        check_stored(name)?;
        if name.starts_with(VIRTUAL) {
            return Err(FsError::NotPermitted);
        }
        self.tree.remove_xattr(ino, name, self.now())?;
        self.told_tree();
        self.attributes_changed(ino);
        Ok(())
    }

    fn virtual_xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>, FsError> {
        {
            let _hold = self.hold.read();
            self.notice_open(ino)?;
        }
        let node = self.node(ino)?;
        match name {
            b"state" => Ok(self.state(&node)?.as_bytes().to_vec()),
            b"version" => match node.sync.base_revision() {
                Some(revision) => Ok(revision.to_string().into_bytes()),
                None => Err(FsError::NoAttribute),
            },
            b"hash" => self.content_hash(&node),
            // What the server's public API has set; it stands in the record.
            b"owner" => {
                record_of(&node)?.xattrs.get(&b"user.dfs.owner"[..]).cloned().ok_or(FsError::NoAttribute)
            }
            b"control" if ino == Ino::ROOT => match &self.control {
                Some(path) => Ok(path.as_os_str().as_bytes().to_vec()),
                None => Err(FsError::NoAttribute),
            },
            b"metadata" => Err(FsError::NotSupported),
            _ => Err(FsError::NoAttribute),
        }
    }

    fn state(&self, node: &LocalNode) -> Result<&'static str, FsError> {
        let progress = self.progress.as_ref();
        if progress.is_some_and(|progress| progress.is_conflict(node.id)) {
            return Ok("conflict");
        }
        if node.sync.is_dirty() || node.dirty_content.is_some() {
            let uploading = progress.is_some_and(|progress| progress.is_uploading(node.id));
            return Ok(if uploading { "uploading" } else { "journaled" });
        }
        let record = record_of(node)?;
        if record.kind == NodeKind::File && record.size > 0 && !self.cache.backing(node)?.is_whole() {
            return Ok("remote");
        }
        Ok("synced")
    }

    /// The SHA-256 of the bytes, where it is known: of an empty file and of one that is a single chunk.
    fn content_hash(&self, node: &LocalNode) -> Result<Vec<u8>, FsError> {
        let record = record_of(node)?;
        if record.kind != NodeKind::File || node.dirty_content.is_some() {
            return Err(FsError::NoAttribute);
        }
        let Some(content) = record.content else {
            return Ok(ChunkHash::of(b"").to_string().into_bytes());
        };
        match self.tree.manifest(node.id)? {
            Some((id, manifest)) if id == content => match manifest.chunks.as_slice() {
                [chunk] if !chunk.hash.is_hole() => Ok(chunk.hash.to_string().into_bytes()),
                _ => Err(FsError::NoAttribute),
            },
            _ => Err(FsError::NoAttribute),
        }
    }
}
