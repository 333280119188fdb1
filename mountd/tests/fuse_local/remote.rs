//! Content that comes from elsewhere: fetched when it is read, replaced while files are open.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use dfs_mountd::cache::OpenFiles;
use dfs_mountd::tree::apply::ApplyOptions;
use dfs_mountd::tree::{Effect, EffectSink, Ino};
use dfs_shared::ids::NodeId;
use dfs_shared::manifest::Manifest;
use dfs_shared::name::Name;
use dfs_shared::record::{EntryRecord, NodeKind, NodeRecord, Record, Versioned};
use dfs_shared::revision::Revision;
use dfs_shared::time::Timestamp;
use dfs_shared::wire::messages::CurrentRecord;

use super::kit::Local;

pub(crate) const CHUNK: usize = 64 << 10;

pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|at| (at % 241) as u8 ^ (at / CHUNK) as u8 ^ seed).collect()
}

fn record(id: NodeId, manifest: &Manifest) -> NodeRecord {
    let at = Timestamp { secs: 1_000_000_000, nanos: 5 };
    NodeRecord {
        id,
        kind: NodeKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        atime: at,
        mtime: at,
        ctime: at,
        crtime: at,
        size: manifest.size(),
        content: Some(manifest.id()),
        rdev: 0,
        target: Vec::new(),
        xattrs: std::collections::BTreeMap::new(),
    }
}

/// Applies what a server would push.
fn push(mount: &Local, revision: u64, records: Vec<Record>) {
    let records = records.into_iter().map(|record| set(revision, record)).collect();
    let fs: &Arc<_> = &mount.fs;
    let hold = fs.hold();
    fs.effects(apply(mount, records));
    drop(hold);
}

fn set(revision: u64, record: Record) -> CurrentRecord {
    CurrentRecord { key: record.key(), value: Some(Versioned { revision: Revision(revision), record }) }
}

/// Applies records, and tells nobody.
fn apply(mount: &Local, records: Vec<CurrentRecord>) -> Vec<Effect> {
    let options = ApplyOptions {
        at: Timestamp { secs: 2_000_000_000, nanos: 0 },
        force_conflicts: true,
        lost_after: None,
    };
    mount.tree.apply(&records, options).unwrap().effects
}

pub(crate) fn push_file(mount: &Local, revision: u64, name: &str, id: NodeId, bytes: &[u8]) -> Manifest {
    let manifest = mount.contents.add(bytes, CHUNK);
    mount.contents.set(id, &manifest);
    let name = Name::new(name.as_bytes()).unwrap();
    let entry = EntryRecord { parent: NodeId::ROOT, name, node: id };
    push(mount, revision, vec![Record::Node(record(id, &manifest)), Record::Entry(entry)]);
    manifest
}

#[test]
fn a_pushed_file_is_listed_at_once_and_fetched_when_it_is_read() {
    for mount in Local::both() {
        assert!(!mount.at("f").exists());
        let bytes = pattern(1_000_000, 0);
        push_file(&mount, 1, "f", NodeId::generate(), &bytes);
        wait_for(|| mount.at("f").exists());
        assert_eq!(std::fs::metadata(mount.at("f")).unwrap().len(), 1_000_000);
        assert!(mount.contents.fetched.lock().unwrap().is_empty());
        assert_eq!(std::fs::read(mount.at("f")).unwrap(), bytes);
        let fetched = mount.contents.fetched.lock().unwrap().len();
        assert_eq!(fetched, 1_000_000_usize.div_ceil(CHUNK));
        assert_eq!(std::fs::read(mount.at("f")).unwrap(), bytes);
        assert_eq!(mount.contents.fetched.lock().unwrap().len(), fetched, "nothing is fetched twice");
    }
}

/// Invalidations reach the kernel on a thread of their own.
pub(crate) fn wait_for(mut check: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !check() {
        assert!(std::time::Instant::now() < deadline, "it never came");
        std::thread::yield_now();
    }
}

#[test]
fn reading_a_part_fetches_only_that_part() {
    let Some(mount) = Local::new() else { return };
    let bytes = pattern(100 * CHUNK, 0);
    push_file(&mount, 1, "f", NodeId::generate(), &bytes);
    wait_for(|| mount.at("f").exists());
    let file = File::open(mount.at("f")).unwrap();
    // Keeps the kernel from reading ahead.
    // SAFETY: the descriptor is open.
    unsafe { libc::posix_fadvise(std::os::fd::AsRawFd::as_raw_fd(&file), 0, 0, libc::POSIX_FADV_RANDOM) };
    let mut part = vec![0; 100];
    file.read_exact_at(&mut part, 50 * CHUNK as u64 - 50).unwrap();
    assert_eq!(part, bytes[50 * CHUNK - 50..50 * CHUNK + 50]);
    assert!(mount.contents.fetched.lock().unwrap().len() <= 34);
    drop(file);
    let mount = mount.restart();
    let before = mount.cache.is_present(mount.node("f").id, &(49 * CHUNK as u64..51 * CHUNK as u64));
    assert!(before.unwrap(), "what was fetched is there after a restart");
    assert!(!mount.cache.is_present(mount.node("f").id, &(0..1)).unwrap());
}

#[test]
fn a_read_that_waits_for_a_version_that_is_replaced_goes_on_with_the_new_one() {
    for mount in Local::both() {
        let (old, new) = (pattern(20 * CHUNK, 0), pattern(20 * CHUNK, 7));
        let id = NodeId::generate();
        push_file(&mount, 1, "f", id, &old);
        wait_for(|| mount.at("f").exists());
        let file = File::open(mount.at("f")).unwrap();
        let ((asked, is_asked), (go, may_go)) = (std::sync::mpsc::channel(), std::sync::mpsc::channel());
        let wait = move || {
            asked.send(()).unwrap();
            may_go.recv().unwrap();
        };
        *mount.contents.before_fetch.lock().unwrap() = Some(Box::new(wait));
        // Not through the kernel, which would ask a second time.
        let (answer, answered) = std::sync::mpsc::channel();
        let done = move |read: Result<&[u8], _>| drop(answer.send(read.map(<[u8]>::to_vec)));
        mount.fs.read(mount.node("f").ino, 0, CHUNK as u32, Box::new(done));
        is_asked.recv().unwrap();
        push_file(&mount, 2, "f", id, &new);
        go.send(()).unwrap();
        assert!(answered.recv().unwrap().unwrap() == new[..CHUNK]);
        drop(file);
    }
}

#[test]
fn writing_into_a_file_that_is_not_here_fetches_nothing_and_keeps_both() {
    for mount in Local::both() {
        let mut bytes = pattern(20 * CHUNK, 0);
        let id = NodeId::generate();
        push_file(&mount, 1, "f", id, &bytes);
        wait_for(|| mount.at("f").exists());
        let file = OpenOptions::new().write(true).open(mount.at("f")).unwrap();
        file.write_all_at(b"hello", CHUNK as u64 + 7).unwrap();
        drop(file);
        assert!(mount.contents.fetched.lock().unwrap().is_empty());
        assert!(mount.node("f").dirty_content.is_some());
        bytes[CHUNK + 7..CHUNK + 12].copy_from_slice(b"hello");
        assert_eq!(std::fs::read(mount.at("f")).unwrap(), bytes);
        assert!(mount.cache.backing(&mount.node("f")).unwrap().is_whole());
    }
}

#[test]
fn truncating_a_file_that_is_not_here_fetches_nothing() {
    for mount in Local::both() {
        let bytes = pattern(20 * CHUNK, 0);
        push_file(&mount, 1, "f", NodeId::generate(), &bytes);
        push_file(&mount, 2, "g", NodeId::generate(), &bytes);
        wait_for(|| mount.at("g").exists());
        let file = OpenOptions::new().write(true).open(mount.at("f")).unwrap();
        file.set_len(CHUNK as u64 + 10).unwrap();
        file.set_len(CHUNK as u64 + 20).unwrap();
        drop(file);
        std::fs::write(mount.at("g"), b"short").unwrap();
        assert!(mount.contents.fetched.lock().unwrap().is_empty());
        let mut expected = bytes[..CHUNK + 10].to_vec();
        expected.extend([0; 10]);
        assert_eq!(std::fs::read(mount.at("f")).unwrap(), expected);
        assert_eq!(std::fs::read(mount.at("g")).unwrap(), b"short");
    }
}

#[test]
fn new_content_replaces_the_old_and_unchanged_chunks_are_not_fetched_again() {
    for mount in Local::both() {
        let old = pattern(20 * CHUNK, 0);
        let id = NodeId::generate();
        push_file(&mount, 1, "f", id, &old);
        wait_for(|| mount.at("f").exists());
        assert_eq!(std::fs::read(mount.at("f")).unwrap(), old);
        mount.contents.fetched.lock().unwrap().clear();
        let mut new = old.clone();
        new[5 * CHUNK + 1] ^= 0xff;
        push_file(&mount, 2, "f", id, &new);
        wait_for(|| std::fs::read(mount.at("f")).unwrap() == new);
        let wanted = 5 * CHUNK as u64..6 * CHUNK as u64;
        assert_eq!(mount.contents.fetched.lock().unwrap().as_slice(), std::slice::from_ref(&wanted));
        mount.contents.fetched.lock().unwrap().clear();
        let moved = [&pattern(CHUNK, 77)[..], &new].concat();
        push_file(&mount, 3, "f", id, &moved);
        wait_for(|| std::fs::read(mount.at("f")).unwrap() == moved);
        assert_eq!(
            mount.contents.fetched.lock().unwrap().as_slice(),
            std::slice::from_ref(&(0..CHUNK as u64))
        );
    }
}

#[test]
fn an_open_handle_of_a_large_file_reads_the_old_version_whole() {
    let Some(mount) = Local::new() else { return };
    let (old, new) = (pattern(20 * CHUNK, 0), pattern(20 * CHUNK, 99));
    let id = NodeId::generate();
    push_file(&mount, 1, "f", id, &old);
    wait_for(|| mount.at("f").exists());
    assert_eq!(std::fs::read(mount.at("f")).unwrap(), old);
    let mut file = File::open(mount.at("f")).unwrap();
    push_file(&mount, 2, "f", id, &new);
    let mut read = Vec::new();
    file.read_to_end(&mut read).unwrap();
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        assert_eq!(read, old);
    }
    drop(file);
    wait_for(|| std::fs::read(mount.at("f")).unwrap() == new);
}

#[test]
fn a_file_removed_elsewhere_stays_readable_through_its_handle() {
    for mount in Local::both() {
        let bytes = pattern(3 * CHUNK, 0);
        let id = NodeId::generate();
        push_file(&mount, 1, "f", id, &bytes);
        wait_for(|| mount.at("f").exists());
        assert_eq!(std::fs::read(mount.at("f")).unwrap(), bytes);
        let file = File::open(mount.at("f")).unwrap();
        let ino = mount.node("f").ino;
        let entry = EntryRecord { parent: NodeId::ROOT, name: Name::new(b"f").unwrap(), node: id };
        let gone = [Record::Entry(entry).key(), Record::Node(record(id, &Manifest::default())).key()];
        let gone: Vec<_> = gone.into_iter().map(|key| CurrentRecord { key, value: None }).collect();
        let options = ApplyOptions { at: Timestamp::default(), force_conflicts: false, lost_after: None };
        let hold = mount.fs.hold();
        mount.fs.effects(mount.tree.apply(&gone, options).unwrap().effects);
        drop(hold);
        wait_for(|| !mount.at("f").exists());
        // That the kernel let go of it after the first reading may be heard only now.
        mount.fs.forget(ino);
        let mut read = vec![0; bytes.len()];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(read, bytes);
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    }
}

#[test]
fn a_file_replaced_elsewhere_is_opened_by_its_name_before_the_kernel_hears_of_it() {
    let Some(mount) = Local::new() else { return };
    let (old, new) = (NodeId::generate(), NodeId::generate());
    push_file(&mount, 1, "f", old, b"old");
    // From now on the kernel knows where the name leads.
    mount.fs.settle();
    assert!(mount.at("f").exists());
    let manifest = mount.contents.add(b"new", CHUNK);
    mount.contents.set(new, &manifest);
    let name = Name::new(b"f").unwrap();
    let entry = EntryRecord { parent: NodeId::ROOT, name, node: new };
    let gone = CurrentRecord { key: Record::Node(record(old, &manifest)).key(), value: None };
    apply(&mount, vec![set(2, Record::Node(record(new, &manifest))), set(2, Record::Entry(entry)), gone]);
    assert_eq!(std::fs::read(mount.at("f")).unwrap(), b"new");
}

#[test]
fn a_conflict_gives_the_local_bytes_to_the_copy_also_while_they_are_being_written() {
    for mount in Local::both() {
        let id = NodeId::generate();
        push_file(&mount, 1, "f", id, b"base");
        wait_for(|| mount.at("f").exists());
        assert_eq!(std::fs::read(mount.at("f")).unwrap(), b"base");
        let file = OpenOptions::new().write(true).open(mount.at("f")).unwrap();
        file.write_all_at(b"mine", 0).unwrap();
        file.sync_data().unwrap();
        OpenFiles::notice(&*mount.fs, &[id]);
        push_file(&mount, 2, "f", id, b"theirs");
        file.write_all_at(b", and more", 4).unwrap();
        drop(file);
        wait_for(|| std::fs::read(mount.at("f")).unwrap() == b"theirs");
        let copies: Vec<_> = std::fs::read_dir(mount.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_string_lossy().contains("conflict"))
            .collect();
        assert_eq!(copies.len(), 1);
        assert_eq!(std::fs::read(&copies[0]).unwrap(), b"mine, and more");
        assert!(mount.tree.node(Ino::ROOT).unwrap().is_some());
    }
}

#[test]
fn after_a_conflict_over_a_closed_file_neither_version_counts_as_open_and_the_file_is_marked_when_it_is_opened()
 {
    for mount in Local::both() {
        let id = NodeId::generate();
        push_file(&mount, 1, "f", id, b"base");
        wait_for(|| mount.at("f").exists());
        std::fs::write(mount.at("f"), b"mine").unwrap();
        // Closed, and its mark not removed yet.
        wait_for(|| !mount.fs.is_being_written(id));
        OpenFiles::notice(&*mount.fs, &[id]);
        push_file(&mount, 2, "f", id, b"theirs");
        wait_for(|| std::fs::read(mount.at("f")).unwrap() == b"theirs");
        let mut names = std::fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let copy = names.find(|name| name.to_string_lossy().contains("conflict")).unwrap();
        let copy = mount.node(&copy.to_string_lossy()).id;
        assert!(!mount.fs.is_being_written(copy), "nobody has it open");
        assert!(!mount.fs.is_being_written(id));
        let file = OpenOptions::new().write(true).open(mount.at("f")).unwrap();
        assert!(mount.tree.open_marks().unwrap().contains(&id), "a crash would not know that it is written");
        drop(file);
        wait_for(|| {
            mount.fs.sweep();
            mount.tree.open_marks().unwrap().is_empty()
        });
    }
}

#[test]
fn evicted_bytes_are_fetched_again_and_unsent_ones_are_never_evicted() {
    for mount in Local::both() {
        let bytes = pattern(10 * CHUNK, 0);
        let id = NodeId::generate();
        push_file(&mount, 1, "f", id, &bytes);
        wait_for(|| mount.at("f").exists());
        let file = File::open(mount.at("f")).unwrap();
        assert_eq!(std::fs::read(mount.at("f")).unwrap(), bytes);
        assert!(mount.cache.evict(id).is_err(), "it is open");
        drop(file);
        wait_for(|| mount.cache.evict(id).is_ok());
        assert!(!mount.cache.is_present(id, &(0..1)).unwrap());
        mount.contents.fetched.lock().unwrap().clear();
        std::fs::write("/proc/sys/vm/drop_caches", "3").ok();
        assert_eq!(std::fs::read(mount.at("f")).unwrap(), bytes);
        std::fs::write(mount.at("mine"), b"only here").unwrap();
        assert!(mount.cache.evict(mount.node("mine").id).is_err());
        assert_eq!(std::fs::read(mount.at("mine")).unwrap(), b"only here");
    }
}

#[test]
fn the_cache_keeps_to_its_size() {
    let Some(mount) = Local::new() else { return };
    for n in 0..12_u8 {
        let name = format!("f{n}");
        push_file(&mount, u64::from(n) + 1, &name, NodeId::generate(), &pattern(8 << 20, n));
        wait_for(|| mount.at(&name).exists());
        assert_eq!(std::fs::read(mount.at(&name)).unwrap().len(), 8 << 20);
    }
    assert!(mount.cache.bytes_used() > 90 << 20);
    wait_for(|| {
        mount.fs.sweep();
        mount.cache.bytes_used() <= 64 << 20
    });
    assert!(mount.cache.bytes_used() > 40 << 20);
    assert_eq!(std::fs::read(mount.at("f0")).unwrap(), pattern(8 << 20, 0));
}

#[test]
fn what_is_written_to_a_replaced_version_is_kept_beside_the_new_one() {
    let Some(mount) = Local::new() else { return };
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return;
    }
    let id = NodeId::generate();
    push_file(&mount, 1, "f", id, b"base");
    wait_for(|| mount.at("f").exists());
    assert_eq!(std::fs::read(mount.at("f")).unwrap(), b"base");
    let idle = OpenOptions::new().write(true).open(mount.at("f")).unwrap();
    push_file(&mount, 2, "f", id, b"theirs");
    drop(idle);
    wait_for(|| std::fs::read(mount.at("f")).unwrap() == b"theirs");
    assert_eq!(std::fs::read_dir(mount.path()).unwrap().count(), 1, "nothing was written, nothing is kept");
    let late = OpenOptions::new().write(true).open(mount.at("f")).unwrap();
    push_file(&mount, 3, "f", id, b"theirs again");
    late.write_all_at(b"LATE", 0).unwrap();
    drop(late);
    wait_for(|| std::fs::read(mount.at("f")).unwrap() == b"theirs again");
    let names = || std::fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().path());
    wait_for(|| names().count() == 2);
    let copy = names().find(|path| path.to_string_lossy().contains("conflict")).unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), b"LATErs");
    mount.fs.sweep();
    assert!(mount.tree.open_marks().unwrap().is_empty());
}

// S16
#[test]
fn what_is_written_to_a_removed_file_that_comes_back_is_kept_beside_it() {
    for is_here in [true, false] {
        for mount in Local::both() {
            let (id, bytes) = (NodeId::generate(), pattern(20 * CHUNK, 0));
            let manifest = push_file(&mount, 1, "f", id, &bytes);
            wait_for(|| mount.at("f").exists());
            if is_here {
                assert!(std::fs::read(mount.at("f")).unwrap() == bytes);
            }
            let file = OpenOptions::new().write(true).open(mount.at("f")).unwrap();
            std::fs::remove_file(mount.at("f")).unwrap();
            push_file(&mount, 2, "f", id, b"theirs");
            wait_for(|| mount.at("f").exists());
            file.write_all_at(b"LATE", 100).unwrap();
            drop(file);
            let names = || std::fs::read_dir(mount.path()).unwrap().map(|entry| entry.unwrap().file_name());
            wait_for(|| names().count() == 2);
            assert_eq!(std::fs::read(mount.at("f")).unwrap(), b"theirs");
            let copy = names().find(|name| name.to_string_lossy().contains("conflict")).unwrap();
            mount.contents.set(mount.node(copy.to_str().unwrap()).id, &manifest);
            let expected = [&bytes[..100], b"LATE", &bytes[104..]].concat();
            assert!(std::fs::read(mount.at(&copy)).unwrap() == expected, "here before: {is_here}");
        }
    }
}
