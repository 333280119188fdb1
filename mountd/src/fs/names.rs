//! Names: looking up, listing, making, linking, renaming, removing.

use dfs_shared::limits::TARGET_LEN_MAX;
use dfs_shared::name::{Name, NameError};
use dfs_shared::record::NodeKind;

use super::attributes::plain_attr;
use super::{Attr, Caller, Fs, FsError, Opened, Register, record_of};
use crate::limits::READ_DIR_BATCH;
use crate::tree::content::ContentState;
use crate::tree::namespace::{NewNode, Removed, RenameMode};
use crate::tree::{Cookie, DirEntry, Ino, LocalNode, TreeError};

/// An entry of a directory as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Where it leads.
    pub ino: Ino,
    /// What sort of node.
    pub kind: NodeKind,
    /// Position to go on after it.
    pub offset: u64,
}

/// What sort of node to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewKind<'a> {
    /// A file, directory, fifo or socket.
    Plain(NodeKind),
    /// A device, with its number.
    Device(NodeKind, u32),
    /// A symlink to this target.
    Symlink(&'a [u8]),
}

/// Positions of `.` and `..`; the tree's start at 16.
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;
const SET_GROUP_ID: u32 = 0o2000;

fn check_name(bytes: &[u8]) -> Result<Name, FsError> {
    Name::new(bytes).map_err(|error| match error {
        NameError::TooLong { .. } => FsError::NameTooLong,
        NameError::Empty | NameError::Reserved => FsError::Invalid,
    })
}

impl Fs {
    /// Returns what a name leads to, for `caller` to keep; `None` if nothing. Of anything, `.` is itself, and `..` of a directory the
    /// one that holds it: the kernel asks for them when all that it has is a file handle (`open_by_handle_at`, NFS).
    ///
    /// # Errors
    /// [`FsError`]: `NameTooLong`, `NotFound` (the directory), or a failing tree or disk.
    pub fn lookup(&self, parent: Ino, name: &[u8], caller: Caller) -> Result<Option<Attr>, FsError> {
        if matches!(name, b"." | b"..") {
            return self.lookup_dots(parent, name.len(), caller);
        }
        let name = check_name(name)?;
        self.steady(|| match self.tree.lookup(parent, &name) {
            Ok(Some(node)) => {
                self.touched.looked_up(parent);
                self.answers.tell(node.ino, caller.thread);
                self.attr(node.ino).map(Some)
            }
            Ok(None) => Ok(None),
            // A removed directory that somebody is still in has no names.
            Err(TreeError::NotFound) if self.orphans.lock().contains_key(&parent) => Ok(None),
            Err(error) => Err(error.into()),
        })
    }

    fn lookup_dots(&self, of: Ino, dots: usize, caller: Caller) -> Result<Option<Attr>, FsError> {
        self.steady(|| {
            let Some(node) = self.tree.node(of)? else { return Ok(None) };
            let up = if dots == 1 { Some(node) } else { self.tree.node_by_id(node.parent)? };
            let Some(found) = up.filter(|found| found.live().is_some()) else { return Ok(None) };
            self.answers.tell(found.ino, caller.thread);
            self.attr(found.ino).map(Some)
        })
    }

    /// Gives the entries after position `offset` to `each`, until it returns `false`.
    ///
    /// # Errors
    /// [`FsError`]: `NotFound`, or a failing tree.
    pub fn read_dir(
        &self,
        ino: Ino,
        offset: u64,
        mut each: impl FnMut(&Entry<'_>) -> Result<bool, FsError>,
    ) -> Result<(), FsError> {
        self.answers.list(ino);
        let dir = self.node(ino)?;
        if record_of(&dir)?.kind != NodeKind::Directory {
            return Err(TreeError::NotDirectory.into());
        }
        let parent = self.tree.node_by_id(dir.parent)?.map_or(ino, |parent| parent.ino);
        for (at, name, ino) in [(DOT, &b"."[..], ino), (DOT_DOT, b"..", parent)] {
            let entry = Entry { name, ino, kind: NodeKind::Directory, offset: at };
            if offset < at && !each(&entry)? {
                return Ok(());
            }
        }
        let mut after = Cookie(offset.max(DOT_DOT));
        loop {
            let batch = self.tree.read_dir(dir.id, after, READ_DIR_BATCH)?;
            let is_last = batch.len() < READ_DIR_BATCH;
            for DirEntry { name, target } in batch {
                after = target.cookie;
                let entry = Entry {
                    name: name.as_bytes(),
                    ino: target.ino,
                    kind: target.kind,
                    offset: target.cookie.0,
                };
                if !each(&entry)? {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Returns a symlink's target.
    ///
    /// # Errors
    /// [`FsError`]: `NotFound`, `Invalid` (no symlink), or a failing tree.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let node = self.node(ino)?;
        let record = record_of(&node)?;
        if record.kind == NodeKind::Symlink { Ok(record.target.clone()) } else { Err(FsError::Invalid) }
    }

    /// Makes a node that is not opened.
    ///
    /// # Errors
    /// [`FsError`]: `ReadOnly`, `NameTooLong`, `Tree` (`Exists`, `NotFound`, `NoSpace`, …).
    pub fn make(
        &self,
        parent: Ino,
        name: &[u8],
        kind: &NewKind<'_>,
        mode: u32,
        caller: Caller,
    ) -> Result<Attr, FsError> {
        let (kind, rdev, target) = match kind {
            NewKind::Plain(kind) => (*kind, 0, Vec::new()),
            NewKind::Device(kind, rdev) => (*kind, *rdev, Vec::new()),
            NewKind::Symlink(target) if target.len() > TARGET_LEN_MAX => return Err(FsError::NameTooLong),
            NewKind::Symlink(target) => (NodeKind::Symlink, 0, target.to_vec()),
        };
        plain_attr(&self.make_node(parent, name, (kind, rdev, target), mode, caller, None)?)
    }

    fn make_node(
        &self,
        parent: Ino,
        name: &[u8],
        (kind, rdev, target): (NodeKind, u32, Vec<u8>),
        mode: u32,
        caller: Caller,
        opened: Option<ContentState>,
    ) -> Result<LocalNode, FsError> {
        self.check_writable()?;
        let name = check_name(name)?;
        let dir = self.tree.node(parent)?.ok_or(FsError::NotFound)?;
        let dir = record_of(&dir)?;
        let (mut gid, mut mode) = (caller.gid, mode & 0o7777);
        if dir.mode & SET_GROUP_ID != 0 {
            gid = dir.gid;
            if kind == NodeKind::Directory {
                mode |= SET_GROUP_ID;
            }
        }
        let (uid, at, is_opened) = (caller.uid, self.now(), opened.is_some());
        let new = NewNode { kind, mode, uid, gid, rdev, target, at, opened: is_opened, content: opened };
        let node = self.tree.create(parent, &name, new)?;
        self.names_changed(parent, kind, caller);
        Ok(node)
    }

    /// Makes and opens a file; opens the one that is there already unless `O_EXCL` is set. Blocks on the disk.
    ///
    /// # Errors
    /// [`FsError`]: as [`Self::make`] and [`Self::open`].
    pub fn create(
        &self,
        parent: Ino,
        name: &[u8],
        mode: u32,
        flags: i32,
        caller: Caller,
        register: Register<'_>,
    ) -> Result<(Attr, Opened), FsError> {
        let kind = (NodeKind::File, 0, Vec::new());
        self.check_writable()?;
        let bytes = self.cache.prepare()?;
        let row = Some(bytes.row().clone());
        match self.make_node(parent, name, kind, mode, caller, row) {
            Ok(node) => match self.open_created(parent, &node, &bytes.attach(node.id), flags, register) {
                Ok(opened) => Ok((plain_attr(&node)?, opened)),
                Err(error) => {
                    // Nobody has seen the name yet.
                    if let Err(undo) = self.unlink(parent, name, caller) {
                        tracing::warn!(%undo, "a file without bytes stays");
                    }
                    Err(error)
                }
            },
            Err(FsError::Tree(TreeError::Exists)) if flags & libc::O_EXCL == 0 => {
                let attr = self.lookup(parent, name, caller)?.ok_or(FsError::NotFound)?;
                let opened = self.open(attr.ino, flags, caller, register)?;
                Ok((self.getattr(attr.ino, caller)?, opened))
            }
            Err(error) => Err(error),
        }
    }

    /// Gives a node another name.
    ///
    /// # Errors
    /// [`FsError`]: `ReadOnly`, `NameTooLong`, `Tree` (`Exists`, `NotFound`, `TooManyLinks`, …).
    pub fn link(&self, ino: Ino, parent: Ino, name: &[u8], caller: Caller) -> Result<Attr, FsError> {
        self.check_writable()?;
        self.notice_before_naming(ino)?;
        let node = self.tree.link(ino, parent, &check_name(name)?, self.now())?;
        self.names_changed(parent, NodeKind::File, caller);
        self.attributes_changed(node.ino);
        self.getattr(node.ino, caller)
    }

    /// Removes a name that leads to no directory.
    ///
    /// # Errors
    /// [`FsError`]: `ReadOnly`, `NameTooLong`, `Tree` (`NotFound`, `IsDirectory`).
    pub fn unlink(&self, parent: Ino, name: &[u8], caller: Caller) -> Result<(), FsError> {
        self.check_writable()?;
        let removed = self.tree.unlink(parent, &check_name(name)?, self.now())?;
        self.names_changed(parent, NodeKind::File, caller);
        self.after_removal(removed);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`FsError`]: `ReadOnly`, `NameTooLong`, `Tree` (`NotFound`, `NotDirectory`, `NotEmpty`).
    pub fn rmdir(&self, parent: Ino, name: &[u8], caller: Caller) -> Result<(), FsError> {
        self.check_writable()?;
        let removed = self.tree.rmdir(parent, &check_name(name)?, self.now())?;
        self.names_changed(parent, NodeKind::Directory, caller);
        self.after_removal(removed);
        Ok(())
    }

    /// Moves a name.
    ///
    /// # Errors
    /// [`FsError`]: `ReadOnly`, `NameTooLong`, `Tree` (what `rename(2)` names).
    pub fn rename(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        mode: RenameMode,
        caller: Caller,
    ) -> Result<(), FsError> {
        self.check_writable()?;
        let (from_name, to_name) = (check_name(from.1)?, check_name(to.1)?);
        if !self.open_files.lock().is_empty()
            && let Some(node) = self.tree.lookup(from.0, &from_name)?
        {
            self.notice_before_naming(node.ino)?;
        }
        let removed = self.tree.rename((from.0, &from_name), (to.0, &to_name), mode, self.now())?;
        let exchanged = (mode == RenameMode::Exchange).then_some((from.0, &from_name));
        let mut kind = NodeKind::File;
        for (dir, name) in [(to.0, &to_name)].into_iter().chain(exchanged) {
            if let Ok(Some(moved)) = self.tree.lookup(dir, name) {
                self.attributes_changed(moved.ino);
                if moved.live().is_none_or(|record| record.kind == NodeKind::Directory) {
                    kind = NodeKind::Directory;
                }
            }
        }
        self.names_changed(from.0, kind, caller);
        if to.0 != from.0 {
            self.names_changed(to.0, kind, caller);
        }
        if let Some(removed) = removed {
            self.after_removal(removed);
        }
        Ok(())
    }

    /// A file is saved by writing another one and renaming it: its bytes come before its name, also if they were written a moment ago.
    fn notice_before_naming(&self, ino: Ino) -> Result<(), FsError> {
        if self.open_file(ino).is_none() {
            return Ok(());
        }
        let _hold = self.hold.read();
        self.notice_open(ino)
    }

    /// The kernel knows a node that lost its last name until it says otherwise; its bytes stay for open handles.
    fn after_removal(&self, removed: Removed) {
        if !removed.last {
            return;
        }
        let Removed { node, .. } = removed;
        let ino = node.ino;
        let is_file = node.live().is_some_and(|record| record.kind == NodeKind::File);
        let orphan = LocalNode { entries: 0, ..node.clone() };
        self.orphans.lock().insert(ino, orphan);
        if is_file && self.cache.discard(&node) && self.open_file(ino).is_none() {
            // Only the sweeper holds its bytes: their room comes back now.
            self.bell.ring();
        }
        self.versions.lock().outdate(ino);
    }

    /// The kernel has let go of a node. It says so late: somebody may have looked it up and opened it again meanwhile.
    pub fn forget(&self, ino: Ino) {
        if self.open_file(ino).is_some() {
            return;
        }
        self.orphans.lock().remove(&ino);
        self.versions.lock().drop_inode(ino);
    }
}
