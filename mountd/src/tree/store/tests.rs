//! What the store promises, held by one list of tests on the disk and in memory; and what only a disk in memory can show.

use super::*;

fn put(space: Space, key: &[u8], value: u8) -> Write {
    Write::raw(space, key, Some(vec![value]))
}

fn rows(store: &Store, prefix: &[u8], after: &[u8]) -> Vec<(Vec<u8>, u8)> {
    let mut found = Vec::new();
    let each = |key: &[u8], value: &[u8]| {
        found.push((key.to_vec(), value[0]));
        Ok(true)
    };
    store.each_from(Space::Entries, prefix, after, each).expect("a store");
    found
}

/// `open` opens the same store again and again.
fn keeps_its_promises(open: impl Fn() -> Store) {
    let store = open();
    let batch = [&b"a"[..], b"ab", b"b", b"ac", b"\xff\xff"].map(|key| put(Space::Entries, key, key[0]));
    store.commit(batch.into()).expect("written");
    assert_eq!(
        rows(&store, b"a", b""),
        [(b"a".to_vec(), b'a'), (b"ab".to_vec(), b'a'), (b"ac".to_vec(), b'a')]
    );
    assert_eq!(rows(&store, b"a", b"b"), [(b"ac".to_vec(), b'a')], "after a key, which is left out");
    assert_eq!(rows(&store, b"\xff", b"").len(), 1, "a prefix without an end");
    assert_eq!(store.last_key(Space::Entries).expect("a store").as_deref(), Some(&b"\xff\xff"[..]));

    let before = store.snapshot().expect("a store");
    store.commit(vec![put(Space::Entries, b"a", 9), Write::remove(Space::Entries, b"ab")]).expect("written");
    let old =
        |key: &[u8]| store.read_raw_at(&before, Space::Entries, key).expect("a store").map(|row| row[0]);
    assert_eq!((old(b"a"), old(b"ab")), (Some(b'a'), Some(b'a')), "a snapshot stays");
    let new = |key: &[u8]| store.read_raw(Space::Entries, key).expect("a store").map(|row| row[0]);
    assert_eq!((new(b"a"), new(b"ab"), new(b"nothing")), (Some(9), None, None));

    store.persist().expect("a disk");
    let number = store.next_number().expect("a store");
    drop((before, store));
    let store = open();
    assert_eq!(
        rows(&store, b"a", b""),
        [(b"a".to_vec(), 9), (b"ac".to_vec(), b'a')],
        "all of it is there again"
    );
    assert!(store.next_number().expect("a store") > number, "a number came twice");
}

#[test]
fn a_store_on_the_disk_keeps_its_promises() {
    let dir = tempfile::tempdir().expect("a directory");
    keeps_its_promises(|| Store::open(dir.path()).expect("a store"));
}

#[test]
fn a_store_in_memory_keeps_its_promises() {
    let disk = MemoryDisk::default();
    keeps_its_promises(|| Store::in_memory(&disk).expect("a store"));
}

#[test]
fn power_loss_takes_a_suffix_of_what_was_not_synced_and_a_kill_takes_nothing() {
    let disk = MemoryDisk::default();
    let open = || Store::in_memory(&disk).expect("a store");
    let store = open();
    store.commit(vec![put(Space::Entries, b"1", 1)]).expect("written");
    store.persist().expect("a disk");
    for key in [b"2", b"3", b"4"] {
        store.commit(vec![put(Space::Entries, key, 1)]).expect("written");
    }
    disk.kill();
    assert!(matches!(store.commit(vec![put(Space::Entries, b"5", 1)]), Err(TreeError::Closed)), "it is dead");
    assert_eq!(rows(&open(), b"", b"").len(), 4);
    assert_eq!(disk.unsynced(), 3);
    disk.lose_power(1);
    let left: Vec<_> = rows(&open(), b"", b"").into_iter().map(|(key, _)| key).collect();
    assert_eq!(left, [b"1", b"2"]);
    assert_eq!(disk.unsynced(), 0);
}

#[test]
fn no_number_comes_twice_also_after_a_power_loss() {
    let disk = MemoryDisk::default();
    let open = || Store::in_memory(&disk).expect("a store");
    let store = open();
    let (number, commit) = (store.next_number().expect("a store"), store.next_commit(5).expect("a store"));
    assert_eq!(commit, 5);
    assert_eq!(store.next_commit(5).expect("a store"), 6);
    disk.lose_power(0);
    let store = open();
    assert!(store.next_number().expect("a store") > number);
    assert!(store.next_commit(1).expect("a store") > 6);
}

#[test]
fn a_full_disk_in_memory_takes_no_growth_and_goes_on_with_its_books() {
    let disk = MemoryDisk::default();
    let store = Store::in_memory(&disk).expect("a store");
    disk.set_full(true);
    assert!(matches!(store.commit_growth(vec![put(Space::Entries, b"1", 1)]), Err(TreeError::NoSpace)));
    store.commit(vec![put(Space::Entries, b"2", 1)]).expect("book-keeping");
    disk.set_full(false);
    store.commit_growth(vec![put(Space::Entries, b"1", 1)]).expect("there is room");
}

#[test]
fn journals_do_not_grow_with_the_store_and_little_is_left_of_them_at_the_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::open(dir.path()).expect("a store");
    let journals = || -> Vec<u64> {
        let files = std::fs::read_dir(dir.path().join("tree")).expect("a directory");
        let files = files.map(|file| file.expect("an entry").path());
        let journals = files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl"));
        journals.map(|path| path.metadata().expect("a file").len()).collect()
    };
    // A table that is hardly ever written holds every journal back that was begun before it is written out.
    store.commit(vec![put(Space::Meta, b"once", 1)]).expect("written");
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    };
    let incompressible: Vec<u8> = (0..1 << 17).flat_map(|_| noise()).collect();
    for number in 0..320_u32 {
        let write = Write::raw(Space::Content, &number.to_be_bytes(), Some(incompressible.clone()));
        store.commit(vec![write]).expect("written");
    }
    // They are removed behind the writer's back.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while journals().iter().sum::<u64>() > 250 << 20 {
        assert!(std::time::Instant::now() < deadline, "of 320 MiB: {:?}", journals());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    store.persist().expect("a disk");
    // It gives up after a while on a machine that has other things to do.
    while journals().len() > 2 {
        assert!(std::time::Instant::now() < deadline, "{:?}", journals());
        store.fold_journals().expect("a disk");
    }
    drop(store);
    let store = Store::open(dir.path()).expect("a store");
    assert!(store.read_raw(Space::Meta, b"once").expect("a store").is_some());
    let found = store.read_raw(Space::Content, &319_u32.to_be_bytes()).expect("a store");
    assert_eq!(found.map(|value| value.len()), Some(1 << 20));
}
