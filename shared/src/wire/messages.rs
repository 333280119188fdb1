//! The messages of the sync routes. docs/PROTOCOL.md has the table of routes.

use serde::{Deserialize, Serialize};

use crate::hash::{ChunkHash, ContentId, MerkleHash, RecordHash};
use crate::ids::{ClientId, VolumeId};
use crate::limits::{
    COMMIT_CHANGES_MAX, MERKLE_LEAF_RECORDS_MAX, NAMESAKES_MAX, QUERY_ITEMS_MAX, REFUSED_RECORDS_MAX,
};
use crate::lineage::{Known, State};
use crate::manifest::Manifest;
use crate::record::{ChangeGroup, RecordKey, Versioned};
use crate::revision::Revision;
use crate::time::Timestamp;

/// Introduces a mount: `POST /sync/{volume}/register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// Human name of the client, usually the host name.
    pub client_name: String,
    /// The id that an earlier registration gave, if any.
    pub client: Option<ClientId>,
    /// Owner that the root directory gets if nobody registered with the volume before.
    pub uid: u32,
    /// Group that the root directory gets if nobody registered with the volume before.
    pub gid: u32,
}

/// Answers [`RegisterRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterReply {
    /// The id to use from now on.
    pub client: ClientId,
    /// Which life of the volume this is.
    pub volume: VolumeId,
    /// The volume's newest revision.
    pub revision: Revision,
    /// The Merkle root at that revision.
    pub root: MerkleHash,
    /// The server's version, for people.
    pub server_version: String,
}

/// Asks what the server knows of the asking client: `POST /sync/{volume}/whoami`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoamiRequest {
    /// Who asks.
    pub client: ClientId,
}

/// Answers [`WhoamiRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoamiReply {
    /// What time it is by the server's clock.
    pub time: Timestamp,
    /// Other clients of the volume that registered under the same name, those seen last first, at most `limits::NAMESAKES_MAX`.
    #[serde(deserialize_with = "super::bounded::list::<NAMESAKES_MAX, _, _>")]
    pub namesakes: Vec<Namesake>,
}

/// A client that has the name of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namesake {
    /// Its id.
    pub client: ClientId,
    /// When it registered last, by the server's clock.
    pub last_seen: Timestamp,
}

/// Asks whether the volume goes on from what the mount saw of it: `POST /sync/{volume}/lineage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageRequest {
    /// States that the server told, the oldest first, at most `limits::STATES_SEEN_MAX`.
    pub seen: Vec<State>,
}

/// Answers [`LineageRequest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineageReply {
    /// What the server knows about those states.
    pub known: Known,
}

/// A content that a commit refers to and the server may not know yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewContent {
    /// The content.
    pub manifest: Manifest,
    /// SHA-256 of the file's bytes where the mount read them all anyway.
    pub file_hash: Option<ChunkHash>,
}

/// The bytes of a chunk that travels inside a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SmallChunk {
    /// The chunk's name; checked by whoever receives it.
    pub hash: ChunkHash,
    /// Its bytes, at most `limits::SMALL_CONTENT_LEN_MAX`.
    #[serde(with = "crate::byte_string")]
    pub bytes: Vec<u8>,
}

/// Asks for change groups to be made true: `POST /sync/{volume}/commit`.
///
/// A repeated request (same client and `commit`) gets the first reply again and changes nothing; another one of its number is
/// refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitRequest {
    /// Who asks.
    pub client: ClientId,
    /// The client's number for this request; grows by one from request to request.
    pub commit: u64,
    /// The groups, in order; each is accepted or refused on its own, later ones may build on earlier ones.
    /// At most `limits::COMMIT_CHANGES_MAX`, and as many changes in all of them.
    #[serde(deserialize_with = "super::bounded::groups")]
    pub groups: Vec<ChangeGroup>,
    /// Manifests of all contents that the groups introduce, at most `limits::COMMIT_CHANGES_MAX`.
    #[serde(deserialize_with = "super::bounded::list::<COMMIT_CHANGES_MAX, _, _>")]
    pub contents: Vec<NewContent>,
    /// Bytes of small contents, at most `limits::COMMIT_CHANGES_MAX` chunks.
    #[serde(deserialize_with = "super::bounded::list::<COMMIT_CHANGES_MAX, _, _>")]
    pub small_chunks: Vec<SmallChunk>,
}

impl CommitRequest {
    /// Returns what tells this request from another one that has its number by mistake: the hash of its groups, which stay as
    /// they are when it is repeated.
    #[must_use]
    pub fn fingerprint(&self) -> ChunkHash {
        ChunkHash::of(&super::encode_plain(&self.groups))
    }
}

/// What a message with small chunks takes, about, for [`super::encode_sized`].
#[must_use]
pub fn small_chunks_len(chunks: &[SmallChunk]) -> usize {
    chunks.iter().map(|chunk| chunk.bytes.len() + 512).sum()
}

/// Answers [`CommitRequest`]. Everything accepted is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitReply {
    /// One outcome for each group, in order.
    #[serde(deserialize_with = "super::bounded::list::<COMMIT_CHANGES_MAX, _, _>")]
    pub outcomes: Vec<GroupOutcome>,
    /// The revision of the accepted groups, or the volume's newest if none was.
    pub revision: Revision,
    /// The Merkle root at that revision.
    pub root: MerkleHash,
}

/// What became of one group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupOutcome {
    /// All its records carry the reply's revision now.
    Accepted,
    /// Nothing of it was done.
    Refused {
        /// The first rule that it broke.
        reason: Refusal,
        /// The records as the server has them: all keys of the group, and those that the rule is about. At most
        /// `limits::REFUSED_RECORDS_MAX`.
        #[serde(deserialize_with = "super::bounded::list::<REFUSED_RECORDS_MAX, _, _>")]
        current: Vec<CurrentRecord>,
    },
}

/// Why a group was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// A record changed since the revision that the change was based on.
    BaseChanged {
        /// The record.
        key: RecordKey,
    },
    /// An entry's directory is missing or no directory.
    ParentMissing {
        /// The entry.
        key: RecordKey,
    },
    /// An entry leads to a node that is missing.
    TargetMissing {
        /// The entry.
        key: RecordKey,
    },
    /// A directory would be inside itself.
    Cycle {
        /// The entry that would close the circle.
        key: RecordKey,
    },
    /// A directory would have two names, or a node none.
    WrongLinkCount {
        /// The node.
        key: RecordKey,
    },
    /// A directory to be removed still has entries.
    NotEmpty {
        /// The directory's node.
        key: RecordKey,
    },
    /// Chunks of a content are not on the server: upload them and repeat.
    ChunksMissing {
        /// The chunks.
        #[serde(deserialize_with = "super::bounded::list::<QUERY_ITEMS_MAX, _, _>")]
        hashes: Vec<ChunkHash>,
    },
    /// The manifest of a content is neither in the request nor on the server.
    ContentMissing {
        /// The contents.
        #[serde(deserialize_with = "super::bounded::list::<COMMIT_CHANGES_MAX, _, _>")]
        contents: Vec<ContentId>,
    },
    /// A record is malformed: a limit is passed, or key and value disagree.
    Invalid {
        /// The record.
        key: RecordKey,
        /// What is wrong with it.
        why: String,
    },
    /// The volume would have more bytes than its quota. Only for who says `quota=1`; others get [`Refusal::Invalid`].
    OverQuota {
        /// Most bytes that the volume's files may have together.
        limit: u64,
        /// Bytes that they have.
        used: u64,
        /// Bytes by which the group would grow them.
        growth: u64,
    },
}

/// A record as the server has it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentRecord {
    /// Which record.
    pub key: RecordKey,
    /// Its state; `None` when it does not exist.
    pub value: Option<Versioned>,
}

/// Asks which chunks the server lacks: `POST /sync/{volume}/missing`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingRequest {
    /// The chunks in question, at most `limits::QUERY_ITEMS_MAX`.
    pub hashes: Vec<ChunkHash>,
}

/// Answers [`MissingRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingReply {
    /// Those of the asked chunks that have to be uploaded.
    #[serde(deserialize_with = "super::bounded::list::<QUERY_ITEMS_MAX, _, _>")]
    pub missing: Vec<ChunkHash>,
}

/// Asks for chunks: `POST /sync/{volume}/chunks/get`; the reply is a batch of chunk frames in the order asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunksRequest {
    /// The chunks, at most `limits::QUERY_ITEMS_MAX`.
    pub hashes: Vec<ChunkHash>,
}

/// Asks for manifests: `POST /sync/{volume}/contents`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentsRequest {
    /// The contents, at most `limits::QUERY_ITEMS_MAX`.
    pub contents: Vec<ContentId>,
}

/// Answers [`ContentsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentsReply {
    /// The manifests in the order asked; `None` for an unknown content.
    #[serde(deserialize_with = "super::bounded::list::<QUERY_ITEMS_MAX, _, _>")]
    pub manifests: Vec<Option<Manifest>>,
}

/// Asks for records: `POST /sync/{volume}/records`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsRequest {
    /// The keys, at most `limits::QUERY_ITEMS_MAX`.
    pub keys: Vec<RecordKey>,
}

/// Answers [`RecordsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordsReply {
    /// The volume's newest revision when the records were read.
    pub revision: Revision,
    /// One record for each key, in the order asked.
    #[serde(deserialize_with = "super::bounded::list::<QUERY_ITEMS_MAX, _, _>")]
    pub records: Vec<CurrentRecord>,
}

/// Asks for nodes of the Merkle tree: `POST /sync/{volume}/merkle`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MerkleRequest {
    /// Which nodes: nibbles (0 to 15) from the root; the empty prefix is the root. At most `limits::QUERY_ITEMS_MAX`.
    #[serde(deserialize_with = "super::bounded::list::<QUERY_ITEMS_MAX, _, _>")]
    pub prefixes: Vec<Vec<u8>>,
}

/// Answers [`MerkleRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MerkleReply {
    /// The volume's newest revision when the nodes were read.
    pub revision: Revision,
    /// The nodes in the order asked; an absent node is an empty leaf.
    #[serde(deserialize_with = "super::bounded::list::<QUERY_ITEMS_MAX, _, _>")]
    pub nodes: Vec<MerkleNode>,
}

/// One node of the Merkle tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MerkleNode {
    /// Few records: all of them, sorted by the hash of their key.
    Leaf {
        /// The records.
        #[serde(deserialize_with = "super::bounded::list::<MERKLE_LEAF_RECORDS_MAX, _, _>")]
        records: Vec<MerkleLeafRecord>,
    },
    /// Many records: sixteen children by the next nibble of the key's hash.
    Branch {
        /// Hash and number of records of each child.
        #[serde(deserialize_with = "super::bounded::list::<16, _, _>")]
        children: Vec<MerkleChild>,
    },
}

/// A record as a leaf of the Merkle tree names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MerkleLeafRecord {
    /// Which record.
    pub key: RecordKey,
    /// The hash of its state.
    pub hash: RecordHash,
}

/// A child as a branch of the Merkle tree names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MerkleChild {
    /// The child's hash; [`MerkleHash::EMPTY`] when it has no records.
    pub hash: MerkleHash,
    /// How many records are below it.
    pub count: u64,
}

/// What the event stream carries: `GET /sync/{volume}/stream?client=ID`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamFrame {
    /// The first frame: every later commit will be pushed.
    Hello {
        /// Which life of the volume this is.
        volume: VolumeId,
        /// The newest revision that will not be pushed.
        revision: Revision,
        /// The Merkle root at that revision.
        root: MerkleHash,
    },
    /// A commit.
    Committed(Committed),
    /// Nothing happened for a while.
    Heartbeat {
        /// The volume's newest revision.
        revision: Revision,
    },
    /// The reader was too slow and frames were dropped: reconcile.
    Lagged,
    /// The volume's quota: right after [`StreamFrame::Hello`] and whenever it is set. Only for who says `quota=1`.
    Quota {
        /// Most bytes that the volume's files may have together; `None` for any number.
        limit: Option<u64>,
    },
}

/// A commit as it is pushed to the mounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Committed {
    /// The commit's revision; follows the one before without a gap.
    pub revision: Revision,
    /// The Merkle root after it.
    pub root: MerkleHash,
    /// Who committed.
    pub client: ClientId,
    /// That client's number for the commit.
    pub commit: u64,
    /// Every changed record with its new state. This and what follows is empty on the committer's own stream.
    #[serde(deserialize_with = "super::bounded::list::<COMMIT_CHANGES_MAX, _, _>")]
    pub records: Vec<CurrentRecord>,
    /// Manifests of contents that are new in these records, if not too long.
    #[serde(deserialize_with = "super::bounded::list::<COMMIT_CHANGES_MAX, _, _>")]
    pub manifests: Vec<Manifest>,
    /// Bytes of those contents that are small.
    #[serde(deserialize_with = "super::bounded::list::<COMMIT_CHANGES_MAX, _, _>")]
    pub small_chunks: Vec<SmallChunk>,
}
