//! Lists of a message whose decoding ends as soon as they are too long.
//!
//! An item of one byte takes dozens in memory, so a message within its own limit could otherwise fill the memory of who reads it
//! before anything is counted. Invariant: no more items are held than the limit allows.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::limits::COMMIT_CHANGES_MAX;
use crate::record::{Change, ChangeGroup};

/// Decodes a list of at most `MAX` items.
///
/// # Errors
/// Those of the deserializer, and that the list is too long.
pub(super) fn list<'de, const MAX: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    List { left: &mut { MAX }, item: PhantomData }.deserialize(deserializer)
}

/// Decodes the groups of a commit: at most [`COMMIT_CHANGES_MAX`] groups, and as many changes in all of them together.
///
/// # Errors
/// Those of the deserializer, and that there are too many.
pub(super) fn groups<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ChangeGroup>, D::Error> {
    deserializer.deserialize_seq(Groups)
}

/// A list that may have so many more items.
struct List<'a, T> {
    left: &'a mut usize,
    item: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for List<'_, T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<'_, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            *self.left = self.left.checked_sub(1).ok_or_else(too_long)?;
            all.push(item);
        }
        Ok(all)
    }
}

struct Groups;

impl<'de> Visitor<'de> for Groups {
    type Value = Vec<ChangeGroup>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the groups of a commit")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<ChangeGroup>, A::Error> {
        let (mut all, mut left) = (Vec::new(), COMMIT_CHANGES_MAX);
        while let Some(group) = items.next_element_seed(Group { left: &mut left })? {
            if all.len() == COMMIT_CHANGES_MAX {
                return Err(too_long());
            }
            all.push(group);
        }
        Ok(all)
    }
}

/// A group that may have so many more changes. The encoding has no names, so a group is a sequence of its one field.
struct Group<'a> {
    left: &'a mut usize,
}

impl<'de> DeserializeSeed<'de> for Group<'_> {
    type Value = ChangeGroup;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ChangeGroup, D::Error> {
        deserializer.deserialize_struct("ChangeGroup", &["changes"], self)
    }
}

impl<'de> Visitor<'de> for Group<'_> {
    type Value = ChangeGroup;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a group of changes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<ChangeGroup, A::Error> {
        let changes = fields.next_element_seed(List { left: self.left, item: PhantomData::<Change> })?;
        Ok(ChangeGroup { changes: changes.ok_or_else(|| A::Error::invalid_length(0, &"the changes"))? })
    }
}

fn too_long<E: Error>() -> E {
    E::custom("a list is longer than the protocol allows")
}

#[cfg(test)]
mod tests {
    use crate::hash::{ChunkHash, MerkleHash, RecordHash};
    use crate::ids::{ClientId, NodeId};
    use crate::limits::{
        COMMIT_CHANGES_MAX, HISTORY_ITEMS_MAX, MERKLE_LEAF_RECORDS_MAX, QUERY_ITEMS_MAX, REFUSED_RECORDS_MAX,
        REPORT_EVENTS_MAX, REPORT_HELD_MAX,
    };
    use crate::manifest::Manifest;
    use crate::record::{Change, ChangeGroup, RecordKey};
    use crate::revision::Revision;
    use crate::time::Timestamp;
    use crate::wire::history::{FileVersion, HistoryReply, RemovedName, VersionState};
    use crate::wire::messages::{
        CommitReply, CommitRequest, Committed, ContentsReply, CurrentRecord, GroupOutcome, MerkleChild,
        MerkleLeafRecord, MerkleNode, MerkleReply, MerkleRequest, MissingReply, NewContent, RecordsReply,
        Refusal, SmallChunk,
    };
    use crate::wire::report::{Held, Holding, MountEvent, ReportRequest};
    use crate::wire::{decode, encode};

    /// A message has this list as one of its own, at the limit and one past it.
    fn bounds<M>(max: usize, message: impl Fn(usize) -> M)
    where
        M: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
    {
        let longest = message(max);
        assert!(decode::<M>(&encode(&longest)).expect("at the limit") == longest);
        assert!(decode::<M>(&encode(&message(max + 1))).is_err(), "one past {max}");
    }

    fn commit() -> CommitRequest {
        CommitRequest {
            client: ClientId::new("c").expect("an id"),
            commit: 1,
            groups: Vec::new(),
            contents: Vec::new(),
            small_chunks: Vec::new(),
        }
    }

    fn group(changes: usize) -> ChangeGroup {
        let change = || Change { key: RecordKey::Node(NodeId::ROOT), base: None, value: None };
        ChangeGroup { changes: (0..changes).map(|_| change()).collect() }
    }

    #[test]
    fn lists_of_a_commit_end_the_decoding_one_past_the_limit() {
        let max = COMMIT_CHANGES_MAX;
        bounds(max, |count| CommitRequest { groups: vec![group(0); count], ..commit() });
        bounds(max, |count| CommitRequest { groups: vec![group(1), group(count - 1)], ..commit() });
        let content = NewContent { manifest: Manifest::default(), file_hash: None };
        bounds(max, |count| CommitRequest { contents: vec![content.clone(); count], ..commit() });
        let chunk = SmallChunk { hash: ChunkHash::of(b"x"), bytes: b"x".to_vec() };
        bounds(max, |count| CommitRequest { small_chunks: vec![chunk.clone(); count], ..commit() });
    }

    #[test]
    fn lists_of_small_items_end_the_decoding_one_past_the_limit() {
        bounds(QUERY_ITEMS_MAX, |count| MerkleRequest { prefixes: vec![Vec::new(); count] });
        let client = ClientId::new("c").expect("an id");
        let report = ReportRequest { client, after: 0, anew: false, held: vec![], events: vec![] };
        let held = Held { node: NodeId::ROOT, holding: Holding::Nothing };
        bounds(REPORT_HELD_MAX, |count| ReportRequest { held: vec![held; count], ..report.clone() });
        let event = MountEvent::SyncStarted;
        bounds(REPORT_EVENTS_MAX, |count| ReportRequest {
            events: vec![event.clone(); count],
            ..report.clone()
        });
    }
    fn commit_reply(outcomes: Vec<GroupOutcome>) -> CommitReply {
        CommitReply { outcomes, revision: Revision(1), root: MerkleHash::EMPTY }
    }

    #[test]
    fn lists_of_a_commits_reply_end_the_decoding_one_past_the_limit() {
        bounds(COMMIT_CHANGES_MAX, |count| commit_reply(vec![GroupOutcome::Accepted; count]));
        let refused = |reason, current| commit_reply(vec![GroupOutcome::Refused { reason, current }; 1]);
        let key = RecordKey::Node(NodeId::ROOT);
        let changed = Refusal::BaseChanged { key: key.clone() };
        let record = CurrentRecord { key, value: None };
        bounds(REFUSED_RECORDS_MAX, |count| refused(changed.clone(), vec![record.clone(); count]));
        bounds(QUERY_ITEMS_MAX, |count| {
            refused(Refusal::ChunksMissing { hashes: vec![ChunkHash::HOLE; count] }, Vec::new())
        });
        let content = Manifest::default().id();
        bounds(COMMIT_CHANGES_MAX, |count| {
            refused(Refusal::ContentMissing { contents: vec![content; count] }, Vec::new())
        });
    }

    #[test]
    fn lists_of_other_replies_end_the_decoding_one_past_the_limit() {
        let max = QUERY_ITEMS_MAX;
        let (revision, key) = (Revision(1), RecordKey::Node(NodeId::ROOT));
        bounds(max, |count| MissingReply { missing: vec![ChunkHash::HOLE; count] });
        bounds(max, |count| ContentsReply { manifests: vec![None; count] });
        let record = CurrentRecord { key: key.clone(), value: None };
        bounds(max, |count| RecordsReply { revision, records: vec![record.clone(); count] });
        let node = |count| {
            let hash = RecordHash::from_bytes([1; 32]);
            MerkleNode::Leaf { records: vec![MerkleLeafRecord { key: key.clone(), hash }; count] }
        };
        bounds(max, |count| MerkleReply { revision, nodes: vec![node(0); count] });
        bounds(MERKLE_LEAF_RECORDS_MAX, node);
        let child = MerkleChild { hash: MerkleHash::EMPTY, count: 0 };
        bounds(16, |count| MerkleNode::Branch { children: vec![child; count] });
        let name = RemovedName {
            name: Vec::new(),
            is_directory: false,
            size: 0,
            at: Timestamp::default(),
            by: None,
        };
        bounds(HISTORY_ITEMS_MAX, |count| HistoryReply::Removed {
            names: vec![name.clone(); count],
            next: None,
        });
        let version = FileVersion {
            number: 1,
            revision,
            size: 0,
            mtime: Timestamp::default(),
            mode: 0,
            content: None,
            author: None,
            state: VersionState::Current,
        };
        bounds(HISTORY_ITEMS_MAX, |count| HistoryReply::Versions { versions: vec![version.clone(); count] });
    }

    #[test]
    fn lists_of_an_event_end_the_decoding_one_past_the_limit() {
        let max = COMMIT_CHANGES_MAX;
        let event = Committed {
            revision: Revision(1),
            root: MerkleHash::EMPTY,
            client: ClientId::new("c").expect("an id"),
            commit: 1,
            records: Vec::new(),
            manifests: Vec::new(),
            small_chunks: Vec::new(),
        };
        let record = CurrentRecord { key: RecordKey::Node(NodeId::ROOT), value: None };
        bounds(max, |count| Committed { records: vec![record.clone(); count], ..event.clone() });
        bounds(max, |count| Committed { manifests: vec![Manifest::default(); count], ..event.clone() });
        let chunk = SmallChunk { hash: ChunkHash::of(b"x"), bytes: b"x".to_vec() };
        bounds(max, |count| Committed { small_chunks: vec![chunk.clone(); count], ..event.clone() });
    }
}
