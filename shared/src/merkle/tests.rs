//! Tests of the tree: canonical, batched, damaged, walked.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::ids::NodeId;
use crate::limits::{MERKLE_LEAF_RECORDS_MAX, QUERY_ITEMS_MAX};
use crate::name::Name;
use crate::test_random::Random;
use crate::wire::messages::{MerkleChild, MerkleLeafRecord};

type Records = BTreeMap<RecordKey, RecordHash>;

fn random_key(random: &mut Random) -> RecordKey {
    let id = NodeId::from_bytes(random.bytes());
    if random.below(3) == 0 {
        return RecordKey::Node(id);
    }
    let name = format!("file-{}", random.below(1 << 40));
    RecordKey::Entry { parent: id, name: Name::new(name.as_bytes()).expect("a name") }
}

fn random_hash(random: &mut Random) -> RecordHash {
    RecordHash::from_bytes(random.bytes())
}

fn random_records(random: &mut Random, count: usize) -> Records {
    (0..count).map(|_| (random_key(random), random_hash(random))).collect()
}

fn put_all(records: &Records) -> Vec<(RecordKey, Option<RecordHash>)> {
    records.iter().map(|(key, hash)| (key.clone(), Some(*hash))).collect()
}

fn tree_of(records: &Records) -> MemoryNodes {
    let mut nodes = MemoryNodes::default();
    apply(&mut nodes, put_all(records)).expect("memory does not fail");
    nodes
}

fn records_of(nodes: &MemoryNodes) -> Records {
    let mut records = Records::new();
    for_each_record(nodes, &[], &mut |key, hash| assert!(records.insert(key, hash).is_none()))
        .expect("whole");
    records
}

/// Makes half of the changes hit what is there and leaves the expected records in `records`.
fn random_batch(
    random: &mut Random,
    records: &mut Records,
    len: usize,
    removals_of_4: u64,
) -> Vec<(RecordKey, Option<RecordHash>)> {
    let mut present: Vec<RecordKey> = records.keys().cloned().collect();
    (0..len)
        .map(|_| {
            let key = if present.is_empty() || random.below(2) == 0 {
                random_key(random)
            } else {
                let at = random.below(present.len() as u64);
                present.swap_remove(usize::try_from(at).expect("an index"))
            };
            let hash = (random.below(4) >= removals_of_4).then(|| random_hash(random));
            match hash {
                Some(hash) => records.insert(key.clone(), hash),
                None => records.remove(&key),
            };
            (key, hash)
        })
        .collect()
}

#[test]
fn nodes_depend_on_the_set_of_records_and_not_on_its_history() {
    let seed = 0x5eed_0001;
    let mut random = Random::new(seed);
    for round in 0..60 {
        let mut nodes = MemoryNodes::default();
        let mut records = Records::new();
        let (size, removals) = ([1, 5, 40, 400][round % 4], [1, 2, 3, 2][round / 15]);
        for _ in 0..8 {
            let batch = random_batch(&mut random, &mut records, size, removals);
            let found = apply(&mut nodes, batch).expect("memory does not fail");
            assert!(nodes == tree_of(&records), "seed {seed} round {round}");
            assert_eq!(found, root(&nodes).expect("whole"));
            assert_eq!(count(&nodes).expect("whole"), records.len() as u64);
        }
        assert_eq!(records_of(&nodes), records, "seed {seed} round {round}");
        let removals = records.into_keys().map(|key| (key, None)).collect();
        assert_eq!(apply(&mut nodes, removals), Ok(MerkleHash::EMPTY));
        assert!(nodes.is_empty(), "seed {seed} round {round}");
    }
}

#[test]
fn a_batch_gives_what_its_records_give_one_by_one() {
    let mut random = Random::new(0x5eed_0002);
    let (mut batched, mut single) = (MemoryNodes::default(), MemoryNodes::default());
    let mut records = Records::new();
    for len in [300, 100, 17, 500, 900] {
        let batch = random_batch(&mut random, &mut records, len, 2);
        for change in batch.clone() {
            apply(&mut single, vec![change]).expect("memory does not fail");
        }
        apply(&mut batched, batch).expect("memory does not fail");
        assert!(batched == single, "after {len}");
    }
}

#[test]
fn of_a_key_that_comes_twice_the_last_counts() {
    let mut random = Random::new(1);
    let (key, one, two) = (random_key(&mut random), random_hash(&mut random), random_hash(&mut random));
    let mut nodes = MemoryNodes::default();
    apply(&mut nodes, vec![(key.clone(), Some(one)), (key.clone(), None), (key.clone(), Some(two))])
        .expect("memory does not fail");
    assert_eq!(records_of(&nodes), Records::from([(key.clone(), two)]));
    apply(&mut nodes, vec![(key.clone(), Some(one)), (key, None)]).expect("memory does not fail");
    assert!(nodes.is_empty());
}

#[test]
fn a_tree_is_one_leaf_up_to_sixteen_records_and_a_branch_from_seventeen() {
    let mut random = Random::new(2);
    let mut records = random_records(&mut random, MERKLE_LEAF_RECORDS_MAX);
    let mut nodes = tree_of(&records);
    assert_eq!(nodes.len(), 1);
    let leaf = nodes.clone();
    let extra = random_key(&mut random);
    records.insert(extra.clone(), random_hash(&mut random));
    apply(&mut nodes, put_all(&records)).expect("memory does not fail");
    assert!(matches!(node(&nodes, &[]), Ok(MerkleNode::Branch { .. })));
    assert!(nodes.len() > 1);
    apply(&mut nodes, vec![(extra, None)]).expect("memory does not fail");
    assert!(nodes == leaf, "seventeen less one is sixteen");
}

/// Counts what passes through and forbids touching a node twice.
#[derive(Default)]
struct Counting {
    nodes: MemoryNodes,
    reads: Cell<usize>,
    read: std::cell::RefCell<BTreeSet<Vec<u8>>>,
    written: BTreeSet<Vec<u8>>,
}

impl Counting {
    fn reset(&mut self) {
        self.reads.set(0);
        self.read.borrow_mut().clear();
        self.written.clear();
    }
}

impl NodeStore for Counting {
    type Error = Infallible;
    fn get(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, Infallible> {
        self.reads.set(self.reads.get() + 1);
        assert!(self.read.borrow_mut().insert(prefix.to_vec()), "{prefix:?} is read twice");
        self.nodes.get(prefix)
    }
    fn put(&mut self, prefix: &[u8], node: Vec<u8>) -> Result<(), Infallible> {
        assert!(self.written.insert(prefix.to_vec()), "{prefix:?} is written twice");
        self.nodes.put(prefix, node)
    }
    fn remove(&mut self, prefix: &[u8]) -> Result<(), Infallible> {
        assert!(self.written.insert(prefix.to_vec()), "{prefix:?} is written twice");
        assert!(self.nodes.get(prefix)?.is_some(), "{prefix:?} is removed but is not there");
        self.nodes.remove(prefix)
    }
}

#[test]
fn each_node_is_touched_once_in_a_batch_and_a_repeated_batch_writes_nothing() {
    let mut random = Random::new(0x5eed_0003);
    let mut store = Counting::default();
    let mut records = Records::new();
    for (len, removals) in [(2000, 0), (900, 4), (900, 3), (5, 2), (2, 2), (1500, 2)] {
        let batch = random_batch(&mut random, &mut records, len, removals);
        store.reset();
        let first = apply(&mut store, batch.clone()).expect("memory does not fail");
        assert!(store.nodes == tree_of(&records));
        store.reset();
        assert_eq!(apply(&mut store, batch), Ok(first));
        assert!(store.written.is_empty());
    }
}

#[test]
fn a_small_batch_touches_only_the_path_to_its_records() {
    let mut random = Random::new(0x5eed_0004);
    let mut records = random_records(&mut random, 20_000);
    let mut store = Counting { nodes: tree_of(&records), ..Counting::default() };
    for _ in 0..50 {
        let batch = random_batch(&mut random, &mut records, 2, 1);
        store.reset();
        apply(&mut store, batch).expect("memory does not fail");
        assert!(store.reads.get() <= 26, "{} reads", store.reads.get());
        assert!(store.written.len() <= 42, "{} writes", store.written.len());
    }
}

#[test]
fn a_record_hash_tells_apart_key_value_and_revision() {
    let key = |n| RecordKey::Node(NodeId::from_bytes([n; 16]));
    let entry = |n| crate::record::EntryRecord {
        parent: NodeId::ROOT,
        name: Name::new(b"a").expect("a name"),
        node: NodeId::from_bytes([n; 16]),
    };
    let value = |revision, n| Versioned {
        revision: crate::revision::Revision(revision),
        record: crate::record::Record::Entry(entry(n)),
    };
    let hashes: BTreeSet<RecordHash> = [(1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)]
        .into_iter()
        .map(|(k, revision, n)| record_hash(&key(k), &value(revision, n)))
        .collect();
    assert_eq!(hashes.len(), 4);
}

/// Walks to the end and returns the differences, the rounds, the nodes and the bytes that came.
fn walk(local: &MemoryNodes, remote: &MemoryNodes, max: usize) -> (Vec<RecordKey>, usize, usize, usize) {
    let mut walk = Walk::new();
    let (mut rounds, mut nodes_moved, mut bytes) = (0, 0, 0);
    while !walk.is_done() {
        let prefixes = walk.ask(max);
        let nodes: Vec<_> = prefixes.iter().map(|prefix| node(remote, prefix).expect("whole")).collect();
        rounds += 1;
        nodes_moved += nodes.len();
        bytes += encode_plain(&nodes).len();
        walk.answer(local, &prefixes, nodes).expect("a valid answer");
    }
    (walk.into_differences(), rounds, nodes_moved, bytes)
}

fn symmetric_difference(one: &Records, two: &Records) -> Vec<RecordKey> {
    let keys: BTreeSet<_> = one.keys().chain(two.keys()).cloned().collect();
    keys.into_iter().filter(|key| one.get(key) != two.get(key)).collect()
}

#[test]
fn a_walk_finds_exactly_the_symmetric_difference() {
    let seed = 0x5eed_0005;
    let mut random = Random::new(seed);
    for round in 0..200 {
        let common = random_records(&mut random, [0, 3, 16, 30, 300, 3000][round % 6]);
        let (mut local, mut remote) = (common.clone(), common);
        let len = [0, 1, 12, 200][round / 6 % 4];
        let (removals_here, removals_there) = (random.below(5), random.below(5));
        random_batch(&mut random, &mut local, len, removals_here);
        random_batch(&mut random, &mut remote, len, removals_there);
        let max = [1, 3, QUERY_ITEMS_MAX][round % 3];
        let (found, ..) = walk(&tree_of(&local), &tree_of(&remote), max);
        assert_eq!(found, symmetric_difference(&local, &remote), "seed {seed} round {round}");
    }
}

#[test]
fn a_walk_between_something_and_nothing_finds_everything() {
    let records = random_records(&mut Random::new(6), 5000);
    let (full, empty) = (tree_of(&records), MemoryNodes::default());
    let all: Vec<_> = records.into_keys().collect();
    let (found, rounds, ..) = walk(&empty, &full, QUERY_ITEMS_MAX);
    assert_eq!(found, all);
    assert!(rounds <= 8, "{rounds} rounds");
    let (found, rounds, nodes, _) = walk(&full, &empty, QUERY_ITEMS_MAX);
    assert_eq!((found, rounds, nodes), (all, 1, 1));
}

#[test]
fn a_walk_moves_nodes_in_proportion_to_the_differences() {
    let mut random = Random::new(0x5eed_0007);
    let local = random_records(&mut random, 20_000);
    let nodes_here = tree_of(&local);
    for differences in [1, 10, 100] {
        let mut remote = local.clone();
        for key in local.keys().step_by(20_000 / differences).take(differences) {
            remote.insert(key.clone(), random_hash(&mut random));
        }
        let (found, rounds, nodes, _) = walk(&nodes_here, &tree_of(&remote), QUERY_ITEMS_MAX);
        assert_eq!(found.len(), differences);
        assert!(rounds <= 7, "{rounds} rounds");
        assert!(nodes <= differences * 6 + 1, "{nodes} nodes for {differences} differences");
    }
}

#[test]
fn a_walk_over_a_tree_that_shrinks_meanwhile_still_finds_what_is_there() {
    let mut random = Random::new(8);
    let remote = random_records(&mut random, 17);
    let (mut there, here) = (tree_of(&remote), MemoryNodes::default());
    let mut walk = Walk::new();
    let prefixes = walk.ask(9);
    walk.answer(&here, &prefixes, vec![node(&there, &[]).expect("whole")]).expect("valid");
    let gone = remote.keys().next().expect("seventeen").clone();
    apply(&mut there, vec![(gone.clone(), None)]).expect("memory does not fail");
    while !walk.is_done() {
        let prefixes = walk.ask(9);
        let nodes = prefixes.iter().map(|prefix| node(&there, prefix).expect("whole")).collect();
        walk.answer(&here, &prefixes, nodes).expect("valid");
    }
    let found = walk.into_differences();
    assert!(remote.keys().filter(|key| **key != gone).all(|key| found.contains(key)));
}

#[test]
fn an_answer_that_was_not_asked_or_has_the_wrong_length_is_refused() {
    let empty = || MerkleNode::Leaf { records: vec![] };
    let store = MemoryNodes::default();
    let mut walk = Walk::new();
    assert_eq!(
        walk.answer(&store, &walk.ask(1), vec![]),
        Err(WalkError::WrongNodeCount { asked: 1, received: 0 })
    );
    assert_eq!(Walk::new().answer(&store, &[vec![3]], vec![empty()]), Err(WalkError::NotAsked));
    assert_eq!(
        Walk::new().answer(&store, &[vec![], vec![1]], vec![empty(), empty()]),
        Err(WalkError::NotAsked)
    );
    assert_eq!(walk.ask(5), Walk::new().ask(5), "a refused answer used up nothing");
}

fn answer_below_root(node: MerkleNode) -> Result<(), WalkError<Infallible>> {
    let children = (0_u8..16).map(|n| MerkleChild { hash: MerkleHash::of(&[n]), count: 9 }).collect();
    let mut walk = Walk::new();
    let store = MemoryNodes::default();
    walk.answer(&store, &[vec![]], vec![MerkleNode::Branch { children }]).expect("valid");
    assert_eq!(walk.ask(2), [vec![0], vec![1]]);
    walk.answer(&store, &[vec![0]], vec![node])
}

#[test]
fn a_node_that_breaks_a_rule_is_refused() {
    let mut random = Random::new(9);
    let mut below_0: Vec<_> = std::iter::repeat_with(|| (random_key(&mut random), random_hash(&mut random)))
        .filter(|(key, _)| node::path_of(key)[0] < 16)
        .take(MERKLE_LEAF_RECORDS_MAX + 1)
        .map(|(key, hash)| MerkleLeafRecord { key, hash })
        .collect();
    below_0.sort_by_key(|record| node::path_of(&record.key));
    let leaf = |records: &[MerkleLeafRecord]| MerkleNode::Leaf { records: records.to_vec() };
    let child = |count| MerkleChild { hash: MerkleHash::of(b"x"), count };
    let none = node::NO_CHILD;
    let branch = |first: MerkleChild, rest: MerkleChild, len: usize| {
        let children = std::iter::once(first).chain(std::iter::repeat(rest)).take(len).collect();
        MerkleNode::Branch { children }
    };
    let elsewhere = {
        let key =
            (0..).map(|_| random_key(&mut random)).find(|key| node::path_of(key)[0] >= 16).expect("one");
        MerkleLeafRecord { key, hash: random_hash(&mut random) }
    };
    answer_below_root(leaf(&below_0[..16])).expect("sixteen records fit");
    answer_below_root(leaf(&[])).expect("it may be empty by now");
    answer_below_root(branch(child(17), none, 16)).expect("seventeen records in one child");
    let swapped = [below_0[1].clone(), below_0[0].clone()];
    let twice = [below_0[0].clone(), below_0[0].clone()];
    let hash_without_count = MerkleChild { hash: MerkleHash::of(b"x"), count: 0 };
    let count_without_hash = MerkleChild { hash: MerkleHash::EMPTY, count: 3 };
    for (what, bad) in [
        ("seventeen", leaf(&below_0)),
        ("swapped", leaf(&swapped)),
        ("twice", leaf(&twice)),
        ("elsewhere", leaf(&[elsewhere])),
        ("fifteen children", branch(child(17), child(1), 15)),
        ("seventeen children", branch(child(17), child(1), 17)),
        ("too few", branch(child(16), none, 16)),
        ("overflow", branch(child(u64::MAX), child(1), 16)),
        ("hash without count", branch(child(17), hash_without_count, 16)),
        ("count without hash", branch(child(17), count_without_hash, 16)),
    ] {
        let error = answer_below_root(bad).expect_err(what);
        assert!(matches!(error, WalkError::BadNode { ref prefix, .. } if *prefix == [0]), "{what}: {error}");
    }
}

#[test]
fn a_remote_that_always_branches_is_stopped_by_the_depth_of_paths() {
    let mut walk = Walk::new();
    let store = MemoryNodes::default();
    let mut children = vec![node::NO_CHILD; 16];
    children[7] = MerkleChild { hash: MerkleHash::of(b"deeper"), count: 17 };
    for depth in 0..=node::DEPTH_MAX {
        let prefixes = walk.ask(QUERY_ITEMS_MAX);
        assert_eq!(prefixes, [vec![7; depth]]);
        let result = walk.answer(&store, &prefixes, vec![MerkleNode::Branch { children: children.clone() }]);
        assert_eq!(result.is_err(), depth == node::DEPTH_MAX);
    }
}

#[test]
fn any_prefix_can_be_asked_for() {
    let records = random_records(&mut Random::new(10), 600);
    let nodes = tree_of(&records);
    for prefix in [vec![16], vec![255; 70], vec![0; 64], vec![0; 65], vec![15; 200]] {
        assert_eq!(node(&nodes, &prefix), Ok(MerkleNode::Leaf { records: vec![] }), "{prefix:?}");
    }
    let (key, _) = records.first_key_value().expect("600");
    let path = node::path_of(key);
    let prefix: Vec<u8> = (0..30).map(|depth| node::nibble(&path, depth)).collect();
    let Ok(MerkleNode::Leaf { records: found }) = node(&nodes, &prefix) else { panic!("a leaf") };
    assert_eq!(found.iter().map(|record| &record.key).collect::<Vec<_>>(), [key]);
}

#[test]
fn nodes_survive_their_bytes_and_cut_bytes_are_no_node() {
    let nodes = tree_of(&random_records(&mut Random::new(11), 100));
    for (prefix, bytes) in &nodes.nodes {
        let node = decode_node(prefix, bytes).expect("a node");
        assert_eq!(encode_node(&node).as_ref(), Some(bytes));
        for len in 0..bytes.len() {
            assert_eq!(decode_node(prefix, &bytes[..len]), None);
        }
        assert_eq!(decode_node(prefix, &[&bytes[..], b"x"].concat()), None);
    }
    assert_eq!(encode_node(&MerkleNode::Leaf { records: vec![] }), None);
    assert_eq!(decode_node(&[], &[0, 0]), None, "an empty leaf is never stored");
}

#[test]
fn any_damaged_byte_below_the_root_is_an_error_and_never_a_panic() {
    let mut random = Random::new(12);
    let records = random_records(&mut random, 300);
    let nodes = tree_of(&records);
    let changes = put_all(&random_records(&mut random, 2000));
    for (prefix, bytes) in nodes.nodes.iter().filter(|(prefix, _)| !prefix.is_empty()) {
        for _ in 0..4 {
            let at = usize::try_from(random.below(bytes.len() as u64)).expect("an index");
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << random.below(8);
            let mut store = nodes.clone();
            store.nodes.insert(prefix.clone(), damaged);
            let error = apply(&mut store, changes.clone()).expect_err("damage is seen");
            assert_eq!(error, MerkleError::Damaged { prefix: prefix.clone() });
        }
        let mut store = nodes.clone();
        store.nodes.remove(prefix);
        assert_eq!(
            apply(&mut store, changes.clone()),
            Err(MerkleError::Damaged { prefix: prefix.clone() }),
            "a missing node is damage too"
        );
    }
    let mut store = nodes;
    store.nodes.insert(vec![], b"junk".to_vec());
    assert_eq!(root(&store), Err(MerkleError::Damaged { prefix: vec![] }));
}
