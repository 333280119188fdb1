//! Command line, environment and configuration file of `dfs-server`.
//!
//! A flag wins over its environment variable, that over the file, the file over the default. Pure: the
//! caller passes the file's text and the directories. Invariant: a [`Settings`] has passed every check
//! that needs no disk and no socket.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use dfs_shared::ids::{ClientId, VolumeName};
use serde::Deserialize;

use crate::access::{Access, TokenId};
use crate::gc::Retention;
use crate::server::{Config, Engine, Metadata, TlsFiles};

mod limit;
mod span;

pub use limit::ByteLimit;
pub use span::Span;

/// Holds the truth of every dfs volume and serves it to the mounts.
#[derive(Debug, Parser)]
#[command(name = "dfs-server", version, after_help = EXAMPLE, disable_help_flag = true)]
pub struct Cli {
    /// Print help
    #[arg(long, short, action = ArgAction::HelpShort, global = true)]
    help: Option<bool>,
    /// Flags that every command takes.
    #[command(flatten)]
    pub options: Options,
    /// What to do; serves without one.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLE: &str = "Example:
  dfs-server --data-dir /srv/dfs --listen 127.0.0.1:8080
Every flag is also an environment variable (DFS_LISTEN, DFS_DATA_DIR, …) and a key of the --config file.";

/// Flags, environment variables and keys of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Options {
    /// Where to listen; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT", env = "DFS_LISTEN", global = true, hide_env = true)]
    pub listen: Option<SocketAddr>,
    /// Where everything is kept [default: $XDG_DATA_HOME/dfs/server]
    #[arg(long, value_name = "DIR", env = "DFS_DATA_DIR", global = true, hide_env = true)]
    pub data_dir: Option<PathBuf>,
    /// How connections are served: async, thread-pool or blocking [default: async]
    #[arg(long, value_enum, hide_possible_values = true, env = "DFS_ENGINE", global = true, hide_env = true)]
    pub engine: Option<EngineKind>,
    /// Threads that serve connections [default: one for each core]
    #[arg(long, value_name = "N", env = "DFS_THREADS", global = true, hide_env = true)]
    pub threads: Option<usize>,
    /// What to log: error, warn, info, debug, trace or a filter [default: info]
    #[arg(long, value_name = "LEVEL", env = "DFS_LOG_LEVEL", global = true, hide_env = true)]
    pub log_level: Option<String>,
    /// How to print the log: text or json [default: text]
    #[arg(
        long,
        value_enum,
        hide_possible_values = true,
        env = "DFS_LOG_FORMAT",
        global = true,
        hide_env = true
    )]
    pub log_format: Option<LogFormat>,
    /// Reads these settings from a TOML file
    #[arg(long, value_name = "FILE", env = "DFS_CONFIG", global = true, hide_env = true)]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Metadata store: sqlite, or memory, which forgets everything at the end [default: sqlite]
    #[arg(long, value_name = "STORE", env = "DFS_METADATA", global = true, hide_env = true)]
    pub metadata: Option<String>,
    /// Where chunks are kept [default: chunks in the data directory]
    #[arg(long, value_name = "DIR", env = "DFS_CHUNKS", global = true, hide_env = true)]
    pub chunks: Option<String>,
    /// Speaks TLS with this certificate and its chain (PEM); SIGHUP reads it again
    #[arg(long, value_name = "FILE", env = "DFS_TLS_CERT", global = true, hide_env = true)]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", env = "DFS_TLS_KEY", global = true, hide_env = true)]
    pub tls_key: Option<PathBuf>,
    /// How long replaced and removed versions are kept, as 12h, 30d or forever [default: 30d]
    #[arg(long, value_name = "TIME", env = "DFS_HISTORY_KEEP", global = true, hide_env = true)]
    pub history_keep: Option<Span>,
    /// How many replaced versions of one file are kept; 0: any number [default: 100]
    #[arg(long, value_name = "N", env = "DFS_HISTORY_VERSIONS", global = true, hide_env = true)]
    pub history_versions: Option<u64>,
    /// Lets everyone who reaches the port read and write everything
    #[arg(long, env = "DFS_INSECURE_NO_AUTH", global = true, hide_env = true)]
    pub insecure_no_auth: bool,
}

/// What to do instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Make or list volumes, or set a quota, also while a server runs on the data directory
    Volume {
        /// What to do with volumes.
        #[command(subcommand)]
        action: VolumeAction,
    },
    /// Make, list or revoke access tokens, also while a server runs on the data directory
    Token {
        /// What to do with tokens.
        #[command(subcommand)]
        action: TokenAction,
    },
    /// Check database, trees and chunks of a data directory, also while a server runs on it
    Check {
        /// Put right what can be; the server must not run
        #[arg(long)]
        repair: bool,
        /// Look at the database only, do not read the chunks
        #[arg(long)]
        quick: bool,
    },
    /// Drop old history and collect what nothing refers to, also while a server runs
    Gc {
        /// Spare what lost its last reference so short ago [default: 1h, 0s when no server runs]
        #[arg(long, value_name = "TIME")]
        grace: Option<Span>,
    },
    /// Write a consistent copy of a data directory into one file, also while a server runs
    Backup {
        /// The file that is made.
        file: PathBuf,
    },
    /// Make an empty data directory what it was when a backup was written
    Restore {
        /// The backup.
        file: PathBuf,
    },
    /// List clients or remove one that is gone for good, also while a server runs on the data directory
    Client {
        /// What to do with clients.
        #[command(subcommand)]
        action: ClientAction,
    },
}

/// What to do with volumes.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum VolumeAction {
    /// Make a volume
    Create {
        /// Its name.
        name: VolumeName,
    },
    /// List all volumes: name, revision, id, bytes of its files, quota
    List,
    /// Set how many bytes a volume's files may have together; history does not count
    Quota {
        /// The volume.
        name: VolumeName,
        /// Most bytes, as 20GiB, or none; connected mounts hear of it at once.
        limit: ByteLimit,
    },
}

/// What to do with access tokens.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum TokenAction {
    /// Make a token and print it, once
    Create {
        /// The only volume that it is good for
        #[arg(long, value_name = "NAME")]
        volume: VolumeName,
        /// What it allows: read, write or admin
        #[arg(long, value_name = "ACCESS")]
        access: Access,
        /// What it is for, for people
        #[arg(long, value_name = "TEXT", default_value = "")]
        name: String,
    },
    /// List all tokens, without their secrets
    List,
    /// Revoke a token; a running server stops whatever it is used for at once
    Revoke {
        /// Its id, as `token list` prints it.
        id: TokenId,
    },
}

/// What to do with clients.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum ClientAction {
    /// List a volume's clients: id, when each registered last, name
    List {
        /// The volume
        #[arg(long, value_name = "NAME", default_value = "main")]
        volume: VolumeName,
    },
    /// Forget a client and what it was said to hold; if it comes back, it registers again
    Remove {
        /// The volume
        #[arg(long, value_name = "NAME", default_value = "main")]
        volume: VolumeName,
        /// Its id, as `client list` prints it.
        id: ClientId,
    },
}

/// How connections are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineKind {
    /// A task for each connection.
    Async,
    /// A bounded number of threads.
    ThreadPool,
    /// One request at a time.
    Blocking,
}

impl EngineKind {
    fn engine(self) -> Engine {
        match self {
            Self::Async => Engine::Async,
            Self::ThreadPool => Engine::ThreadPool,
            Self::Blocking => Engine::Blocking,
        }
    }
}

/// How the log is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// A line of text for each event.
    Text,
    /// A JSON object for each event.
    Json,
}

/// The settings of a server, complete and checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the server needs.
    pub server: Config,
    /// What to log.
    pub log_level: String,
    /// How to print the log.
    pub log_format: LogFormat,
}

/// Why settings cannot be used: wrong usage.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file is no TOML of known keys.
    #[error("the configuration file {} is wrong", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Something asked for is not built yet.
    #[error("{what} is not built yet: {instead}")]
    NotBuilt {
        /// The flag and its value.
        what: String,
        /// What to do.
        instead: &'static str,
    },
    /// There is no place for the data.
    #[error("neither XDG_DATA_HOME nor HOME is set: say where to keep the data with --data-dir")]
    NoDataDir,
    /// TLS needs a certificate and a key.
    #[error("{given} without {missing}: TLS needs both, a certificate and its key")]
    HalfTls {
        /// The flag that is there.
        given: &'static str,
        /// The flag that is not.
        missing: &'static str,
    },
    /// A command works on what is on disk.
    #[error("--metadata memory with a command: commands work on SQLite data directories only")]
    CommandInMemory,
    /// No thread would serve.
    #[error("--threads 0: at least one thread has to serve")]
    NoThreads,
}

impl Options {
    /// Fills what flags and environment left open from the text of the configuration file.
    ///
    /// # Errors
    /// [`ConfigError::File`].
    pub fn or_file(self, path: PathBuf, text: &str) -> Result<Self, ConfigError> {
        let file: Self =
            toml::from_str(text).map_err(|source| ConfigError::File { path, source: Box::new(source) })?;
        Ok(Self {
            listen: self.listen.or(file.listen),
            data_dir: self.data_dir.or(file.data_dir),
            engine: self.engine.or(file.engine),
            threads: self.threads.or(file.threads),
            log_level: self.log_level.or(file.log_level),
            log_format: self.log_format.or(file.log_format),
            config: self.config,
            metadata: self.metadata.or(file.metadata),
            chunks: self.chunks.or(file.chunks),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            history_keep: self.history_keep.or(file.history_keep),
            history_versions: self.history_versions.or(file.history_versions),
            insecure_no_auth: self.insecure_no_auth || file.insecure_no_auth,
        })
    }

    /// Completes and checks the settings; `data_home` is where data goes by default.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn check(self, data_home: Option<PathBuf>) -> Result<Settings, ConfigError> {
        let not_built = |what: String, instead| Err(ConfigError::NotBuilt { what, instead });
        let metadata = match self.metadata.as_deref() {
            None | Some("sqlite") => Metadata::Sqlite,
            Some("memory") => Metadata::Memory,
            Some(other) => {
                return not_built(format!("--metadata {other}"), "use --metadata sqlite or memory");
            }
        };
        if let Some(chunks) = self.chunks.as_ref().filter(|chunks| chunks.contains("://")) {
            return not_built(format!("--chunks {chunks}"), "name a directory");
        }
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                return Err(ConfigError::HalfTls { given: "--tls-cert", missing: "--tls-key" });
            }
            (None, Some(_)) => {
                return Err(ConfigError::HalfTls { given: "--tls-key", missing: "--tls-cert" });
            }
        };
        let listen = self.listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080));
        if self.threads == Some(0) {
            return Err(ConfigError::NoThreads);
        }
        let data_dir = self.data_dir.or_else(|| data_home.map(|home| home.join("dfs/server")));
        Ok(Settings {
            server: Config {
                listen,
                data_dir: data_dir.ok_or(ConfigError::NoDataDir)?,
                metadata,
                chunks_dir: self.chunks.map(PathBuf::from),
                threads: self.threads,
                engine: self.engine.map_or(Engine::Async, EngineKind::engine),
                tls,
                insecure_no_auth: self.insecure_no_auth,
                retention: Retention {
                    keep: self.history_keep.map_or(Retention::default().keep, Span::limit),
                    versions: match self.history_versions {
                        None => Retention::default().versions,
                        Some(0) => None,
                        Some(versions) => Some(versions),
                    },
                },
                components: crate::server::Components::default(),
            },
            log_level: self.log_level.unwrap_or_else(|| "info".to_owned()),
            log_format: self.log_format.unwrap_or(LogFormat::Text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Options {
        Cli::try_parse_from([&["dfs-server"][..], args].concat()).unwrap().options
    }

    fn check(args: &[&str]) -> Result<Settings, ConfigError> {
        options(args).check(Some(PathBuf::from("/home/x/data")))
    }

    #[test]
    fn a_server_without_flags_listens_on_loopback_and_keeps_data_at_home() {
        let settings = check(&[]).unwrap();
        assert_eq!(settings.server.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(settings.server.data_dir, PathBuf::from("/home/x/data/dfs/server"));
        assert!(matches!(options(&[]).check(None), Err(ConfigError::NoDataDir)));
    }

    #[test]
    fn a_token_command_names_volume_and_access_and_never_a_secret() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["dfs-server", "token"][..], args].concat());
        let cli = parse(&["create", "--volume", "a", "--access", "write", "--data-dir", "d"]).unwrap();
        assert_eq!(cli.options.data_dir, Some(PathBuf::from("d")));
        let Some(Command::Token { action: TokenAction::Create { volume, access, name } }) = cli.command
        else {
            panic!("another command")
        };
        assert_eq!((volume.as_str(), access, name.as_str()), ("a", Access::Write, ""));
        for bad in [
            &["create", "--volume", "a"][..],
            &["create", "--access", "read"],
            &["create", "--volume", "a", "--access", "all"],
            &["create", "--volume", "a/b", "--access", "read"],
            &["revoke"],
            &["revoke", "dfs_0123456789abcdef_00"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_quota_names_its_volume_and_a_size_or_none() {
        let parse =
            |args: &[&str]| Cli::try_parse_from([&["dfs-server", "volume", "quota"][..], args].concat());
        for (text, bytes) in [("20MiB", Some(20 << 20)), ("none", None)] {
            let Some(Command::Volume { action: VolumeAction::Quota { name, limit } }) =
                parse(&["main", text]).unwrap().command
            else {
                panic!("another command")
            };
            assert_eq!((name.as_str(), limit.bytes()), ("main", bytes));
        }
        for bad in [&["main"][..], &["20MiB"], &["main", "lots"], &["a/b", "1"]] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_built_yet_is_said_by_name() {
        for (args, name) in
            [(["--metadata", "postgres://x"], "postgres://x"), (["--chunks", "s3://bucket"], "s3://bucket")]
        {
            let error = check(&args).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains("not built yet"), "{error}");
        }
    }

    #[test]
    fn metadata_is_in_sqlite_unless_memory_is_asked_for() {
        let metadata = |args: &[&str]| check(args).unwrap().server.metadata;
        assert_eq!(metadata(&[]), Metadata::Sqlite);
        assert_eq!(metadata(&["--metadata", "sqlite"]), Metadata::Sqlite);
        assert_eq!(metadata(&["--metadata", "memory"]), Metadata::Memory);
        assert!(check(&["--metadata", "Memory"]).is_err());
    }

    #[test]
    fn every_engine_has_its_name_and_tls_needs_both_files() {
        for engine in Engine::ALL {
            let settings = check(&["--engine", engine.name()]).unwrap();
            assert_eq!(settings.server.engine, engine);
        }
        let settings = check(&["--tls-cert", "c", "--tls-key", "k"]).unwrap();
        assert_eq!(settings.server.tls, Some(TlsFiles { certificate: "c".into(), key: "k".into() }));
        for half in [["--tls-cert", "x"], ["--tls-key", "x"]] {
            let error = check(&half).expect_err("half of TLS").to_string();
            assert!(error.contains("--tls-cert") && error.contains("--tls-key"), "{error}");
        }
    }

    #[test]
    fn a_flag_wins_over_the_file_and_unknown_keys_are_named() {
        let text = "listen = '127.0.0.1:1'\nthreads = 3\nlog-format = 'json'";
        let merged = options(&["--threads", "5"]).or_file("f".into(), text).unwrap();
        assert_eq!(merged.threads, Some(5));
        assert_eq!(merged.listen.unwrap().port(), 1);
        assert_eq!(merged.log_format, Some(LogFormat::Json));
        let error = options(&[]).or_file("f.toml".into(), "lisen = 'x'").expect_err("a typing error");
        assert!(crate::report::chain(&error).contains("lisen"), "{error}");
    }

    #[test]
    fn the_history_is_kept_for_a_month_and_a_hundred_versions_unless_said_otherwise() {
        let days = |days: u64| Some(std::time::Duration::from_secs(days * 24 * 3600));
        let retention = |args: &[&str]| check(args).unwrap().server.retention;
        assert_eq!(retention(&[]), Retention { keep: days(30), versions: Some(100) });
        let said = retention(&["--history-keep", "7d", "--history-versions", "3"]);
        assert_eq!(said, Retention { keep: days(7), versions: Some(3) });
        let all = retention(&["--history-keep", "forever", "--history-versions", "0"]);
        assert_eq!(all, Retention { keep: None, versions: None });
        let file = options(&[]).or_file("f".into(), "history-keep = '2d'\nhistory-versions = 5").unwrap();
        let file = file.check(Some("/d".into())).unwrap().server.retention;
        assert_eq!(file, Retention { keep: days(2), versions: Some(5) });
        assert!(Cli::try_parse_from(["dfs-server", "--history-keep", "7"]).is_err());
    }

    #[test]
    fn flags_may_stand_before_and_after_a_command() {
        for args in [["--data-dir", "d", "volume", "list"], ["volume", "list", "--data-dir", "d"]] {
            let cli = Cli::try_parse_from([&["dfs-server"][..], &args].concat()).unwrap();
            assert_eq!(cli.options.data_dir, Some(PathBuf::from("d")));
            assert_eq!(cli.command, Some(Command::Volume { action: VolumeAction::List }));
        }
    }
}
