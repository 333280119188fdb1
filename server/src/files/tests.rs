//! Files by path on a real store: what mounts commit is found, what is published is committed for them.

use std::cell::Cell;

use dfs_shared::ddl::FileHash;
use dfs_shared::event::EventBus;
use dfs_shared::event::kinds::server::Committed;
use dfs_shared::manifest::ChunkRef;
use dfs_shared::name::Name;
use dfs_shared::record::{Change, ChangeGroup, EntryRecord, NodeKind, Record, RecordKey};
use dfs_shared::wire::messages::{self, CommitRequest, GroupOutcome, RecordsRequest, RegisterRequest};

use super::*;
use crate::blocking::block_on;
use crate::chunk_store::DiskStore;
use crate::metadata::sqlite::SqliteStore;

mod limits;

struct Kit {
    _dir: tempfile::TempDir,
    bus: EventBus,
    files: Arc<FileService>,
    number: Cell<u64>,
}

fn volume() -> VolumeName {
    VolumeName::new("main").unwrap()
}

fn path(text: &str) -> FilePath {
    FilePath::from_bytes(text.as_bytes()).unwrap()
}

fn client(text: &str) -> ClientId {
    ClientId::new(text).unwrap()
}

/// A content of small chunks, one for each piece.
fn content(pieces: &[&[u8]]) -> NewContent {
    let chunk = |bytes: &&[u8]| ChunkRef { hash: ChunkHash::of(bytes), len: bytes.len() as u64 };
    let small = |bytes: &&[u8]| SmallChunk { hash: ChunkHash::of(bytes), bytes: bytes.to_vec() };
    NewContent {
        manifest: Manifest { chunk_log2: 14, chunks: pieces.iter().map(chunk).collect() },
        file_hash: None,
        small_chunks: pieces.iter().map(small).collect(),
    }
}

fn wanted(at: &str, pieces: &[&[u8]]) -> Publish {
    let (path, content) = (path(at), content(pieces));
    Publish { path, content, mtime: None, owner: None, author: client("curl-1"), expected_version: None }
}

impl Kit {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bus = EventBus::new();
        let metadata: Arc<dyn MetadataStore> = Arc::new(SqliteStore::open(dir.path()).unwrap());
        let chunks = Arc::new(DiskStore::open(&dir.path().join("chunks")).unwrap());
        let sync = Arc::new(SyncService::new(Arc::clone(&metadata), chunks, bus.clone()));
        block_on(sync.ensure_volume(&volume())).unwrap();
        let files = Arc::new(FileService::new(sync, metadata));
        Self { _dir: dir, bus, files, number: Cell::new(1) }
    }

    fn publish(&self, at: &str, pieces: &[&[u8]]) -> FileInfo {
        block_on(self.files.publish(&volume(), wanted(at, pieces))).unwrap()
    }

    fn find(&self, at: &str) -> Result<FileInfo, FilesError> {
        self.files.find(&volume(), &path(at))
    }

    fn record(&self, key: RecordKey) -> Option<(Revision, Record)> {
        let request = RecordsRequest { keys: vec![key] };
        let reply = self.files.sync.records(&volume(), &request).unwrap();
        reply.records.into_iter().next().unwrap().value.map(|value| (value.revision, value.record))
    }

    /// Commits as a mount does.
    fn mount(&self, changes: Vec<Change>, content: Option<NewContent>) {
        let register = RegisterRequest {
            client_name: "mount".to_owned(),
            client: Some(client("mount")),
            uid: 7,
            gid: 7,
        };
        block_on(self.files.sync.register(&volume(), register)).unwrap();
        let (contents, small_chunks) = match content {
            Some(NewContent { manifest, file_hash, small_chunks }) => {
                (vec![messages::NewContent { manifest, file_hash }], small_chunks)
            }
            None => (Vec::new(), Vec::new()),
        };
        let commit = self.number.replace(self.number.get() + 1);
        let groups = vec![ChangeGroup { changes }];
        let request = CommitRequest { client: client("mount"), commit, groups, contents, small_chunks };
        let reply =
            block_on(self.files.sync.commit(&volume(), SyncService::prepare(request).unwrap())).unwrap();
        assert_eq!(reply.outcomes, [GroupOutcome::Accepted]);
    }

    /// Changes a file's record as a mount does.
    fn edit(&self, node: NodeId, content: Option<NewContent>, edit: impl FnOnce(&mut NodeRecord)) {
        let (base, Record::Node(mut record)) = self.record(RecordKey::Node(node)).unwrap() else { panic!() };
        if let Some(content) = &content {
            record.size = content.manifest.size();
            record.content = Some(content.manifest.id());
        }
        edit(&mut record);
        let value = Some(Record::Node(record));
        self.mount(vec![Change { key: RecordKey::Node(node), base: Some(base), value }], content);
    }

    fn names(&self, prefix: &str, limit: usize) -> Vec<String> {
        let (mut names, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let page = self.files.list(&volume(), prefix.as_bytes(), limit, cursor.as_deref()).unwrap();
            assert!(page.files.len() <= limit);
            names.extend(page.files.iter().map(|file| file.path.to_string()));
            match page.cursor {
                Some(next) => cursor = Some(next),
                None => return names,
            }
        }
    }
}

#[test]
fn a_published_file_is_found_with_its_directories_and_told_to_the_mounts() {
    let kit = Kit::new();
    let told = Arc::<Mutex<Vec<Arc<messages::Committed>>>>::default();
    let heard = Arc::clone(&told);
    let _subscription = kit
        .bus
        .subscribe(dfs_shared::event::SubscribeOptions::new("test"), move |event: &Committed| {
            heard.lock().push(Arc::clone(&event.commit));
        })
        .unwrap();
    let published = kit.publish("a/b/file.txt", &[b"hello"]);
    assert_eq!((published.version, published.size()), (1, 5));
    assert_eq!(published.file_hash, Some(ChunkHash::of(b"hello")));
    assert_eq!(published.owner(), "curl-1");
    assert_eq!(published.replicas, [Replica { node: "server".to_owned(), version: 1 }]);
    assert_eq!(kit.find("a/b/file.txt").unwrap(), published);
    assert!(matches!(kit.find("a/b"), Err(FilesError::NotAFile { .. })));
    assert!(matches!(kit.find("a/b/file.txt/x"), Err(FilesError::NotFound { .. })));
    assert!(matches!(kit.find("a/c"), Err(FilesError::NotFound { .. })));
    let told = told.lock();
    let commit = told.last().unwrap();
    assert_eq!(commit.small_chunks.len(), 1);
    // Two directories and a file, each with its entry, and the root's times.
    assert_eq!(commit.records.len(), 7);
    assert_eq!(commit.revision, published.revision);
}

#[test]
fn a_second_content_is_another_version_of_the_same_node() {
    let kit = Kit::new();
    let one = kit.publish("f", &[b"one"]);
    let two = kit.publish("f", &[b"two", b"parts"]);
    assert_eq!((two.node, two.version), (one.node, 2));
    kit.edit(one.node, Some(content(&[b"three"])), |_| ());
    kit.edit(one.node, None, |record| record.mode = 0o600);
    let three = kit.find("f").unwrap();
    assert_eq!((three.version, three.record.mode), (3, 0o600));
    let history = kit.files.history(&volume(), &path("f")).unwrap();
    assert_eq!(history.iter().map(|kept| kept.version).collect::<Vec<_>>(), [3, 2, 1]);
    assert_eq!(history[0], three);
    assert_eq!(history[2].content(), one.content());
    assert!(history[1].replicas.is_empty());
    assert_eq!(kit.files.at_version(&volume(), &path("f"), 2).unwrap().content(), two.content());
    let absent = kit.files.at_version(&volume(), &path("f"), 4);
    assert!(matches!(absent, Err(FilesError::NoVersion { newest: 3, .. })));
}

#[test]
fn the_same_content_again_is_no_new_version() {
    let kit = Kit::new();
    kit.publish("f", &[b"one"]);
    let again = kit.publish("f", &[b"one"]);
    assert_eq!(again.version, 1);
    assert_eq!(kit.find("f").unwrap(), again);
}

#[test]
fn an_expected_version_is_checked() {
    let kit = Kit::new();
    let publish = |expected| {
        let wanted = Publish { expected_version: Some(expected), ..wanted("f", &[b"x", &[expected as u8]]) };
        block_on(kit.files.publish(&volume(), wanted))
    };
    let conflict = |expected, outcome| match outcome {
        Err(FilesError::VersionConflict { expected: told, found, .. }) => {
            assert_eq!(told, expected);
            found
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(conflict(1, publish(1)), 0);
    assert_eq!(publish(0).unwrap().version, 1);
    assert_eq!(conflict(0, publish(0)), 1);
    assert_eq!(publish(1).unwrap().version, 2);
    assert_eq!(conflict(1, publish(1)), 2);
}

#[test]
fn missing_chunks_publish_nothing() {
    let kit = Kit::new();
    let mut wanted = wanted("dir/f", &[b"one", b"two"]);
    wanted.content.small_chunks.pop();
    let outcome = block_on(kit.files.publish(&volume(), wanted));
    assert!(matches!(outcome, Err(FilesError::ChunksMissing { count: 1 })), "{outcome:?}");
    assert!(kit.find("dir/f").is_err());
    assert!(kit.names("", 10).is_empty());
}

#[test]
fn nothing_is_published_below_a_file_or_over_a_directory() {
    let kit = Kit::new();
    kit.publish("a/b", &[b"x"]);
    let below = block_on(kit.files.publish(&volume(), wanted("a/b/c", &[b"y"])));
    assert!(matches!(below, Err(FilesError::NotADirectory { .. })), "{below:?}");
    let over = block_on(kit.files.publish(&volume(), wanted("a", &[b"y"])));
    assert!(matches!(over, Err(FilesError::NotAFile { .. })), "{over:?}");
}

#[test]
fn a_mounts_file_has_its_user_id_as_owner_and_its_hash_is_read_once() {
    let kit = Kit::new();
    let node = kit.publish("seed", &[b"seed"]).record;
    let content = content(&[b"first ", b"second"]);
    let record = NodeRecord {
        id: NodeId::generate(),
        uid: 1234,
        size: content.manifest.size(),
        content: Some(content.manifest.id()),
        xattrs: std::collections::BTreeMap::new(),
        ..node
    };
    let entry = EntryRecord { parent: NodeId::ROOT, name: Name::new(b"m").unwrap(), node: record.id };
    let new = |record: Record| Change { key: record.key(), base: None, value: Some(record) };
    kit.mount(vec![new(Record::Node(record)), new(Record::Entry(entry))], Some(content));
    let found = kit.find("m").unwrap();
    assert_eq!((found.owner(), found.file_hash, found.version), ("1234".to_owned(), None, 1));
    let hash = ChunkHash::of(b"first second");
    assert_eq!(kit.files.file_hash(&found).unwrap(), hash);
    assert_eq!(kit.find("m").unwrap().file_hash, Some(hash));
    let known = kit.files.content_with_hash(&hash, 12).unwrap().unwrap();
    assert_eq!(Some(known.manifest.id()), found.content());
    assert!(kit.files.content_with_hash(&hash, 13).unwrap().is_none());
    assert_eq!(kit.files.content_with_hash(&ChunkHash::of(b"seed"), 4).unwrap().unwrap().manifest.size(), 4);
    assert!(kit.files.content_with_hash(&ChunkHash::of(b""), 0).unwrap().is_some());
    assert!(kit.files.content_with_hash(&ChunkHash::of(b"seed"), 0).unwrap().is_none());
}

#[test]
fn a_hole_counts_as_zeros_in_the_hash() {
    let kit = Kit::new();
    let mut wanted = wanted("sparse", &[b"begin"]);
    wanted.content.manifest.chunks.push(ChunkRef { hash: ChunkHash::HOLE, len: 100_000 });
    block_on(kit.files.publish(&volume(), wanted)).unwrap();
    let bytes = [&b"begin"[..], &[0; 100_000]].concat();
    assert_eq!(kit.files.file_hash(&kit.find("sparse").unwrap()).unwrap(), ChunkHash::of(&bytes));
}

#[test]
fn metadata_changes_alone_and_with_a_known_content() {
    let kit = Kit::new();
    kit.publish("other", &[b"known"]);
    let file = kit.publish("f", &[b"one"]);
    let set = |change| block_on(kit.files.set_metadata(&volume(), &path("f"), change));
    let mtime = Timestamp { secs: 1_700_000_000, nanos: 5 };
    let change = MetadataChange { mtime: Some(mtime), owner: Some("ann".to_owned()), ..Default::default() };
    let changed = set(change).unwrap();
    assert_eq!((changed.mtime(), changed.owner(), changed.version), (mtime, "ann".to_owned(), 1));
    assert_eq!((changed.content(), changed.file_hash), (file.content(), file.file_hash));
    assert_eq!(kit.find("f").unwrap(), changed);
    let known = |bytes: &[u8]| Some((ChunkHash::of(bytes), bytes.len() as u64));
    let changed = set(MetadataChange { content: known(b"known"), ..Default::default() }).unwrap();
    assert_eq!((changed.version, changed.size()), (2, 5));
    assert_eq!(kit.find("f").unwrap(), changed);
    let unknown = set(MetadataChange { content: known(b"nowhere"), ..Default::default() });
    assert!(matches!(unknown, Err(FilesError::ContentUnknown { size: 7, .. })), "{unknown:?}");
    let stale = set(MetadataChange { expected_version: Some(1), ..Default::default() });
    assert!(matches!(stale, Err(FilesError::VersionConflict { found: 2, .. })), "{stale:?}");
    let long = set(MetadataChange { owner: Some("x".repeat(256)), ..Default::default() });
    assert!(matches!(long, Err(FilesError::Refused { .. })), "{long:?}");
    let absent = block_on(kit.files.set_metadata(&volume(), &path("no"), MetadataChange::default()));
    assert!(matches!(absent, Err(FilesError::NotFound { .. })), "{absent:?}");
}

#[test]
fn a_removed_file_keeps_its_history_by_its_path() {
    let kit = Kit::new();
    kit.publish("d/f", &[b"one"]);
    kit.publish("d/f", &[b"two"]);
    let removed = block_on(kit.files.remove(&volume(), &path("d/f"))).unwrap();
    assert_eq!((removed.version, removed.status), (2, SyncStatus::Deleted));
    assert!(matches!(kit.find("d/f"), Err(FilesError::NotFound { .. })));
    assert!(kit.record(RecordKey::Node(removed.node)).is_none());
    let again = block_on(kit.files.remove(&volume(), &path("d/f")));
    assert!(matches!(again, Err(FilesError::NotFound { .. })));
    let history = kit.files.history(&volume(), &path("d/f")).unwrap();
    let seen: Vec<_> = history.iter().map(|kept| (kept.version, kept.status)).collect();
    assert_eq!(seen, [(2, SyncStatus::Deleted), (1, SyncStatus::Synced)]);
    assert_eq!(history[1].file_hash, Some(ChunkHash::of(b"one")));
    assert!(matches!(kit.files.history(&volume(), &path("d/never")), Err(FilesError::NotFound { .. })));
    let fresh = kit.publish("d/f", &[b"three"]);
    assert_eq!((fresh.version, fresh.node == removed.node), (1, false));
}

#[test]
fn a_file_with_two_names_loses_one() {
    let kit = Kit::new();
    let file = kit.publish("one", &[b"x"]);
    let entry = Record::Entry(EntryRecord {
        parent: NodeId::ROOT,
        name: Name::new(b"two").unwrap(),
        node: file.node,
    });
    kit.mount(vec![Change { key: entry.key(), base: None, value: Some(entry) }], None);
    block_on(kit.files.remove(&volume(), &path("one"))).unwrap();
    assert_eq!(kit.find("two").unwrap().node, file.node);
    let history = kit.files.history(&volume(), &path("one")).unwrap();
    assert_eq!((history.len(), history[0].status), (1, SyncStatus::Deleted));
}

#[test]
fn a_list_is_in_order_whatever_the_size_of_its_pages() {
    let kit = Kit::new();
    for name in ["b/2", "a.txt", "a/z", "b/10/x", "a/b/c", "c", "b/1", "ba", "B"] {
        kit.publish(name, &[name.as_bytes()]);
    }
    let all = ["B", "a/b/c", "a/z", "a.txt", "b/1", "b/10/x", "b/2", "ba", "c"];
    for limit in 1..=10 {
        assert_eq!(kit.names("", limit), all, "{limit}");
        assert_eq!(kit.names("b", limit), ["b/1", "b/10/x", "b/2", "ba"], "{limit}");
        assert_eq!(kit.names("/b/1", limit), ["b/1", "b/10/x"], "{limit}");
        assert_eq!(kit.names("b/", limit), ["b/1", "b/10/x", "b/2"], "{limit}");
        assert!(kit.names("no/such", limit).is_empty());
        assert!(kit.names("bb", limit).is_empty());
    }
    let mut seen = Vec::new();
    let shown = kit.files.snapshot(&volume(), &mut |file| {
        seen.push(file.path.to_string());
        ControlFlow::Continue(())
    });
    assert_eq!(seen, all);
    assert_eq!(shown.unwrap(), kit.files.sync.volume(&volume()).unwrap());
}

#[test]
fn a_cursor_stays_good_when_what_it_names_is_gone() {
    let kit = Kit::new();
    for name in ["a/1", "a/2", "b/1"] {
        kit.publish(name, &[b"x"]);
    }
    let first = kit.files.list(&volume(), b"", 1, None).unwrap();
    let cursor = first.cursor.unwrap();
    for name in ["a/1", "a/2"] {
        block_on(kit.files.remove(&volume(), &path(name))).unwrap();
    }
    let next = kit.files.list(&volume(), b"", 10, Some(&cursor)).unwrap();
    assert_eq!(next.files.iter().map(|file| file.path.to_string()).collect::<Vec<_>>(), ["b/1"]);
    for bad in ["x", "6", "zz", "+1"] {
        let refused = kit.files.list(&volume(), b"", 1, Some(bad));
        assert!(matches!(refused, Err(FilesError::BadCursor)), "{bad}");
    }
    assert!(matches!(kit.files.list(&volume(), b"b", 1, Some(&cursor)), Err(FilesError::BadCursor)));
}

fn new_file(at: &str, hash: &str, size: u64) -> NewFile {
    NewFile {
        path: path(at),
        hash: FileHash::from_text(hash).unwrap(),
        size,
        version: 3,
        mtime: Some(Timestamp { secs: 1_700_000_000, nanos: 0 }),
        owner: Some("ann".to_owned()),
        author: client("api"),
    }
}

#[test]
fn an_added_file_gets_a_content_that_is_here_and_is_announced_otherwise() {
    let kit = Kit::new();
    let known = FileHash::from(ChunkHash::of(b"known"));
    let unknown = FileHash::from(ChunkHash::of(b"unknown"));
    kit.publish("seed", &[b"known"]);
    let add = |new| block_on(kit.files.add(&volume(), new));
    let Added::Made(made) = add(new_file("d/made", known.as_str(), 5)).unwrap() else { panic!() };
    assert_eq!((made.owner(), made.mtime().secs, made.version), ("ann".to_owned(), 1_700_000_000, 1));
    assert_eq!(kit.find("d/made").unwrap(), made);
    let Added::Same(same) = add(new_file("d/made", known.as_str(), 5)).unwrap() else { panic!() };
    assert_eq!(same, made);
    let other = add(new_file("d/made", unknown.as_str(), 7));
    assert!(matches!(other, Err(FilesError::Exists { .. })), "{other:?}");
    let Added::Announced(announced) = add(new_file("d/later", unknown.as_str(), 7)).unwrap() else {
        panic!()
    };
    assert_eq!((announced.version, announced.sync_state.status), (3, SyncStatus::Modified));
    assert!(matches!(kit.find("d/later"), Err(FilesError::NotFound { .. })));
    assert_eq!(kit.files.announced(&volume(), &path("d/later")).unwrap(), announced);
    let Added::Announced(_) = add(new_file("short", "sha256:abc123", 9)).unwrap() else { panic!() };
    kit.publish("d/later", &[b"unknown"]);
    assert!(kit.files.announced(&volume(), &path("d/later")).is_err());
    let Added::Made(empty) = add(new_file("empty", "sha256:e3b0", 0)).unwrap() else { panic!() };
    assert_eq!((empty.size(), empty.content()), (0, None));
    let wrong = add(new_file("wrong", known.as_str(), 0));
    assert!(matches!(wrong, Err(FilesError::Refused { .. })), "{wrong:?}");
}

#[test]
fn announced_files_stand_among_the_others_on_pages_of_every_size() {
    let kit = Kit::new();
    for name in ["a/1", "b", "d/e/f"] {
        kit.publish(name, &[name.as_bytes()]);
    }
    for name in ["a", "a/0", "a/2", "a.x", "b/x", "d/e", "d/e/f", "z/1", "z/2"] {
        let outcome = block_on(kit.files.add(&volume(), new_file(name, "sha256:12", 1)));
        assert_eq!(outcome.is_err(), ["a", "b/x", "d/e", "d/e/f"].contains(&name), "{name}: {outcome:?}");
    }
    let all = ["a/0", "a/1", "a/2", "a.x", "b", "d/e/f", "z/1", "z/2"];
    for limit in 1..=9 {
        let (mut names, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let page = kit.files.list(&volume(), b"", limit, cursor.as_deref()).unwrap();
            let mut paths: Vec<_> = page.files.iter().map(|file| file.path.clone()).collect();
            paths.extend(page.announced.iter().map(|file| FilePath::from_bytes(&file.name).unwrap()));
            paths.sort();
            assert!(paths.len() <= limit, "{limit}");
            names.extend(paths.iter().map(ToString::to_string));
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(names, all, "{limit}");
    }
    let page = kit.files.list(&volume(), b"a/", 10, None).unwrap();
    assert_eq!((page.files.len(), page.announced.len()), (1, 2));
}

#[test]
fn many_at_once_on_one_path_are_ordered_and_none_is_lost() {
    let kit = Kit::new();
    kit.publish("f", &[b"start"]);
    let threads: Vec<_> = (0..8)
        .map(|n: u8| {
            let files = Arc::clone(&kit.files);
            std::thread::spawn(move || {
                block_on(files.publish(&volume(), wanted("f", &[b"content", &[n]]))).map(|info| info.version)
            })
        })
        .collect();
    let mut versions: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect();
    versions.sort_unstable();
    assert_eq!(versions, [2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(kit.files.history(&volume(), &path("f")).unwrap().len(), 9);
}

#[test]
fn an_unknown_volume_is_told() {
    let kit = Kit::new();
    let no = VolumeName::new("no").unwrap();
    let unknown =
        |error: FilesError| matches!(error, FilesError::Sync(crate::sync::SyncError::VolumeNotFound { .. }));
    assert!(unknown(kit.files.find(&no, &path("f")).unwrap_err()));
    assert!(unknown(block_on(kit.files.publish(&no, wanted("f", &[b"x"]))).unwrap_err()));
}

#[test]
fn files_are_of_regular_kind_only() {
    let kit = Kit::new();
    let seed = kit.publish("f", &[b"x"]).record;
    let link = NodeRecord {
        id: NodeId::generate(),
        kind: NodeKind::Symlink,
        size: 1,
        content: None,
        target: b"f".to_vec(),
        ..seed
    };
    let entry = EntryRecord { parent: NodeId::ROOT, name: Name::new(b"link").unwrap(), node: link.id };
    let new = |record: Record| Change { key: record.key(), base: None, value: Some(record) };
    kit.mount(vec![new(Record::Node(link)), new(Record::Entry(entry))], None);
    assert_eq!(kit.names("", 10), ["f"]);
    assert!(matches!(kit.find("link"), Err(FilesError::NotAFile { .. })));
}

#[test]
fn an_owner_is_bounded_at_the_limit_and_one_past_it_whether_the_content_is_here_or_not() {
    use crate::limits::FILE_OWNER_LEN_MAX;
    let kit = Kit::new();
    for len in [FILE_OWNER_LEN_MAX, FILE_OWNER_LEN_MAX + 1] {
        let owner = Some("x".repeat(len));
        let here = Publish { owner: owner.clone(), ..wanted(&format!("here {len}"), &[b"x"]) };
        let unknown = FileHash::from(ChunkHash::of(b"unknown"));
        let later = NewFile { owner, ..new_file(&format!("later {len}"), unknown.as_str(), 7) };
        let published = block_on(kit.files.publish(&volume(), here)).map(drop);
        let announced = block_on(kit.files.add(&volume(), later)).map(drop);
        for outcome in [published, announced] {
            match len == FILE_OWNER_LEN_MAX {
                true => outcome.unwrap(),
                false => assert!(matches!(outcome, Err(FilesError::Refused { .. })), "{outcome:?}"),
            }
        }
    }
}
