//! One pass over contents and chunks: condemn, reprieve, take.

use std::ops::ControlFlow;
use std::time::Duration;

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::record::{Record, RecordKey};
use dfs_shared::time::Timestamp;

use super::references::{References, parts};
use super::{Collector, GcError, Progress, earlier, now, open_lock};
use crate::limits::UPKEEP_PAGE_LEN;
use crate::metadata::upkeep::Kind;
use crate::metadata::{ChunkPlace, MetadataError, ReadMetadata};

/// What a pass did.
#[derive(Debug, Default)]
pub(super) struct Pass {
    pub(super) contents: u64,
    pub(super) chunks: u64,
    pub(super) bytes: u64,
    pub(super) orphans: u64,
    pub(super) waiting: u64,
    pub(super) is_held_up: bool,
    /// Another pass at once would find something to take.
    pub(super) has_more: bool,
}

/// What to do with one page.
#[derive(Debug, Default)]
struct Verdicts {
    condemn: Vec<[u8; 32]>,
    reprieve: Vec<[u8; 32]>,
    take: Vec<[u8; 32]>,
}

impl Verdicts {
    /// Decides about the hashes of a page that belong to this part. What was condemned at `taken_before` or earlier, and is not
    /// referred to, is taken: that was before the references were read, so whoever refers to it since has reprieved it. What a clock
    /// that was ahead condemned is condemned anew.
    fn of<'h>(
        snapshot: &dyn ReadMetadata,
        kind: Kind,
        page: impl Iterator<Item = &'h [u8; 32]>,
        referred: &References,
        taken_before: Timestamp,
    ) -> Result<Self, MetadataError> {
        let mut verdicts = Self::default();
        for hash in page.filter(|hash| referred.covers(hash)) {
            match (referred.contains(hash), snapshot.condemned_since(kind, hash)?) {
                (true, Some(_)) => verdicts.reprieve.push(*hash),
                (true, None) => {}
                (false, None) => verdicts.condemn.push(*hash),
                (false, Some(since)) if since <= taken_before => verdicts.take.push(*hash),
                (false, Some(since)) if since > now() => verdicts.condemn.push(*hash),
                (false, Some(_)) => {}
            }
        }
        Ok(verdicts)
    }
}

impl Collector {
    /// Looks at everything once.
    pub(super) fn pass(&self, grace: Duration, progress: &mut Progress<'_>) -> Result<Pass, GcError> {
        let mut pass = Pass::default();
        let (contents, chunks) = self.metadata.read(|snapshot| snapshot.content_counts())?;
        let count = self.parts(contents);
        for part in 0..count {
            self.pass_contents(References::new(part, count), &mut pass, progress)?;
        }
        let count = self.parts(chunks);
        for part in 0..count {
            self.pass_chunks(References::new(part, count), grace, &mut pass, progress)?;
        }
        pass.waiting = self.metadata.read(|snapshot| snapshot.condemned_count(Kind::Chunk))?;
        Ok(pass)
    }

    /// In how many parts so many hashes are looked at.
    pub(super) fn parts(&self, count: u64) -> u16 {
        parts(count, self.references_max)
    }

    /// Writes condemnations and reprieves of a page.
    fn write_verdicts(&self, kind: Kind, verdicts: &mut Verdicts) -> Result<(), GcError> {
        let condemn = std::mem::take(&mut verdicts.condemn);
        let reprieve = std::mem::take(&mut verdicts.reprieve);
        if condemn.is_empty() && reprieve.is_empty() {
            return Ok(());
        }
        let at = now();
        let written = self.metadata.write(condemn.len() + reprieve.len(), move |tx| {
            condemn.iter().try_for_each(|hash| tx.condemn(kind, hash, at))?;
            reprieve.iter().try_for_each(|hash| tx.reprieve(kind, hash))
        });
        Ok(written.wait()?)
    }

    fn pass_contents(
        &self,
        mut referred: References,
        pass: &mut Pass,
        progress: &mut Progress<'_>,
    ) -> Result<(), GcError> {
        let begun = now();
        self.read_records(&mut referred, progress)?;
        let (mut after, mut seen): (Option<ContentId>, u64) = (None, 0);
        loop {
            self.go_on()?;
            let (page, mut verdicts) = self.metadata.read(|snapshot| {
                let page = snapshot.contents_from(after.as_ref(), UPKEEP_PAGE_LEN)?;
                let hashes = page.iter().map(|(id, _)| id.as_bytes());
                let verdicts = Verdicts::of(snapshot, Kind::Content, hashes, &referred, begun)?;
                Ok((page, verdicts))
            })?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            seen += page.len() as u64;
            pass.has_more |= !verdicts.condemn.is_empty();
            self.write_verdicts(Kind::Content, &mut verdicts)?;
            let take = verdicts.take;
            progress("contents", seen);
            if take.is_empty() {
                continue;
            }
            let taken = self.metadata.write(take.len(), move |tx| {
                let mut taken = 0;
                for hash in &take {
                    taken += u64::from(tx.take_content(&ContentId::from_bytes(*hash))?);
                }
                Ok(taken)
            });
            pass.contents += taken.wait()?;
        }
    }

    /// Reads which contents records and history refer to. First the records: a reference only ever moves from there to
    /// the history, so none is missed between the pages.
    fn read_records(&self, referred: &mut References, progress: &mut Progress<'_>) -> Result<(), GcError> {
        let mut seen = 0;
        for volume in self.metadata.read(|snapshot| snapshot.volumes())? {
            let mut after: Option<RecordKey> = None;
            loop {
                self.go_on()?;
                let page = self
                    .metadata
                    .read(|snapshot| snapshot.records_from(volume.key, after.as_ref(), UPKEEP_PAGE_LEN))?;
                let Some(last) = page.last() else { break };
                after = Some(last.record.key());
                page.iter().for_each(|found| refer(&found.record, referred));
                seen += page.len() as u64;
                progress("records", seen);
            }
        }
        let mut after = 0;
        loop {
            self.go_on()?;
            let page = self.metadata.read(|snapshot| snapshot.history_from(after, UPKEEP_PAGE_LEN))?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.id;
            page.iter().for_each(|row| refer(&row.past.record, referred));
            seen += page.len() as u64;
            progress("records", seen);
        }
    }

    fn pass_chunks(
        &self,
        mut referred: References,
        grace: Duration,
        pass: &mut Pass,
        progress: &mut Progress<'_>,
    ) -> Result<(), GcError> {
        let taken_before = earlier(now(), grace);
        self.read_manifests(&mut referred, progress)?;
        let (mut after, mut seen): (Option<ChunkHash>, u64) = (None, 0);
        loop {
            self.go_on()?;
            let (page, mut verdicts) = self.metadata.read(|snapshot| {
                let page = snapshot.chunks_from(after.as_ref(), UPKEEP_PAGE_LEN)?;
                let hashes = page.iter().map(|(hash, _)| hash.as_bytes());
                let verdicts = Verdicts::of(snapshot, Kind::Chunk, hashes, &referred, taken_before)?;
                Ok((page, verdicts))
            })?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            seen += page.len() as u64;
            pass.has_more |= grace.is_zero() && !verdicts.condemn.is_empty();
            self.write_verdicts(Kind::Chunk, &mut verdicts)?;
            let take: Vec<_> =
                page.iter().filter(|(hash, _)| verdicts.take.contains(hash.as_bytes())).copied().collect();
            self.take_chunks(&take, pass)?;
            progress("chunks", seen);
        }
        self.take_orphans(&referred, pass, progress)
    }

    /// Reads which chunks the manifests refer to. Also those of condemned contents: they come first.
    fn read_manifests(&self, referred: &mut References, progress: &mut Progress<'_>) -> Result<(), GcError> {
        let (mut after, mut seen): (Option<ContentId>, u64) = (None, 0);
        loop {
            self.go_on()?;
            let page =
                self.metadata.read(|snapshot| snapshot.contents_from(after.as_ref(), UPKEEP_PAGE_LEN))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            seen += page.len() as u64;
            for (id, manifest) in page {
                let manifest = manifest.ok_or_else(|| GcError::Damaged { id: id.to_string() })?;
                manifest.chunks.iter().for_each(|chunk| referred.insert(chunk.hash.as_bytes()));
            }
            progress("manifests", seen);
        }
    }

    /// Takes condemned chunks: first the rows, durable, then the files.
    fn take_chunks(&self, take: &[(ChunkHash, ChunkPlace)], pass: &mut Pass) -> Result<(), GcError> {
        if take.is_empty() {
            return Ok(());
        }
        let lock = open_lock(&self.lock)?;
        if lock.try_lock().is_err() {
            pass.is_held_up = true;
            return Ok(());
        }
        let hashes: Vec<_> = take.iter().map(|(hash, _)| *hash).collect();
        let taken = self.metadata.write(hashes.len(), move |tx| {
            let mut taken = std::collections::BTreeSet::new();
            for hash in &hashes {
                if tx.take_chunk(hash)? {
                    taken.insert(*hash);
                }
            }
            Ok(taken)
        });
        let taken = taken.wait()?;
        for (hash, place) in take.iter().filter(|(hash, _)| taken.contains(hash)) {
            if matches!(place, ChunkPlace::Stored { .. }) {
                self.remove_file(*hash)?;
            }
            pass.chunks += 1;
            pass.bytes += place.len();
        }
        Ok(())
    }

    /// Removes a chunk's file unless an upload is bringing it, or has brought it, again.
    fn remove_file(&self, hash: ChunkHash) -> Result<bool, GcError> {
        let removed = self.claims.unless_claimed(hash, || -> Result<bool, GcError> {
            if self.metadata.read(|snapshot| snapshot.chunk_place(&hash))?.is_some() {
                return Ok(false);
            }
            self.chunks.remove(hash)?;
            Ok(true)
        });
        removed.unwrap_or(Ok(false))
    }

    /// Removes files that no row knows and no manifest names: a killed upload or collection left them.
    fn take_orphans(
        &self,
        referred: &References,
        pass: &mut Pass,
        progress: &mut Progress<'_>,
    ) -> Result<(), GcError> {
        let (mut seen, mut page, mut outcome) = (0, Vec::with_capacity(UPKEEP_PAGE_LEN), Ok(()));
        let visited = self.chunks.each(&mut |hash, len| {
            seen += 1;
            if referred.covers(hash.as_bytes()) && !referred.contains(hash.as_bytes()) {
                page.push((hash, len));
            }
            if page.len() == UPKEEP_PAGE_LEN {
                outcome = self.take_orphan_page(&mut page, pass);
                progress("files", seen);
            }
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        visited?;
        outcome?;
        self.take_orphan_page(&mut page, pass)
    }

    fn take_orphan_page(&self, page: &mut Vec<(ChunkHash, u64)>, pass: &mut Pass) -> Result<(), GcError> {
        self.go_on()?;
        let found = std::mem::take(page);
        let orphans = self.metadata.read(|snapshot| {
            let mut orphans = Vec::new();
            for (hash, len) in &found {
                if snapshot.chunk_place(hash)?.is_none() {
                    orphans.push((*hash, *len));
                }
            }
            Ok(orphans)
        })?;
        if orphans.is_empty() {
            return Ok(());
        }
        let lock = open_lock(&self.lock)?;
        if lock.try_lock().is_err() {
            pass.is_held_up = true;
            return Ok(());
        }
        for (hash, len) in orphans {
            if self.remove_file(hash)? {
                pass.orphans += 1;
                pass.bytes += len;
            }
        }
        Ok(())
    }
}

/// Notes the content that a record refers to.
fn refer(record: &Record, referred: &mut References) {
    if let Record::Node(node) = record
        && let Some(content) = node.content
    {
        referred.insert(content.as_bytes());
    }
}
