//! Wire messages, frames of the event stream, headers of chunks and keys of records.

use std::collections::BTreeMap;
use std::fmt::Debug;

use dfs_shared::hash::{ChunkHash, MerkleHash};
use dfs_shared::ids::{ClientId, NodeId, VolumeId};
use dfs_shared::lineage::{Known, State};
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::name::Name;
use dfs_shared::record::{
    Change, ChangeGroup, EntryRecord, NodeKind, NodeRecord, Record, RecordKey, Versioned,
};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::chunks::{CHUNK_HEADER_LEN, ChunkBody, ChunkHeader};
use dfs_shared::wire::history::{FileVersion, HistoryReply, HistoryRequest, VersionState};
use dfs_shared::wire::messages::*;
use dfs_shared::wire::report::{Held, Holding, MountEvent, ReportReply, ReportRequest};
use dfs_shared::wire::{WireError, decode, decode_frame, encode, encode_frame};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Target, place_in};

pub(super) fn target() -> Target {
    Target {
        name: "wire messages",
        seeds: seeds(),
        words: &[
            b"dfsw\0\x01",
            b"dfsw\0\x02",
            b"\0",
            b"\x01",
            b"\x02",
            b"\xfb\xff\xff",
            b"\xfc\xff\xff\xff\xff",
            b"\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xfe",
            b"\xff",
            b"/",
            b"..",
        ],
        check,
        answers_min: 60,
    }
}

fn node() -> Record {
    let now = Timestamp { secs: 1_700_000_000, nanos: 5 };
    Record::Node(NodeRecord {
        id: NodeId::from_bytes([7; 16]),
        kind: NodeKind::File,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        atime: now,
        mtime: now,
        ctime: now,
        crtime: now,
        size: 5,
        content: Some(manifest().id()),
        rdev: 0,
        target: b"to".to_vec(),
        xattrs: BTreeMap::from([(b"user.a".to_vec(), b"b".to_vec())]),
    })
}

fn entry() -> Record {
    let name = Name::new(b"name").expect("a name");
    Record::Entry(EntryRecord { parent: NodeId::ROOT, name, node: NodeId::from_bytes([7; 16]) })
}

fn manifest() -> Manifest {
    Manifest { chunk_log2: 16, chunks: vec![ChunkRef { hash: ChunkHash::of(b"hello"), len: 5 }] }
}

fn current(record: Record) -> CurrentRecord {
    CurrentRecord { key: record.key(), value: Some(Versioned { revision: Revision(3), record }) }
}

fn version() -> FileVersion {
    FileVersion {
        number: 2,
        revision: Revision(300),
        size: 5,
        mtime: Timestamp { secs: 1_700_000_000, nanos: 5 },
        mode: 0o644,
        content: Some(manifest().id()),
        author: Some("laptop-1".into()),
        state: VersionState::Replaced,
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let client = ClientId::new("laptop-1").expect("an id");
    let (revision, root) = (Revision(300), MerkleHash::EMPTY);
    let change = |record: Record| Change { key: record.key(), base: Some(Revision(2)), value: Some(record) };
    let groups = vec![ChangeGroup { changes: vec![change(node()), change(entry())] }];
    let small_chunks = vec![SmallChunk { hash: ChunkHash::of(b"hello"), bytes: b"hello".to_vec() }];
    let contents = vec![NewContent { manifest: manifest(), file_hash: Some(ChunkHash::of(b"hello")) }];
    let refused = GroupOutcome::Refused {
        reason: Refusal::NotEmpty { key: node().key() },
        current: vec![current(node())],
    };
    let over_quota = GroupOutcome::Refused {
        reason: Refusal::OverQuota { limit: 300, used: 70_000, growth: 1 },
        current: Vec::new(),
    };
    let leaf = MerkleNode::Leaf { records: Vec::new() };
    let branch = MerkleNode::Branch { children: vec![MerkleChild { hash: root, count: 0 }; 16] };
    let hello = StreamFrame::Hello { volume: VolumeId::from_bytes([9; 16]), revision, root };
    vec![
        encode(&RegisterRequest {
            client_name: "laptop".into(),
            client: Some(client.clone()),
            uid: 1,
            gid: 300,
        }),
        encode(&ReportRequest {
            client: client.clone(),
            after: 7,
            anew: true,
            held: vec![
                Held { node: NodeId::ROOT, holding: Holding::Nothing },
                Held { node: NodeId::from_bytes([7; 16]), holding: Holding::Whole(Some(manifest().id())) },
            ],
            events: vec![
                MountEvent::SyncStarted,
                MountEvent::Downloaded { path: b"a/b".to_vec(), content: manifest().id(), size: 5 },
                MountEvent::ConflictResolved { path: b"a".to_vec(), copy: b"b".to_vec() },
            ],
        }),
        encode(&ReportReply { number: 8, is_noted: true }),
        encode(&LineageRequest {
            seen: vec![State { revision, root }, State { revision: Revision(301), root }],
        }),
        encode(&LineageReply { known: Known { common: Some(revision), kept_from: Revision(2) } }),
        encode(&HistoryRequest::Versions { path: b"a/b".to_vec() }),
        encode(&HistoryRequest::Removed { path: b"a".to_vec(), after: b"b".to_vec() }),
        encode(&HistoryReply::Versions { versions: vec![version()] }),
        encode(&CommitRequest { client, commit: 7, groups, contents, small_chunks }),
        encode(&CommitReply { outcomes: vec![GroupOutcome::Accepted, refused, over_quota], revision, root }),
        encode(&MissingRequest { hashes: vec![ChunkHash::of(b"a"), ChunkHash::of(b"b")] }),
        encode(&ContentsRequest { contents: vec![manifest().id()] }),
        encode(&ContentsReply { manifests: vec![None, Some(manifest())] }),
        encode(&RecordsRequest { keys: vec![node().key(), entry().key()] }),
        encode(&RecordsReply { revision, records: vec![current(node()), current(entry())] }),
        encode(&MerkleRequest { prefixes: vec![Vec::new(), vec![1, 15]] }),
        encode(&MerkleReply { revision, nodes: vec![leaf, branch] }),
        [encode_frame(&hello), encode_frame(&StreamFrame::Lagged)].concat(),
        encode_frame(&StreamFrame::Heartbeat { revision }),
        encode_frame(&StreamFrame::Quota { limit: Some(300) }),
        ChunkHeader { hash: ChunkHash::of(b"a"), body: ChunkBody::Bytes(5) }.encode().to_vec(),
        entry().key().to_bytes(),
        node().key().to_bytes(),
    ]
}

/// Decodes one type: what is read is encoded and read again the same.
fn message<T: Serialize + DeserializeOwned + PartialEq + Debug>(input: &[u8]) -> char {
    match decode::<T>(input) {
        Ok(message) => {
            let again = decode::<T>(&encode(&message)).expect("what was encoded is a message");
            assert_eq!(again, message);
            'M'
        }
        Err(error) => letter(&error),
    }
}

fn letter(error: &WireError) -> char {
    assert!(!error.to_string().is_empty());
    match error {
        WireError::NotAMessage => 'n',
        WireError::UnknownVersion { .. } => 'v',
        WireError::TooLong { .. } => 'l',
        WireError::Damaged { .. } => 'd',
        WireError::TrailingBytes { .. } => 't',
    }
}

fn check(input: &[u8]) -> String {
    [
        message::<RegisterRequest>(input),
        message::<LineageRequest>(input),
        message::<LineageReply>(input),
        message::<HistoryRequest>(input),
        message::<HistoryReply>(input),
        message::<ReportRequest>(input),
        message::<ReportReply>(input),
        message::<CommitRequest>(input),
        message::<CommitReply>(input),
        message::<MissingRequest>(input),
        message::<ContentsRequest>(input),
        message::<ContentsReply>(input),
        message::<RecordsRequest>(input),
        message::<RecordsReply>(input),
        message::<MerkleRequest>(input),
        message::<MerkleReply>(input),
        frame(input),
        chunk_header(input),
        key(input),
    ]
    .iter()
    .collect()
}

/// Takes a frame off: less than it takes is no frame yet, more changes nothing.
fn frame(input: &[u8]) -> char {
    let prefix = &input[..place_in(input)];
    match decode_frame::<StreamFrame>(input) {
        Ok(Some((frame, len))) => {
            match decode_frame::<StreamFrame>(prefix).expect("a frame's beginning is no error") {
                Some(again) => assert_eq!(again, (frame, len)),
                None => assert!(prefix.len() < len),
            }
            'M'
        }
        Ok(None) => {
            assert!(decode_frame::<StreamFrame>(prefix).is_ok_and(|frame| frame.is_none()));
            'i'
        }
        Err(error) => letter(&error),
    }
}

fn chunk_header(input: &[u8]) -> char {
    let Some(bytes) = input.first_chunk::<CHUNK_HEADER_LEN>() else { return 'i' };
    match ChunkHeader::decode(bytes) {
        Ok(header) => {
            assert_eq!(&header.encode(), bytes);
            match header.body {
                ChunkBody::Bytes(_) => 'b',
                ChunkBody::Absent => 'a',
                ChunkBody::Corrupt => 'c',
            }
        }
        Err(_) => 'e',
    }
}

fn key(input: &[u8]) -> char {
    match RecordKey::from_bytes(input) {
        Some(key) => {
            assert_eq!(key.to_bytes(), input);
            'k'
        }
        None => 'n',
    }
}
