//! From a backup to a data directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use dfs_shared::hash::ChunkHash;
use dfs_shared::limits::CHUNK_LEN_MAX;
use serde::de::DeserializeOwned;

use super::{BackupError, Contents, FORMAT, HEAD, Head, TAIL, chunk_entry, io_error};
use crate::chunk_store::{ChunkStore, DiskStore};
use crate::gc::Progress;
use crate::metadata::sqlite::DATABASE_FILE;

/// An entry and its name.
type Named<'a> = (String, tar::Entry<'a, BufReader<File>>);

/// Longest JSON entry in bytes.
const JSON_LEN_MAX: u64 = 1 << 20;

/// Fills a data directory that holds nothing but its lock; every chunk is hashed on the way. The database gets its
/// name last, so what is interrupted never looks like a data directory. Blocks for the time of copying everything.
///
/// # Errors
/// [`BackupError`]; then what was restored so far is removed again.
pub fn restore(
    file: &Path,
    data_dir: &Path,
    chunks_dir: &Path,
    progress: &mut Progress<'_>,
) -> Result<Contents, BackupError> {
    refuse_used(data_dir)?;
    if chunks_dir.exists() {
        refuse_used(chunks_dir)?;
    }
    let database = data_dir.join(format!("{DATABASE_FILE}.partial"));
    let restored = unpack(file, &database, chunks_dir, progress);
    if restored.is_err() {
        // Both were made here; what cannot be removed makes the next try say so.
        let _ = fs::remove_file(&database);
        let _ = fs::remove_dir_all(chunks_dir);
    }
    let contents = restored?;
    let place = data_dir.join(DATABASE_FILE);
    fs::rename(&database, &place).map_err(io_error("rename to", &place))?;
    File::open(data_dir).and_then(|directory| directory.sync_all()).map_err(io_error("sync", data_dir))?;
    Ok(contents)
}

fn refuse_used(directory: &Path) -> Result<(), BackupError> {
    for found in fs::read_dir(directory).map_err(io_error("list", directory))? {
        let name = found.map_err(io_error("list", directory))?.file_name();
        if name != "lock" {
            return Err(BackupError::NotEmpty { path: directory.to_owned() });
        }
    }
    Ok(())
}

fn unpack(
    file: &Path,
    database: &Path,
    chunks_dir: &Path,
    progress: &mut Progress<'_>,
) -> Result<Contents, BackupError> {
    let damaged = |why: &str| BackupError::Damaged { path: file.to_owned(), why: why.to_owned() };
    let unreadable = |error: io::Error| damaged(&error.to_string());
    let archive = File::open(file).map_err(io_error("open", file))?;
    let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 20, archive));
    let mut entries = archive.entries().map_err(unreadable)?;
    let mut next = || -> Result<Option<Named<'_>>, BackupError> {
        let Some(entry) = entries.next().transpose().map_err(unreadable)? else { return Ok(None) };
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        Ok(Some((name, entry)))
    };

    let (name, entry) = next()?.ok_or_else(|| damaged("it is empty"))?;
    if name != HEAD {
        return Err(damaged("it does not begin as one"));
    }
    let head: Head = json(entry).map_err(unreadable)?;
    if head.format != FORMAT {
        return Err(damaged(&format!("it has format {}: dfs-server {} knows it", head.format, head.program)));
    }
    let chunks = DiskStore::open(chunks_dir)?;
    let (mut found, mut has_database) = (Contents::default(), false);
    while let Some((name, mut entry)) = next()? {
        if name == DATABASE_FILE {
            progress("database", 0);
            let mut options = OpenOptions::new();
            let made = options.write(true).create_new(true).mode(0o600).open(database);
            let mut made = made.map_err(io_error("make", database))?;
            io::copy(&mut entry, &mut made).map_err(io_error("write", database))?;
            made.sync_all().map_err(io_error("sync", database))?;
            has_database = true;
        } else if name == TAIL {
            let told: Contents = json(entry).map_err(unreadable)?;
            if !has_database || (told.chunks, told.bytes) != (found.chunks, found.bytes) {
                return Err(damaged("it does not hold what it says"));
            }
            chunks.sync()?;
            return Ok(told);
        } else {
            let hash = name.rsplit('/').next().and_then(ChunkHash::from_hex);
            let hash = hash.filter(|hash| chunk_entry(*hash) == name);
            let hash = hash.ok_or_else(|| damaged(&format!("it has an entry {name:?}")))?;
            let mut bytes = Vec::new();
            entry.take(CHUNK_LEN_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
            chunks.put(hash, &bytes)?;
            found.chunks += 1;
            found.bytes += bytes.len() as u64;
            progress("chunks", found.chunks);
        }
    }
    Err(damaged("its end is missing"))
}

fn json<T: DeserializeOwned>(entry: impl Read) -> io::Result<T> {
    let mut text = Vec::new();
    entry.take(JSON_LEN_MAX).read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}
