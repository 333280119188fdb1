//! Which chunk files were verified, so that a chunk can be sent from its file without reading it each time.
//!
//! A file is known by inode, length and both times of its last change. Every write changes these, but the clock behind them
//! ticks a few times in a hundredth of a second only: a file that was changed a moment ago is verified and not remembered.
//! What rots below the file system changes none of them, so what is remembered also has an end.
//!
//! What this process wrote was hashed on its way in and is remembered as soon as it is durable. It need not rest: it is dated
//! back before it gets its name, so the first write to it moves its time however soon it comes.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use dfs_shared::hash::ChunkHash;
use dfs_shared::limits::CHUNK_LEN_MAX;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::limits;

/// What tells that a file is the one that was looked at, unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Tells whether the bytes are the same. The time of the last change does not count: it also moves when the chunk is put
    /// again and this file loses its name.
    fn has_bytes_of(&self, other: &Self) -> bool {
        (self.inode, self.len, self.modified) == (other.inode, other.len, other.modified)
    }

    /// Tells whether a write from now on gets another time for sure: the last one was this long ago.
    fn rests_for(&self, rest: Duration) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nanoseconds = u32::try_from(self.changed.1).unwrap_or(0);
        let changed = u64::try_from(self.changed.0).map(|seconds| Duration::new(seconds, nanoseconds));
        changed.is_ok_and(|changed| now > changed.saturating_add(rest))
    }
}

/// A verified chunk as an open file.
#[derive(Debug)]
pub struct ChunkFile {
    file: File,
    stamp: Stamp,
    open: Arc<AtomicUsize>,
}

impl ChunkFile {
    /// Returns the chunk's length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.stamp.len
    }

    /// Tells whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stamp.len == 0
    }

    /// Tells whether nobody has written to the file since it was verified.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        Stamp::of(&self.file).is_ok_and(|stamp| stamp.has_bytes_of(&self.stamp))
    }
}

impl AsFd for ChunkFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for ChunkFile {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The files that were verified, and how many are open.
#[derive(Debug)]
pub(super) struct Verified {
    known: Mutex<Known>,
    open: Arc<AtomicUsize>,
    rest: Duration,
}

#[derive(Debug, Default)]
struct Known {
    files: HashMap<ChunkHash, (Stamp, Instant)>,
    /// Files that this process wrote and that are not durable yet.
    written: Vec<(ChunkHash, Stamp)>,
    /// How often making files durable has failed.
    failures: u64,
}

/// Files that are being made durable.
#[derive(Debug)]
pub(super) struct Syncing {
    written: Vec<(ChunkHash, Stamp)>,
    failures: u64,
}

impl Default for Verified {
    fn default() -> Self {
        let rest = Duration::from_secs(limits::CHUNK_SETTLED_S);
        Self { known: Mutex::default(), open: Arc::default(), rest }
    }
}

/// Gives a file that was written a moment ago, and that nobody else knows, a time that no later write gives it.
pub(super) fn date_back(file: &File) -> io::Result<SystemTime> {
    let dated = SystemTime::now() - Duration::from_secs(limits::CHUNK_DATED_BACK_S);
    file.set_modified(dated).map(|()| dated)
}

/// How a file came out.
#[derive(Debug)]
pub(super) enum Opened {
    Good(ChunkFile),
    Damaged,
    /// Too many are open.
    Busy,
}

impl Verified {
    /// Opens a chunk's file and verifies it if it has to be.
    pub(super) fn open(
        &self,
        hash: ChunkHash,
        open: impl FnOnce() -> io::Result<File>,
    ) -> io::Result<Opened> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= limits::CHUNK_FILES_OPEN_MAX {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Ok(Opened::Busy);
        }
        // From here on dropping the file counts it as closed.
        let counted = |file, stamp| ChunkFile { file, stamp, open: Arc::clone(&self.open) };
        let looked_at = open().and_then(|file| Stamp::of(&file).map(|stamp| (file, stamp)));
        let chunk = match looked_at {
            Ok((file, stamp)) => counted(file, stamp),
            Err(error) => {
                self.open.fetch_sub(1, Ordering::Relaxed);
                return Err(error);
            }
        };
        if self.knows(hash, chunk.stamp) {
            return Ok(Opened::Good(chunk));
        }
        self.known.lock().files.remove(&hash);
        // Before it is read: a write from here on has to show.
        let settled = chunk.stamp.rests_for(self.rest);
        if hash_of(&chunk)? != Some(hash) || !chunk.is_unchanged() {
            return Ok(Opened::Damaged);
        }
        if settled {
            self.remember(hash, chunk.stamp);
        }
        Ok(Opened::Good(chunk))
    }

    /// Tells whether some file was verified lately as this chunk's.
    pub(super) fn is_remembered(&self, hash: ChunkHash) -> bool {
        self.known.lock().lately(hash).is_some()
    }

    fn knows(&self, hash: ChunkHash, stamp: Stamp) -> bool {
        self.known.lock().lately(hash) == Some(stamp)
    }

    fn remember(&self, hash: ChunkHash, stamp: Stamp) {
        self.known.lock().remember(hash, stamp);
    }

    #[cfg(test)]
    pub(super) fn is_known(&self, hash: ChunkHash, file: &File) -> bool {
        self.knows(hash, Stamp::of(file).unwrap())
    }

    /// Takes a file that this process wrote, dated back and gave the chunk's name. Nothing is taken that was touched since.
    pub(super) fn wrote(&self, hash: ChunkHash, len: u64, file: &File, dated: SystemTime) {
        let Ok(dated) = dated.duration_since(SystemTime::UNIX_EPOCH) else { return };
        let Ok(stamp) = Stamp::of(file) else { return };
        let kept = (i64::try_from(dated.as_secs()).unwrap_or(0), i64::from(dated.subsec_nanos()));
        let mut known = self.known.lock();
        // A file system whose times are coarser has kept another one: then it is hashed like any file.
        if (stamp.len, stamp.modified) == (len, kept) && known.written.len() < limits::CHUNKS_VERIFIED_MAX {
            known.written.push((hash, stamp));
        }
    }

    /// Begins to make durable what was written up to now.
    pub(super) fn syncing(&self) -> Syncing {
        let mut known = self.known.lock();
        Syncing { written: std::mem::take(&mut known.written), failures: known.failures }
    }

    /// Takes how that ended. After a failure nothing is known any more: the system tells of it once, whoever's bytes were lost,
    /// and memory may still hold what the disk does not.
    pub(super) fn synced(&self, syncing: Syncing, is_durable: bool) {
        let mut known = self.known.lock();
        if !is_durable {
            known.failures += 1;
            known.files.clear();
        } else if known.failures == syncing.failures {
            for (hash, stamp) in syncing.written {
                known.remember(hash, stamp);
            }
        }
    }
}

impl Known {
    fn lately(&self, hash: ChunkHash) -> Option<Stamp> {
        let (stamp, at) = self.files.get(&hash)?;
        (at.elapsed() < Duration::from_secs(limits::CHUNK_VERIFIED_S_MAX)).then_some(*stamp)
    }

    fn remember(&mut self, hash: ChunkHash, stamp: Stamp) {
        if self.files.len() >= limits::CHUNKS_VERIFIED_MAX {
            // Any half may go: what is still asked for is soon known again.
            let mut keeps = false;
            self.files.retain(|_, _| {
                keeps = !keeps;
                keeps
            });
        }
        self.files.insert(hash, (stamp, Instant::now()));
    }
}

/// Returns the hash of a file's bytes; `None` for one that is no chunk by its length.
fn hash_of(chunk: &ChunkFile) -> io::Result<Option<ChunkHash>> {
    if chunk.len() > CHUNK_LEN_MAX {
        return Ok(None);
    }
    let mut hasher = Sha256::new();
    let mut piece = vec![0; limits::CHUNK_PIECE_LEN];
    let mut at = 0;
    while at < chunk.len() {
        match chunk.file.read_at(&mut piece, at) {
            Ok(0) => return Ok(None),
            Ok(len) => {
                hasher.update(&piece[..len]);
                at += len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(ChunkHash::from_bytes(hasher.finalize().into())))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A chunk's file, and what was verified; files count as settled at once.
    struct Rig {
        _dir: tempfile::TempDir,
        path: PathBuf,
        verified: Verified,
    }

    const BYTES: &[u8] = b"the bytes of a chunk";

    fn rig() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chunk");
        std::fs::write(&path, BYTES).unwrap();
        Rig { _dir: dir, path, verified: Verified { rest: Duration::ZERO, ..Verified::default() } }
    }

    impl Rig {
        fn open(&self) -> Opened {
            self.verified.open(ChunkHash::of(BYTES), || File::open(&self.path)).unwrap()
        }

        fn stamp(&self) -> Stamp {
            Stamp::of(&File::open(&self.path).unwrap()).unwrap()
        }

        /// Writes in place until it shows in the file's times.
        fn write_in_place(&self, bytes: &[u8]) {
            let before = self.stamp();
            while self.stamp() == before {
                File::options().write(true).open(&self.path).unwrap().write_all_at(bytes, 0).unwrap();
            }
        }

        fn is_known(&self) -> bool {
            self.verified.knows(ChunkHash::of(BYTES), self.stamp())
        }
    }

    fn later_than_the_last_change(rig: &Rig) {
        while !rig.stamp().rests_for(Duration::ZERO) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn a_verified_file_is_remembered_until_somebody_writes_to_it() {
        let rig = rig();
        later_than_the_last_change(&rig);
        assert!(!rig.is_known());
        let Opened::Good(file) = rig.open() else { panic!("it is good") };
        assert!(rig.is_known() && file.is_unchanged());
        rig.write_in_place(b"The");
        assert!(!rig.is_known() && !file.is_unchanged());
        assert!(matches!(rig.open(), Opened::Damaged));
        rig.write_in_place(b"the");
        assert!(matches!(rig.open(), Opened::Good(_)));
    }

    #[test]
    fn a_file_of_another_length_is_damaged() {
        let rig = rig();
        later_than_the_last_change(&rig);
        assert!(matches!(rig.open(), Opened::Good(_)));
        for damage in [&BYTES[1..], b"", &[BYTES, b"!"].concat()] {
            std::fs::write(&rig.path, damage).unwrap();
            assert!(matches!(rig.open(), Opened::Damaged), "{}", damage.escape_ascii());
        }
    }

    #[test]
    fn what_is_remembered_is_not_read_again_and_has_an_end() {
        let rig = rig();
        rig.write_in_place(b"The");
        let hash = ChunkHash::of(BYTES);
        rig.verified.remember(hash, rig.stamp());
        assert!(matches!(rig.open(), Opened::Good(_)), "nothing has changed since");
        let lately = Duration::from_secs(limits::CHUNK_VERIFIED_S_MAX);
        let long_ago = Instant::now().checked_sub(lately).expect("the machine has run for minutes");
        rig.verified.known.lock().files.insert(hash, (rig.stamp(), long_ago));
        assert!(matches!(rig.open(), Opened::Damaged), "it rotted");
    }

    #[test]
    fn a_file_that_was_changed_a_moment_ago_is_not_remembered() {
        let rig = Rig { verified: Verified::default(), ..rig() };
        assert!(matches!(rig.open(), Opened::Good(_)));
        assert!(!rig.is_known());
    }

    #[test]
    fn a_chunk_that_is_put_again_does_not_change_the_file_that_is_being_sent() {
        let rig = rig();
        let Opened::Good(file) = rig.open() else { panic!("it is good") };
        let other = rig.path.with_extension("tmp");
        std::fs::write(&other, BYTES).unwrap();
        std::fs::rename(&other, &rig.path).unwrap();
        assert!(file.is_unchanged());
        assert!(!rig.is_known());
    }

    #[test]
    fn open_files_are_counted_and_no_more_than_the_limit() {
        let rig = rig();
        let open = || match rig.open() {
            Opened::Good(file) => Some(file),
            Opened::Busy => None,
            Opened::Damaged => panic!("it is good"),
        };
        let mut files: Vec<_> = (0..limits::CHUNK_FILES_OPEN_MAX).map(|_| open().unwrap()).collect();
        assert!(open().is_none());
        files.pop();
        assert!(open().is_some());
        drop(files);
        assert!(rig.verified.open(ChunkHash::of(BYTES), || Err(io::ErrorKind::NotFound.into())).is_err());
        assert_eq!(rig.verified.open.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let rig = rig();
        let stamp = rig.stamp();
        let hash = |number: usize| ChunkHash::of(&number.to_le_bytes());
        for number in 0..limits::CHUNKS_VERIFIED_MAX {
            rig.verified.remember(hash(number), stamp);
        }
        assert_eq!(rig.verified.known.lock().files.len(), limits::CHUNKS_VERIFIED_MAX);
        rig.verified.remember(hash(limits::CHUNKS_VERIFIED_MAX), stamp);
        assert_eq!(rig.verified.known.lock().files.len(), limits::CHUNKS_VERIFIED_MAX / 2 + 1);
    }

    /// Writes the file as a store does.
    fn written(rig: &Rig) -> File {
        let file = File::create(&rig.path).unwrap();
        file.write_all_at(BYTES, 0).unwrap();
        let dated = date_back(&file).unwrap();
        rig.verified.wrote(ChunkHash::of(BYTES), BYTES.len() as u64, &file, dated);
        file
    }

    #[test]
    fn what_this_process_wrote_is_known_once_it_is_durable_and_not_after_a_failure() {
        let rig = Rig { verified: Verified::default(), ..rig() };
        written(&rig);
        assert!(!rig.is_known(), "it is not durable");
        let syncing = rig.verified.syncing();
        assert!(!rig.is_known(), "it is not durable yet");
        rig.verified.synced(syncing, true);
        assert!(rig.is_known());

        written(&rig);
        let (mine, others) = (rig.verified.syncing(), rig.verified.syncing());
        rig.verified.synced(others, false);
        assert!(!rig.is_known(), "it may be lost");
        rig.verified.synced(mine, true);
        assert!(!rig.is_known(), "the failure was told to another one");
        let nothing = rig.verified.syncing();
        assert!(nothing.written.is_empty());
        rig.verified.synced(nothing, true);
        assert!(!rig.is_known());
    }

    #[test]
    fn a_write_right_behind_the_one_that_made_the_file_shows() {
        let rig = Rig { verified: Verified::default(), ..rig() };
        // Many times: without the time of its own most of these writes have the time of the first.
        for _ in 0..100 {
            written(&rig).write_all_at(b"The", 0).unwrap();
            let syncing = rig.verified.syncing();
            rig.verified.synced(syncing, true);
            assert!(!rig.is_known());
            assert!(matches!(rig.open(), Opened::Damaged));
        }
    }

    #[test]
    fn a_file_that_was_touched_before_it_was_noted_is_not_taken() {
        let rig = rig();
        let noted = |dated: SystemTime, len| {
            let file = File::options().write(true).open(&rig.path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_nanos(1_000_000_001)).unwrap();
            rig.verified.wrote(ChunkHash::of(BYTES), len, &file, dated);
            !rig.verified.syncing().written.is_empty()
        };
        let at = |nanos| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos);
        assert!(noted(at(1_000_000_001), BYTES.len() as u64));
        assert!(!noted(at(1_000_000_000), BYTES.len() as u64), "another time");
        assert!(!noted(at(1_000_000_001), BYTES.len() as u64 + 1), "another length");
    }

    #[test]
    fn what_waits_to_be_durable_is_bounded() {
        let rig = rig();
        let file = written(&rig);
        let dated = file.metadata().unwrap().modified().unwrap();
        for _ in 0..limits::CHUNKS_VERIFIED_MAX {
            rig.verified.wrote(ChunkHash::of(BYTES), BYTES.len() as u64, &file, dated);
        }
        assert_eq!(rig.verified.syncing().written.len(), limits::CHUNKS_VERIFIED_MAX);
    }
}
