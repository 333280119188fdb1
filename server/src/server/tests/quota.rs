//! A quota over the wire: who knows what one is hears of it and can read a refusal, others get what they know.

use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::wire::messages::{NewContent, Refusal, SmallChunk};

use super::*;

/// A request that makes a file with these bytes.
fn filled_file(client: &ClientId, commit: u64, bytes: &[u8]) -> CommitRequest {
    let mut request = new_file(client, commit);
    let chunk = ChunkRef { hash: ChunkHash::of(bytes), len: bytes.len() as u64 };
    let manifest = Manifest { chunk_log2: 14, chunks: vec![chunk] };
    for change in &mut request.groups[0].changes {
        if let Some(Record::Node(node)) = &mut change.value {
            (node.size, node.content) = (manifest.size(), Some(manifest.id()));
        }
    }
    request.contents = vec![NewContent { manifest, file_hash: None }];
    request.small_chunks = vec![SmallChunk { hash: chunk.hash, bytes: bytes.to_vec() }];
    request
}

/// Sets the quota as the command does, beside the running server.
fn set(data: &std::path::Path, quota: Option<u64>) {
    let store = SqliteStore::open(data).unwrap();
    let store: &dyn MetadataStore = &store;
    let set = store.write(1, move |tx| {
        let volume = tx.volume(&default_volume())?.expect("a server has run");
        tx.set_quota(volume.key, quota)
    });
    set.wait().unwrap();
    crate::access::announce_quota(data).unwrap();
}

#[test]
fn a_quota_is_pushed_to_whoever_knows_it_and_a_refusal_is_what_the_peer_can_read() {
    let (dir, server) = running();
    let data = dir.path().join("data");
    let client = register(&server).client;
    let (mut knows, mut old) = (Stream::open_with(&server, "&quota=1"), Stream::open(&server));
    for stream in [&mut knows, &mut old] {
        assert!(matches!(stream.next(), Some(StreamFrame::Hello { .. })));
    }
    assert_eq!(knows.next(), Some(StreamFrame::Quota { limit: None }));
    set(&data, Some(7));
    assert_eq!(knows.next(), Some(StreamFrame::Quota { limit: Some(7) }));
    let mut late = Stream::open_with(&server, "&quota=1");
    assert!(matches!(late.next(), Some(StreamFrame::Hello { .. })));
    assert_eq!(late.next(), Some(StreamFrame::Quota { limit: Some(7) }));

    let reply: CommitReply = tell(&server, "commit?quota=1", &filled_file(&client, 1, b"12345"));
    assert_eq!(reply.outcomes, [GroupOutcome::Accepted]);
    for stream in [&mut knows, &mut old] {
        assert!(matches!(stream.next(), Some(StreamFrame::Committed(_))), "the old one got no quota");
    }
    let over = filled_file(&client, 2, b"123");
    let refusal = |route: &str| {
        let reply: CommitReply = tell(&server, route, &over);
        match reply.outcomes.into_iter().next() {
            Some(GroupOutcome::Refused { reason, .. }) => reason,
            other => panic!("{other:?} instead of a refusal"),
        }
    };
    assert_eq!(refusal("commit?quota=1"), Refusal::OverQuota { limit: 7, used: 5, growth: 3 });
    let Refusal::Invalid { why, .. } = refusal("commit") else { panic!("an old mount cannot read it") };
    assert!(why.contains("quota of 7 bytes"), "{why}");
    set(&data, None);
    assert_eq!(knows.next(), Some(StreamFrame::Quota { limit: None }));
    let reply: CommitReply = tell(&server, "commit?quota=1", &filled_file(&client, 3, b"123"));
    assert_eq!(reply.outcomes, [GroupOutcome::Accepted]);
}
