//! Where backing files are: `files/<2 hex>/<16 hex>` under the state and the cache directory.
//!
//! Invariant: a file's name is its [`FileId`], which is never used twice. Neighbouring ids share a directory,
//! so that files made together lie together on the disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use dfs_shared::time::Timestamp;

use super::CacheError;
use crate::limits::{BACKING_DIR_FILES_LOG2, CLOCK_TICK_NS_MAX, REMOVE_GATHER_MS};
use crate::tree::Tree;
use crate::tree::content::{FileId, Place, Stamp};

/// The two directories of backing files.
#[derive(Debug)]
pub(super) struct Dirs {
    state: PathBuf,
    cache: PathBuf,
}

impl Dirs {
    /// Makes the directories. Blocks on the disk.
    pub(super) fn open(state_dir: &Path, cache_dir: &Path) -> Result<Self, CacheError> {
        let dirs = Self { state: state_dir.join("files"), cache: cache_dir.join("files") };
        for root in [&dirs.state, &dirs.cache] {
            std::fs::create_dir_all(root).map_err(|source| CacheError::Io {
                action: "make",
                path: root.clone(),
                source,
            })?;
        }
        Ok(dirs)
    }

    /// Writes everything on the file systems of both directories through to the disk. Blocks on it.
    pub(super) fn sync(&self) -> Result<(), CacheError> {
        for root in [&self.state, &self.cache] {
            let synced = File::open(root).and_then(|directory| {
                // SAFETY: the descriptor is open.
                match unsafe { libc::syncfs(directory.as_raw_fd()) } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            });
            synced.map_err(|source| CacheError::Io { action: "sync", path: root.clone(), source })?;
        }
        Ok(())
    }

    fn root(&self, place: Place) -> &Path {
        match place {
            Place::State => &self.state,
            Place::Cache => &self.cache,
        }
    }

    /// Returns the path of what is beside `files` in one of the two directories.
    pub(super) fn beside(&self, place: Place, name: &str) -> PathBuf {
        self.root(place).with_file_name(name)
    }

    pub(super) fn path(&self, place: Place, file: FileId) -> PathBuf {
        let slot = (file.0 >> BACKING_DIR_FILES_LOG2) & 0xff;
        self.root(place).join(format!("{slot:02x}/{:016x}", file.0))
    }

    pub(super) fn create(&self, place: Place, file: FileId) -> Result<File, CacheError> {
        self.with(place, file, "make", |path| in_directory(path, |path| options().create(true).open(path)))
    }

    /// Opens a file where it should be or, after a crash between moving it and saying so, in the other place.
    pub(super) fn find(&self, place: Place, file: FileId) -> Result<Option<(File, Place)>, CacheError> {
        let other = match place {
            Place::State => Place::Cache,
            Place::Cache => Place::State,
        };
        for place in [place, other] {
            let found = self.with(place, file, "open", |path| match options().open(path) {
                Ok(found) => Ok(Some(found)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            })?;
            if let Some(found) = found {
                return Ok(Some((found, place)));
            }
        }
        Ok(None)
    }

    /// Moves a file to the state directory. Returns the file if it had to be copied, `None` if it is the same still.
    /// Blocks on the disk when the two directories are on different file systems.
    pub(super) fn adopt(&self, file: FileId, open: &File, may_copy: bool) -> Result<Adopted, CacheError> {
        let (from, to) = (self.path(Place::Cache, file), self.path(Place::State, file));
        match in_directory(&to, |to| std::fs::rename(&from, to)) {
            Ok(()) => return Ok(Adopted::Moved),
            Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {}
            Err(source) => return Err(CacheError::Io { action: "move", path: from, source }),
        }
        if !may_copy {
            return Ok(Adopted::NotYet);
        }
        let copied = self.create(Place::State, file)?;
        super::copy::copy_file(open, &copied)
            .and_then(|()| copied.sync_data())
            .map_err(|source| CacheError::Io { action: "copy", path: to, source })?;
        self.remove(Place::Cache, file);
        Ok(Adopted::Copied(copied))
    }

    /// Removes a file if it exists. A failure is only logged: the start-up check removes what is left over.
    pub(super) fn remove(&self, place: Place, file: FileId) {
        let path = self.path(place, file);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a backing file cannot be removed");
            }
            _ => {}
        }
    }

    /// Calls `each` with every backing file that there is.
    pub(super) fn each(&self, mut each: impl FnMut(Place, FileId)) -> io::Result<()> {
        for place in [Place::State, Place::Cache] {
            for slot in std::fs::read_dir(self.root(place))? {
                for file in std::fs::read_dir(slot?.path())? {
                    let name = file?.file_name();
                    let id = name.to_str().and_then(|name| u64::from_str_radix(name, 16).ok());
                    if let Some(id) = id {
                        each(place, FileId(id));
                    }
                }
            }
        }
        Ok(())
    }

    fn with<T>(
        &self,
        place: Place,
        file: FileId,
        action: &'static str,
        work: impl FnOnce(&Path) -> io::Result<T>,
    ) -> Result<T, CacheError> {
        let path = self.path(place, file);
        work(&path).map_err(|source| CacheError::Io { action, path, source })
    }
}

/// Runs `work` on a path; makes the directory that holds it if that is why it failed.
fn in_directory<T>(path: &Path, work: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    match (work(path), path.parent()) {
        // Somebody else may be making it at this moment, so whether it is there now tells nothing.
        (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(dir)?;
            work(path)
        }
        (result, _) => result,
    }
}

/// Makes the journal durable before files go whose end it tells.
pub(super) fn make_durable(tree: &Tree) -> bool {
    if let Err(error) = tree.persist() {
        // A full disk needs the room that they take.
        tracing::warn!(%error, "files go whose end may be forgotten if the power fails");
    }
    true
}

/// Starts the thread that removes files that come in. What cannot be removed now is removed at the next start. The thread ends
/// when the sending end is dropped.
pub(super) fn start_remover(
    dirs: Arc<Dirs>,
    state_dir: &Path,
    files: Receiver<(Place, FileId)>,
    make_durable: impl Fn() -> bool + Send + 'static,
    room_came: impl Fn() + Send + 'static,
) -> Result<(), CacheError> {
    let remover = move || {
        while let Ok(first) = files.recv() {
            let mut batch = vec![first];
            let gathered = Instant::now() + Duration::from_millis(REMOVE_GATHER_MS);
            while let Ok(file) = files.recv_timeout(gathered.saturating_duration_since(Instant::now())) {
                batch.push(file);
            }
            remove_batch(&dirs, batch, &make_durable);
            room_came();
        }
    };
    match std::thread::Builder::new().name("dfs-remove".to_owned()).spawn(remover) {
        Ok(_) => Ok(()),
        Err(source) => {
            Err(CacheError::Io { action: "start a thread to clean", path: state_dir.to_owned(), source })
        }
    }
}

/// Removes files once `make_durable` has made the journal durable that says so: otherwise a power loss could bring a name back
/// whose bytes are gone.
pub(super) fn remove_batch(dirs: &Dirs, batch: Vec<(Place, FileId)>, make_durable: &impl Fn() -> bool) {
    if make_durable() {
        batch.into_iter().for_each(|(place, file)| dirs.remove(place, file));
    }
}

/// How a file came to the state directory.
pub(super) enum Adopted {
    /// It is the same file.
    Moved,
    /// It is a new file with the same bytes.
    Copied(File),
    /// It is still in the cache directory, because it would have to be copied.
    NotYet,
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Reads at `offset` until the buffer is full or the file ends.
pub(super) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Reads what `fstat` says of an open file.
pub(crate) fn stamp_of(file: &File) -> io::Result<Stamp> {
    let stat = file.metadata()?;
    let time = |secs, nanos| Timestamp { secs, nanos: u32::try_from(nanos).unwrap_or(0) };
    Ok(Stamp {
        size: stat.len(),
        mtime: time(stat.mtime(), stat.mtime_nsec()),
        ctime: time(stat.ctime(), stat.ctime_nsec()),
        blocks: stat.blocks(),
    })
}

/// Returns the time of a change of bytes: the kernel stamps files by a coarse clock, which may lie a tick before the time
/// that the tree recorded for what came first.
pub(crate) fn not_before(recorded: Timestamp, stamped: Timestamp) -> Timestamp {
    let nanos = |at: Timestamp| i128::from(at.secs) * 1_000_000_000 + i128::from(at.nanos);
    let ahead = nanos(recorded) - nanos(stamped);
    if (1..=CLOCK_TICK_NS_MAX).contains(&ahead) { recorded } else { stamped }
}

/// Tells whether two stamps say that the bytes are the same. Blocks are allocated late, so they do not count.
pub(crate) fn same_bytes(one: &Stamp, two: &Stamp) -> bool {
    (one.size, one.mtime, one.ctime) == (two.size, two.mtime, two.ctime)
}

/// Tells whether somebody else can write to a file: the kernel grants a read lease only if nobody can.
pub(super) fn can_others_write(read_only: &File) -> bool {
    static IGNORED: std::sync::Once = std::sync::Once::new();
    IGNORED.call_once(|| {
        // Who opens the file while we have the lease makes the kernel send SIGIO, which would end the process.
        // SAFETY: ignoring a signal runs no handler.
        unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    });
    // SAFETY: the descriptor is open for the call.
    if unsafe { libc::fcntl(read_only.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } == 0 {
        // SAFETY: as above.
        unsafe { libc::fcntl(read_only.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
        return false;
    }
    std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_file_goes_only_after_the_journal_that_says_so_is_durable() {
        let dir = tempfile::tempdir().expect("a directory");
        let dirs = Arc::new(Dirs::open(dir.path(), &dir.path().join("cache")).expect("directories"));
        let (asked, asking) = channel();
        let (answer, answers) = channel();
        let make_durable = move || {
            asked.send(()).expect("the test listens");
            answers.recv().unwrap_or(false)
        };
        let (remover, files) = channel();
        start_remover(Arc::clone(&dirs), dir.path(), files, make_durable, || {}).expect("a thread");
        let path = |file| dirs.path(Place::State, FileId(file));
        for (file, is_durable) in [(1, false), (2, true)] {
            drop(dirs.create(Place::State, FileId(file)).expect("a file"));
            remover.send((Place::State, FileId(file))).expect("the thread listens");
            asking.recv().expect("it asks");
            assert!(path(file).exists(), "it goes before its end is durable");
            answer.send(is_durable).expect("the thread listens");
        }
        // A third question comes after the second batch is done with.
        remover.send((Place::State, FileId(3))).expect("the thread listens");
        asking.recv().expect("it asks");
        assert!(path(1).exists() && !path(2).exists());
    }
}
