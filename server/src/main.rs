//! `dfs-server`: arguments to configuration to a running server; the only place that prints and exits.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context;
use clap::Parser;
use dfs_server::StartError;
use dfs_server::access::{self, Access, AccessToken, Secret, TokenId};
use dfs_server::blocking::block_on;
use dfs_server::config::{
    Cli, ClientAction, Command, ConfigError, LogFormat, Options, Settings, TokenAction, VolumeAction,
};
use dfs_server::limits::{ACCESS_TOKEN_NAME_LEN_MAX, ACCESS_TOKENS_MAX};
use dfs_server::metadata::sqlite::SqliteStore;
use dfs_server::metadata::{Client, MetadataStore, Volume};
use dfs_server::server::{DEFAULT_VOLUME, Metadata};
use dfs_shared::ddl::ModifiedAt;
use dfs_shared::ids::{VolumeId, VolumeName};
use dfs_shared::time::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[path = "main/upkeep.rs"]
mod upkeep;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit codes of docs/CONFIGURATION.md.
const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const NOT_FOUND: u8 = 3;
const REFUSED: u8 = 4;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("dfs-server: {error:#}"));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<ConfigError>() {
        return WRONG_USAGE;
    }
    if error.is::<NotFound>() {
        return NOT_FOUND;
    }
    match error.downcast_ref::<StartError>() {
        Some(StartError::NoTokens { .. } | StartError::NoTokensInMemory { .. }) => REFUSED,
        Some(_) | None => FAILED,
    }
}

/// Something that a command names does not exist.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotFound(String);

fn run(cli: Cli) -> anyhow::Result<()> {
    let settings = settings(cli.options)?;
    if cli.command.is_some() && settings.server.metadata == Metadata::Memory {
        return Err(ConfigError::CommandInMemory.into());
    }
    match cli.command {
        None => serve(settings),
        Some(Command::Volume { action }) => volume(&settings.server.data_dir, &action),
        Some(Command::Token { action }) => token(&settings.server.data_dir, action),
        Some(Command::Check { repair, quick }) => upkeep::check(&settings.server, repair, quick),
        Some(Command::Gc { grace }) => upkeep::gc(&settings.server, grace),
        Some(Command::Backup { file }) => upkeep::backup(&settings.server, &file),
        Some(Command::Restore { file }) => upkeep::restore(&settings.server, &file),
        Some(Command::Client { action }) => client(&settings.server.data_dir, action),
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
    // Or a log on a full disk would end the server: what cannot be written to it is told on standard error, which is the log.
    let log = tracing_subscriber::fmt()
        .log_internal_errors(false)
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

/// Works on the database beside a running server, which is told of the change.
fn token(data_dir: &Path, action: TokenAction) -> anyhow::Result<()> {
    let store = open_store(data_dir)?;
    let store: &dyn MetadataStore = &store;
    match action {
        TokenAction::Create { volume, access, name } => {
            let (id, text) = create_token(store, &volume, access, name)?;
            announce(data_dir)?;
            say(&format!("token {id} made ({access} on {volume}); it is printed this once, keep it secret:"));
            print(&text)
        }
        TokenAction::List => {
            for token in store.read(|snapshot| snapshot.tokens())? {
                let state = if token.revoked.is_some() { "revoked" } else { "active" };
                let AccessToken { id, volume, access, name, created, .. } = token;
                print(&format!("{id}\t{state}\t{volume}\t{access}\t{}\t{name}", rfc3339(created)))?;
            }
            Ok(())
        }
        TokenAction::Revoke { id } => {
            let now = Timestamp::from(SystemTime::now());
            let revoked = store.write(1, move |tx| tx.revoke_token(&id, now)).wait()?;
            // Also for one that was revoked before: the command may have been ended before it could tell.
            announce(data_dir)?;
            match revoked {
                true => print(&format!("token {id} revoked")),
                false => {
                    Err(NotFound(format!("there is no token {id}; `dfs-server token list` lists all")).into())
                }
            }
        }
    }
}

fn client(data_dir: &Path, action: ClientAction) -> anyhow::Result<()> {
    let store = open_store(data_dir)?;
    let store: &dyn MetadataStore = &store;
    let no_volume = |volume: &VolumeName| NotFound(format!("there is no volume `{volume}`"));
    match action {
        ClientAction::List { volume } => {
            let clients = store.read(|snapshot| match snapshot.volume(&volume)? {
                Some(volume) => snapshot.clients(volume.key).map(Some),
                None => Ok(None),
            })?;
            for Client { id, name, last_seen } in clients.ok_or_else(|| no_volume(&volume))? {
                print(&format!("{id}\t{}\t{name}", rfc3339(last_seen)))?;
            }
            Ok(())
        }
        ClientAction::Remove { volume, id } => {
            let (name, client) = (volume.clone(), id.clone());
            let removed = store.write(1, move |tx| match tx.volume(&name)? {
                Some(volume) => tx.remove_client(volume.key, &client).map(Some),
                None => Ok(None),
            });
            match removed.wait()?.ok_or_else(|| no_volume(&volume))? {
                true => print(&format!("client {id} removed")),
                false => {
                    let why = format!("there is no client {id}; `dfs-server client list` lists all");
                    Err(NotFound(why).into())
                }
            }
        }
    }
}

/// Seconds are enough for people.
fn rfc3339(at: Timestamp) -> String {
    ModifiedAt::from(Timestamp { nanos: 0, ..at }).to_string()
}

fn announce(data_dir: &Path) -> anyhow::Result<()> {
    access::announce(data_dir).with_context(|| {
        format!("the change is stored, but a running server could not be told in {}", data_dir.display())
    })
}

fn create_token(
    store: &dyn MetadataStore,
    volume: &VolumeName,
    access: Access,
    name: String,
) -> anyhow::Result<(TokenId, String)> {
    if name.len() > ACCESS_TOKEN_NAME_LEN_MAX || name.chars().any(char::is_control) {
        anyhow::bail!("--name: at most {ACCESS_TOKEN_NAME_LEN_MAX} bytes, and no control characters");
    }
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut secret)).context("no random bytes")?;
    let (id, secret) = (TokenId::from_bytes(id), Secret::from_bytes(secret));
    let token = AccessToken {
        id,
        digest: secret.digest(),
        volume: volume.clone(),
        access,
        name,
        created: Timestamp::from(SystemTime::now()),
        revoked: None,
    };
    let made = store.write(1, move |tx| {
        let is_missing = tx.volume(&token.volume)?.is_none();
        // The default volume is always there once a server has run; a token may come first.
        if is_missing && token.volume.as_str() != DEFAULT_VOLUME {
            return Ok(Made::NoVolume);
        }
        if is_missing {
            tx.create_volume(&token.volume, VolumeId::generate())?;
        }
        let active = tx.tokens()?.iter().filter(|token| token.revoked.is_none()).count();
        if active >= ACCESS_TOKENS_MAX {
            return Ok(Made::TooMany);
        }
        tx.put_token(&token).map(|()| Made::Token)
    });
    match made.wait()? {
        Made::Token => Ok((id, secret.text(id))),
        Made::TooMany => anyhow::bail!("there are {ACCESS_TOKENS_MAX} tokens already: revoke some"),
        Made::NoVolume => {
            let instead = format!("make it with `dfs-server volume create {volume}`");
            Err(NotFound(format!("there is no volume {volume}: {instead}")).into())
        }
    }
}

/// What became of a token that was to be made.
enum Made {
    Token,
    NoVolume,
    TooMany,
}

fn open_store(data_dir: &Path) -> anyhow::Result<SqliteStore> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    Ok(SqliteStore::open(data_dir)?)
}

/// Works on the database beside a running server; a running server finds a new volume at its first use.
fn volume(data_dir: &Path, action: &VolumeAction) -> anyhow::Result<()> {
    let store = open_store(data_dir)?;
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
                let quota = volume.quota.map_or("no quota".to_owned(), |limit| format!("quota {limit}"));
                let Volume { name, revision, id, used, .. } = volume;
                print(&format!("{name}\trevision {revision}\t{id}\t{used} bytes\t{quota}"))?;
            }
            Ok(())
        }
        VolumeAction::Quota { name, limit } => {
            let (wanted, limit) = (name.clone(), limit.bytes());
            let set = store.write(1, move |tx| match tx.volume(&wanted)? {
                Some(volume) => tx.set_quota(volume.key, limit).map(|()| Some(volume.used)),
                None => Ok(None),
            });
            let used = set.wait()?.ok_or_else(|| NotFound(format!("there is no volume `{name}`")))?;
            access::announce_quota(data_dir)
                .context("the quota is set, but connected mounts could not be told")?;
            let limit = limit.map_or("no quota".to_owned(), |limit| format!("a quota of {limit} bytes"));
            print(&format!("volume {name} has {limit} now; its files have {used} bytes"))
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

#[cfg(test)]
mod tests {
    use dfs_server::metadata::memory::MemoryStore;

    use super::*;

    #[test]
    fn good_tokens_are_bounded_at_the_limit_and_one_past_it() {
        let store = MemoryStore::new();
        let store: &dyn MetadataStore = &store;
        let volume: VolumeName = DEFAULT_VOLUME.parse().unwrap();
        let create = || create_token(store, &volume, Access::Read, String::new());
        let (first, _) = create().unwrap();
        let filled = store.write(1, move |tx| {
            let token = tx.tokens()?.remove(0);
            (2..ACCESS_TOKENS_MAX as u64).try_for_each(|number| {
                tx.put_token(&AccessToken { id: TokenId::from_bytes(number.to_be_bytes()), ..token.clone() })
            })
        });
        filled.wait().unwrap();
        create().unwrap();
        let error = create().unwrap_err();
        assert!(error.to_string().contains("revoke some"), "{error}");
        let revoked = store.write(1, move |tx| tx.revoke_token(&first, Timestamp::default()));
        assert!(revoked.wait().unwrap());
        create().unwrap();
    }
}
