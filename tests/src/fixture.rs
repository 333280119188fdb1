//! Trees and files for tests: real sources, the awkward, and the random, each from a seed.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{FileType, XattrFlags};

use crate::random::Random;
use crate::{binaries, machine, ops, process};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const COPY_DEADLINE: Duration = Duration::from_secs(600);

/// The sizes of an awkward tree; the defaults are what CI uses.
#[derive(Clone, Copy, Debug)]
pub struct AwkwardSizes {
    /// Length of the sparse file in bytes, `DFS_TESTS_SPARSE_GIB`.
    pub sparse_len: u64,
    /// Length of the random file in bytes, `DFS_TESTS_RANDOM_MIB`.
    pub random_len: u64,
    /// Entries of the wide directory, `DFS_TESTS_WIDE_ENTRIES`.
    pub wide_entries: u64,
}

impl AwkwardSizes {
    /// CI's sizes, scaled by the environment.
    #[must_use]
    pub fn from_environment() -> Self {
        AwkwardSizes {
            sparse_len: machine::scale("DFS_TESTS_SPARSE_GIB", 5) * GIB,
            random_len: machine::scale("DFS_TESTS_RANDOM_MIB", 300) * MIB,
            wide_entries: machine::scale("DFS_TESTS_WIDE_ENTRIES", 5_000),
        }
    }
}

/// Copies the registry sources of this workspace's own dependencies with `cp -a`, whole crates until there are
/// at least `files_min` files, and returns how many there are.
///
/// # Errors
/// When the registry has too few, or the copy fails.
pub fn copy_real_sources(to: &Path, files_min: usize) -> Result<usize> {
    let mut files = 0;
    for source in dependency_sources()? {
        if files >= files_min {
            return Ok(files);
        }
        files += ops::files_below(&source)?.len();
        copy_with_attributes(&source, to)?;
    }
    ensure!(files >= files_min, "the registry holds only {files} files of our dependencies");
    Ok(files)
}

/// `cp -a FROM TO/`, exit code 0.
///
/// # Errors
/// When it fails.
pub fn copy_with_attributes(from: &Path, to: &Path) -> Result<()> {
    let mut command = std::process::Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    process::succeed(&mut command, COPY_DEADLINE)?;
    Ok(())
}

/// The unpacked sources of every registry package in Cargo.lock, as far as they are on this machine.
fn dependency_sources() -> Result<Vec<PathBuf>> {
    let lock = fs::read_to_string(binaries::workspace().join("Cargo.lock")).context("read Cargo.lock")?;
    let lock: toml::Table = lock.parse().context("parse Cargo.lock")?;
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    let registries = home.context("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    let mut sources = Vec::new();
    for registry in fs::read_dir(&registries).with_context(|| format!("list {}", registries.display()))? {
        let registry = registry?.path();
        for package in lock.get("package").and_then(toml::Value::as_array).into_iter().flatten() {
            let field = |name| package.get(name).and_then(toml::Value::as_str).unwrap_or_default();
            let source = registry.join(format!("{}-{}", field("name"), field("version")));
            if source.is_dir() {
                sources.push(source);
            }
        }
    }
    Ok(sources)
}

/// Writes `length` incompressible bytes.
///
/// # Errors
/// When the file can't be written.
pub fn write_random_file(path: &Path, length: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    let mut left = length;
    while left > 0 {
        let part = left.min(MIB);
        let bytes = random.bytes(usize::try_from(part)?);
        file.write_all(&bytes).with_context(|| format!("write {}", path.display()))?;
        left -= part;
    }
    Ok(())
}

/// Makes a sparse file with data at its start, in its middle and at its very end.
///
/// # Errors
/// When the file can't be written.
pub fn write_sparse_file(path: &Path, length: u64) -> Result<()> {
    let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.set_len(length)?;
    file.write_all_at(b"first", 0)?;
    file.write_all_at(&Random::new(7).bytes(100_000), length / 2 + 12_345)?;
    file.write_all_at(b"last", length - 4).with_context(|| format!("write {}", path.display()))
}

/// A small source tree as programs move them about: directories, files of many sizes, links.
///
/// # Errors
/// When it can't be made.
pub fn write_small_tree(root: &Path, random: &mut Random) -> Result<()> {
    for directory in 0..4 {
        let directory = root.join(format!("directory {directory}"));
        fs::create_dir_all(directory.join("below")).context("make a small tree")?;
        for file in 0..8 {
            let length = [0, 1, 100, 4095, 4096, 4097, 70_000, 300_000][file] as usize;
            fs::write(directory.join(format!("file-{file}")), random.bytes(length)).context("small tree")?;
        }
        symlink("../file-1", directory.join("below/link"))?;
        fs::hard_link(directory.join("file-2"), directory.join("below/second name"))?;
    }
    Ok(())
}

/// Makes everything that is legal and rarely thought of.
///
/// # Errors
/// When it can't be made.
pub fn write_awkward_tree(root: &Path, sizes: AwkwardSizes) -> Result<()> {
    fs::create_dir_all(root)?;
    awkward_names(root).context("awkward names")?;
    awkward_depth(root).context("deep directories")?;
    awkward_links(root).context("awkward links")?;
    awkward_attributes(root).context("awkward attributes")?;
    awkward_special(root).context("special files")?;
    let wide = root.join("wide");
    fs::create_dir(&wide)?;
    for entry in 0..sizes.wide_entries {
        let mut file = BufWriter::new(File::create(wide.join(format!("entry-{entry:06}")))?);
        if entry % 16 == 0 {
            write!(file, "content of entry {entry}")?;
        }
        file.flush()?;
    }
    write_sparse_file(&root.join("sparse"), sizes.sparse_len)?;
    write_random_file(&root.join("random"), sizes.random_len, 300)?;
    for length in [0, 1, 511, 4096, 65_535, 65_536, 65_537, 1 << 20, (4 << 20) + 1] {
        write_random_file(&root.join(format!("of {length} bytes")), length, length + 1)?;
    }
    awkward_times(root).context("awkward times")
}

/// Names that are legal on Linux and break programs that think of text.
#[must_use]
pub fn awkward_file_names() -> Vec<OsString> {
    let every_byte: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    let mut names: Vec<Vec<u8>> = vec![
        vec![b'n'; 255],
        vec![0xFF; 255],
        "ü".repeat(127).into_bytes(),
        every_byte,
        b"line\nbreak".to_vec(),
        b" leading and trailing ".to_vec(),
        b"-rf".to_vec(),
        b"...".to_vec(),
        b"..hidden".to_vec(),
        b"quote\"'`$(x)\\".to_vec(),
        b"caf\xC3\xA9".to_vec(),
        b"cafe\xCC\x81".to_vec(),
        b"caf\xE9".to_vec(),
        b"CASE".to_vec(),
        b"case".to_vec(),
        b"name (conflict nobody 2020-01-01 00.00.00).txt".to_vec(),
        b".dfs".to_vec(),
        b".git".to_vec(),
        b"file~".to_vec(),
        b".~lock.file#".to_vec(),
    ];
    names.push(b"\x01\x02\x7F".to_vec());
    names.iter().map(|name| OsStr::from_bytes(name).to_owned()).collect()
}

fn awkward_names(root: &Path) -> Result<()> {
    let directory = root.join("names");
    fs::create_dir(&directory)?;
    for name in awkward_file_names() {
        fs::write(directory.join(&name), name.as_bytes())?;
        let below = root.join("directories").join(&name);
        fs::create_dir_all(&below)?;
        fs::write(below.join("inside"), b"inside")?;
    }
    Ok(())
}

fn awkward_depth(root: &Path) -> Result<()> {
    let mut deep = root.join("deep");
    for level in 0..200 {
        deep.push(format!("l{level}"));
    }
    fs::create_dir_all(&deep)?;
    fs::write(deep.join("bottom"), b"at the bottom")?;
    for empty in 0..50 {
        fs::create_dir_all(root.join(format!("empty/{empty}")))?;
    }
    Ok(())
}

fn awkward_links(root: &Path) -> Result<()> {
    let directory = root.join("links");
    fs::create_dir_all(directory.join("other"))?;
    symlink("nowhere/at all", directory.join("dangling"))?;
    symlink("loop", directory.join("loop"))?;
    symlink("..", directory.join("up"))?;
    symlink(OsStr::from_bytes(&vec![b't'; 4095]), directory.join("long"))?;
    symlink(OsStr::from_bytes(b"bytes \xFF\xFE"), directory.join("bytes"))?;
    fs::write(directory.join("first name"), b"one file, four names")?;
    for name in ["second name", "other/third name", "other/fourth name"] {
        fs::hard_link(directory.join("first name"), directory.join(name))?;
    }
    fs::write(directory.join("empty twin"), b"")?;
    fs::hard_link(directory.join("empty twin"), directory.join("other/empty twin"))?;
    Ok(())
}

fn awkward_attributes(root: &Path) -> Result<()> {
    let directory = root.join("attributes");
    fs::create_dir(&directory)?;
    for mode in [0o0000, 0o0200, 0o0400, 0o0444, 0o0777, 0o4755, 0o2755, 0o6711] {
        let path = directory.join(format!("mode {mode:04o}"));
        fs::write(&path, format!("{mode:o}"))?;
        if machine::is_root() {
            std::os::unix::fs::chown(&path, Some(1234 + mode), Some(4321))?;
        }
        let readable = if machine::is_root() { mode } else { mode | 0o400 };
        fs::set_permissions(&path, fs::Permissions::from_mode(readable))?;
    }
    for mode in [0o0700, 0o1777, 0o2775, 0o0711] {
        let path = directory.join(format!("directory {mode:04o}"));
        fs::create_dir(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    let path = directory.join("xattrs");
    fs::write(&path, b"with attributes")?;
    for (name, value) in [
        ("user.plain", &b"text"[..]),
        ("user.binary", &b"\x00\x01\xFF\x00"[..]),
        ("user.empty", &b""[..]),
        ("user.long", &[b'v'; 2000][..]),
    ] {
        ops::set_xattr(&path, name, value, XattrFlags::empty())?;
        ops::set_xattr(&directory, name, value, XattrFlags::empty())?;
    }
    Ok(())
}

fn awkward_special(root: &Path) -> Result<()> {
    let directory = root.join("special");
    fs::create_dir(&directory)?;
    ops::mknod(&directory.join("fifo"), FileType::Fifo, 0)?;
    // A socket's path is limited to 107 bytes, so it is bound elsewhere and moved here, if the disk is the same.
    let socket = std::env::temp_dir().join(format!("dfs-socket-{}", std::process::id()));
    drop(UnixListener::bind(&socket)?);
    if fs::rename(&socket, directory.join("socket")).is_err() {
        fs::remove_file(&socket)?;
        ops::mknod(&directory.join("socket"), FileType::Socket, 0)?;
    }
    if machine::is_root() {
        ops::mknod(&directory.join("null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3))?;
        ops::mknod(&directory.join("block"), FileType::BlockDevice, rustix::fs::makedev(7, 1_000))?;
    }
    Ok(())
}

fn awkward_times(root: &Path) -> Result<()> {
    let directory = root.join("times");
    fs::create_dir(&directory)?;
    for (name, seconds, nanoseconds) in [
        ("epoch", 0, 0),
        ("before the epoch", -86_400 * 365, 1),
        ("last nanosecond", 1_700_000_000, 999_999_999),
        ("beyond 2038", 4_102_444_800, 123_456_789),
    ] {
        let path = directory.join(name);
        fs::write(&path, name)?;
        ops::set_times(&path, (seconds, nanoseconds), (seconds, nanoseconds))?;
    }
    symlink("epoch", directory.join("link"))?;
    ops::set_times(&directory.join("link"), (5, 5), (1_000_000_000, 5))?;
    ops::set_times(&root.join("empty/7"), (7, 7), (1_234_567_890, 987_654_321))?;
    ops::set_times(&directory, (1, 1), (1_111_111_111, 111_111_111))?;
    Ok(())
}
