//! The rows of the conflict table as files and what is done to them.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Result, ensure};
use rustix::fs::XattrFlags;

use super::{First, Listing, SECOND, expect, ops};

/// One row: what both sides start with, what each does, and what there is in the end.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) base: fn(&Path) -> Result<()>,
    pub(super) left: fn(&Path) -> Result<()>,
    pub(super) right: fn(&Path) -> Result<()>,
    pub(super) check: fn(&Listing, First) -> Result<()>,
}

fn nothing(_: &Path) -> Result<()> {
    Ok(())
}

fn put(directory: &Path, name: &str, text: &str) -> Result<()> {
    Ok(fs::write(directory.join(name), text)?)
}

fn base_file(directory: &Path) -> Result<()> {
    put(directory, "f.txt", "base")
}

/// A text of many chunks, with a few bytes of it replaced.
fn long(at: usize, bytes: &str) -> String {
    let mut text: String = (0..70_000).map(|number| format!("{number:x}\n")).collect();
    text.replace_range(at..at + bytes.len(), bytes);
    text
}

fn edit(directory: &Path, name: &str, at: u64, bytes: &str) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).open(directory.join(name))?;
    Ok(file.write_all_at(bytes.as_bytes(), at)?)
}

/// Both contents are there: the first arrival's under the name.
fn kept_both(found: &Listing, first: First) -> Result<()> {
    let (under_name, in_copy) = if first == First::Left { ("left", "other") } else { ("other", "left") };
    expect(found, &[("f.txt", under_name), (&format!("f (conflict {SECOND}).txt"), in_copy)])
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn set(path: &Path, name: &str, value: &str) -> Result<()> {
    Ok(ops::set_xattr(path, name, value.as_bytes(), XattrFlags::empty())?)
}

fn rename(directory: &Path, from: &str, to: &str) -> Result<()> {
    Ok(fs::rename(directory.join(from), directory.join(to))?)
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "edit, edit",
        base: base_file,
        left: |d| put(d, "f.txt", "left"),
        right: |d| put(d, "f.txt", "other"),
        check: kept_both,
    },
    Row {
        name: "edit, edit of the same length",
        base: base_file,
        left: |d| put(d, "f.txt", "left"),
        right: |d| put(d, "f.txt", "rite"),
        check: |found, first| {
            let (one, two) = if first == First::Left { ("left", "rite") } else { ("rite", "left") };
            expect(found, &[("f.txt", one), (&format!("f (conflict {SECOND}).txt"), two)])
        },
    },
    Row {
        name: "edit in place, edit in place elsewhere in a long file",
        base: |d| put(d, "f.txt", &long(0, "")),
        left: |d| edit(d, "f.txt", 100_000, "left"),
        right: |d| edit(d, "f.txt", 300_000, "other"),
        check: |found, first| {
            let (left, right) = (long(100_000, "left"), long(300_000, "other"));
            let (one, two) = if first == First::Left { (&left, &right) } else { (&right, &left) };
            expect(found, &[("f.txt", one), (&format!("f (conflict {SECOND}).txt"), two)])
        },
    },
    Row {
        name: "the same edit twice",
        base: base_file,
        left: |d| put(d, "f.txt", "same"),
        right: |d| put(d, "f.txt", "same"),
        check: |found, _| expect(found, &[("f.txt", "same")]),
    },
    Row {
        name: "edit, emptied",
        base: base_file,
        left: |d| put(d, "f.txt", "left"),
        right: |d| put(d, "f.txt", ""),
        check: |found, first| {
            let (one, two) = if first == First::Left { ("left", "") } else { ("", "left") };
            expect(found, &[("f.txt", one), (&format!("f (conflict {SECOND}).txt"), two)])
        },
    },
    Row {
        name: "saved by rename, edit",
        base: base_file,
        left: |d| {
            put(d, ".f.new", "left")?;
            rename(d, ".f.new", "f.txt")
        },
        right: |d| put(d, "f.txt", "other"),
        check: |found, _| {
            ensure!(found.len() == 2, "two versions are wanted");
            let mut texts: Vec<_> = found.iter().map(|(_, text)| text.as_str()).collect();
            texts.sort_unstable();
            ensure!(texts == ["left", "other"], "both contents are wanted");
            ensure!(found.iter().any(|(name, _)| name == "f.txt"), "the name stays");
            Ok(())
        },
    },
    Row {
        name: "edit, delete",
        base: base_file,
        left: |d| put(d, "f.txt", "left"),
        right: |d| Ok(fs::remove_file(d.join("f.txt"))?),
        check: |found, _| expect(found, &[("f.txt", "left")]),
    },
    Row {
        name: "edit, delete with the directory",
        base: |d| {
            fs::create_dir_all(d.join("x/y"))?;
            put(d, "x/y/f.txt", "base")
        },
        left: |d| put(d, "x/y/f.txt", "left"),
        right: |d| Ok(fs::remove_dir_all(d.join("x"))?),
        check: |found, _| expect(found, &[("x", "/"), ("x/y", "/"), ("x/y/f.txt", "left")]),
    },
    Row {
        name: "chmod, delete",
        base: base_file,
        left: |d| mode(&d.join("f.txt"), 0o600),
        right: |d| Ok(fs::remove_file(d.join("f.txt"))?),
        check: |found, _| expect(found, &[]),
    },
    Row {
        name: "delete, delete",
        base: base_file,
        left: |d| Ok(fs::remove_file(d.join("f.txt"))?),
        right: |d| Ok(fs::remove_file(d.join("f.txt"))?),
        check: |found, _| expect(found, &[]),
    },
    Row {
        name: "create, create",
        base: nothing,
        left: |d| put(d, "f.txt", "left"),
        right: |d| put(d, "f.txt", "other"),
        check: kept_both,
    },
    Row {
        name: "the same file made twice",
        base: nothing,
        left: |d| put(d, "f.txt", "same"),
        right: |d| put(d, "f.txt", "same"),
        check: |found, _| expect(found, &[("f.txt", "same")]),
    },
    Row {
        name: "the same symlink made twice, and different ones",
        base: nothing,
        left: |d| {
            symlink("same", d.join("s"))?;
            Ok(symlink("left", d.join("l"))?)
        },
        right: |d| {
            symlink("same", d.join("s"))?;
            Ok(symlink("other", d.join("l"))?)
        },
        check: |found, first| {
            let (one, two) = if first == First::Left { ("left", "other") } else { ("other", "left") };
            let copy = format!("l (conflict {SECOND})");
            expect(found, &[("s", "-> same"), ("l", &format!("-> {one}")), (&copy, &format!("-> {two}"))])
        },
    },
    Row {
        name: "two directories of one name",
        base: nothing,
        left: |d| {
            fs::create_dir_all(d.join("x/deep"))?;
            put(d, "x/deep/left", "left")?;
            put(d, "x/both", "left")
        },
        right: |d| {
            fs::create_dir_all(d.join("x/deep"))?;
            put(d, "x/deep/right", "right")?;
            put(d, "x/both", "other")
        },
        check: |found, first| {
            let (one, two) = if first == First::Left { ("left", "other") } else { ("other", "left") };
            let copy = format!("x/both (conflict {SECOND})");
            let kept = [("x/both", one), (copy.as_str(), two)];
            let rest = [("x", "/"), ("x/deep", "/"), ("x/deep/left", "left"), ("x/deep/right", "right")];
            expect(found, &[&kept[..], &rest[..]].concat())
        },
    },
    Row {
        name: "a file and a directory of one name",
        base: nothing,
        left: |d| put(d, "x", "left"),
        right: |d| {
            fs::create_dir(d.join("x"))?;
            put(d, "x/in", "other")
        },
        check: |found, first| {
            let copy = format!("x (conflict {SECOND})");
            let inside = format!("{copy}/in");
            match first {
                First::Left => expect(found, &[("x", "left"), (&copy, "/"), (&inside, "other")]),
                First::Right => expect(found, &[("x", "/"), ("x/in", "other"), (&copy, "left")]),
            }
        },
    },
    Row {
        name: "add under a directory, delete it",
        base: |d| {
            fs::create_dir_all(d.join("x/y"))?;
            put(d, "x/y/old", "old")
        },
        left: |d| put(d, "x/y/added", "added"),
        right: |d| Ok(fs::remove_dir_all(d.join("x"))?),
        check: |found, _| expect(found, &[("x", "/"), ("x/y", "/"), ("x/y/added", "added")]),
    },
    Row {
        name: "move, move elsewhere",
        base: |d| {
            base_file(d)?;
            fs::create_dir_all(d.join("dir"))?;
            put(d, "dir/in", "in")
        },
        left: |d| {
            rename(d, "f.txt", "left.txt")?;
            rename(d, "dir", "left")
        },
        right: |d| {
            rename(d, "f.txt", "right.txt")?;
            rename(d, "dir", "right")
        },
        check: |found, first| match first {
            First::Left => expect(found, &[("left.txt", "base"), ("left", "/"), ("left/in", "in")]),
            First::Right => expect(found, &[("right.txt", "base"), ("right", "/"), ("right/in", "in")]),
        },
    },
    Row {
        name: "moved under each other",
        base: |d| {
            for name in ["x", "y"] {
                fs::create_dir(d.join(name))?;
                put(d, &format!("{name}/in {name}"), name)?;
            }
            Ok(())
        },
        left: |d| rename(d, "x", "y/x"),
        right: |d| rename(d, "y", "x/y"),
        check: |found, first| match first {
            First::Left => expect(found, &[("y", "/"), ("y/in y", "y"), ("y/x", "/"), ("y/x/in x", "x")]),
            First::Right => expect(found, &[("x", "/"), ("x/in x", "x"), ("x/y", "/"), ("x/y/in y", "y")]),
        },
    },
    Row {
        name: "rename onto a name, create it",
        base: base_file,
        left: |d| rename(d, "f.txt", "g.txt"),
        right: |d| put(d, "g.txt", "made"),
        check: |found, first| {
            let copy = format!("g (conflict {SECOND}).txt");
            match first {
                First::Left => expect(found, &[("g.txt", "base"), (&copy, "made")]),
                First::Right => expect(found, &[("g.txt", "made"), (&copy, "base")]),
            }
        },
    },
    Row {
        name: "rename, edit",
        base: base_file,
        left: |d| rename(d, "f.txt", "g.txt"),
        right: |d| put(d, "f.txt", "edited"),
        check: |found, _| expect(found, &[("g.txt", "edited")]),
    },
    Row {
        name: "rename, delete",
        base: base_file,
        left: |d| rename(d, "f.txt", "g.txt"),
        right: |d| Ok(fs::remove_file(d.join("f.txt"))?),
        check: |found, _| expect(found, &[("g.txt", "base")]),
    },
    Row {
        name: "rename a directory, edit in it",
        base: |d| {
            fs::create_dir(d.join("x"))?;
            put(d, "x/f", "base")
        },
        left: |d| rename(d, "x", "y"),
        right: |d| {
            put(d, "x/f", "edited")?;
            put(d, "x/new", "new")
        },
        check: |found, _| expect(found, &[("y", "/"), ("y/f", "edited"), ("y/new", "new")]),
    },
    Row {
        name: "chmod, another attribute",
        base: base_file,
        left: |d| mode(&d.join("f.txt"), 0o600),
        right: |d| set(&d.join("f.txt"), "user.right", "1"),
        check: |found, _| expect(found, &[("f.txt", "base")]),
    },
    Row {
        name: "chmod, chmod",
        base: base_file,
        left: |d| mode(&d.join("f.txt"), 0o600),
        right: |d| mode(&d.join("f.txt"), 0o640),
        check: |found, _| expect(found, &[("f.txt", "base")]),
    },
    Row {
        name: "chmod, edit",
        base: base_file,
        left: |d| {
            mode(&d.join("f.txt"), 0o600)?;
            set(&d.join("f.txt"), "user.left", "1")
        },
        right: |d| put(d, "f.txt", "edited"),
        check: |found, _| expect(found, &[("f.txt", "edited")]),
    },
    Row {
        name: "a second link, edit",
        base: base_file,
        left: |d| Ok(fs::hard_link(d.join("f.txt"), d.join("link"))?),
        right: |d| put(d, "f.txt", "edited"),
        check: |found, _| expect(found, &[("f.txt", "edited"), ("link", "edited")]),
    },
    Row {
        name: "one of two names removed, the other replaced",
        base: |d| {
            put(d, "f.txt", "base")?;
            Ok(fs::hard_link(d.join("f.txt"), d.join("link"))?)
        },
        left: |d| Ok(fs::remove_file(d.join("link"))?),
        right: |d| {
            put(d, "new", "saved")?;
            rename(d, "new", "f.txt")
        },
        // Nobody deleted the file: a name that one side took away is there again.
        check: |found, _| expect(found, &[("f.txt", "saved"), ("link", "base")]),
    },
];

/// What the listing does not show: attributes of the rows that are about them.
pub(super) fn check_attributes(name: &str, directory: &Path, first: First) -> Result<()> {
    let file = directory.join("f.txt");
    let mode = || -> Result<u32> { Ok(fs::metadata(&file)?.permissions().mode() & 0o777) };
    let has = |attribute: &str| ops::xattr(&file, attribute).is_ok_and(|value| value == b"1");
    match name {
        "chmod, another attribute" => ensure!(mode()? == 0o600 && has("user.right"), "{:o}", mode()?),
        // The later one in the server's order.
        "chmod, chmod" => {
            let wanted = if first == First::Left { 0o640 } else { 0o600 };
            ensure!(mode()? == wanted, "{:o}", mode()?);
        }
        "chmod, edit" => ensure!(mode()? == 0o600 && has("user.left"), "{:o}", mode()?),
        _ => {}
    }
    Ok(())
}
