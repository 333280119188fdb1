//! Mounting and unmounting.
//!
//! ```text
//! prepare the mount point ─► session (handshake) ─► its threads + invalidation thread ─► Mounted
//! Mounted: unmount() or fusermount3 -u or umount ─► the session's threads end ─► wait() returns
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Notifier, Session, SessionACL};
use parking_lot::Mutex;

use super::adapter::Adapter;
use super::guardian::Guardian;
use super::waiting::Waiting;
use super::warm::{self, Warmer};
use super::{invalidate, point};
use crate::fs::Fs;
use crate::limits::UNMOUNT_WAIT_MS;

/// How to mount.
#[derive(Debug, Clone, Default)]
pub struct MountOptions {
    /// Where.
    pub mount_point: PathBuf,
    /// Other users may use the mount, too; always so for root.
    pub allow_other: bool,
    /// The kernel refuses every change.
    pub read_only: bool,
    /// Further options as after `-o`, each by itself.
    pub extra: Vec<String>,
    /// Never give the kernel backing files: for tests of the daemon's own data path.
    pub no_passthrough: bool,
    /// A program that calls [`super::guard`]: it ends the kernel's connection where the kernel does not when this process is killed.
    pub guardian: Option<PathBuf>,
}

/// Why mounting failed. The texts say what to do.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point is something else than a directory.
    #[error("cannot mount on {}: it is not a directory", path.display())]
    NotDirectory {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount point has entries.
    #[error("cannot mount on {}: the directory is not empty; choose an empty or new one", path.display())]
    NotEmpty {
        /// The mount point.
        path: PathBuf,
    },
    /// The mount point cannot be used.
    #[error("cannot use {} as mount point: {source}", path.display())]
    Point {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no `/dev/fuse`.
    #[error("cannot mount on {}: /dev/fuse is missing; load the kernel module with `modprobe fuse`", path.display())]
    NoDevice {
        /// The mount point.
        path: PathBuf,
    },
    /// `/dev/fuse` may not be opened.
    #[error(
        "cannot mount on {}: no permission to open /dev/fuse; ask root for `chmod 666 /dev/fuse`, as distributions have it, or mount as root",
        path.display()
    )]
    NoPermission {
        /// The mount point.
        path: PathBuf,
    },
    /// `fusermount3` is missing or refuses.
    #[error(
        "cannot mount on {}: fusermount3 failed ({reason}); install the package fuse3, and for --allow-other put `user_allow_other` into /etc/fuse.conf",
        path.display()
    )]
    Helper {
        /// The mount point.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// Something else failed.
    #[error("cannot mount on {}: {source}", path.display())]
    Failed {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A mount. Unmounts when dropped.
pub struct Mounted {
    mount_point: PathBuf,
    fs: Arc<Fs>,
    notifier: Notifier,
    threads: Mutex<Option<Threads>>,
    warmer: Mutex<Option<Warmer>>,
    _guardian: Option<Guardian>,
}

struct Threads {
    session: JoinHandle<io::Result<()>>,
    invalidate: JoinHandle<()>,
}

fn is_root() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// Mounts. When this returns the mount answers. With a guardian, to be called on the process's first thread.
///
/// # Errors
/// [`MountError`].
pub fn mount(fs: Arc<Fs>, options: &MountOptions) -> Result<Mounted, MountError> {
    let mount_point = point::prepare(&options.mount_point)?;
    raise_descriptor_limit();
    check_device(&mount_point)?;
    let may_pass_through = is_root() && !options.no_passthrough;
    let adapter = Adapter { fs: Arc::clone(&fs), may_pass_through, waiting: Waiting::default() };
    let session = Session::new(adapter, &mount_point, &config(options))
        .map_err(|source| explain(&mount_point, source))?;
    let notifier = session.notifier();
    let failed = |source| MountError::Failed { path: mount_point.clone(), source };
    let invalidations = fs.invalidations();
    let session = std::thread::Builder::new()
        .name("dfs-fuse".to_owned())
        .spawn(move || session.run())
        .map_err(failed)?;
    if let Err(error) = warm::tell_root(&mount_point) {
        tracing::debug!(%error, "the kernel asks for the root's attributes when it needs them");
    }
    let invalidate = invalidate::start(invalidations, notifier.clone()).map_err(failed)?;
    point::set_read_ahead(&mount_point);
    fs.set_kernel_caches(Some(Box::new(invalidate::Caches(notifier.clone()))));
    let warmer = match wants_warming(options).then(|| warm::start(&fs, &mount_point)).transpose() {
        Ok(warmer) => warmer,
        Err(error) => {
            tracing::debug!(%error, "the kernel's caches are not filled in advance");
            None
        }
    };
    let start_guardian = |program: &PathBuf| {
        let started = Guardian::start(program, &mount_point);
        started.inspect_err(|error| tracing::warn!(%error, "no guardian stands by for a kill")).ok()
    };
    let guardian = options.guardian.as_ref().and_then(start_guardian);
    let (threads, warmer) = (Mutex::new(Some(Threads { session, invalidate })), Mutex::new(warmer));
    Ok(Mounted { mount_point, fs, notifier, threads, warmer, _guardian: guardian })
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.acl = if is_root() || options.allow_other { SessionACL::All } else { SessionACL::Owner };
    let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    config.n_threads = Some(cpus.max(2));
    // An ordinary user may not open the device again where it is root's.
    config.clone_fd = std::fs::File::options().read(true).write(true).open("/dev/fuse").is_ok();
    config.mount_options = vec![
        MountOption::FSName("dfs".to_owned()),
        // `MountOption::Subtype` reaches the kernel only through fusermount3.
        MountOption::CUSTOM("subtype=dfs".to_owned()),
        MountOption::DefaultPermissions,
    ];
    if is_root() {
        config.mount_options.extend([MountOption::Dev, MountOption::Suid]);
    }
    if options.read_only {
        config.mount_options.push(MountOption::RO);
    }
    for option in options.extra.iter().filter(|option| *option != NO_WARM) {
        add_option(&mut config, option);
    }
    config
}

/// Options of mount(8) that change nothing here: reading advances no access times, and the rest is for mount(8) itself.
const WITHOUT_EFFECT: [&str; 13] = [
    "defaults",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "_netdev",
    "nofail",
    "auto",
    "noauto",
    "nouser",
];

fn add_option(config: &mut Config, option: &str) {
    if WITHOUT_EFFECT.contains(&option) {
        return;
    }
    if let Some(name) = option.strip_prefix("fsname=") {
        // The kernel takes one only.
        config.mount_options.retain(|have| !matches!(have, MountOption::FSName(_)));
        config.mount_options.push(MountOption::FSName(name.to_owned()));
        return;
    }
    let (known, opposite) = match option {
        "allow_other" => {
            config.acl = SessionACL::All;
            return;
        }
        "ro" => (MountOption::RO, Some(MountOption::RW)),
        "rw" => (MountOption::RW, Some(MountOption::RO)),
        "dev" => (MountOption::Dev, Some(MountOption::NoDev)),
        "nodev" => (MountOption::NoDev, Some(MountOption::Dev)),
        "suid" => (MountOption::Suid, Some(MountOption::NoSuid)),
        "nosuid" => (MountOption::NoSuid, Some(MountOption::Suid)),
        "exec" => (MountOption::Exec, Some(MountOption::NoExec)),
        "noexec" => (MountOption::NoExec, Some(MountOption::Exec)),
        "atime" => (MountOption::Atime, Some(MountOption::NoAtime)),
        "noatime" => (MountOption::NoAtime, Some(MountOption::Atime)),
        "sync" => (MountOption::Sync, Some(MountOption::Async)),
        "async" => (MountOption::Async, Some(MountOption::Sync)),
        "dirsync" => (MountOption::DirSync, None),
        "default_permissions" => (MountOption::DefaultPermissions, None),
        other => (MountOption::CUSTOM(other.to_owned()), None),
    };
    config.mount_options.retain(|have| Some(have) != opposite.as_ref() && *have != known);
    config.mount_options.push(known);
}

fn check_device(mount_point: &Path) -> Result<(), MountError> {
    let path = mount_point.to_owned();
    match std::fs::File::options().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Err(MountError::NoDevice { path }),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => {
            Err(MountError::NoDevice { path })
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied) => {
            Err(MountError::NoPermission { path })
        }
        Err(source) => Err(MountError::Failed { path, source }),
    }
}

fn explain(mount_point: &Path, source: io::Error) -> MountError {
    let path = mount_point.to_owned();
    if is_root() {
        return MountError::Failed { path, source };
    }
    let reason = match source.kind() {
        io::ErrorKind::NotFound => "it is not installed".to_owned(),
        _ => source.to_string().trim().to_owned(),
    };
    MountError::Helper { path, reason }
}

/// Open files cost two descriptors each; the soft limit is often 1,024.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writes.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: `limit` is valid for reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        tracing::debug!("the limit of open files stays as it is");
    }
}

impl Mounted {
    /// Returns where the mount is, without symlinks.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// Returns the way to tell the kernel of changes, beside the thread that does it.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// Waits until the mount is gone: unmounted by [`Self::unmount`] or by anybody else.
    ///
    /// # Errors
    /// What ended the session, if it was not an unmount.
    pub fn wait(&self) -> io::Result<()> {
        let Some(threads) = self.threads.lock().take() else { return Ok(()) };
        let result =
            threads.session.join().unwrap_or_else(|_| Err(io::Error::other("a session thread panicked")));
        // What is mapped still, or was closed a moment ago, is looked at before anybody says what is pending.
        self.fs.sweep();
        self.fs.end_invalidations();
        self.fs.set_kernel_caches(None);
        if threads.invalidate.join().is_err() {
            tracing::error!("the invalidation thread panicked");
        }
        if let Some(warmer) = self.warmer.lock().take() {
            warmer.join();
        }
        result
    }

    /// Tells whether the mount is gone already.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.threads.lock().as_ref().is_none_or(|threads| threads.session.is_finished())
    }

    /// Unmounts. Where somebody still uses it, it disappears from the tree at once and ends with its last user, for whom this waits
    /// [`UNMOUNT_WAIT_MS`] at most. Returns whether it has ended; [`Self::wait`] may then be called.
    ///
    /// # Errors
    /// What the kernel or `fusermount3` says.
    pub fn unmount(&self) -> io::Result<bool> {
        if self.is_over() {
            return Ok(true);
        }
        if let Some(warmer) = &*self.warmer.lock() {
            warmer.stop();
        }
        match point::unmount(&self.mount_point, false) {
            Ok(()) => {}
            // Somebody else was faster.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                tracing::warn!(path = %self.mount_point.display(), "the mount is in use; detaching it");
                point::unmount(&self.mount_point, true)?;
            }
            Err(error) => return Err(error),
        }
        let deadline = Instant::now() + Duration::from_millis(UNMOUNT_WAIT_MS);
        while !self.is_over() {
            if Instant::now() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(true)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        match self.unmount() {
            Ok(true) => {
                if let Err(error) = self.wait() {
                    tracing::warn!(%error, "the session ended badly");
                }
            }
            Ok(false) => tracing::warn!(path = %self.mount_point.display(), "the mount is still in use"),
            Err(error) => tracing::warn!(path = %self.mount_point.display(), %error, "cannot unmount"),
        }
    }
}

/// The option of ours that the kernel is not told.
const NO_WARM: &str = "nowarm";

/// Tells whether changed directories are to be listed for the kernel's caches. It needs root; `-o nowarm` switches it off.
fn wants_warming(options: &MountOptions) -> bool {
    is_root() && !options.extra.iter().any(|option| option == NO_WARM)
}

#[cfg(test)]
mod tests {
    use super::{MountOption, MountOptions, config};

    #[test]
    fn a_name_among_the_options_takes_the_place_of_ours() {
        let named = |extra: &[&str]| {
            let extra = extra.iter().map(|&option| option.to_owned()).collect();
            let options = MountOptions { extra, ..MountOptions::default() };
            let names = config(&options).mount_options.into_iter().filter_map(|option| match option {
                MountOption::FSName(name) => Some(name),
                MountOption::CUSTOM(other) if other.starts_with("fsname") => Some(other),
                _ => None,
            });
            names.collect::<Vec<_>>()
        };
        assert_eq!(named(&[]), ["dfs"]);
        assert_eq!(named(&["noatime", "fsname=host/volume"]), ["host/volume"]);
    }

    #[test]
    fn options_that_change_nothing_do_not_reach_the_kernel_and_unknown_ones_do() {
        let given = |extra: &str| {
            let extra = extra.split(',').map(str::to_owned).collect();
            config(&MountOptions { extra, ..MountOptions::default() }).mount_options
        };
        let plain = config(&MountOptions::default()).mount_options;
        assert_eq!(given("defaults,nodiratime,relatime,lazytime,_netdev"), plain);
        let unknown = MountOption::CUSTOM("strictatime".to_owned());
        assert_eq!(given("noatime,strictatime"), [&plain[..], &[MountOption::NoAtime, unknown]].concat());
    }
}
