//! The server's maxima. Each has its reason. Those that both sides agree on stand in `dfs_shared::limits`.

/// Read connections kept open: more than the cores that can use them at once is waste.
pub const METADATA_READERS_MAX: usize = 8;
/// Milliseconds that a connection waits for another process (`dfs-server volume create`) to finish its write.
pub const DATABASE_BUSY_MS_MAX: u64 = 5_000;
/// Page cache of each database connection in KiB.
pub const DATABASE_CACHE_KIB: i64 = 32 * 1024;
/// Writes that may wait for the writer: each holds a request's body.
pub const WRITE_QUEUE_MAX: usize = 1024;
/// Rows after which a transaction takes no further job: keeps the wait of the first one short.
pub const WRITE_BATCH_WEIGHT: usize = 4096;
/// Pages in the write-ahead log at which the writer stops for a checkpoint: 64 MiB, half a second of disk at worst.
pub const LOG_PAGES_MAX: i64 = 16_384;
/// Rows after which the write-ahead log is moved into the database: a few MiB of log.
pub const CHECKPOINT_WEIGHT: usize = 2048;

// http

/// Longest request target in bytes: a path of Linux's `PATH_MAX`, every byte percent-encoded, and a query.
pub const HTTP_TARGET_LEN_MAX: usize = 16 * 1024;
/// Longest header section in bytes; proxies add a few KiB, nobody needs more.
pub const HTTP_HEADERS_LEN_MAX: usize = 32 * 1024;
/// Most header fields in one request.
pub const HTTP_HEADERS_MAX: usize = 100;
/// Most empty lines that are skipped before a request line (RFC 9112, 2.2 asks for at least one).
pub const HTTP_EMPTY_LINES_MAX: usize = 4;
/// Longest line that holds a chunk's size and extensions, in bytes.
pub const HTTP_CHUNK_LINE_LEN_MAX: usize = 1024;
/// Longest trailer section in bytes: trailers are read past, never used.
pub const HTTP_TRAILERS_LEN_MAX: usize = 8 * 1024;
/// Largest request body in bytes: the longest message of the protocol; handlers ask for less.
pub const HTTP_BODY_LEN_MAX: u64 = dfs_shared::limits::MESSAGE_LEN_MAX as u64;
/// Most bytes that one read takes from a socket.
pub const HTTP_READ_LEN: usize = 64 * 1024;
/// Response bodies up to this many bytes are copied behind their head and leave in the same system call.
pub const HTTP_COALESCE_LEN: usize = 16 * 1024;
/// Pieces of a request body that may wait for the handler: with [`HTTP_READ_LEN`] this bounds a connection's memory.
pub const HTTP_BODY_PIECES_MAX: usize = 4;
/// Most bytes of an unread request body that are read past so that the connection can be used again.
pub const HTTP_DISCARD_LEN_MAX: u64 = 256 * 1024;
/// Most connections at once: each costs a file descriptor and about 10 KiB.
pub const HTTP_CONNECTIONS_MAX: usize = 4096;
/// Longest wait in milliseconds for a complete request head, from its first byte.
pub const HTTP_HEAD_TIMEOUT_MS: u64 = 15_000;
/// Longest wait in milliseconds for the next [`HTTP_BODY_PROGRESS_LEN_MIN`] bytes of a request body.
pub const HTTP_BODY_TIMEOUT_MS: u64 = 30_000;
/// Bytes that a body must bring within each [`HTTP_BODY_TIMEOUT_MS`]: a trickle does not hold a connection for ever.
pub const HTTP_BODY_PROGRESS_LEN_MIN: usize = 4 * 1024;
/// Longest silence in milliseconds between two requests of a connection.
pub const HTTP_IDLE_TIMEOUT_MS: u64 = 75_000;
/// Longest wait in milliseconds for a peer to take any bytes.
pub const HTTP_WRITE_TIMEOUT_MS: u64 = 30_000;
/// Longest wait in milliseconds for requests in flight once the server stops.
pub const HTTP_DRAIN_TIMEOUT_MS: u64 = 10_000;
/// Longest wait in milliseconds for the peer's end after an error was answered, so that it can read the answer.
pub const HTTP_LINGER_TIMEOUT_MS: u64 = 2_000;
/// Silence in milliseconds after which a stream to a peer that has closed its sending side is given up.
pub const HTTP_HALF_CLOSE_GRACE_MS: u64 = 250;
/// Pause in milliseconds before the next accept when the process has no file descriptor left.
pub const HTTP_ACCEPT_PAUSE_MS: u64 = 50;
/// Replies kept for each client, in commit numbers: more than a mount ever has under way.
pub const COMMIT_REPLIES_KEPT: u64 = 64;
/// Records that a refusal reports beyond those of the group: enough to see the conflict, small enough to send.
pub const REFUSAL_RECORDS_MAX: usize = 256;
/// Chunks of one upload that are hashed and written at the same time.
pub const CHUNK_WRITES_MAX: usize = 4;
/// Largest body of a query in bytes: `QUERY_ITEMS_MAX` keys with the longest names.
pub const QUERY_LEN_MAX: usize = 8 << 20;
/// Bytes of chunks that are gathered before they are handed to the connection.
pub const CHUNK_PIECE_LEN: usize = 256 * 1024;
/// Pieces of chunks that are read ahead of a peer: with the largest chunk this bounds a download's memory.
pub const CHUNK_PIECES_MAX: usize = 2;
/// Frames that wait for one event stream before it counts as too slow.
pub const STREAM_FRAMES_MAX: usize = 1024;
/// Bytes of frames that wait for one event stream before it counts as too slow.
pub const STREAM_BYTES_MAX: usize = 64 << 20;
/// Milliseconds after which access tokens are read again where the system gives no file watch: what "at once" means there.
pub const ACCESS_RELOAD_MS: u64 = 900;
/// Good access tokens in one store: all of them are held in memory.
pub const ACCESS_TOKENS_MAX: usize = 10_000;
/// Longest name of an access token in bytes: it is printed in a line.
pub const ACCESS_TOKEN_NAME_LEN_MAX: usize = 128;
