//! The table of the module's head.

use std::collections::BTreeMap;

use dfs_shared::ids::{NodeId, VolumeName};
use dfs_shared::name::Name;
use dfs_shared::record::{EntryRecord, NodeKind, NodeRecord, Record, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::CurrentRecord;

use super::*;

fn node(id: NodeId, kind: NodeKind) -> NodeRecord {
    let at = Timestamp::default();
    NodeRecord {
        id,
        kind,
        mode: 0o644,
        uid: 1,
        gid: 1,
        atime: at,
        mtime: at,
        ctime: at,
        crtime: at,
        size: 3,
        content: None,
        rdev: 0,
        target: Vec::new(),
        xattrs: BTreeMap::new(),
    }
}

fn entry(name: &str, node: NodeId) -> Record {
    Record::Entry(EntryRecord { parent: NodeId::ROOT, name: Name::new(name.as_bytes()).unwrap(), node })
}

/// What a commit of these records, each with its state before and after, comes to.
fn told(records: &[(Option<Record>, Option<Record>)]) -> Vec<String> {
    let versioned =
        |record: &Option<Record>| record.clone().map(|record| Versioned { revision: Revision(1), record });
    let key = |(before, after): &(Option<Record>, Option<Record>)| {
        after.as_ref().or(before.as_ref()).expect("one of them").key()
    };
    let current: Vec<_> =
        records.iter().map(|pair| CurrentRecord { key: key(pair), value: versioned(&pair.1) }).collect();
    let before: Vec<_> = records.iter().map(|(before, _)| versioned(before)).collect();
    let volume = VolumeName::new("main").unwrap();
    FileChange::all(&current, &before)
        .map(|change| Change::new(change, volume.clone(), Revision(7)))
        .map(|change| match change {
            Change::Added(event) => format!("added {}", event.name),
            Change::Deleted(event) => format!("deleted {}", event.name),
            Change::Modified(event) => format!("modified {} bytes", event.size),
        })
        .collect()
}

#[test]
fn every_row_of_the_table_holds() {
    let (a, b) = (NodeId::generate(), NodeId::generate());
    let file = |size| Some(Record::Node(NodeRecord { size, ..node(a, NodeKind::File) }));
    let other = |size| Some(Record::Node(NodeRecord { size, ..node(b, NodeKind::File) }));
    let directory = |mode, secs| {
        let mtime = Timestamp { secs, nanos: 0 };
        Some(Record::Node(NodeRecord { mode, mtime, ..node(a, NodeKind::Directory) }))
    };
    assert_eq!(told(&[(None, file(3)), (None, Some(entry("new", a)))]), ["added new"]);
    assert_eq!(told(&[(file(3), None), (Some(entry("old", a)), None)]), ["deleted old"]);
    assert_eq!(
        told(&[(Some(entry("from", a)), None), (None, Some(entry("to", a)))]),
        ["deleted from", "added to"]
    );
    assert_eq!(told(&[(file(3), file(9))]), ["modified 9 bytes"]);
    assert_eq!(told(&[(file(3), file(3))]), [""; 0]);
    assert_eq!(told(&[(Some(entry("f", a)), Some(entry("f", a)))]), [""; 0]);
    let over = [(None, other(5)), (Some(entry("f", a)), Some(entry("f", b)))];
    assert_eq!(told(&over), ["modified 5 bytes"]);
    assert_eq!(told(&[(directory(0o755, 1), directory(0o755, 2))]), [""; 0], "times of a directory");
    assert_eq!(told(&[(directory(0o755, 1), directory(0o700, 1))]), ["modified 3 bytes"]);
}
