//! The dfs mount as a library; the binaries wire its parts.
