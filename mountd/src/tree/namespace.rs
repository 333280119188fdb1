//! Local changes of the tree: each is one atomic batch, in the journal when the function returns.
//!
//! The rules of POSIX that need only the tree (what exists, what is empty, no directory inside itself) are
//! kept here; those that need a caller (permissions, set-group-id) are `fs`'s.

use dfs_shared::ids::NodeId;
use dfs_shared::limits::{XATTR_VALUE_LEN_MAX, XATTRS_LEN_MAX};
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, NodeRecord, RecordKey};
use dfs_shared::time::Timestamp;

use super::content::{ContentState, Stamp};
use super::node::{EntryTarget, Ino, LocalNode, SyncState};
use super::store::{Space, Write, decode};
use super::txn::Txn;
use super::{Tree, TreeError};
use crate::limits::LINKS_MAX;

/// A node to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNode {
    /// What sort of node.
    pub kind: NodeKind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node, otherwise 0.
    pub rdev: u32,
    /// Target of a symlink, otherwise empty.
    pub target: Vec<u8>,
    /// All its times.
    pub at: Timestamp,
    /// Marks the file as open for writing in the same batch, as [`Tree::mark_open`] does.
    pub opened: bool,
    /// Its backing file, if there is one already.
    pub content: Option<ContentState>,
}

impl NewNode {
    /// Returns a node of this sort with nothing special to it, owned by (user, group).
    #[must_use]
    pub fn plain(kind: NodeKind, mode: u32, (uid, gid): (u32, u32), at: Timestamp) -> Self {
        Self { kind, mode, uid, gid, rdev: 0, target: Vec::new(), at, opened: false, content: None }
    }
}

/// What a removed name led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The node: as it is now, or as it was if that was its last name.
    pub node: LocalNode,
    /// Tells whether the node is gone from the tree.
    pub last: bool,
}

/// How to treat an existing name that something is renamed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it.
    Replace,
    /// Fail.
    NoReplace,
    /// Swap the two.
    Exchange,
}

/// How to treat an extended attribute that exists or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XattrMode {
    /// Set it in either case.
    Any,
    /// Fail if it exists.
    Create,
    /// Fail if it does not exist.
    Replace,
}

/// Attributes to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttributeChange {
    /// Permission, set-id and sticky bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of the content.
    pub mtime: Option<Timestamp>,
    /// Last change of content or attributes.
    pub ctime: Timestamp,
}

/// A change of a file's bytes that was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentChange {
    /// The new length in bytes.
    pub size: u64,
    /// When the bytes were changed.
    pub mtime: Timestamp,
    /// When bytes or attributes were changed.
    pub ctime: Timestamp,
    /// What `fstat` says of the backing file now, to be kept with its row.
    pub stamp: Option<Stamp>,
}

fn entry_key(parent: NodeId, name: &Name) -> RecordKey {
    RecordKey::Entry { parent, name: name.clone() }
}

impl Tree {
    fn dir_id(&self, txn: &mut Txn<'_>, ino: Ino) -> Result<NodeId, TreeError> {
        let id = self.id_of(ino)?.ok_or(TreeError::NotFound)?;
        match txn.kind(id)? {
            None => Err(TreeError::NotFound),
            Some(NodeKind::Directory) => Ok(id),
            Some(_) => Err(TreeError::NotDirectory),
        }
    }

    fn live_id(&self, txn: &mut Txn<'_>, ino: Ino) -> Result<NodeId, TreeError> {
        let id = self.id_of(ino)?.ok_or(TreeError::NotFound)?;
        txn.live(id)?.map(|node| node.id).ok_or(TreeError::NotFound)
    }

    /// Makes a node and its first name.
    ///
    /// # Errors
    /// [`TreeError`]: `Exists`, `NotFound` or `NotDirectory` (the parent), `NoSpace`, or a failing store.
    pub fn create(&self, parent: Ino, name: &Name, new: NewNode) -> Result<LocalNode, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        let dir = self.dir_id(&mut txn, parent)?;
        if txn.target(dir, name)?.is_some() {
            return Err(TreeError::Exists);
        }
        let is_dir = new.kind == NodeKind::Directory;
        if is_dir && txn.node(dir)?.is_some_and(|dir| dir.subdirs >= u32::MAX - 2) {
            return Err(TreeError::TooManyLinks);
        }
        let (at, opened) = (new.at, new.opened);
        let id = (self.ids)();
        let ino = Ino(self.store.next_number()?);
        let record = NodeRecord {
            id,
            kind: new.kind,
            mode: new.mode,
            uid: new.uid,
            gid: new.gid,
            atime: at,
            mtime: at,
            ctime: at,
            crtime: at,
            size: new.target.len() as u64,
            content: None,
            rdev: new.rdev,
            target: new.target,
            xattrs: std::collections::BTreeMap::new(),
        };
        txn.put_node(LocalNode {
            id,
            ino,
            record: Some(record),
            sync: SyncState::New,
            entries: 0,
            subdirs: 0,
            parent: dir,
            dirty_content: None,
        })?;
        txn.change_link(dir, name, Some(id))?;
        txn.journal(vec![RecordKey::Node(id), entry_key(dir, name)]);
        touch_dir(&mut txn, dir, at)?;
        if opened {
            txn.extra.push(Write::raw(Space::Opens, id.as_bytes(), Some(Vec::new())));
        }
        if let Some(row) = &new.content {
            txn.extra.push(Write::put(Space::Content, id.as_bytes(), row));
        }
        let node = txn.live(id)?.cloned().ok_or(TreeError::NotFound)?;
        self.finish(txn, at, true)?;
        Ok(node)
    }

    /// Gives a node that is no directory another name.
    ///
    /// # Errors
    /// [`TreeError`]: `Exists`, `NotFound`, `NotDirectory`, `NotPermitted` (a directory), `TooManyLinks`, `NoSpace`, or a failing store.
    pub fn link(&self, node: Ino, parent: Ino, name: &Name, at: Timestamp) -> Result<LocalNode, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        let dir = self.dir_id(&mut txn, parent)?;
        let id = self.live_id(&mut txn, node)?;
        if txn.kind(id)? == Some(NodeKind::Directory) {
            return Err(TreeError::NotPermitted);
        }
        if txn.target(dir, name)?.is_some() {
            return Err(TreeError::Exists);
        }
        if txn.node(id)?.is_some_and(|node| node.entries >= LINKS_MAX) {
            return Err(TreeError::TooManyLinks);
        }
        txn.change_link(dir, name, Some(id))?;
        txn.journal(vec![entry_key(dir, name)]);
        touch(&mut txn, id, at)?;
        touch_dir(&mut txn, dir, at)?;
        let node = txn.live(id)?.cloned().ok_or(TreeError::NotFound)?;
        self.finish(txn, at, true)?;
        Ok(node)
    }

    /// Removes a name that leads to anything but a directory.
    ///
    /// # Errors
    /// [`TreeError`]: `NotFound`, `NotDirectory` (the parent), `IsDirectory`, or a failing store.
    pub fn unlink(&self, parent: Ino, name: &Name, at: Timestamp) -> Result<Removed, TreeError> {
        self.remove(parent, name, at, |_, target| match target.kind {
            NodeKind::Directory => Err(TreeError::IsDirectory),
            _ => Ok(()),
        })
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`TreeError`]: `NotFound`, `NotDirectory`, `NotEmpty`, or a failing store.
    pub fn rmdir(&self, parent: Ino, name: &Name, at: Timestamp) -> Result<Removed, TreeError> {
        self.remove(parent, name, at, |txn, target| match target.kind {
            NodeKind::Directory if txn.is_empty(target.node)? => Ok(()),
            NodeKind::Directory => Err(TreeError::NotEmpty),
            _ => Err(TreeError::NotDirectory),
        })
    }

    /// Removes a name if `allow` lets what it leads to go.
    fn remove(
        &self,
        parent: Ino,
        name: &Name,
        at: Timestamp,
        allow: impl FnOnce(&mut Txn<'_>, &EntryTarget) -> Result<(), TreeError>,
    ) -> Result<Removed, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        let dir = self.dir_id(&mut txn, parent)?;
        let target = txn.target(dir, name)?.ok_or(TreeError::NotFound)?;
        allow(&mut txn, &target)?;
        let mut keys = vec![entry_key(dir, name)];
        let removed = remove_name(&mut txn, dir, name, target.node, at, &mut keys)?;
        txn.journal(keys);
        touch_dir(&mut txn, dir, at)?;
        self.finish(txn, at, false)?;
        Ok(removed)
    }

    /// Moves a name. Returns what it replaced.
    ///
    /// # Errors
    /// [`TreeError`]: `NotFound`, `Exists`, `NotDirectory`, `IsDirectory`, `NotEmpty`, `IntoItself`, or a failing store.
    pub fn rename(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        mode: RenameMode,
        at: Timestamp,
    ) -> Result<Option<Removed>, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        let (from_dir, to_dir) = (self.dir_id(&mut txn, from.0)?, self.dir_id(&mut txn, to.0)?);
        let (from_name, to_name) = (from.1, to.1);
        let source = txn.target(from_dir, from_name)?.ok_or(TreeError::NotFound)?;
        let replaced = txn.target(to_dir, to_name)?;
        match (mode, &replaced) {
            (RenameMode::NoReplace, Some(_)) => return Err(TreeError::Exists),
            (RenameMode::Exchange, None) => return Err(TreeError::NotFound),
            _ => {}
        }
        if source.kind == NodeKind::Directory && txn.is_within(to_dir, source.node)? {
            return Err(TreeError::IntoItself);
        }
        if replaced.is_some_and(|replaced| replaced.node == source.node) {
            return Ok(None);
        }
        let mut keys = vec![entry_key(from_dir, from_name), entry_key(to_dir, to_name)];
        let mut removed = None;
        match replaced {
            Some(other) if mode == RenameMode::Exchange => {
                if other.kind == NodeKind::Directory && txn.is_within(from_dir, other.node)? {
                    return Err(TreeError::IntoItself);
                }
                txn.change_link(from_dir, from_name, None)?;
                txn.change_link(to_dir, to_name, Some(source.node))?;
                txn.change_link(from_dir, from_name, Some(other.node))?;
                touch(&mut txn, other.node, at)?;
            }
            other => {
                if let Some(other) = other {
                    check_replace(&mut txn, source.kind, other.node, other.kind)?;
                    removed = Some(remove_name(&mut txn, to_dir, to_name, other.node, at, &mut keys)?);
                }
                txn.change_link(from_dir, from_name, None)?;
                txn.change_link(to_dir, to_name, Some(source.node))?;
            }
        }
        txn.journal(keys);
        touch(&mut txn, source.node, at)?;
        touch_dir(&mut txn, from_dir, at)?;
        if to_dir != from_dir {
            touch_dir(&mut txn, to_dir, at)?;
        }
        self.finish(txn, at, false)?;
        Ok(removed)
    }

    /// Sets attributes. Returns the node with them.
    ///
    /// # Errors
    /// [`TreeError`]: `NotFound`, or a failing store.
    pub fn set_attributes(&self, ino: Ino, change: &AttributeChange) -> Result<LocalNode, TreeError> {
        self.change(ino, change.ctime, |record| {
            if let Some(mode) = change.mode {
                record.mode = mode & 0o7777;
            }
            record.uid = change.uid.unwrap_or(record.uid);
            record.gid = change.gid.unwrap_or(record.gid);
            record.atime = change.atime.unwrap_or(record.atime);
            record.mtime = change.mtime.unwrap_or(record.mtime);
            Ok(())
        })
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// [`TreeError`]: `NotFound` (the node), `Exists`, `NoAttribute`, `AttributesTooLarge`, or a failing store.
    pub fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
        at: Timestamp,
    ) -> Result<(), TreeError> {
        self.change(ino, at, |record| put_xattr(record, name, value, mode)).map(drop)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`TreeError`]: `NotFound` (the node), `NoAttribute`, or a failing store.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8], at: Timestamp) -> Result<(), TreeError> {
        self.change(ino, at, |record| take_xattr(record, name)).map(drop)
    }

    fn change(
        &self,
        ino: Ino,
        at: Timestamp,
        change: impl FnOnce(&mut NodeRecord) -> Result<(), TreeError>,
    ) -> Result<LocalNode, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        let id = self.live_id(&mut txn, ino)?;
        let mut outcome = Ok(());
        txn.change_node(id, |record| {
            outcome = change(record);
            record.ctime = at;
        })?;
        outcome?;
        txn.journal(vec![RecordKey::Node(id)]);
        let node = txn.live(id)?.cloned().ok_or(TreeError::NotFound)?;
        self.finish(txn, at, false)?;
        Ok(node)
    }

    /// Notes that a file's bytes changed. Returns the node with its new size, or `None` if it is gone.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn content_changed(&self, id: NodeId, change: ContentChange) -> Result<Option<LocalNode>, TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        if txn.kind(id)? != Some(NodeKind::File) {
            return Ok(None);
        }
        let number = self.store.next_number()?;
        txn.change_node(id, |record| {
            record.size = change.size;
            record.mtime = change.mtime;
            record.ctime = change.ctime;
        })?;
        txn.edit_node(id, |node| node.dirty_content = Some(number))?;
        txn.journal(vec![RecordKey::Node(id)]);
        if let Some(stamp) = change.stamp {
            restamp(&self.store, &mut txn, id, stamp)?;
        }
        let node = txn.live(id)?.cloned();
        self.finish(txn, change.ctime, false)?;
        Ok(node)
    }

    /// Notes that a file's bytes are about to change, before anything else about it does: what is known of its content so far
    /// counts for nothing from now on. Does nothing if the file is gone.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn content_announced(&self, id: NodeId, at: Timestamp) -> Result<(), TreeError> {
        let _writer = self.writer.lock();
        let mut txn = Txn::new(&self.store);
        if txn.kind(id)? != Some(NodeKind::File) {
            return Ok(());
        }
        let number = self.store.next_number()?;
        txn.change_node(id, |_| {})?;
        txn.edit_node(id, |node| node.dirty_content = Some(number))?;
        txn.journal(vec![RecordKey::Node(id)]);
        self.finish(txn, at, false)
    }

    /// Marks a file as open for writing, durably: it may hold bytes that nobody noticed.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails or the disk is full.
    pub fn mark_open(&self, id: NodeId) -> Result<(), TreeError> {
        self.store.commit_growth(vec![Write::raw(Space::Opens, id.as_bytes(), Some(Vec::new()))])
    }

    /// Removes the mark of [`Self::mark_open`].
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn unmark_open(&self, id: NodeId) -> Result<(), TreeError> {
        self.store.commit(vec![Write::remove(Space::Opens, id.as_bytes())])
    }

    /// Removes the marks of many files in one batch.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn unmark_open_all(&self, ids: impl Iterator<Item = NodeId>) -> Result<(), TreeError> {
        self.store.commit(ids.map(|id| Write::remove(Space::Opens, id.as_bytes())).collect())
    }

    /// Tells whether a file has a mark of [`Self::mark_open`].
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn is_marked_open(&self, id: NodeId) -> Result<bool, TreeError> {
        Ok(self.store.read_raw(Space::Opens, id.as_bytes())?.is_some())
    }

    /// Returns the files that were marked as open for writing.
    ///
    /// # Errors
    /// [`TreeError`] when the store fails.
    pub fn open_marks(&self) -> Result<Vec<NodeId>, TreeError> {
        let mut found = Vec::new();
        self.store.each(Space::Opens, &[], |key, _| {
            let id = key.try_into().map_err(|_| TreeError::Damaged { what: "open mark" })?;
            found.push(NodeId::from_bytes(id));
            Ok(true)
        })?;
        Ok(found)
    }
}

fn restamp(
    store: &super::store::Store,
    txn: &mut Txn<'_>,
    id: NodeId,
    stamp: Stamp,
) -> Result<(), TreeError> {
    if let Some(bytes) = store.read_raw(Space::Content, id.as_bytes())? {
        let mut row: ContentState = decode("content state", &bytes)?;
        row.stamp = stamp;
        txn.extra.push(Write::put(Space::Content, id.as_bytes(), &row));
    }
    Ok(())
}

/// A directory's times follow its names. They are a change group of their own, so that a change in a
/// directory never ties its files together.
fn touch_dir(txn: &mut Txn<'_>, dir: NodeId, at: Timestamp) -> Result<(), TreeError> {
    txn.change_node(dir, |record| (record.mtime, record.ctime) = (at, at))?;
    txn.journal(vec![RecordKey::Node(dir)]);
    Ok(())
}

fn touch(txn: &mut Txn<'_>, node: NodeId, at: Timestamp) -> Result<(), TreeError> {
    txn.change_node(node, |record| record.ctime = at)?;
    txn.journal(vec![RecordKey::Node(node)]);
    Ok(())
}

fn check_replace(
    txn: &mut Txn<'_>,
    source: NodeKind,
    other: NodeId,
    other_kind: NodeKind,
) -> Result<(), TreeError> {
    match (source == NodeKind::Directory, other_kind == NodeKind::Directory) {
        (true, false) => Err(TreeError::NotDirectory),
        (false, true) => Err(TreeError::IsDirectory),
        (true, true) if !txn.is_empty(other)? => Err(TreeError::NotEmpty),
        _ => Ok(()),
    }
}

/// Removes a name, and its node with the last one; adds the node's key to the group then.
fn remove_name(
    txn: &mut Txn<'_>,
    dir: NodeId,
    name: &Name,
    id: NodeId,
    at: Timestamp,
    keys: &mut Vec<RecordKey>,
) -> Result<Removed, TreeError> {
    txn.change_link(dir, name, None)?;
    txn.change_node(id, |record| record.ctime = at)?;
    let node = txn.live(id)?.cloned().ok_or(TreeError::NotFound)?;
    let last = node.entries == 0;
    if last {
        txn.delete_node(id)?;
        keys.push(RecordKey::Node(id));
    } else {
        txn.journal(vec![RecordKey::Node(id)]);
    }
    Ok(Removed { node, last })
}

/// Sets an extended attribute of a record.
///
/// # Errors
/// [`TreeError`]: `Exists`, `NoAttribute` (what `mode` asks for), or `AttributesTooLarge`; the record is as before.
pub fn put_xattr(
    record: &mut NodeRecord,
    name: &[u8],
    value: &[u8],
    mode: XattrMode,
) -> Result<(), TreeError> {
    let old = record.xattrs.get(name);
    match mode {
        XattrMode::Create if old.is_some() => return Err(TreeError::Exists),
        XattrMode::Replace if old.is_none() => return Err(TreeError::NoAttribute),
        _ => {}
    }
    let freed = old.map_or(0, |old| name.len() + old.len());
    let total: usize = record.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
    let total = total - freed + name.len() + value.len();
    if value.len() > XATTR_VALUE_LEN_MAX || total > XATTRS_LEN_MAX {
        return Err(TreeError::AttributesTooLarge);
    }
    record.xattrs.insert(name.to_vec(), value.to_vec());
    Ok(())
}

/// Removes an extended attribute of a record.
///
/// # Errors
/// [`TreeError::NoAttribute`].
pub fn take_xattr(record: &mut NodeRecord, name: &[u8]) -> Result<(), TreeError> {
    record.xattrs.remove(name).map(drop).ok_or(TreeError::NoAttribute)
}
