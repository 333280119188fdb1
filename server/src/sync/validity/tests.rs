//! Limits, at the limit and one past it.

use std::collections::BTreeMap;

use dfs_shared::hash::ChunkHash;
use dfs_shared::manifest::ChunkRef;

use super::super::kit::{node, with};
use super::*;

fn check(kind: NodeKind, edit: impl FnOnce(&mut NodeRecord)) -> Result<(), String> {
    let record = with(NodeId::from_bytes([1; 16]), kind, edit);
    check_change(&Change { key: record.key(), base: None, value: Some(record) })
}

#[test]
fn limits_hold_at_the_limit_and_one_past_it() {
    let target =
        |len| check(NodeKind::Symlink, |node| (node.target, node.size) = (vec![b'x'; len], len as u64));
    assert!(target(TARGET_LEN_MAX).is_ok() && target(TARGET_LEN_MAX + 1).is_err());
    let mode = |mode| check(NodeKind::File, |node| node.mode = mode);
    assert!(mode(0o7777).is_ok() && mode(0o10000).is_err());
    let name = |len| check(NodeKind::File, |node| node.xattrs = BTreeMap::from([(vec![b'x'; len], vec![])]));
    assert!(name(XATTR_NAME_LEN_MAX).is_ok() && name(XATTR_NAME_LEN_MAX + 1).is_err());
    let value =
        |len| check(NodeKind::File, |node| node.xattrs = BTreeMap::from([(b"x".to_vec(), vec![0; len])]));
    assert!(value(XATTR_VALUE_LEN_MAX).is_ok() && value(XATTR_VALUE_LEN_MAX + 1).is_err());
    let sum = |rest: usize| {
        let pair = |name: u8, len| (vec![name], vec![0; len]);
        let values =
            [pair(1, XATTR_VALUE_LEN_MAX), pair(2, XATTRS_LEN_MAX - XATTR_VALUE_LEN_MAX - 3), pair(3, rest)];
        check(NodeKind::File, |node| node.xattrs = BTreeMap::from(values))
    };
    assert!(sum(0).is_ok() && sum(1).is_err());
}

#[test]
fn every_kind_has_a_plain_form_that_is_valid() {
    for kind in [NodeKind::File, NodeKind::Directory, NodeKind::Fifo, NodeKind::Socket, NodeKind::CharDevice]
    {
        let record = node(NodeId::from_bytes([1; 16]), kind);
        assert_eq!(check_change(&Change { key: record.key(), base: None, value: Some(record) }), Ok(()));
    }
    assert_eq!(check(NodeKind::BlockDevice, |node| node.rdev = 5), Ok(()));
}

#[test]
fn chunk_lengths_are_checked_at_the_limit_and_one_past_it() {
    let manifest =
        |hash, len| check_manifest(&Manifest { chunk_log2: 14, chunks: vec![ChunkRef { hash, len }] });
    let hash = ChunkHash::of(b"x");
    assert!(manifest(hash, CHUNK_LEN_MAX).is_ok() && manifest(hash, CHUNK_LEN_MAX + 1).is_err());
    assert!(manifest(hash, 1).is_ok() && manifest(hash, 0).is_err());
    assert!(manifest(ChunkHash::HOLE, 1 << 50).is_ok() && manifest(ChunkHash::HOLE, 0).is_err());
    assert!(check_chunk_count(MANIFEST_CHUNKS_MAX).is_ok());
    assert!(check_chunk_count(MANIFEST_CHUNKS_MAX + 1).is_err());
    let log2 = |chunk_log2| check_manifest(&Manifest { chunk_log2, chunks: vec![] });
    assert!(log2(CHUNK_LOG2_MAX).is_ok() && log2(CHUNK_LOG2_MAX + 1).is_err());
    assert!(log2(CHUNK_LOG2_MIN).is_ok() && log2(CHUNK_LOG2_MIN - 1).is_err());
}
