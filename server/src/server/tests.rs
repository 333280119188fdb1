//! A whole server on 127.0.0.1, spoken to through plain sockets.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::name::Name;
use dfs_shared::record::{Change, ChangeGroup, EntryRecord, NodeKind, NodeRecord, Record};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::chunks::{CHUNK_HEADER_LEN, ChunkBody, ChunkHeader};
use dfs_shared::wire::messages::{
    ChunksRequest, CommitReply, CommitRequest, GroupOutcome, MissingReply, MissingRequest, RegisterReply,
    RegisterRequest, StreamFrame,
};
use dfs_shared::wire::{decode, decode_frame, encode};
use serde::Serialize;

use super::*;
use crate::chunk_store::DiskStore;
use crate::http::Method;
use crate::metadata::sqlite::SqliteStore;

mod limits;
mod quota;

/// Longest that a test waits for a server that does not answer.
const PATIENCE: Duration = Duration::from_secs(20);

fn running() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let server = start(Config::new("127.0.0.1:0".parse().unwrap(), dir.path().join("data"))).unwrap();
    (dir, server)
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Sends a request on a connection of its own; returns the status and the body.
fn ask(server: &Server, method: &str, path: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = connect(server);
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut reader = BufReader::new(stream);
    let (status, is_chunked) = head_of(&mut reader);
    let mut body = Vec::new();
    if is_chunked {
        while let Some(piece) = chunk_of(&mut reader) {
            body.extend(piece);
        }
    } else {
        reader.read_to_end(&mut body).unwrap();
    }
    (status, body)
}

fn head_of(reader: &mut impl BufRead) -> (u16, bool) {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        lines.push(line.to_ascii_lowercase());
    }
    let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
    (status, lines.iter().any(|line| line.trim() == "transfer-encoding: chunked"))
}

fn chunk_of(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let len = usize::from_str_radix(line.trim(), 16).unwrap();
    let mut piece = vec![0; len + 2];
    reader.read_exact(&mut piece).unwrap();
    piece.truncate(len);
    (len > 0).then_some(piece)
}

fn tell<Q: Serialize, R: serde::de::DeserializeOwned>(server: &Server, route: &str, message: &Q) -> R {
    let (status, body) = ask(server, "POST", &format!("/sync/main/{route}"), &encode(message));
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    decode(&body).unwrap()
}

fn register(server: &Server) -> RegisterReply {
    tell(
        server,
        "register",
        &RegisterRequest { client_name: "test".to_owned(), client: None, uid: 0, gid: 0 },
    )
}

fn new_file(client: &ClientId, commit: u64) -> CommitRequest {
    let zero = Timestamp::default();
    let id = NodeId::generate();
    let node = Record::Node(NodeRecord {
        id,
        kind: NodeKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
        crtime: zero,
        size: 0,
        content: None,
        rdev: 0,
        target: Vec::new(),
        xattrs: std::collections::BTreeMap::new(),
    });
    let name = Name::new(format!("file {commit}").as_bytes()).unwrap();
    let entry = Record::Entry(EntryRecord { parent: NodeId::ROOT, name, node: id });
    let put = |record: Record| Change { key: record.key(), base: None, value: Some(record) };
    CommitRequest {
        client: client.clone(),
        commit,
        groups: vec![ChangeGroup { changes: vec![put(node), put(entry)] }],
        contents: Vec::new(),
        small_chunks: Vec::new(),
    }
}

/// The event stream as a mount reads it.
struct Stream {
    reader: BufReader<TcpStream>,
    bytes: Vec<u8>,
}

impl Stream {
    fn open(server: &Server) -> Self {
        Self::open_with(server, "")
    }

    fn open_with(server: &Server, query: &str) -> Self {
        let mut stream = connect(server);
        let head = format!("GET /sync/main/stream?client=x{query} HTTP/1.1\r\nHost: x\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut reader = BufReader::new(stream);
        assert_eq!(head_of(&mut reader), (200, true));
        Self { reader, bytes: Vec::new() }
    }

    fn next(&mut self) -> Option<StreamFrame> {
        loop {
            if let Some((frame, used)) = decode_frame(&self.bytes).unwrap() {
                self.bytes.drain(..used);
                return Some(frame);
            }
            self.bytes.extend(chunk_of(&mut self.reader)?);
        }
    }
}

#[test]
fn a_commit_reaches_every_stream_in_order_and_without_a_gap() {
    let (_dir, server) = running();
    let registered = register(&server);
    let mut streams = [Stream::open(&server), Stream::open(&server)];
    for stream in &mut streams {
        let hello = StreamFrame::Hello {
            volume: registered.volume,
            revision: registered.revision,
            root: registered.root,
        };
        assert_eq!(stream.next(), Some(hello));
    }
    let mut newest = registered.revision;
    for commit in 1..=20 {
        let reply: CommitReply = tell(&server, "commit", &new_file(&registered.client, commit));
        assert_eq!(reply.outcomes, [GroupOutcome::Accepted]);
        assert_eq!(reply.revision, newest.next());
        newest = reply.revision;
        for stream in &mut streams {
            let Some(StreamFrame::Committed(committed)) = stream.next() else { panic!("no commit") };
            assert_eq!((committed.revision, committed.root), (reply.revision, reply.root));
            assert_eq!((&committed.client, committed.commit), (&registered.client, commit));
            assert_eq!(committed.records.len(), 2);
        }
    }
    let late = Stream::open(&server).next();
    assert!(matches!(late, Some(StreamFrame::Hello { revision, .. }) if revision == newest), "{late:?}");
    let metrics = String::from_utf8(ask(&server, "GET", "/metrics", b"").1).unwrap();
    assert!(metrics.contains("dfs_groups_accepted_total 20\n"), "{metrics}");
    server.shutdown();
    assert!(streams.iter_mut().all(|stream| stream.next().is_none()), "a stream outlived the server");
}

#[test]
fn streams_opened_amid_commits_miss_nothing_and_repeat_nothing() {
    let (_dir, server) = running();
    let client = register(&server).client;
    std::thread::scope(|scope| {
        let committer = scope.spawn(|| {
            for commit in 1..=100 {
                let _: CommitReply = tell(&server, "commit", &new_file(&client, commit));
            }
        });
        for _ in 0..8 {
            let mut stream = Stream::open(&server);
            let Some(StreamFrame::Hello { revision, .. }) = stream.next() else { panic!("no hello") };
            let mut newest = revision;
            while newest < Revision(101).min(Revision(revision.0 + 10)) {
                let Some(StreamFrame::Committed(committed)) = stream.next() else { panic!("no commit") };
                assert_eq!(committed.revision, newest.next());
                newest = committed.revision;
            }
        }
        committer.join().unwrap();
    });
}

fn frame(bytes: &[u8]) -> Vec<u8> {
    let body = ChunkBody::Bytes(u32::try_from(bytes.len()).unwrap());
    [&ChunkHeader { hash: ChunkHash::of(bytes), body }.encode()[..], bytes].concat()
}

#[test]
fn chunks_go_up_and_come_down_and_a_damaged_one_is_marked() {
    let (dir, server) = running();
    register(&server);
    let (large, other) = (vec![5; 3 << 20], b"other".to_vec());
    let hashes = vec![ChunkHash::of(&large), ChunkHash::of(b"nowhere"), ChunkHash::of(&other)];
    let missing =
        || tell::<_, MissingReply>(&server, "missing", &MissingRequest { hashes: hashes.clone() }).missing;
    assert_eq!(missing(), hashes);
    let (status, body) = ask(&server, "PUT", "/sync/main/chunks", &[frame(&large), frame(&other)].concat());
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    assert_eq!(missing(), [hashes[1]]);
    let get = || {
        ask(&server, "POST", "/sync/main/chunks/get", &encode(&ChunksRequest { hashes: hashes.clone() })).1
    };
    let mark = |hash, body| ChunkHeader { hash, body }.encode().to_vec();
    assert!(get() == [frame(&large), mark(hashes[1], ChunkBody::Absent), frame(&other)].concat());

    let name = hashes[0].to_string();
    let path = dir.path().join("data/chunks").join(&name[..2]).join(&name);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1_000_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let damaged = get();
    assert!(
        damaged
            == [mark(hashes[0], ChunkBody::Corrupt), mark(hashes[1], ChunkBody::Absent), frame(&other)]
                .concat()
    );
    assert_eq!(damaged.len(), 3 * CHUNK_HEADER_LEN + other.len());
    let metrics = String::from_utf8(ask(&server, "GET", "/metrics", b"").1).unwrap();
    assert!(metrics.contains("dfs_chunks_corrupt_total 1\n"), "{metrics}");
    let (status, _) = ask(&server, "PUT", "/sync/main/chunks", &frame(&large));
    assert_eq!(status, 200);
    assert!(get() == [frame(&large), mark(hashes[1], ChunkBody::Absent), frame(&other)].concat());
}

#[test]
fn bad_requests_are_answered_as_json_with_a_code() {
    let (_dir, server) = running();
    let mut unknown = encode(&MissingRequest { hashes: vec![] });
    unknown[5] = 99;
    let wrong_hash =
        [&ChunkHeader { hash: ChunkHash::of(b"x"), body: ChunkBody::Bytes(1) }.encode()[..], b"y"].concat();
    let cut = frame(b"bytes")[..38].to_vec();
    let table: [(&str, &str, &[u8], u16, &str); 10] = [
        (
            "POST",
            "/sync/nowhere/missing",
            &encode(&MissingRequest { hashes: vec![] }),
            404,
            "volume_not_found",
        ),
        ("POST", "/sync/.bad/missing", b"", 400, "bad_volume_name"),
        ("POST", "/sync/main/missing", b"x", 400, "not_a_message"),
        ("POST", "/sync/main/missing", &unknown, 400, "unknown_version"),
        ("PUT", "/sync/main/chunks", &wrong_hash, 422, "hash_mismatch"),
        ("PUT", "/sync/main/chunks", &cut, 400, "bad_chunk_batch"),
        ("GET", "/sync/nowhere/stream", b"", 404, "volume_not_found"),
        ("GET", "/api/metadata/get/a/../b", b"", 400, "bad_path"),
        ("GET", "/api/file/download/a/../b", b"", 400, "bad_path"),
        ("GET", "/api/info?volume=nowhere", b"", 404, "volume_not_found"),
    ];
    for (method, path, body, status, code) in table {
        let (found, answer) = ask(&server, method, path, body);
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(found, status, "{method} {path}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{method} {path}: {answer}");
    }
}

#[test]
fn a_second_server_on_the_same_data_is_refused_and_the_first_goes_on() {
    let (dir, server) = running();
    let again = || start(Config::new("127.0.0.1:0".parse().unwrap(), dir.path().join("data")));
    assert!(matches!(again(), Err(StartError::DataDir(DataDirError::InUse { .. }))));
    assert_eq!(ask(&server, "GET", "/ready", b"").0, 200);
    server.shutdown();
    again().unwrap();
}

#[test]
fn a_port_in_use_is_refused_by_name_and_frees_the_data() {
    let (dir, server) = running();
    let other = dir.path().join("other");
    let error = start(Config::new(server.addr(), other.clone())).expect_err("in use");
    assert!(error.to_string().contains(&server.addr().to_string()), "{error}");
    start(Config::new("127.0.0.1:0".parse().unwrap(), other)).unwrap();
}

#[test]
fn an_address_beyond_loopback_is_refused_until_there_is_a_token_or_the_flag() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new("0.0.0.0:0".parse().unwrap(), dir.path().join("data"));
    let error = start(config.clone()).expect_err("no tokens");
    assert!(matches!(error, StartError::NoTokens { .. }), "{error}");
    for wanted in ["--insecure-no-auth", "token create", "0.0.0.0:0"] {
        assert!(error.to_string().contains(wanted), "{error}");
    }
    drop(start(Config { insecure_no_auth: true, ..config.clone() }).unwrap());
    let token = crate::access::AccessToken {
        id: crate::access::TokenId::from_bytes([1; 8]),
        digest: [0; 32],
        volume: default_volume(),
        access: crate::access::Access::Read,
        name: String::new(),
        created: Timestamp::default(),
        revoked: None,
    };
    let store: &dyn MetadataStore = &SqliteStore::open(&config.data_dir).unwrap();
    store.write(1, move |tx| tx.put_token(&token)).wait().unwrap();
    let server = start(config).unwrap();
    let (status, _) = ask(&server, "GET", "/health", b"");
    assert_eq!(status, 200);
    let (status, _) = ask(&server, "GET", "/api/info", b"");
    assert_eq!(status, 401);
}

fn routes() -> Vec<(Method, &'static str)> {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn MetadataStore> = Arc::new(SqliteStore::open(dir.path()).unwrap());
    let chunks = Arc::new(DiskStore::open(&dir.path().join("chunks")).unwrap());
    let bus = EventBus::new();
    let sync = Arc::new(SyncService::new(Arc::clone(&store), chunks, bus.clone()));
    let files = Arc::new(FileService::new(Arc::clone(&sync), Arc::clone(&store)));
    let sessions = SessionService::open(Arc::clone(&files), Arc::clone(&store), dir.path(), bus.clone());
    let api = Api {
        sync,
        files,
        sessions: Arc::new(sessions.unwrap()),
        feed: Arc::new(Feed::new(1)),
        bus,
        notifier: Arc::default(),
        metrics: None,
        access: Arc::new(Registry::insecure(store)),
        engine: "test",
        started: Instant::now(),
    };
    api::router(Arc::new(api)).routes().collect()
}

#[test]
fn every_route_has_a_row_in_the_table_of_needs() {
    let is_missing =
        |(method, pattern): &(Method, &str)| crate::access::need::row(method.as_str(), pattern).is_none();
    let missing: Vec<_> = routes().into_iter().filter(is_missing).collect();
    assert!(
        missing.is_empty(),
        "routes without a row in access::need, which only admin may use: {missing:?}"
    );
}

/// Starts a server without some of its components.
fn running_with(components: Components) -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::new("127.0.0.1:0".parse().unwrap(), dir.path().join("data"));
    let server = start(Config { components, ..config }).unwrap();
    (dir, server)
}

/// Reads the next events of the public feed, one piece at a time, until one has this text.
fn feed_until(reader: &mut impl BufRead, wanted: &str) {
    let mut told = String::new();
    while !told.contains(wanted) {
        let piece = chunk_of(reader).expect("the feed goes on");
        told.push_str(&String::from_utf8(piece).unwrap());
    }
}

#[test]
fn open_event_streams_are_told_that_the_server_ends() {
    let (_dir, server) = running();
    let mut feed = connect(&server);
    feed.write_all(b"GET /api/events?types=ServerShuttingDown HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut feed = BufReader::new(feed);
    assert_eq!(head_of(&mut feed).0, 200);
    feed_until(&mut feed, "dfs events");
    server.shutdown();
    feed_until(&mut feed, "event: ServerShuttingDown");
    while chunk_of(&mut feed).is_some() {}
}

#[test]
fn each_component_can_be_left_out_and_the_others_work() {
    let all = Components::default();
    for without in [
        Components { logger: false, ..all },
        Components { metrics: false, ..all },
        Components { notifier: false, ..all },
        Components { logger: false, metrics: false, notifier: false },
    ] {
        let (_dir, server) = running_with(without);
        let client = register(&server).client;
        let mut feed = connect(&server);
        feed.write_all(b"GET /api/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut feed = BufReader::new(feed);
        assert_eq!(head_of(&mut feed).0, 200, "{without:?}");
        feed_until(&mut feed, "dfs events");
        let mut stream = connect(&server);
        stream.write_all(b"GET /sync/main/stream?client=other HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut stream = BufReader::new(stream);
        assert_eq!(head_of(&mut stream).0, 200, "{without:?}");
        let frame = |stream: &mut BufReader<TcpStream>| {
            let piece = chunk_of(stream).expect("a frame");
            decode_frame::<StreamFrame>(&piece).unwrap().expect("a whole frame").0
        };
        assert!(matches!(frame(&mut stream), StreamFrame::Hello { .. }), "{without:?}");
        let reply: CommitReply = tell(&server, "commit", &new_file(&client, 1));
        assert_eq!(reply.outcomes, [GroupOutcome::Accepted], "{without:?}");
        feed_until(&mut feed, "event: SyncCompleted");
        if without.notifier {
            assert!(matches!(frame(&mut stream), StreamFrame::Committed(_)), "{without:?}");
        }
        let (status, metrics) = ask(&server, "GET", "/metrics", b"");
        let metrics = String::from_utf8(metrics).unwrap();
        match without.metrics {
            true => assert!(status == 200 && metrics.contains("dfs_commits_total 1"), "{metrics}"),
            false => assert_eq!(status, 404, "{without:?}"),
        }
        assert_eq!(ask(&server, "GET", "/ready", b"").0, 200, "{without:?}");
    }
}

#[test]
fn the_openapi_description_names_every_public_route_and_no_other_and_who_needs_a_token() {
    let document: serde_json::Value = serde_json::from_str(api::OPENAPI).unwrap();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let mut described = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let is_open = operation.get("security").is_some_and(|needs| needs == &serde_json::json!([]));
            described.insert((method.to_uppercase(), path.clone()), is_open);
        }
    }
    let public = routes().into_iter().filter(|(_, pattern)| !pattern.starts_with("/sync/"));
    let served: BTreeMap<_, _> = public
        .map(|(method, pattern)| {
            let need = crate::access::need::need(method.as_str(), pattern);
            let key = (method.as_str().to_owned(), pattern.replace("...}", "}"));
            (key, need == crate::access::need::Need::Nothing)
        })
        .collect();
    assert_eq!(described, served, "server/src/api/openapi.json beside the router's table");
}
