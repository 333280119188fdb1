//! Mounts a volume: arguments → parts → mount → wait → unmount. The only place that joins the parts.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use dfs_mountd::cache::{Cache, CacheOptions, Fetch, ServerBarrier};
use dfs_mountd::clock::SystemClock;
use dfs_mountd::config::dirs::Environment;
use dfs_mountd::config::lock::DirLocks;
use dfs_mountd::config::{Arguments, Fsync, OnConflict, daemon};
use dfs_mountd::control::server::Control;
use dfs_mountd::engine::{Connection, Engine, Parts, Wake};
use dfs_mountd::fs::{Fs, FsParts};
use dfs_mountd::fuse::{self, MountOptions, Mounted};
use dfs_mountd::remote::http::HttpRemote;
use dfs_mountd::remote::limit::{Limited, Rates};
use dfs_mountd::remote::token::{TokenError, TokenSource};
use dfs_mountd::remote::{Remote, RemoteError};
use dfs_mountd::tree::Tree;
use dfs_mountd::tree::policy::{Policies, Policy};
use dfs_mountd::tree::store::Store;
use dfs_shared::event::EventBus;
use dfs_shared::event::kinds::mount::FileModified;
use dfs_shared::ids::VolumeName;
use tokio::sync::mpsc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes of docs/CONFIGURATION.md.
const USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const REFUSED: u8 = 4;
const MOUNT_FAILED: u8 = 32;

/// Where the embedded server listens.
const EMBEDDED: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

/// How long a first look at the server may take before the mount starts without it.
const FIRST_LOOK: Duration = Duration::from_secs(5);
/// How long a mount that has never synced waits for the volume's names before it shows an empty directory.
const FIRST_SYNC: Duration = Duration::from_secs(60);
/// How often the mount is looked at for having been unmounted by somebody else.
const WATCH: Duration = Duration::from_millis(50);

/// Why there is no mount, and the exit code that says so.
struct Failed {
    code: u8,
    error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { code: MOUNT_FAILED, error: error.into() }
    }
}

fn failed(code: u8, error: impl Into<anyhow::Error>) -> Failed {
    Failed { code, error: error.into() }
}

fn main() -> ExitCode {
    // The allocator asks for huge pages, which cost more memory and clearing than they save here.
    // SAFETY: no pointers are passed.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    match fuse::guard(std::env::args_os().skip(1)) {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => return end(&error.into()),
    }
    let arguments = match Arguments::parse().complete() {
        Ok(arguments) => arguments,
        Err(error) => return end(&failed(USAGE, error)),
    };
    if let Err(error) = start_log(arguments.log_level.as_deref()) {
        return end(&failed(USAGE, error));
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(&error),
    }
}

fn end(failed: &Failed) -> ExitCode {
    say(format_args!("dfs-mount: {}", describe(&failed.error)));
    ExitCode::from(failed.code)
}

/// Returns an error with those of its causes that it does not tell of itself.
fn describe(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| match cause.to_string() {
        cause if text.is_empty() => cause,
        cause if text.contains(&cause) => text,
        cause => format!("{text}: {cause}"),
    })
}

fn start_log(level: Option<&str>) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(level.unwrap_or("info"))
        .map_err(|error| anyhow::anyhow!("--log-level: {error}"))?;
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // Or a log on a full disk would end the mount: what cannot be written to it is told on standard error, which is the log.
    let format = tracing_subscriber::fmt().log_internal_errors(false);
    let format = format.with_writer(std::io::stderr).with_target(false).with_ansi(ansi);
    format.with_env_filter(filter).init();
    Ok(())
}

/// Says something on standard error; nobody may read it, and the disk where it goes may be full.
fn say(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Where everything is.
struct Places {
    volume: VolumeName,
    mount_point: PathBuf,
    state_dir: PathBuf,
    cache_dir: PathBuf,
}

fn run(arguments: Arguments) -> Result<(), Failed> {
    let volume = VolumeName::new(arguments.volume.as_deref().unwrap_or("main"));
    let volume = volume.map_err(|error| failed(USAGE, error))?;
    let cache_size = arguments.cache_size_bytes().map_err(|error| failed(USAGE, error))?;
    let (up, down) = arguments.rates().map_err(|error| failed(USAGE, error))?;
    let policies = policies(&arguments).map_err(|error| failed(USAGE, error))?;
    let token = token_source(&arguments).map_err(|error| failed(REFUSED, error))?;
    let ca = arguments.ca.as_deref().map(std::path::absolute).transpose()?;
    let mount_point = std::path::absolute(&arguments.mountpoint)?;
    let environment = Environment::read();
    let state_dir =
        arguments.state_dir.clone().unwrap_or_else(|| environment.state_dir(&mount_point, volume.as_str()));
    let cache_dir =
        arguments.cache_dir.clone().unwrap_or_else(|| environment.cache_dir(&mount_point, volume.as_str()));
    let ca = ca.as_deref();
    let places = Places {
        volume,
        mount_point,
        state_dir: std::path::absolute(state_dir)?,
        cache_dir: std::path::absolute(cache_dir)?,
    };
    // Addresses are checked before anything is made or forked.
    if !arguments.server.is_empty() {
        HttpRemote::new(&arguments.server, places.volume.clone(), TokenSource::none(), ca)
            .map_err(|error| failed(USAGE, error))?;
    }
    let parent = if arguments.daemon { Some(daemon::detach()?) } else { None };
    let owner = format!("the mount on {} (process {})", places.mount_point.display(), std::process::id());
    let _locks = DirLocks::take(&places.state_dir, &places.cache_dir, &owner)?;
    let embedded = match arguments.server.is_empty() {
        true => Some(start_server(&environment)?),
        false => None,
    };
    let servers = match &embedded {
        Some(server) => vec![server.addr().to_string()],
        None => arguments.server.clone(),
    };
    let remote =
        HttpRemote::new(&servers, places.volume.clone(), token, ca).map_err(|error| failed(USAGE, error))?;
    let limited = |remote: HttpRemote| Limited::new(Arc::new(remote), Rates { up, down });
    let mount = Mount::start(&arguments, &places, Arc::new(limited(remote)), cache_size, policies)?;
    // Before the ready line: a signal that comes right after it must unmount cleanly.
    let signals = {
        let _inside = mount.engine.runtime().enter();
        Signals::new()
    };
    say(format_args!(
        "mounted {} (volume {}, server {})",
        mount.mounted.mount_point().display(),
        places.volume,
        mount.remote.name()
    ));
    if let Some(server) = &embedded {
        say(format_args!(
            "others on this machine join with `dfs-mount DIRECTORY --server {}`; for other machines run dfs-server",
            server.addr()
        ));
    }
    if let Some(parent) = parent {
        parent.ready(&places.state_dir.join("log"))?;
    }
    mount.wait_and_end(signals);
    drop(embedded);
    Ok(())
}

/// What happens with conflicts, by path.
fn policies(arguments: &Arguments) -> anyhow::Result<Policies> {
    let policy = |on_conflict| match on_conflict {
        OnConflict::Manual => Policy::Manual,
        OnConflict::Merge => Policy::Merge,
        OnConflict::LastWriteWins => Policy::LastWriteWins,
        OnConflict::KeepBoth => Policy::KeepBoth,
    };
    let patterns = arguments.conflict_patterns()?;
    let patterns: Vec<_> = patterns.into_iter().map(|(pattern, on)| (pattern, policy(on))).collect();
    let default = policy(arguments.on_conflict.unwrap_or(OnConflict::KeepBoth));
    Policies::new(default, &patterns).map_err(|error| anyhow::anyhow!("--on-conflict-for: {error}"))
}

/// The token's file is read again when the server refuses its token.
fn token_source(arguments: &Arguments) -> Result<TokenSource, TokenError> {
    match (&arguments.token_file, std::env::var("DFS_TOKEN")) {
        (Some(path), _) => TokenSource::file(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        (None, Ok(text)) if !text.is_empty() => TokenSource::fixed(&text, "DFS_TOKEN"),
        (None, _) => Ok(TokenSource::none()),
    }
}

fn start_server(environment: &Environment) -> anyhow::Result<dfs_server::Server> {
    let data_dir = environment.server_data_dir();
    let server = dfs_server::start(dfs_server::Config::new(EMBEDDED, data_dir.clone()));
    let server = server.map_err(|error| match error {
        dfs_server::StartError::Listen { ref source, .. } if source.kind() == std::io::ErrorKind::AddrInUse => {
            anyhow::Error::new(error).context(format!(
                "something listens on {EMBEDDED} already: join it with `--server {EMBEDDED}` if it is a dfs server"
            ))
        }
        error => anyhow::Error::new(error),
    })?;
    say(format_args!("no --server given: running one of its own, with its data in {}", data_dir.display()));
    say(format_args!("listening on http://{}", server.addr()));
    Ok(server)
}

/// A running mount and its parts.
struct Mount {
    mounted: Mounted,
    fs: Arc<Fs>,
    engine: Arc<Engine>,
    tree: Arc<Tree>,
    cache: Arc<Cache>,
    remote: Arc<Limited>,
    ends: mpsc::Receiver<mpsc::Sender<()>>,
    control: dfs_mountd::control::server::ControlSocket,
    sweeper: dfs_mountd::fs::Sweeper,
}

impl Mount {
    fn start(
        arguments: &Arguments,
        places: &Places,
        remote: Arc<Limited>,
        cache_size: u64,
        policies: Policies,
    ) -> Result<Self, Failed> {
        let wake = Wake::default();
        let host = arguments.client_name.clone().unwrap_or_else(host_name);
        let store = Arc::new(Store::open(&places.state_dir)?);
        let tree = Arc::new(Tree::open(store, host.clone(), wake.callback())?);
        tree.set_policies(policies);
        let (state_dir, cache_dir) = (places.state_dir.clone(), places.cache_dir.clone());
        let options = CacheOptions { state_dir, cache_dir, size_max: cache_size, removes_when_asked: false };
        let cache = Cache::open(Arc::clone(&tree), options)?;
        let read_only = arguments.read_only || arguments.options.iter().any(|option| option == "ro");
        let engine = Engine::new(Parts {
            tree: Arc::clone(&tree),
            cache: Arc::clone(&cache),
            remote: Arc::clone(&remote) as Arc<dyn Remote>,
            clock: Arc::new(SystemClock),
            wake,
            client_name: host,
            read_only,
            seed: u64::from(std::process::id()),
        })?;
        let bus = EventBus::new();
        let control_path = places.state_dir.join("control.sock");
        let fs = Fs::new(FsParts {
            tree: Arc::clone(&tree),
            cache: Arc::clone(&cache),
            fetch: Arc::clone(&engine) as Arc<dyn Fetch>,
            clock: Arc::new(SystemClock),
            barrier: (arguments.fsync == Some(Fsync::Server))
                .then(|| Arc::clone(&engine) as Arc<dyn ServerBarrier>),
            progress: Some(Arc::clone(&engine) as _),
            on_modified: Box::new({
                let bus = bus.clone();
                move |node| bus.publish(FileModified { node })
            }),
            read_only,
            control: Some(control_path.clone()),
            boot: boot(),
        })?;
        engine.notice_lost(&fs.lost_files());
        let is_first = tree.membership()?.volume.is_none();
        let is_reachable = look_at_server(&engine, &remote, &places.volume, is_first)?;
        engine.start(Arc::clone(&fs) as _, Arc::clone(&fs) as _, &bus);
        if is_reachable {
            wait_for_first_sync(&engine, if is_first { FIRST_SYNC } else { FIRST_LOOK })?;
        }
        let mounted = fuse::mount(
            Arc::clone(&fs),
            &MountOptions {
                mount_point: places.mount_point.clone(),
                allow_other: arguments.allow_other,
                read_only,
                extra: arguments.options.clone(),
                no_passthrough: false,
                guardian: Some("/proc/self/exe".into()),
            },
        )?;
        let sweeper = fs.start_sweeper()?;
        let (end, ends) = mpsc::channel(4);
        let control = Control {
            mount_point: mounted.mount_point().to_owned(),
            volume: places.volume.to_string(),
            state_dir: places.state_dir.clone(),
            engine: Arc::clone(&engine),
            tree: Arc::clone(&tree),
            cache: Arc::clone(&cache),
            remote: Arc::clone(&remote) as Arc<dyn Remote>,
            end,
        };
        let control = dfs_mountd::control::server::start(Arc::new(control), &control_path)?;
        Ok(Self { mounted, fs, engine, tree, cache, remote, ends, control, sweeper })
    }

    /// Waits until somebody unmounts, or a signal or the control socket asks to; then ends cleanly.
    fn wait_and_end(mut self, mut signals: Signals) {
        let runtime = self.engine.runtime();
        let mut waiting_for_end = Vec::new();
        runtime.block_on(async {
            loop {
                tokio::select! {
                    name = signals.next() => {
                        tracing::info!(signal = name, "unmounting");
                        return;
                    }
                    alive = self.ends.recv() => {
                        waiting_for_end.extend(alive);
                        return;
                    }
                    () = tokio::time::sleep(WATCH) => {
                        if self.mounted.is_over() {
                            return;
                        }
                    }
                }
            }
        });
        let ended = match self.mounted.unmount() {
            Ok(ended) => ended,
            Err(error) => {
                tracing::error!(%error, "cannot unmount");
                false
            }
        };
        if ended {
            if let Err(error) = self.mounted.wait() {
                tracing::error!(%error, "the mount ended badly");
            }
        } else {
            tracing::warn!("the mount is still in use; its users will see errors from now on");
        }
        drop(self.sweeper);
        self.fs.sweep();
        self.engine.stop();
        if let Err(error) = make_durable(&self.cache, &self.tree, ended) {
            tracing::error!("what was changed could not be written to the disk: {}", describe(&error));
        }
        say(format_args!("{}", last_line(&self.engine, self.mounted.mount_point())));
        drop(self.control);
        drop(waiting_for_end);
    }
}

/// Writes everything through to the disk; if nobody writes any more, so that the next start need not look at it.
fn make_durable(cache: &Cache, tree: &Tree, is_over: bool) -> anyhow::Result<()> {
    // First, so that bytes that cannot be written do not keep it back.
    tree.persist()?;
    if is_over {
        cache.sync()?;
        tree.end_boot()?;
    }
    Ok(())
}

/// Names the machine's run since it was switched on.
fn boot() -> Option<String> {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let read = read.inspect_err(|error| tracing::warn!(%error, "a power loss will not be noticed"));
    read.ok().map(|text| text.trim().to_owned())
}

/// Says what is pending.
fn last_line(engine: &Engine, mount_point: &Path) -> String {
    let at = mount_point.display();
    match engine.status() {
        Ok(status) if status.pending == 0 => format!("unmounted {at}: everything is on the server"),
        Ok(status) => format!(
            "unmounted {at}: {} changes ({} bytes) are pending; they are kept here and sent at the next mount",
            status.pending, status.pending_bytes
        ),
        Err(error) => format!("unmounted {at}: what is pending cannot be read: {error}"),
    }
}

/// Looks whether the server has the volume. `false` when it cannot be reached, which is no reason not to mount.
///
/// A refused token ends only a first mount: later there are changes to keep and to go on with.
fn look_at_server(
    engine: &Engine,
    remote: &Limited,
    volume: &VolumeName,
    is_first: bool,
) -> Result<bool, Failed> {
    let look = async { tokio::time::timeout(FIRST_LOOK, remote.merkle(Vec::new())).await };
    let why = match engine.runtime().block_on(look) {
        Ok(Ok(_)) => return Ok(true),
        Ok(Err(error)) => match error {
            RemoteError::VolumeNotFound { .. } => {
                return Err(failed(
                    NOT_FOUND,
                    anyhow::anyhow!(
                        "cannot mount the volume {volume} of {}: the server has no such volume",
                        remote.name()
                    ),
                ));
            }
            RemoteError::Refused { status: 401 | 403, ref message, .. } if is_first => {
                return Err(failed(
                    REFUSED,
                    anyhow::anyhow!(
                        "cannot mount the volume {volume} of {}: access refused: {message}; give a token of this \
                         volume with --token-file or DFS_TOKEN (`dfs-server token create` makes one)",
                        remote.name()
                    ),
                ));
            }
            RemoteError::Refused { status: 401 | 403, ref message, .. } => {
                say(format_args!(
                    "{} refuses the access token ({message}): mounting offline; changes are kept here and sent when \
                     the token file holds a good one",
                    remote.name()
                ));
                return Ok(false);
            }
            RemoteError::VersionMismatch { .. } => return Err(error.into()),
            error => describe(&error.into()),
        },
        Err(_) => format!("{} does not answer", remote.name()),
    };
    say(format_args!(
        "the server cannot be reached ({why}): mounting offline; changes are kept here and sent when it is back"
    ));
    Ok(false)
}

/// Gives the engine the time to bring the names up to date before anybody looks.
fn wait_for_first_sync(engine: &Engine, patience: Duration) -> Result<(), Failed> {
    let mut connection = engine.connection();
    let settled = connection.wait_for(|connection| match connection {
        Connection::Online { .. } | Connection::Stopped { .. } => true,
        Connection::Offline { .. } | Connection::Reconciling => false,
    });
    let settled = engine.runtime().block_on(async {
        tokio::time::timeout(patience, settled).await.map(|state| state.map(|state| state.clone()))
    });
    match settled {
        Ok(Ok(Connection::Stopped { why })) => Err(failed(NOT_FOUND, anyhow::anyhow!("cannot mount: {why}"))),
        Ok(_) => Ok(()),
        Err(_) => {
            tracing::warn!("the volume is still being brought up to date; names appear as they arrive");
            Ok(())
        }
    }
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// The signals that ask the mount to end.
struct Signals {
    signals: [(&'static str, Option<tokio::signal::unix::Signal>); 3],
}

impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let listen =
            |kind| signal(kind).inspect_err(|error| tracing::warn!(%error, "a signal is not caught")).ok();
        Self {
            signals: [
                ("SIGINT", listen(SignalKind::interrupt())),
                ("SIGTERM", listen(SignalKind::terminate())),
                ("SIGHUP", listen(SignalKind::hangup())),
            ],
        }
    }

    async fn next(&mut self) -> &'static str {
        let waits = self.signals.iter_mut().filter_map(|(name, signal)| {
            let (name, signal) = (*name, signal.as_mut()?);
            Some(Box::pin(async move {
                signal.recv().await;
                name
            }))
        });
        let waits: Vec<_> = waits.collect();
        if waits.is_empty() {
            return std::future::pending().await;
        }
        futures_util::future::select_all(waits).await.0
    }
}
