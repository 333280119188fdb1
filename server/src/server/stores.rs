//! Opens the stores that the configuration names.
//!
//! With `--metadata memory` everything else that the server writes lies in [`VOLATILE_DIRECTORY`]. Invariant: that
//! directory is empty when the stores are opened and is removed before the data directory is free.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Config, Metadata, StartError};
use crate::chunk_store::{ChunkStore, DiskStore};
use crate::metadata::MetadataStore;
use crate::metadata::memory::MemoryStore;
use crate::metadata::sqlite::{DATABASE_FILE, SqliteStore};

/// Holds chunks and staged bytes of a server whose metadata is in memory, inside the data directory.
const VOLATILE_DIRECTORY: &str = "volatile";

/// The stores of a server that starts.
pub(super) struct Stores {
    pub(super) metadata: Arc<dyn MetadataStore>,
    pub(super) chunks: Arc<dyn ChunkStore>,
    /// Where staged bytes and the files of upkeep go.
    pub(super) dir: PathBuf,
    /// What ends with the server; has to be dropped after everything that writes to it.
    pub(super) volatile: Option<Volatile>,
}

/// Opens the stores in a data directory that this process has for itself.
pub(super) fn open(config: &Config, data_dir: &Path) -> Result<Stores, StartError> {
    match config.metadata {
        Metadata::Sqlite => {
            let metadata = SqliteStore::open(data_dir)
                .map_err(|source| StartError::Metadata { data_dir: data_dir.to_owned(), source })?;
            Ok(Stores {
                metadata: Arc::new(metadata),
                chunks: Arc::new(DiskStore::open(&config.chunks_in(data_dir))?),
                dir: data_dir.to_owned(),
                volatile: None,
            })
        }
        Metadata::Memory => open_volatile(config, data_dir),
    }
}

fn open_volatile(config: &Config, data_dir: &Path) -> Result<Stores, StartError> {
    if data_dir.join(DATABASE_FILE).exists() {
        return Err(StartError::HoldsDatabase { data_dir: data_dir.to_owned() });
    }
    // A collection removes the chunks that this server knows nothing of: another one's would go.
    if let Some(chunks_dir) = &config.chunks_dir {
        return Err(StartError::ChunksOfMemory { chunks_dir: chunks_dir.clone() });
    }
    let volatile = Volatile::make(data_dir.join(VOLATILE_DIRECTORY))?;
    tracing::warn!(
        data_dir = %data_dir.display(),
        "--metadata memory: nothing survives this process, every file in it is lost when it ends"
    );
    Ok(Stores {
        metadata: Arc::new(MemoryStore::new()),
        chunks: Arc::new(DiskStore::open(&volatile.0.join("chunks"))?),
        dir: volatile.0.clone(),
        volatile: Some(volatile),
    })
}

/// A directory that goes with the process, or with the start of the next one if this one is killed.
pub(super) struct Volatile(PathBuf);

impl Volatile {
    fn make(path: PathBuf) -> Result<Self, StartError> {
        let made = match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => fs::create_dir(&path),
        };
        match made {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(StartError::Volatile { path, source }),
        }
    }
}

impl Drop for Volatile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove what should go with the server");
        }
    }
}
