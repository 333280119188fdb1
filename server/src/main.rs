//! `dfs-server`: arguments to configuration to a running server; the only place that prints and exits.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use dfs_server::blocking::block_on;
use dfs_server::config::{Cli, Command, ConfigError, LogFormat, Options, Settings, VolumeAction};
use dfs_server::metadata::MetadataStore;
use dfs_server::metadata::sqlite::SqliteStore;
use dfs_shared::ids::VolumeId;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes of docs/CONFIGURATION.md.
const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let is_usage = error.downcast_ref::<ConfigError>().is_some();
            say(&format!("dfs-server: {error:#}"));
            ExitCode::from(if is_usage { WRONG_USAGE } else { FAILED })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let settings = settings(cli.options)?;
    let not_built =
        |name: &str, instead| Err(ConfigError::NotBuilt { what: format!("`dfs-server {name}`"), instead });
    match cli.command {
        None => serve(settings),
        Some(Command::Volume { action }) => volume(&settings.server.data_dir, &action),
        Some(Command::Token(_)) => {
            Ok(not_built("token", "the server listens on loopback, or with --insecure-no-auth")?)
        }
        Some(Command::Check(_)) => Ok(not_built("check", "every chunk is verified when it is read")?),
        Some(Command::Gc(_)) => Ok(not_built("gc", "nothing is ever dropped")?),
        Some(Command::Backup(_)) => Ok(not_built("backup", "stop the server and copy its data directory")?),
        Some(Command::Restore(_)) => Ok(not_built("restore", "copy a saved data directory into place")?),
    }
}

fn settings(options: Options) -> anyhow::Result<Settings> {
    let options = match options.config.clone() {
        Some(path) => {
            let text = std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read the configuration file {}", path.display()))?;
            options.or_file(path, &text)?
        }
        None => options,
    };
    Ok(options.check(data_home())?)
}

/// `$XDG_DATA_HOME`, or `~/.local/share`.
fn data_home() -> Option<PathBuf> {
    let of = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    of("XDG_DATA_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| of("HOME").map(|home| home.join(".local/share")))
}

fn serve(settings: Settings) -> anyhow::Result<()> {
    start_log(&settings)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    // Before the ready line: a signal that comes right after it must drain, not kill.
    let (mut signals, mut hang_up) = {
        let _entered = runtime.enter();
        let ends = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        (ends, signal(SignalKind::hangup())?)
    };
    let data_dir = settings.server.data_dir.display().to_string();
    let server = dfs_server::start(settings.server)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), data_dir, "started");
    say(&format!("listening on {}", server.url()));
    runtime.block_on(async {
        loop {
            tokio::select! {
                _ = signals.0.recv() => return,
                _ = signals.1.recv() => return,
                _ = hang_up.recv() => reload(&server),
            }
        }
    });
    tracing::info!("stopping");
    // A second signal does not wait for the drain.
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = signals.0.recv() => {}
                _ = signals.1.recv() => {}
            }
        });
        std::process::exit(i32::from(FAILED));
    });
    let drained = server.shutdown();
    tracing::info!(aborted = drained.aborted, "stopped");
    Ok(())
}

/// Reads again what may change while the server runs; what cannot be used leaves the old in use.
fn reload(server: &dfs_server::Server) {
    match server.reload_tls() {
        Ok(true) => tracing::info!("certificate and key read again"),
        Ok(false) => tracing::info!("SIGHUP: there is no certificate to read again"),
        Err(error) => {
            let error = dfs_server::report::chain(&error);
            tracing::error!("the old certificate stays in use: {error}");
        }
    }
}

/// Every connection takes a file descriptor, and the usual soft limit is 1,024.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

fn start_log(settings: &Settings) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log_level)
        .with_context(|| format!("--log-level {} is no level or filter", settings.log_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Works on the database beside a running server; a running server finds a new volume at its first use.
fn volume(data_dir: &Path, action: &VolumeAction) -> anyhow::Result<()> {
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    let store = SqliteStore::open(data_dir)?;
    let store: &dyn MetadataStore = &store;
    match action {
        VolumeAction::Create { name } => {
            let wanted = name.clone();
            let made = store.write(1, move |tx| match tx.volume(&wanted)? {
                Some(_) => Ok(None),
                None => tx.create_volume(&wanted, VolumeId::generate()).map(Some),
            });
            match block_on(made.get())? {
                Some(volume) => print(&format!("volume {name} made ({})", volume.id)),
                None => anyhow::bail!("the volume {name} exists already"),
            }
        }
        VolumeAction::List => {
            for volume in store.read(|snapshot| snapshot.volumes())? {
                print(&format!("{}\trevision {}\t{}", volume.name, volume.revision, volume.id))?;
            }
            Ok(())
        }
    }
}

fn say(line: &str) {
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn print(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("cannot print")
}
