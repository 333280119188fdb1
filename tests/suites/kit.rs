//! The kit's own tests: what judges others must be right, and each of its parts must be able to fail.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use dfs_tests::fixture::{self, AwkwardSizes};
use dfs_tests::proxy::Proxy;
use dfs_tests::random::Random;
use dfs_tests::snapshot::{differences, tree_snapshot};
use dfs_tests::source::SourceFile;
use dfs_tests::{chunk_files, eventually_within, http, machine, ops, process, user};

const SMALL: AwkwardSizes = AwkwardSizes { sparse_len: 6 << 30, random_len: 100_000, wide_entries: 50 };

/// Something done to a tree that a comparison must find.
type Change<'c> = &'c dyn Fn(&Path) -> Result<()>;

#[test]
fn a_copied_awkward_tree_is_equal_and_each_single_change_is_found() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (left, right) = (directory.path().join("left"), directory.path().join("right"));
    fixture::write_awkward_tree(&left, SMALL)?;
    fixture::copy_with_attributes(&left, &right)?;
    let wanted = tree_snapshot(&left)?;
    ensure!(wanted.len() > 300, "only {} names", wanted.len());
    let found = differences(&wanted, &tree_snapshot(&right)?);
    ensure!(found.is_empty(), "{found:#?}");

    let changes: [(&str, Change); 9] = [
        ("content", &|root| Ok(fs::write(root.join("links/empty twin"), b"x")?)),
        ("mode", &|root| set_mode(&root.join("names/CASE"), 0o600)),
        ("mtime", &|root| Ok(ops::set_times(&root.join("links/dangling"), (0, 0), (9, 9))?)),
        ("target", &|root| {
            fs::remove_file(root.join("links/up"))?;
            Ok(std::os::unix::fs::symlink("../", root.join("links/up"))?)
        }),
        ("user.more", &|root| {
            let flags = rustix::fs::XattrFlags::empty();
            Ok(ops::set_xattr(&root.join("names/case"), "user.more", b"1", flags)?)
        }),
        ("only left", &|root| Ok(fs::remove_dir(root.join("empty/3"))?)),
        ("only right", &|root| Ok(fs::create_dir(root.join("empty/new"))?)),
        ("size", &|root| Ok(fs::OpenOptions::new().write(true).open(root.join("sparse"))?.set_len(99)?)),
        ("same file as", &|root| {
            let name = root.join("links/second name");
            fs::copy(&name, root.join("links/x"))?;
            Ok(fs::rename(root.join("links/x"), name)?)
        }),
    ];
    for (word, change) in changes {
        let before = tree_snapshot(&right)?;
        change(&right).with_context(|| format!("change {word}"))?;
        let found = differences(&before, &tree_snapshot(&right)?).join("\n");
        ensure!(found.contains(word), "a change of {word} is not found in: {found}");
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

#[test]
fn content_digest_sees_one_byte_in_a_sparse_file_and_ignores_how_zeros_are_stored() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (holes, zeros) = (directory.path().join("holes"), directory.path().join("zeros"));
    fs::File::create(&holes)?.set_len(300_000)?;
    fs::write(&zeros, vec![0; 300_000])?;
    let digest = |path: &Path| dfs_tests::snapshot::content_digest(&fs::File::open(path)?);
    ensure!(digest(&holes)? == digest(&zeros)?, "holes and zeros are the same content");
    let before = digest(&holes)?;
    std::os::unix::fs::FileExt::write_all_at(&ops::open_rw(&holes)?, b"x", 299_999)?;
    ensure!(digest(&holes)? != before, "a byte at the end was not seen");
    Ok(())
}

#[test]
fn names_that_are_not_text_keep_their_bytes() -> Result<()> {
    let directory = tempfile::tempdir()?;
    for name in fixture::awkward_file_names() {
        fs::write(directory.path().join(&name), name.as_bytes())?;
    }
    let snapshot = tree_snapshot(directory.path())?;
    for name in fixture::awkward_file_names() {
        ensure!(snapshot.contains_key(name.as_bytes()), "{name:?} is missing");
    }
    Ok(())
}

/// Answers each connection by sending back what it gets.
fn echo_server() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let Ok(mut back) = stream.try_clone() else { return };
                let _peer_left = std::io::copy(&mut &stream, &mut back);
            });
        }
    });
    Ok(port)
}

fn echoes(stream: &mut TcpStream, bytes: &[u8]) -> Result<bool> {
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut back = vec![0; bytes.len()];
    Ok(stream.write_all(bytes).is_ok() && stream.read_exact(&mut back).is_ok() && back == bytes)
}

#[test]
fn the_proxy_passes_bytes_counts_them_and_can_be_cut_and_restored() -> Result<()> {
    let proxy = Proxy::start(echo_server()?)?;
    let connect = || TcpStream::connect(("127.0.0.1", proxy.port()));
    let mut stream = connect()?;
    ensure!(echoes(&mut stream, b"hello")?, "bytes must pass");
    eventually_within(Duration::from_secs(5), "both directions are counted", || {
        let passed = proxy.passed();
        Ok((passed.up == 5 && passed.down == 5).then_some(()))
    })?;
    proxy.cut();
    ensure!(!echoes(&mut stream, b"x")?, "a cut connection must be dead");
    ensure!(!echoes(&mut connect()?, b"x")?, "a new connection must be refused while cut");
    proxy.restore();
    ensure!(echoes(&mut connect()?, b"again")?, "a new connection must work when restored");
    Ok(())
}

#[test]
fn a_stalled_connection_goes_silent_without_an_end_and_new_ones_work() -> Result<()> {
    let proxy = Proxy::start(echo_server()?)?;
    let mut old = TcpStream::connect(("127.0.0.1", proxy.port()))?;
    ensure!(echoes(&mut old, b"before")?, "bytes must pass");
    proxy.stall();
    ensure!(!echoes(&mut old, b"x")?, "a stalled connection must be silent");
    old.set_nonblocking(true)?;
    let silent = old.read(&mut [0; 1]).err().map(|error| error.kind());
    ensure!(silent == Some(std::io::ErrorKind::WouldBlock), "it must not end either: {silent:?}");
    ensure!(echoes(&mut TcpStream::connect(("127.0.0.1", proxy.port()))?, b"new")?, "new ones must work");
    Ok(())
}

#[test]
fn a_limited_proxy_takes_the_time_that_the_limit_says() -> Result<()> {
    let proxy = Proxy::start(echo_server()?)?;
    proxy.limit_bytes_per_second(200_000);
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.port()))?;
    let start = Instant::now();
    ensure!(echoes(&mut stream, &[7; 25_000])?, "bytes must pass");
    ensure!(start.elapsed() >= Duration::from_millis(200), "50,000 bytes took only {:?}", start.elapsed());
    Ok(())
}

#[test]
fn replies_are_taken_apart_with_and_without_chunks() -> Result<()> {
    let plain = http::parse(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")?;
    ensure!(plain.status == 404 && plain.body == b"no", "{plain:?}");
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n";
    ensure!(http::parse(chunked)?.json()?["a"] == 1, "chunked");
    ensure!(http::parse(&chunked[..60]).is_err(), "cut short");
    Ok(())
}

#[test]
fn chunk_files_are_found_whole_named_and_split_and_a_flip_is_undone_by_a_flip() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let hash = "0123456789abcdef".repeat(4);
    fs::create_dir_all(directory.path().join("chunks/01"))?;
    fs::create_dir_all(directory.path().join("split/01"))?;
    let whole = directory.path().join("chunks/01").join(&hash);
    fs::write(&whole, b"some bytes")?;
    fs::write(directory.path().join("split/01").join(&hash[2..]), b"some bytes")?;
    fs::write(directory.path().join("metadata.sqlite"), b"no chunk")?;
    let found = chunk_files::chunk_files(directory.path())?;
    ensure!(found.len() == 2 && found.iter().all(|chunk| chunk.hash == hash), "{found:?}");
    chunk_files::flip_bit(&found[0])?;
    ensure!(fs::read(&found[0].path)? != b"some bytes", "not flipped");
    chunk_files::flip_bit(&found[0])?;
    ensure!(fs::read(&found[0].path)? == b"some bytes", "not repaired");
    Ok(())
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_gives_others() {
    let bytes = |seed| Random::new(seed).bytes(1000);
    assert_eq!(bytes(5), bytes(5));
    assert_ne!(bytes(5), bytes(6));
}

#[test]
fn a_program_that_does_not_end_is_ended_at_its_deadline() -> Result<()> {
    let start = Instant::now();
    let result = process::shell(Path::new("/"), "sleep 600", Duration::from_millis(100));
    ensure!(result.is_err() && start.elapsed() < Duration::from_secs(10), "{result:?}");
    let failed = process::shell(Path::new("/"), "echo said; false", Duration::from_secs(10));
    ensure!(failed.is_err_and(|error| format!("{error:#}").contains("said")), "its words are shown");
    Ok(())
}

#[test]
fn source_references_see_groups_and_supers_but_no_comments_strings_or_tests() -> Result<()> {
    let text = r##"
        //! crate::comment::X
        use crate::{tree, cache::{ranges as r, Entry}};
        use super::plan;
        use super::super::fs::Handle;
        fn f<'a>(x: &'a str) { let _ = '"'; crate::remote::call("crate::string::X"); }
        /* crate::block::X /* nested */ crate::block::Y */
        const RAW: &str = r#"crate::raw::"X""#;
        use tokio::{net::TcpListener, time::{self}};
        #[cfg(test)]
        mod tests { use crate::tested::X; mod deeper { use crate::tested::Y; } }
        fn after() { crate::clock::now(); }
    "##;
    let file = SourceFile {
        path: "engine/upload.rs".into(),
        module: vec!["engine".into(), "upload".into()],
        text: text.into(),
    };
    let seen: Vec<String> = file.references().iter().map(|reference| reference.path.join("::")).collect();
    for wanted in [
        "crate::tree",
        "crate::cache::ranges",
        "crate::cache::Entry",
        "crate::engine::plan",
        "crate::fs::Handle",
        "crate::remote::call",
        "tokio::net::TcpListener",
        "tokio::time::self",
        "crate::clock::now",
    ] {
        ensure!(seen.iter().any(|path| path == wanted), "{wanted} is not in {seen:?}");
    }
    ensure!(seen.len() == 9, "{seen:?}");
    Ok(())
}

#[test]
fn tests_can_be_run_as_an_ordinary_user() -> Result<()> {
    if !machine::is_root() {
        ensure!(fs::write("/dfs-test-of-root", b"").is_err(), "an ordinary user can't write to /");
        return Ok(());
    }
    if machine::skip_for("tests_can_be_run_as_an_ordinary_user", &[machine::Need::Fuse]) {
        return Ok(());
    }
    let passed = user::rerun_as_ordinary_user(&["--exact", "tests_can_be_run_as_an_ordinary_user"])?;
    ensure!(passed == 1, "{passed} passed");
    Ok(())
}

#[test]
fn a_worker_agrees_with_a_plain_disk_and_notices_what_a_crash_must_not_do() -> Result<()> {
    use dfs_tests::worker::Worker;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("work");
    let mut worker = Worker::new(path.clone(), Random::new(3))?;
    for _ in 0..400 {
        worker.step()?;
    }
    worker.verify()?;
    let files = ops::files_below(&path)?;
    ensure!(files.len() > 5, "only {} files", files.len());
    let kept = fs::read(&files[0])?;
    fs::remove_file(&files[0])?;
    ensure!(worker.verify().is_err(), "a missing file is not noticed");
    fs::write(&files[0], [&kept[..], b"x"].concat())?;
    ensure!(worker.verify().is_err(), "a longer file is not noticed");
    fs::write(&files[0], &kept)?;
    worker.verify()?;
    fs::write(path.join("from the dead"), b"x")?;
    ensure!(worker.verify().is_err(), "an unknown file is not noticed");
    Ok(())
}
