//! Names, directories, links, attributes: every such operation on one mount, and what the other shows of it.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use dfs_tests::machine::{self, Need};
use dfs_tests::ops::{self, expect_errno, expect_error};
use dfs_tests::{Cluster, Setup, eventually, run};
use rustix::fs::{AtFlags, FileType, RenameFlags, XattrFlags};
use rustix::io::Errno;

fn on_two_mounts(test: impl FnOnce(&mut Cluster) -> Result<()>) {
    run(&Setup::mounts(2), test);
}

#[test]
fn a_file_written_in_one_mount_is_read_in_the_other_both_ways() {
    on_two_mounts(|cluster| {
        fs::write(cluster.a().join("from a"), b"written in a")?;
        eventually("b reads it", || Ok(fs::read(cluster.b().join("from a"))? == b"written in a"))?;
        fs::write(cluster.b().join("from b"), b"written in b")?;
        eventually("a reads it", || Ok(fs::read(cluster.a().join("from b"))? == b"written in b"))?;
        fs::remove_file(cluster.b().join("from a"))?;
        eventually("it is gone in a", || Ok(!cluster.a().join("from a").try_exists()?))?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn modes_owners_sizes_and_times_are_kept_to_the_nanosecond() {
    on_two_mounts(|cluster| {
        let file = cluster.a().join("file");
        fs::write(&file, vec![b'x'; 100_000])?;
        for mode in [0o600, 0o4711, 0o2755, 0o1777, 0o000, 0o644] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
            ensure!(fs::metadata(&file)?.mode() & 0o7777 == mode, "mode {mode:o}");
        }
        if machine::is_root() {
            std::os::unix::fs::chown(&file, Some(4_000_000_000), Some(12))?;
            std::os::unix::fs::chown(&file, None, Some(13))?;
            let metadata = fs::metadata(&file)?;
            ensure!((metadata.uid(), metadata.gid()) == (4_000_000_000, 13), "{metadata:?}");
        }
        let before = fs::metadata(&file)?.ctime_nsec();
        ops::set_times(&file, (1_000_000_001, 1), (-2_000_000_001, 999_999_999))?;
        let metadata = fs::metadata(&file)?;
        ensure!((metadata.mtime(), metadata.mtime_nsec()) == (-2_000_000_001, 999_999_999), "{metadata:?}");
        ensure!((metadata.atime(), metadata.atime_nsec()) == (1_000_000_001, 1), "{metadata:?}");
        ensure!(metadata.ctime_nsec() != before, "utimes changes ctime");
        cluster.expect_equal_trees()?;
        for length in [0, 1, 4096, 5_000_000, 70_000] {
            fs::OpenOptions::new().write(true).open(&file)?.set_len(length)?;
            ensure!(fs::metadata(&file)?.len() == length, "length {length}");
        }
        ensure!(fs::read(&file)? == vec![0; 70_000], "what truncate gives back is zeros");
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn directories_come_and_go_and_a_full_one_is_not_removed() {
    on_two_mounts(|cluster| {
        let (outer, inner) = (cluster.a().join("outer"), cluster.a().join("outer/inner"));
        fs::create_dir_all(&inner)?;
        fs::write(inner.join("file"), b"x")?;
        ensure!(fs::metadata(&outer)?.nlink() >= 2, "links of a directory");
        expect_error("mkdir again", Errno::EXIST, fs::create_dir(&inner))?;
        expect_error("rmdir of a full one", Errno::NOTEMPTY, fs::remove_dir(&outer))?;
        expect_error("rmdir of a file", Errno::NOTDIR, fs::remove_dir(inner.join("file")))?;
        expect_error("unlink of a directory", Errno::ISDIR, fs::remove_file(&inner))?;
        expect_error("mkdir in nothing", Errno::NOENT, fs::create_dir(cluster.a().join("no/where")))?;
        expect_error("a file as directory", Errno::NOTDIR, fs::read(inner.join("file/below")))?;
        cluster.expect_equal_trees()?;
        fs::remove_dir_all(&outer)?;
        eventually("it is gone in b", || Ok(!cluster.b().join("outer").try_exists()?))?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S22
#[test]
fn a_directory_read_while_it_changes_shows_every_name_once() {
    on_two_mounts(|cluster| {
        let directory = cluster.a().join("many");
        fs::create_dir(&directory)?;
        for index in 0..3000 {
            File::create(directory.join(format!("name-{index}")))?;
        }
        let mut seen = 0;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.to_string_lossy().contains("/new-") {
                continue;
            }
            fs::remove_file(path)?;
            if seen % 100 == 0 {
                File::create(directory.join(format!("new-{seen}")))?;
            }
            seen += 1;
        }
        ensure!(seen == 3000, "{seen} of 3000 names were shown");
        for entry in fs::read_dir(&directory)? {
            fs::remove_file(entry?.path())?;
        }
        fs::remove_dir(&directory)?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S20
#[test]
fn rename_replaces_what_posix_lets_it_replace() {
    on_two_mounts(|cluster| {
        let at = |name: &str| cluster.a().join(name);
        fs::create_dir_all(at("d/sub"))?;
        fs::create_dir(at("empty"))?;
        fs::write(at("f"), b"f")?;
        fs::write(at("g"), b"g")?;
        fs::write(at("d/in"), b"in")?;
        expect_error("onto a full directory", Errno::NOTEMPTY, fs::rename(at("empty"), at("d")))?;
        expect_error("a file onto a directory", Errno::ISDIR, fs::rename(at("f"), at("d")))?;
        expect_error("a directory onto a file", Errno::NOTDIR, fs::rename(at("d"), at("f")))?;
        expect_error("into itself", Errno::INVAL, fs::rename(at("d"), at("d/sub/d")))?;
        expect_error("of nothing", Errno::NOENT, fs::rename(at("no"), at("f")))?;
        fs::rename(at("f"), at("g"))?;
        ensure!(fs::read(at("g"))? == b"f" && !at("f").try_exists()?, "f is g now");
        fs::rename(at("d"), at("empty"))?;
        fs::rename(at("g"), at("empty/sub/g"))?;
        fs::rename(at("empty/sub/g"), at("empty/sub/g"))?;
        fs::hard_link(at("empty/in"), at("same"))?;
        fs::rename(at("same"), at("empty/in"))?;
        ensure!(at("same").try_exists()?, "rename between two names of one file does nothing");
        ensure!(fs::read(at("empty/sub/g"))? == b"f", "content came along");
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S20
#[test]
fn rename_noreplace_refuses_and_exchange_swaps() {
    on_two_mounts(|cluster| {
        let at = |name: &str| cluster.a().join(name);
        fs::write(at("one"), b"1")?;
        fs::write(at("two"), b"2")?;
        fs::create_dir_all(at("d"))?;
        fs::write(at("d/inside"), b"3")?;
        let no_replace = ops::rename_with(&at("one"), &at("two"), RenameFlags::NOREPLACE);
        expect_errno("NOREPLACE", Errno::EXIST, no_replace)?;
        ops::rename_with(&at("one"), &at("free"), RenameFlags::NOREPLACE)?;
        ops::rename_with(&at("free"), &at("two"), RenameFlags::EXCHANGE)?;
        ensure!(fs::read(at("free"))? == b"2" && fs::read(at("two"))? == b"1", "files are swapped");
        ops::rename_with(&at("free"), &at("d"), RenameFlags::EXCHANGE)?;
        ensure!(fs::read(at("d"))? == b"2" && fs::read(at("free/inside"))? == b"3", "file and directory");
        let missing = ops::rename_with(&at("free"), &at("no"), RenameFlags::EXCHANGE);
        expect_errno("EXCHANGE with nothing", Errno::NOENT, missing)?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn a_renamed_directory_takes_everything_below_along() {
    on_two_mounts(|cluster| {
        for index in 0..50 {
            let directory = cluster.a().join(format!("old/{}", index % 5));
            fs::create_dir_all(&directory)?;
            fs::write(directory.join(format!("file {index}")), vec![index; 1000])?;
        }
        cluster.expect_equal_trees()?;
        fs::rename(cluster.a().join("old"), cluster.a().join("new"))?;
        eventually("b shows the new name only", || {
            Ok(cluster.b().join("new/4/file 49").try_exists()? && !cluster.b().join("old").try_exists()?)
        })?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn hard_links_are_one_file_under_several_names() {
    on_two_mounts(|cluster| {
        let at = |name: &str| cluster.a().join(name);
        fs::create_dir(at("d"))?;
        fs::write(at("first"), b"before")?;
        fs::hard_link(at("first"), at("second"))?;
        fs::hard_link(at("first"), at("d/third"))?;
        let inode = |name: &str| -> Result<(u64, u64)> {
            let metadata = fs::metadata(at(name))?;
            Ok((metadata.ino(), metadata.nlink()))
        };
        ensure!(inode("first")? == inode("d/third")? && inode("first")?.1 == 3, "one inode, three links");
        expect_error("a link to a directory", Errno::PERM, fs::hard_link(at("d"), at("e")))?;
        expect_error("a link over a name", Errno::EXIST, fs::hard_link(at("first"), at("second")))?;
        fs::write(at("second"), b"after")?;
        ensure!(fs::read(at("d/third"))? == b"after", "one content");
        cluster.expect_equal_trees()?;
        eventually("b reads it under its third name", || {
            Ok(fs::read(cluster.b().join("d/third"))? == b"after")
        })?;
        fs::remove_file(at("first"))?;
        ensure!(inode("second")?.1 == 2, "two links are left");
        cluster.expect_equal_trees()?;
        fs::write(cluster.b().join("second"), b"from b")?;
        eventually("a reads it", || Ok(fs::read(at("d/third"))? == b"from b"))
    });
}

#[test]
fn symlinks_keep_their_bytes_and_may_lead_nowhere() {
    on_two_mounts(|cluster| {
        let at = |name: &str| cluster.a().join(name);
        symlink("nowhere", at("dangling"))?;
        symlink(Path::new(std::ffi::OsStr::from_bytes(&[0xFF; 4000])), at("long"))?;
        fs::write(at("target"), b"content")?;
        symlink("target", at("link"))?;
        ensure!(fs::read(at("link"))? == b"content", "it is followed");
        ensure!(fs::symlink_metadata(at("link"))?.len() == 6, "its size is its target's length");
        expect_error("an existing name", Errno::EXIST, symlink("x", at("link")))?;
        expect_error("readlink of a file", Errno::INVAL, fs::read_link(at("target")))?;
        symlink("self", at("self"))?;
        expect_error("a loop", Errno::LOOP, fs::read(at("self")))?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn fifos_sockets_and_devices_are_made_and_work() {
    on_two_mounts(|cluster| {
        let at = |name: &str| cluster.a().join(name);
        ops::mknod(&at("fifo"), FileType::Fifo, 0)?;
        ops::mknod(&at("plain"), FileType::RegularFile, 0)?;
        let listener = UnixListener::bind(at("socket"))?;
        UnixStream::connect(at("socket")).context("connect through a socket in the mount")?;
        drop(listener);
        let writer = {
            let path = at("fifo");
            std::thread::spawn(move || fs::write(path, b"through the fifo"))
        };
        ensure!(fs::read(at("fifo"))? == b"through the fifo", "a fifo carries bytes");
        writer.join().ok().context("writer")??;
        if machine::is_root() {
            ops::mknod(&at("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3))?;
            ops::mknod(&at("disk"), FileType::BlockDevice, rustix::fs::makedev(259, 70_000))?;
        }
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn extended_attributes_are_kept_byte_for_byte() {
    on_two_mounts(|cluster| {
        let (file, directory) = (cluster.a().join("file"), cluster.a().join("directory"));
        fs::write(&file, b"x")?;
        fs::create_dir(&directory)?;
        for path in [&file, &directory] {
            ops::set_xattr(path, "user.binary", b"\0\xFF\0", XattrFlags::empty())?;
            ops::set_xattr(path, "user.empty", b"", XattrFlags::CREATE)?;
            ops::set_xattr(path, "user.gone", b"x", XattrFlags::empty())?;
            ops::set_xattr(path, "user.long", &[b'l'; 4000], XattrFlags::empty())?;
            rustix::fs::removexattr(path.as_path(), "user.gone")?;
            let again = ops::set_xattr(path, "user.empty", b"", XattrFlags::CREATE);
            expect_errno("CREATE of one that is there", Errno::EXIST, again)?;
            let absent = ops::set_xattr(path, "user.absent", b"", XattrFlags::REPLACE);
            expect_errno("REPLACE of one that is not", Errno::NODATA, absent)?;
            expect_errno("get of one that is not", Errno::NODATA, ops::xattr(path, "user.gone"))?;
            let mut short = [0_u8; 2];
            let small = rustix::fs::getxattr(path.as_path(), "user.binary", &mut short);
            expect_errno("a buffer that is too small", Errno::RANGE, small)?;
            ensure!(ops::xattrs(path)?.len() == 3, "{:?}", ops::xattrs(path)?);
        }
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

// S25
#[test]
fn own_attributes_are_read_only_and_not_listed() {
    on_two_mounts(|cluster| {
        let file = cluster.a().join("file");
        fs::write(&file, b"x")?;
        cluster.settle()?;
        ensure!(ops::state(&file)? == "synced", "{}", ops::state(&file)?);
        ensure!(ops::xattrs(&file)?.is_empty(), "copies stay clean: {:?}", ops::xattrs(&file)?);
        let set = ops::set_xattr(&file, "user.dfs.state", b"synced", XattrFlags::empty());
        ensure!(set.is_err(), "user.dfs.state can't be set");
        Ok(())
    });
}

// S21
#[test]
fn names_of_255_arbitrary_bytes_are_kept_and_longer_ones_refused() {
    on_two_mounts(|cluster| {
        for name in dfs_tests::fixture::awkward_file_names() {
            let path = cluster.a().join(&name);
            fs::write(&path, name.as_bytes()).with_context(|| format!("write {name:?}"))?;
            let renamed = cluster.a().join("renamed");
            fs::rename(&path, &renamed)?;
            fs::rename(&renamed, &path)?;
        }
        let long = "x".repeat(256);
        expect_error("256 bytes", Errno::NAMETOOLONG, fs::write(cluster.a().join(&long), b""))?;
        expect_error("256 bytes", Errno::NAMETOOLONG, fs::create_dir(cluster.a().join(&long)))?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn a_name_that_was_missing_is_found_once_another_mount_made_it() {
    on_two_mounts(|cluster| {
        for round in 0..20 {
            let name = format!("later {round}");
            ensure!(!cluster.b().join(&name).try_exists()?, "nothing is there yet");
            fs::write(cluster.a().join(&name), name.as_bytes())?;
            eventually("b finds it", || Ok(fs::read(cluster.b().join(&name))? == name.as_bytes()))?;
        }
        Ok(())
    });
}

#[test]
fn statfs_tells_sizes_that_can_be_true() {
    on_two_mounts(|cluster| {
        let space = rustix::fs::statvfs(cluster.a())?;
        ensure!(space.f_bsize >= 512 && space.f_namemax == 255, "block size, name length");
        ensure!(space.f_blocks > 0 && space.f_bavail <= space.f_blocks, "blocks");
        cluster.server.kill();
        ensure!(rustix::fs::statvfs(cluster.a())?.f_blocks > 0, "and without a server");
        Ok(())
    });
}

// S23
#[test]
fn inode_numbers_stay_over_a_restart() {
    on_two_mounts(|cluster| {
        fs::create_dir(cluster.a().join("d"))?;
        for index in 0..100 {
            fs::write(cluster.a().join(format!("d/{index}")), b"x")?;
        }
        let numbers = |root: &Path| -> Result<Vec<u64>> {
            let paths = (0..100).map(|index| root.join(format!("d/{index}")));
            paths.chain([root.to_owned(), root.join("d")]).map(|path| Ok(fs::metadata(path)?.ino())).collect()
        };
        cluster.settle()?;
        let before = (numbers(cluster.a())?, numbers(cluster.b())?);
        for mount in &mut cluster.mounts {
            mount.restart()?;
        }
        ensure!(before == (numbers(cluster.a())?, numbers(cluster.b())?), "some changed");
        Ok(())
    });
}

#[test]
fn a_read_only_mount_shows_everything_and_refuses_changes() {
    run(&Setup::mounts(2).unstarted(), |cluster| {
        cluster.mounts[1].arguments.push("--read-only".into());
        for mount in &mut cluster.mounts {
            mount.start()?;
        }
        fs::write(cluster.a().join("file"), b"content")?;
        let file = cluster.b().join("file");
        eventually("b reads it", || Ok(fs::read(&file)? == b"content"))?;
        expect_error("write", Errno::ROFS, fs::OpenOptions::new().append(true).open(&file))?;
        expect_error("create", Errno::ROFS, File::create(cluster.b().join("new")))?;
        expect_error("unlink", Errno::ROFS, fs::remove_file(&file))?;
        expect_error("mkdir", Errno::ROFS, fs::create_dir(cluster.b().join("d")))?;
        Ok(())
    });
}

#[test]
fn permissions_hold_for_other_users() {
    let setup = Setup::mounts(1).needs(&[Need::Root]).mount_arguments(&["--allow-other"]);
    run(&setup, |cluster| {
        use std::os::unix::process::CommandExt;
        dfs_tests::user::open_to_all(cluster.directory())?;
        let at = |name: &str| cluster.a().join(name);
        fs::set_permissions(cluster.a(), fs::Permissions::from_mode(0o755))?;
        fs::create_dir(at("closed"))?;
        fs::write(at("closed/secret"), b"secret")?;
        fs::set_permissions(at("closed"), fs::Permissions::from_mode(0o700))?;
        fs::write(at("open"), b"open")?;
        fs::create_dir(at("sticky"))?;
        fs::set_permissions(at("sticky"), fs::Permissions::from_mode(0o1777))?;
        let script = "test \"$(cat open)\" = open && ! cat closed/secret && ! touch new && ! touch open \
                      && echo mine > sticky/mine && test \"$(stat -c %u sticky/mine)\" = 65534";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).current_dir(cluster.a());
        command.uid(dfs_tests::user::NOBODY).gid(dfs_tests::user::NOBODY);
        dfs_tests::process::succeed(&mut command, std::time::Duration::from_secs(20))?;
        Ok(())
    });
}

#[test]
fn names_opened_relative_to_a_directory_follow_its_rename() {
    on_two_mounts(|cluster| {
        fs::create_dir(cluster.a().join("before"))?;
        let directory = File::open(cluster.a().join("before"))?;
        fs::rename(cluster.a().join("before"), cluster.a().join("after"))?;
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        drop(rustix::fs::openat(&directory, "inside", flags, mode)?);
        rustix::fs::mkdirat(&directory, "below", rustix::fs::Mode::from_raw_mode(0o755))?;
        rustix::fs::unlinkat(&directory, "below", AtFlags::REMOVEDIR)?;
        directory.sync_all().context("fsync of a directory")?;
        ensure!(cluster.a().join("after/inside").try_exists()?, "made in the renamed directory");
        cluster.expect_equal_trees()?;
        Ok(())
    });
}

#[test]
fn all_of_this_works_for_an_ordinary_user() -> Result<()> {
    dfs_tests::user::rerun_suite_as_ordinary_user("all_of_this_works_for_an_ordinary_user")
}
