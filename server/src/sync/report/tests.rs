//! What is noted of reports, and what is refused.

use std::sync::Mutex;

use dfs_shared::event::{Event, SubscribeOptions, Subscription};
use dfs_shared::revision::Revision;

use super::super::kit::{Kit, content_id, entry, filled, main_volume, node_key, put};
use super::*;
use crate::blocking::block_on;

/// A file with a version of each of these contents.
fn file(kit: &Kit, contents: &[&[u8]]) -> NodeId {
    let id = NodeId::generate();
    let first = vec![put(None, filled(id, contents[0])), put(None, entry(NodeId::ROOT, &id.to_string(), id))];
    let mut base = kit.accept_with(first, contents);
    for bytes in &contents[1..] {
        base = kit.accept_with(vec![put(Some(base), filled(id, bytes))], contents);
    }
    id
}

fn request(kit: &Kit, after: u64, held: Vec<Held>) -> ReportRequest {
    ReportRequest { client: kit.client.clone(), after, anew: false, held, events: Vec::new() }
}

fn send(kit: &Kit, request: ReportRequest) -> Result<ReportReply, SyncError> {
    block_on(kit.service.report(&main_volume(), request))
}

fn whole(node: NodeId, bytes: &[u8]) -> Held {
    Held { node, holding: Holding::Whole(Some(content_id(bytes))) }
}

/// The versions of a file that clients hold.
fn versions(kit: &Kit, node: NodeId) -> Vec<u64> {
    let found = kit.metadata.read(|snapshot| {
        let volume = snapshot.volume(&main_volume())?.unwrap();
        snapshot.replicas(volume.key, node, 10)
    });
    found.unwrap().into_iter().map(|(_, held)| held.version).collect()
}

#[test]
fn a_content_is_the_newest_version_that_had_it_and_nothing_where_there_was_none() {
    let kit = Kit::new();
    let id = file(&kit, &[b"one", b"two", b"three", b"two"]);
    let table: [(&[u8], &[u64]); 4] = [(b"one", &[1]), (b"three", &[3]), (b"two", &[4]), (b"never", &[])];
    for (number, (bytes, expected)) in table.into_iter().enumerate() {
        let reply = send(&kit, request(&kit, number as u64, vec![whole(id, bytes)])).unwrap();
        assert_eq!(reply, ReportReply { number: number as u64 + 1, is_noted: true });
        assert_eq!(versions(&kit, id), expected, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn a_content_that_comes_back_is_the_current_version_of_who_has_it() {
    let content = Some(content_id(b"x"));
    let held = HeldVersion { content, version: 1 };
    assert_eq!(shown_version(&held, Some((content, 3))), 3);
    assert_eq!(shown_version(&held, Some((None, 3))), 1);
    assert_eq!(shown_version(&held, None), 1);
}

#[test]
fn a_report_follows_the_newest_or_repeats_it_and_any_other_changes_nothing() {
    let kit = Kit::new();
    let id = file(&kit, &[b"one", b"two"]);
    assert!(send(&kit, request(&kit, 0, vec![whole(id, b"one")])).unwrap().is_noted);
    // The reply was lost.
    let again = send(&kit, request(&kit, 0, vec![whole(id, b"one")])).unwrap();
    assert_eq!(again, ReportReply { number: 1, is_noted: true });
    assert!(send(&kit, request(&kit, 1, vec![whole(id, b"two")])).unwrap().is_noted);
    for after in [0, 3, u64::MAX] {
        let refused = send(&kit, request(&kit, after, vec![whole(id, b"one")])).unwrap();
        assert_eq!(refused, ReportReply { number: 2, is_noted: false }, "{after}");
        let without_files = send(&kit, request(&kit, after, Vec::new())).unwrap();
        assert_eq!(without_files, refused, "{after}");
    }
    assert_eq!(versions(&kit, id), [2]);
    let other = file(&kit, &[b"other"]);
    let anew = ReportRequest { anew: true, ..request(&kit, 9, vec![whole(other, b"other")]) };
    assert_eq!(send(&kit, anew).unwrap(), ReportReply { number: 10, is_noted: true });
    assert_eq!((versions(&kit, id), versions(&kit, other)), (vec![], vec![1]));
    let gone = Held { node: other, holding: Holding::Nothing };
    assert!(send(&kit, request(&kit, 10, vec![gone])).unwrap().is_noted);
    assert!(versions(&kit, other).is_empty());
}

#[test]
fn a_removed_client_holds_nothing_and_has_to_register_again() {
    let kit = Kit::new();
    let id = file(&kit, &[b"one"]);
    assert!(send(&kit, request(&kit, 0, vec![whole(id, b"one")])).unwrap().is_noted);
    let client = kit.client.clone();
    let removed = kit.metadata.write(1, move |tx| {
        let volume = tx.volume(&main_volume())?.unwrap();
        tx.remove_client(volume.key, &client)
    });
    assert!(removed.wait().unwrap());
    assert!(versions(&kit, id).is_empty());
    let refused = send(&kit, request(&kit, 1, vec![whole(id, b"one")])).unwrap_err();
    assert!(matches!(refused, SyncError::ClientUnknown { .. }), "{refused}");
}

#[test]
fn reports_are_bounded_at_the_limit_and_one_past_it() {
    let kit = Kit::new();
    let held = |count| vec![Held { node: NodeId::generate(), holding: Holding::Nothing }; count];
    let with = |event: MountEvent, count| ReportRequest {
        events: vec![event; count],
        ..request(&kit, 0, Vec::new())
    };
    let detected = |len| MountEvent::ConflictDetected { path: vec![b'p'; len] };
    let resolved = |len| MountEvent::ConflictResolved { path: Vec::new(), copy: vec![b'p'; len] };
    let failed = |len| MountEvent::SyncFailed { reason: "r".repeat(len) };
    for (good, bad) in [
        (request(&kit, 0, held(REPORT_HELD_MAX)), request(&kit, 0, held(REPORT_HELD_MAX + 1))),
        (
            with(MountEvent::SyncStarted, REPORT_EVENTS_MAX),
            with(MountEvent::SyncStarted, REPORT_EVENTS_MAX + 1),
        ),
        (with(detected(REPORT_PATH_LEN_MAX), 1), with(detected(REPORT_PATH_LEN_MAX + 1), 1)),
        (with(resolved(REPORT_PATH_LEN_MAX), 1), with(resolved(REPORT_PATH_LEN_MAX + 1), 1)),
        (with(failed(REPORT_REASON_LEN_MAX), 1), with(failed(REPORT_REASON_LEN_MAX + 1), 1)),
    ] {
        check(&good).unwrap();
        assert!(matches!(check(&bad).unwrap_err(), SyncError::TooMany { .. }));
    }
}

/// Writes down the names of events, in order.
fn listen<E: Event>(kit: &Kit, log: &Arc<Mutex<Vec<&'static str>>>) -> Subscription {
    let log = Arc::clone(log);
    kit.bus.subscribe(SubscribeOptions::new("test"), move |_: &E| log.lock().unwrap().push(E::NAME)).unwrap()
}

#[test]
fn what_a_mount_has_done_is_published_in_order_and_in_its_name() {
    let kit = Kit::new();
    let log = Arc::<Mutex<Vec<_>>>::default();
    let _listening = [
        listen::<SyncStarted>(&kit, &log),
        listen::<SyncCompleted>(&kit, &log),
        listen::<SyncFailed>(&kit, &log),
        listen::<FileDownloadCompleted>(&kit, &log),
        listen::<FileConflictDetected>(&kit, &log),
        listen::<FileConflictResolved>(&kit, &log),
    ];
    let path = || b"f".to_vec();
    let events = vec![
        MountEvent::SyncStarted,
        MountEvent::SyncFailed { reason: "gone".to_owned() },
        MountEvent::SyncStarted,
        MountEvent::ConflictDetected { path: path() },
        MountEvent::ConflictResolved { path: path(), copy: path() },
        MountEvent::SyncCompleted { revision: Revision(1), records: 1 },
        MountEvent::Downloaded { path: path(), content: content_id(b"x"), size: 1 },
    ];
    let reply = send(&kit, ReportRequest { events, ..request(&kit, 0, Vec::new()) }).unwrap();
    assert!(reply.is_noted);
    let expected = [
        "SyncStarted",
        "SyncFailed",
        "SyncStarted",
        "FileConflictDetected",
        "FileConflictResolved",
        "SyncCompleted",
        "FileDownloadCompleted",
    ];
    assert_eq!(*log.lock().unwrap(), expected);
}

#[test]
fn a_commit_round_and_its_uploaded_contents_are_published_and_small_ones_are_not_uploads() {
    let kit = Kit::new();
    let log = Arc::<Mutex<Vec<_>>>::default();
    let _listening = [
        listen::<SyncStarted>(&kit, &log),
        listen::<SyncCompleted>(&kit, &log),
        listen::<dfs_shared::event::kinds::server::FileUploadCompleted>(&kit, &log),
    ];
    let id = file(&kit, &[b"small"]);
    assert_eq!(std::mem::take(&mut *log.lock().unwrap()), ["SyncStarted", "SyncCompleted"]);
    let large = vec![7; dfs_shared::limits::SMALL_CONTENT_LEN_MAX as usize + 1];
    let mut batch = kit.service.upload();
    let hash = dfs_shared::hash::ChunkHash::of(&large);
    block_on(batch.put(hash, large.clone().into())).unwrap();
    block_on(batch.finish()).unwrap();
    let base = kit.records(vec![node_key(id)])[0].value.as_ref().unwrap().revision;
    let mut request = kit.request(
        vec![dfs_shared::record::ChangeGroup { changes: vec![put(Some(base), filled(id, &large))] }],
        &[&large],
    );
    request.small_chunks.clear();
    kit.send(request).unwrap();
    assert_eq!(*log.lock().unwrap(), ["SyncStarted", "FileUploadCompleted", "SyncCompleted"]);
}
