//! SIGKILL of the process at random moments of commits and uploads: what was acknowledged is there
//! after the next start, without repair, and the Merkle root fits the records.

#![expect(clippy::unwrap_used, reason = "a test; clippy knows only its functions with an attribute as such")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dfs_shared::hash::{ChunkHash, MerkleHash};
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::merkle::{self, MemoryNodes};
use dfs_shared::name::Name;
use dfs_shared::record::{Change, ChangeGroup, EntryRecord, NodeKind, NodeRecord, Record, RecordKey};
use dfs_shared::time::Timestamp;
use dfs_shared::wire::chunks::{ChunkBody, ChunkHeader};
use dfs_shared::wire::messages::{
    ChunksRequest, CommitReply, CommitRequest, GroupOutcome, MerkleNode, MerkleReply, MerkleRequest,
    NewContent, RecordsReply, RecordsRequest, RegisterReply, RegisterRequest,
};
use dfs_shared::wire::{decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

const ROUNDS: u64 = 8;
const CLIENTS: usize = 4;

/// A server process; killed with SIGKILL when dropped.
struct Process {
    child: Child,
    addr: SocketAddr,
}

impl Process {
    fn start(data: &Path) -> Self {
        Self::start_with(data, &[])
    }

    fn start_with(data: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dfs-server"))
            .args(["--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data)
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let addr = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix("listening on http://").map(|addr| addr.parse().unwrap()));
        // Keeps the pipe empty.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, addr: addr.expect("the server ended before it was ready") }
    }

    fn kill(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Sends a request on a connection of its own; `None` when the server is gone or refuses.
fn ask(addr: SocketAddr, method: &str, route: &str, body: &[u8]) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(addr).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let len = body.len();
    let head = format!("{method} /sync/main/{route} HTTP/1.0\r\nHost: x\r\nContent-Length: {len}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = (std::str::from_utf8(&answer[..end]).ok()?, &answer[end + 4..]);
    // A body cut short by the kill is no acknowledgement.
    let len = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    (head.split(' ').nth(1) == Some("200") && len.is_none_or(|len: usize| len == body.len()))
        .then(|| body.to_vec())
}

fn tell<Q: Serialize, R: DeserializeOwned>(addr: SocketAddr, route: &str, message: &Q) -> Option<R> {
    decode(&ask(addr, "POST", route, &encode(message))?).ok()
}

/// What the server has acknowledged.
#[derive(Default)]
struct Acknowledged {
    nodes: Vec<NodeId>,
    chunks: Vec<Vec<u8>>,
}

/// One client: uploads a chunk and commits a file with it, until the server is gone.
fn work(addr: SocketAddr, acknowledged: &Mutex<Acknowledged>) {
    let request = RegisterRequest { client_name: "killer".to_owned(), client: None, uid: 0, gid: 0 };
    let Some(RegisterReply { client, .. }) = tell(addr, "register", &request) else { return };
    for commit in 1.. {
        let id = NodeId::generate();
        let bytes = id.as_bytes().repeat(3_000);
        if commit % 2 == 0 {
            let header =
                ChunkHeader { hash: ChunkHash::of(&bytes), body: ChunkBody::Bytes(bytes.len() as u32) };
            if ask(addr, "PUT", "chunks", &[&header.encode()[..], &bytes].concat()).is_none() {
                return;
            }
            acknowledged.lock().unwrap().chunks.push(bytes.clone());
        }
        let request = new_file(&client, commit, id, (commit % 2 == 0).then_some(&bytes));
        let Some(reply) = tell::<_, CommitReply>(addr, "commit", &request) else { return };
        assert_eq!(reply.outcomes, [GroupOutcome::Accepted]);
        acknowledged.lock().unwrap().nodes.push(id);
    }
}

/// Waits for so many acknowledged commits; tells whether they came. Clients end only when the server does not answer or refuses.
fn wait_for_commits(
    acknowledged: &Mutex<Acknowledged>,
    count: usize,
    clients: &[std::thread::ScopedJoinHandle<'_, ()>],
) -> bool {
    while acknowledged.lock().unwrap().nodes.len() < count {
        if clients.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

fn new_file(client: &ClientId, commit: u64, id: NodeId, bytes: Option<&Vec<u8>>) -> CommitRequest {
    let manifest = bytes.map(|bytes| Manifest {
        chunk_log2: 14,
        chunks: vec![ChunkRef { hash: ChunkHash::of(bytes), len: bytes.len() as u64 }],
    });
    let zero = Timestamp::default();
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
        size: manifest.as_ref().map_or(0, Manifest::size),
        content: manifest.as_ref().map(Manifest::id),
        rdev: 0,
        target: Vec::new(),
        xattrs: std::collections::BTreeMap::new(),
    });
    let name = Name::new(id.to_string().as_bytes()).unwrap();
    let entry = Record::Entry(EntryRecord { parent: NodeId::ROOT, name, node: id });
    let put = |record: Record| Change { key: record.key(), base: None, value: Some(record) };
    CommitRequest {
        client: client.clone(),
        commit,
        groups: vec![ChangeGroup { changes: vec![put(node), put(entry)] }],
        contents: manifest.into_iter().map(|manifest| NewContent { manifest, file_hash: None }).collect(),
        small_chunks: Vec::new(),
    }
}

/// Walks the whole tree of the server; returns its root and all keys.
fn walk(addr: SocketAddr) -> Vec<RecordKey> {
    let (mut keys, mut prefixes) = (Vec::new(), vec![Vec::new()]);
    while !prefixes.is_empty() {
        let asked = std::mem::take(&mut prefixes);
        let reply: MerkleReply = tell(addr, "merkle", &MerkleRequest { prefixes: asked.clone() }).unwrap();
        for (prefix, node) in asked.into_iter().zip(reply.nodes) {
            match node {
                MerkleNode::Leaf { records } => keys.extend(records.into_iter().map(|record| record.key)),
                MerkleNode::Branch { children } => prefixes.extend(
                    (0_u8..)
                        .zip(children)
                        .filter(|(_, child)| child.count > 0)
                        .map(|(at, _)| [&prefix[..], &[at]].concat()),
                ),
            }
        }
    }
    keys
}

fn check(addr: SocketAddr, acknowledged: &Acknowledged) {
    let request = RegisterRequest { client_name: "checker".to_owned(), client: None, uid: 0, gid: 0 };
    let root: MerkleHash = tell::<_, RegisterReply>(addr, "register", &request).unwrap().root;
    let keys = walk(addr);
    let mut records = Vec::new();
    for keys in keys.chunks(1_000) {
        let reply: RecordsReply = tell(addr, "records", &RecordsRequest { keys: keys.to_vec() }).unwrap();
        records.extend(reply.records);
    }
    let hashes = records.iter().map(|record| {
        let value = record.value.as_ref().expect("the tree names only records that exist");
        (record.key.clone(), Some(merkle::record_hash(&record.key, value)))
    });
    assert_eq!(merkle::apply(&mut MemoryNodes::default(), hashes.collect()).unwrap(), root);
    let nodes: std::collections::HashSet<_> = keys.into_iter().collect();
    let lost: Vec<_> =
        acknowledged.nodes.iter().filter(|id| !nodes.contains(&RecordKey::Node(**id))).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged commits are lost", lost.len(), acknowledged.nodes.len());
    for part in acknowledged.chunks.chunks(100) {
        let hashes = part.iter().map(|bytes| ChunkHash::of(bytes)).collect();
        let frames = ask(addr, "POST", "chunks/get", &encode(&ChunksRequest { hashes })).unwrap();
        assert_eq!(frames.len(), part.iter().map(|bytes| bytes.len() + 36).sum::<usize>());
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_the_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let acknowledged = Mutex::<Acknowledged>::default();
    for round in 0..ROUNDS {
        let server = Process::start(&data);
        check(server.addr, &acknowledged.lock().unwrap());
        let before = acknowledged.lock().unwrap().nodes.len();
        // Asserted when the threads have ended: they do not before the server has.
        let came = std::thread::scope(|scope| {
            let clients: Vec<_> =
                (0..CLIENTS).map(|_| scope.spawn(|| work(server.addr, &acknowledged))).collect();
            // The kill comes after some progress, at a different point of the work in each round.
            let came = wait_for_commits(&acknowledged, before + 5 + 7 * round as usize, &clients);
            server.kill();
            came
        });
        assert!(came, "round {round}: the server refused all clients");
    }
    let server = Process::start(&data);
    check(server.addr, &acknowledged.lock().unwrap());
}

/// Runs `dfs-server` with a command on a data directory; tells whether it was done.
fn care(data: &Path, arguments: &[&str]) -> bool {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dfs-server"));
    command.args(arguments).arg("--data-dir").arg(data);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
}

/// One client: leaves chunks that nothing refers to, and commits files whose chunks may be collected before the commit.
fn litter(addr: SocketAddr, acknowledged: &Mutex<Acknowledged>) {
    let request = RegisterRequest { client_name: "litter".to_owned(), client: None, uid: 0, gid: 0 };
    let Some(RegisterReply { client, .. }) = tell(addr, "register", &request) else { return };
    let upload = |bytes: &[u8]| {
        let header = ChunkHeader { hash: ChunkHash::of(bytes), body: ChunkBody::Bytes(bytes.len() as u32) };
        ask(addr, "PUT", "chunks", &[&header.encode()[..], bytes].concat())
    };
    for commit in 1.. {
        let id = NodeId::generate();
        let bytes = id.as_bytes().repeat(3_000);
        if upload(&bytes[1..]).is_none() || upload(&bytes).is_none() {
            return;
        }
        let request = new_file(&client, commit, id, Some(&bytes));
        let Some(reply) = tell::<_, CommitReply>(addr, "commit", &request) else { return };
        // Refused when the chunk was collected first: a mount would send it again.
        if reply.outcomes == [GroupOutcome::Accepted] {
            let mut acknowledged = acknowledged.lock().unwrap();
            acknowledged.nodes.push(id);
            acknowledged.chunks.push(bytes);
        }
    }
}

// S33
#[test]
fn a_kill_while_chunks_are_collected_takes_nothing_that_is_referred_to() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let acknowledged = Mutex::<Acknowledged>::default();
    for round in 0..ROUNDS / 2 {
        let server = Process::start_with(&data, &["--history-keep", "0s"]);
        let addr = server.addr;
        check(addr, &acknowledged.lock().unwrap());
        let before = acknowledged.lock().unwrap().nodes.len();
        let is_over = AtomicBool::new(false);
        let (collected, came) = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..2).map(|_| scope.spawn(|| litter(addr, &acknowledged))).collect();
            // At least one collection ends; the kill comes in the middle of another one.
            let collected = care(&data, &["gc", "--grace", "0s"]);
            scope.spawn(|| {
                loop {
                    if is_over.load(Ordering::Relaxed) || !care(&data, &["gc", "--grace", "0s"]) {
                        break;
                    }
                }
            });
            let came = wait_for_commits(&acknowledged, before + 3 + 5 * round as usize, &clients);
            is_over.store(true, Ordering::Relaxed);
            server.kill();
            (collected, came)
        });
        assert!(collected && came, "round {round}: collected {collected}, commits came {came}");
        drop(server);
        assert!(care(&data, &["check"]), "round {round}");
    }
    let server = Process::start(&data);
    check(server.addr, &acknowledged.lock().unwrap());
    drop(server);
    assert!(care(&data, &["gc"]) && care(&data, &["check"]));
}
