//! Puts right what a check found, as far as that is possible without guessing.
//!
//! | problem | what is done |
//! |---|---|
//! | the tree does not fit, or the bytes counted against the quota | made anew: the records are the truth |
//! | a chunk counts as missing, but its bytes are there | counts as present |
//! | a chunk is damaged or gone | counts as missing, so that a mount which has it brings it again |
//!
//! Everything else needs a backup.

use crate::chunk_store::ChunkStore;
use crate::metadata::{MetadataError, MetadataStore};
use crate::sync::rebuild_tree;

use super::{Problem, Report};

/// What a repair did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Repaired {
    /// Problems that are no more.
    pub mended: u64,
    /// Chunks that count as missing now: their files are whole again when a mount that has them brings them.
    pub asked_for: u64,
    /// Problems that stay.
    pub left: u64,
}

/// Repairs what is in the report. Nothing else may use the data directory.
///
/// # Errors
/// [`MetadataError`] when the store fails.
pub fn repair(
    metadata: &dyn MetadataStore,
    chunks: &dyn ChunkStore,
    report: &Report,
) -> Result<Repaired, MetadataError> {
    let mut done = Repaired::default();
    for problem in &report.problems {
        match problem {
            Problem::Tree { volume, .. } | Problem::Used { volume, .. } => {
                let name = volume.clone();
                let made = metadata.write(1, move |tx| match tx.volume(&name)? {
                    Some(volume) => rebuild_tree(tx, &volume),
                    None => Ok(()),
                });
                made.wait()?;
                done.mended += 1;
            }
            Problem::ChunkMissing { hash, .. } => match chunks.get(*hash) {
                Ok(bytes) => {
                    let (hash, len) = (*hash, bytes.len() as u64);
                    metadata.write(1, move |tx| tx.put_chunk(&hash, len)).wait()?;
                    done.mended += 1;
                }
                Err(_) => done.left += 1,
            },
            Problem::ChunkDamaged { hash, .. } => {
                let hash = *hash;
                metadata.write(1, move |tx| tx.forget_chunk(&hash)).wait()?;
                done.asked_for += 1;
            }
            // Named for people; the chunk itself is a problem of its own.
            Problem::FileDamaged { .. } => {}
            Problem::Database { .. } | Problem::Content { .. } => done.left += 1,
        }
    }
    done.left += report.count.saturating_sub(report.problems.len() as u64);
    Ok(done)
}
