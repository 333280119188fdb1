//! Turns planned components into one commit request, and keeps that request while it is in flight.
//!
//! The stored form is what `settle` needs after a crash:
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | length of the next part, big-endian |
//! | … | plain encoding of [`Notes`] |
//! | rest | the encoded request, sent again as it is |

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::limits::{COMMIT_SMALL_BYTES_MAX, SMALL_CONTENT_LEN_MAX};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{ChangeGroup, Record};
use dfs_shared::wire::messages::{CommitRequest, NewContent, SmallChunk, small_chunks_len};
use dfs_shared::wire::{WireError, decode_plain, encode_plain, encode_sized};
use serde::{Deserialize, Serialize};

use super::plan::{Component, Plan};
use super::shared::{EngineError, Shared};
use crate::tree::SyncState;

/// What is remembered beside a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notes {
    /// The request's number.
    pub(super) commit: u64,
    /// For each group of the request the journal groups that have a record in it.
    pub(super) seqs: Vec<Vec<u64>>,
    /// Those of them that also have records which are not in the request.
    pub(super) held: BTreeSet<u64>,
}

/// A request on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InFlight {
    pub(super) notes: Notes,
    /// The encoded request.
    pub(super) request: Bytes,
}

impl InFlight {
    pub(super) fn encode(&self) -> Vec<u8> {
        let notes = encode_plain(&self.notes);
        let len = u32::try_from(notes.len()).expect("a few numbers for each group");
        [&len.to_be_bytes()[..], &notes, &self.request].concat()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or(WireError::NotAMessage)?;
        let (notes, request) =
            rest.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or(WireError::NotAMessage)?;
        Ok(Self { notes: decode_plain(notes)?, request: Bytes::copy_from_slice(request) })
    }
}

/// Makes a request of the plan's first components, as many as fit.
pub(super) fn build(
    shared: &Shared,
    client: ClientId,
    commit: u64,
    plan: Plan,
    small: &HashMap<ChunkHash, Bytes>,
) -> Result<InFlight, EngineError> {
    let mut request =
        CommitRequest { client, commit, groups: Vec::new(), contents: Vec::new(), small_chunks: Vec::new() };
    let mut notes = Notes { commit, seqs: Vec::new(), held: BTreeSet::new() };
    let mut contents = Contents { shared, small, known: HashSet::new(), small_bytes: 0 };
    let mut held = plan.held;
    let mut full = false;
    for Component { seqs, changes } in plan.send {
        if full {
            held.extend(seqs);
            continue;
        }
        for change in &changes {
            if let Some(Record::Node(node)) = &change.value
                && let Some(content) = node.content
            {
                contents.add(&mut request, node.id, content)?;
            }
        }
        full = contents.small_bytes >= COMMIT_SMALL_BYTES_MAX;
        request.groups.push(ChangeGroup { changes });
        notes.seqs.push(seqs);
    }
    let sent: BTreeSet<u64> = notes.seqs.iter().flatten().copied().collect();
    notes.held = held.intersection(&sent).copied().collect();
    Ok(InFlight { notes, request: encode_sized(&request, small_chunks_len(&request.small_chunks)).into() })
}

/// Gathers manifests and small bytes that the server may not have.
struct Contents<'a> {
    shared: &'a Shared,
    small: &'a HashMap<ChunkHash, Bytes>,
    known: HashSet<ContentId>,
    small_bytes: usize,
}

impl Contents<'_> {
    fn add(
        &mut self,
        request: &mut CommitRequest,
        node: NodeId,
        content: ContentId,
    ) -> Result<(), EngineError> {
        if !self.known.insert(content) {
            return Ok(());
        }
        let known = self.shared.tree.node_by_id(node)?.is_some_and(
            |node| matches!(&node.sync, SyncState::Changed { base, .. } if base.content == Some(content)),
        );
        if known {
            return Ok(());
        }
        // Without the manifest the server says so, and it is made again.
        let manifest = self.shared.tree.manifest(node)?.filter(|(id, _)| *id == content);
        let Some((_, manifest)) = manifest else { return Ok(()) };
        let file_hash = match &manifest.chunks[..] {
            [chunk] if !chunk.hash.is_hole() => Some(chunk.hash),
            _ => None,
        };
        if let (Some(hash), true) = (file_hash, manifest.size() <= SMALL_CONTENT_LEN_MAX)
            && let Some(bytes) = self.small_bytes_of(node, hash, &manifest)
        {
            self.small_bytes += bytes.len();
            request.small_chunks.push(SmallChunk { hash, bytes });
        }
        request.contents.push(NewContent { manifest, file_hash });
        Ok(())
    }

    /// Returns the bytes of a small content; without them the server says that they are missing.
    fn small_bytes_of(&self, node: NodeId, hash: ChunkHash, manifest: &Manifest) -> Option<Vec<u8>> {
        if let Some(bytes) = self.small.get(&hash) {
            return Some(bytes.to_vec());
        }
        let source = self.shared.cache.open_for_hash(node).ok()?;
        let mut bytes = vec![0; usize::try_from(manifest.size()).ok()?];
        source.file.read_exact_at(&mut bytes, 0).ok()?;
        (ChunkHash::of(&bytes) == hash).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_survives_its_bytes_and_a_cut_one_is_refused() {
        let notes = Notes { commit: 7, seqs: vec![vec![1, 2], vec![3]], held: BTreeSet::from([2]) };
        let flight = InFlight { notes, request: Bytes::from_static(b"request") };
        let bytes = flight.encode();
        assert_eq!(InFlight::decode(&bytes).expect("whole"), flight);
        for len in 0..bytes.len() - b"request".len() {
            assert!(InFlight::decode(&bytes[..len]).is_err(), "{len}");
        }
    }
}
