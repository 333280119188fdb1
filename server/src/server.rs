//! Joins the parts into a running server, for `main` and for the mount's embedded server.
//!
//! A server has one thread of its own with a runtime inside, so it can be started and stopped from
//! anywhere. Invariant: when [`Server::shutdown`] returns, requests in flight have been answered (or
//! cut after the drain time), the stores are closed and the data directory is free.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use dfs_shared::event::kinds::server::{ServerShuttingDown, ServerStarted};
use dfs_shared::event::{EventBus, SubscribeError, Subscription};
use dfs_shared::ids::{IdError, VolumeName};
use tokio::sync::oneshot;

use crate::access::{OnQuota, Registry, Watch};
use crate::api::{self, Api};
use crate::blocking::block_on;
use crate::chunk_store::ChunkError;
use crate::component::{Changes, Feed, Logger, Metrics, Notifier};
use crate::data_dir::{DataDir, DataDirError};
pub use crate::engine::Engine;
use crate::engine::{self, Drained, EngineConfig, Tls, TlsError};
use crate::files::FileService;
use crate::gc::{Background, Collector, Retention};
use crate::limits::FEED_FAREWELL_MS_MAX;
use crate::metadata::{MetadataError, MetadataStore};
use crate::sessions::{SessionError, SessionService, Sweeper};
use crate::sync::{SyncError, SyncService};

use stores::Stores;

mod stores;

/// The volume that always exists.
pub const DEFAULT_VOLUME: &str = "main";

/// What a server needs to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// Which metadata store.
    pub metadata: Metadata,
    /// Where chunks are kept, if not under the data directory.
    pub chunks_dir: Option<PathBuf>,
    /// Threads that serve connections; `None` takes as many as there are cores.
    pub threads: Option<usize>,
    /// How connections are served.
    pub engine: Engine,
    /// Speaks TLS, with the certificate and the key in these files.
    pub tls: Option<TlsFiles>,
    /// Lets everybody in, whatever tokens there are, and on every address.
    pub insecure_no_auth: bool,
    /// How long replaced and removed versions are kept.
    pub retention: Retention,
    /// Which components listen on the event bus.
    pub components: Components,
}

/// Where metadata is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metadata {
    /// A SQLite database in the data directory.
    Sqlite,
    /// Memory: nothing survives the process, chunks go with it.
    Memory,
}

/// The components on the event bus; each can be left out, and the others do not notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Components {
    /// Writes what happens to the log.
    pub logger: bool,
    /// Counts what happens, for `/metrics`.
    pub metrics: bool,
    /// Pushes commits to the mounts. Without it mounts learn of changes when they connect.
    pub notifier: bool,
}

impl Default for Components {
    fn default() -> Self {
        Self { logger: true, metrics: true, notifier: true }
    }
}

/// The files that TLS needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

impl Config {
    /// Returns where the chunks of a data directory are.
    #[must_use]
    pub fn chunks_in(&self, data_dir: &Path) -> PathBuf {
        self.chunks_dir.clone().unwrap_or_else(|| data_dir.join("chunks"))
    }

    /// Listens on this address and keeps everything under this directory.
    #[must_use]
    pub fn new(listen: SocketAddr, data_dir: PathBuf) -> Self {
        let (engine, tls) = (Engine::Async, None);
        let components = Components::default();
        Self {
            listen,
            data_dir,
            metadata: Metadata::Sqlite,
            chunks_dir: None,
            threads: None,
            engine,
            tls,
            insecure_no_auth: false,
            retention: Retention::default(),
            components,
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(
        /// Why.
        #[from]
        DataDirError,
    ),
    /// The metadata database cannot be used.
    #[error("cannot open the metadata database in {}", data_dir.display())]
    Metadata {
        /// The data directory.
        data_dir: PathBuf,
        /// Why.
        #[source]
        source: MetadataError,
    },
    /// A server that forgets everything was given a data directory of one that does not.
    #[error(
        "{} holds a SQLite database: give --metadata memory its own --data-dir, or leave --metadata out",
        data_dir.display()
    )]
    HoldsDatabase {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// Chunks that nothing will refer to would be kept, and other chunks be collected.
    #[error("--chunks {} with --metadata memory: its chunks go with the process, leave --chunks out", chunks_dir.display())]
    ChunksOfMemory {
        /// The directory for chunks.
        chunks_dir: PathBuf,
    },
    /// The directory for what goes with the process cannot be made.
    #[error("cannot make an empty directory {}", path.display())]
    Volatile {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Everybody who reaches the port would be let in: a store in memory has no tokens.
    #[error(
        "refusing to listen on {listen} with --metadata memory, which has no access tokens: listen on 127.0.0.1, or \
         say --insecure-no-auth if everyone who reaches the port may read and write everything"
    )]
    NoTokensInMemory {
        /// The address.
        listen: SocketAddr,
    },
    /// The chunk store cannot be used.
    #[error("cannot open the chunk store")]
    Chunks(
        /// Why.
        #[from]
        ChunkError,
    ),
    /// The default volume cannot be made.
    #[error("cannot make the volume `{DEFAULT_VOLUME}`")]
    Volume(
        /// Why.
        #[from]
        SyncError,
    ),
    /// The sync sessions of an earlier run cannot be taken up.
    #[error("cannot take up the sync sessions")]
    Sessions(
        /// Why.
        #[from]
        SessionError,
    ),
    /// The components cannot join the bus.
    #[error("cannot join the components")]
    Components(
        /// Why.
        #[from]
        SubscribeError,
    ),
    /// The address cannot be used.
    #[error("cannot listen on {listen}")]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Tls(
        /// Why.
        #[from]
        TlsError,
    ),
    /// Everybody who reaches the port would be let in, or nobody.
    #[error(
        "refusing to listen on {listen} without access tokens: make one with `dfs-server token create --volume \
         {DEFAULT_VOLUME} --access write --data-dir {}`, listen on 127.0.0.1, or say --insecure-no-auth if everyone who \
         reaches the port may read and write everything",
        data_dir.display()
    )]
    NoTokens {
        /// The address.
        listen: SocketAddr,
        /// The data directory.
        data_dir: PathBuf,
    },
    /// Revoked tokens would not be noticed.
    #[error("cannot watch the access tokens")]
    Watch(
        /// What the system said.
        #[source]
        io::Error,
    ),
    /// The system gives no threads.
    #[error("cannot start the server's threads")]
    Threads(
        /// What the system said.
        #[source]
        io::Error,
    ),
}

/// A running server. Dropping it shuts it down.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    tls: Option<Arc<Tls>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Drained>>,
}

impl Server {
    /// Returns where it listens, with the real port.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the address as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// Reads certificate and key again, for connections from now on; those that are open keep theirs. Does nothing
    /// without TLS; tells whether there was something to do.
    ///
    /// # Errors
    /// [`TlsError`]; the old certificate stays in use.
    pub fn reload_tls(&self) -> Result<bool, TlsError> {
        self.tls.as_ref().map_or(Ok(false), |tls| tls.reload().map(|()| true))
    }

    /// Stops listening, lets requests in flight finish and closes the stores. Blocks until all is done.
    pub fn shutdown(mut self) -> Drained {
        self.stop_and_wait()
    }

    fn stop_and_wait(&mut self) -> Drained {
        // A closed channel stops the server as well.
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        ended.and_then(Result::ok).unwrap_or(Drained { aborted: 0 })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_and_wait();
    }
}

/// Starts a server; when this returns it accepts connections. Blocks for the time of opening the stores.
///
/// # Errors
/// [`StartError`] says which part cannot be had, and why.
pub fn start(config: Config) -> Result<Server, StartError> {
    let data_dir = DataDir::open(&config.data_dir)?;
    let Stores { metadata, chunks, dir, volatile } = stores::open(&config, data_dir.path())?;
    let access = open_access(&config, data_dir.path(), &metadata)?;
    let (notifier, metrics) = (Arc::<Notifier>::default(), Arc::<Metrics>::default());
    let bus = EventBus::new();
    let components = join_components(&bus, config.components, &notifier, &metrics)?;
    let metrics = config.components.metrics.then_some(metrics);
    let feed = Arc::new(Feed::new(boot()));
    let fed = feed.join(&bus, Arc::clone(&metadata))?;
    let sync = Arc::new(SyncService::new(Arc::clone(&metadata), Arc::clone(&chunks), bus.clone()));
    let watch =
        Watch::start(data_dir.path(), Arc::clone(&access), on_quota(&sync)).map_err(StartError::Watch)?;
    let claims = Arc::clone(sync.claims());
    let collector = Collector::new(Arc::clone(&metadata), chunks, claims, &dir, config.retention);
    let files = Arc::new(FileService::new(Arc::clone(&sync), Arc::clone(&metadata)));
    block_on(sync.ensure_volume(&default_volume()))?;
    let sessions = Arc::new(SessionService::open(Arc::clone(&files), metadata, &dir, bus.clone())?);
    let sweeper = Sweeper::start(Arc::clone(&sessions)).map_err(StartError::Threads)?;
    let gc = Background::start(collector, &dir).map_err(StartError::Threads)?;

    let listen_error = |source| StartError::Listen { listen: config.listen, source };
    let listener = TcpListener::bind(config.listen).map_err(listen_error)?;
    let addr = listener.local_addr().map_err(listen_error)?;

    let tls = config.tls.map(|files| Tls::load(files.certificate, files.key)).transpose()?.map(Arc::new);
    let options =
        engine::Options { config: EngineConfig::default(), threads: config.threads, tls: tls.clone() };
    let prepared = engine::prepare(config.engine, listener, options).map_err(StartError::Threads)?;
    let told = Arc::clone(&feed);
    let router = api::router(Arc::new(Api {
        sync,
        files,
        sessions,
        feed,
        bus: bus.clone(),
        notifier,
        metrics,
        engine: config.engine.name(),
        access,
        started: Instant::now(),
    }));
    let (stop, stopped) = oneshot::channel::<()>();
    let serve = move || {
        bus.publish(ServerStarted { address: addr });
        let shutdown = async move {
            // Sent or dropped: both mean stop.
            let _ = stopped.await;
            bus.publish(ServerShuttingDown);
            // Before the engine is told to stop, which cuts event streams.
            if !told.farewell(Duration::from_millis(FEED_FAREWELL_MS_MAX)).await {
                tracing::warn!("some event streams do not read and were not told of the server's end");
            }
        };
        let handler = Arc::new(router);
        let drained = prepared.serve(Arc::clone(&handler), shutdown);
        // The last handle of the stores closes them.
        drop(handler);
        drop(sweeper);
        drop(gc);
        drop(components);
        drop(fed);
        drop(watch);
        drop(volatile);
        drop(data_dir);
        drained
    };
    let thread = std::thread::Builder::new().name("dfs-server-main".to_owned()).spawn(serve);
    let thread = thread.map_err(StartError::Threads)?;
    Ok(Server { addr, tls, stop: Some(stop), thread: Some(thread) })
}

/// Tells the mounts when another process has set a quota.
fn on_quota(sync: &Arc<SyncService>) -> OnQuota {
    let sync = Arc::clone(sync);
    Box::new(move || {
        if let Err(error) = sync.tell_quotas() {
            tracing::error!(
                error = crate::report::chain(&error),
                "cannot read the quotas: mounts go by those of before"
            );
        }
    })
}

/// Tells this start of the server from others.
fn boot() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Opens the registry of tokens and refuses an address where it would let everybody in, or nobody.
fn open_access(
    config: &Config,
    data_dir: &Path,
    metadata: &Arc<dyn MetadataStore>,
) -> Result<Arc<Registry>, StartError> {
    let failed = |source| StartError::Metadata { data_dir: data_dir.to_owned(), source };
    let is_loopback = config.listen.ip().is_loopback();
    let registry = match config.insecure_no_auth {
        true => Registry::insecure(Arc::clone(metadata)),
        false => Registry::open(Arc::clone(metadata), is_loopback).map_err(failed)?,
    };
    if config.insecure_no_auth {
        tracing::warn!(listen = %config.listen, "--insecure-no-auth: whoever reaches the port may do everything");
    } else if !is_loopback && config.metadata == Metadata::Memory {
        return Err(StartError::NoTokensInMemory { listen: config.listen });
    } else if !is_loopback && registry.active() == 0 {
        return Err(StartError::NoTokens { listen: config.listen, data_dir: data_dir.to_owned() });
    }
    Ok(Arc::new(registry))
}

/// Parses nothing that can fail at run time: the default volume's name is a constant.
fn default_volume() -> VolumeName {
    let name: Result<VolumeName, IdError> = VolumeName::new(DEFAULT_VOLUME);
    name.expect("`main` is a volume name")
}

/// Subscribes the components; each line can go without touching the others.
fn join_components(
    bus: &EventBus,
    wanted: Components,
    notifier: &Arc<Notifier>,
    metrics: &Arc<Metrics>,
) -> Result<Vec<Subscription>, SubscribeError> {
    let mut joined = Vec::new();
    if wanted.notifier {
        joined.extend(notifier.join(bus)?);
    }
    if wanted.metrics {
        joined.extend(metrics.join(bus)?);
    }
    if wanted.logger {
        joined.extend(Logger.join(bus)?);
    }
    joined.push(Changes.join(bus)?);
    Ok(joined)
}

#[cfg(test)]
mod tests;
