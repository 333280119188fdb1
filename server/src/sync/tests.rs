//! The service as a whole: registering, chunks, restart.

use std::sync::Mutex;

use bytes::Bytes;
use dfs_shared::event::SubscribeOptions;
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::record::NodeKind;

use super::kit::*;
use super::*;
use crate::blocking::block_on;

mod full;
mod quota;

fn upload(kit: &Kit, chunks: &[&[u8]]) {
    let mut batch = kit.service.upload();
    for bytes in chunks {
        block_on(batch.put(ChunkHash::of(bytes), Bytes::copy_from_slice(bytes))).unwrap();
    }
    assert_eq!(block_on(batch.finish()).unwrap(), chunks.len());
}

fn missing(kit: &Kit, hashes: Vec<ChunkHash>) -> Vec<ChunkHash> {
    kit.service.missing(&main_volume(), &MissingRequest { hashes }).unwrap().missing
}

#[test]
fn the_first_client_makes_the_root_directory_and_the_next_one_keeps_it() {
    let kit = Kit::new();
    let root = kit.records(vec![node_key(NodeId::ROOT)])[0].value.clone().unwrap();
    let dfs_shared::record::Record::Node(node) = &root.record else { panic!("{root:?}") };
    assert_eq!((node.kind, node.mode, node.uid, node.gid), (NodeKind::Directory, 0o755, 1, 2));
    let request = RegisterRequest { client_name: "other".to_owned(), client: None, uid: 9, gid: 9 };
    let reply = block_on(kit.service.register(&main_volume(), request)).unwrap();
    assert_eq!(kit.records(vec![node_key(NodeId::ROOT)])[0].value, Some(root));
    assert_ne!(reply.client, kit.client);
    assert!(reply.client.as_str().starts_with("other-"), "{}", reply.client);
}

#[test]
fn a_client_keeps_its_id_and_odd_names_make_good_ids() {
    let kit = Kit::new();
    let id = ClientId::new("mine").unwrap();
    let request = RegisterRequest { client_name: "x".to_owned(), client: Some(id.clone()), uid: 0, gid: 0 };
    assert_eq!(block_on(kit.service.register(&main_volume(), request)).unwrap().client, id);
    for name in ["", "..", "ä ö", &"x".repeat(200), "a/b"] {
        let request = RegisterRequest { client_name: name.to_owned(), client: None, uid: 0, gid: 0 };
        block_on(kit.service.register(&main_volume(), request)).unwrap();
    }
}

#[test]
fn uploaded_chunks_are_no_longer_missing_and_come_back() {
    let kit = Kit::new();
    let (a, b) = (ChunkHash::of(b"a"), ChunkHash::of(b"b"));
    assert_eq!(missing(&kit, vec![a, b, ChunkHash::HOLE]), [a, b]);
    upload(&kit, &[b"a"]);
    assert_eq!(missing(&kit, vec![a, b]), [b]);
    assert_eq!(kit.service.chunk(a).unwrap(), FoundChunk::Bytes(Bytes::from_static(b"a")));
    assert_eq!(kit.service.chunk(b).unwrap(), FoundChunk::Absent);
}

#[test]
fn a_batch_with_a_wrong_hash_stores_nothing() {
    let kit = Kit::new();
    let mut batch = kit.service.upload();
    block_on(batch.put(ChunkHash::of(b"good"), Bytes::from_static(b"good"))).unwrap();
    block_on(batch.put(ChunkHash::of(b"other"), Bytes::from_static(b"bad"))).unwrap();
    assert!(matches!(block_on(batch.finish()), Err(SyncError::Chunks(_))));
    assert_eq!(missing(&kit, vec![ChunkHash::of(b"good")]), [ChunkHash::of(b"good")]);
}

#[test]
fn a_damaged_chunk_is_reported_never_served_and_may_be_brought_again() {
    let kit = Kit::new();
    let seen = Arc::<Mutex<Vec<ChunkCorrupt>>>::default();
    let listener = Arc::clone(&seen);
    let options = SubscribeOptions::new("test");
    let _joined = kit
        .bus
        .subscribe(options, move |event: &ChunkCorrupt| listener.lock().unwrap().push(event.clone()))
        .unwrap();
    let hash = ChunkHash::of(b"bytes");
    upload(&kit, &[b"bytes"]);
    let name = hash.to_string();
    let path = kit.dir.path().join("chunks").join(&name[..2]).join(&name);
    for damage in ["bytez", ""] {
        std::fs::write(&path, damage).unwrap();
        assert_eq!(kit.service.chunk(hash).unwrap(), FoundChunk::Corrupt);
        // The writer runs jobs in order: after this one the chunk is forgotten.
        block_on(kit.metadata.write(1, |_| Ok(())).get()).unwrap();
        assert_eq!(missing(&kit, vec![hash]), [hash]);
        upload(&kit, &[b"bytes"]);
        assert_eq!(kit.service.chunk(hash).unwrap(), FoundChunk::Bytes(Bytes::from_static(b"bytes")));
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(kit.service.chunk(hash).unwrap(), FoundChunk::Corrupt);
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3);
    assert!(seen[0].why.contains(path.to_str().unwrap()), "{}", seen[0].why);
}

#[test]
fn everything_acknowledged_is_there_after_a_restart() {
    let kit = Kit::new();
    let id = NodeId::generate();
    let changes = vec![put(None, filled(id, b"one")), put(None, entry(NodeId::ROOT, "a", id))];
    kit.accept_with(changes, &[b"one"]);
    upload(&kit, &[b"chunk"]);
    let before = kit.service.info(&main_volume()).unwrap();
    let Kit { dir, metadata, bus, service, .. } = kit;
    drop((metadata, service));
    let (_, service) = open(dir.path(), &bus);
    assert_eq!(service.info(&main_volume()).unwrap(), before);
    let hash = ChunkHash::of(b"one");
    assert_eq!(service.chunk(hash).unwrap(), FoundChunk::Bytes(Bytes::from_static(b"one")));
    assert_eq!(
        service.chunk(ChunkHash::of(b"chunk")).unwrap(),
        FoundChunk::Bytes(Bytes::from_static(b"chunk"))
    );
}

/// Fails unless the first was taken and the second was too much.
fn bounded<T: std::fmt::Debug>(what: &str, at_limit: Result<T, SyncError>, past_it: Result<T, SyncError>) {
    assert!(at_limit.is_ok(), "{what}: {at_limit:?}");
    assert!(matches!(past_it, Err(SyncError::TooMany { .. })), "{what}: {past_it:?}");
}

#[test]
fn every_query_is_bounded_at_the_limit_and_one_past_it() {
    use dfs_shared::limits::QUERY_ITEMS_MAX as MAX;
    let (kit, volume) = (Kit::new(), main_volume());
    let missing =
        |count| kit.service.missing(&volume, &MissingRequest { hashes: vec![ChunkHash::HOLE; count] });
    bounded("missing", missing(MAX), missing(MAX + 1));
    let contents = |count| {
        let contents = vec![content_id(b"unknown"); count];
        kit.service.contents(&volume, &ContentsRequest { contents })
    };
    bounded("contents", contents(MAX), contents(MAX + 1));
    let records = |count| {
        let keys = vec![node_key(NodeId::from_bytes([9; 16])); count];
        kit.service.records(&volume, &RecordsRequest { keys })
    };
    bounded("records", records(MAX), records(MAX + 1));
    let merkle = |count| kit.service.merkle(&volume, &MerkleRequest { prefixes: vec![vec![15; 65]; count] });
    bounded("merkle", merkle(MAX), merkle(MAX + 1));
}

#[test]
fn states_of_a_lineage_are_bounded_at_the_limit_and_one_past_it() {
    use dfs_shared::limits::STATES_SEEN_MAX;
    use dfs_shared::lineage::State;
    let kit = Kit::new();
    let info = kit.service.info(&main_volume()).unwrap().volume;
    let state = State { revision: info.revision, root: info.root };
    let lineage = |count| {
        let request = LineageRequest { seen: vec![state; count] };
        kit.service.lineage(&main_volume(), &request)
    };
    assert_eq!(lineage(STATES_SEEN_MAX).unwrap().known.common, Some(info.revision));
    assert!(matches!(lineage(STATES_SEEN_MAX + 1), Err(SyncError::TooMany { .. })));
}

#[test]
fn lists_of_a_commit_are_bounded_at_the_limit_and_one_past_it() {
    use dfs_shared::limits::COMMIT_CHANGES_MAX as MAX;
    use dfs_shared::record::ChangeGroup;
    use dfs_shared::revision::Revision;
    use dfs_shared::wire::messages::{NewContent, SmallChunk};
    let kit = Kit::new();
    let check = |edit: &dyn Fn(&mut CommitRequest)| {
        let mut request = kit.request(vec![], &[]);
        edit(&mut request);
        super::request::CheckedRequest::new(request)
    };
    let change = remove(Revision(1), node_key(NodeId::ROOT));
    let changes = |count| {
        let group = |count| ChangeGroup { changes: vec![change.clone(); count] };
        check(&|request| request.groups = vec![group(1), group(count - 1)])
    };
    bounded("changes", changes(MAX), changes(MAX + 1));
    let groups = |count| check(&|request| request.groups = vec![ChangeGroup::default(); count]);
    bounded("groups", groups(MAX), groups(MAX + 1));
    let content = NewContent { manifest: manifest(b"x"), file_hash: None };
    let contents = |count| check(&|request| request.contents = vec![content.clone(); count]);
    bounded("contents", contents(MAX), contents(MAX + 1));
    let small = SmallChunk { hash: ChunkHash::of(b"x"), bytes: b"x".to_vec() };
    let chunks = |count| check(&|request| request.small_chunks = vec![small.clone(); count]);
    bounded("small chunks", chunks(MAX), chunks(MAX + 1));
}

#[test]
fn a_clients_name_is_bounded_at_the_limit_and_one_past_it() {
    let kit = Kit::new();
    let register = |len| {
        let request = RegisterRequest { client_name: "x".repeat(len), client: None, uid: 0, gid: 0 };
        block_on(kit.service.register(&main_volume(), request))
    };
    bounded("name", register(CLIENT_NAME_LEN_MAX), register(CLIENT_NAME_LEN_MAX + 1));
}
