//! Puts fetched chunks into a backing file, and hands files out to be hashed.
//!
//! A fill starts from what is here of the old version: chunks at the same place stay where they are; if some
//! moved, a new file is made of them. The row says which ranges are there before anything is overwritten.
//!
//! Invariant: a range that is present, also one that was written locally meanwhile, is never overwritten.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::{ChunkRef, Manifest};
use parking_lot::Mutex;

use super::backing::Inner;
use super::copy::{copy_range, fallocate};
use super::files::{same_bytes, stamp_of};
use super::ranges::RangeSet;
use super::{Backing, Cache, CacheError};
use crate::limits::FILL_UNSAVED_MAX;
use crate::tree::content::{ContentState, Place, Present, Stamp};

/// A file that is being filled with fetched chunks. Several may fill one file at the same time.
pub struct Filler {
    backing: Arc<Backing>,
    manifest: Manifest,
    unsaved: Mutex<u64>,
}

/// A whole file to be chunked and hashed.
pub struct HashSource {
    /// The bytes; to be read with positions of one's own (`read_at`).
    pub file: Arc<File>,
    /// Length in bytes.
    pub size: u64,
    /// Number of the change to give to `Tree::set_contents`; `None` if the tree knows the content.
    pub number: Option<u64>,
    stamp: Stamp,
}

impl HashSource {
    /// Tells whether the file stood still since it was handed out: otherwise what was read may be torn.
    #[must_use]
    pub fn stood_still(&self) -> bool {
        stamp_of(&self.file).is_ok_and(|now| same_bytes(&now, &self.stamp))
    }
}

impl Cache {
    /// Hands out a file to be hashed. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError`]: `Partial` when bytes have to be fetched first, `Changed` when the file changed without the tree
    /// knowing (notice it first), `NotFound`, or a failing disk or tree.
    pub fn open_for_hash(self: &Arc<Self>, node: NodeId) -> Result<HashSource, CacheError> {
        let node = self.tree.node_by_id(node)?.ok_or(CacheError::NotFound)?;
        let backing = self.backing(&node)?;
        if !backing.is_whole() {
            return Err(CacheError::Partial);
        }
        let file = backing.file()?;
        let stamp = backing.stamp(&backing.inner.lock())?;
        let told = self.tree.content_state(node.id)?;
        if told.is_none_or(|row| row.file != backing.id() || !same_bytes(&row.stamp, &stamp)) {
            return Err(CacheError::Changed);
        }
        Ok(HashSource { file, size: stamp.size, number: node.dirty_content, stamp })
    }

    /// Tells whether bytes of a file are here.
    ///
    /// # Errors
    /// [`CacheError`]: `NotFound`, or a failing tree.
    pub fn is_present(self: &Arc<Self>, node: NodeId, range: &Range<u64>) -> Result<bool, CacheError> {
        let node = self.tree.node_by_id(node)?.ok_or(CacheError::NotFound)?;
        Ok(self.backing(&node)?.has(range))
    }

    /// Takes a whole content that came with its record. Returns `false`, having done nothing, if something is here already: then
    /// [`Self::begin_fill`] sorts it out. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn put_small(
        self: &Arc<Self>,
        node: NodeId,
        manifest: &Manifest,
        bytes: &[u8],
    ) -> Result<bool, CacheError> {
        if self.tree.content_state(node)?.is_some() {
            return Ok(false);
        }
        let (place, id) = (Place::Cache, self.next_file()?);
        let failed = |source| CacheError::Io { action: "fill", path: self.dirs.path(place, id), source };
        let file = self.dirs.create(place, id)?;
        let stamp = match file.write_all_at(bytes, 0).and_then(|()| stamp_of(&file)) {
            Ok(stamp) => stamp,
            Err(error) => {
                self.throw_away(place, id);
                return Err(failed(error));
            }
        };
        let content = Some(manifest.id());
        let row = ContentState { file: id, place, content, present: Present::All, stamp };
        // Held until the row is there: who asks for the bytes meanwhile would make a file of their own.
        let live = self.live.lock();
        let is_free = live.get(&node).is_none_or(|backing| backing.strong_count() == 0);
        let done = is_free && self.tree.put_content(node, manifest, &row)?;
        drop(live);
        if done {
            self.account(0, stamp.blocks);
            self.used_now(node);
        } else {
            self.throw_away(place, id);
        }
        Ok(done)
    }

    /// Prepares a file to take the chunks of `manifest`, and remembers the manifest in the tree. Does not overwrite
    /// the manifest before it has used the old one, so do not call `Tree::put_manifest` before. Blocks on the disk.
    ///
    /// # Errors
    /// [`CacheError`]: `Changed` when the file has another content now, `NotFound`, or a failing disk or tree.
    pub fn begin_fill(self: &Arc<Self>, node: NodeId, manifest: &Manifest) -> Result<Filler, CacheError> {
        let content = Some(manifest.id());
        let found = self.tree.node_by_id(node)?;
        let Some((node, record)) = found.as_ref().and_then(|found| Some((found, found.live()?))) else {
            return self.fill_orphan(node, manifest);
        };
        if node.dirty_content.is_none() && record.content != content {
            return Err(CacheError::Changed);
        }
        let backing = self.backing(node)?;
        let mut inner = backing.inner.lock();
        if inner.content != content && !(backing.is_whole() && inner.stored) {
            return Err(CacheError::Changed);
        }
        if !inner.stored && !backing.is_whole() {
            let old = self.tree.content_state(node.id)?;
            let known = self.tree.manifest(node.id)?;
            let old = old.zip(known).filter(|(row, (id, _))| row.content == Some(*id));
            match old {
                Some((row, (_, old))) => backing.start_from(&mut inner, &row, &old, manifest)?,
                None => backing.mark_holes(&mut inner, manifest)?,
            }
            self.tree.put_manifest(node.id, manifest)?;
        } else if !backing.is_whole() {
            // The file was made before anybody knew where its holes are: to be written, or to be looked at.
            backing.mark_holes(&mut inner, manifest)?;
        }
        drop(inner);
        backing.use_it();
        Ok(Filler { backing, manifest: manifest.clone(), unsaved: Mutex::new(0) })
    }
}

impl Cache {
    /// As [`Cache::begin_fill`] for a node that is gone while somebody reads it.
    fn fill_orphan(&self, node: NodeId, manifest: &Manifest) -> Result<Filler, CacheError> {
        let backing = self.orphan(node).ok_or(CacheError::NotFound)?;
        let mut inner = backing.inner.lock();
        if inner.content != Some(manifest.id()) {
            return Err(CacheError::Changed);
        }
        backing.mark_holes(&mut inner, manifest)?;
        drop(inner);
        backing.use_it();
        Ok(Filler { backing, manifest: manifest.clone(), unsaved: Mutex::new(0) })
    }
}

/// Where the old version has each chunk.
fn places(manifest: &Manifest, present: &Present) -> HashMap<ChunkHash, u64> {
    let there = match present {
        Present::All => None,
        Present::Ranges(ranges) => Some(RangeSet::from_ranges(ranges)),
    };
    let here = |at: u64, len: u64| there.as_ref().is_none_or(|there| there.contains(&(at..at + len)));
    let chunks = manifest.offsets().filter(|(at, chunk)| !chunk.hash.is_hole() && here(*at, chunk.len));
    chunks.map(|(at, chunk)| (chunk.hash, at)).collect()
}

impl Backing {
    /// Notes where no bytes are to be fetched: in holes, as a file that was not written there reads as zeros, and behind the end of
    /// what the server has, where a file may have grown here before that could be noted.
    fn mark_holes(&self, inner: &mut Inner, manifest: &Manifest) -> Result<(), CacheError> {
        // Only the file itself tells its length and its stamp.
        self.open_file(inner)?;
        let size = self.stamp(inner)?.size;
        let holes = manifest.offsets().filter(|(_, chunk)| chunk.hash.is_hole());
        let holes = holes.map(|(at, chunk)| at..at.saturating_add(chunk.len).min(size));
        let mut found = false;
        for hole in holes.chain(std::iter::once(manifest.size()..size)).filter(|hole| !hole.is_empty()) {
            found |= !inner.present.contains(&hole);
            inner.present.insert(hole);
        }
        if found { self.save_fill(inner) } else { Ok(()) }
    }

    /// Starts with what the old version has of `manifest`.
    fn start_from(
        &self,
        inner: &mut Inner,
        row: &ContentState,
        old: &Manifest,
        manifest: &Manifest,
    ) -> Result<(), CacheError> {
        let places = places(old, &row.present);
        let (mut same, mut moved) = (RangeSet::default(), Vec::new());
        // A chunk may stand at several places of the old version, of which the map knows one.
        let at_place: HashMap<u64, ChunkRef> = old.offsets().collect();
        for (at, chunk) in manifest.offsets().filter(|(_, chunk)| !chunk.hash.is_hole()) {
            if at_place.get(&at) == Some(&chunk) && places.contains_key(&chunk.hash) {
                same.insert(at..at + chunk.len);
            } else if let Some(from) = places.get(&chunk.hash) {
                moved.push((*from, at, chunk.len));
            }
        }
        if let Present::Ranges(ranges) = &row.present {
            let there = RangeSet::from_ranges(ranges);
            same = RangeSet::from_ranges(
                &same.as_slice().iter().filter(|range| there.contains(range)).cloned().collect::<Vec<_>>(),
            );
        }
        let Some((file, place)) = self.cache.dirs.find(row.place, row.file)? else {
            return self.mark_holes(inner, manifest);
        };
        let unchanged = |file: &File| stamp_of(file).is_ok_and(|now| same_bytes(&now, &row.stamp));
        if row.present == Present::All && !unchanged(&file) {
            // Somebody who has the old version open wrote to it.
            return self.mark_holes(inner, manifest);
        }
        if moved.is_empty() && !self.cache.is_held(row.file) {
            inner.place = place;
            return self.start_in_place(inner, row, file, same, manifest);
        }
        moved.extend(same.as_slice().iter().map(|range| (range.start, range.start, range.end - range.start)));
        let new = self.cache.dirs.create(inner.place, self.id())?;
        new.set_len(inner.size).map_err(|source| self.failed("extend", inner, source))?;
        for (from, to, len) in moved {
            copy_range(&file, from..from + len, &new, to)
                .map_err(|source| self.failed("copy", inner, source))?;
            inner.present.insert(to..to + len);
        }
        if row.present == Present::All && !unchanged(&file) {
            inner.present = RangeSet::default();
        }
        for (at, chunk) in manifest.offsets().filter(|(_, chunk)| chunk.hash.is_hole()) {
            inner.present.insert(at..at + chunk.len);
        }
        inner.file = Some(Arc::new(new));
        let size = inner.size;
        if inner.present.contains(&(0..size)) {
            self.set_whole();
        }
        self.store_row(inner)
    }

    fn start_in_place(
        &self,
        inner: &mut Inner,
        row: &ContentState,
        file: File,
        same: RangeSet,
        manifest: &Manifest,
    ) -> Result<(), CacheError> {
        self.take_over(row.file);
        inner.present = same;
        inner.counted = row.stamp.blocks;
        inner.file = Some(Arc::new(file));
        // From here on a crash leaves a partial file of the new version.
        self.store_row(inner)?;
        let file = self.open_file(inner)?;
        let size = inner.size;
        file.set_len(size).map_err(|source| self.failed("resize", inner, source))?;
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        for (at, chunk) in manifest.offsets().filter(|(_, chunk)| chunk.hash.is_hole()) {
            fallocate(&file, punch, at, chunk.len).map_err(|source| self.failed("punch", inner, source))?;
            inner.present.insert(at..at + chunk.len);
        }
        self.save_fill(inner)
    }

    /// Writes down what has been fetched.
    fn save_fill(&self, inner: &mut Inner) -> Result<(), CacheError> {
        self.open_file(inner)?;
        let stamp = self.stamp(inner)?;
        if inner.present.contains(&(0..stamp.size)) {
            self.set_whole();
        }
        let whole = self.is_whole();
        let ranges = inner.present.as_slice().to_vec();
        let touched = inner.touched;
        self.update_row(inner, |row| {
            row.present = if whole { Present::All } else { Present::Ranges(ranges) };
            if !touched {
                row.stamp = stamp;
            }
        })?;
        self.count(inner, stamp.blocks);
        Ok(())
    }

    fn set_whole(&self) {
        self.whole_flag().store(true, Ordering::Release);
    }
}

impl Filler {
    /// Returns the chunks that are not (wholly) here, with their offsets, in order.
    #[must_use]
    pub fn missing(&self) -> Vec<(u64, ChunkRef)> {
        if self.backing.is_whole() {
            return Vec::new();
        }
        let inner = self.backing.inner.lock();
        let size = self.backing.stamp(&inner).map_or(0, |stamp| stamp.size);
        let absent = |at: u64, len: u64| at < size && !inner.present.contains(&(at..(at + len).min(size)));
        self.manifest
            .offsets()
            .filter(|(at, chunk)| !chunk.hash.is_hole() && absent(*at, chunk.len))
            .collect()
    }

    /// Puts bytes of the content at `offset`; what is here already is left alone. They count as here at once, and
    /// after a crash once they were written down: every few megabytes, by [`Self::save`], and when the file is whole.
    ///
    /// # Errors
    /// [`CacheError`]: `Changed` when the file has another content now, or a failing disk or tree.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), CacheError> {
        let backing = &self.backing;
        let mut inner = backing.inner.lock();
        if backing.is_whole() {
            return Ok(());
        }
        if backing.is_replaced(&inner) || inner.content != Some(self.manifest.id()) {
            return Err(CacheError::Changed);
        }
        let file = backing.open_file(&mut inner)?;
        let size = backing.stamp(&inner)?.size;
        let range = offset..(offset + bytes.len() as u64).min(size);
        for gap in inner.present.missing(&range) {
            let part = &bytes[in_memory(gap.start - offset)..in_memory(gap.end - offset)];
            file.write_all_at(part, gap.start).map_err(|source| backing.failed("fill", &inner, source))?;
        }
        inner.present.insert(range);
        let mut unsaved = self.unsaved.lock();
        *unsaved += bytes.len() as u64;
        if *unsaved >= FILL_UNSAVED_MAX || inner.present.contains(&(0..size)) {
            *unsaved = 0;
            backing.save_fill(&mut inner)?;
        }
        Ok(())
    }

    /// Writes down what has been fetched, so that it is here after a crash.
    ///
    /// # Errors
    /// [`CacheError`] when the disk or the tree fails.
    pub fn save(&self) -> Result<(), CacheError> {
        let mut inner = self.backing.inner.lock();
        let unsaved = std::mem::take(&mut *self.unsaved.lock());
        if unsaved == 0 {
            return Ok(());
        }
        self.backing.save_fill(&mut inner)
    }

    /// Tells whether the whole file is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.backing.is_whole()
    }
}

/// Offsets into a slice fit `usize`.
fn in_memory(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

impl Drop for Filler {
    fn drop(&mut self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "fetched bytes will be fetched again after a restart");
        }
        self.backing.unuse();
    }
}
