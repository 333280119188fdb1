//! A writer that knows what was acknowledged to it, and so can tell what a crash may have changed.
//!
//! It works in a directory that nobody else touches. Before each operation it notes every state that an
//! interruption may leave; afterwards the operation is acknowledged and only its result is allowed.
//!
//! Invariant: outside of the operation that was interrupted, the directory is exactly what the model says.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::ops;
use crate::random::Random;

const FILES_MAX: usize = 60;
const BLOCK_LEN: usize = 4096;

/// One name in the worker's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A file with its content.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A symlink with its target.
    Link(String),
}

/// What a name may be after an interruption.
#[derive(Clone, Debug)]
enum Allowed {
    Absent,
    Exactly(Item),
    /// A file that is a beginning of these bytes, at least so long.
    BeginningOf(Vec<u8>, usize),
    /// A file of which each byte is from the one or the other.
    MixOf(Vec<u8>, Vec<u8>),
}

type State = BTreeMap<String, Allowed>;
/// The states that an interrupted operation may leave; one of them must fit.
type Outcomes = Vec<State>;

/// The writer and its model.
pub struct Worker {
    directory: PathBuf,
    random: Random,
    items: BTreeMap<String, Item>,
    interrupted: Option<(String, Outcomes)>,
    counter: u64,
}

impl Worker {
    /// A worker for the new directory `directory`.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(directory: PathBuf, random: Random) -> Result<Worker> {
        fs::create_dir_all(&directory).with_context(|| format!("make {}", directory.display()))?;
        Ok(Worker { directory, random, items: BTreeMap::new(), interrupted: None, counter: 0 })
    }

    /// Does one operation to its end.
    ///
    /// # Errors
    /// When it was interrupted; [`Worker::verify`] must come next.
    pub fn step(&mut self) -> Result<()> {
        let files = self.items.values().filter(|item| matches!(item, Item::File(_))).count();
        let choice = if files >= FILES_MAX { 7 } else { self.random.below(12) };
        match choice {
            0..=2 => self.create(50_000),
            3 => self.create(3_000_000),
            4 => self.append(),
            5 | 6 => self.save(),
            7 => self.unlink(),
            8 => self.rename(),
            9 => self.overwrite(),
            10 => self.truncate(),
            _ => self.directories_and_links(),
        }
    }

    /// How many operations were begun.
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.counter
    }

    /// Compares the directory with the model, and takes over what the interrupted operation left.
    ///
    /// # Errors
    /// When something acknowledged is missing, torn or back from the dead.
    pub fn verify(&mut self) -> Result<()> {
        let mut seen = BTreeMap::new();
        read_items(&self.directory, "", &mut seen)?;
        let mut wanted = self.items.clone();
        if let Some((operation, outcomes)) = self.interrupted.take() {
            let outcome = outcomes.iter().find(|state| fits(state, &seen));
            let Some(outcome) = outcome else {
                let touched: Vec<&String> = outcomes.iter().flat_map(BTreeMap::keys).collect();
                let found: Vec<String> = touched.iter().map(|name| brief(name, seen.get(*name))).collect();
                let before: Vec<String> =
                    touched.iter().map(|name| brief(name, self.items.get(*name))).collect();
                bail!("{operation} left what it must not: {found:?}; before: {before:?}");
            };
            for name in outcome.keys() {
                wanted.remove(name);
                if let Some(item) = seen.get(name) {
                    wanted.insert(name.clone(), item.clone());
                }
            }
        }
        for name in wanted.keys().chain(seen.keys()) {
            let (before, now) = (wanted.get(name), seen.get(name));
            ensure!(
                before == now,
                "acknowledged {}, found {}{}",
                brief(name, before),
                brief(name, now),
                where_different(before, now)
            );
        }
        self.items = wanted;
        Ok(())
    }

    /// Notes what an interruption of `operation` may leave, does it, and notes that it was acknowledged.
    fn acknowledged(
        &mut self,
        operation: &str,
        outcomes: Outcomes,
        result: &[(String, Option<Item>)],
        work: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        self.interrupted = Some((operation.to_owned(), outcomes));
        work(&self.directory).with_context(|| operation.to_owned())?;
        self.interrupted = None;
        for (name, item) in result {
            match item {
                Some(item) => self.items.insert(name.clone(), item.clone()),
                None => self.items.remove(name),
            };
        }
        Ok(())
    }

    fn new_name(&mut self, kind: &str) -> String {
        self.counter += 1;
        let name = format!("{kind}-{}", self.counter);
        let directories: Vec<String> = self.names(|item| *item == Item::Directory);
        if directories.is_empty() || self.random.below(3) == 0 {
            return name;
        }
        format!("{}/{name}", self.random.pick(&directories))
    }

    fn names(&self, wanted: impl Fn(&Item) -> bool) -> Vec<String> {
        self.items.iter().filter(|(_, item)| wanted(item)).map(|(name, _)| name.clone()).collect()
    }

    fn some_file(&mut self) -> Option<(String, Vec<u8>)> {
        let names = self.names(|item| matches!(item, Item::File(_)));
        if names.is_empty() {
            return None;
        }
        let name = self.random.pick(&names).clone();
        match self.items.get(&name) {
            Some(Item::File(bytes)) => Some((name, bytes.clone())),
            _ => None,
        }
    }

    fn create(&mut self, length_max: u64) -> Result<()> {
        let name = self.new_name("file");
        let length = self.random.below(length_max) as usize;
        let bytes = self.random.bytes(length);
        let is_synced = self.random.below(2) == 0;
        let outcomes = vec![
            State::from([(name.clone(), Allowed::Absent)]),
            State::from([(name.clone(), Allowed::BeginningOf(bytes.clone(), 0))]),
        ];
        let result = [(name.clone(), Some(Item::File(bytes.clone())))];
        self.acknowledged(&format!("create {name}"), outcomes, &result, |directory| {
            let mut file = File::create_new(directory.join(&name))?;
            for part in bytes.chunks(100_000) {
                file.write_all(part)?;
            }
            if is_synced {
                file.sync_all()?;
            }
            Ok(())
        })
    }

    fn append(&mut self) -> Result<()> {
        let Some((name, old)) = self.some_file() else { return self.create(1000) };
        let length = 1 + self.random.below(9000) as usize;
        let added = self.random.bytes(length);
        let full = [old.clone(), added.clone()].concat();
        let outcomes = vec![State::from([(name.clone(), Allowed::BeginningOf(full.clone(), old.len()))])];
        let result = [(name.clone(), Some(Item::File(full)))];
        self.acknowledged(&format!("append to {name}"), outcomes, &result, |directory| {
            OpenOptions::new().append(true).open(directory.join(&name))?.write_all(&added)?;
            Ok(())
        })
    }

    /// As editors do: a new file, flushed, renamed over the old one.
    fn save(&mut self) -> Result<()> {
        let Some((name, old)) = self.some_file() else { return self.create(1000) };
        self.counter += 1;
        let temporary = format!(".save-{}", self.counter);
        let length = self.random.below(40_000) as usize;
        let new = self.random.bytes(length);
        let state = |temporary_is: Allowed, name_is: &[u8]| {
            let item = Allowed::Exactly(Item::File(name_is.to_vec()));
            State::from([(temporary.clone(), temporary_is), (name.clone(), item)])
        };
        let outcomes = vec![
            state(Allowed::Absent, &old),
            state(Allowed::BeginningOf(new.clone(), 0), &old),
            state(Allowed::Absent, &new),
        ];
        let result = [(name.clone(), Some(Item::File(new.clone())))];
        self.acknowledged(&format!("save {name}"), outcomes, &result, |directory| {
            ops::write_synced(&directory.join(&temporary), &new)?;
            Ok(fs::rename(directory.join(&temporary), directory.join(&name))?)
        })
    }

    fn unlink(&mut self) -> Result<()> {
        let Some((name, old)) = self.some_file() else { return self.create(1000) };
        let outcomes = vec![
            State::from([(name.clone(), Allowed::Exactly(Item::File(old)))]),
            State::from([(name.clone(), Allowed::Absent)]),
        ];
        self.acknowledged(&format!("unlink {name}"), outcomes, &[(name.clone(), None)], |directory| {
            Ok(fs::remove_file(directory.join(&name))?)
        })
    }

    fn rename(&mut self) -> Result<()> {
        let Some((from, bytes)) = self.some_file() else { return self.create(1000) };
        let to = self.new_name("moved");
        let here = || Allowed::Exactly(Item::File(bytes.clone()));
        let outcomes = vec![
            State::from([(from.clone(), here()), (to.clone(), Allowed::Absent)]),
            State::from([(from.clone(), Allowed::Absent), (to.clone(), here())]),
        ];
        let result = [(from.clone(), None), (to.clone(), Some(Item::File(bytes.clone())))];
        self.acknowledged(&format!("rename {from} to {to}"), outcomes, &result, |directory| {
            Ok(fs::rename(directory.join(&from), directory.join(&to))?)
        })
    }

    fn overwrite(&mut self) -> Result<()> {
        let Some((name, old)) = self.some_file() else { return self.create(1000) };
        if old.is_empty() {
            return self.append();
        }
        let offset = self.random.below(old.len() as u64) as usize;
        let block = self.random.bytes(BLOCK_LEN.min(old.len() - offset));
        let mut new = old.clone();
        new[offset..offset + block.len()].copy_from_slice(&block);
        let outcomes = vec![State::from([(name.clone(), Allowed::MixOf(old, new.clone()))])];
        let result = [(name.clone(), Some(Item::File(new)))];
        self.acknowledged(&format!("overwrite in {name}"), outcomes, &result, |directory| {
            let file = OpenOptions::new().write(true).open(directory.join(&name))?;
            file.write_all_at(&block, offset as u64)?;
            Ok(file.sync_data()?)
        })
    }

    fn truncate(&mut self) -> Result<()> {
        let Some((name, old)) = self.some_file() else { return self.create(1000) };
        let mut new = old.clone();
        new.resize(self.random.below(30_000) as usize, 0);
        let either =
            |bytes: &[u8]| State::from([(name.clone(), Allowed::Exactly(Item::File(bytes.to_vec())))]);
        let outcomes = vec![either(&old), either(&new)];
        let result = [(name.clone(), Some(Item::File(new.clone())))];
        self.acknowledged(&format!("truncate {name}"), outcomes, &result, |directory| {
            let file = OpenOptions::new().write(true).open(directory.join(&name))?;
            Ok(file.set_len(new.len() as u64)?)
        })
    }

    fn directories_and_links(&mut self) -> Result<()> {
        let top: Vec<String> = self
            .names(|item| *item == Item::Directory)
            .into_iter()
            .filter(|name| !name.contains('/'))
            .collect();
        match self.random.below(3) {
            0 if !top.is_empty() => {
                let from = self.random.pick(&top).clone();
                self.rename_directory(&from)
            }
            1 => {
                let (name, target) = (self.new_name("link"), format!("target {}", self.counter));
                let item = Item::Link(target.clone());
                self.made(&name, item, |path| Ok(symlink(&target, path)?))
            }
            _ => {
                self.counter += 1;
                let name = format!("directory-{}", self.counter);
                self.made(&name, Item::Directory, |path| Ok(fs::create_dir(path)?))
            }
        }
    }

    fn made(&mut self, name: &str, item: Item, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let outcomes = vec![
            State::from([(name.to_owned(), Allowed::Absent)]),
            State::from([(name.to_owned(), Allowed::Exactly(item.clone()))]),
        ];
        let result = [(name.to_owned(), Some(item))];
        self.acknowledged(&format!("make {name}"), outcomes, &result, |directory| make(&directory.join(name)))
    }

    /// Everything below comes along, at once or not at all.
    fn rename_directory(&mut self, from: &str) -> Result<()> {
        self.counter += 1;
        let to = format!("directory-{}", self.counter);
        let (mut before, mut after, mut result) = (State::new(), State::new(), Vec::new());
        let inside = format!("{from}/");
        for (name, item) in self.items.iter().filter(|(name, _)| *name == from || name.starts_with(&inside)) {
            let moved = format!("{to}{}", &name[from.len()..]);
            before.insert(name.clone(), Allowed::Exactly(item.clone()));
            before.insert(moved.clone(), Allowed::Absent);
            after.insert(name.clone(), Allowed::Absent);
            after.insert(moved.clone(), Allowed::Exactly(item.clone()));
            result.push((name.clone(), None));
            result.push((moved, Some(item.clone())));
        }
        self.acknowledged(&format!("rename {from} to {to}"), vec![before, after], &result, |directory| {
            Ok(fs::rename(directory.join(from), directory.join(&to))?)
        })
    }
}

fn fits(state: &State, seen: &BTreeMap<String, Item>) -> bool {
    state.iter().all(|(name, allowed)| match (allowed, seen.get(name)) {
        (Allowed::Absent, found) => found.is_none(),
        (Allowed::Exactly(item), found) => found == Some(item),
        (Allowed::BeginningOf(full, least), Some(Item::File(found))) => {
            found.len() >= *least && full.starts_with(found)
        }
        (Allowed::MixOf(old, new), Some(Item::File(found))) => {
            let either = |((found, old), new): ((&u8, &u8), &u8)| found == old || found == new;
            found.len() == old.len() && found.iter().zip(old).zip(new).all(either)
        }
        _ => false,
    })
}

fn read_items(directory: &Path, prefix: &str, items: &mut BTreeMap<String, Item>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type()?;
        let item = if kind.is_dir() {
            read_items(&entry.path(), &format!("{name}/"), items)?;
            Item::Directory
        } else if kind.is_symlink() {
            Item::Link(fs::read_link(entry.path())?.to_string_lossy().into_owned())
        } else {
            Item::File(fs::read(entry.path()).with_context(|| format!("read {}", entry.path().display()))?)
        };
        items.insert(name, item);
    }
    Ok(())
}

/// Where two files differ: the first and the last byte, and how many are zero there.
fn where_different(one: Option<&Item>, two: Option<&Item>) -> String {
    let (Some(Item::File(one)), Some(Item::File(two))) = (one, two) else { return String::new() };
    let mut places = one.iter().zip(two).enumerate().filter(|(_, (one, two))| one != two).map(|(at, _)| at);
    let Some(first) = places.next() else { return String::new() };
    let last = places.next_back().unwrap_or(first);
    let zeros = |bytes: &[u8]| bytes[first..=last].iter().filter(|byte| **byte == 0).count();
    format!(
        ", which differs in bytes {first} to {last}: {} zeros acknowledged, {} found",
        zeros(one),
        zeros(two)
    )
}

fn brief(name: &str, item: Option<&Item>) -> String {
    match item {
        None => format!("{name}: nothing"),
        Some(Item::Directory) => format!("{name}: a directory"),
        Some(Item::Link(target)) => format!("{name}: a link to {target}"),
        Some(Item::File(bytes)) => {
            let start = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>();
            format!("{name}: {} bytes, {start}…", bytes.len())
        }
    }
}
