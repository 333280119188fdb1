//! The volume's Merkle tree, stored beside its records and changed in the same transaction.

use dfs_shared::hash::MerkleHash;
use dfs_shared::merkle::{self, MerkleError, NodeStore};
use dfs_shared::wire::messages::{CurrentRecord, MerkleNode};

use crate::limits::UPKEEP_PAGE_LEN;
use crate::metadata::{MetadataError, ReadMetadata, Volume, VolumeKey, WriteMetadata};

/// Updates the tree to the records' new state; returns its root.
pub(super) fn update(
    tx: &mut dyn WriteMetadata,
    volume: VolumeKey,
    records: &[CurrentRecord],
) -> Result<MerkleHash, MetadataError> {
    let changes = records.iter().map(|current| {
        let hash = current.value.as_ref().map(|value| merkle::record_hash(&current.key, value));
        (current.key.clone(), hash)
    });
    merkle::apply(&mut Nodes { tx, volume }, changes.collect()).map_err(store_error)
}

/// Reads a node of the tree, to answer a mount's walk.
///
/// # Errors
/// [`MetadataError`] when the database fails or the node is damaged.
pub fn node(tx: &dyn ReadMetadata, volume: VolumeKey, prefix: &[u8]) -> Result<MerkleNode, MetadataError> {
    merkle::node(&Snapshot { tx, volume }, prefix).map_err(store_error)
}

/// Makes the tree anew from the records, and gives the volume its root and the bytes of its files.
///
/// # Errors
/// [`MetadataError`] when the database fails or a record is damaged.
pub fn rebuild(tx: &mut dyn WriteMetadata, volume: &Volume) -> Result<(), MetadataError> {
    tx.clear_merkle(volume.key)?;
    let (mut after, mut root, mut used) = (None, MerkleHash::EMPTY, 0_u64);
    loop {
        let page = tx.records_from(volume.key, after.as_ref(), UPKEEP_PAGE_LEN)?;
        let Some(last) = page.last() else {
            return tx.advance_volume(volume.key, volume.revision, root, used);
        };
        after = Some(last.record.key());
        used = page.iter().fold(used, |used, found| used.wrapping_add(found.record.quota_len()));
        let records: Vec<_> = page
            .into_iter()
            .map(|found| CurrentRecord { key: found.record.key(), value: Some(found) })
            .collect();
        root = update(tx, volume.key, &records)?;
    }
}

/// Reads how many records the volume has.
pub(super) fn count(tx: &dyn ReadMetadata, volume: VolumeKey) -> Result<u64, MetadataError> {
    merkle::count(&Snapshot { tx, volume }).map_err(store_error)
}

fn store_error(error: MerkleError<MetadataError>) -> MetadataError {
    match error {
        MerkleError::Store(error) => error,
        MerkleError::Damaged { .. } => MetadataError::Damaged { what: "Merkle node", source: None },
    }
}

struct Nodes<'a> {
    tx: &'a mut dyn WriteMetadata,
    volume: VolumeKey,
}

impl NodeStore for Nodes<'_> {
    type Error = MetadataError;

    fn get(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, MetadataError> {
        self.tx.merkle_node(self.volume, prefix)
    }

    fn put(&mut self, prefix: &[u8], node: Vec<u8>) -> Result<(), MetadataError> {
        self.tx.put_merkle_node(self.volume, prefix, Some(&node))
    }

    fn remove(&mut self, prefix: &[u8]) -> Result<(), MetadataError> {
        self.tx.put_merkle_node(self.volume, prefix, None)
    }
}

struct Snapshot<'a> {
    tx: &'a dyn ReadMetadata,
    volume: VolumeKey,
}

impl NodeStore for Snapshot<'_> {
    type Error = MetadataError;

    fn get(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, MetadataError> {
        self.tx.merkle_node(self.volume, prefix)
    }

    fn put(&mut self, _: &[u8], _: Vec<u8>) -> Result<(), MetadataError> {
        unreachable!("a snapshot is only read")
    }

    fn remove(&mut self, _: &[u8]) -> Result<(), MetadataError> {
        unreachable!("a snapshot is only read")
    }
}
