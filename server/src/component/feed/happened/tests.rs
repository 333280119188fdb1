//! Every kind of event on its way through the feed, and the bound of those that wait.

use std::collections::BTreeSet;

use dfs_shared::event::kinds::server::SyncRound;
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::VolumeId;
use dfs_shared::name::Name;

use super::*;
use crate::blocking::block_on;
use crate::component::feed::{Since, Wanted};
use crate::metadata::memory::MemoryStore;

/// Publishes one event of each kind.
fn publish_all(bus: &EventBus, volume: &VolumeName) {
    let v = || volume.clone();
    let client = || "c".parse::<ClientId>().unwrap();
    let path = || Some(b"f".to_vec());
    let name = || Name::new(b"f").unwrap();
    let (revision, node, round) = (Revision(1), NodeId::ROOT, SyncRound::Commit);
    bus.publish(FileAdded { volume: v(), revision, node, parent: node, name: name() });
    bus.publish(FileModified { volume: v(), revision, node, size: 1 });
    bus.publish(FileDeleted { volume: v(), revision, node, parent: node, name: name() });
    bus.publish(FileUploadStarted { volume: v(), client: None, size: None, path: path() });
    let chunk = ChunkHash::of(b"x");
    bus.publish(FileChunkReceived { volume: v(), chunk, len: 1, client: None, path: path() });
    let (content, size) = (None, 1);
    bus.publish(FileUploadCompleted { volume: v(), content, size, client: None, node: None, path: path() });
    bus.publish(FileDownloadCompleted { volume: v(), content, size, client: None, path: path() });
    bus.publish(SyncStarted { volume: v(), client: client(), round });
    bus.publish(SyncCompleted { volume: v(), client: client(), round, revision, accepted: 1, refused: 0 });
    bus.publish(SyncFailed { volume: v(), client: client(), round, reason: "why".to_owned() });
    bus.publish(FileConflictDetected { volume: v(), client: client(), key: None, path: path() });
    let (key, copy) = (None, path());
    bus.publish(FileConflictResolved { volume: v(), client: client(), key, path: path(), copy });
    bus.publish(ServerStarted { address: ([127, 0, 0, 1], 1).into() });
    bus.publish(ServerShuttingDown);
}

#[test]
fn every_kind_of_event_is_told_by_its_name_and_the_servers_end_is_the_last() {
    let store: Arc<dyn MetadataStore> = Arc::new(MemoryStore::new());
    let volume: VolumeName = "main".parse().unwrap();
    let name = volume.clone();
    store.write(1, move |tx| tx.create_volume(&name, VolumeId::generate())).wait().unwrap();
    let (feed, bus) = (Arc::new(Feed::new(1)), EventBus::new());
    let _joined = feed.join(&bus, store).unwrap();
    let wanted = Wanted { kinds: None, volume: volume.clone(), newest: Revision::ZERO };
    let mut listener = feed.listen(wanted, &Since::Now).unwrap();
    publish_all(&bus, &volume);
    let mut told = Vec::new();
    while let Some(piece) = block_on(listener.next()) {
        for event in std::str::from_utf8(&piece).unwrap().split_terminator("\n\n") {
            let line = |start: &str| event.lines().find_map(|line| line.strip_prefix(start)).unwrap();
            let data: Value = serde_json::from_str(line("data: ")).unwrap();
            assert_eq!(data["type"], line("event: "));
            told.push(line("event: ").to_owned());
        }
    }
    assert_eq!(told.last().map(String::as_str), Some("ServerShuttingDown"));
    let all: BTreeSet<&str> = told.iter().map(String::as_str).collect();
    assert_eq!(all, KINDS.iter().copied().collect());
}

#[test]
fn events_beyond_those_that_may_wait_are_counted_as_dropped() {
    let (feed, bus) = (Arc::new(Feed::new(1)), EventBus::new());
    let (queue, _waiting) = mpsc::sync_channel(FEED_QUEUE_MAX);
    let _joined = listen::<ServerShuttingDown>(&feed, &bus, &queue).unwrap();
    let dropped = || feed.dropped.load(Ordering::Acquire);
    (0..FEED_QUEUE_MAX).for_each(|_| bus.publish(ServerShuttingDown));
    assert_eq!(dropped(), 0);
    bus.publish(ServerShuttingDown);
    assert_eq!(dropped(), 1);
}
