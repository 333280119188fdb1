//! What a mount remembers.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dfs_mountd::cache::{Backing, CacheError, OpenFiles};
use dfs_mountd::tree::content::{ContentState, Present};
use dfs_shared::ids::NodeId;

use super::kit::Local;
use super::remote::{CHUNK, pattern, push_file, wait_for};

#[test]
fn everything_is_there_after_a_restart_under_the_same_inode_numbers() {
    for mount in Local::both() {
        std::fs::create_dir(mount.at("d")).unwrap();
        std::fs::write(mount.at("d/f"), b"bytes").unwrap();
        let before = std::fs::metadata(mount.at("d/f")).unwrap();
        let mount = mount.restart();
        let after = std::fs::metadata(mount.at("d/f")).unwrap();
        assert_eq!(
            (after.ino(), after.len(), after.modified().unwrap()),
            (before.ino(), 5, before.modified().unwrap())
        );
        assert_eq!(std::fs::read(mount.at("d/f")).unwrap(), b"bytes");
    }
}

/// What `name_to_handle_at` says of a path, as the kernel lays it out.
#[repr(C)]
struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; 128],
}

fn handle_of(path: &Path) -> Handle {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let (mut handle, mut mount_id) = (Handle { len: 128, kind: 0, bytes: [0; 128] }, 0);
    // SAFETY: the path ends with NUL, and the handle has the room that it says.
    let done = unsafe {
        libc::name_to_handle_at(libc::AT_FDCWD, path.as_ptr(), (&raw mut handle).cast(), &raw mut mount_id, 0)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    handle
}

fn open_by_handle(mount: &Path, handle: &mut Handle) -> std::io::Result<File> {
    let mount = File::open(mount)?;
    // SAFETY: the handle came from `name_to_handle_at`.
    let opened =
        unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut *handle).cast(), libc::O_RDONLY) };
    if opened < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the descriptor is ours.
    Ok(unsafe { File::from_raw_fd(opened) })
}

// S23
#[test]
fn a_file_handle_holds_over_a_restart_until_the_file_is_removed() {
    let Some(mount) = Local::new() else { return };
    std::fs::create_dir(mount.at("d")).unwrap();
    for name in ["d/f", "d/gone"] {
        std::fs::write(mount.at(name), b"bytes").unwrap();
    }
    let mut handles = ["d/f", "d/gone", "d"].map(|name| handle_of(&mount.at(name)));
    let mount = mount.restart();
    let [file, gone, dir] = &mut handles;
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        // Opening by a handle passes by the permissions of directories, so it is root's.
        assert_eq!(open_by_handle(&mount.path(), file).unwrap_err().raw_os_error(), Some(libc::EPERM));
        return;
    }
    let mut read = Vec::new();
    open_by_handle(&mount.path(), file).unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(read, b"bytes");
    let opened = open_by_handle(&mount.path(), dir).unwrap();
    assert_eq!(opened.metadata().unwrap().ino(), mount.node("d").ino.0);
    drop(opened);
    std::fs::remove_file(mount.at("d/gone")).unwrap();
    let mount = mount.restart();
    assert_eq!(open_by_handle(&mount.path(), gone).unwrap_err().raw_os_error(), Some(libc::ESTALE));
}

#[test]
fn bytes_that_changed_while_nobody_looked_are_noticed_at_the_next_start() {
    let Some(mount) = Local::new() else { return };
    std::fs::write(mount.at("f"), b"bytes").unwrap();
    mount.wait_released("f");
    mount.fs.sweep();
    let node = mount.node("f");
    // As if the process had been killed with the file open, before the last write was noticed.
    mount.tree.mark_open(node.id).unwrap();
    let backing = mount.cache.backing(&node).unwrap();
    backing.file().unwrap().write_all_at(b"longer bytes", 0).unwrap();
    drop(backing);
    let mount = mount.restart();
    assert_ne!(mount.node("f").dirty_content, node.dirty_content);
    assert_eq!(mount.node("f").live().unwrap().size, 12);
    assert!(mount.tree.open_marks().unwrap().is_empty());
    assert_eq!(std::fs::read(mount.at("f")).unwrap(), b"longer bytes");
}

/// A file of the server's of which the first chunk is here, and nobody has it open.
fn partly_here(mount: &Local, bytes: &[u8]) -> NodeId {
    let id = NodeId::generate();
    push_file(mount, 1, "f", id, bytes);
    wait_for(|| mount.at("f").exists());
    let file = std::fs::File::open(mount.at("f")).unwrap();
    file.read_exact_at(&mut [0; 10], 0).unwrap();
    drop(file);
    assert!(!mount.cache.backing(&mount.node("f")).unwrap().is_whole());
    id
}

#[test]
fn a_change_of_a_file_that_is_partly_here_is_known_after_a_kill() {
    let bytes = pattern(20 * CHUNK, 0);
    let mut written = bytes.clone();
    written[..5].copy_from_slice(b"hello");
    let mut zeroed = bytes.clone();
    zeroed[..100].fill(0);
    type Change = fn(&Backing);
    let changes: [(Change, &[u8]); 3] = [
        (|backing| backing.write_at(b"hello", 0).unwrap(), &written),
        (|backing| backing.set_len(10).unwrap(), &bytes[..10]),
        (
            |backing| {
                backing.change(0..100, "zero", |file| file.write_all_at(&[0; 100], 0)).unwrap();
            },
            &zeroed,
        ),
    ];
    for (change, expected) in changes {
        let Some(mount) = Local::new() else { return };
        let id = partly_here(&mount, &bytes);
        // As if the process had been killed after the change was made and before it was noticed.
        mount.tree.mark_open(id).unwrap();
        change(&mount.cache.backing(&mount.node("f")).unwrap());
        let (contents, manifest) = (Arc::clone(&mount.contents), mount.contents.add(&bytes, CHUNK));
        let mount = mount.restart();
        mount.contents.take(&contents);
        mount.contents.set(id, &manifest);
        let node = mount.node("f");
        assert!(node.dirty_content.is_some(), "nobody would send the change");
        assert_eq!(node.live().unwrap().size, expected.len() as u64);
        assert!(std::fs::read(mount.at("f")).unwrap() == expected);
    }
}

#[test]
fn a_file_that_is_partly_here_and_grew_is_whole_when_it_is_read_after_a_kill() {
    let bytes = pattern(20 * CHUNK, 0);
    let Some(mount) = Local::new() else { return };
    let id = partly_here(&mount, &bytes);
    // As if the process had been killed between writing behind the end and noting which bytes are here.
    mount.tree.mark_open(id).unwrap();
    let row = mount.tree.content_state(id).unwrap();
    let end = bytes.len() as u64;
    mount.cache.backing(&mount.node("f")).unwrap().write_at(b"hello", end + 100).unwrap();
    let noted = mount.tree.content_state(id).unwrap().unwrap();
    mount
        .tree
        .update_content_state(id, |_| row.map(|row| ContentState { present: row.present, ..noted }))
        .unwrap();
    let (contents, manifest) = (Arc::clone(&mount.contents), mount.contents.add(&bytes, CHUNK));
    let mount = mount.restart();
    mount.contents.take(&contents);
    mount.contents.set(id, &manifest);
    let expected = [&bytes[..], &[0; 100], b"hello"].concat();
    assert!(std::fs::read(mount.at("f")).unwrap() == expected);
    assert!(mount.cache.backing(&mount.node("f")).unwrap().is_whole(), "it would wait for ever to be sent");
}

#[test]
fn a_file_that_is_partly_here_and_was_cut_waits_for_nothing_after_a_kill() {
    let bytes = pattern(20 * CHUNK, 0);
    for len in [0, 10] {
        let Some(mount) = Local::new() else { return };
        let id = partly_here(&mount, &bytes);
        // As if the process had been killed between cutting the file and noting which bytes are here.
        mount.tree.mark_open(id).unwrap();
        let present = mount.tree.content_state(id).unwrap().unwrap().present;
        mount.cache.backing(&mount.node("f")).unwrap().set_len(len).unwrap();
        let put_back = |row: Option<ContentState>| row.map(|row| ContentState { present, ..row });
        mount.tree.update_content_state(id, put_back).unwrap();
        let mount = mount.restart();
        assert_eq!(mount.node("f").live().unwrap().size, len);
        assert!(mount.cache.open_for_hash(id).unwrap().number.is_some(), "nobody would send it");
        assert!(std::fs::read(mount.at("f")).unwrap() == bytes[..usize::try_from(len).unwrap()]);
    }
}

#[test]
fn a_new_version_whose_file_has_the_old_length_after_a_kill_is_whole_when_it_is_read() {
    let long = pattern(20 * CHUNK, 0);
    for (old, new) in [(&long[..10 * CHUNK], &long[..]), (&long[..], &long[..10 * CHUNK])] {
        let Some(mount) = Local::new() else { return };
        let id = NodeId::generate();
        push_file(&mount, 1, "f", id, old);
        wait_for(|| mount.at("f").exists());
        assert!(std::fs::read(mount.at("f")).unwrap() == old);
        let row = mount.tree.content_state(id).unwrap().unwrap();
        let manifest = push_file(&mount, 2, "f", id, new);
        // As if the process had been killed between taking over the old version's file and giving it its length.
        let same = 0..8 * CHUNK as u64;
        let taken =
            ContentState { content: Some(manifest.id()), present: Present::Ranges(vec![same]), ..row };
        mount.tree.update_content_state(id, |_| Some(taken)).unwrap();
        mount.tree.put_manifest(id, &manifest).unwrap();
        let contents = Arc::clone(&mount.contents);
        let mount = mount.restart();
        mount.contents.take(&contents);
        mount.contents.set(id, &manifest);
        assert!(std::fs::read(mount.at("f")).unwrap() == new);
    }
}

// S4
#[test]
fn what_was_not_sent_can_be_sent_from_a_state_directory_that_was_copied() {
    let Some(mount) = Local::new() else { return };
    std::fs::write(mount.at("f"), b"bytes").unwrap();
    mount.wait_released("f");
    mount.fs.sweep();
    let mount = mount.restart_with(|root| {
        for path in files(&root.join("state/files")) {
            let copy = path.with_extension("copy");
            std::fs::copy(&path, &copy).unwrap();
            std::fs::rename(copy, path).unwrap();
        }
    });
    // A copy has other times of change, whatever made it.
    let node = mount.node("f");
    assert!(matches!(mount.cache.open_for_hash(node.id), Err(CacheError::Changed)));
    mount.fs.notice(&[node.id]);
    assert!(
        mount.cache.open_for_hash(node.id).unwrap().number.is_some(),
        "it would wait for ever to be sent"
    );
    assert_eq!(std::fs::read(mount.at("f")).unwrap(), b"bytes");
}

// S44
#[test]
fn bytes_whose_mark_did_not_reach_the_disk_are_noticed_after_a_power_loss() {
    let Some(mount) = Local::new() else { return };
    for name in ["f", "empty"] {
        std::fs::write(mount.at(name), if name == "f" { &b"bytes"[..] } else { b"" }).unwrap();
        mount.wait_released(name);
    }
    mount.fs.sweep();
    let node = mount.node("f");
    for name in ["f", "empty"] {
        let node = mount.node(name);
        mount.tree.unmark_open(node.id).unwrap();
        mount.cache.backing(&node).unwrap().file().unwrap().write_all_at(b"longer bytes", 0).unwrap();
    }
    let mount = mount.restart_after_power_loss(|_| {});
    assert_ne!(mount.node("f").dirty_content, node.dirty_content);
    for name in ["f", "empty"] {
        assert!(mount.node(name).dirty_content.is_some(), "{name}");
        assert_eq!(std::fs::read(mount.at(name)).unwrap(), b"longer bytes");
    }
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

// S44
#[test]
fn bytes_of_the_servers_that_did_not_reach_the_disk_are_fetched_again_after_a_power_loss() {
    let bytes = pattern(20 * CHUNK, 0);
    let damages: [fn(&File); 3] = [
        |file| file.set_len(0).unwrap(),
        |file| file.write_all_at(&[0; 4096], 3 * CHUNK as u64).unwrap(),
        |_| {},
    ];
    for (index, damage) in damages.into_iter().enumerate() {
        let Some(mount) = Local::new() else { return };
        let id = NodeId::generate();
        let manifest = push_file(&mount, 1, "f", id, &bytes);
        wait_for(|| mount.at("f").exists());
        assert!(std::fs::read(mount.at("f")).unwrap() == bytes);
        let contents = Arc::clone(&mount.contents);
        // Somebody may have it open for writing, who wrote nothing.
        mount.tree.mark_open(id).unwrap();
        let mount = mount.restart_after_power_loss(|root| {
            for path in files(&root.join("cache/files")) {
                let file = File::options().write(true).open(path).unwrap();
                let before = file.metadata().unwrap().modified().unwrap();
                damage(&file);
                file.set_modified(before).unwrap();
            }
        });
        mount.contents.take(&contents);
        mount.contents.set(id, &manifest);
        assert!(mount.node("f").dirty_content.is_none(), "nobody wrote to it");
        assert!(std::fs::read(mount.at("f")).unwrap() == bytes, "damage {index}");
        let fetched = mount.contents.fetched.lock().unwrap().len();
        assert_eq!(fetched > 0, index < 2, "good bytes stay");
    }
}

#[test]
fn a_file_of_the_servers_that_was_written_before_a_power_loss_is_as_it_was_written() {
    let bytes = pattern(20 * CHUNK, 0);
    let Some(mount) = Local::new() else { return };
    let id = NodeId::generate();
    push_file(&mount, 1, "f", id, &bytes);
    wait_for(|| mount.at("f").exists());
    assert!(std::fs::read(mount.at("f")).unwrap() == bytes);
    // As a program's write does it, but for the mark and the row, which did not reach the disk.
    let row = mount.tree.content_state(id).unwrap();
    let backing = mount.cache.backing(&mount.node("f")).unwrap();
    backing.adopt(true).unwrap();
    backing.file().unwrap().write_all_at(b"hello", 0).unwrap();
    drop(backing);
    mount.tree.update_content_state(id, |_| row).unwrap();
    let mount = mount.restart_after_power_loss(|_| {});
    assert!(mount.node("f").dirty_content.is_some(), "nobody would send it");
    assert_eq!(std::fs::read(mount.at("f")).unwrap()[..5], *b"hello");
}

// S44
#[test]
fn a_file_whose_bytes_are_gone_after_a_power_loss_is_as_the_server_has_it_or_empty() {
    let Some(mount) = Local::new() else { return };
    let (id, bytes) = (NodeId::generate(), pattern(20 * CHUNK, 0));
    let manifest = push_file(&mount, 1, "theirs", id, &bytes);
    wait_for(|| mount.at("theirs").exists());
    for name in ["theirs", "ours"] {
        std::fs::write(mount.at(name), b"written here").unwrap();
        mount.wait_released(name);
    }
    mount.fs.sweep();
    let contents = Arc::clone(&mount.contents);
    let mount = mount.restart_after_power_loss(|root| {
        files(&root.join("state/files")).iter().for_each(|path| std::fs::remove_file(path).unwrap());
    });
    mount.contents.take(&contents);
    mount.contents.set(id, &manifest);
    assert!(std::fs::read(mount.at("theirs")).unwrap() == bytes);
    assert_eq!(std::fs::read(mount.at("ours")).unwrap(), b"");
    assert_eq!(mount.node("ours").dirty_content, None, "there is nothing to wait for");
    let mut lost = mount.fs.lost_files();
    lost.sort();
    let mut expected = [id, mount.node("ours").id];
    expected.sort();
    assert_eq!(lost, expected, "people have to be told");
    assert_eq!(mount.tree.audit().unwrap(), Vec::<String>::new());
    std::fs::write(mount.at("ours"), b"again").unwrap();
    assert_eq!(std::fs::read(mount.at("ours")).unwrap(), b"again");
}

// S44
#[test]
fn a_file_that_is_partly_here_and_was_cut_off_by_a_power_loss_is_as_the_server_has_it() {
    let bytes = pattern(20 * CHUNK, 0);
    let Some(mount) = Local::new() else { return };
    let id = partly_here(&mount, &bytes);
    mount.cache.backing(&mount.node("f")).unwrap().write_at(b"hello", 100).unwrap();
    mount.fs.sweep();
    assert!(mount.node("f").dirty_content.is_some());
    let (contents, manifest) = (Arc::clone(&mount.contents), mount.contents.add(&bytes, CHUNK));
    let mount = mount.restart_after_power_loss(|root| {
        for path in files(&root.join("state/files")) {
            File::options().write(true).open(path).unwrap().set_len(0).unwrap();
        }
    });
    mount.contents.take(&contents);
    mount.contents.set(id, &manifest);
    assert_eq!(mount.fs.lost_files(), [id]);
    assert_eq!(mount.node("f").dirty_content, None, "nothing of it can be sent");
    assert!(std::fs::read(mount.at("f")).unwrap() == bytes);
}

// S44
#[test]
fn what_reached_the_disk_of_a_file_that_is_partly_here_is_there_after_a_power_loss() {
    let bytes = pattern(20 * CHUNK, 0);
    let mut written = bytes.clone();
    written[100..105].copy_from_slice(b"hello");
    // Without what was appended; without anything that was not here either; with some of what was appended.
    for left in [bytes.len(), 2 * CHUNK, bytes.len() + 2] {
        let Some(mount) = Local::new() else { return };
        let id = partly_here(&mount, &bytes);
        let backing = mount.cache.backing(&mount.node("f")).unwrap();
        backing.write_at(b"hello", 100).unwrap();
        backing.write_at(b"tail", bytes.len() as u64).unwrap();
        drop(backing);
        mount.fs.sweep();
        let (contents, manifest) = (Arc::clone(&mount.contents), mount.contents.add(&bytes, CHUNK));
        let mount = mount.restart_after_power_loss(|root| {
            for path in files(&root.join("state/files")) {
                File::options().write(true).open(path).unwrap().set_len(left as u64).unwrap();
            }
        });
        mount.contents.take(&contents);
        mount.contents.set(id, &manifest);
        assert_eq!(mount.fs.lost_files(), [id], "some of it is lost");
        assert!(mount.node("f").dirty_content.is_some(), "nobody would send the rest");
        let expected = [&written[..], &b"tail"[..left.saturating_sub(bytes.len())]].concat();
        assert!(std::fs::read(mount.at("f")).unwrap() == expected);
        assert!(mount.cache.open_for_hash(id).is_ok(), "it would wait for ever to be sent");
    }
}

// S44
#[test]
fn a_file_of_which_nothing_is_here_keeps_the_servers_bytes_when_its_length_did_not_reach_the_disk() {
    let Some(mount) = Local::new() else { return };
    let (id, bytes) = (NodeId::generate(), pattern(20 * CHUNK, 0));
    let manifest = push_file(&mount, 1, "f", id, &bytes);
    wait_for(|| mount.at("f").exists());
    // As if a write had been announced, and neither it nor the length of its file had come further.
    let backing = mount.cache.backing(&mount.node("f")).unwrap();
    backing.adopt(true).unwrap();
    backing.file().unwrap();
    mount.tree.content_announced(id, dfs_shared::time::Timestamp { secs: 2_000_000_000, nanos: 0 }).unwrap();
    drop(backing);
    let contents = Arc::clone(&mount.contents);
    let mount = mount.restart_after_power_loss(|root| {
        for path in files(&root.join("state/files")) {
            File::options().write(true).open(path).unwrap().set_len(0).unwrap();
        }
    });
    mount.contents.take(&contents);
    mount.contents.set(id, &manifest);
    assert!(std::fs::read(mount.at("f")).unwrap() == bytes);
    assert!(mount.cache.open_for_hash(id).is_ok(), "it would wait for ever to be sent");
}
