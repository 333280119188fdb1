//! There and back, under load, and what is no backup.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::check::check;
use crate::chunk_store::DiskStore;
use crate::data_dir::DataDir;
use crate::gc::kit::{Kit, NOTHING, large, main_volume, path};

fn back_up(kit: &Kit, file: &Path) -> Result<Contents, BackupError> {
    create(&kit.store, &*kit.chunks, kit.data_dir(), file, &mut |_, _| {})
}

fn restore_to(file: &Path, data_dir: &Path) -> Result<Contents, BackupError> {
    let _lock = DataDir::open(data_dir).unwrap();
    restore(file, data_dir, &data_dir.join("chunks"), &mut |_, _| {})
}

fn check_all(data_dir: &Path) -> crate::check::Report {
    let store = SqliteStore::open(data_dir).unwrap();
    let chunks = DiskStore::open(&data_dir.join("chunks")).unwrap();
    check(&store, &chunks, false, &mut |_, _| {}).unwrap()
}

/// Writers, a collector without a grace, and a backup at the same time.
#[test]
fn a_backup_taken_under_load_restores_to_a_sound_directory() {
    let kit = Kit::new();
    let out = tempfile::tempdir().unwrap();
    kit.write("kept", &large(1000));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (kit, is_over) = (&kit, &is_over);
            scope.spawn(move || {
                for round in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    kit.write(&format!("file-{thread}-{}", round % 5), &large(thread * 1_000_000 + round));
                }
            });
        }
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                kit.collect(NOTHING);
            }
        });
        let made: Vec<_> =
            (0..3).map(|number| back_up(&kit, &out.path().join(format!("{number}.tar")))).collect();
        is_over.store(true, Ordering::Relaxed);
        made.into_iter().for_each(|made| assert_eq!(made.unwrap().unreadable, Vec::<String>::new()));
    });
    for number in 0..3 {
        let data = out.path().join(format!("data-{number}"));
        restore_to(&out.path().join(format!("{number}.tar")), &data).unwrap();
        let report = check_all(&data);
        assert_eq!(report.problems, []);
        assert!(report.records > 0 && report.orphans == 0, "{report:?}");
    }
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 6, "nothing else is left");
}

#[test]
fn what_was_restored_can_be_read_and_written() {
    let kit = Kit::new();
    let out = tempfile::tempdir().unwrap();
    kit.write("d/a", &large(1));
    kit.write("d/a", &large(2));
    let file = out.path().join("backup");
    back_up(&kit, &file).unwrap();
    kit.write("d/a", &large(3));
    restore_to(&file, &out.path().join("data")).unwrap();
    let kit = {
        let dir = tempfile::tempdir().unwrap();
        std::fs::remove_dir(dir.path()).unwrap();
        std::fs::rename(out.path().join("data"), dir.path()).unwrap();
        Kit::open(dir)
    };
    let versions = kit.files.history(&main_volume(), &path("d/a")).unwrap();
    assert_eq!(versions.len(), 2);
    assert!(kit.has(&large(1)) && kit.has(&large(2)) && !kit.has(&large(3)));
    kit.write("d/a", &large(4));
}

#[test]
fn half_a_backup_is_refused_and_leaves_nothing() {
    let kit = Kit::new();
    let out = tempfile::tempdir().unwrap();
    kit.write("a", &large(1));
    let file = out.path().join("backup");
    back_up(&kit, &file).unwrap();
    assert!(matches!(back_up(&kit, &file), Err(BackupError::Exists { .. })));
    let whole = std::fs::read(&file).unwrap();
    let mut wrong = whole.clone();
    let at = wrong.windows(16).rposition(|window| window == &large(1)[..16]).unwrap();
    wrong[at] ^= 1;
    // The end of an archive is two empty blocks and padding; before them stands what completes it.
    for (number, bytes) in
        [&whole[..0], &whole[..700], &whole[..whole.len() / 2], &wrong].into_iter().enumerate()
    {
        let bad = out.path().join(format!("bad-{number}"));
        std::fs::write(&bad, bytes).unwrap();
        let data = out.path().join(format!("data-{number}"));
        restore_to(&bad, &data).expect_err("damaged");
        let left: Vec<_> =
            std::fs::read_dir(&data).unwrap().map(|found| found.unwrap().file_name()).collect();
        assert_eq!(left, ["lock"], "{number}");
    }
    assert!(matches!(restore_to(&file, kit.data_dir()), Err(BackupError::NotEmpty { .. })));
}

#[test]
fn a_damaged_chunk_is_left_out_by_name() {
    let kit = Kit::new();
    let out = tempfile::tempdir().unwrap();
    kit.write("a", &large(1));
    kit.write("b", &large(2));
    std::fs::write(kit.chunk_file(&large(1)), "wrong").unwrap();
    let contents = back_up(&kit, &out.path().join("backup")).unwrap();
    assert_eq!((contents.chunks, contents.unreadable.len()), (1, 1));
    assert!(contents.unreadable[0].contains(&ChunkHash::of(&large(1)).to_string()));
}

#[test]
fn as_many_unreadable_chunks_as_the_limit_are_named() {
    let kit = Kit::new();
    let out = tempfile::tempdir().unwrap();
    // Rows whose files are not there.
    let lose = |numbers: std::ops::Range<usize>| {
        kit.metadata
            .write(1, move |tx| {
                let mut hashes = numbers.clone().map(|number| ChunkHash::of(&number.to_be_bytes()));
                hashes.try_for_each(|hash| tx.put_chunk(&hash, 8))
            })
            .wait()
            .unwrap();
    };
    let named = |name: &str| {
        let file = out.path().join(name);
        let named = back_up(&kit, &file).unwrap().unreadable;
        assert_eq!(restore_to(&file, &out.path().join(format!("{name}-data"))).unwrap().unreadable, named);
        named.len()
    };
    lose(0..BACKUP_UNREADABLE_MAX);
    assert_eq!(named("at"), BACKUP_UNREADABLE_MAX);
    lose(BACKUP_UNREADABLE_MAX..BACKUP_UNREADABLE_MAX + 1);
    assert_eq!(named("past"), BACKUP_UNREADABLE_MAX);
}
