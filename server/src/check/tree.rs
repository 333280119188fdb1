//! Whether a volume's Merkle tree is exactly that of its records, without holding either in memory.
//!
//! Every node has the hash that its parent names, every record that a leaf names is there with that hash, and there are
//! as many records as the tree counts: then each record is named exactly once. And whether the records' files have as many bytes
//! as are counted against the quota.

use dfs_shared::hash::MerkleHash;
use dfs_shared::merkle::record_hash;
use dfs_shared::wire::messages::{MerkleChild, MerkleNode};

use super::{Problem, Report};
use crate::gc::Progress;
use crate::metadata::{MetadataError, ReadMetadata, Volume};
use crate::sync::merkle_node;

pub(super) fn check(
    snapshot: &dyn ReadMetadata,
    volume: &Volume,
    report: &mut Report,
    progress: &mut Progress<'_>,
) -> Result<(), MetadataError> {
    let named = match walk(snapshot, volume, progress) {
        Ok(Ok(named)) => named,
        Ok(Err(why)) => {
            report.add(Problem::Tree { volume: volume.name.clone(), why });
            return Ok(());
        }
        Err(MetadataError::Damaged { what, .. }) => {
            let why = format!("a {what} cannot be read");
            report.add(Problem::Tree { volume: volume.name.clone(), why });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let (mut count, mut used) = (0_u64, 0_u64);
    snapshot.record_pages(volume.key, |page| {
        count += page.len() as u64;
        used = page.iter().fold(used, |used, row| used.wrapping_add(row.record.quota_len()));
        Ok(())
    })?;
    if count != named {
        let why = format!("it names {named} records, there are {count}");
        report.add(Problem::Tree { volume: volume.name.clone(), why });
    }
    if used != volume.used {
        let (volume, counted) = (volume.name.clone(), volume.used);
        report.add(Problem::Used { volume, counted, found: used });
    }
    Ok(())
}

/// Walks the stored tree; returns how many records it names, or the first thing that is wrong.
fn walk(
    snapshot: &dyn ReadMetadata,
    volume: &Volume,
    progress: &mut Progress<'_>,
) -> Result<Result<u64, String>, MetadataError> {
    let mut named = 0;
    let mut stack = vec![(Vec::new(), MerkleChild { hash: volume.root, count: 0 })];
    while let Some((prefix, child)) = stack.pop() {
        let bytes = snapshot.merkle_node(volume.key, &prefix)?;
        let found = bytes.as_ref().map_or(MerkleHash::EMPTY, |bytes| MerkleHash::of(bytes));
        if found != child.hash {
            return Ok(Err(format!("the node at {prefix:?} is not the one that is named above it")));
        }
        if bytes.is_none() {
            continue;
        }
        match merkle_node(snapshot, volume.key, &prefix)? {
            MerkleNode::Branch { children } => {
                let children = (0_u8..).zip(children).filter(|(_, child)| child.count > 0);
                stack.extend(children.map(|(nibble, child)| ([&prefix[..], &[nibble]].concat(), child)));
            }
            MerkleNode::Leaf { records } => {
                for named in &records {
                    let record = snapshot.record(volume.key, &named.key)?;
                    if record.is_none_or(|record| record_hash(&named.key, &record) != named.hash) {
                        return Ok(Err(format!("it has another state of the record {:?}", named.key)));
                    }
                }
                named += records.len() as u64;
                progress("tree", named);
            }
        }
    }
    Ok(Ok(named))
}
