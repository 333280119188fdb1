//! Reading and writing in every way that Linux has, on one mount, and what the other shows of it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Result, ensure};
use dfs_tests::machine::say;
use dfs_tests::ops::{self, expect_errno, expect_error};
use dfs_tests::random::Random;
use dfs_tests::{Cluster, Setup, eventually, run};
use rustix::fs::{FallocateFlags, SeekFrom as Seeking, fallocate, seek};
use rustix::io::Errno;

const MIB: usize = 1 << 20;

fn on_two_mounts(test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(2), test);
}

#[test]
fn open_flags_do_what_they_say() {
    on_two_mounts(|cluster| {
        let file = cluster.a().join("file");
        let options = || OpenOptions::new();
        expect_error("open of nothing", Errno::NOENT, File::open(&file))?;
        options().write(true).create_new(true).open(&file)?.write_all(b"0123456789")?;
        expect_error("O_EXCL", Errno::EXIST, options().write(true).create_new(true).open(&file))?;
        expect_error("writing a directory", Errno::ISDIR, options().write(true).open(cluster.a()))?;
        let (mut one, mut two) = (options().append(true).open(&file)?, options().append(true).open(&file)?);
        one.write_all(b"a")?;
        two.write_all(b"b")?;
        one.write_all(b"c")?;
        ensure!(fs::read(&file)? == b"0123456789abc", "{:?}", fs::read(&file)?);
        expect_error("reading what is open for writing", Errno::BADF, one.read(&mut [0; 4]))?;
        drop((one, two));
        File::create(&file)?.write_all(b"cut")?;
        ensure!(fs::read(&file)? == b"cut", "O_TRUNC");
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn writes_at_any_place_and_of_any_length_are_read_back() {
    on_two_mounts(|cluster| {
        let mut random = Random::new(11);
        let path = cluster.a().join("file");
        let mut wanted = Vec::new();
        let file = ops::open_rw(&path)?;
        for _ in 0..300 {
            let offset = random.below(600_000) as usize;
            let length = random.below(20_000) as usize;
            let bytes = random.bytes(length);
            file.write_all_at(&bytes, offset as u64)?;
            if length > 0 {
                wanted.resize(wanted.len().max(offset + length), 0);
                wanted[offset..offset + length].copy_from_slice(&bytes);
            }
            if random.below(20) == 0 {
                let length = random.below(600_000) as usize;
                file.set_len(length as u64)?;
                wanted.resize(length, 0);
            }
        }
        ensure!(fs::read(&path)? == wanted, "while it is open");
        file.sync_data()?;
        drop(file);
        ensure!(fs::read(&path)? == wanted, "after close");
        eventually("b reads the same", || Ok(fs::read(cluster.b().join("file"))? == wanted))?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn an_edit_in_the_middle_and_an_insertion_reach_the_other_mount() {
    on_two_mounts(|cluster| {
        let mut bytes = Random::new(12).bytes(9 * MIB);
        let (here, there) = (cluster.a().join("large"), cluster.b().join("large"));
        fs::write(&here, &bytes)?;
        eventually("b reads it", || Ok(fs::read(&there)? == bytes))?;
        bytes[4 * MIB] ^= 1;
        OpenOptions::new()
            .write(true)
            .open(&here)?
            .write_all_at(&bytes[4 * MIB..=4 * MIB], 4 * MIB as u64)?;
        eventually("b reads the edit", || Ok(fs::read(&there)? == bytes))?;
        bytes.insert(5 * MIB, b'!');
        fs::write(&there, &bytes)?;
        eventually("a reads the insertion", || Ok(fs::read(&here)? == bytes))?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn fallocate_reserves_punches_and_zeroes() {
    on_two_mounts(|cluster| {
        let path = cluster.a().join("file");
        let file = ops::open_rw(&path)?;
        file.write_all_at(&[b'x'; 1 << 18], 0)?;
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20)?;
        ensure!(file.metadata()?.len() == 1 << 18, "KEEP_SIZE keeps the size");
        fallocate(&file, FallocateFlags::empty(), 0, 1 << 19)?;
        ensure!(file.metadata()?.len() == 1 << 19, "plain fallocate extends");
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 65_536, 65_536)?;
        fallocate(&file, FallocateFlags::ZERO_RANGE, 150_000, 10_000)?;
        let mut wanted = vec![b'x'; 1 << 18];
        wanted.resize(1 << 19, 0);
        wanted[65_536..131_072].fill(0);
        wanted[150_000..160_000].fill(0);
        ensure!(fs::read(&path)? == wanted, "holes and zeroed ranges read as zeros");
        drop(file);
        eventually("b reads the same", || Ok(fs::read(cluster.b().join("file"))? == wanted))?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn a_fallocate_mode_that_is_not_supported_says_so_and_changes_nothing() {
    on_two_mounts(|cluster| {
        let path = cluster.a().join("file");
        let file = ops::open_rw(&path)?;
        file.write_all_at(&[b'x'; 65_536], 0)?;
        if let Err(error) = fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096) {
            ensure!(error == Errno::OPNOTSUPP, "{error}");
            ensure!(file.metadata()?.len() == 65_536, "changed nothing");
        } else {
            ensure!(file.metadata()?.len() == 61_440, "collapsed");
        }
        drop(file);
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn seeking_finds_data_and_holes() {
    on_two_mounts(|cluster| {
        let path = cluster.a().join("sparse");
        let file = ops::open_rw(&path)?;
        file.set_len(4 << 20)?;
        file.write_all_at(&[1; 65_536], 1 << 20)?;
        file.sync_all()?;
        let check = |file: &File| -> Result<()> {
            let data = seek(file, Seeking::Data(0))?;
            ensure!(data <= 1 << 20, "data is not after {data}");
            let hole = seek(file, Seeking::Hole(1 << 20))?;
            ensure!(hole >= (1 << 20) + 65_536, "a hole at {hole} is inside the data");
            ensure!(hole <= 4 << 20, "the end is a hole");
            expect_errno("data past the end", Errno::NXIO, seek(file, Seeking::Data(4 << 20)))
        };
        check(&file)?;
        ensure!(seek(&file, Seeking::Data(0))? == 1 << 20, "the first hole is known here");
        cluster.settle()?;
        check(&File::open(cluster.b().join("sparse"))?)?;
        cluster.compare_trees()?;
        Ok(())
    });
}

#[test]
fn copy_file_range_copies_inside_one_file_and_between_two() {
    on_two_mounts(|cluster| {
        let bytes = Random::new(13).bytes(3 * MIB);
        fs::write(cluster.a().join("from"), &bytes)?;
        let (from, to) = (ops::open_rw(&cluster.a().join("from"))?, ops::open_rw(&cluster.a().join("to"))?);
        let (mut source, mut target) = (100, 0);
        let mut left = 2 * MIB;
        while left > 0 {
            let copied = rustix::fs::copy_file_range(&from, Some(&mut source), &to, Some(&mut target), left)?;
            ensure!(copied > 0, "nothing was copied");
            left -= copied;
        }
        ensure!(fs::read(cluster.a().join("to"))? == bytes[100..100 + 2 * MIB], "between two files");
        let mut end = bytes.len() as u64;
        let copied = rustix::fs::copy_file_range(&from, Some(&mut 0), &from, Some(&mut end), 1000)?;
        drop((from, to));
        let mut wanted = bytes.clone();
        wanted.extend_from_slice(&bytes[..copied]);
        eventually("b reads the same", || Ok(fs::read(cluster.b().join("from"))? == wanted))?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S19
#[test]
fn an_unlinked_file_lives_until_its_last_close() {
    on_two_mounts(|cluster| {
        let path = cluster.a().join("file");
        let mut file = ops::open_rw(&path)?;
        file.write_all(b"before")?;
        cluster.settle()?;
        fs::remove_file(&path)?;
        ensure!(file.metadata()?.nlink() == 0, "no link is left");
        file.write_all(b" and after")?;
        file.seek(SeekFrom::Start(0))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        ensure!(text == "before and after", "{text}");
        fs::write(&path, b"another")?;
        ensure!(file.metadata()?.ino() != fs::metadata(&path)?.ino(), "the new one is another file");
        drop(file);
        ensure!(fs::read(&path)? == b"another", "and keeps its content");
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn rename_over_an_open_file_keeps_the_old_content_for_its_reader() {
    on_two_mounts(|cluster| {
        let at = |name: &str| cluster.a().join(name);
        fs::write(at("file"), b"old")?;
        let mut reader = File::open(at("file"))?;
        fs::write(at("file.new"), b"new content")?;
        fs::rename(at("file.new"), at("file"))?;
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        ensure!(text == "old" && fs::read(at("file"))? == b"new content", "{text}");
        eventually("b reads the new one", || Ok(fs::read(cluster.b().join("file"))? == b"new content"))?;
        Ok(())
    });
}

#[test]
fn a_file_deleted_in_the_other_mount_stays_readable_where_it_is_open() {
    on_two_mounts(|cluster| {
        let bytes = Random::new(14).bytes(2 * MIB);
        fs::write(cluster.a().join("file"), &bytes)?;
        cluster.settle()?;
        let reader = File::open(cluster.b().join("file"))?;
        let mut first = vec![0; 1000];
        reader.read_exact_at(&mut first, 0)?;
        fs::remove_file(cluster.a().join("file"))?;
        eventually("its name is gone in b", || Ok(!cluster.b().join("file").try_exists()?))?;
        let mut rest = vec![0; 2 * MIB];
        reader.read_exact_at(&mut rest, 0)?;
        ensure!(rest == bytes, "the open file changed");
        Ok(())
    });
}

// S11
#[test]
fn files_beyond_four_gib_have_exact_sizes_and_places() {
    on_two_mounts(|cluster| {
        let path = cluster.a().join("huge");
        let file = ops::open_rw(&path)?;
        let far = 5_u64 << 30;
        file.write_all_at(b"far away", far)?;
        file.write_all_at(b"just past 4 GiB", 1 << 32)?;
        ensure!(file.metadata()?.len() == far + 8, "size");
        ensure!(file.metadata()?.blocks() * 512 < 64 << 20, "it stays sparse: {}", file.metadata()?.blocks());
        drop(file);
        cluster.settle()?;
        let other = File::open(cluster.b().join("huge"))?;
        let mut bytes = [0; 15];
        other.read_exact_at(&mut bytes, 1 << 32)?;
        ensure!(&bytes == b"just past 4 GiB", "{bytes:?}");
        other.read_exact_at(&mut bytes[..8], far)?;
        ensure!(&bytes[..8] == b"far away", "{bytes:?}");
        other.read_exact_at(&mut bytes, 1 << 31)?;
        ensure!(bytes == [0; 15], "zeros between");
        Ok(())
    });
}

// S24
#[test]
fn what_is_written_through_a_shared_mapping_is_read_in_the_other_mount() {
    on_two_mounts(|cluster| {
        let path = cluster.a().join("mapped");
        fs::write(&path, vec![b'.'; 100_000])?;
        {
            let mut mapping = Mapping::of(&ops::open_rw(&path)?, 100_000)?;
            mapping.bytes()[50_000..50_006].copy_from_slice(b"mapped");
            mapping.flush()?;
            ensure!(&fs::read(&path)?[50_000..50_006] == b"mapped", "read in the same mount");
        }
        let is_there = |path: &Path| Ok(fs::read(path)?.get(50_000..50_006) == Some(b"mapped"));
        eventually("b reads it", || is_there(&cluster.b().join("mapped")))?;
        {
            let mut mapping = Mapping::of(&ops::open_rw(&cluster.b().join("mapped"))?, 100_000)?;
            ensure!(&mapping.bytes()[50_000..50_006] == b"mapped", "seen through a mapping in b");
            mapping.bytes()[0] = b'b';
        }
        eventually("a reads what b mapped", || Ok(fs::read(&path)?[0] == b'b'))?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

/// A shared mapping of a whole file.
struct Mapping {
    start: *mut std::ffi::c_void,
    length: usize,
}

impl Mapping {
    fn of(file: &File, length: usize) -> Result<Mapping> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses; nothing else refers to it.
        let start = unsafe { mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0) }?;
        Ok(Mapping { start, length })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is `length` bytes long, readable and writable until `self` is dropped, and the
        // file is not cut while the test runs.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.length) }
    }

    fn flush(&self) -> Result<()> {
        // SAFETY: the range is exactly the mapping.
        unsafe { rustix::mm::msync(self.start, self.length, rustix::mm::MsyncFlags::SYNC) }?;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the mapping, and no reference into it outlives `self`.
        if let Err(error) = unsafe { rustix::mm::munmap(self.start, self.length) } {
            say(&format!("munmap: {error}"));
        }
    }
}

#[test]
fn direct_io_reads_what_was_written() {
    on_two_mounts(|cluster| {
        #[repr(align(4096))]
        struct Aligned([u8; 8192]);
        let path = cluster.a().join("direct");
        let direct = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).custom_flags(direct);
        let file = options.open(&path)?;
        let mut buffer = Aligned([7; 8192]);
        file.write_all_at(&buffer.0, 4096)?;
        buffer.0.fill(0);
        file.read_exact_at(&mut buffer.0, 4096)?;
        ensure!(buffer.0 == [7; 8192], "read back");
        drop(file);
        let mut wanted = vec![0; 4096];
        wanted.resize(12_288, 7);
        eventually("b reads it", || Ok(fs::read(cluster.b().join("direct"))? == wanted))?;
        Ok(())
    });
}

#[test]
fn locks_exclude_each_other_in_one_mount() {
    on_two_mounts(|cluster| {
        let path = cluster.a().join("file");
        let (one, two) = (ops::open_rw(&path)?, ops::open_rw(&path)?);
        one.lock()?;
        ensure!(two.try_lock().is_err(), "flock excludes");
        one.unlock()?;
        two.try_lock()?;
        Ok(())
    });
}

#[test]
fn many_writers_at_once_lose_nothing() {
    on_two_mounts(|cluster| {
        let roots = [cluster.a().to_owned(), cluster.b().to_owned()];
        let mut writers = Vec::new();
        for number in 0..8 {
            let directory = roots[number % 2].join(format!("writer {number}"));
            writers.push(std::thread::spawn(move || -> Result<()> {
                fs::create_dir(&directory)?;
                for index in 0..100 {
                    fs::write(
                        directory.join(format!("file {index}")),
                        format!("{number}/{index}").repeat(index),
                    )?;
                }
                Ok(())
            }));
        }
        for writer in writers {
            writer.join().map_err(|_| anyhow::anyhow!("a writer panicked"))??;
        }
        let tree = cluster.expect_equal_trees()?;
        ensure!(tree.len() == 1 + 8 + 800, "{} names", tree.len());
        Ok(())
    });
}

// S7
#[test]
fn a_reader_sees_the_old_or_the_new_version_never_a_mix() {
    on_two_mounts(|cluster| {
        let (here, there) = (cluster.a().join("file"), cluster.b().join("file"));
        fs::write(&here, [0; 65_536])?;
        eventually("b has the file", || Ok(fs::read(&there)?.len() == 65_536))?;
        let writer = std::thread::spawn(move || -> Result<()> {
            for round in 1..=100_u8 {
                OpenOptions::new().write(true).open(&here)?.write_all_at(&[round; 65_536], 0)?;
            }
            Ok(())
        });
        eventually("b reads the last version", || {
            let bytes = fs::read(&there)?;
            assert!(bytes.len() == 65_536, "a version is whole: {} bytes", bytes.len());
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mix of {} and others", bytes[0]);
            Ok(bytes[0] == 100)
        })?;
        writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?
    });
}

#[test]
fn all_of_this_works_for_an_ordinary_user() -> Result<()> {
    dfs_tests::user::rerun_suite_as_ordinary_user("all_of_this_works_for_an_ordinary_user")
}
