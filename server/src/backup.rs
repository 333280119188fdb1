//! A data directory as one file, and back: consistent while a server writes, constant memory both ways.
//!
//! The file is a tar archive:
//!
//! | entry | content |
//! |---|---|
//! | `dfs-backup.json` | format, program version, time; always the first |
//! | `metadata.sqlite` | the database in one snapshot, without sync sessions |
//! | `chunks/ab/ab…` | every chunk that the database says is durable |
//! | `complete.json` | how many chunks and bytes; always the last, so that half a file is never taken for a whole one |
//!
//! Invariant: what [`create`] leaves under the asked name is whole and durable; what [`restore`] has finished was
//! verified chunk by chunk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use dfs_shared::hash::ChunkHash;
use dfs_shared::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::chunk_store::{ChunkError, ChunkStore};
use crate::gc::{self, GcError, Progress};
use crate::limits::{BACKUP_UNREADABLE_MAX, UPKEEP_PAGE_LEN};
use crate::metadata::sqlite::{DATABASE_FILE, SqliteStore};
use crate::metadata::{ChunkPlace, MetadataError, MetadataStore};

mod read;
#[cfg(test)]
mod tests;

pub use read::restore;

const HEAD: &str = "dfs-backup.json";
const TAIL: &str = "complete.json";
/// Grows when an older program could not read what is written.
const FORMAT: u64 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    format: u64,
    program: String,
    time_s: i64,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Contents {
    /// Chunks outside of the database.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks that could not be read and are not in it; the first of them.
    #[serde(default)]
    pub unreadable: Vec<String>,
}

/// Why there is no backup, or nothing restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file or a directory cannot be used.
    #[error("cannot {attempted} {}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There is something in the way.
    #[error("{} exists already", path.display())]
    Exists {
        /// What is in the way.
        path: PathBuf,
    },
    /// The data directory has something in it.
    #[error("{} is not empty: a backup is restored into an empty or new data directory", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// The file is no backup, or not a whole one.
    #[error("{} is no whole dfs backup: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The database failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The chunk store failed.
    #[error(transparent)]
    Chunks(#[from] ChunkError),
    /// The chunks cannot be held.
    #[error(transparent)]
    Hold(#[from] GcError),
}

fn io_error(attempted: &'static str, path: &Path) -> impl Fn(io::Error) -> BackupError {
    move |source| BackupError::Io { attempted, path: path.to_owned(), source }
}

/// Removes a directory when it is dropped.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in nobody's way.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes a backup. A server may run on the data directory. A chunk that cannot be read is left out and named. Blocks
/// for the time of copying everything.
///
/// # Errors
/// [`BackupError`]; then there is no file of that name.
pub fn create(
    store: &SqliteStore,
    chunks: &dyn ChunkStore,
    data_dir: &Path,
    file: &Path,
    progress: &mut Progress<'_>,
) -> Result<Contents, BackupError> {
    if file.exists() {
        return Err(BackupError::Exists { path: file.to_owned() });
    }
    if file.to_str().is_none() {
        // SQLite writes the copy beside it, and takes names as text only.
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the name is not UTF-8");
        return Err(io_error("use", file)(source));
    }
    // Before the snapshot: every chunk that it names stays until the end.
    let _held = gc::hold_chunks(data_dir)?;
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    let scratch = Scratch(PathBuf::from(name));
    fs::create_dir(&scratch.0).map_err(io_error("make", &scratch.0))?;
    progress("database", 0);
    store.copy_to(&scratch.0.join(DATABASE_FILE))?;
    let copy = SqliteStore::open(&scratch.0)?;
    drop_sessions(&copy)?;
    // Closing it moves the log into the database.
    drop(copy);

    let path = scratch.0.join("archive");
    let mut options = OpenOptions::new();
    // It holds every file of every volume.
    let archive =
        options.write(true).create_new(true).mode(0o600).open(&path).map_err(io_error("make", &path))?;
    let mut writer =
        Writer { tar: tar::Builder::new(BufWriter::with_capacity(1 << 20, archive)), path: &path };
    let time_s = Timestamp::from(SystemTime::now()).secs;
    writer.json(HEAD, &Head { format: FORMAT, program: env!("CARGO_PKG_VERSION").to_owned(), time_s })?;
    writer.file(DATABASE_FILE, &scratch.0.join(DATABASE_FILE))?;
    let copy = SqliteStore::open(&scratch.0)?;
    let contents = copy_chunks(&copy, chunks, &mut writer, progress)?;
    drop(copy);
    writer.json(TAIL, &contents)?;
    writer.finish()?;
    // Fails when somebody has made it meanwhile: nothing is overwritten.
    fs::hard_link(&path, file).map_err(io_error("name", file))?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(io_error("sync", parent))?;
    Ok(contents)
}

/// Staged bytes are not part of a backup, so the sessions that wait for them are not either.
fn drop_sessions(copy: &dyn MetadataStore) -> Result<(), BackupError> {
    let ever = Timestamp { secs: i64::MAX / 2_000_000, nanos: 0 };
    loop {
        let dropped = copy.write(UPKEEP_PAGE_LEN, move |tx| {
            let found = tx.sessions_heard_before(ever, UPKEEP_PAGE_LEN)?;
            found.iter().try_for_each(|id| tx.remove_session(id))?;
            Ok(found.len())
        });
        if dropped.wait()? == 0 {
            return Ok(());
        }
    }
}

fn copy_chunks(
    copy: &dyn MetadataStore,
    chunks: &dyn ChunkStore,
    writer: &mut Writer<'_>,
    progress: &mut Progress<'_>,
) -> Result<Contents, BackupError> {
    let (mut after, mut contents): (Option<ChunkHash>, _) = (None, Contents::default());
    loop {
        let page = copy.read(|snapshot| snapshot.chunks_from(after.as_ref(), UPKEEP_PAGE_LEN))?;
        let Some((last, _)) = page.last() else { return Ok(contents) };
        after = Some(*last);
        for (hash, place) in page {
            if matches!(place, ChunkPlace::Small { .. }) {
                continue;
            }
            match chunks.get(hash) {
                Ok(bytes) => {
                    writer.bytes(&chunk_entry(hash), &bytes)?;
                    contents.chunks += 1;
                    contents.bytes += bytes.len() as u64;
                }
                Err(error @ (ChunkError::Corrupt { .. } | ChunkError::Absent { .. })) => {
                    if contents.unreadable.len() < BACKUP_UNREADABLE_MAX {
                        contents.unreadable.push(error.to_string());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        progress("chunks", contents.chunks);
    }
}

fn chunk_entry(hash: ChunkHash) -> String {
    let name = hash.to_string();
    format!("chunks/{}/{name}", &name[..2])
}

/// Appends entries to the archive.
struct Writer<'a> {
    tar: tar::Builder<BufWriter<File>>,
    path: &'a Path,
}

impl Writer<'_> {
    fn append(&mut self, name: &str, len: u64, bytes: impl io::Read) -> Result<(), BackupError> {
        let mut header = tar::Header::new_gnu();
        header.set_size(len);
        header.set_mode(0o600);
        self.tar.append_data(&mut header, name, bytes).map_err(io_error("write", self.path))
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        self.append(name, bytes.len() as u64, bytes)
    }

    fn json(&mut self, name: &str, of: &impl Serialize) -> Result<(), BackupError> {
        let text = serde_json::to_vec(of).map_err(io::Error::from).map_err(io_error("write", self.path))?;
        self.bytes(name, &text)
    }

    fn file(&mut self, name: &str, path: &Path) -> Result<(), BackupError> {
        let file = File::open(path).map_err(io_error("open", path))?;
        let len = file.metadata().map_err(io_error("look at", path))?.len();
        self.append(name, len, file)
    }

    fn finish(self) -> Result<(), BackupError> {
        let failed = io_error("write", self.path);
        let mut writer = self.tar.into_inner().map_err(&failed)?;
        writer.flush().map_err(&failed)?;
        let file = writer.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)
    }
}
