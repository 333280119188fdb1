//! One server and any number of mounts of it, each in directories of its own.
//!
//! Fields are declared in the order in which they must go: mounts, proxies, server, directories.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::machine::{self, Need};
use crate::mount::{Mount, SYNC_DEADLINE};
use crate::proxy::Proxy;
use crate::server::Server;
use crate::snapshot::{self, Snapshot};
use crate::wait;

/// What a test wants to be started.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    mounts: usize,
    needs: Vec<Need>,
    server_arguments: Vec<String>,
    mount_arguments: Vec<String>,
    has_proxies: bool,
    is_unstarted: bool,
}

impl Setup {
    /// A server and `count` mounts, named a, b, c….
    #[must_use]
    pub fn mounts(count: usize) -> Setup {
        Setup { mounts: count, ..Setup::default() }
    }

    /// More than FUSE is needed.
    #[must_use]
    pub fn needs(mut self, needs: &[Need]) -> Setup {
        self.needs.extend_from_slice(needs);
        self
    }

    /// More arguments for the server.
    #[must_use]
    pub fn server_arguments(mut self, arguments: &[&str]) -> Setup {
        self.server_arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// More arguments for every mount.
    #[must_use]
    pub fn mount_arguments(mut self, arguments: &[&str]) -> Setup {
        self.mount_arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// A proxy of its own between each mount and the server.
    #[must_use]
    pub fn through_proxies(mut self) -> Setup {
        self.has_proxies = true;
        self
    }

    /// Only the server is started; the test starts its mounts.
    #[must_use]
    pub fn unstarted(mut self) -> Setup {
        self.is_unstarted = true;
        self
    }
}

/// The running processes of one test.
pub struct Cluster {
    /// The mounts a, b, c….
    pub mounts: Vec<Mount>,
    /// The proxy of each mount, when asked for.
    pub proxies: Vec<Proxy>,
    /// The server.
    pub server: Server,
    directory: TempDir,
}

/// Runs one test on a cluster: skips it by name where the machine lacks something, shows the logs of all
/// processes when it fails, and cleans up in any case.
///
/// # Panics
/// When the test fails.
#[track_caller]
pub fn run(setup: &Setup, test: impl FnOnce(&mut Cluster) -> Result<()>) {
    let caller = std::panic::Location::caller();
    let name = match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => format!("{}:{}", caller.file(), caller.line()),
    };
    let needs: Vec<Need> = [Need::Fuse].iter().chain(&setup.needs).copied().collect();
    if machine::skip_for(&name, &needs) {
        return;
    }
    let mut cluster = Cluster::new(setup).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        cluster.start(setup)?;
        test(&mut cluster)
    }));
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{name}: {error:#}\n{}", cluster.tails()),
        Err(panic) => {
            machine::say(&format!("{name}: panicked\n{}", cluster.tails()));
            drop(cluster);
            resume_unwind(panic)
        }
    }
}

impl Cluster {
    fn new(setup: &Setup) -> Result<Cluster> {
        let directory =
            tempfile::Builder::new().prefix("dfs-").tempdir().context("directory of this test")?;
        std::fs::create_dir(directory.path().join("xdg-run"))?;
        let server = Server::new(directory.path(), setup.server_arguments.clone());
        Ok(Cluster { mounts: Vec::new(), proxies: Vec::new(), server, directory })
    }

    fn start(&mut self, setup: &Setup) -> Result<()> {
        self.server.start()?;
        for index in 0..setup.mounts {
            let mut port = self.server.port();
            if setup.has_proxies {
                let proxy = Proxy::start(port)?;
                port = proxy.port();
                self.proxies.push(proxy);
            }
            let name = char::from(b'a' + u8::try_from(index)?).to_string();
            let mut mount = Mount::new(self.directory.path(), &name, Some(format!("127.0.0.1:{port}")));
            mount.arguments.clone_from(&setup.mount_arguments);
            self.mounts.push(mount);
            if !setup.is_unstarted {
                self.mounts[index].start()?;
            }
        }
        Ok(())
    }

    /// A directory of the test's own, outside every mount.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn scratch(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.path().join("scratch").join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// The directory that holds everything of this test.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Starts whatever was killed, the server last: mounts come back without it, too.
    ///
    /// # Errors
    /// When something does not start.
    pub fn start_again(&mut self) -> Result<()> {
        for mount in self.mounts.iter_mut().filter(|mount| !mount.is_started()) {
            mount.start()?;
        }
        if !self.server.is_started() {
            self.server.start()?;
        }
        Ok(())
    }

    /// The first mount's root.
    #[must_use]
    pub fn a(&self) -> &Path {
        self.mounts[0].root()
    }

    /// The second mount's root.
    #[must_use]
    pub fn b(&self) -> &Path {
        self.mounts[1].root()
    }

    /// Waits until everything is on the server and all agree with it by Merkle root.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn settle(&self) -> Result<()> {
        self.settle_within(SYNC_DEADLINE)
    }

    /// [`Cluster::settle`] with a deadline of its own for each mount.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub fn settle_within(&self, deadline: Duration) -> Result<()> {
        let started: Vec<&Mount> = self.mounts.iter().filter(|mount| mount.is_started()).collect();
        for mount in &started {
            mount.wait_synced_within(deadline)?;
        }
        wait::eventually_within(deadline, "mounts and server have one Merkle root", || {
            let wanted = self.server.merkle_root()?;
            for mount in &started {
                let root = mount.merkle_root()?;
                ensure!(root == wanted, "server {wanted}, {} {root}", mount.root().display());
            }
            Ok(Some(()))
        })
    }

    /// Settles, then compares the tree of every running mount with the first one's in full.
    ///
    /// # Errors
    /// With the differences.
    pub fn expect_equal_trees(&self) -> Result<Snapshot> {
        self.settle()?;
        self.compare_trees()
    }

    /// Compares the tree of every running mount with the first one's in full.
    ///
    /// # Errors
    /// With the differences.
    pub fn compare_trees(&self) -> Result<Snapshot> {
        let mut running = self.mounts.iter().filter(|mount| mount.is_started());
        let first = running.next().context("no mount runs")?;
        let wanted = snapshot::tree_snapshot(first.root())?;
        for mount in running {
            let seen = snapshot::tree_snapshot(mount.root())?;
            snapshot::expect_equal(first.root(), &wanted, mount.root(), &seen)?;
        }
        Ok(wanted)
    }

    fn tails(&self) -> String {
        let mut text = format!("---- dfs-server\n{}\n", self.server.tail());
        for mount in &self.mounts {
            text += &format!("---- dfs-mount {}\n{}\n", mount.root().display(), mount.tail());
        }
        text
    }
}
