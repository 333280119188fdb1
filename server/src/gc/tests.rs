//! What is kept, what goes, and what happens when both come together.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use dfs_shared::hash::ChunkHash;
use dfs_shared::wire::messages::MissingRequest;

use super::kit::*;
use super::*;
use crate::files::FilesError;

#[test]
fn what_is_current_or_in_the_history_is_never_collected() {
    let kit = Kit::new();
    let versions: Vec<_> = (0..9).map(large).collect();
    for bytes in &versions {
        kit.write("a", bytes);
    }
    kit.write("gone", &large(100));
    kit.remove("gone");
    let collected = kit.collect(ALL);
    assert_eq!((collected.contents, collected.chunks), (0, 0), "{collected:?}");
    assert!(versions.iter().all(|bytes| kit.has(bytes)) && kit.has(&large(100)));
}

#[test]
fn old_versions_go_with_their_bytes_and_the_current_one_keeps_its_number() {
    let kit = Kit::new();
    for seed in 0..4 {
        kit.write("a", &large(seed));
    }
    let collected = kit.collect(Retention { keep: None, versions: Some(1) });
    assert_eq!((collected.versions, collected.contents, collected.chunks), (2, 2, 2), "{collected:?}");
    let kept: Vec<_> = kit.files.history(&main_volume(), &path("a")).unwrap();
    assert_eq!(kept.iter().map(|info| info.version).collect::<Vec<_>>(), [4, 3]);
    assert!(!kit.has(&large(1)) && kit.has(&large(2)) && kit.has(&large(3)));
    assert!(!kit.chunk_file(&large(1)).exists());
    assert!(matches!(
        kit.files.at_version(&main_volume(), &path("a"), 1),
        Err(FilesError::NoVersion { newest: 4, .. })
    ));
    kit.write("a", &large(9));
    assert_eq!(kit.files.find(&main_volume(), &path("a")).unwrap().version, 5);
}

#[test]
fn age_is_counted_from_the_moment_of_the_replacement() {
    let kit = Kit::new();
    kit.write("a", &large(1));
    kit.write("a", &large(2));
    let hour = Retention { keep: Some(Duration::from_secs(3600)), versions: None };
    let collector = kit.collector(hour);
    let at = |ahead: i64| Timestamp { secs: now().secs + ahead, nanos: 0 };
    assert_eq!(collector.sweep(at(3590), &mut |_, _| {}).unwrap(), 0);
    assert_eq!(collector.sweep(at(3610), &mut |_, _| {}).unwrap(), 1);
    assert_eq!(kit.files.find(&main_volume(), &path("a")).unwrap().version, 2);
}

// S51
#[test]
fn a_clock_that_jumps_ahead_does_not_end_all_history_at_once() {
    const DAY: i64 = 24 * 3600;
    let kit = Kit::new();
    let collector =
        kit.collector(Retention { keep: Some(Duration::from_secs(30 * 24 * 3600)), versions: None });
    kit.write("a", &large(1));
    kit.write("a", &large(2));
    let at = |ahead: i64| Timestamp { secs: now().secs + ahead, nanos: 0 };
    let sweep = |ahead| {
        let aged = collector.age(at(ahead)).unwrap();
        let swept = collector.sweep(aged, &mut |_, _| {}).unwrap();
        collector.note_swept().unwrap();
        swept
    };
    assert_eq!(sweep(0), 0);
    // Wrong for nine hours, then put right.
    assert_eq!((0..9).map(|_| sweep(3650 * DAY)).sum::<u64>(), 0);
    assert_eq!(sweep(10), 0);
    // A server that was off for so long in truth comes there within hours.
    assert_eq!((0..40).map(|_| sweep(60 * DAY)).sum::<u64>(), 1);
}

// S51
#[test]
fn what_is_replaced_while_the_clock_is_behind_is_as_old_as_the_sweep_before() {
    let kit = Kit::new();
    let hour = Retention { keep: Some(Duration::from_secs(3600)), versions: None };
    let collector = kit.collector(hour);
    let ahead = Timestamp { secs: now().secs + 7200, nanos: 0 };
    assert_eq!(collector.age(ahead).unwrap(), ahead);
    // By the clock of that sweep it is two hours behind now.
    kit.write("a", &large(1));
    kit.write("a", &large(2));
    let aged = collector.age(now()).unwrap();
    assert_eq!(collector.sweep(aged, &mut |_, _| {}).unwrap(), 0);
    let right = Timestamp { secs: ahead.secs + 60, nanos: 0 };
    let aged = collector.age(right).unwrap();
    assert_eq!((aged, collector.sweep(aged, &mut |_, _| {}).unwrap()), (right, 0));
    let later = Timestamp { secs: ahead.secs + 3660, nanos: 0 };
    let aged = collector.age(later).unwrap();
    assert_eq!(collector.sweep(aged, &mut |_, _| {}).unwrap(), 1);
}

#[test]
fn what_a_clock_that_was_ahead_condemned_goes_a_grace_later() {
    let kit = Kit::new();
    kit.upload(&large(1));
    let (hash, ahead) = (ChunkHash::of(&large(1)), Timestamp { secs: now().secs + 1_000_000, nanos: 0 });
    let kind = crate::metadata::upkeep::Kind::Chunk;
    kit.metadata.write(1, move |tx| tx.condemn(kind, hash.as_bytes(), ahead)).wait().unwrap();
    let collector = kit.collector(ALL);
    assert_eq!(collector.run(Duration::from_secs(3600), &mut |_, _| {}).unwrap().chunks, 0);
    let since = kit.metadata.read(|snapshot| snapshot.condemned_since(kind, hash.as_bytes())).unwrap();
    assert!(since.is_some_and(|since| since <= now()), "{since:?}");
    assert_eq!(kit.collect(ALL).chunks, 1);
}

#[test]
fn a_chunk_of_two_volumes_goes_with_its_last_reference() {
    let kit = Kit::new();
    let other = dfs_shared::ids::VolumeName::new("other").unwrap();
    crate::blocking::block_on(kit.sync.ensure_volume(&other)).unwrap();
    kit.write("a", &large(1));
    let publish = crate::files::Publish {
        path: path("b"),
        content: crate::files::NewContent {
            manifest: manifest(&large(1)),
            file_hash: None,
            small_chunks: Vec::new(),
        },
        mtime: None,
        owner: None,
        author: dfs_shared::ids::ClientId::new("author").unwrap(),
        expected_version: None,
    };
    crate::blocking::block_on(kit.files.publish(&other, publish)).unwrap();
    kit.remove("a");
    assert_eq!(kit.collect(NOTHING).chunks, 0);
    assert!(kit.has(&large(1)));
    crate::blocking::block_on(kit.files.remove(&other, &path("b"))).unwrap();
    assert_eq!(kit.collect(NOTHING).chunks, 1);
    assert!(!kit.has(&large(1)));
}

#[test]
fn within_the_grace_a_chunk_stays_is_asked_for_again_and_may_be_referred_to() {
    let kit = Kit::new();
    let bytes = large(1);
    kit.upload(&bytes);
    let missing = || {
        let hashes = vec![ChunkHash::of(&bytes)];
        !kit.sync.missing(&main_volume(), &MissingRequest { hashes }).unwrap().missing.is_empty()
    };
    assert!(!missing());
    let collector = kit.collector(ALL);
    let hour = Duration::from_secs(3600);
    let collected = collector.run(hour, &mut |_, _| {}).unwrap();
    assert_eq!((collected.chunks, collected.waiting), (0, 1), "{collected:?}");
    assert!(kit.has(&bytes) && missing());
    // Who was told before that it is here commits.
    kit.publish("a", &bytes).unwrap();
    assert!(!missing());
    assert_eq!(kit.collect(ALL).chunks, 0);
    assert!(kit.has(&bytes));
}

#[test]
fn a_new_upload_reprieves_and_a_commit_after_the_end_is_refused() {
    let kit = Kit::new();
    let bytes = large(1);
    kit.upload(&bytes);
    kit.collector(ALL).run(Duration::from_secs(3600), &mut |_, _| {}).unwrap();
    kit.upload(&bytes);
    let hash = ChunkHash::of(&bytes);
    let since = kit
        .metadata
        .read(|snapshot| snapshot.condemned_since(crate::metadata::upkeep::Kind::Chunk, hash.as_bytes()));
    assert_eq!(since.unwrap(), None);
    assert_eq!(kit.collect(ALL).chunks, 1);
    assert!(!kit.chunk_file(&bytes).exists());
    assert!(matches!(kit.publish("a", &bytes), Err(FilesError::ChunksMissing { .. })));
    kit.write("a", &bytes);
    assert!(kit.has(&bytes));
}

#[test]
fn stray_files_go_but_not_those_that_a_manifest_names() {
    let kit = Kit::new();
    kit.chunks.put(ChunkHash::of(b"stray"), b"stray").unwrap();
    kit.write("a", &large(1));
    let hash = ChunkHash::of(&large(1));
    // As after a read error: the row went, the bytes may be good.
    kit.metadata.write(1, move |tx| tx.forget_chunk(&hash)).wait().unwrap();
    let collected = kit.collect(ALL);
    assert_eq!(collected.orphans, 1);
    assert!(!kit.chunk_file(b"stray").exists() && kit.chunk_file(&large(1)).exists());
}

#[test]
fn a_claimed_chunk_keeps_its_file_although_its_row_went() {
    let kit = Kit::new();
    let bytes = large(1);
    kit.upload(&bytes);
    let mut batch = kit.sync.upload();
    crate::blocking::block_on(batch.put(ChunkHash::of(&bytes), bytes.clone().into())).unwrap();
    // The upload has written its file and noted no row yet.
    kit.collect(ALL);
    crate::blocking::block_on(batch.finish()).unwrap();
    kit.publish("a", &bytes).unwrap();
    assert!(kit.has(&bytes));
}

#[test]
fn nothing_is_taken_while_chunks_are_held() {
    let kit = Kit::new();
    kit.upload(&large(1));
    let held = hold_chunks(kit.data_dir()).unwrap();
    let collected = kit.collect(ALL);
    assert!(collected.is_held_up && collected.chunks == 0, "{collected:?}");
    drop(held);
    assert_eq!(kit.collect(ALL).chunks, 1);
}

// S33
/// Four threads write, replace and remove files whose chunks they share, without asking what is here; the collector runs
/// without a grace all the time. Every commit that was accepted has its bytes.
#[test]
fn collecting_under_load_never_takes_what_a_commit_refers_to() {
    const THREADS: u64 = 4;
    // A content comes back about when it has been condemned, or taken.
    const SEEDS: u64 = 200;
    const TAKEN: u64 = 20;
    // Ends a collector that takes nothing; far more than are needed.
    const ROUNDS: u64 = 3000;
    let kit = Kit::new();
    let (is_over, taken, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            // All in one part: a pass has to be faster than a content comes back.
            let mut collector = kit.collector(NOTHING);
            collector.references_max = 1 << 16;
            while !is_over.load(Ordering::Relaxed) {
                let collected = collector.run(Duration::ZERO, &mut |_, _| {}).unwrap();
                taken.fetch_add(collected.chunks, Ordering::Relaxed);
            }
        });
        let workers: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (kit, refused, taken) = (&kit, &refused, &taken);
                scope.spawn(move || {
                    let name = format!("file-{thread}");
                    for round in (0..ROUNDS).take_while(|_| taken.load(Ordering::Relaxed) < TAKEN) {
                        let bytes = large((round * 7 + thread * 3) % SEEDS);
                        while kit.publish(&name, &bytes).is_err() {
                            refused.fetch_add(1, Ordering::Relaxed);
                            kit.upload(&bytes);
                        }
                        assert!(kit.has(&bytes), "round {round} of {name}");
                        if round % 5 == 4 {
                            kit.remove(&name);
                        }
                    }
                    kit.write(&name, &large(thread));
                })
            })
            .collect();
        // Whoever fails must not leave the collector running.
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        collector.join().unwrap();
        ended.into_iter().for_each(|ended| ended.unwrap());
    });
    assert!(taken.into_inner() >= TAKEN && refused.into_inner() > 0, "nothing came together");
    for thread in 0..THREADS {
        assert!(kit.has(&large(thread)));
    }
    let mut none = |_: &'static str, _| {};
    let report = crate::check::check(&*kit.store, &*kit.chunks, false, &mut none).unwrap();
    assert_eq!(report.problems, []);
}

#[test]
fn a_collection_ends_while_uploads_go_on_and_takes_what_was_there_when_it_began() {
    let kit = Kit::new();
    kit.write("a", &large(1));
    kit.remove("a");
    let mut seed = 2;
    let mut bring_more = |doing: &'static str, _| {
        if doing == "chunks" {
            kit.upload(&large(seed));
            seed += 1;
            assert!(seed < 1_000, "it goes on for as long as there is something new");
        }
    };
    let collected = kit.collector(NOTHING).run(Duration::ZERO, &mut bring_more).unwrap();
    assert_eq!((collected.versions, collected.contents), (2, 1), "{collected:?}");
    assert!(!kit.has(&large(1)));
}

#[test]
fn a_running_collector_answers_who_asks_and_stops_when_it_is_dropped() {
    let kit = Kit::new();
    kit.upload(&large(1));
    let background = Background::start(kit.collector(ALL), kit.data_dir()).unwrap();
    let collected = ask(kit.data_dir(), Some(Duration::ZERO), || true).unwrap();
    assert_eq!(collected.chunks, 1);
    drop(background);
    assert!(matches!(ask(kit.data_dir(), None, || false), Err(RequestError::Ended)));
}

#[test]
fn as_many_references_as_the_limit_are_held_at_once_and_more_are_looked_at_in_parts() {
    let kit = Kit::new();
    let (metadata, chunks) = (Arc::clone(&kit.metadata), Arc::clone(&kit.chunks) as _);
    let collector = Collector::new(metadata, chunks, Arc::clone(kit.sync.claims()), kit.data_dir(), ALL);
    let max = crate::limits::GC_REFERENCES_MAX as u64;
    let parts = [max, max + 1, 2 * max, 2 * max + 1, 256 * max].map(|count| collector.parts(count));
    assert_eq!(parts, [1, 2, 2, 4, 256]);
}
