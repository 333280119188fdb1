//! Which changes a volume's quota has no room for. Pure.
//!
//! What is sent as one change group counts as one: a save that replaces a longer file needs no room. The oldest changes come first,
//! but one that does not fit holds up none that does. What shrinks files makes room only once the server has it: it is not counted
//! before.

use std::collections::BTreeMap;

use dfs_shared::ids::NodeId;
use dfs_shared::record::RecordKey;

use super::{Input, collect_items, components};

/// Returns the files whose changes do not fit into `room` bytes, each with the bytes that its change group needs. `growth` tells
/// by how many bytes each file is longer than on the server.
#[must_use]
pub fn without_room(input: &Input<'_>, growth: &BTreeMap<NodeId, i128>, room: u64) -> BTreeMap<NodeId, u64> {
    let items = collect_items(input);
    let (component_of, count) = components(input, &items);
    let mut parts = vec![(u64::MAX, 0_i128, Vec::new()); count];
    for (item, component) in items.iter().zip(component_of) {
        let (first, needs, files) = &mut parts[component];
        let seqs = item.groups.iter().map(|group| input.groups[*group].seq);
        *first = seqs.min().unwrap_or(u64::MAX).min(*first);
        let RecordKey::Node(node) = item.key else { continue };
        let grows = growth.get(node).copied().unwrap_or(0);
        *needs += grows;
        if grows > 0 {
            files.push(*node);
        }
    }
    parts.sort_by_key(|(first, ..)| *first);
    let (mut left, mut over) = (i128::from(room), BTreeMap::new());
    for (_, needs, files) in parts {
        if needs <= 0 {
            continue;
        }
        if needs <= left {
            left -= needs;
            continue;
        }
        let needs = u64::try_from(needs).unwrap_or(u64::MAX);
        over.extend(files.into_iter().map(|file| (file, needs)));
    }
    over
}
