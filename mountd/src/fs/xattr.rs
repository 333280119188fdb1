//! Extended attributes: those of the record, and read-only ones under `user.dfs.` that tell how a node stands.

use std::os::unix::ffi::OsStrExt;

use dfs_shared::limits::{XATTR_NAME_LEN_MAX, XATTR_VALUE_LEN_MAX};
use dfs_shared::record::NodeKind;

use super::{Caller, Fs, FsError, record_of};
use crate::tree::namespace::{XattrMode, put_xattr, take_xattr};
use crate::tree::{Ino, LocalNode};

const VIRTUAL: &[u8] = b"user.dfs.";
const TRUSTED: &[u8] = b"trusted.";
const STORED: [&[u8]; 3] = [b"user.", TRUSTED, b"security."];

/// Checks that a name is one of those that are kept in the record.
fn check_stored(name: &[u8]) -> Result<(), FsError> {
    if name.len() > XATTR_NAME_LEN_MAX {
        return Err(FsError::AttributeNameTooLong);
    }
    match STORED.iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) if name.len() > prefix.len() => Ok(()),
        Some(_) => Err(FsError::Invalid),
        None => Err(FsError::NotSupported),
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

    /// Returns the names of the stored attributes, each with a NUL behind it. Those under `user.dfs.` are not among them, and
    /// those under `trusted.` only root sees.
    ///
    /// # Errors
    /// [`FsError`]: `NotFound`, or a failing tree.
    pub fn listxattr(&self, ino: Ino, caller: Caller) -> Result<Vec<u8>, FsError> {
        let node = self.node(ino)?;
        let mut names = Vec::new();
        let is_shown =
            |name: &&Vec<u8>| !name.starts_with(VIRTUAL) && (caller.uid == 0 || !name.starts_with(TRUSTED));
        for name in record_of(&node)?.xattrs.keys().filter(is_shown) {
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
        if let Some(orphan) = self.orphans.lock().get_mut(&ino).and_then(|node| node.record.as_mut()) {
            put_xattr(orphan, name, value, mode)?;
            orphan.ctime = self.now();
            return Ok(());
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
        if let Some(orphan) = self.orphans.lock().get_mut(&ino).and_then(|node| node.record.as_mut()) {
            take_xattr(orphan, name)?;
            orphan.ctime = self.now();
            return Ok(());
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
            b"hash" => match self.content_hash(&node)? {
                Some(hash) => Ok(hash.to_string().into_bytes()),
                None => Err(FsError::NoAttribute),
            },
            // What the server's public API has set; it stands in the record.
            b"owner" => {
                record_of(&node)?.xattrs.get(&b"user.dfs.owner"[..]).cloned().ok_or(FsError::NoAttribute)
            }
            b"control" if ino == Ino::ROOT => match &self.control {
                Some(path) => Ok(path.as_os_str().as_bytes().to_vec()),
                None => Err(FsError::NoAttribute),
            },
            b"metadata" => self.metadata_text(&node),
            _ => Err(FsError::NoAttribute),
        }
    }

    pub(super) fn state(&self, node: &LocalNode) -> Result<&'static str, FsError> {
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
}
