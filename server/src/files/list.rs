//! Walking a volume's files in order, from anywhere on, and no further than asked.
//!
//! Directories are walked lazily, name by name: nothing is read that is not shown or passed. A cursor is the path of what
//! was passed last, so it stays good whatever is changed meanwhile; a path that ends with `/` says that a directory was
//! reached and not yet entered.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;

use dfs_shared::ids::NodeId;
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, Record, Versioned};

use super::view::{Node, View};
use super::{FilePath, FilesError, Page, announced};
use crate::limits::FILE_WALK_BATCH_LEN;

/// A directory under way.
struct Frame {
    directory: NodeId,
    /// Where to read on, in names.
    from: Vec<u8>,
    /// Only names that begin with this.
    stem: Vec<u8>,
    /// Entries that were read and not yet passed.
    read: VecDeque<Versioned>,
    is_end: bool,
}

impl Frame {
    fn new(directory: NodeId, from: Vec<u8>, stem: Vec<u8>) -> Self {
        let from = from.max(stem.clone());
        Self { directory, from, stem, read: VecDeque::new(), is_end: false }
    }

    fn next(&mut self, view: &View<'_>) -> Result<Option<Versioned>, FilesError> {
        if self.read.is_empty() && !self.is_end {
            let read = view.snapshot.entries_from(
                view.volume.key,
                self.directory,
                &self.from,
                FILE_WALK_BATCH_LEN,
            )?;
            self.is_end = read.len() < FILE_WALK_BATCH_LEN;
            if let Some(Versioned { record: Record::Entry(last), .. }) = read.last() {
                self.from = after(last.name.as_bytes());
            }
            self.read = read.into();
        }
        Ok(self.read.pop_front())
    }
}

/// The first name that can follow: no name has a NUL.
fn after(name: &[u8]) -> Vec<u8> {
    [name, b"\0"].concat()
}

/// Where a walk has come to.
pub(super) struct Walk {
    /// Names of the directories under way, one less than frames: the first frame is the prefix's directory.
    names: Vec<Name>,
    frames: Vec<Frame>,
    /// The path passed last.
    passed: Vec<u8>,
}

impl Walk {
    /// Begins behind a cursor, or at the first file whose path begins with `prefix`.
    pub(super) fn begin(view: &View<'_>, prefix: &[u8], cursor: Option<&[u8]>) -> Result<Self, FilesError> {
        let prefix = prefix.strip_prefix(b"/").unwrap_or(prefix);
        let mut walk = Self { names: Vec::new(), frames: Vec::new(), passed: Vec::new() };
        let (directories, stem) = match prefix.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (FilePath::from_bytes(&prefix[..at])?.names().to_vec(), &prefix[at + 1..]),
            None => (Vec::new(), prefix),
        };
        let Some(directory) = view.directory(&directories)? else { return Ok(walk) };
        walk.names = directories;
        let Some(cursor) = cursor else {
            walk.frames.push(Frame::new(directory, Vec::new(), stem.to_vec()));
            return Ok(walk);
        };
        let depth = walk.names.len();
        let mut names = cursor.split(|byte| *byte == b'/').skip(depth).peekable();
        let (mut directory, mut stem) = (directory, stem.to_vec());
        while let Some(name) = names.next() {
            walk.frames.push(Frame::new(directory, after(name), std::mem::take(&mut stem)));
            if names.peek().is_none() {
                break;
            }
            let name = Name::new(name).map_err(|_| FilesError::BadCursor)?;
            walk.names.push(name);
            match view.directory(&walk.names)? {
                Some(below) => directory = below,
                None => {
                    walk.names.pop();
                    break;
                }
            }
        }
        Ok(walk)
    }

    /// Returns the next entry: a file with its path, or `None` for what was passed and is none. Breaks at the end.
    pub(super) fn step(
        &mut self,
        view: &View<'_>,
    ) -> Result<ControlFlow<(), Option<(FilePath, Node)>>, FilesError> {
        loop {
            let Some(frame) = self.frames.last_mut() else { return Ok(ControlFlow::Break(())) };
            let Some(found) = frame.next(view)? else {
                self.leave();
                continue;
            };
            let Some(entry) = view.follow(found)? else { continue };
            let name = &entry.record.name;
            if !name.as_bytes().starts_with(&frame.stem) {
                self.leave();
                continue;
            }
            let mut path = self.names.clone();
            path.push(name.clone());
            let path = FilePath::from_names(path);
            self.passed = path.to_bytes();
            return Ok(ControlFlow::Continue(match entry.node.record.kind {
                NodeKind::File => Some((path, entry.node)),
                NodeKind::Directory => {
                    self.passed.push(b'/');
                    self.names.push(entry.record.name.clone());
                    self.frames.push(Frame::new(entry.node.record.id, Vec::new(), Vec::new()));
                    None
                }
                NodeKind::Symlink
                | NodeKind::Fifo
                | NodeKind::Socket
                | NodeKind::CharDevice
                | NodeKind::BlockDevice => None,
            }));
        }
    }

    fn leave(&mut self) {
        self.frames.pop();
        // The first frame has no name of its own here: it is the prefix's directory.
        if !self.frames.is_empty() {
            self.names.pop();
        }
    }

    /// Returns the path passed last, to begin behind it again.
    pub(super) fn passed(&self) -> &[u8] {
        &self.passed
    }
}

/// Gathers a page of files and announced files; looks at `visits_max` records at most, and then says where to go on.
pub(super) fn page(
    view: &View<'_>,
    prefix: &[u8],
    limit: usize,
    cursor: Option<&[u8]>,
    visits_max: usize,
) -> Result<Page, FilesError> {
    let mut walk = Walk::begin(view, prefix, cursor)?;
    let (mut files, mut visits, mut is_end) = (BTreeMap::new(), 0, false);
    while files.len() < limit && visits < visits_max && !is_end {
        visits += 1;
        match walk.step(view)? {
            ControlFlow::Continue(Some((path, node))) => drop(files.insert(path, node)),
            ControlFlow::Continue(None) => {}
            ControlFlow::Break(()) => is_end = true,
        }
    }
    let mut passed = if is_end { None } else { Some(walk.passed().to_vec()) };
    let mut announced = BTreeMap::new();
    let until = passed.as_deref().map(announced::key);
    // One more than fits tells whether there are more.
    announced::walk(view, prefix, cursor, limit + 1, &mut |path, metadata| {
        if until.as_ref().is_some_and(|until| announced::key(&metadata.name) > *until) {
            return ControlFlow::Break(());
        }
        // A file wins over what was announced at its path.
        if !files.contains_key(&path) {
            announced.insert(path, metadata);
        }
        ControlFlow::Continue(())
    })?;
    while files.len() + announced.len() > limit {
        if files.last_key_value().map(|(path, _)| path) > announced.last_key_value().map(|(path, _)| path) {
            files.pop_last();
        } else {
            announced.pop_last();
        }
        let last = files.last_key_value().map(|(path, _)| path);
        let last = last.max(announced.last_key_value().map(|(path, _)| path));
        passed = last.map(FilePath::to_bytes);
    }
    let files = files.into_iter().map(|(path, node)| view.current(path, node));
    Ok(Page {
        files: files.collect::<Result<_, _>>()?,
        announced: announced.into_values().collect(),
        cursor: passed.as_deref().map(cursor_text),
    })
}

/// Writes a cursor for the API.
pub(super) fn cursor_text(passed: &[u8]) -> String {
    passed.iter().fold(String::with_capacity(2 * passed.len()), |mut text, byte| {
        text.push_str(&format!("{byte:02x}"));
        text
    })
}

/// Reads a cursor of the same prefix.
pub(super) fn cursor_bytes(text: &str, prefix: &[u8]) -> Result<Vec<u8>, FilesError> {
    let digits = text.as_bytes();
    let byte =
        |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    let prefix = prefix.strip_prefix(b"/").unwrap_or(prefix);
    bytes
        .filter(|bytes| {
            digits.len().is_multiple_of(2)
                && digits.iter().all(u8::is_ascii_hexdigit)
                && bytes.starts_with(prefix)
        })
        .ok_or(FilesError::BadCursor)
}
