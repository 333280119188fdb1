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
/// Revisions whose Merkle root is kept for each volume, to recognise a volume that went back: a mount that was away for longer is
/// believed to have seen the same. About 60 bytes each.
pub const ROOTS_KEPT: u64 = 65_536;
/// Rows after which the write-ahead log is moved into the database: a few MiB of log.
pub const CHECKPOINT_WEIGHT: usize = 2048;
/// Newest versions of a file that a past version is compared with, so that one that is brought again after a lost reply is kept once:
/// they are read by the one writer.
pub const PAST_VERSIONS_COMPARED: usize = 64;

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
/// Longest JSON body in bytes that is sent as it is to who accepts gzip: it fits into one or two packets.
pub const HTTP_UNCOMPRESSED_LEN_MAX: usize = 2 * 1024;
/// Bytes that are compressed before others may run: well below a millisecond.
pub const HTTP_COMPRESS_PIECE_LEN: usize = 32 * 1024;
/// Response bodies up to this many bytes are copied behind their head and leave in the same system call.
pub const HTTP_COALESCE_LEN: usize = 16 * 1024;
/// Pieces of a request body that may wait for the handler: with [`HTTP_READ_LEN`] this bounds a connection's memory.
pub const HTTP_BODY_PIECES_MAX: usize = 4;
/// Most bytes of an unread request body that are read past so that the connection can be used again.
pub const HTTP_DISCARD_LEN_MAX: u64 = 256 * 1024;
/// Most connections at once: each costs a file descriptor and about 10 KiB.
pub const HTTP_CONNECTIONS_MAX: usize = 16_384;
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
/// Most bytes of a file that one system call sends: a thread is not kept by one fast peer and a cold disk.
pub const HTTP_SENDFILE_LEN: usize = 1024 * 1024;
/// Milliseconds that the blocking engine stays with a request that waits before others are served meanwhile: longer
/// than a commit takes, short enough that a hundred slow peers cost the next one a second.
pub const HTTP_PATIENCE_MS: u64 = 10;
/// Reads and writes that succeed at once before a connection lets others have their turn.
pub const HTTP_TURN_OPERATIONS_MAX: u32 = 128;
/// Most events that a thread takes from the kernel at once.
pub const HTTP_EVENTS_MAX: usize = 256;
/// Connections served from the queue before a thread looks at the sockets again.
pub const HTTP_TURNS_BETWEEN_LOOKS: u32 = 64;
/// Largest certificate or key file in bytes.
pub const TLS_FILE_LEN_MAX: u64 = 1024 * 1024;
/// Bytes of a response that one TLS session may hold encrypted and unsent.
pub const TLS_UNSENT_LEN_MAX: usize = 64 * 1024;
/// Pause in milliseconds before the next accept when the process has no file descriptor left.
pub const HTTP_ACCEPT_PAUSE_MS: u64 = 50;
/// Replies kept for each client, in commit numbers: more than a mount ever has under way.
pub const COMMIT_REPLIES_KEPT: u64 = 64;
/// Entries that a refusal reports beyond those of the group, perhaps each with what it leads to: enough to see the conflict,
/// small enough to send.
pub const REFUSAL_RECORDS_MAX: usize = 256;
/// Chunks of one upload that are hashed and written at the same time.
pub const CHUNK_WRITES_MAX: usize = 4;
/// Largest body of a query in bytes: `QUERY_ITEMS_MAX` keys with the longest names.
pub const QUERY_LEN_MAX: usize = 8 << 20;
/// Bytes of chunks that are gathered before they are handed to the connection.
pub const CHUNK_PIECE_LEN: usize = 256 * 1024;
/// Shortest chunk in bytes that is sent from its file, of a download the average one: opening costs more than copying fewer.
pub const CHUNK_FROM_FILE_LEN_MIN: u64 = 64 * 1024;
/// Bytes of chunks' files that are handed to the connection at once: what a revoked token may still bring. With 1 MiB the hand-over
/// between threads made downloads slower than those of nginx (docs/BENCHMARKS.md).
pub const CHUNK_FILES_PIECE_LEN: u64 = 8 << 20;
/// Most chunk files that are open for sending at once: further chunks are read into memory.
pub const CHUNK_FILES_OPEN_MAX: usize = 256;
/// Most chunk files that are remembered as verified: some MiB of memory, 16 GiB of chunks of the usual size.
pub const CHUNKS_VERIFIED_MAX: usize = 65_536;
/// Seconds after which a chunk file is verified again though nobody wrote to it: a disk may rot.
pub const CHUNK_VERIFIED_S_MAX: u64 = 600;
/// Seconds that a file has to rest before it is remembered as verified: several ticks of the clock of its times.
pub const CHUNK_SETTLED_S: u64 = 1;
/// Seconds by which a chunk's file is dated back when it is written: more than the coarsest clock of a file system, two seconds.
pub const CHUNK_DATED_BACK_S: u64 = 10;
/// Chunks of a download that are verified ahead of those that are being handed to the connection: each is an open file, or bytes.
pub const CHUNKS_AHEAD_MAX: usize = 2;
/// Pieces of chunks that are read ahead of a peer: with the largest chunk this bounds a download's memory.
pub const CHUNK_PIECES_MAX: usize = 2;
/// Frames that wait for one event stream before it counts as too slow.
pub const STREAM_FRAMES_MAX: usize = 1024;
/// Bytes of frames that wait for one event stream before it counts as too slow.
pub const STREAM_BYTES_MAX: usize = 64 << 20;

/// Bytes of the changes of past commits that are kept for listeners that come back, for each volume: about a million files.
pub const COMMIT_CHANGES_LEN_KEPT: u64 = 64 << 20;
/// Commits whose changes are read at once for a listener that comes back: each may be of 20,000 files.
pub const COMMIT_CHANGES_READ: usize = 16;

// files

/// Most mounts that are shown as holders of a file.
pub const FILE_REPLICAS_SHOWN_MAX: usize = 1000;

/// Longest path in the public API in bytes: Linux's `PATH_MAX`.
pub const FILE_PATH_LEN_MAX: usize = 4096;
/// Longest owner of a file in the public API in bytes: it is an extended attribute of every record that travels.
pub const FILE_OWNER_LEN_MAX: usize = 255;
/// How often a change by path is planned anew when others changed the same records.
pub const FILE_TRIES_MAX: usize = 16;
/// Files on a page of a list that asks for no number.
pub const FILE_PAGE_LEN_DEFAULT: usize = 1000;
/// Bytes read for hashes that nobody told, after which a page of a list ends: a fraction of a second.
pub const FILE_PAGE_HASHED_LEN_MAX: u64 = 256 << 20;
/// Bytes that one request for a file's history reads for hashes that nobody told: some seconds. Each version may be of
/// [`FILE_HASH_LEN_MAX`] bytes, and there may be [`FILE_VERSIONS_MAX`] of them.
pub const FILE_HISTORY_HASHED_LEN_MAX: u64 = 1 << 30;
/// Longest text of an import in bytes: some 100,000 records, which the metadata language has as its own limit.
pub const IMPORT_LEN_MAX: usize = 32 << 20;
/// Largest body with metadata of files in bytes: [`METADATA_RECORDS_MAX`] records of 4 KiB.
pub const METADATA_BODY_LEN_MAX: usize = 4 << 20;
/// Most records in one request that adds or updates metadata: each is a commit.
pub const METADATA_RECORDS_MAX: usize = 1000;
/// Most files on one page of a list.
pub const FILE_PAGE_LEN_MAX: usize = 10_000;
/// Most records that one page of a list looks at: a few hundred milliseconds.
pub const FILE_PAGE_VISITS_MAX: usize = 50_000;
/// Entries of a directory that a walk reads at once.
pub const FILE_WALK_BATCH_LEN: usize = 256;
/// Longest content in bytes that the server reads to tell its hash: a minute or so. A sparse file may claim any length.
pub const FILE_HASH_LEN_MAX: u64 = 64 << 30;
/// Versions of one file that a history shows: newest first, the rest is asked for by number.
pub const FILE_VERSIONS_MAX: usize = 10_000;

// sync sessions

/// Seconds after which a session whose client is silent ends and its staged bytes go: a laptop may sleep for a day.
pub const SESSION_SILENCE_S_MAX: i64 = 48 * 3600;
/// Seconds between two looks for expired sessions.
pub const SESSION_SWEEP_INTERVAL_S: u64 = 600;
/// Most sessions at once: each may hold [`SESSION_STAGED_LEN_MAX`] bytes of disk.
pub const SESSIONS_MAX: u64 = 4096;
/// Most sessions of one client: what it left behind must not use up all of them.
pub const CLIENT_SESSIONS_MAX: u64 = 64;
/// Most staged bytes of one session.
pub const SESSION_STAGED_LEN_MAX: u64 = 64 << 30;
/// Longest chunk that is uploaded in bytes; it is in memory while it is checked.
pub const UPLOAD_CHUNK_LEN_MAX: usize = 16 << 20;
/// Longest body that brings a chunk as JSON: its bytes in hexadecimal digits, and names.
pub const UPLOAD_BODY_LEN_MAX: usize = 2 * UPLOAD_CHUNK_LEN_MAX + 64 * 1024;
/// Most chunks of one upload: each is a row and a file.
pub const UPLOAD_CHUNKS_MAX: u64 = 1 << 18;
/// Most missing chunks that one answer lists.
pub const UPLOAD_MISSING_MAX: usize = 1000;
/// Most rows of staged chunks that are read at once.
pub const STAGED_CHUNKS_READ: usize = 256;
/// Largest snapshot that a client may send, in bytes of JSON.
pub const SNAPSHOT_LEN_MAX: usize = 64 << 20;
/// Most files in a snapshot that a client sends.
pub const SNAPSHOT_FILES_MAX: usize = 200_000;
/// Most files of a plan, and so of a diff's reply.
pub const PLAN_FILES_MAX: usize = 400_000;
/// Longest name or platform that a client may register, in bytes.
pub const CLIENT_NAME_LEN_MAX: usize = 256;
/// Largest body of a small request in bytes: a few names and hashes.
pub const SMALL_BODY_LEN_MAX: usize = 64 * 1024;

// events

/// Events kept for listeners that come back or fall behind.
pub const FEED_EVENTS_MAX: usize = 8192;
/// Bytes of events kept for listeners that come back or fall behind.
pub const FEED_BYTES_MAX: usize = 8 << 20;
/// Events that wait to be put into the feed; beyond that the newest are dropped and a gap is told.
pub const FEED_QUEUE_MAX: usize = 16_384;
/// Most listeners of the feed at once.
pub const FEED_LISTENERS_MAX: usize = 1024;
/// Milliseconds that a server which ends waits for its listeners to hear of that: whoever does not read keeps it no longer.
pub const FEED_FAREWELL_MS_MAX: u64 = 2_000;
/// Bytes that one piece of an event stream gathers at most, beyond its first event.
pub const FEED_PIECE_LEN: usize = 32 * 1024;
/// Milliseconds after which access tokens are read again where the system gives no file watch: what "at once" means there.
pub const ACCESS_RELOAD_MS: u64 = 900;
/// Good access tokens in one store: all of them are held in memory.
pub const ACCESS_TOKENS_MAX: usize = 10_000;
/// Longest name of an access token in bytes: it is printed in a line.
pub const ACCESS_TOKEN_NAME_LEN_MAX: usize = 128;

// disk

/// Room in bytes that chunks leave on the disk of the data directory, for the metadata; of a small disk an eighth.
pub const DISK_RESERVE: u64 = 64 << 20;

// upkeep

/// Seconds for which a version is kept after it was replaced or removed, unless the configuration says otherwise: a month.
pub const HISTORY_KEEP_S_DEFAULT: u64 = 30 * 24 * 3600;
/// Replaced versions of one file that are kept, unless the configuration says otherwise: a file that is saved all day.
pub const HISTORY_VERSIONS_DEFAULT: u64 = 100;
/// Seconds between the moment when nothing referred to a chunk and its end: longer than any upload takes to commit.
pub const GC_GRACE_S_DEFAULT: u64 = 3600;
/// Most seconds by which history gets older from one sweep to the next, whatever the clock says: a day.
pub const HISTORY_AGES_S_PER_SWEEP: i64 = 24 * 3600;
/// Seconds between two collections in the background.
pub const GC_INTERVAL_S: i64 = 3600;
/// Hashes that are held in memory at once while references are read: some 50 MB.
pub const GC_REFERENCES_MAX: usize = 4 << 20;
/// Rows that upkeep reads or writes in one transaction: a few milliseconds of the writer.
pub const UPKEEP_PAGE_LEN: usize = 256;

/// Problems that a check lists; it counts the rest.
pub const CHECK_PROBLEMS_MAX: usize = 1000;
/// Unreadable chunks that a backup names.
pub const BACKUP_UNREADABLE_MAX: usize = 1000;
