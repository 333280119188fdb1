//! Measures the Merkle tree at a million records and counts what a walk over 100 differences moves:
//! `cargo run --release -p dfs-shared --example merkle_million [DIFFERENCES]`.
#![allow(clippy::print_stdout, reason = "an example prints its figures")]

use std::time::{Duration, Instant};

use dfs_shared::hash::RecordHash;
use dfs_shared::ids::NodeId;
use dfs_shared::limits::QUERY_ITEMS_MAX;
use dfs_shared::merkle::{MemoryNodes, Walk, apply, count, node, root};
use dfs_shared::name::Name;
use dfs_shared::record::RecordKey;
use dfs_shared::revision::Revision;
use dfs_shared::wire::encode;
use dfs_shared::wire::messages::{MerkleReply, MerkleRequest};

const RECORDS: u64 = 1_000_000;

/// Half nodes, half the entries that lead to them, as a volume has them.
fn key(n: u64) -> RecordKey {
    let mut id = [0x42; 16];
    id[8..].copy_from_slice(&(n / 2).to_be_bytes());
    match n % 2 {
        0 => RecordKey::Node(NodeId::from_bytes(id)),
        _ => RecordKey::Entry {
            parent: NodeId::from_bytes(id),
            name: Name::new(format!("document-{n}.txt").as_bytes()).expect("a name"),
        },
    }
}

fn hash(n: u64, version: u64) -> RecordHash {
    RecordHash::of(&[n.to_be_bytes(), version.to_be_bytes()].concat())
}

fn main() {
    let differences: u64 = std::env::args().nth(1).map_or(100, |text| text.parse().expect("a number"));
    let mut local = MemoryNodes::default();
    let mut numbers = 0..RECORDS;
    let start = Instant::now();
    loop {
        let batch: Vec<_> = numbers.by_ref().take(20_000).map(|n| (key(n), Some(hash(n, 0)))).collect();
        if batch.is_empty() {
            break;
        }
        apply(&mut local, batch).expect("memory does not fail");
    }
    println!("a million records in batches of 20,000: {:?}, {} nodes", start.elapsed(), local.len());

    let start = Instant::now();
    for n in 0..1000 {
        let batch = [n, RECORDS - 1 - n].map(|n| (key(n), Some(hash(n, 2))));
        apply(&mut local, batch.to_vec()).expect("memory does not fail");
    }
    println!("a batch of two records: {:?}", start.elapsed() / 1000);

    let mut remote = local.clone();
    let step = RECORDS / differences;
    let batch: Vec<_> = (0..differences).map(|n| (key(n * step), Some(hash(n * step, 1)))).collect();
    let start = Instant::now();
    apply(&mut remote, batch).expect("memory does not fail");
    println!("a batch of {differences}: {:?}", start.elapsed());
    assert_eq!(count(&local), Ok(RECORDS));
    assert_ne!(root(&local), root(&remote));
    report_walk(&local, &remote);
}

fn report_walk(local: &MemoryNodes, remote: &MemoryNodes) {
    let mut walk = Walk::new();
    let (mut rounds, mut nodes_moved, mut sent, mut received) = (0, 0, 0, 0);
    let (mut here, mut there) = (Duration::ZERO, Duration::ZERO);
    while !walk.is_done() {
        let prefixes = walk.ask(QUERY_ITEMS_MAX);
        sent += encode(&MerkleRequest { prefixes: prefixes.clone() }).len();
        let start = Instant::now();
        let nodes: Vec<_> = prefixes.iter().map(|prefix| node(remote, prefix).expect("memory")).collect();
        there += start.elapsed();
        nodes_moved += nodes.len();
        let reply = MerkleReply { revision: Revision(1), nodes };
        received += encode(&reply).len();
        rounds += 1;
        let start = Instant::now();
        walk.answer(local, &prefixes, reply.nodes).expect("a valid answer");
        here += start.elapsed();
    }
    println!(
        "walk: {} differences, {rounds} rounds, {nodes_moved} nodes, {:.1} KiB asked, {:.1} KiB answered, {here:?} here, {there:?} there",
        walk.into_differences().len(),
        sent as f64 / 1024.0,
        received as f64 / 1024.0,
    );
}
