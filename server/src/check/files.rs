//! Whether everything that records and history refer to is here, and which files a damaged chunk concerns.

use std::collections::BTreeSet;

use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{NodeId, VolumeName};
use dfs_shared::record::{NodeRecord, Record};

use super::{Problem, Report};
use crate::gc::Progress;
use crate::metadata::{MetadataError, ReadMetadata, Volume, VolumeKey};

/// Directories above a file that are named at most: a circle must not hang the check.
const DEPTH_MAX: usize = 256;

/// Checks the files of a volume.
pub(super) fn check(
    snapshot: &dyn ReadMetadata,
    volume: &Volume,
    report: &mut Report,
    progress: &mut Progress<'_>,
) -> Result<(), MetadataError> {
    snapshot.record_pages(volume.key, |page| {
        report.records += page.len() as u64;
        for found in page {
            if let Record::Node(node) = found.record {
                check_node(snapshot, volume, &node, "", report)?;
            }
        }
        progress("records", report.records);
        Ok(())
    })
}

/// Checks what is kept of files that were replaced or removed.
pub(super) fn check_history(
    snapshot: &dyn ReadMetadata,
    report: &mut Report,
    progress: &mut Progress<'_>,
) -> Result<(), MetadataError> {
    let volumes = snapshot.volumes()?;
    snapshot.history_pages(|page| {
        report.versions += page.len() as u64;
        for row in page {
            let volume = volumes.iter().find(|volume| volume.key == row.volume);
            if let (Some(volume), Record::Node(node)) = (volume, row.past.record) {
                check_node(snapshot, volume, &node, "an old version of ", report)?;
            }
        }
        progress("old versions", report.versions);
        Ok(())
    })
}

fn check_node(
    snapshot: &dyn ReadMetadata,
    volume: &Volume,
    node: &NodeRecord,
    prefix: &str,
    report: &mut Report,
) -> Result<(), MetadataError> {
    let Some(id) = node.content else { return Ok(()) };
    let file = || name(snapshot, volume.key, node.id).map(|name| format!("{prefix}{name}"));
    let name = volume.name.clone();
    let manifest = match snapshot.content(&id) {
        Ok(Some(manifest)) if manifest.id() == id && manifest.size() == node.size => manifest,
        Ok(Some(_)) => {
            report.add(Problem::Content { volume: name, file: file()?, id, what: "another one" });
            return Ok(());
        }
        Ok(None) => {
            report.add(Problem::Content { volume: name, file: file()?, id, what: "missing" });
            return Ok(());
        }
        Err(MetadataError::Damaged { .. }) => {
            report.add(Problem::Content { volume: name, file: file()?, id, what: "damaged" });
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for chunk in manifest.chunks.iter().filter(|chunk| !chunk.hash.is_hole()) {
        if snapshot.chunk_place(&chunk.hash)?.is_none_or(|place| place.len() != chunk.len) {
            report.add(Problem::ChunkMissing { volume: name.clone(), file: file()?, hash: chunk.hash });
        }
    }
    Ok(())
}

/// Names the files that have damaged chunks.
pub(super) fn name_damaged(
    snapshot: &dyn ReadMetadata,
    damaged: &BTreeSet<ChunkHash>,
    report: &mut Report,
) -> Result<(), MetadataError> {
    let volumes = snapshot.volumes()?;
    for volume in &volumes {
        snapshot.record_pages(volume.key, |page| {
            page.iter().try_for_each(|found| {
                name_one(snapshot, volume.key, &volume.name, &found.record, damaged, "", report)
            })
        })?;
    }
    snapshot.history_pages(|page| {
        for row in &page {
            let Some(volume) = volumes.iter().find(|volume| volume.key == row.volume) else { continue };
            let prefix = "an old version of ";
            name_one(snapshot, row.volume, &volume.name, &row.past.record, damaged, prefix, report)?;
        }
        Ok(())
    })
}

fn name_one(
    snapshot: &dyn ReadMetadata,
    key: VolumeKey,
    volume: &VolumeName,
    record: &Record,
    damaged: &BTreeSet<ChunkHash>,
    prefix: &str,
    report: &mut Report,
) -> Result<(), MetadataError> {
    let Record::Node(NodeRecord { id, content: Some(content), .. }) = record else { return Ok(()) };
    // A manifest that cannot be read was reported before.
    let Ok(Some(manifest)) = snapshot.content(content) else { return Ok(()) };
    let chunks: BTreeSet<_> = manifest.chunks.iter().map(|chunk| chunk.hash).collect();
    for hash in chunks.intersection(damaged) {
        let file = format!("{prefix}{}", name(snapshot, key, *id)?);
        report.add(Problem::FileDamaged { volume: volume.clone(), file, hash: *hash });
    }
    Ok(())
}

/// Returns a path of a node, or its id if it has none any more.
fn name(snapshot: &dyn ReadMetadata, volume: VolumeKey, node: NodeId) -> Result<String, MetadataError> {
    let (mut names, mut at) = (Vec::new(), node);
    while at != NodeId::ROOT && names.len() < DEPTH_MAX {
        let above = snapshot.entries_to(volume, at, 1)?;
        let Some(Record::Entry(entry)) = above.into_iter().next().map(|found| found.record) else {
            return Ok(format!("the removed node {node}"));
        };
        names.push(String::from_utf8_lossy(entry.name.as_bytes()).into_owned());
        at = entry.parent;
    }
    names.reverse();
    Ok(format!("/{}", names.join("/")))
}
