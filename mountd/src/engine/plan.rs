//! Decides which pending changes are sent, in which groups and in which order. Pure: state in, plan out.
//!
//! The journal tells which records changed together; the tree tells what each of them is now. From that:
//!
//! 1. Records that belong together become one component, which is sent as one change group: those of one journal
//!    group, and a node with every entry that leads to it here or led to it on the server. So a save through a
//!    temporary file is one change, and files of one directory stay apart.
//! 2. A component waits for another where the server would refuse it otherwise: what is made in a new directory
//!    waits for that directory; the removal of a directory waits for the removal of what was in it; moves of
//!    directories keep their order.
//! 3. Components that wait for each other in a circle become one.
//! 4. A component that holds content which is not on the server yet stays behind, and so does what waits for it;
//!    everything else overtakes.
//!
//! Invariant: after any prefix of the planned components the server's tree is whole: every entry's directory
//! and node exist, every node but the root has a name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dfs_shared::ids::NodeId;
use dfs_shared::record::{Change, Record, RecordKey};
use dfs_shared::revision::Revision;

mod graph;
#[cfg(test)]
mod model;
mod room;
#[cfg(test)]
mod tests;

use graph::{Sets, order};
pub use room::without_room;

/// A journal group: records that changed together, and when in the order of all groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The group's place in the journal.
    pub seq: u64,
    /// The records.
    pub keys: Vec<RecordKey>,
}

/// How a record stands to the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are changes")]
pub enum Want {
    /// There is nothing to send.
    Clean,
    /// The server has `base` (`None`: no such record) and shall have `value` (`None`: no such record).
    Change {
        /// The revision of the server's record.
        base: Option<Revision>,
        /// The wanted state.
        value: Option<Record>,
        /// Where an entry leads on the server.
        base_target: Option<NodeId>,
    },
}

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The journal's groups in its order.
    pub groups: &'a [Pending],
    /// Every record of the groups, and the node records that their entries refer to. What is absent is clean.
    pub wants: &'a BTreeMap<RecordKey, Want>,
    /// Which of the nodes that entries lead to are directories.
    pub directories: &'a BTreeSet<NodeId>,
    /// Nodes whose content cannot be committed yet.
    pub waiting: &'a BTreeSet<NodeId>,
    /// Records that groups beyond the given ones name too: their change cannot be told apart from those.
    pub continued: &'a BTreeSet<RecordKey>,
    /// Groups that the server refuses for good: they stay, and so does what depends on them.
    pub stuck: &'a BTreeSet<u64>,
    /// Most changes to plan; one component is planned even if it has more.
    pub changes_max: usize,
}

/// Records that are sent as one change group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// The journal groups that have a record in it, ascending.
    pub seqs: Vec<u64>,
    /// The changes, ordered by key.
    pub changes: Vec<Change>,
}

/// What to do with the pending groups.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What to send, in this order.
    pub send: Vec<Component>,
    /// Journal groups without anything to send.
    pub finished: Vec<u64>,
    /// Journal groups with a record that is not in `send`: they stay in the journal whatever the server answers.
    pub held: BTreeSet<u64>,
    /// Tells that something was left out only because the plan was full.
    pub full: bool,
}

/// A record with something to send, and where it stands.
struct Item<'a> {
    key: &'a RecordKey,
    base: Option<Revision>,
    value: Option<&'a Record>,
    base_target: Option<NodeId>,
    /// Indexes of the groups that name it, ascending.
    groups: Vec<usize>,
}

impl Item<'_> {
    fn is_new(&self) -> bool {
        self.base.is_none() && self.value.is_some()
    }

    fn entry_target(&self) -> Option<NodeId> {
        match self.value {
            Some(Record::Entry(entry)) => Some(entry.node),
            _ => None,
        }
    }
}

/// Makes the plan. Deterministic; costs O(n log n) in the number of records.
#[must_use]
pub fn plan(input: &Input<'_>) -> Plan {
    let items = collect_items(input);
    let mut plan = Plan { finished: finished(input, &items), ..Plan::default() };
    let node_at = node_items(&items);
    let (component_of, component_count) = components(input, &items);
    let mut blocked = vec![false; component_count];
    let edges = dependencies(input, &items, &node_at, &component_of, &mut blocked);
    let is_continued = |group: &Pending| group.keys.iter().any(|key| input.continued.contains(key));
    let continued: Vec<bool> = input.groups.iter().map(is_continued).collect();
    for (item, component) in items.iter().zip(&component_of) {
        let waits = matches!(item.key, RecordKey::Node(node) if input.waiting.contains(node));
        let stuck = item.groups.iter().any(|group| input.stuck.contains(&input.groups[*group].seq));
        blocked[*component] |= waits || stuck || item.groups.iter().any(|group| continued[*group]);
    }
    let mut members = vec![Vec::new(); component_count];
    let mut first_seq = vec![u64::MAX; component_count];
    for (index, component) in component_of.iter().enumerate() {
        members[*component].push(index);
        for group in &items[index].groups {
            first_seq[*component] = first_seq[*component].min(input.groups[*group].seq);
        }
    }
    let mut sent = 0;
    for step in order(component_count, &edges, &blocked, &first_seq) {
        let indexes: Vec<usize> =
            step.members.iter().flat_map(|part| members[*part].iter().copied()).collect();
        let over = sent > 0 && sent + indexes.len() > input.changes_max;
        if step.blocked || over || plan.full {
            plan.full |= !step.blocked && over;
            plan.held.extend(indexes.iter().flat_map(|index| seqs_of(input, &items[*index])));
            continue;
        }
        sent += indexes.len();
        plan.send.push(component(input, &items, &indexes));
    }
    plan
}

fn seqs_of<'a>(input: &'a Input<'_>, item: &'a Item<'_>) -> impl Iterator<Item = u64> + 'a {
    item.groups.iter().map(|group| input.groups[*group].seq)
}

fn component(input: &Input<'_>, items: &[Item<'_>], indexes: &[usize]) -> Component {
    let mut seqs = BTreeSet::new();
    let mut changes = Vec::with_capacity(indexes.len());
    for index in indexes {
        let item = &items[*index];
        seqs.extend(seqs_of(input, item));
        changes.push(Change { key: item.key.clone(), base: item.base, value: item.value.cloned() });
    }
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    Component { seqs: seqs.into_iter().collect(), changes }
}

/// Lists the records with something to send. What was made and deleted before it was sent vanishes here.
fn collect_items<'a>(input: &Input<'a>) -> Vec<Item<'a>> {
    let mut index_of: HashMap<&RecordKey, usize> = HashMap::new();
    let mut items: Vec<Item<'a>> = Vec::new();
    for (group, pending) in input.groups.iter().enumerate() {
        for key in &pending.keys {
            let Some(Want::Change { base, value, base_target }) = input.wants.get(key) else { continue };
            if base.is_none() && value.is_none() {
                continue;
            }
            let index = *index_of.entry(key).or_insert_with(|| {
                let (base, value, base_target, groups) = (*base, value.as_ref(), *base_target, Vec::new());
                items.push(Item { key, base, value, base_target, groups });
                items.len() - 1
            });
            if items[index].groups.last() != Some(&group) {
                items[index].groups.push(group);
            }
        }
    }
    items
}

fn finished(input: &Input<'_>, items: &[Item<'_>]) -> Vec<u64> {
    let mut busy = vec![false; input.groups.len()];
    for group in items.iter().flat_map(|item| &item.groups) {
        busy[*group] = true;
    }
    input.groups.iter().zip(busy).filter(|(_, busy)| !busy).map(|(group, _)| group.seq).collect()
}

fn node_items(items: &[Item<'_>]) -> HashMap<NodeId, usize> {
    let nodes = items.iter().enumerate().filter_map(|(index, item)| match item.key {
        RecordKey::Node(node) => Some((*node, index)),
        RecordKey::Entry { .. } => None,
    });
    nodes.collect()
}

/// Numbers the components and tells which one each item is in.
fn components(input: &Input<'_>, items: &[Item<'_>]) -> (Vec<usize>, usize) {
    let mut sets = Sets::new(input.groups.len() + items.len());
    let mut place_of: HashMap<NodeId, usize> = HashMap::new();
    for (index, item) in items.iter().enumerate() {
        let place = input.groups.len() + index;
        item.groups.iter().for_each(|group| sets.join(place, *group));
        let node = match item.key {
            RecordKey::Node(node) => Some(*node),
            RecordKey::Entry { .. } => item.entry_target(),
        };
        for node in [node, item.base_target].into_iter().flatten() {
            sets.join(place, *place_of.entry(node).or_insert(place));
        }
    }
    let mut number_of = HashMap::new();
    let numbers = (0..items.len())
        .map(|index| {
            let set = sets.find(input.groups.len() + index);
            let next = number_of.len();
            *number_of.entry(set).or_insert(next)
        })
        .collect();
    (numbers, number_of.len())
}

/// Lists the pairs (first, then). Marks components that refer to a new node which is not among the items,
/// or hold a new node without a name: their other half is beyond the groups that were looked at.
fn dependencies(
    input: &Input<'_>,
    items: &[Item<'_>],
    node_at: &HashMap<NodeId, usize>,
    component_of: &[usize],
    blocked: &mut [bool],
) -> BTreeSet<(usize, usize)> {
    let mut edges = BTreeSet::new();
    let mut named: BTreeSet<NodeId> = BTreeSet::from([NodeId::ROOT]);
    let mut moves: BTreeMap<usize, usize> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let RecordKey::Entry { parent, .. } = item.key else { continue };
        let here = component_of[index];
        let removed = |node: &NodeId| node_at.get(node).filter(|at| items[**at].value.is_none());
        let Some(target) = item.entry_target() else {
            edges.extend(removed(parent).map(|at| (here, component_of[*at])));
            continue;
        };
        named.insert(target);
        let new_elsewhere = |node| is_new(input.wants.get(&RecordKey::Node(node)));
        match node_at.get(parent) {
            Some(at) if items[*at].is_new() => {
                edges.insert((component_of[*at], here));
            }
            Some(_) => {}
            None => blocked[here] |= new_elsewhere(*parent),
        }
        blocked[here] |= !node_at.contains_key(&target) && new_elsewhere(target);
        let is_new_target = node_at.get(&target).is_some_and(|at| items[*at].is_new());
        if input.directories.contains(&target) && !is_new_target {
            moves.extend(item.groups.iter().map(|group| (*group, here)));
        }
    }
    edges.extend(moves.values().zip(moves.values().skip(1)).map(|(first, then)| (*first, *then)));
    edges.retain(|(first, then)| first != then);
    for (node, at) in node_at {
        blocked[component_of[*at]] |= items[*at].is_new() && !named.contains(node);
    }
    edges
}

fn is_new(want: Option<&Want>) -> bool {
    matches!(want, Some(Want::Change { base: None, value: Some(_), .. }))
}
