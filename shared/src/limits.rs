//! Maxima that both sides agree on. Each has its reason; each is tested at the limit and one past it.

/// Longest name of an entry in bytes: Linux's `NAME_MAX`.
pub const NAME_LEN_MAX: usize = 255;
/// Longest symlink target in bytes: Linux's `PATH_MAX` without its NUL.
pub const TARGET_LEN_MAX: usize = 4095;
/// Longest value of one extended attribute in bytes: Linux's `XATTR_SIZE_MAX`.
pub const XATTR_VALUE_LEN_MAX: usize = 64 * 1024;
/// Longest name of an extended attribute in bytes: Linux's `XATTR_NAME_MAX`.
pub const XATTR_NAME_LEN_MAX: usize = 255;
/// Sum of all names and values of one node's extended attributes in bytes: a record has to travel whole.
pub const XATTRS_LEN_MAX: usize = 128 * 1024;
/// Longest name of a volume in bytes: it is a path segment of every route.
pub const VOLUME_NAME_LEN_MAX: usize = 64;
/// Longest id of a client in bytes: host name plus a unique suffix.
pub const CLIENT_ID_LEN_MAX: usize = 128;

/// Base-2 logarithm of the smallest average chunk size: smaller ones cost more to name than to send.
pub const CHUNK_LOG2_MIN: u8 = 14;
/// Base-2 logarithm of the largest average chunk size: keeps a 5 GiB file near 1,000 chunks.
pub const CHUNK_LOG2_MAX: u8 = 22;
/// Longest chunk in bytes: four times the largest average, as FastCDC cuts.
pub const CHUNK_LEN_MAX: u64 = 4 << CHUNK_LOG2_MAX;
/// Contents up to this many bytes are one chunk that travels inside the commit, lives in the metadata
/// database and is pushed with the event: fewer round trips than asking and uploading.
pub const SMALL_CONTENT_LEN_MAX: u64 = 32 * 1024;
/// Most chunks in one manifest: a 64 TiB file in the largest chunks.
pub const MANIFEST_CHUNKS_MAX: usize = 1 << 22;
/// Manifests of up to this many chunks are pushed inside the event that names them.
pub const EVENT_MANIFEST_CHUNKS_MAX: usize = 8192;

/// Largest encoded message in bytes that either side reads: a commit of many small contents, or a long manifest.
pub const MESSAGE_LEN_MAX: usize = 256 << 20;
/// Most changes that a mount puts into one commit: bounds the server's transaction.
pub const COMMIT_CHANGES_MAX: usize = 20_000;
/// Most records that the refusal of one group tells: those of the group, and 1024 that the broken rule is about.
pub const REFUSED_RECORDS_MAX: usize = COMMIT_CHANGES_MAX + 1024;
/// Most bytes of small contents that a mount puts into one commit.
pub const COMMIT_SMALL_BYTES_MAX: usize = 8 << 20;
/// Most states of a volume that a mount remembers and asks the server about: every few revisions of late, and twice as far apart for
/// each age.
pub const STATES_SEEN_MAX: usize = 64;
/// Most hashes in one question for missing chunks, keys in one request for records, or prefixes in one walk step.
pub const QUERY_ITEMS_MAX: usize = 16_384;
/// Most bytes of chunks in one upload or download request.
pub const CHUNK_BATCH_LEN_MAX: usize = 32 << 20;
/// Most files in one report of a mount: the server writes as many rows beside commits that wait.
pub const REPORT_HELD_MAX: usize = 1024;
/// Most events in one report of a mount.
pub const REPORT_EVENTS_MAX: usize = 256;
/// Clients of one name that a mount is told of.
pub const NAMESAKES_MAX: usize = 16;
/// Longest path in a report in bytes: Linux's `PATH_MAX`.
pub const REPORT_PATH_LEN_MAX: usize = 4096;
/// Longest reason in a report in bytes: a line for people.
pub const REPORT_REASON_LEN_MAX: usize = 512;
/// Longest silence on the event stream in milliseconds before the server sends a heartbeat.
pub const HEARTBEAT_INTERVAL_MS: u64 = 5_000;
/// Longest silence in milliseconds after which a mount takes the event stream for dead: three heartbeats.
pub const STREAM_SILENCE_MS_MAX: u64 = 3 * HEARTBEAT_INTERVAL_MS;
/// Most records in a leaf of the Merkle tree: with fewer, branches outgrow what they name; with more, a
/// change rewrites and sends too much. Part of the format.
pub const MERKLE_LEAF_RECORDS_MAX: usize = 16;
/// Most nodes that one walk takes from the other side: more than a volume of 100 million records has.
pub const MERKLE_WALK_NODES_MAX: usize = 1 << 27;
/// Longest queue of a listener on the event bus, in events: what waits is in memory.
pub const EVENT_QUEUE_LEN_MAX: usize = 1 << 20;

/// Most errors of one text of the metadata language that are reported: a text in another language has one in every line.
pub const DDL_DIAGNOSTICS_MAX: usize = 100;
/// Deepest nesting of fields in the metadata language; the deepest field that exists is at 4.
pub const DDL_DEPTH_MAX: usize = 16;
/// Most records in one text or binary form of metadata.
pub const DDL_RECORDS_MAX: usize = 100_000;
/// Most replicas of one record.
pub const DDL_REPLICAS_MAX: usize = 10_000;
/// Versions or removed names in one answer about the history: a few hundred KiB.
pub const HISTORY_ITEMS_MAX: usize = 1000;
