//! What a mount is told on its command line, by its environment and by its configuration file.
//!
//! A flag comes before a variable, a variable before the file, the file before the default. Owns where things are
//! kept by default. Leaves using them to the binary.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::limits::RATE_MIN;

pub mod daemon;
pub mod dirs;
pub mod lock;

/// When `fsync` returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fsync {
    /// When the data is on this machine's disk.
    Local,
    /// When the server has it, too.
    Server,
}

/// What happens when two mounts changed the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// Both versions stay, side by side.
    KeepBoth,
    /// Texts are merged.
    Merge,
    /// The version with the later modification time stays; the other one goes into the history.
    LastWriteWins,
    /// The path waits for `dfs resolve`.
    Manual,
}

/// Mounts a dfs volume: a directory that stays in sync with a server.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "dfs-mount",
    version,
    max_term_width = 100,
    disable_help_flag = true,
    after_help = "Example:\n  dfs-mount /mnt/sync --server host:8080     join the volume `main` of a server\n  \
                  dfs-mount /mnt/sync                        run a server on 127.0.0.1:8080, too\n\n\
                  `dfs status`, `dfs wait` and `dfs umount` talk to a running mount."
)]
pub struct Arguments {
    /// Print help
    #[arg(long, short, action = clap::ArgAction::HelpShort)]
    help: Option<bool>,
    /// Directory to mount on; made if missing, otherwise it must be empty
    pub mountpoint: PathBuf,
    /// Server as HOST:PORT or http://HOST:PORT; more are tried in turn [default: one of its own]
    #[arg(long, env = "DFS_SERVER", value_delimiter = ',', value_name = "HOST:PORT")]
    pub server: Vec<String>,
    /// Volume to mount [default: main]
    #[arg(long, env = "DFS_VOLUME", value_name = "NAME")]
    pub volume: Option<String>,
    /// Journal, local tree and content written here
    #[arg(long, env = "DFS_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Content fetched from the server; may be deleted while nothing is mounted
    #[arg(long, env = "DFS_CACHE_DIR", value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Most bytes of content that the server has, too [default: 20GiB]
    #[arg(long, env = "DFS_CACHE_SIZE", value_name = "SIZE")]
    pub cache_size: Option<String>,
    /// Most bytes of content sent in a second, as 2MiB [default: no limit]
    #[arg(long, env = "DFS_LIMIT_UP", value_name = "RATE")]
    pub limit_up: Option<String>,
    /// Most bytes of content fetched in a second
    #[arg(long, env = "DFS_LIMIT_DOWN", value_name = "RATE")]
    pub limit_down: Option<String>,
    /// File that holds the access token (or the variable DFS_TOKEN)
    #[arg(long, env = "DFS_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificate authority of the server
    #[arg(long, env = "DFS_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Name of this mount for people [default: the host's name]
    #[arg(long, env = "DFS_CLIENT_NAME", value_name = "NAME")]
    pub client_name: Option<String>,
    /// Refuse every change
    #[arg(long, env = "DFS_READ_ONLY")]
    pub read_only: bool,
    /// Let other users use the mount
    #[arg(long, env = "DFS_ALLOW_OTHER")]
    pub allow_other: bool,
    /// Mount options as mount(8) has them; `nowarm`: never list directories ahead for the kernel's caches
    #[arg(short = 'o', value_delimiter = ',', value_name = "OPT")]
    pub options: Vec<String>,
    /// Return when the mount is usable and go on in the background
    #[arg(short, long)]
    pub daemon: bool,
    /// When fsync returns [default: local]
    #[arg(long, env = "DFS_FSYNC", value_enum, value_name = "WHERE")]
    pub fsync: Option<Fsync>,
    /// When two mounts changed the same thing [default: keep-both]; of paths: --on-conflict-for PATTERN=POLICY
    #[arg(long, env = "DFS_ON_CONFLICT", value_enum, value_name = "POLICY")]
    pub on_conflict: Option<OnConflict>,
    /// The policy of the paths that a pattern matches, the last one first; may be repeated
    #[arg(
        long,
        env = "DFS_ON_CONFLICT_FOR",
        value_delimiter = ';',
        value_name = "PATTERN=POLICY",
        hide = true
    )]
    pub on_conflict_for: Vec<String>,
    /// What is logged: error, warn, info, debug, trace [default: info]
    #[arg(long, env = "DFS_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// TOML file with any of these settings
    #[arg(long, env = "DFS_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct FileConfig {
    server: Servers,
    #[serde(alias = "volume_name")]
    volume: Option<String>,
    #[serde(alias = "state_dir")]
    state_dir: Option<PathBuf>,
    #[serde(alias = "cache_dir")]
    cache_dir: Option<PathBuf>,
    #[serde(alias = "cache_size")]
    cache_size: Option<String>,
    #[serde(alias = "limit_up")]
    limit_up: Option<String>,
    #[serde(alias = "limit_down")]
    limit_down: Option<String>,
    #[serde(alias = "token_file")]
    token_file: Option<PathBuf>,
    ca: Option<PathBuf>,
    #[serde(alias = "client_name")]
    client_name: Option<String>,
    #[serde(alias = "read_only")]
    read_only: bool,
    #[serde(alias = "allow_other")]
    allow_other: bool,
    options: Vec<String>,
    fsync: Option<Fsync>,
    #[serde(alias = "on_conflict")]
    on_conflict: Option<OnConflict>,
    #[serde(alias = "on_conflict_for")]
    on_conflict_for: Vec<String>,
    #[serde(alias = "log_level")]
    log_level: Option<String>,
}

/// One server or several.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Servers {
    One(String),
    Several(Vec<String>),
}

impl Default for Servers {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

/// Why the settings cannot be used. Each is wrong usage.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The configuration file is malformed.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What and where.
        reason: String,
    },
    /// A value is malformed.
    #[error("--{flag}: {reason}")]
    Value {
        /// Of which flag.
        flag: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl Arguments {
    /// Adds what the configuration file says and refuses what is not built in.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn complete(mut self) -> Result<Self, ConfigError> {
        if let Some(path) = self.config.clone() {
            let text = std::fs::read_to_string(&path)
                .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
            let file = toml::from_str(&text)
                .map_err(|error| ConfigError::Malformed { path, reason: error.to_string() })?;
            self.merge(file);
        }
        self.conflict_patterns()?;
        Ok(self)
    }

    /// Returns the patterns of `--on-conflict-for` with their policies, in their order.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names one that is not `PATTERN=POLICY`.
    pub fn conflict_patterns(&self) -> Result<Vec<(String, OnConflict)>, ConfigError> {
        let parse = |text: &String| {
            let (pattern, policy) = text.rsplit_once('=')?;
            let policy = OnConflict::from_str(policy, false).ok()?;
            (!pattern.is_empty()).then(|| (pattern.to_owned(), policy))
        };
        let patterns = self.on_conflict_for.iter().map(|text| {
            parse(text).ok_or_else(|| ConfigError::Value {
                flag: "on-conflict-for",
                reason: format!("`{text}` is not PATTERN=POLICY, as in `*.md=manual`"),
            })
        });
        patterns.collect()
    }

    fn merge(&mut self, file: FileConfig) {
        if self.server.is_empty() {
            self.server = match file.server {
                Servers::One(server) => vec![server],
                Servers::Several(servers) => servers,
            };
        }
        self.volume = self.volume.take().or(file.volume);
        self.state_dir = self.state_dir.take().or(file.state_dir);
        self.cache_dir = self.cache_dir.take().or(file.cache_dir);
        self.cache_size = self.cache_size.take().or(file.cache_size);
        self.limit_up = self.limit_up.take().or(file.limit_up);
        self.limit_down = self.limit_down.take().or(file.limit_down);
        self.token_file = self.token_file.take().or(file.token_file);
        self.ca = self.ca.take().or(file.ca);
        self.client_name = self.client_name.take().or(file.client_name);
        self.read_only |= file.read_only;
        self.allow_other |= file.allow_other;
        self.options.extend(file.options);
        self.fsync = self.fsync.or(file.fsync);
        self.on_conflict = self.on_conflict.or(file.on_conflict);
        if self.on_conflict_for.is_empty() {
            self.on_conflict_for = file.on_conflict_for;
        }
        self.log_level = self.log_level.take().or(file.log_level);
    }

    /// Returns the most bytes of content sent and fetched in a second, where there is a limit.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn rates(&self) -> Result<(Option<u64>, Option<u64>), ConfigError> {
        let up = parse_rate("limit-up", self.limit_up.as_deref())?;
        Ok((up, parse_rate("limit-down", self.limit_down.as_deref())?))
    }

    /// Returns the most bytes of cached content.
    ///
    /// # Errors
    /// [`ConfigError::Value`].
    pub fn cache_size_bytes(&self) -> Result<u64, ConfigError> {
        let text = self.cache_size.as_deref().unwrap_or("20GiB");
        parse_size(text).ok_or_else(|| ConfigError::Value {
            flag: "cache-size",
            reason: format!("`{text}` is no size: give a number with B, KiB, MiB, GiB or TiB"),
        })
    }
}

/// Reads a bandwidth limit such as `2MiB` or `500K/s`; `0` is no limit.
fn parse_rate(flag: &'static str, text: Option<&str>) -> Result<Option<u64>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    let number = text.trim();
    match parse_size(number.strip_suffix("/s").unwrap_or(number)) {
        Some(0) => Ok(None),
        Some(rate) if rate >= RATE_MIN => Ok(Some(rate)),
        Some(_) => Err(ConfigError::Value {
            flag,
            reason: format!("`{text}` is too low: at least {RATE_MIN} bytes"),
        }),
        None => Err(ConfigError::Value {
            flag,
            reason: format!("`{text}` is no rate: give bytes per second, as 2MiB; 0 is no limit"),
        }),
    }
}

/// Reads a size such as `512MiB`, `20G` or `1000000`; units are powers of 1024.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    dfs_shared::size::parse(text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Arguments {
        Arguments::try_parse_from([&["dfs-mount"], arguments].concat()).expect("arguments")
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_defaults() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("dfs.toml");
        std::fs::write(
            &path,
            "server = \"file:1\"\nvolume = \"file\"\ncache-size = \"1MiB\"\nread_only = true\n",
        )
        .expect("a file");
        let config = path.to_str().expect("UTF-8");
        let merged = parse(&["/m", "--volume", "flag", "--config", config]).complete().expect("good");
        assert_eq!(merged.server, ["file:1"]);
        assert_eq!(merged.volume.as_deref(), Some("flag"));
        assert_eq!(merged.cache_size_bytes().expect("a size"), 1 << 20);
        assert!(merged.read_only);
        std::fs::write(&path, "sever = \"x\"\n").expect("a file");
        let error = parse(&["/m", "--config", config]).complete().expect_err("unknown key");
        assert!(error.to_string().contains("sever"), "{error}");
    }

    #[test]
    fn sizes_are_read_with_and_without_units() {
        assert_eq!(parse_size("20GiB"), Some(20 << 30));
        assert_eq!(parse_size("1 k"), Some(1024));
        assert_eq!(parse_size("7"), Some(7));
        for bad in ["", "x", "1X", "-1", "99999999999TiB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn rates_are_bytes_per_second_and_not_below_the_limit() {
        let rates = |up: &str| parse(&["/m", "--limit-up", up, "--limit-down", "1M/s"]).rates();
        assert_eq!(rates("500K").expect("good"), (Some(500 << 10), Some(1 << 20)));
        assert_eq!(rates("0").expect("good").0, None);
        assert_eq!(rates(&RATE_MIN.to_string()).expect("good").0, Some(RATE_MIN));
        for bad in [&*(RATE_MIN - 1).to_string(), "fast", "1M/h", ""] {
            let error = rates(bad).expect_err("malformed").to_string();
            assert!(error.contains("--limit-up"), "{error}");
        }
        assert_eq!(parse(&["/m"]).rates().expect("good"), (None, None));
    }

    #[test]
    fn every_policy_is_taken_for_the_mount_and_for_paths_and_an_unknown_one_is_refused() {
        for policy in ["keep-both", "merge", "last-write-wins", "manual"] {
            assert!(parse(&["/m", "--on-conflict", policy]).complete().is_ok(), "{policy}");
            let of_paths = format!("*.txt={policy}");
            assert!(parse(&["/m", "--on-conflict-for", &of_paths]).complete().is_ok(), "{policy}");
        }
        let error = parse(&["/m", "--on-conflict-for", "*.txt=newest"]).complete().expect_err("unknown");
        assert!(error.to_string().contains("*.txt=newest"), "{error}");
    }

    #[test]
    fn patterns_of_conflicts_come_from_the_flag_or_else_from_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("dfs.toml");
        std::fs::write(&path, "on-conflict-for = [\"a=b/*=manual\", \"*.txt=keep-both\"]\n").expect("a file");
        let config = ["/m", "--config", path.to_str().expect("UTF-8")];
        let patterns = |more: &[&str]| {
            parse(&[&config, more].concat()).complete().and_then(|arguments| arguments.conflict_patterns())
        };
        let from_file =
            [("a=b/*".to_owned(), OnConflict::Manual), ("*.txt".to_owned(), OnConflict::KeepBoth)];
        assert_eq!(patterns(&[]).expect("good"), from_file);
        let from_flag = patterns(&["--on-conflict-for", "x=manual", "--on-conflict-for", "y=manual"]);
        assert_eq!(from_flag.expect("good").len(), 2);
        for bad in ["x", "=manual", "x=", "x=nonsense"] {
            let error = patterns(&["--on-conflict-for", bad]).expect_err("malformed").to_string();
            assert!(error.contains("PATTERN=POLICY"), "{error}");
        }
    }
}
