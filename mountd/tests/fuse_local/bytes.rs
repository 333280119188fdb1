//! Bytes on a real mount, in passthrough and through the daemon.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering;
use std::time::Duration;

use dfs_mountd::limits::QUOTA_PAUSE_MS_MAX;
use dfs_mountd::tree::{Ino, Quota};

use super::kit::Local;

#[test]
fn what_is_written_is_read_back_at_every_size() {
    for mount in Local::both() {
        for size in [0, 1, 4095, 4096, 4097, 131_072, 131_073, 3_000_000] {
            let bytes: Vec<u8> = (0..size).map(|at: u32| (at % 251) as u8).collect();
            let path = mount.at(format!("f{size}"));
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), u64::from(size));
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{size}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "{size} again");
            mount.wait_released(&format!("f{size}"));
            assert_eq!(mount.node(&format!("f{size}")).live().unwrap().size, u64::from(size));
        }
    }
}

#[test]
fn overwriting_appending_and_truncating_change_the_bytes_and_nothing_else() {
    for mount in Local::both() {
        let path = mount.at("f");
        std::fs::write(&path, b"hello world").unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(b"W", 6).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello World");
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"!!").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello World!!");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(5).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(8).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello\0\0\0");
        File::create(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }
}

#[test]
fn a_reader_sees_what_a_writer_wrote_while_both_are_open() {
    for mount in Local::both() {
        let path = mount.at("f");
        std::fs::write(&path, b"old").unwrap();
        let mut reader = File::open(&path).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old");
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        writer.write_all(b"newer").unwrap();
        text.clear();
        reader.seek(SeekFrom::Start(0)).unwrap();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "newer");
        assert_eq!(reader.metadata().unwrap().len(), 5);
    }
}

#[test]
fn an_unlinked_file_lives_until_its_last_handle_is_closed() {
    for mount in Local::both() {
        let path = mount.at("f");
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        file.write_all(b"still here").unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(!path.exists());
        file.write_all(b", really").unwrap();
        let mut bytes = vec![0; 18];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes, b"still here, really");
        let stat = file.metadata().unwrap();
        assert_eq!((stat.nlink(), stat.len()), (0, 18));
        drop(file);
        std::fs::write(&path, b"another").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"another");
    }
}

#[test]
fn rename_over_an_open_file_keeps_its_old_content() {
    for mount in Local::both() {
        std::fs::write(mount.at("f"), b"old").unwrap();
        std::fs::write(mount.at("g"), b"new").unwrap();
        let mut file = File::open(mount.at("f")).unwrap();
        std::fs::rename(mount.at("g"), mount.at("f")).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old");
        assert_eq!(std::fs::read(mount.at("f")).unwrap(), b"new");
    }
}

#[test]
fn holes_stay_holes_and_punching_zeroes() {
    for mount in Local::both() {
        let path = mount.at("sparse");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        file.write_all_at(b"x", 64 << 20).unwrap();
        assert!(file.metadata().unwrap().blocks() < 1024);
        // SAFETY: the descriptor is open.
        let data = unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_DATA) };
        assert_eq!(data, 64 << 20);
        file.write_all_at(&[7; 8192], 0).unwrap();
        let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        // SAFETY: the descriptor is open.
        assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), punch, 4096, 4096) }, 0);
        drop(file);
        let file = File::open(&path).unwrap();
        let mut bytes = vec![1; 8192];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(bytes[..4096], [7; 4096]);
        assert_eq!(bytes[4096..], [0; 4096]);
        let stat = file.metadata().unwrap();
        assert!(stat.blocks() < 1024, "{} blocks", stat.blocks());
    }
}

#[test]
fn reserved_room_is_allocated_and_extends_the_file_only_if_asked() {
    for mount in Local::both() {
        let file = File::create(mount.at("f")).unwrap();
        // SAFETY: the descriptor is open.
        assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, 1 << 20) }, 0);
        assert_eq!(file.metadata().unwrap().len(), 0);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, 1 << 20) }, 0);
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_COLLAPSE_RANGE, 0, 4096) }, -1);
        assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::EOPNOTSUPP));
    }
}

#[test]
fn copy_file_range_copies_inside_the_mount() {
    for mount in Local::both() {
        let bytes: Vec<u8> = (0..500_000_u32).map(|at| (at % 253) as u8).collect();
        std::fs::write(mount.at("from"), &bytes).unwrap();
        std::fs::copy(mount.at("from"), mount.at("to")).unwrap();
        assert_eq!(std::fs::read(mount.at("to")).unwrap(), bytes);
        assert_eq!(mount.node("to").live().unwrap().size, 500_000);
    }
}

#[test]
fn a_mapped_file_is_read_and_written_and_the_tree_hears_of_it_after_the_close() {
    for mount in Local::both() {
        let path = mount.at("map");
        std::fs::write(&path, vec![1; 16384]).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        // SAFETY: a fresh mapping of an open file.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                16384,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        assert_ne!(map, libc::MAP_FAILED);
        drop(file);
        mount.fs.sweep();
        let before = mount.node("map").dirty_content;
        // SAFETY: the mapping is 16,384 bytes long.
        unsafe { map.cast::<u8>().add(9000).write(42) };
        // SAFETY: as above.
        assert_eq!(unsafe { libc::msync(map, 16384, libc::MS_SYNC) }, 0);
        // SAFETY: mapped above, not used after this.
        assert_eq!(unsafe { libc::munmap(map, 16384) }, 0);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes[8999], bytes[9000]), (1, 42));
        mount.fs.sweep();
        assert_ne!(mount.node("map").dirty_content, before);
    }
}

#[test]
fn the_tree_knows_the_bytes_of_a_file_before_its_new_name() {
    for mount in Local::both() {
        for n in 0..20_usize {
            let mut file = std::fs::File::create(mount.at("new")).unwrap();
            file.write_all(&vec![b'x'; n + 1]).unwrap();
            // Neither this nor a close tells the daemon of the bytes before the next call returns; a rename does.
            std::fs::rename(mount.at("new"), mount.at("f")).unwrap();
            let node = mount.node("f");
            assert!(node.dirty_content.is_some(), "{n}");
            assert_eq!(node.live().unwrap().size, n as u64 + 1);
        }
    }
}

#[test]
fn the_tree_knows_of_a_change_soon_after_the_close() {
    for mount in Local::both() {
        std::fs::write(mount.at("f"), b"one").unwrap();
        mount.wait_released("f");
        let first = mount.node("f").dirty_content;
        assert!(first.is_some());
        std::fs::write(mount.at("f"), b"two").unwrap();
        mount.wait_released("f");
        assert_ne!(mount.node("f").dirty_content, first);
    }
}

// S48
#[test]
fn who_makes_a_file_longer_near_the_quota_waits_for_what_other_files_have_yet_to_send() {
    let Some(mount) = Local::served() else { return };
    mount.contents.takes.store(true, Ordering::SeqCst);
    mount.tree.set_quota(Quota { limit: Some(4 << 20) }).unwrap();
    std::fs::write(mount.at("waits"), vec![1; 2 << 20]).unwrap();
    mount.wait_released("waits");
    let grows = File::create(mount.at("grows")).unwrap();
    grows.write_all_at(&[2; 1000], 0).unwrap();
    let ino = Ino(grows.metadata().unwrap().ino());
    let pause = |offset| mount.fs.writer_pause(ino, offset, 1 << 20);
    let due = Duration::from_millis(QUOTA_PAUSE_MS_MAX) / 4;
    assert_eq!(pause(1000), Some(due), "half of the room waits");
    assert_eq!(mount.fs.writer_pause(ino, 0, 1000), None, "within its length");
    mount.contents.takes.store(false, Ordering::SeqCst);
    assert_eq!(pause(1000), None, "nobody takes it");
    mount.contents.takes.store(true, Ordering::SeqCst);
    assert_eq!(pause(1000), Some(due));
    std::fs::remove_file(mount.at("waits")).unwrap();
    grows.write_all_at(&[2; 1000], (3 << 20) - 1000).unwrap();
    assert_eq!(pause(3 << 20), None, "its own growth does not count");
    mount.tree.set_quota(Quota { limit: Some(4 << 30) }).unwrap();
    std::fs::write(mount.at("waits"), vec![1; 2 << 20]).unwrap();
    mount.wait_released("waits");
    assert_eq!(pause(3 << 20), None, "far from the quota");
}
