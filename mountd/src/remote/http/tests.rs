//! The HTTP client against servers that answer wrongly, late or not at all.

use std::net::SocketAddr;

use dfs_shared::hash::{MerkleHash, RecordHash};
use dfs_shared::ids::NodeId;
use dfs_shared::limits::{
    CLIENT_ID_LEN_MAX, COMMIT_CHANGES_MAX, MERKLE_LEAF_RECORDS_MAX, NAME_LEN_MAX, TARGET_LEN_MAX,
    XATTRS_LEN_MAX,
};
use dfs_shared::name::Name;
use dfs_shared::record::{NodeKind, NodeRecord, Record, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::history::RemovedName;
use dfs_shared::wire::messages::{CurrentRecord, MerkleChild, MerkleLeafRecord, MerkleNode};
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::limits::{REPLY_LEN_MAX, REPLY_MESSAGE_LEN_MAX};

mod silent;

fn volume() -> VolumeName {
    VolumeName::new("main").expect("a name")
}

/// Answers every connection's first request with `answer` and closes.
async fn serve(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            let mut seen = Vec::new();
            while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
                if peer.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            let _ = peer.write_all(&answer).await;
        }
    });
    address
}

fn ok(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn remote(servers: &[String]) -> HttpRemote {
    HttpRemote::new(servers, volume(), TokenSource::none(), None).expect("addresses")
}

/// An address on which nobody listens.
fn nobody() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").to_string()
}

#[test]
fn addresses_are_completed_or_refused_with_what_was_given() {
    assert_eq!(base_url("host:8080").expect("good"), "http://host:8080");
    assert_eq!(base_url("http://[::1]:1/").expect("good"), "http://[::1]:1");
    for bad in ["", "http://", "ftp://x", "a b", "host:port", "host/path", "http://u@host", "host?x"] {
        let error = base_url(bad).expect_err(bad);
        assert!(error.to_string().contains(bad), "{error}");
    }
    assert_eq!(base_url("https://x:1/").expect("an address"), "https://x:1");
}

#[tokio::test]
async fn the_next_server_is_tried_when_the_first_cannot_be_reached() {
    let reply = encode(&MissingReply { missing: vec![ChunkHash::of(b"x")] });
    let server = serve(ok(&reply)).await;
    let remote = remote(&[nobody(), server.to_string()]);
    assert_eq!(remote.missing(vec![], None).await.expect("an answer"), [ChunkHash::of(b"x")]);
    assert_eq!(remote.name(), format!("http://{server}"));
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_can_be_tried_again() {
    let error = remote(&[nobody(), nobody()]).missing(vec![], None).await.expect_err("nobody");
    assert!(matches!(error, RemoteError::Unreachable { .. }) && error.is_retryable(), "{error:?}");
}

#[tokio::test]
async fn errors_carry_the_code_and_message_of_the_server() {
    let body = r#"{"error":{"code":"volume_not_found","message":"no volume x"}}"#;
    let answer = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let server = serve(answer.into()).await;
    let error = remote(&[server.to_string()]).missing(vec![], None).await.expect_err("refused");
    assert!(
        matches!(&error, RemoteError::VolumeNotFound { message } if message == "no volume x"),
        "{error:?}"
    );
    let answer = "HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy";
    let server = serve(answer.into()).await;
    let error = remote(&[server.to_string()]).missing(vec![], None).await.expect_err("refused");
    assert!(matches!(&error, RemoteError::Refused { status: 503, message, .. } if message == "busy"));
    assert!(error.is_retryable());
}

#[tokio::test]
async fn chunks_are_hashed_and_marks_are_told_apart() {
    let frame = |hash, body, bytes: &[u8]| [&ChunkHeader { hash, body }.encode()[..], bytes].concat();
    let (good, gone, bad) = (ChunkHash::of(b"good"), ChunkHash::of(b"gone"), ChunkHash::of(b"bad"));
    let body = [
        frame(gone, ChunkBody::Absent, b""),
        frame(good, ChunkBody::Bytes(4), b"good"),
        frame(bad, ChunkBody::Corrupt, b""),
        frame(good, ChunkBody::Bytes(4), b"evil"),
    ];
    let server = serve(ok(&body.concat())).await;
    let remote = remote(&[server.to_string()]);
    let chunks = remote.get_chunks(vec![gone, good, bad, good, good]).await.expect("a stream");
    let found: Vec<_> = chunks.collect().await;
    assert_eq!(found.len(), 4, "a wrong chunk ends the stream: {found:?}");
    assert!(matches!(&found[0], Err(RemoteError::AbsentChunk { hash }) if *hash == gone));
    assert!(matches!(&found[1], Ok((hash, bytes)) if *hash == good && bytes == "good"));
    assert!(matches!(&found[2], Err(RemoteError::CorruptChunk { hash }) if *hash == bad));
    assert!(matches!(&found[3], Err(RemoteError::Damaged { .. })));
}

#[tokio::test]
async fn an_answer_of_another_version_is_named_and_a_cut_one_is_damaged() {
    let mut reply = encode(&MissingReply { missing: vec![] });
    reply[5] = 9;
    let server = serve(ok(&reply)).await;
    let error = remote(&[server.to_string()]).missing(vec![], None).await.expect_err("another version");
    assert!(matches!(error, RemoteError::VersionMismatch { .. }), "{error:?}");
    let server = serve(ok(b"dfs")).await;
    let error = remote(&[server.to_string()]).missing(vec![], None).await.expect_err("damaged");
    assert!(matches!(error, RemoteError::Damaged { .. }), "{error:?}");
}

#[tokio::test]
async fn the_event_stream_ends_with_an_error_and_not_with_silence() {
    let hello = dfs_shared::wire::messages::StreamFrame::Lagged;
    let body = dfs_shared::wire::encode_frame(&hello);
    let server = serve(ok(&body)).await;
    let frames =
        remote(&[server.to_string()]).stream(ClientId::new("c").expect("an id")).await.expect("a stream");
    let frames: Vec<_> = frames.collect().await;
    assert!(
        matches!(&frames[..], [Ok(frame), Err(RemoteError::Disconnected { .. })] if *frame == hello),
        "{frames:?}"
    );
}

type Call = fn(&HttpRemote) -> RemoteFuture<'_, ()>;

/// Each call that reads a whole reply, with what the reply is called and how long it may be.
fn calls() -> Vec<(&'static str, usize, Call)> {
    macro_rules! call {
        ($remote:ident => $asked:expr) => {
            |$remote| async move { $asked.await.map(drop) }.boxed()
        };
    }
    vec![
        ("registration", REPLY_LEN_MAX, call!(remote => remote.register(registration()))),
        ("lineage", REPLY_LEN_MAX, call!(remote => remote.lineage(vec![]))),
        ("reply to a report", REPLY_LEN_MAX, call!(remote => remote.report(report()))),
        ("reply to an upload", REPLY_LEN_MAX, call!(remote => remote.put_chunks(vec![], None))),
        (
            "list of chunks",
            REPLY_LEN_MAX + 3 * REPLY_HASH_LEN_MAX,
            call!(remote => remote.missing(vec![ChunkHash::HOLE; 3], None)),
        ),
        (
            "list of Merkle nodes",
            REPLY_LEN_MAX + 2 * REPLY_NODE_LEN_MAX,
            call!(remote => remote.merkle(vec![vec![]; 2])),
        ),
        (
            "list of records",
            REPLY_LEN_MAX + REPLY_RECORD_LEN_MAX,
            call!(remote => remote.records(vec![RecordKey::Node(NodeId::ROOT)])),
        ),
        (
            "list of records",
            REPLY_MESSAGE_LEN_MAX,
            call!(remote => remote.records(vec![RecordKey::Node(NodeId::ROOT); QUERY_ITEMS_MAX])),
        ),
        (
            "history",
            REPLY_LEN_MAX + HISTORY_ITEMS_MAX * REPLY_VERSION_LEN_MAX,
            call!(remote => remote.history(HistoryRequest::Versions { path: vec![] })),
        ),
        ("list of manifests", REPLY_MESSAGE_LEN_MAX, call!(remote => remote.contents(vec![]))),
        ("commit reply", REPLY_MESSAGE_LEN_MAX, call!(remote => remote.commit(Bytes::new()))),
        ("reply to a past version", REPLY_MESSAGE_LEN_MAX, call!(remote => remote.past(Bytes::new()))),
    ]
}

fn registration() -> RegisterRequest {
    RegisterRequest { client_name: "c".to_owned(), client: None, uid: 0, gid: 0 }
}

fn report() -> ReportRequest {
    let client = ClientId::new("c").expect("an id");
    ReportRequest { client, after: 0, anew: false, held: vec![], events: vec![] }
}

fn too_long(error: &RemoteError) -> Option<(&'static str, usize)> {
    match error {
        RemoteError::TooLong { what, len_max, .. } => Some((what, *len_max)),
        _ => None,
    }
}

#[tokio::test]
async fn a_reply_of_the_largest_length_is_read_and_a_longer_one_is_refused_by_name() {
    for (what, len_max, call) in calls() {
        let announced = |len: usize| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
            async move {
                let server = serve(head.into()).await;
                call(&remote(&[server.to_string()])).await.expect_err("there is no body")
            }
        };
        assert_eq!(too_long(&announced(len_max).await), None, "{what}: it was read until it ended");
        let error = announced(len_max + 1).await;
        assert_eq!(too_long(&error), Some((what, len_max)), "{error:?}");
        assert!(error.is_retryable() && error.is_nonsense() && !error.is_unreachable());
    }
}

#[tokio::test]
async fn a_reply_that_does_not_say_its_length_is_read_up_to_the_limit_and_not_one_past_it() {
    let sent = |len: usize| async move {
        let head = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{len:x}\r\n");
        let server = serve([head.as_bytes(), &vec![0; len], b"\r\n0\r\n\r\n"].concat()).await;
        remote(&[server.to_string()]).register(registration()).await.expect_err("no registration")
    };
    let error = sent(REPLY_LEN_MAX).await;
    assert!(matches!(error, RemoteError::Damaged { .. }), "{error:?}");
    let error = sent(REPLY_LEN_MAX + 1).await;
    assert_eq!(too_long(&error), Some(("registration", REPLY_LEN_MAX)), "{error:?}");
}

#[tokio::test]
async fn an_event_of_the_largest_length_is_waited_for_and_a_longer_one_is_refused_by_name() {
    let announced = |len: usize| async move {
        let len = u32::try_from(len).expect("32 bits");
        let server = serve(ok(&len.to_be_bytes())).await;
        let client = ClientId::new("c").expect("an id");
        let mut frames = remote(&[server.to_string()]).stream(client).await.expect("a stream");
        let error = frames.next().await.expect("an end with an error").expect_err("no event");
        assert!(frames.next().await.is_none());
        error
    };
    let error = announced(REPLY_MESSAGE_LEN_MAX).await;
    assert!(matches!(error, RemoteError::Disconnected { .. }), "{error:?}");
    let error = announced(REPLY_MESSAGE_LEN_MAX + 1).await;
    assert_eq!(too_long(&error), Some(("event", REPLY_MESSAGE_LEN_MAX)), "{error:?}");
}

#[tokio::test]
async fn a_list_that_is_too_long_is_named() {
    use dfs_shared::wire::messages::GroupOutcome;
    let outcomes = vec![GroupOutcome::Accepted; COMMIT_CHANGES_MAX + 1];
    let reply = CommitReply { outcomes, revision: Revision(1), root: MerkleHash::EMPTY };
    let server = serve(ok(&encode(&reply))).await;
    let error = remote(&[server.to_string()]).commit(Bytes::new()).await.expect_err("too long");
    assert!(matches!(&error, RemoteError::Damaged { what: "commit reply", .. }), "{error:?}");
    assert!(error.to_string().contains("a list is longer than the protocol allows"), "{error}");
}

#[test]
fn the_longest_items_that_a_server_has_are_within_the_limits() {
    let name = Name::new(&[b'n'; NAME_LEN_MAX]).expect("a name");
    let key = RecordKey::Entry { parent: NodeId::generate(), name };
    let leaf = MerkleLeafRecord { key: key.clone(), hash: RecordHash::from_bytes([255; 32]) };
    let leaf = MerkleNode::Leaf { records: vec![leaf; MERKLE_LEAF_RECORDS_MAX] };
    let child = MerkleChild { hash: MerkleHash::EMPTY, count: u64::MAX };
    let branch = MerkleNode::Branch { children: vec![child; 16] };
    for node in [leaf, branch] {
        assert!(encode(&node).len() <= REPLY_NODE_LEN_MAX);
    }
    let time = Timestamp { secs: i64::MIN, nanos: 999_999_999 };
    // The shortest attributes: their lengths take most beside them.
    let xattrs = (0..XATTRS_LEN_MAX as u32 / 3).map(|at| (at.to_be_bytes()[1..].to_vec(), Vec::new()));
    let record = NodeRecord {
        id: NodeId::generate(),
        kind: NodeKind::BlockDevice,
        mode: u32::MAX,
        uid: u32::MAX,
        gid: u32::MAX,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        size: u64::MAX,
        content: Some(ContentId::from_bytes([255; 32])),
        rdev: u32::MAX,
        target: vec![b't'; TARGET_LEN_MAX],
        xattrs: xattrs.collect(),
    };
    let versioned = Versioned { revision: Revision(u64::MAX), record: Record::Node(record) };
    let record = CurrentRecord { key, value: Some(versioned) };
    assert!(encode(&record).len() <= REPLY_RECORD_LEN_MAX, "{}", encode(&record).len());
    assert!(encode(&ChunkHash::of(b"x")).len() <= REPLY_HASH_LEN_MAX);
    let by = Some("b".repeat(CLIENT_ID_LEN_MAX));
    let removed =
        RemovedName { name: vec![b'n'; NAME_LEN_MAX], is_directory: true, size: u64::MAX, at: time, by };
    assert!(encode(&removed).len() <= REPLY_VERSION_LEN_MAX);
}
