//! Damage of each kind is found and named, and what can be put right is.

use dfs_shared::hash::ChunkHash;

use super::*;
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
