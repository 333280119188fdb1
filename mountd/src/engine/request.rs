//! Turns planned components into one commit request, and keeps that request while it is in flight.
//!
//! The stored form is what `settle` needs after a crash:
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | length of the next part, big-endian |
//! | … | plain encoding of [`Notes`] |
//! | rest | the encoded request without the bytes of small contents |
//!
//! Those bytes lie in the backing files already. When the request is sent again they are read from there; if a file has changed
//! meanwhile, a server that has not done the request yet refuses that file's group, and the newer content is sent instead.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use dfs_shared::hash::{ChunkHash, ContentId};
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::limits::{COMMIT_SMALL_BYTES_MAX, SMALL_CONTENT_LEN_MAX};
use dfs_shared::manifest::Manifest;
use dfs_shared::record::{Change, ChangeGroup, NodeRecord, Record, RecordKey};
use dfs_shared::wire::messages::{CommitRequest, NewContent, SmallChunk, small_chunks_len};
use dfs_shared::wire::{WireError, decode, decode_plain, encode, encode_plain, encode_sized};
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
    /// The request without the bytes of small contents.
    pub(super) request: CommitRequest,
    /// Those bytes.
    small: Vec<SmallChunk>,
}

impl InFlight {
    /// Returns what is stored of it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let notes = encode_plain(&self.notes);
        let len = u32::try_from(notes.len()).expect("a few numbers for each group");
        [&len.to_be_bytes()[..], &notes, &encode(&self.request)].concat()
    }

    /// Makes it of what was stored. Blocks while small files are read.
    pub(super) fn restore(bytes: &[u8], shared: &Shared) -> Result<Self, WireError> {
        let (notes, request) = Self::decode(bytes)?;
        let small = small_chunks_of(shared, &request);
        Ok(Self { notes, request, small })
    }

    fn decode(bytes: &[u8]) -> Result<(Notes, CommitRequest), WireError> {
        let (len, rest) = bytes.split_first_chunk::<4>().ok_or(WireError::NotAMessage)?;
        let (notes, request) =
            rest.split_at_checked(u32::from_be_bytes(*len) as usize).ok_or(WireError::NotAMessage)?;
        Ok((decode_plain(notes)?, decode(request)?))
    }

    /// Returns the client whose request it is.
    pub(super) fn client(&self) -> &ClientId {
        &self.request.client
    }

    /// Takes out the message to be sent.
    pub(super) fn take_message(&mut self) -> Bytes {
        self.request.small_chunks = std::mem::take(&mut self.small);
        let message = encode_sized(&self.request, small_chunks_len(&self.request.small_chunks));
        self.request.small_chunks = Vec::new();
        message.into()
    }
}

/// Reads the small contents of a request again, as far as they still are what it says.
fn small_chunks_of(shared: &Shared, request: &CommitRequest) -> Vec<SmallChunk> {
    let wanted: HashMap<ContentId, &NewContent> = request
        .contents
        .iter()
        .filter(|content| content.manifest.size() <= SMALL_CONTENT_LEN_MAX)
        .map(|content| (content.manifest.id(), content))
        .collect();
    let mut found = BTreeMap::new();
    for change in request.groups.iter().flat_map(|group| &group.changes) {
        if let Some(Record::Node(node)) = &change.value
            && let Some(content) = node.content.and_then(|content| wanted.get(&content))
            && let Some(hash) = content.file_hash
            && !found.contains_key(&hash)
            && let Some(bytes) = read_small(shared, node.id, hash, &content.manifest)
        {
            found.insert(hash, bytes);
        }
    }
    found.into_iter().map(|(hash, bytes)| SmallChunk { hash, bytes }).collect()
}

/// Reads the bytes of a small content, if the file still has it.
fn read_small(shared: &Shared, node: NodeId, hash: ChunkHash, manifest: &Manifest) -> Option<Vec<u8>> {
    let source = shared.cache.open_for_hash(node).ok()?;
    let mut bytes = vec![0; usize::try_from(manifest.size()).ok()?];
    source.file.read_exact_at(&mut bytes, 0).ok()?;
    (ChunkHash::of(&bytes) == hash).then_some(bytes)
}

/// Makes a request of the plan's first components, as many as fit.
pub(super) fn build(
    shared: &Shared,
    client: ClientId,
    commit: u64,
    plan: Plan,
    small: HashMap<ChunkHash, Vec<u8>>,
) -> Result<InFlight, EngineError> {
    let mut request =
        CommitRequest { client, commit, groups: Vec::new(), contents: Vec::new(), small_chunks: Vec::new() };
    let mut notes = Notes { commit, seqs: Vec::new(), held: BTreeSet::new() };
    let mut contents = Contents { shared, small, known: HashSet::new(), chunks: Vec::new(), small_bytes: 0 };
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
    let small = contents.chunks;
    Ok(InFlight { notes, request, small })
}

/// Encodes the question that has the server keep a version of `original`, which the copy holds, beside the one that it has.
pub(super) fn past_message(
    shared: &Shared,
    client: ClientId,
    original: NodeId,
    version: &NodeRecord,
) -> Result<Bytes, EngineError> {
    let mut request = CommitRequest {
        client,
        commit: 0,
        groups: Vec::new(),
        contents: Vec::new(),
        small_chunks: Vec::new(),
    };
    let mut contents =
        Contents { shared, small: HashMap::new(), known: HashSet::new(), chunks: Vec::new(), small_bytes: 0 };
    if let Some(content) = version.content {
        contents.add(&mut request, version.id, content)?;
    }
    request.small_chunks = contents.chunks;
    let value = Some(Record::Node(NodeRecord { id: original, ..version.clone() }));
    let change = Change { key: RecordKey::Node(original), base: None, value };
    request.groups.push(ChangeGroup { changes: vec![change] });
    Ok(encode_sized(&request, small_chunks_len(&request.small_chunks)).into())
}

/// Gathers manifests and small bytes that the server may not have.
struct Contents<'a> {
    shared: &'a Shared,
    small: HashMap<ChunkHash, Vec<u8>>,
    known: HashSet<ContentId>,
    chunks: Vec<SmallChunk>,
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
            self.chunks.push(SmallChunk { hash, bytes });
        }
        request.contents.push(NewContent { manifest, file_hash });
        Ok(())
    }

    /// Returns the bytes of a small content; without them the server says that they are missing.
    fn small_bytes_of(&mut self, node: NodeId, hash: ChunkHash, manifest: &Manifest) -> Option<Vec<u8>> {
        self.small.remove(&hash).or_else(|| read_small(self.shared, node, hash, manifest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_survives_its_bytes_and_a_cut_one_is_refused() {
        let notes = Notes { commit: 7, seqs: vec![vec![1, 2], vec![3]], held: BTreeSet::from([2]) };
        let small = vec![SmallChunk { hash: ChunkHash::of(b"bytes"), bytes: b"bytes".to_vec() }];
        let request = CommitRequest {
            client: ClientId::new("host").expect("a name"),
            commit: 7,
            groups: Vec::new(),
            contents: Vec::new(),
            small_chunks: Vec::new(),
        };
        let mut flight = InFlight { notes: notes.clone(), request: request.clone(), small: small.clone() };
        let bytes = flight.encode();
        assert_eq!(InFlight::decode(&bytes).expect("whole"), (notes, request.clone()));
        for len in 0..bytes.len() {
            assert!(InFlight::decode(&bytes[..len]).is_err(), "{len}");
        }
        let sent: CommitRequest = decode(&flight.take_message()).expect("a message");
        assert_eq!(sent, CommitRequest { small_chunks: small, ..request });
    }
}
