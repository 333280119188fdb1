//! Sessions on real stores: order and repetition of chunks, restarts, wrong hashes, conflicts, expiry, limits.

use std::sync::Mutex;

use bytes::Bytes;
use dfs_shared::event::kinds::server::{
    FileConflictDetected, FileConflictResolved, FileUploadStarted, SyncCompleted,
};
use dfs_shared::event::{Event, SubscribeOptions, Subscription};
use dfs_shared::wire::messages::RegisterRequest;

use super::diff::Action;
use super::*;
use crate::blocking::block_on;
use crate::chunk_store::DiskStore;
use crate::metadata::sqlite::SqliteStore;
use crate::sync::{FoundChunk, SyncService};

struct Kit {
    dir: tempfile::TempDir,
    bus: EventBus,
    client: ClientId,
    service: Arc<SessionService>,
}

fn main_volume() -> VolumeName {
    VolumeName::new("main").unwrap()
}

fn open(dir: &Path, bus: &EventBus) -> Arc<SessionService> {
    let metadata: Arc<dyn MetadataStore> = Arc::new(SqliteStore::open(dir).unwrap());
    let chunks = Arc::new(DiskStore::open(&dir.join("chunks")).unwrap());
    let sync = Arc::new(SyncService::new(Arc::clone(&metadata), chunks, bus.clone()));
    block_on(sync.ensure_volume(&main_volume())).unwrap();
    let files = Arc::new(FileService::new(sync, Arc::clone(&metadata)));
    Arc::new(SessionService::open(files, metadata, dir, bus.clone()).unwrap())
}

impl Kit {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bus = EventBus::new();
        let service = open(dir.path(), &bus);
        let request = RegisterRequest { client_name: "c".to_owned(), client: None, uid: 1, gid: 1 };
        let client = block_on(service.files().sync().register(&main_volume(), request)).unwrap().client;
        Self { dir, bus, client, service }
    }

    /// Ends the service and opens it again on what it left.
    fn restart(self) -> Self {
        let Self { dir, bus, client, service } = self;
        drop(Arc::try_unwrap(service).unwrap());
        let service = open(dir.path(), &bus);
        Self { dir, bus, client, service }
    }

    fn start(&self) -> SessionId {
        block_on(self.service.start(&main_volume(), &self.client)).unwrap().id
    }

    fn diff(&self, id: SessionId, local: &[(&str, &[u8], Option<u64>)]) -> Diffed {
        let local = local.iter().map(|(path, content, version)| {
            let hash = Some(ChunkHash::of(content));
            let size = content.len() as u64;
            (path.as_bytes().to_vec(), LocalFile { version: *version, size, hash, status: None })
        });
        block_on(self.service.diff(id, local.collect(), None)).unwrap()
    }

    /// A session whose plan wants this file uploaded.
    fn planned(&self, path_text: &str, content: &[u8], version: Option<u64>) -> SessionId {
        let id = self.start();
        self.diff(id, &[(path_text, content, version)]);
        id
    }

    fn put(
        &self,
        id: SessionId,
        path_text: &str,
        number: u64,
        total: u64,
        bytes: &[u8],
    ) -> Result<Received, SessionError> {
        let (path, hash, bytes) = (path(path_text), ChunkHash::of(bytes), Bytes::copy_from_slice(bytes));
        block_on(self.service.upload_chunk(ChunkUpload { session: id, path, number, total, hash, bytes }))
    }

    fn complete(&self, id: SessionId, path_text: &str, content: &[u8]) -> Result<FileInfo, SessionError> {
        block_on(self.service.upload_complete(id, &path(path_text), ChunkHash::of(content)))
    }

    /// Uploads a file in one session of its own.
    fn upload(&self, path_text: &str, content: &[u8], version: Option<u64>) -> FileInfo {
        let id = self.planned(path_text, content, version);
        self.put(id, path_text, 0, 1, content).unwrap();
        self.complete(id, path_text, content).unwrap()
    }

    fn state(&self, id: SessionId) -> State {
        state_of(&self.service.status(&id).unwrap()).unwrap()
    }

    fn read(&self, path_text: &str) -> Vec<u8> {
        let files = self.service.files();
        let info = files.find(&main_volume(), &path(path_text)).unwrap();
        let mut all = Vec::new();
        for chunk in files.manifest(&info).unwrap().chunks {
            match files.sync().chunk(chunk.hash).unwrap() {
                _ if chunk.hash.is_hole() => all.resize(all.len() + chunk.len as usize, 0),
                FoundChunk::Bytes(bytes) => all.extend_from_slice(&bytes),
                other => panic!("{other:?}"),
            }
        }
        all
    }

    fn heard<E: Event>(&self) -> (Subscription, Arc<Mutex<Vec<E>>>) {
        let heard = Arc::<Mutex<Vec<E>>>::default();
        let list = Arc::clone(&heard);
        let joined = self.bus.subscribe(SubscribeOptions::new("test"), move |event: &E| {
            list.lock().unwrap().push(event.clone());
        });
        (joined.unwrap(), heard)
    }

    fn staged_files(&self) -> usize {
        fn count(dir: &Path) -> usize {
            std::fs::read_dir(dir).unwrap().fold(0, |sum, entry| match entry.unwrap().path() {
                path if path.is_dir() => sum + count(&path),
                _ => sum + 1,
            })
        }
        count(&self.dir.path().join(STAGING_DIRECTORY))
    }
}

fn path(text: &str) -> FilePath {
    FilePath::from_text(text).unwrap()
}

/// Bytes that no chunker takes for a hole.
fn content(len: usize) -> Vec<u8> {
    let mut state = 7_u32;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

#[test]
fn chunks_in_any_order_and_more_than_once_are_the_file_also_over_a_restart() {
    let mut kit = Kit::new();
    let all = content(300_000);
    let parts: Vec<_> = all.chunks(70_000).collect();
    let id = kit.planned("dir/f", &all, None);
    let missing = |received: Received| received.missing;
    assert_eq!(missing(kit.put(id, "dir/f", 3, 5, parts[3]).unwrap()), [0, 1, 2, 4]);
    assert_eq!(missing(kit.put(id, "dir/f", 0, 5, parts[0]).unwrap()), [1, 2, 4]);
    assert_eq!(missing(kit.put(id, "dir/f", 3, 5, parts[3]).unwrap()), [1, 2, 4]);
    let early = kit.complete(id, "dir/f", &all).unwrap_err();
    assert!(matches!(early, SessionError::ChunksMissing { first: 1, count: 3, .. }), "{early}");
    kit = kit.restart();
    assert_eq!(kit.state(id), State::TransferringFiles);
    for number in [4, 1, 2] {
        kit.put(id, "dir/f", number, 5, parts[number as usize]).unwrap();
    }
    let info = kit.complete(id, "dir/f", &all).unwrap();
    assert_eq!((info.version, info.size(), info.file_hash), (1, 300_000, Some(ChunkHash::of(&all))));
    assert!(kit.read("dir/f") == all);
    assert_eq!(kit.state(id), State::Complete);
    assert_eq!(kit.staged_files(), 0);
    assert_eq!(kit.service.status(&id).unwrap().staged, 0);
}

#[test]
fn the_same_file_uploaded_in_other_chunks_has_the_same_content() {
    let kit = Kit::new();
    let all = content(400_000);
    let ids = [30_000, 170_000].map(|len| {
        let name = format!("f{len}");
        let id = kit.planned(&name, &all, None);
        let parts: Vec<_> = all.chunks(len).collect();
        for (number, part) in parts.iter().enumerate() {
            kit.put(id, &name, number as u64, parts.len() as u64, part).unwrap();
        }
        kit.complete(id, &name, &all).unwrap().content()
    });
    assert_eq!(ids[0], ids[1]);
    let cut = dfs_shared::chunking::manifest_of(&all[..], all.len() as u64, None).unwrap();
    assert_eq!(ids[0], Some(cut.id()), "and the one that a mount gives it");
}

#[test]
fn empty_files_small_files_and_files_of_zeros_are_published() {
    let kit = Kit::new();
    for (name, bytes) in [("small", b"abc".to_vec()), ("zeros", vec![0; 200_000]), ("one", vec![])] {
        kit.upload(name, &bytes, None);
        assert!(kit.read(name) == bytes, "{name}");
    }
    let id = kit.planned("nothing-sent", b"", None);
    assert_eq!(kit.complete(id, "nothing-sent", b"").unwrap().size(), 0);
    assert!(kit.read("nothing-sent").is_empty());
}

#[test]
fn a_wrong_hash_publishes_nothing_and_the_upload_can_be_mended() {
    let kit = Kit::new();
    let all = content(50_000);
    let id = kit.planned("f", &all, None);
    kit.put(id, "f", 0, 2, &all[..25_000]).unwrap();
    kit.put(id, "f", 1, 2, b"something else").unwrap();
    let wrong = kit.complete(id, "f", &all).unwrap_err();
    assert!(matches!(wrong, SessionError::FileMismatch { .. }), "{wrong}");
    assert!(kit.service.files().find(&main_volume(), &path("f")).is_err());
    assert_eq!(kit.state(id), State::TransferringFiles);
    assert!(kit.service.status(&id).unwrap().last_error.unwrap().contains("hash"));
    kit.put(id, "f", 1, 2, &all[25_000..]).unwrap();
    kit.complete(id, "f", &all).unwrap();
    assert!(kit.read("f") == all);
}

#[test]
fn a_chunk_with_another_hash_is_refused_and_leaves_nothing() {
    let kit = Kit::new();
    let id = kit.planned("f", b"abc", None);
    let (hash, bytes) = (ChunkHash::of(b"abc"), Bytes::from_static(b"abd"));
    let chunk = ChunkUpload { session: id, path: path("f"), number: 0, total: 1, hash, bytes };
    let refused = block_on(kit.service.upload_chunk(chunk)).unwrap_err();
    assert!(matches!(refused, SessionError::ChunkMismatch { number: 0, .. }), "{refused}");
    assert_eq!(kit.staged_files(), 0);
}

#[test]
fn a_staged_chunk_that_is_damaged_on_disk_counts_as_missing() {
    let kit = Kit::new();
    let all = content(40_000);
    let id = kit.planned("f", &all, None);
    kit.put(id, "f", 0, 2, &all[..20_000]).unwrap();
    kit.put(id, "f", 1, 2, &all[20_000..]).unwrap();
    kit.service.staging.put(&id, b"f", 1, &[9; 20_000]).unwrap();
    for _ in 0..2 {
        let error = kit.complete(id, "f", &all).unwrap_err();
        assert!(matches!(error, SessionError::ChunksMissing { first: 1, .. }), "{error}");
    }
    kit.put(id, "f", 1, 2, &all[20_000..]).unwrap();
    kit.complete(id, "f", &all).unwrap();
    assert!(kit.read("f") == all);
}

#[test]
fn another_number_of_chunks_begins_the_upload_anew() {
    let kit = Kit::new();
    let id = kit.planned("f", b"abc", None);
    kit.put(id, "f", 7, 9, b"of another cut").unwrap();
    assert_eq!(kit.put(id, "f", 1, 2, b"c").unwrap().missing, [0]);
    assert_eq!((kit.staged_files(), kit.service.status(&id).unwrap().staged), (1, 1));
    kit.put(id, "f", 0, 2, b"ab").unwrap();
    kit.complete(id, "f", b"abc").unwrap();
    assert_eq!(kit.read("f"), b"abc");
}

#[test]
fn calls_that_do_not_fit_the_state_are_refused_and_change_nothing() {
    let kit = Kit::new();
    let id = kit.start();
    let wrong = |error: SessionError| assert!(matches!(error, SessionError::WrongState(_)), "{error}");
    wrong(kit.put(id, "f", 0, 1, b"x").unwrap_err());
    wrong(kit.complete(id, "f", b"x").unwrap_err());
    wrong(block_on(kit.service.downloaded(id, &path("f"), 1)).unwrap_err());
    assert_eq!((kit.state(id), kit.staged_files()), (State::Idle, 0));
    assert_eq!(kit.diff(id, &[]).state, State::Complete, "nothing here, nothing there");
    wrong(kit.put(id, "f", 0, 1, b"x").unwrap_err());
    let unknown = SessionId::generate();
    let error = kit.put(unknown, "f", 0, 1, b"x").unwrap_err();
    assert!(matches!(error, SessionError::NotFound { .. }), "{error}");
}

#[test]
fn a_session_is_complete_when_everything_of_its_plan_has_moved() {
    let kit = Kit::new();
    kit.upload("theirs", b"on the server", None);
    let (_joined, completed) = kit.heard::<SyncCompleted>();
    let (_joined, started) = kit.heard::<FileUploadStarted>();
    let id = kit.start();
    let diffed = kit.diff(id, &[("mine", b"here", None)]);
    let action = |path: &str| diffed.plan.get(path.as_bytes()).map(|planned| planned.action);
    assert_eq!((action("mine"), action("theirs")), (Some(Action::Upload), Some(Action::Download)));
    let row = kit.service.status(&id).unwrap();
    assert_eq!((row.transfers, row.bytes_left), (2, 17));
    kit.put(id, "mine", 0, 1, b"here").unwrap();
    kit.complete(id, "mine", b"here").unwrap();
    assert_eq!(kit.state(id), State::TransferringFiles, "the download is left");
    block_on(kit.service.downloaded(id, &path("theirs"), 13)).unwrap();
    let row = kit.service.status(&id).unwrap();
    assert_eq!(kit.state(id), State::Complete);
    assert_eq!((row.files_synced, row.bytes_synced, row.bytes_left), (2, 17, 0));
    assert_eq!((completed.lock().unwrap().len(), started.lock().unwrap().len()), (1, 1));
}

#[test]
fn the_merkle_root_of_the_server_says_that_nothing_differs() {
    let kit = Kit::new();
    kit.upload("f", b"x", None);
    let root = kit.service.files().sync().volume(&main_volume()).unwrap().root;
    let id = kit.start();
    let diffed = block_on(kit.service.diff(id, BTreeMap::new(), Some(root))).unwrap();
    assert_eq!((diffed.plan.len(), diffed.state), (0, State::Complete));
    let id = kit.start();
    let other = Some(MerkleHash::EMPTY);
    assert_eq!(block_on(kit.service.diff(id, BTreeMap::new(), other)).unwrap().plan.len(), 1);
}

#[test]
fn a_file_that_changed_since_the_diff_is_a_conflict_and_completing_again_replaces_it() {
    let kit = Kit::new();
    kit.upload("f", b"one", None);
    let id = kit.planned("f", b"mine", Some(1));
    kit.put(id, "f", 0, 1, b"mine").unwrap();
    kit.upload("f", b"theirs", Some(1));
    let (_joined, detected) = kit.heard::<FileConflictDetected>();
    let (_joined, resolved) = kit.heard::<FileConflictResolved>();
    let error = kit.complete(id, "f", b"mine").unwrap_err();
    let SessionError::Files(FilesError::VersionConflict { found: 2, .. }) = error else { panic!("{error}") };
    assert_eq!(kit.read("f"), b"theirs");
    assert_eq!((kit.state(id), detected.lock().unwrap().len()), (State::ResolvingConflicts, 1));
    assert_eq!(kit.complete(id, "f", b"mine").unwrap().version, 3);
    assert_eq!(kit.read("f"), b"mine");
    assert_eq!((kit.state(id), resolved.lock().unwrap().len()), (State::Complete, 1));
}

#[test]
fn a_conflict_ends_when_the_client_says_that_it_took_the_servers_version() {
    let kit = Kit::new();
    kit.upload("f", b"theirs", None);
    let id = kit.planned("f", b"mine", None);
    assert_eq!(kit.state(id), State::ResolvingConflicts);
    assert_eq!(kit.diff(id, &[("f", b"theirs", Some(1))]).state, State::Complete);
}

#[test]
fn an_unanswered_upload_complete_can_be_repeated() {
    let kit = Kit::new();
    let id = kit.planned("f", b"mine", None);
    kit.put(id, "f", 0, 1, b"mine").unwrap();
    // The server published the file and was killed before it ended the upload.
    kit.upload("f", b"mine", None);
    let info = kit.complete(id, "f", b"mine").unwrap();
    assert_eq!((info.version, kit.state(id)), (1, State::Complete));
}

#[test]
fn a_server_killed_while_it_published_can_be_asked_again() {
    let kit = Kit::new();
    let id = kit.planned("f", b"mine", None);
    kit.put(id, "f", 0, 1, b"mine").unwrap();
    let marked = kit.service.metadata.write(1, move |tx| {
        let mut row = tx.session(&id)?.expect("it is there");
        (row.state, row.applying) = (State::ApplyingChanges.number(), 1);
        tx.put_session(&row)?;
        let mut file = tx.staged_file(&id, b"f")?.expect("it is there");
        file.applying = true;
        tx.put_staged_file(&id, b"f", &file)
    });
    marked.wait().unwrap();
    let busy = kit.complete(id, "f", b"mine").unwrap_err();
    assert!(matches!(busy, SessionError::Applying { .. }), "{busy}");
    let busy = kit.put(id, "f", 0, 1, b"mine").unwrap_err();
    assert!(matches!(busy, SessionError::Applying { .. }), "{busy}");
    let kit = kit.restart();
    assert_eq!(kit.state(id), State::TransferringFiles);
    kit.complete(id, "f", b"mine").unwrap();
    assert_eq!((kit.read("f"), kit.state(id)), (b"mine".to_vec(), State::Complete));
}

#[test]
fn a_silent_session_goes_with_its_bytes_and_a_live_one_stays() {
    let kit = Kit::new();
    let [old, young] = ["old", "young"].map(|name| {
        let id = kit.planned(name, b"x", None);
        kit.put(id, name, 0, 1, b"x").unwrap();
        id
    });
    let at = now();
    let aged = kit.service.metadata.write(1, move |tx| {
        let mut row = tx.session(&old)?.expect("it is there");
        row.heard.secs -= SESSION_SILENCE_S_MAX + 1;
        tx.put_session(&row)
    });
    aged.wait().unwrap();
    let gone = kit.put(old, "old", 0, 1, b"x").unwrap_err();
    assert!(matches!(gone, SessionError::NotFound { .. }), "expired, even before it is removed: {gone}");
    assert_eq!(kit.staged_files(), 2);
    assert_eq!(kit.service.sweep(at).unwrap(), 1);
    assert_eq!(kit.staged_files(), 1);
    assert_eq!(kit.state(young), State::TransferringFiles);
    let kit = kit.restart();
    assert_eq!((kit.staged_files(), kit.state(young)), (1, State::TransferringFiles));
}

#[test]
fn bytes_of_a_session_that_is_not_known_are_removed_at_start() {
    let kit = Kit::new();
    kit.service.staging.put(&SessionId::generate(), b"f", 0, b"x").unwrap();
    assert_eq!(kit.restart().staged_files(), 0);
}

#[test]
fn limits_hold_at_the_limit_and_one_past_it() {
    use crate::limits::{SESSION_STAGED_LEN_MAX, UPLOAD_CHUNK_LEN_MAX, UPLOAD_CHUNKS_MAX};
    let kit = Kit::new();
    let id = kit.planned("f", b"x", None);
    assert!(kit.put(id, "f", UPLOAD_CHUNKS_MAX - 1, UPLOAD_CHUNKS_MAX, b"x").is_ok());
    for (number, total) in [(0, 0), (1, 1), (0, UPLOAD_CHUNKS_MAX + 1)] {
        let error = kit.put(id, "f", number, total, b"x").unwrap_err();
        assert!(matches!(error, SessionError::ChunkNumber { .. }), "{error}");
    }
    let longest = vec![1; UPLOAD_CHUNK_LEN_MAX + 1];
    assert!(kit.put(id, "f", 0, 2, &longest[1..]).is_ok());
    let error = kit.put(id, "f", 0, 2, &longest).unwrap_err();
    assert!(matches!(error, SessionError::ChunkTooLong { .. }), "{error}");
    let filled = kit.service.metadata.write(1, move |tx| {
        let mut row = tx.session(&id)?.expect("it is there");
        row.staged = SESSION_STAGED_LEN_MAX - 1;
        tx.put_session(&row)
    });
    filled.wait().unwrap();
    assert!(kit.put(id, "f", 1, 2, b"x").is_ok());
    let error = kit.put(id, "g", 0, 1, b"x").unwrap_err();
    assert!(matches!(error, SessionError::TooManyBytes { .. }), "{error}");
    assert!(kit.put(id, "f", 1, 2, b"y").is_ok(), "one in place of another is no more");
}

#[test]
fn an_answer_lists_only_so_many_missing_chunks() {
    use crate::limits::UPLOAD_MISSING_MAX;
    let kit = Kit::new();
    let id = kit.planned("f", b"x", None);
    let max = UPLOAD_MISSING_MAX as u64;
    let received = kit.put(id, "f", max, max + 1, b"x").unwrap();
    assert_eq!(received.missing, (0..max).collect::<Vec<_>>(), "exactly as many as one answer lists");
    let received = kit.put(id, "g", max + 1, max + 2, b"x").unwrap();
    assert_eq!(received.missing, (0..max).collect::<Vec<_>>(), "one more than that");
}

#[test]
fn one_client_cannot_open_all_sessions() {
    let kit = Kit::new();
    for _ in 0..CLIENT_SESSIONS_MAX {
        kit.start();
    }
    let error = block_on(kit.service.start(&main_volume(), &kit.client)).unwrap_err();
    assert!(matches!(error, SessionError::TooManySessions { .. }), "{error}");
    let stranger = ClientId::new("stranger").unwrap();
    let error = block_on(kit.service.start(&main_volume(), &stranger)).unwrap_err();
    assert!(
        matches!(error, SessionError::Files(FilesError::Sync(SyncError::ClientUnknown { .. }))),
        "{error}"
    );
}

#[test]
fn a_file_deleted_on_the_server_is_deleted_here_only_if_it_is_what_was_deleted() {
    let kit = Kit::new();
    let info = kit.upload("f", b"x", None);
    block_on(kit.service.files().remove(&main_volume(), &path("f"))).unwrap();
    let action = |content: &[u8], version| {
        let id = kit.start();
        kit.diff(id, &[("f", content, version)]).plan[&b"f"[..]].action
    };
    assert_eq!(action(b"x", Some(info.version)), Action::DeleteLocal);
    assert_eq!(action(b"edited", Some(info.version)), Action::Upload);
    assert_eq!(action(b"x", None), Action::Upload);
}

#[test]
fn all_sessions_are_bounded_at_the_limit_and_one_past_it() {
    use crate::limits::SESSIONS_MAX;
    assert!(too_many(SESSIONS_MAX - 1, 0).is_none(), "one more is the last");
    let error = too_many(SESSIONS_MAX, 0);
    assert!(matches!(error, Some(SessionError::TooManySessions { max: SESSIONS_MAX, .. })), "{error:?}");
}

#[test]
fn files_of_a_plan_are_bounded_whichever_side_has_them() {
    let kit = Kit::new();
    for name in ["a", "b"] {
        kit.upload(name, name.as_bytes(), None);
    }
    let local = |names: &[&str]| {
        let file = |name: &&str| {
            let hash = Some(ChunkHash::of(b"local"));
            (name.as_bytes().to_vec(), LocalFile { version: None, size: 5, hash, status: None })
        };
        names.iter().map(file).collect::<BTreeMap<_, _>>()
    };
    let compare =
        |names: &[&str], files_max| kit.service.compare(&main_volume(), local(names), None, files_max);
    for names in [&[][..], &["c"], &["a", "c", "d"]] {
        let count = compare(names, 9).unwrap().0.len();
        assert!(compare(names, count).is_ok(), "{names:?}");
        let error = compare(names, count - 1).unwrap_err();
        assert!(matches!(error, SessionError::PlanTooLong { .. }), "{names:?}: {error}");
    }
}
