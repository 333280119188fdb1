//! The tree by itself: local changes, the journal, and the conflict table against a server that is a plain map.

mod journal;
mod last_write;
mod pins;
mod positions;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use dfs_shared::hash::ContentId;
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::merkle;
use dfs_shared::name::Name;
use dfs_shared::record::{Change, NodeKind, RecordKey, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::CurrentRecord;

use super::apply::{Applied, ApplyOptions};
use super::journal::{KeyState, NamedContent};
use super::namespace::{ContentChange, NewNode, RenameMode};
use super::node::{Cookie, Ino, LocalNode};
use super::store::{MemoryDisk, Store};
use super::{Tree, TreeError};

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

fn at(secs: i64) -> Timestamp {
    Timestamp { secs, nanos: 0 }
}

/// The server as a map; commits are taken as they come, after the base check.
#[derive(Default)]
struct Server {
    records: BTreeMap<RecordKey, Versioned>,
    revision: Revision,
}

/// A mount: a tree on a disk of its own, in memory, for these tests open hundreds; and how far it has seen the server.
struct Mount {
    tree: Tree,
    disk: MemoryDisk,
    seen: BTreeMap<RecordKey, Revision>,
}

impl Mount {
    fn new(host: &str) -> Self {
        let disk = MemoryDisk::default();
        let tree = Self::open(&disk, host);
        Self { tree, disk, seen: BTreeMap::new() }
    }

    fn open(disk: &MemoryDisk, host: &str) -> Tree {
        let store = Arc::new(Store::in_memory(disk).expect("a store"));
        Tree::open(store, host.to_owned(), Box::new(|| {})).expect("a tree")
    }

    fn restart(self) -> Self {
        let Self { tree, disk, seen } = self;
        let host = tree.host.clone();
        drop(tree);
        Self { tree: Self::open(&disk, &host), disk, seen }
    }

    fn make(&self, parent: Ino, text: &str, kind: NodeKind) -> LocalNode {
        let new = NewNode::plain(kind, 0o644, (1, 1), at(100));
        self.tree.create(parent, &name(text), new).expect("created")
    }

    fn write(&self, node: &LocalNode, bytes: &str) {
        self.write_at(node, bytes, 200);
    }

    /// Sends everything pending as one group; returns whether the server took it.
    fn push(&mut self, server: &mut Server) -> bool {
        let groups = self.tree.pending(0, 10_000).expect("pending");
        let mut changes = BTreeMap::new();
        for key in groups.iter().flat_map(|group| &group.keys) {
            if let KeyState::Dirty { base, value, dirty_content } = self.tree.key_state(key).expect("state") {
                assert_eq!(dirty_content, None, "hashed before sending");
                if base.is_some() || value.is_some() {
                    changes.insert(key.clone(), Change { key: key.clone(), base, value });
                }
            }
        }
        let changes: Vec<Change> = changes.into_values().collect();
        let fits = |change: &Change| {
            server.records.get(&change.key).map(|versioned| versioned.revision) == change.base
        };
        if !changes.iter().all(fits) {
            return false;
        }
        server.revision = server.revision.next();
        for change in &changes {
            match &change.value {
                Some(record) => {
                    let versioned = Versioned { revision: server.revision, record: record.clone() };
                    server.records.insert(change.key.clone(), versioned);
                    self.seen.insert(change.key.clone(), server.revision);
                }
                None => {
                    server.records.remove(&change.key);
                    self.seen.remove(&change.key);
                }
            }
        }
        let seqs: Vec<u64> = groups.iter().map(|group| group.seq).collect();
        self.tree.acknowledge(&changes, &seqs, server.revision).expect("acknowledged");
        self.check(server, false);
        true
    }

    /// Applies everything that is new on the server.
    fn pull(&mut self, server: &Server) -> Applied {
        let mut news = Vec::new();
        for (key, versioned) in &server.records {
            if self.seen.get(key) != Some(&versioned.revision) {
                news.push(CurrentRecord { key: key.clone(), value: Some(versioned.clone()) });
            }
        }
        for key in self.seen.keys().filter(|key| !server.records.contains_key(key)) {
            news.push(CurrentRecord { key: key.clone(), value: None });
        }
        let options = ApplyOptions { at: at(1_700_000_000), force_conflicts: false, lost_after: None };
        let applied = self.tree.apply(&news, options).expect("applied");
        self.seen = server.records.iter().map(|(key, v)| (key.clone(), v.revision)).collect();
        self.check(server, true);
        applied
    }

    /// Pushes and pulls until the server took everything.
    fn sync(&mut self, server: &mut Server) {
        for _ in 0..10 {
            self.pull(server);
            if self.push(server) {
                return;
            }
        }
        panic!("the mount and the server do not come to rest");
    }

    /// The base's Merkle tree is that of the server's records, as far as this mount has seen them.
    fn check(&self, server: &Server, complete: bool) {
        if !complete && self.seen.len() != server.records.len() {
            return;
        }
        let mut nodes = merkle::MemoryNodes::default();
        let leaves =
            server.records.iter().map(|(key, v)| (key.clone(), Some(merkle::record_hash(key, v)))).collect();
        let root = merkle::apply(&mut nodes, leaves).expect("in memory");
        assert_eq!(self.tree.base_root().expect("a root"), root);
    }

    /// The tree as paths with what they lead to.
    fn listing(&self) -> BTreeMap<String, (NodeKind, Option<ContentId>, u32)> {
        let mut found = BTreeMap::new();
        let mut open = vec![(NodeId::ROOT, String::new())];
        while let Some((dir, path)) = open.pop() {
            for entry in self.tree.read_dir(dir, Cookie(0), 100_000).expect("read") {
                let path = format!("{path}/{}", entry.name);
                let node = self.tree.node(entry.target.ino).expect("read").expect("an entry leads to a node");
                let record = node.record.clone().expect("live");
                assert!(path.len() < 1000, "a circle: {path}");
                found.insert(path.clone(), (record.kind, record.content, node.nlink()));
                if record.kind == NodeKind::Directory {
                    assert_eq!(node.parent, dir, "{path}");
                    open.push((node.id, path));
                }
            }
        }
        found
    }

    fn paths(&self) -> Vec<String> {
        self.listing().into_keys().collect()
    }

    fn find(&self, path: &str) -> LocalNode {
        self.tree.resolve_path(path.as_bytes()).unwrap_or_else(|error| panic!("{path}: {error}"))
    }
}

fn content_of(bytes: &str) -> Option<ContentId> {
    let chunk = ChunkRef { hash: dfs_shared::hash::ChunkHash::of(bytes.as_bytes()), len: bytes.len() as u64 };
    Some(Manifest { chunk_log2: 14, chunks: vec![chunk] }.id())
}

/// Two mounts that agree on `/f` ("old"), `/d` and `/e`.
fn pair() -> (Server, Mount, Mount) {
    let mut server = Server::default();
    let (mut one, mut two) = (Mount::new("one"), Mount::new("two"));
    let file = one.make(Ino::ROOT, "f", NodeKind::File);
    one.write(&file, "old");
    one.make(Ino::ROOT, "d", NodeKind::Directory);
    one.make(Ino::ROOT, "e", NodeKind::Directory);
    one.sync(&mut server);
    two.sync(&mut server);
    one.sync(&mut server);
    assert_eq!(one.listing(), two.listing());
    (server, one, two)
}

/// Lets the first mount's change reach the server first, then brings all to rest, with a restart of the second
/// between change and exchange.
fn settle(mut server: Server, mut one: Mount, two: Mount) -> (Mount, Mount) {
    one.sync(&mut server);
    let mut two = two.restart();
    two.sync(&mut server);
    one.sync(&mut server);
    two.sync(&mut server);
    assert_eq!(one.listing(), two.listing());
    (one, two)
}

#[test]
fn a_created_tree_is_listed_renamed_removed_and_survives_a_restart() {
    let mount = Mount::new("one");
    let dir = mount.make(Ino::ROOT, "dir", NodeKind::Directory);
    let file = mount.make(dir.ino, "file", NodeKind::File);
    mount.tree.link(file.ino, Ino::ROOT, &name("link"), at(101)).expect("linked");
    assert_eq!(mount.find("link").nlink(), 2);
    let mount = mount.restart();
    assert_eq!(mount.find("dir/file").ino, file.ino, "inode numbers are kept");
    mount
        .tree
        .rename((dir.ino, &name("file")), (Ino::ROOT, &name("moved")), RenameMode::Replace, at(102))
        .expect("ok");
    assert!(matches!(mount.tree.rmdir(Ino::ROOT, &name("link"), at(1)), Err(TreeError::NotDirectory)));
    mount.tree.rmdir(Ino::ROOT, &name("dir"), at(103)).expect("empty");
    assert!(!mount.tree.unlink(Ino::ROOT, &name("moved"), at(104)).expect("gone").last);
    assert!(mount.tree.unlink(Ino::ROOT, &name("link"), at(105)).expect("gone").last);
    assert!(mount.listing().is_empty());
    assert_eq!(mount.tree.node(file.ino).expect("read"), None);
}

#[test]
fn rename_keeps_the_rules_of_posix() {
    let mount = Mount::new("one");
    let a = mount.make(Ino::ROOT, "a", NodeKind::Directory);
    let b = mount.make(a.ino, "b", NodeKind::Directory);
    mount.make(Ino::ROOT, "f", NodeKind::File);
    let rename = |from: (Ino, &str), to: (Ino, &str), mode| {
        mount.tree.rename((from.0, &name(from.1)), (to.0, &name(to.1)), mode, at(9))
    };
    let replace = RenameMode::Replace;
    assert!(matches!(rename((Ino::ROOT, "a"), (b.ino, "a"), replace), Err(TreeError::IntoItself)));
    assert!(matches!(rename((Ino::ROOT, "f"), (Ino::ROOT, "a"), replace), Err(TreeError::IsDirectory)));
    assert!(matches!(rename((Ino::ROOT, "a"), (Ino::ROOT, "f"), replace), Err(TreeError::NotDirectory)));
    assert!(matches!(
        rename((Ino::ROOT, "f"), (Ino::ROOT, "a"), RenameMode::NoReplace),
        Err(TreeError::Exists)
    ));
    assert!(rename((Ino::ROOT, "f"), (a.ino, "b"), RenameMode::Exchange).expect("swapped").is_none());
    assert_eq!(mount.paths(), ["/a", "/a/b", "/f"]);
    assert_eq!(mount.find("f").record.expect("live").kind, NodeKind::Directory);
    assert_eq!(mount.find("a").nlink(), 2);
    mount.make(Ino::ROOT, "full", NodeKind::Directory);
    mount.make(mount.find("full").ino, "x", NodeKind::File);
    assert!(matches!(rename((Ino::ROOT, "a"), (Ino::ROOT, "full"), replace), Err(TreeError::NotEmpty)));
}

#[test]
fn readdir_positions_are_stable_while_the_directory_changes() {
    let mount = Mount::new("one");
    for i in 0..100 {
        mount.make(Ino::ROOT, &format!("f{i:02}"), NodeKind::File);
    }
    let first = mount.tree.read_dir(NodeId::ROOT, Cookie(0), 50).expect("read");
    for entry in &first {
        mount.tree.unlink(Ino::ROOT, &entry.name, at(1)).expect("gone");
    }
    let rest = mount.tree.read_dir(NodeId::ROOT, first[49].target.cookie, 1000).expect("read");
    assert_eq!(rest.len(), 50);
    assert!(rest.iter().all(|entry| !first.contains(entry)));
}

#[test]
fn what_is_made_and_removed_before_it_is_sent_is_never_sent() {
    let mut mount = Mount::new("one");
    let mut server = Server::default();
    mount.sync(&mut server);
    let before = server.records.len();
    mount.make(Ino::ROOT, "f", NodeKind::File);
    mount.tree.unlink(Ino::ROOT, &name("f"), at(1)).expect("gone");
    mount.sync(&mut server);
    assert_eq!(server.records.len(), before);
    assert_eq!(mount.tree.pending(0, 10).expect("read"), []);
}

#[test]
fn what_is_removed_while_it_is_being_sent_is_removed_on_the_server_later() {
    let mut mount = Mount::new("one");
    let mut server = Server::default();
    mount.sync(&mut server);
    let node = mount.make(Ino::ROOT, "f", NodeKind::File);
    let groups = mount.tree.pending(0, 10).expect("read");
    let mut sent = Vec::new();
    for key in [RecordKey::Node(node.id), RecordKey::Entry { parent: NodeId::ROOT, name: name("f") }] {
        let KeyState::Dirty { base, value, .. } = mount.tree.key_state(&key).expect("read") else {
            panic!("dirty")
        };
        sent.push(Change { key, base, value });
    }
    mount.tree.unlink(Ino::ROOT, &name("f"), at(1)).expect("gone");
    server.revision = server.revision.next();
    for change in &sent {
        let record = change.value.clone().expect("made");
        let versioned = Versioned { revision: server.revision, record };
        server.records.insert(change.key.clone(), versioned);
        mount.seen.insert(change.key.clone(), server.revision);
    }
    let seqs: Vec<u64> = groups.iter().map(|group| group.seq).collect();
    mount.tree.acknowledge(&sent, &seqs, server.revision).expect("acknowledged");
    mount.sync(&mut server);
    assert!(!server.records.contains_key(&sent[0].key), "the node is gone on the server");
    assert!(!server.records.contains_key(&sent[1].key), "its entry is gone on the server");
}

#[test]
fn edits_on_both_sides_keep_both_contents() {
    let (server, one, two) = pair();
    one.write(&one.find("f"), "from one");
    two.write(&two.find("f"), "from two");
    let (one, _) = settle(server, one, two);
    let listing = one.listing();
    assert_eq!(listing["/f"].1, content_of("from one"));
    assert_eq!(listing["/f (conflict two 2023-11-14 22.13.20)"].1, content_of("from two"));
    assert_eq!(listing.len(), 4);
}

#[test]
fn the_same_edit_on_both_sides_is_no_conflict() {
    let (server, one, two) = pair();
    one.write(&one.find("f"), "same");
    two.write(&two.find("f"), "same");
    let (one, _) = settle(server, one, two);
    assert_eq!(one.paths(), ["/d", "/e", "/f"]);
}

#[test]
fn an_edit_survives_a_deletion_on_the_other_side_in_both_orders() {
    let (server, one, two) = pair();
    one.tree.unlink(Ino::ROOT, &name("f"), at(300)).expect("gone");
    two.write(&two.find("f"), "edited");
    let (one, _) = settle(server, one, two);
    assert_eq!(one.listing()["/f"].1, content_of("edited"));

    let (server, one, two) = pair();
    one.write(&one.find("f"), "edited");
    two.tree.unlink(Ino::ROOT, &name("f"), at(300)).expect("gone");
    let (one, _) = settle(server, one, two);
    assert_eq!(one.listing()["/f"].1, content_of("edited"));
}

#[test]
fn files_made_under_one_name_are_kept_both_and_equal_ones_unified() {
    let (server, one, two) = pair();
    for (mount, bytes) in [(&one, "first"), (&two, "second")] {
        mount.write(&mount.make(Ino::ROOT, "new", NodeKind::File), bytes);
        mount.write(&mount.make(Ino::ROOT, "equal", NodeKind::File), "equal");
    }
    let (one, _) = settle(server, one, two);
    let listing = one.listing();
    assert_eq!(listing["/new"].1, content_of("first"));
    assert_eq!(listing["/new (conflict two 2023-11-14 22.13.20)"].1, content_of("second"));
    assert_eq!(listing.keys().filter(|path| path.contains("equal")).count(), 1);
}

#[test]
fn directories_made_under_one_name_merge_with_all_that_is_in_them() {
    let (server, one, two) = pair();
    for (mount, own) in [(&one, "x"), (&two, "y")] {
        let dir = mount.make(Ino::ROOT, "new", NodeKind::Directory);
        let sub = mount.make(dir.ino, "sub", NodeKind::Directory);
        mount.write(&mount.make(sub.ino, own, NodeKind::File), own);
        mount.write(&mount.make(sub.ino, "both", NodeKind::File), own);
    }
    let (one, _) = settle(server, one, two);
    let listing = one.listing();
    for path in
        ["/new/sub/x", "/new/sub/y", "/new/sub/both", "/new/sub/both (conflict two 2023-11-14 22.13.20)"]
    {
        assert!(listing.contains_key(path), "{path} in {:?}", listing.keys());
    }
    assert_eq!(listing.keys().filter(|path| path.starts_with("/new")).count(), 6);
}

#[test]
fn a_directory_with_something_new_survives_its_deletion_in_both_orders() {
    let (server, one, two) = pair();
    one.tree.rmdir(Ino::ROOT, &name("d"), at(300)).expect("gone");
    two.write(&two.make(two.find("d").ino, "x", NodeKind::File), "x");
    let (one, _) = settle(server, one, two);
    assert_eq!(one.paths(), ["/d", "/d/x", "/e", "/f"]);

    let (server, one, two) = pair();
    one.write(&one.make(one.find("d").ino, "x", NodeKind::File), "x");
    two.tree.rmdir(Ino::ROOT, &name("d"), at(300)).expect("gone");
    let (one, _) = settle(server, one, two);
    assert_eq!(one.paths(), ["/d", "/d/x", "/e", "/f"]);
}

#[test]
fn a_node_that_both_sides_moved_is_where_the_first_moved_it_and_only_there() {
    for what in ["f", "e"] {
        let (server, one, two) = pair();
        let replace = RenameMode::Replace;
        one.tree
            .rename((Ino::ROOT, &name(what)), (Ino::ROOT, &name("by one")), replace, at(300))
            .expect("ok");
        let dir = two.find("d").ino;
        two.tree.rename((Ino::ROOT, &name(what)), (dir, &name("by two")), replace, at(300)).expect("ok");
        let (one, _) = settle(server, one, two);
        let moved: Vec<String> = one.paths().into_iter().filter(|path| path.contains("by ")).collect();
        assert_eq!(moved, ["/by one"], "{what}");
    }
}

#[test]
fn directories_moved_into_each_other_make_no_circle_and_lose_nothing() {
    let (server, one, two) = pair();
    let replace = RenameMode::Replace;
    one.write(&one.make(one.find("d").ino, "x", NodeKind::File), "x");
    two.write(&two.make(two.find("e").ino, "y", NodeKind::File), "y");
    one.tree.rename((Ino::ROOT, &name("d")), (one.find("e").ino, &name("d")), replace, at(300)).expect("ok");
    two.tree.rename((Ino::ROOT, &name("e")), (two.find("d").ino, &name("e")), replace, at(300)).expect("ok");
    let (one, _) = settle(server, one, two);
    assert_eq!(one.paths(), ["/e", "/e/d", "/e/d/x", "/e/y", "/f"]);
}

#[test]
fn a_rename_onto_a_name_that_was_made_elsewhere_keeps_both() {
    let (server, one, two) = pair();
    one.write(&one.make(Ino::ROOT, "g", NodeKind::File), "from one");
    two.tree
        .rename((Ino::ROOT, &name("f")), (Ino::ROOT, &name("g")), RenameMode::Replace, at(300))
        .expect("ok");
    let (one, _) = settle(server, one, two);
    let listing = one.listing();
    assert_eq!(listing["/g"].1, content_of("from one"));
    assert_eq!(listing["/g (conflict two 2023-11-14 22.13.20)"].1, content_of("old"));
    assert!(!listing.contains_key("/f"));
}

#[test]
fn changes_of_different_fields_and_of_content_both_apply() {
    use super::namespace::{AttributeChange, XattrMode};
    let (server, one, two) = pair();
    let mode = AttributeChange { mode: Some(0o600), ctime: at(300), ..AttributeChange::default() };
    one.tree.set_attributes(one.find("f").ino, &mode).expect("set");
    two.tree.set_xattr(two.find("f").ino, b"user.a", b"1", XattrMode::Any, at(301)).expect("set");
    two.write(&two.find("f"), "edited");
    let (one, _) = settle(server, one, two);
    let record = one.find("f").record.expect("live");
    assert_eq!((record.mode, record.content), (0o600, content_of("edited")));
    assert_eq!(record.xattrs.get(&b"user.a"[..]).map(Vec::as_slice), Some(&b"1"[..]));
    assert_eq!(one.paths(), ["/d", "/e", "/f"]);
}

#[test]
fn unhashed_bytes_are_hashed_before_a_conflict_is_declared() {
    let (mut server, mut one, two) = pair();
    one.write(&one.find("f"), "abc");
    one.sync(&mut server);
    let file = two.find("f");
    let change = ContentChange { size: 3, mtime: at(200), ctime: at(200), stamp: None };
    two.tree.content_changed(file.id, change).expect("noted");
    let news: Vec<CurrentRecord> = server
        .records
        .iter()
        .map(|(key, value)| CurrentRecord { key: key.clone(), value: Some(value.clone()) })
        .collect();
    let options = ApplyOptions { at: at(1), force_conflicts: false, lost_after: None };
    let before = two.listing();
    match two.tree.apply(&news, options) {
        Err(TreeError::HashFirst { nodes }) => assert_eq!(nodes, [file.id]),
        other => panic!("{other:?}"),
    }
    assert_eq!(two.listing(), before, "nothing was done");
    let applied = two.tree.apply(&news, ApplyOptions { force_conflicts: true, ..options }).expect("forced");
    assert_eq!(applied.effects.iter().filter(|e| matches!(e, super::Effect::Forked { .. })).count(), 1);
}

/// Whatever two mounts did, they end with equal trees.
#[test]
fn random_changes_on_two_mounts_end_equal() {
    for seed in 1..=20_u64 {
        let (mut server, mut one, mut two) = pair();
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        for step in 0..40 {
            let mount = if random(2) == 0 { &one } else { &two };
            let dirs: Vec<String> = mount
                .listing()
                .into_iter()
                .filter(|(_, (kind, _, _))| *kind == NodeKind::Directory)
                .map(|(path, _)| path)
                .chain([String::new()])
                .collect();
            let paths = mount.paths();
            let dir = mount.find(&dirs[random(dirs.len())]).ino;
            let leaf = name(["a", "b", "c", "d"][random(4)]);
            match random(6) {
                0 => drop(mount.tree.create(dir, &leaf, new_node(NodeKind::Directory))),
                1 | 2 => {
                    if let Ok(file) = mount.tree.create(dir, &leaf, new_node(NodeKind::File)) {
                        mount.write(&file, &format!("{seed} {step}"));
                    }
                }
                3 if !paths.is_empty() => {
                    let node = mount.find(&paths[random(paths.len())]);
                    if node.record.as_ref().is_some_and(|r| r.kind == NodeKind::File) {
                        mount.write(&node, &format!("{seed} {step} edit"));
                    }
                }
                4 if !paths.is_empty() => {
                    let (parent, from) = split(mount, &paths[random(paths.len())]);
                    drop(mount.tree.rename((parent, &from), (dir, &leaf), RenameMode::Replace, at(300)));
                }
                5 if !paths.is_empty() => {
                    let (parent, leaf) = split(mount, &paths[random(paths.len())]);
                    drop(mount.tree.unlink(parent, &leaf, at(300)));
                    drop(mount.tree.rmdir(parent, &leaf, at(300)));
                }
                _ => {}
            }
            match random(12) {
                0 => one.sync(&mut server),
                1 => two.sync(&mut server),
                2 => drop(two.pull(&server)),
                _ => {}
            }
        }
        for _ in 0..3 {
            one.sync(&mut server);
            two.sync(&mut server);
        }
        assert_eq!(one.listing(), two.listing(), "seed {seed}");
        assert_eq!(
            one.tree.base_root().expect("a root"),
            two.tree.base_root().expect("a root"),
            "seed {seed}"
        );
        assert_eq!(one.tree.pending(0, 10).expect("read"), [], "seed {seed}");
    }
}

fn new_node(kind: NodeKind) -> NewNode {
    NewNode::plain(kind, 0o755, (1, 1), at(100))
}

fn split(mount: &Mount, path: &str) -> (Ino, Name) {
    let (dir, leaf) = path.rsplit_once('/').expect("absolute");
    (mount.find(dir).ino, name(leaf))
}

#[test]
fn records_that_were_read_while_the_server_went_on_wait_for_what_belongs_to_them() {
    let mut server = Server::default();
    let (mut one, two) = (Mount::new("one"), Mount::new("two"));
    one.write(&one.make(Ino::ROOT, "f", NodeKind::File), "bytes");
    one.sync(&mut server);
    let all: Vec<CurrentRecord> = server
        .records
        .iter()
        .map(|(key, value)| CurrentRecord { key: key.clone(), value: Some(value.clone()) })
        .collect();
    let options = ApplyOptions { at: at(1), force_conflicts: false, lost_after: None };
    let node = one.find("f").id;
    let (nodes, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|r| r.key == RecordKey::Node(node));
    two.tree.apply(&rest, options).expect("an entry without its node");
    assert!(two.listing().is_empty());
    two.tree.apply(&nodes, options).expect("its node");
    two.tree.apply(&rest, options).expect("the entry again");
    assert_eq!(two.paths(), ["/f"]);
    let gone = CurrentRecord { key: RecordKey::Node(node), value: None };
    two.tree.apply(&[gone], options).expect("a removed node that still has its name");
    assert_eq!(two.paths(), ["/f"]);
    let dirty = two.tree.key_state(&RecordKey::Node(node)).expect("read");
    assert_eq!(dirty, KeyState::Clean, "nothing is sent back");
}
