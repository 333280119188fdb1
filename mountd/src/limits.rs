//! Maxima of the mount. Each has its reason; what both sides share stands in `dfs_shared::limits`.

/// Bytes of table blocks that the embedded store keeps in memory.
pub const STORE_CACHE_BYTES: u64 = 32 << 20;
/// Bytes of one table's newest rows in memory before they go to disk: eleven tables share 150 MiB at worst.
pub const STORE_MEMTABLE_BYTES: u64 = 8 << 20;
/// Room in bytes on the state directory's file system below which the tree takes no growth.
pub const STORE_FREE_MIN: u64 = 16 << 20;
/// Bytes kept in reserve for the journal when the disk is full.
pub const STORE_RESERVE_BYTES: u64 = 16 << 20;
/// Numbers reserved with one write; a crash wastes at most this many of 2^64.
pub const NUMBERS_RESERVED_AT_ONCE: u64 = 1 << 20;
/// Most names of one node: Linux's `LINK_MAX` on ext4.
pub const LINKS_MAX: u32 = 65_000;
/// Deepest path that is followed upwards: deeper ones cannot be named by `PATH_MAX` anyway.
pub const PATH_DEPTH_MAX: usize = 4096;

/// Longest wait for a TCP connection in milliseconds: past it the next server is tried.
pub const CONNECT_TIMEOUT_MS: u64 = 3_000;
/// Longest silence inside a request in milliseconds: a server that commits 20,000 changes is done in a tenth of it.
pub const REQUEST_SILENCE_MS_MAX: u64 = 30_000;
/// Longest time in milliseconds that sent bytes may stay unacknowledged by the peer's kernel before the connection is dead.
pub const UNSENT_MS_MAX: u64 = 10_000;
/// Most idle connections that are kept: commits, queries, two uploads, four downloads.
pub const IDLE_CONNECTIONS_MAX: usize = 8;
/// Most bytes of an error's body that are read: codes and messages are short.
pub const ERROR_BODY_LEN_MAX: usize = 64 * 1024;
