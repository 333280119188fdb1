//! Damage of each kind is found and named, and what can be put right is.

use dfs_shared::hash::ChunkHash;
use dfs_shared::manifest::{ChunkRef, Manifest};
use dfs_shared::wire::messages::SmallChunk;

use super::*;
use crate::files::NewContent;
use crate::gc::kit::{Kit, large, main_volume};

fn run(kit: &Kit) -> Report {
    check(&*kit.store, &*kit.chunks, false, &mut |_, _| {}).unwrap()
}

fn texts(report: &Report) -> String {
    report.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn a_sound_directory_has_no_problems_and_everything_is_counted() {
    let kit = Kit::new();
    for seed in 0..40 {
        kit.write(&format!("d/{seed}"), &large(seed));
    }
    kit.write("d/1", &large(100));
    kit.chunks.put(ChunkHash::of(b"stray"), b"stray").unwrap();
    let report = run(&kit);
    assert_eq!(report.problems, []);
    assert_eq!((report.chunks, report.orphans), (41, 1));
    assert!(report.records >= 82 && report.versions == 1, "{report:?}");
}

#[test]
fn a_damaged_chunk_is_named_with_its_file_and_a_repair_asks_for_it() {
    let kit = Kit::new();
    kit.write("d/a", &large(1));
    kit.write("b", &large(2));
    std::fs::write(kit.chunk_file(&large(1)), "wrong").unwrap();
    let report = run(&kit);
    let text = texts(&report);
    assert_eq!(report.count, 2, "{text}");
    assert!(text.contains("/d/a") && text.contains(&ChunkHash::of(&large(1)).to_string()), "{text}");
    let repaired = repair(&*kit.store, &*kit.chunks, &report).unwrap();
    assert_eq!((repaired.asked_for, repaired.left), (1, 0));
    assert!(texts(&run(&kit)).contains("/d/a: chunk"), "it is missing now");
    kit.upload(&large(1));
    assert_eq!(run(&kit).problems, []);
}

#[test]
fn a_wrong_count_of_bytes_is_named_and_put_right_from_the_records() {
    let kit = Kit::new();
    kit.write("a", b"12345");
    let miscounted = kit.metadata.write(1, |tx| {
        let volume = tx.volume(&main_volume())?.expect("it is there");
        tx.advance_volume(volume.key, volume.revision, volume.root, volume.used + 1)
    });
    miscounted.wait().unwrap();
    let report = run(&kit);
    assert_eq!(report.problems, [Problem::Used { volume: main_volume(), counted: 6, found: 5 }]);
    assert_eq!(repair(&*kit.store, &*kit.chunks, &report).unwrap().mended, 1);
    assert_eq!(run(&kit).problems, []);
}

#[test]
fn a_chunk_whose_row_went_is_mended_from_its_file() {
    let kit = Kit::new();
    kit.write("a", &large(1));
    let hash = ChunkHash::of(&large(1));
    kit.metadata.write(1, move |tx| tx.forget_chunk(&hash)).wait().unwrap();
    let report = run(&kit);
    assert!(matches!(report.problems[..], [Problem::ChunkMissing { .. }]), "{report:?}");
    assert_eq!(repair(&*kit.store, &*kit.chunks, &report).unwrap().mended, 1);
    assert_eq!(run(&kit).problems, []);
}

#[test]
fn a_tree_that_does_not_fit_is_found_and_made_anew() {
    let kit = Kit::new();
    for seed in 0..40 {
        kit.write(&format!("d/{seed}"), &large(seed));
    }
    let volume = kit.sync.volume(&main_volume()).unwrap();
    let (key, root) = (volume.key, volume.root);
    // A record that the tree does not know, one that it knows otherwise, and a node that is gone.
    for damage in 0..3 {
        let spoil = move |tx: &mut dyn crate::metadata::WriteMetadata| {
            let found = tx.records_from(key, None, 4)?;
            let last = &found[3];
            match damage {
                0 => tx.put_record(key, last.revision.next(), &last.record),
                1 => tx.remove_record(key, &last.record.key()),
                _ => tx.put_merkle_node(key, &[3], None),
            }
        };
        kit.metadata.write(1, spoil).wait().unwrap();
        let report = run(&kit);
        assert!(report.problems.iter().any(|problem| matches!(problem, Problem::Tree { .. })), "{damage}");
        repair(&*kit.store, &*kit.chunks, &report).unwrap();
        let report = run(&kit);
        assert!(!texts(&report).contains("Merkle"), "{}", texts(&report));
    }
    assert_ne!(kit.sync.volume(&main_volume()).unwrap().root, root);
}

/// A file of so many chunks, all of them damaged.
fn with_damaged_chunks(count: usize) -> Report {
    let kit = Kit::new();
    let small: Vec<_> = (0..count).map(|number| number.to_string().into_bytes()).collect();
    let chunk = |bytes: &Vec<u8>| ChunkRef { hash: ChunkHash::of(bytes), len: bytes.len() as u64 };
    let chunks: Vec<_> = small.iter().map(chunk).collect();
    let content = NewContent {
        manifest: Manifest { chunk_log2: 14, chunks: chunks.clone() },
        file_hash: None,
        small_chunks: (small.into_iter().zip(&chunks))
            .map(|(bytes, chunk)| SmallChunk { hash: chunk.hash, bytes })
            .collect(),
    };
    kit.publish_content("f", content).unwrap();
    let spoil = move |tx: &mut dyn crate::metadata::WriteMetadata| {
        chunks.iter().try_for_each(|chunk| {
            tx.forget_chunk(&chunk.hash)?;
            tx.put_small_chunk(&chunk.hash, &vec![b'x'; chunk.len as usize])
        })
    };
    kit.metadata.write(1, spoil).wait().unwrap();
    run(&kit)
}

#[test]
fn as_many_problems_as_the_limit_are_listed_and_the_rest_is_counted() {
    let max = CHECK_PROBLEMS_MAX;
    let add = |count: usize| {
        let mut report = Report::default();
        (0..count).for_each(|number| report.add(Problem::Database { text: number.to_string() }));
        (report.problems.len(), report.count, report.problems.last().unwrap().to_string())
    };
    let last = format!("the metadata database is damaged: {}", max - 1);
    assert_eq!(add(max), (max, max as u64, last.clone()));
    assert_eq!(add(max + 1), (max, max as u64 + 1, last));
    // Each is a problem, and once more with the file that has it; of that many chunks files are named.
    for (damaged, named) in [(max, max), (max + 1, max)] {
        let report = with_damaged_chunks(damaged);
        assert_eq!((report.problems.len(), report.count), (max, (damaged + named) as u64), "{damaged}");
    }
}
