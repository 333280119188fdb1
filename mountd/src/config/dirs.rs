//! Where a mount keeps its things unless it is told.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What of the environment decides where things are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The user is root.
    pub is_root: bool,
    /// `HOME`.
    pub home: Option<OsString>,
    /// `XDG_STATE_HOME`.
    pub state_home: Option<OsString>,
    /// `XDG_CACHE_HOME`.
    pub cache_home: Option<OsString>,
    /// `XDG_DATA_HOME`.
    pub data_home: Option<OsString>,
}

impl Environment {
    /// Reads the process's environment.
    #[must_use]
    pub fn read() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            // SAFETY: no preconditions.
            is_root: unsafe { libc::geteuid() } == 0,
            home: set("HOME"),
            state_home: set("XDG_STATE_HOME"),
            cache_home: set("XDG_CACHE_HOME"),
            data_home: set("XDG_DATA_HOME"),
        }
    }

    fn under_home(&self, place: &str) -> PathBuf {
        Path::new(self.home.as_deref().unwrap_or("/".as_ref())).join(place)
    }

    /// Returns the default state directory of a mount.
    #[must_use]
    pub fn state_dir(&self, mount_point: &Path, volume: &str) -> PathBuf {
        let base = match &self.state_home {
            Some(home) => Path::new(home).join("dfs"),
            None if self.is_root => PathBuf::from("/var/lib/dfs"),
            None => self.under_home(".local/state/dfs"),
        };
        base.join("mounts").join(name_of(mount_point, volume))
    }

    /// Returns the default cache directory of a mount.
    #[must_use]
    pub fn cache_dir(&self, mount_point: &Path, volume: &str) -> PathBuf {
        let base = match &self.cache_home {
            Some(home) => Path::new(home).join("dfs"),
            None if self.is_root => PathBuf::from("/var/cache/dfs"),
            None => self.under_home(".cache/dfs"),
        };
        base.join("mounts").join(name_of(mount_point, volume))
    }

    /// Returns where the embedded server keeps its data.
    #[must_use]
    pub fn server_data_dir(&self) -> PathBuf {
        match &self.data_home {
            Some(home) => Path::new(home).join("dfs"),
            None => self.under_home(".local/share/dfs"),
        }
    }
}

/// Names a mount's directories after where it is and what it shows; the mount point is still legible in it.
fn name_of(mount_point: &Path, volume: &str) -> String {
    let mut name = String::new();
    for byte in mount_point.as_os_str().as_bytes() {
        match byte {
            b'/' => name.push('-'),
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_') => {
                name.push(char::from(*byte))
            }
            byte => name.push_str(&format!("%{byte:02x}")),
        }
    }
    let name = name.trim_start_matches('-');
    let mut name = format!("{volume}@{name}");
    if name.len() > 200 {
        let hash = dfs_shared::hash::ChunkHash::of(name.as_bytes()).to_string();
        name.truncate(150);
        name.push_str(&hash[..32]);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_mount_points_never_share_a_directory() {
        let paths = ["/a-b", "/a/b", "/a%2db", "/a b", "/a", "/A"];
        let names: std::collections::BTreeSet<String> =
            paths.iter().map(|path| name_of(Path::new(path), "main")).collect();
        assert_eq!(names.len(), paths.len(), "{names:?}");
        assert_ne!(name_of(Path::new("/a"), "x"), name_of(Path::new("/a"), "y"));
        let long = format!("/{}", "x".repeat(4000));
        assert!(name_of(Path::new(&long), "main").len() < 255);
    }

    #[test]
    fn defaults_follow_the_user_and_the_environment() {
        let home = Environment { home: Some("/home/u".into()), ..Environment::default() };
        assert!(home.state_dir(Path::new("/m"), "main").starts_with("/home/u/.local/state/dfs"));
        let root = Environment { is_root: true, ..home.clone() };
        assert!(root.state_dir(Path::new("/m"), "main").starts_with("/var/lib/dfs"));
        assert!(root.cache_dir(Path::new("/m"), "main").starts_with("/var/cache/dfs"));
        let xdg = Environment { state_home: Some("/s".into()), cache_home: Some("/c".into()), ..root };
        assert!(xdg.state_dir(Path::new("/m"), "main").starts_with("/s/dfs"));
        assert!(xdg.cache_dir(Path::new("/m"), "main").starts_with("/c/dfs"));
        assert_eq!(home.server_data_dir(), Path::new("/home/u/.local/share/dfs"));
    }
}
