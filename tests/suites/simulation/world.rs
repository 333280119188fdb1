//! One simulated run: mounts, a network and a server in one thread and in simulated time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use dfs_mountd::engine::Connection;
use dfs_mountd::fs::{FsError, NewKind, SetAttr};
use dfs_mountd::tree::namespace::{RenameMode, XattrMode};
use dfs_mountd::tree::policy::Policy;
use dfs_mountd::tree::{Cookie, Ino, LocalNode};
use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::NodeId;
use dfs_shared::record::{NodeKind, NodeRecord};
use parking_lot::Mutex;
use tokio::time::sleep;

use super::mount::{CALLER, Ids, Mount, SimClock};
use super::network::Network;
use super::oracle::{Oracle, Shown};
use super::script::{Script, Step, Verb};
use super::server::SimServer;

/// Longest simulated time in which everything has to come to rest once nothing disturbs it, in seconds.
const REST_SECS_MAX: u64 = 900;
/// Longest simulated time that a read may take at rest.
const READ_PATIENCE: Duration = Duration::from_secs(60);

/// The parts of a run.
pub(crate) struct World {
    mounts: Vec<Mount>,
    network: Arc<Network>,
    server: Arc<SimServer>,
    oracle: Oracle,
    /// A version may also be found in the server's history of its file: the later write wins, or a power loss took what a mount
    /// knew of the server's acceptance, and then some of the bytes.
    counts_history: bool,
    /// What the programs were told, for comparing two runs of one script.
    trace: Vec<String>,
    step: usize,
}

impl World {
    /// Makes everything in an empty directory.
    ///
    /// # Errors
    /// When a part cannot be made.
    pub(crate) fn new(script: &Script, dir: &Path) -> Result<Self> {
        let server = SimServer::new()?;
        let Script { seed, mounts, delay_ms_max, loss_permille, .. } = *script;
        let network = Arc::new(Network::new(Arc::clone(&server), seed, mounts, delay_ms_max, loss_permille));
        let (clock, ids) = (Arc::new(SimClock::new()), Arc::<Ids>::default());
        let policy = if script.last_write_wins { Policy::LastWriteWins } else { Policy::KeepBoth };
        let make = |index| {
            let (dir, clock) = (dir.join(format!("m{index}")), Arc::clone(&clock));
            Mount::new(index, dir, Arc::clone(&network), clock, Arc::clone(&ids), policy)
        };
        let mounts = (0..mounts).map(make).collect::<Result<_>>()?;
        let counts_history =
            script.last_write_wins || script.steps.iter().any(|step| step.verb == Verb::Power);
        let oracle = Oracle::default();
        Ok(Self { mounts, network, server, oracle, counts_history, trace: Vec::new(), step: 0 })
    }

    /// Runs the script, lets everything come to rest and checks what has to hold. Returns the trace.
    ///
    /// # Errors
    /// What does not hold.
    pub(crate) async fn run(mut self, script: &Script) -> Result<Vec<String>> {
        for step in &script.steps {
            self.step += 1;
            sleep(Duration::from_millis(step.wait_ms)).await;
            let outcome = self.take(step).await.with_context(|| format!("step {}", self.step))?;
            self.trace.push(format!("{} {:?} {outcome}", self.step, step.verb));
            if step.numbers[1].is_multiple_of(3) {
                self.mounts[step.mount % self.mounts.len()].remove_thrown_away();
            }
            self.look().with_context(|| format!("after step {}: {:?}", self.step, step.verb))?;
        }
        self.rest().await?;
        self.check().await?;
        Ok(self.trace)
    }

    async fn take(&mut self, step: &Step) -> Result<String> {
        let index = step.mount % self.mounts.len();
        match step.verb {
            Verb::Kill => {
                self.mounts[index].kill().await;
                self.mounts[index].restart()?;
            }
            Verb::Power => self.cut_power(index, step.numbers[0]).await?,
            Verb::Cut => self.network.cut(index, true),
            Verb::Heal => self.network.cut(index, false),
            Verb::Full => self.mounts[index].set_full(true),
            Verb::Room => self.mounts[index].set_full(false),
            Verb::Restart => self.server.restart()?,
            Verb::Brim => self.server.set_full(true),
            Verb::Spare => self.server.set_full(false),
            Verb::Limit => self.server.set_quota(Some(10 * step.numbers[0]))?,
            Verb::Unlimit => self.server.set_quota(None)?,
            _ => {
                let outcome = self.operate(index, step).await;
                return match outcome {
                    Ok(()) => Ok("done".to_owned()),
                    Err(error) if is_answer(&error) => Ok(format!("{error}")),
                    Err(error) => Err(anyhow::Error::new(error)),
                };
            }
        }
        Ok(String::new())
    }

    async fn cut_power(&mut self, index: usize, chance: u64) -> Result<()> {
        // What the server has and what was synced is looked for, the rest of what was written here may be lost.
        let here = self.files(index)?;
        let sent: BTreeSet<_> = self.server.ledger().contents.iter().map(|(_, content)| *content).collect();
        let is_sent = |node: &LocalNode| {
            let content = node.live().and_then(|record| record.content);
            node.dirty_content.is_none() && content.is_some_and(|content| sent.contains(&content))
        };
        let unsent = here.iter().filter(|node| !is_sent(node));
        let digests = unsent.filter_map(|node| self.mounts[index].digest_here(node)).collect();
        self.oracle.excuse(&digests);
        self.oracle.forget();
        self.mounts[index].cut_power(chance).await?;
        self.mounts[index].restart()
    }

    /// Bytes that no other write has.
    fn fresh(&self, len: u64) -> Vec<u8> {
        let tag = format!("<{}>", self.step);
        // Some are too large to travel inside a commit.
        let len = if len.is_multiple_of(17) { 40_000 + len } else { len };
        let len = usize::try_from(len).unwrap_or(1).max(tag.len());
        tag.bytes().cycle().take(len).collect()
    }

    fn shown(&self, index: usize, ino: Ino) -> Shown {
        let mount = &self.mounts[index];
        let Ok(Some(node)) = mount.tree().node(ino) else { return Shown::Nothing };
        if let Some(digest) = mount.digest_here(&node) {
            return Shown::Bytes(digest);
        }
        node.live().and_then(|record| record.content).map_or(Shown::Nothing, Shown::Content)
    }

    fn see(&self, index: usize, path: &str) -> Option<Seen> {
        let attr = self.mounts[index].resolve(path).ok()?;
        (attr.kind == NodeKind::File).then(|| Seen {
            read: self.read_now(index, attr.ino),
            node: self.shown(index, attr.ino),
            nlink: attr.nlink,
        })
    }

    /// What a program that opens this file reads.
    fn read_now(&self, index: usize, ino: Ino) -> Shown {
        let mount = &self.mounts[index];
        let open = mount.open.as_ref().filter(|handle| handle.ino == ino);
        let bytes = open.and_then(|handle| mount.peek(handle));
        bytes.map_or_else(|| self.shown(index, ino), |bytes| Shown::Bytes(ChunkHash::of(&bytes)))
    }

    async fn operate(&mut self, index: usize, step: &Step) -> Result<(), FsError> {
        let [first, second] = &step.paths;
        let [a, b] = step.numbers;
        match step.verb {
            Verb::Write => self.write(index, first, b, Some(0)),
            Verb::Edit => self.write(index, first, b, None),
            Verb::Save => {
                self.write(index, &format!("{first}~"), b, Some(0))?;
                self.rename(index, &format!("{first}~"), first, RenameMode::Replace)
            }
            Verb::Truncate => self.truncate(index, first, a),
            Verb::Open => self.open(index, first),
            Verb::Put => self.put(index, a, b),
            Verb::Fsync => self.fsync(index),
            Verb::Close => self.close(index),
            Verb::Rename => {
                let mode = if a.is_multiple_of(5) { RenameMode::NoReplace } else { RenameMode::Replace };
                self.rename(index, first, second, mode)
            }
            Verb::Exchange => self.rename(index, first, second, RenameMode::Exchange),
            Verb::Unlink => {
                let seen = self.see(index, first);
                let mount = &self.mounts[index];
                let (dir, name) = mount.split(first)?;
                mount.fs().unlink(dir, name, CALLER)?;
                self.dismiss_last(seen);
                Ok(())
            }
            Verb::Read => {
                let ino = self.mounts[index].resolve(first)?.ino;
                // What it comes to is looked at when everything is at rest: now it may have to wait.
                let _ = self.mounts[index].read(ino, Duration::from_millis(a)).await;
                Ok(())
            }
            Verb::Sync => {
                self.mounts[index].fs().fsyncdir(Box::new(|_| {}));
                Ok(())
            }
            _ => self.attributes(index, step),
        }
    }

    /// Operations that change no bytes.
    fn attributes(&self, index: usize, step: &Step) -> Result<(), FsError> {
        let [first, second] = &step.paths;
        let [a, b] = step.numbers;
        let mount = &self.mounts[index];
        let fs = mount.fs();
        match step.verb {
            Verb::Link => {
                let (dir, name) = mount.split(second)?;
                fs.link(mount.resolve(first)?.ino, dir, name, CALLER)?;
            }
            Verb::Mkdir => {
                let (dir, name) = mount.split(first)?;
                fs.make(dir, name, &NewKind::Plain(NodeKind::Directory), 0o755, CALLER)?;
            }
            Verb::Rmdir => {
                let (dir, name) = mount.split(first)?;
                fs.rmdir(dir, name, CALLER)?;
            }
            Verb::Symlink => {
                let (dir, name) = mount.split(first)?;
                fs.make(dir, name, &NewKind::Symlink(second.as_bytes()), 0o777, CALLER)?;
            }
            Verb::Chmod => {
                let mode = Some(0o600 + u32::try_from(a % 64).unwrap_or(0));
                fs.setattr(mount.resolve(first)?.ino, &SetAttr { mode, ..SetAttr::default() }, CALLER)?;
            }
            Verb::Xattr => {
                let name = format!("user.{}", a % 3);
                let value = format!("{}-{b}", self.step);
                fs.setxattr(mount.resolve(first)?.ino, name.as_bytes(), value.as_bytes(), XattrMode::Any)?;
            }
            Verb::Evict => {
                if let Ok(Some(node)) = mount.tree().node(mount.resolve(first)?.ino) {
                    mount.evict(node.id);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The last name of a file is gone, and with it whatever it had.
    fn dismiss_last(&mut self, seen: Option<Seen>) {
        if let Some(Seen { read, node, nlink: 1 }) = seen {
            self.oracle.dismiss(read);
            self.oracle.dismiss(node);
        }
    }

    /// Opens, writes and closes: from the start of an emptied file, or in the middle of one that exists.
    fn write(&mut self, index: usize, path: &str, len: u64, replace: Option<u64>) -> Result<(), FsError> {
        let seen = self.see(index, path);
        let bytes = self.fresh(len);
        let mount = &self.mounts[index];
        let cut = if replace.is_some() { libc::O_TRUNC } else { 0 };
        let handle = mount.open(path, libc::O_WRONLY | cut, replace.is_some())?;
        let ino = handle.ino;
        let written = mount.write(&handle, replace.unwrap_or(len / 2), &bytes);
        let whole = mount.peek(&handle);
        let closed = mount.close(handle).and_then(|()| mount.changed_now(ino));
        if let Some(Seen { read, .. }) = seen {
            self.oracle.dismiss(read);
        }
        self.oracle.wrote(index, ino);
        written?;
        closed?;
        if let Some(whole) = whole {
            self.oracle.finished(&whole, format!("step {} (write {path} on {index})", self.step));
        }
        Ok(())
    }

    fn truncate(&mut self, index: usize, path: &str, size: u64) -> Result<(), FsError> {
        let seen = self.see(index, path);
        let size = self.oracle.new_length(size);
        let mount = &self.mounts[index];
        let ino = mount.resolve(path)?.ino;
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        mount.fs().setattr(ino, &set, CALLER)?;
        mount.changed_now(ino)?;
        if let Some(Seen { read, .. }) = seen {
            self.oracle.dismiss(read);
        }
        self.oracle.wrote(index, ino);
        Ok(())
    }

    fn open(&mut self, index: usize, path: &str) -> Result<(), FsError> {
        if self.mounts[index].open.is_none() {
            let handle = self.mounts[index].open(path, libc::O_WRONLY, false)?;
            self.mounts[index].open = Some(handle);
        }
        Ok(())
    }

    fn put(&mut self, index: usize, at: u64, len: u64) -> Result<(), FsError> {
        let bytes = self.fresh(len % 100);
        let mount = &self.mounts[index];
        let Some(handle) = &mount.open else { return Ok(()) };
        let ino = handle.ino;
        let before = self.read_now(index, ino);
        mount.write(handle, at, &bytes)?;
        mount.changed_now(ino)?;
        self.mounts[index].open.iter_mut().for_each(|handle| handle.written = true);
        self.oracle.dismiss(before);
        self.oracle.wrote(index, ino);
        Ok(())
    }

    fn fsync(&mut self, index: usize) -> Result<(), FsError> {
        let mount = &self.mounts[index];
        let Some(handle) = &mount.open else { return Ok(()) };
        let (whole, ino) = (mount.peek(handle), handle.ino);
        // A file without a name goes with its last handle, and with the power.
        let named = handle.written && mount.tree().node(ino)?.is_some();
        let outcome = Arc::new(Mutex::new(None));
        let told = Arc::clone(&outcome);
        mount.fs().fsync(ino, false, Box::new(move |done| *told.lock() = Some(done)));
        outcome.lock().take().expect("who does not wait for the server is answered at once")?;
        self.mounts[index].synced().expect("a directory in memory");
        if let Some(whole) = whole.filter(|_| named) {
            self.oracle.finished(&whole, format!("step {} (fsync on {index})", self.step));
            self.oracle.synced(&whole);
        }
        Ok(())
    }

    fn close(&mut self, index: usize) -> Result<(), FsError> {
        let Some(handle) = self.mounts[index].open.take() else { return Ok(()) };
        let mount = &self.mounts[index];
        let (whole, ino) = (mount.peek(&handle), handle.ino);
        // A file without a name goes with its last handle; without a write nothing was finished.
        let named = handle.written && mount.tree().node(ino).ok().flatten().is_some();
        mount.close(handle)?;
        if let Some(whole) = whole.filter(|_| named) {
            self.oracle.finished(&whole, format!("step {} (close on {index})", self.step));
        }
        Ok(())
    }

    fn rename(&mut self, index: usize, from: &str, to: &str, mode: RenameMode) -> Result<(), FsError> {
        let seen = self.see(index, to);
        let mount = &self.mounts[index];
        let (source, target) = (mount.split(from)?, mount.split(to)?);
        let same = mount.resolve(from)?.ino == mount.resolve(to).map_or(Ino(0), |attr| attr.ino);
        mount.fs().rename(source, target, mode, CALLER)?;
        if mode == RenameMode::Replace && !same {
            self.dismiss_last(seen);
        }
        Ok(())
    }

    fn files(&self, index: usize) -> Result<Vec<LocalNode>> {
        let tree = self.mounts[index].tree();
        let (mut found, mut open) = (Vec::new(), vec![NodeId::ROOT]);
        let mut seen = BTreeSet::new();
        while let Some(dir) = open.pop() {
            for entry in tree.read_dir(dir, Cookie(0), usize::MAX)? {
                if !seen.insert(entry.target.node) {
                    continue;
                }
                match entry.target.kind {
                    NodeKind::Directory => open.push(entry.target.node),
                    NodeKind::File => found.extend(tree.node_by_id(entry.target.node)?),
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// Checks what has to hold at every step.
    fn look(&mut self) -> Result<()> {
        for index in 0..self.mounts.len() {
            let found = self.mounts[index].tree().audit()?;
            ensure!(found.is_empty(), "the tree of mount {index}: {}", found.join("; "));
            let open = self.mounts[index].open.as_ref().map(|handle| handle.ino);
            for node in self.files(index)? {
                let Some(record) = node.live() else { continue };
                if Some(node.ino) == open || record.size == 0 {
                    continue;
                }
                let mount = &self.mounts[index];
                if let (None, Some(content)) = (node.dirty_content, record.content) {
                    self.oracle.learn(content, || mount.digest_here(&node));
                }
                let shown = match (node.dirty_content, record.content) {
                    (None, Some(content)) => self.oracle.bytes_of(content),
                    _ => mount.digest_here(&node),
                };
                if let Some(wrong) = shown.and_then(|digest| self.oracle.show(index, node.ino, digest)) {
                    bail!(wrong);
                }
            }
        }
        if let Some(wrong) = &self.server.ledger().wrong {
            bail!("the server: {wrong}");
        }
        self.server.check_used()
    }

    /// Ends all disturbance and waits until all sides are equal.
    async fn rest(&mut self) -> Result<()> {
        self.network.calm().await;
        self.server.set_full(false);
        self.server.set_quota(None)?;
        for index in 0..self.mounts.len() {
            self.mounts[index].set_full(false);
            self.close(index).map_err(anyhow::Error::new)?;
        }
        for second in 0.. {
            let mut waiting = Vec::new();
            let root = self.server.root()?;
            for (index, mount) in self.mounts.iter().enumerate() {
                mount.fs().sweep();
                let pending = mount.tree().pending(0, 4)?;
                let connection = mount.engine().connection().borrow().clone();
                let online = matches!(connection, Connection::Online { .. });
                if !online || !pending.is_empty() || mount.tree().base_root()? != root {
                    waiting.push(format!("mount {index}: {connection:?}, to be sent: {pending:?}"));
                }
            }
            if waiting.is_empty() {
                break;
            }
            if second > REST_SECS_MAX {
                let status: Vec<_> = self.mounts.iter().map(|mount| mount.engine().status()).collect();
                bail!("no rest after {REST_SECS_MAX} s: {}\n{status:#?}", waiting.join("\n"));
            }
            sleep(Duration::from_secs(1)).await;
            self.look().context("on the way to rest")?;
        }
        Ok(())
    }

    /// Checks what has to hold at rest.
    async fn check(&mut self) -> Result<()> {
        let (first, mut there) = self.picture(0).await?;
        for index in 1..self.mounts.len() {
            let (other, _) = self.picture(index).await?;
            if let Some((path, item)) = first.iter().find(|(path, item)| other.get(*path) != Some(*item)) {
                bail!("{path} is {item:?} on mount 0 and {:?} on mount {index}", other.get(path));
            }
            if let Some((path, item)) = other.iter().find(|(path, _)| !first.contains_key(*path)) {
                bail!("{path} is {item:?} on mount {index} and not on mount 0");
            }
        }
        for content in std::mem::take(&mut self.oracle.dismissed) {
            if let Some(bytes) = self.server.content(content)? {
                self.oracle.dismiss_bytes(ChunkHash::of(&bytes));
            }
        }
        if self.counts_history {
            there.extend(self.server.past_versions()?.iter().map(|bytes| ChunkHash::of(bytes)));
        }
        let missing = self.oracle.missing(&there);
        if !missing.is_empty() {
            let shape: Vec<&String> = first.keys().collect();
            bail!("versions that nobody dismissed are gone: {}; there are {shape:?}", missing.join(", "));
        }
        self.trace.push(format!("{:?}", first.keys().collect::<Vec<_>>()));
        self.server.check_history()
    }

    /// Everything that a mount shows, and the digests of its files.
    async fn picture(&self, index: usize) -> Result<(BTreeMap<String, Item>, BTreeSet<ChunkHash>)> {
        let mount = &self.mounts[index];
        let (mut picture, mut digests) = (BTreeMap::new(), BTreeSet::new());
        let mut open = vec![(NodeId::ROOT, String::new())];
        while let Some((dir, path)) = open.pop() {
            for entry in mount.tree().read_dir(dir, Cookie(0), usize::MAX)? {
                let path = format!("{path}/{}", entry.name);
                let node = mount.tree().node_by_id(entry.target.node)?.context("an entry without a node")?;
                let record = node.record.clone().context("an entry without a record")?;
                let mut digest = None;
                match record.kind {
                    NodeKind::Directory => open.push((node.id, path.clone())),
                    NodeKind::File => {
                        let bytes = mount
                            .read(node.ino, READ_PATIENCE)
                            .await
                            .with_context(|| format!("read {path} on {index}"))?;
                        ensure!(bytes.len() as u64 == record.size, "{path} has {} bytes", bytes.len());
                        digest = Some(ChunkHash::of(&bytes));
                        digests.extend(digest);
                    }
                    _ => {}
                }
                picture.insert(path, Item { nlink: node.nlink(), record, digest });
            }
        }
        Ok((picture, digests))
    }
}

/// A file, before a program changes or removes it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// What a program reads: while a file is open in passthrough, that is the open one, even if a newer content has arrived.
    read: Shown,
    /// What the node has.
    node: Shown,
    nlink: u32,
}

/// What a mount shows under one name.
#[derive(Debug, PartialEq, Eq)]
struct Item {
    record: NodeRecord,
    nlink: u32,
    digest: Option<ChunkHash>,
}

/// Tells whether an error is an answer that a program has to expect, not a failure of the file system.
fn is_answer(error: &FsError) -> bool {
    use dfs_mountd::cache::CacheError;
    use dfs_mountd::tree::TreeError;
    let of_tree = |error: &TreeError| {
        !matches!(
            error,
            TreeError::Store { .. }
                | TreeError::Closed
                | TreeError::Damaged { .. }
                | TreeError::HashFirst { .. }
        )
    };
    match error {
        FsError::Tree(error) | FsError::Cache(CacheError::Tree { source: error }) => of_tree(error),
        FsError::Cache(CacheError::Lost { .. } | CacheError::Io { .. }) | FsError::System { .. } => false,
        FsError::BadHandle => false,
        _ => true,
    }
}
