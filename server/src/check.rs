//! Looks whether a data directory is sound: database, trees, references, chunks; and puts right what can be.
//!
//! The database is looked at in one consistent snapshot, so a server may go on meanwhile. Chunks are read afterwards
//! while `gc` takes none. Memory does not grow with the data. Invariant: without `repair` nothing is written.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::VolumeName;

use crate::chunk_store::{ChunkError, ChunkStore};
use crate::gc::Progress;
use crate::limits::{CHECK_PROBLEMS_MAX, UPKEEP_PAGE_LEN};
use crate::metadata::{ChunkPlace, MetadataError, MetadataStore};
use crate::report::chain;

mod files;
mod repair;
#[cfg(test)]
mod tests;
mod tree;

pub use repair::{Repaired, repair};

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The database's own check found something.
    #[error("the metadata database is damaged: {text}")]
    Database {
        /// What it said.
        text: String,
    },
    /// The Merkle tree is not that of the records.
    #[error("volume {volume}: the Merkle tree does not fit the records: {why}")]
    Tree {
        /// The volume.
        volume: VolumeName,
        /// The first difference.
        why: String,
    },
    /// The files have another number of bytes than is counted against the quota.
    #[error("volume {volume}: {counted} bytes are counted against the quota, its files have {found}")]
    Used {
        /// The volume.
        volume: VolumeName,
        /// What is counted.
        counted: u64,
        /// What there is.
        found: u64,
    },
    /// A file's manifest is not here, or no manifest.
    #[error("volume {volume}: {file}: the manifest {id} is {what}")]
    Content {
        /// The volume.
        volume: VolumeName,
        /// The file.
        file: String,
        /// The content.
        id: ContentId,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A chunk of a file counts as missing.
    #[error("volume {volume}: {file}: chunk {hash} is missing")]
    ChunkMissing {
        /// The volume.
        volume: VolumeName,
        /// The file.
        file: String,
        /// The chunk.
        hash: ChunkHash,
    },
    /// A chunk's bytes are gone or wrong.
    #[error("{why}")]
    ChunkDamaged {
        /// The chunk.
        hash: ChunkHash,
        /// What is wrong.
        why: String,
    },
    /// A file has a damaged chunk.
    #[error("volume {volume}: {file} has the damaged chunk {hash}")]
    FileDamaged {
        /// The volume.
        volume: VolumeName,
        /// The file.
        file: String,
        /// The chunk.
        hash: ChunkHash,
    },
}

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// The first problems.
    pub problems: Vec<Problem>,
    /// How many there are.
    pub count: u64,
    /// Records of all volumes.
    pub records: u64,
    /// Past records.
    pub versions: u64,
    /// Chunks that were read.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files in the chunk store that no row knows. Harmless: `gc` removes them.
    pub orphans: u64,
}

impl Report {
    fn add(&mut self, problem: Problem) {
        self.count += 1;
        if self.problems.len() < CHECK_PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}

/// Why a check could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The metadata store failed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The chunk store failed.
    #[error(transparent)]
    Chunks(#[from] ChunkError),
}

/// Checks; `is_quick` leaves the chunks' bytes alone. The caller holds the chunks (`gc::hold_chunks`). Blocks for the
/// time of reading everything.
///
/// # Errors
/// [`CheckError`].
pub fn check(
    metadata: &dyn MetadataStore,
    chunks: &dyn ChunkStore,
    is_quick: bool,
    progress: &mut Progress<'_>,
) -> Result<Report, CheckError> {
    let mut report = Report::default();
    progress("database", 0);
    metadata.read(|snapshot| {
        report = Report::default();
        for text in snapshot.integrity()? {
            report.add(Problem::Database { text });
        }
        for volume in snapshot.volumes()? {
            tree::check(snapshot, &volume, &mut report, progress)?;
            files::check(snapshot, &volume, &mut report, progress)?;
        }
        files::check_history(snapshot, &mut report, progress)
    })?;
    if !is_quick {
        let damaged = read_chunks(metadata, chunks, &mut report, progress)?;
        if !damaged.is_empty() {
            metadata.read(|snapshot| files::name_damaged(snapshot, &damaged, &mut report))?;
        }
    }
    report.orphans = count_orphans(metadata, chunks, progress)?;
    Ok(report)
}

/// Reads and hashes every chunk; returns those that are damaged, as many as problems are listed.
fn read_chunks(
    metadata: &dyn MetadataStore,
    chunks: &dyn ChunkStore,
    report: &mut Report,
    progress: &mut Progress<'_>,
) -> Result<BTreeSet<ChunkHash>, CheckError> {
    let (mut after, mut damaged): (Option<ChunkHash>, _) = (None, BTreeSet::new());
    loop {
        let page = metadata.read(|snapshot| snapshot.chunks_from(after.as_ref(), UPKEEP_PAGE_LEN))?;
        let Some((last, _)) = page.last() else { return Ok(damaged) };
        after = Some(*last);
        for (hash, place) in page {
            report.chunks += 1;
            report.bytes += place.len();
            let why = match place {
                ChunkPlace::Stored { len } => match chunks.get(hash) {
                    Ok(bytes) if bytes.len() as u64 == len => continue,
                    Ok(bytes) => format!("chunk {hash} has {} bytes, its row says {len}", bytes.len()),
                    Err(error @ (ChunkError::Corrupt { .. } | ChunkError::Absent { .. })) => chain(&error),
                    Err(error) => return Err(error.into()),
                },
                ChunkPlace::Small { .. } => match metadata.read(|snapshot| snapshot.small_chunk(&hash))? {
                    Some(bytes) if ChunkHash::of(&bytes) == hash => continue,
                    Some(_) => format!("chunk {hash} is damaged in the database"),
                    // Collected or forgotten since the page was read.
                    None => continue,
                },
            };
            if damaged.len() < CHECK_PROBLEMS_MAX {
                damaged.insert(hash);
            }
            report.add(Problem::ChunkDamaged { hash, why });
        }
        progress("chunks", report.chunks);
    }
}

fn count_orphans(
    metadata: &dyn MetadataStore,
    chunks: &dyn ChunkStore,
    progress: &mut Progress<'_>,
) -> Result<u64, CheckError> {
    let (mut seen, mut orphans, mut page, mut outcome) = (0, 0, Vec::new(), Ok(()));
    let mut look = |page: &mut Vec<ChunkHash>| -> Result<(), MetadataError> {
        let found = std::mem::take(page);
        orphans += metadata.read(|snapshot| {
            let mut count = 0;
            for hash in &found {
                count += u64::from(snapshot.chunk_place(hash)?.is_none());
            }
            Ok(count)
        })?;
        Ok(())
    };
    chunks.each(&mut |hash, _| {
        page.push(hash);
        seen += 1;
        if page.len() == UPKEEP_PAGE_LEN {
            outcome = look(&mut page);
            progress("files", seen);
        }
        if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    outcome?;
    look(&mut page)?;
    Ok(orphans)
}
