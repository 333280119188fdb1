//! Maxima of the mount. Each has its reason; what both sides share stands in `dfs_shared::limits`.

use dfs_shared::limits::{
    MERKLE_LEAF_RECORDS_MAX, MESSAGE_LEN_MAX, NAME_LEN_MAX, TARGET_LEN_MAX, XATTRS_LEN_MAX,
};

/// Bytes of table blocks that the embedded store keeps in memory.
pub const STORE_CACHE_BYTES: u64 = 32 << 20;
/// Bytes of one table's newest rows in memory before they go to disk: fourteen tables share 150 MiB at worst.
pub const STORE_MEMTABLE_BYTES: u64 = 8 << 20;
/// Bytes of the store's closed journals past which tables that hold them back are written: a start reads every journal, 100 MB in a
/// second. The least that the store takes.
pub const STORE_JOURNALS_BYTES: u64 = 64 << 20;
/// Bytes of journals that a mount which ends leaves to be read by the next start.
pub const STORE_JOURNALS_LEFT_BYTES: u64 = 8 << 20;
/// Longest time in milliseconds that the end of a mount waits for tables to be written out.
pub const STORE_FOLD_MS_MAX: u64 = 5_000;
/// Room in bytes on the state directory's file system below which the tree takes no growth.
pub const STORE_FREE_MIN: u64 = 16 << 20;
/// Room in bytes on that disk below which fetched and sent bytes go, whatever `--cache-size` allows, and writers are slowed while the
/// server takes what they write; an eighth of the disk, if that is less.
pub const DISK_LOW: u64 = 256 << 20;
/// Longest pause in milliseconds before a write of a MiB while the disk is nearly full: slower than most networks, and nobody takes
/// it for a hang.
pub const WRITER_PAUSE_MS_MAX: u64 = 1_000;
/// Shortest time in milliseconds between two looks for bytes that may go while the disk is nearly full.
pub const DISK_LOW_LOOK_MS: u64 = 250;
/// Bytes of each part of what is kept in reserve for the journal when the disk is full.
pub const STORE_RESERVE_PART_BYTES: u64 = 4 << 20;
/// Parts of that reserve.
pub const STORE_RESERVE_PARTS: usize = 4;
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
/// Longest reply in bytes of a few fields, such as to a registration; and what the others may have beside their items.
pub const REPLY_LEN_MAX: usize = 64 * 1024;
/// Longest item in bytes of the list of missing chunks: a hash.
pub const REPLY_HASH_LEN_MAX: usize = 40;
/// Longest Merkle node in bytes in a reply: a leaf of records with the longest names, and their ids and hashes.
pub const REPLY_NODE_LEN_MAX: usize = MERKLE_LEAF_RECORDS_MAX * (NAME_LEN_MAX + 128);
/// Longest record in bytes in a reply: the longest target and all attributes, whose lengths may take as much as they do.
pub const REPLY_RECORD_LEN_MAX: usize = 4 * XATTRS_LEN_MAX + TARGET_LEN_MAX + 2 * NAME_LEN_MAX + 1024;
/// Longest version or removed name in bytes in a reply about the history: a name, who did it, and numbers.
pub const REPLY_VERSION_LEN_MAX: usize = 1024;
/// Longest reply in bytes that tells records, manifests or what became of a commit, and longest event: what the protocol allows.
/// Their lists are bounded where they are decoded.
pub const REPLY_MESSAGE_LEN_MAX: usize = MESSAGE_LEN_MAX;

/// Base-2 logarithm of how many neighbouring backing files share a directory: files made together lie together.
pub const BACKING_DIR_FILES_LOG2: u32 = 12;
/// Bytes copied at once between file systems that the kernel does not copy between.
pub const COPY_BUFFER_LEN: usize = 1 << 20;
/// Bytes fetched into one file before its present ranges are written down: what a crash fetches again at most.
pub const FILL_UNSAVED_MAX: u64 = 32 << 20;
/// Most files whose last use is remembered for eviction; past it the file's own access time has to do.
pub const RECENT_FILES_MAX: usize = 1 << 16;
/// Part of `--cache-size` in percent that eviction goes down to, so that it does not run for every file.
pub const CACHE_LOW_PERCENT: u64 = 90;

/// Files of which it is remembered that their bytes came or went, until the server is told; past it all rows are compared once.
pub const TOUCHED_CONTENTS_MAX: usize = 1 << 16;
/// Rows of what the server was told that are removed in one batch.
pub const REPORTED_ROWS_FORGOTTEN_AT_ONCE: usize = 10_000;
/// Milliseconds without bytes coming or going after which the server is told what is here: a burst is one report.
pub const REPORT_QUIET_MS: u64 = 300;
/// Longest wait in milliseconds for such a pause.
pub const REPORT_WAIT_MS_MAX: u64 = 5_000;
/// Shortest and longest pause between two attempts to reach the server, in milliseconds.
pub const RETRY_MS: std::ops::RangeInclusive<u64> = 50..=5_000;
/// Most frames of the event stream that wait to be applied; past it the peer is slowed down.
pub const STREAM_FRAMES_MAX: usize = 256;
/// Bytes of memory of all events that wait to be applied, as much as a server lets wait; past it the peer is slowed down.
pub const EVENTS_WAITING_LEN_MAX: u32 = 64 << 20;
/// Prefixes asked in one step of a Merkle walk: a reply of about half a megabyte.
pub const WALK_PREFIXES_AT_ONCE: usize = 1024;
/// Differing records up to this many are applied as one batch; more are applied by kind, a batch at a time.
/// (In this crate's own tests fewer, so that a volume with more is made in a moment.)
pub const APPLY_RECORDS_MAX: usize = if cfg!(test) { 400 } else { 20_000 };
/// Reconciliations in a row that may end with different roots before the connection is given up and made anew.
pub const RECONCILE_ATTEMPTS_MAX: u32 = 4;
/// Manifests kept in memory until their file is opened, counted in chunks: at most 40 MiB.
pub const MANIFEST_CHUNKS_KEPT: usize = 1 << 20;
/// Longest pause in milliseconds before a write of a MiB while the quota is near and what waits here could take all of its room.
pub const QUOTA_PAUSE_MS_MAX: u64 = 100;
/// Longest pause before a change is sent again that the server refused for its quota though it seemed to fit.
pub const QUOTA_RETRY_MS_MAX: u64 = 5_000;
/// While the quota leaves fewer bytes than this, the daemon sees every write that makes a file longer; above it the kernel may
/// write backing files by itself, and a file that is opened then can outgrow the quota.
pub const QUOTA_NEAR: u64 = 1 << 30;
/// Journal groups that one plan looks at: about 20 MiB of keys.
pub const PLAN_GROUPS_MAX: usize = 60_000;
/// Most small files that are hashed for one commit.
pub const HASH_FILES_PER_COMMIT: usize = 6_000;
/// How long a file that is open for writing is waited for, in milliseconds, so that a save arrives whole.
pub const OPEN_FILE_GRACE_MS: i64 = 2_000;
/// By how many seconds this machine's clock and the server's may differ before people are told.
pub const CLOCK_APART_S: i64 = 60;
/// Refusals of one change in a row, without news from the server, after which it is left alone until the next connection.
pub const REFUSALS_MAX: u32 = 5;
/// Large files that are read and hashed at the same time: each takes a core and up to 32 MiB.
pub const HASH_TASKS_MAX: usize = 2;
/// Upload requests in flight at the same time.
pub const UPLOAD_REQUESTS_MAX: usize = 2;
/// Bytes in one upload request.
pub const UPLOAD_BATCH_LEN: usize = 8 << 20;
/// Download requests in flight at the same time.
pub const DOWNLOAD_REQUESTS_MAX: usize = 4;
/// Bytes in one download request, but for a chunk that is longer.
pub const DOWNLOAD_BATCH_LEN: u64 = 4 << 20;
/// How far a sequential reader is read ahead of, in bytes: at first, and at most.
pub const READ_AHEAD_LEN: std::ops::RangeInclusive<u64> = (4 << 20)..=(16 << 20);
/// How often one read fetches, each time because a newer version replaced what it waited for.
pub const FETCHES_PER_READ_MAX: u32 = 8;
/// How long a read waits for bytes from the server, in milliseconds.
pub const FETCH_DEADLINE_MS: u64 = 30_000;
/// How long the server may be away, in milliseconds, before reads of bytes that are not here fail at once: it may be starting again.
pub const RECONNECT_GRACE_MS: i64 = 3_000;
/// How often is looked, in milliseconds, whether a program whose read waits was killed.
pub const KILLED_LOOK_MS: u64 = 200;
/// How long an idle download keeps its place in the file, in milliseconds.
pub const DOWNLOAD_LINGER_MS: u64 = 2_000;
/// Most reads of one file that wait for bytes.
pub const FETCH_WAITERS_MAX: usize = 4096;
/// How long `fsync` waits for the server with `--fsync=server`, in milliseconds.
pub const BARRIER_DEADLINE_MS: u64 = 60_000;
/// Most patterns that say how conflicts are resolved: each file in conflict is compared with all of them.
pub const CONFLICT_PATTERNS_MAX: usize = 256;
/// Longest text in bytes that is merged: three of them are held in memory, and comparing takes a core.
pub const MERGE_LEN_MAX: u64 = 512 << 10;
/// How often a merge that somebody asks for is tried while one of its versions is being sent: about 6 s in all.
pub const MERGE_ASKED_ATTEMPTS_MAX: u32 = 8;
/// How often a merge is tried whose versions are being written, with growing pauses of up to 5 s; then both are kept.
pub const MERGE_ATTEMPTS_MAX: u32 = 20;
/// Longest file in bytes that `dfs conflicts diff` compares: both are held in memory.
pub const DIFF_LEN_MAX: u64 = 8 << 20;
/// Notices that `dfs status` shows: the newest.
pub const NOTICES_KEPT: usize = 16;
/// Longest line on the control socket in bytes: a path and a few words.
pub const CONTROL_LINE_LEN_MAX: usize = 64 * 1024;
/// Files up to this many bytes are served by the daemon when they are only read: their pages stay in the kernel over
/// open and close, which saves more than passthrough does.
pub const SMALL_FILE_LEN_MAX: u64 = 128 << 10;
/// Files up to this many bytes are given to the kernel whole when they are opened for the first time.
pub const GIVEN_LEN_MAX: u64 = 64 << 10;
/// Most inodes for which the version of the kernel's pages is remembered: 40 bytes each.
pub const KERNEL_VERSIONS_MAX: usize = 1 << 18;
/// Milliseconds between two looks at files that are held open for writing.
pub const SWEEP_INTERVAL_MS: u64 = 2_000;
/// Entries of a directory read from the tree at once: about what fits one reply.
pub const READ_DIR_BATCH: usize = 256;
/// Most bytes in one write or read request of the kernel.
pub const FUSE_WRITE_LEN_MAX: u32 = 1 << 20;
/// Most requests that the kernel has in flight without a caller waiting, such as read-ahead.
pub const FUSE_BACKGROUND_MAX: u16 = 64;
/// Read-ahead of the mount in KiB: at the kernel's default of 128 a cold sequential read takes four times as long.
pub const READ_AHEAD_KIB: u32 = 2048;
/// Milliseconds that the kernel has to take down a killed mount by itself before its guardian ends the connection.
pub const GUARDIAN_PATIENCE_MS: u64 = 500;
/// Milliseconds between two looks of a guardian at a process that dies.
pub const GUARDIAN_LOOK_MS: u64 = 20;
/// Milliseconds that `dfs umount --force` waits for the mount to answer.
pub const FORCE_AFTER_MS: u64 = 5_000;
/// Milliseconds that an unmount waits for the kernel's last requests.
pub const UNMOUNT_WAIT_MS: u64 = 10_000;
/// Longest pause between two commits of a burst, in milliseconds.
pub const GATHER_MS_MAX: u64 = 50;
/// Most directories of which it is known whom their attributes were told: 24 bytes each.
pub const ANSWERED_DIRECTORIES_MAX: usize = 4096;
/// Seconds before the last change that is known at a power loss within which a file is compared with its hashes: far more than the
/// kernel takes to write changed pages to the disk.
pub const POWER_LOSS_SECS: i64 = 3600;
/// Milliseconds for which backing files that are to be removed gather: their end is made durable by one fsync of the journal.
pub const REMOVE_GATHER_MS: u64 = 50;
/// Most open marks whose removal is put off: each costs one look at a file after a crash.
pub const STALE_MARKS_MAX: usize = 4096;
/// Files closed after they could be mapped that wait for a look before it is taken early: each may hold a descriptor.
pub const LINGERING_MAX: usize = 1024;
/// Longest wait in milliseconds for the kernel to forget what changed, before `dfs status` answers.
pub const SETTLE_MS_MAX: u64 = 1_000;
/// Rows of the embedded store that are kept in memory; a few hundred bytes each.
pub const STORE_ROWS_CACHED: usize = 32_768;
/// Longer rows are always read from the store.
pub const STORE_ROW_CACHED_LEN_MAX: usize = 2_048;
/// Most directories and files that wait to be listed for the kernel's caches; what comes on top is left to be asked for.
pub const TOUCHED_MAX: usize = 16_384;
/// Milliseconds without a change after which the kernel's caches are filled again: less would disturb who is writing.
pub const TOUCHED_QUIET_MS: u64 = 10;
/// Look-ups in a directory after which it may be listed instead, and again at every power of two from there.
pub const LOOKUPS_BEFORE_LISTING: u32 = 4;
/// A directory is listed for the kernel's caches if it has at most this many entries for each that changed.
pub const TOUCHED_SHARE: usize = 16;
/// Longest tick in nanoseconds of the clock by which kernels stamp files: 100 Hz.
pub const CLOCK_TICK_NS_MAX: i128 = 10_000_000;
/// Pending records that `dfs status` names.
pub const PENDING_SHOWN_MAX: usize = 20;
/// Milliseconds between two looks for changes that fsync takes: in between a look every few seconds has to do.
pub const SYNC_LOOK_INTERVAL_MS: u64 = 200;
/// Most bytes read of a token file: a token has 85.
pub const TOKEN_FILE_LEN_MAX: u64 = 4096;
/// Chunks that are asked for at once when an old version is read.
pub const RESTORE_BATCH_CHUNKS: usize = 256;
/// Longest file in bytes that is read for `user.dfs.hash` when its hash is not known otherwise: the reading holds a thread of the
/// daemon for some milliseconds.
pub const XATTR_HASH_LEN_MAX: u64 = 16 << 20;
/// Files that `dfs verify` lists at once.
pub const VERIFY_FILES_AT_ONCE: usize = 1024;
/// Damaged ranges of one file that are put right one by one; past it the file is fetched anew as a whole.
pub const VERIFY_RANGES_MAX: usize = 1024;
/// How often `dfs verify` reads a file that changes meanwhile; then it is being written.
pub const VERIFY_READS_MAX: u32 = 3;
/// Milliseconds between two words about how far `dfs verify` is.
pub const VERIFY_TELL_MS: u64 = 500;
/// Longest wait in milliseconds of `dfs verify` for events that the server is ahead by, before it compares again.
pub const VERIFY_EVENTS_WAIT_MS: u64 = 1_000;
/// Findings of `dfs verify` that wait for whoever asked; past it verifying waits, too.
pub const VERIFY_LINES_MAX: usize = 64;
/// Milliseconds for which an unused bandwidth limit is kept, and for which commits may hold up chunks at most.
pub const RATE_BURST_MS: u64 = 1_000;
/// Lowest bandwidth limit in bytes per second: at less, the longest chunk would take more than 17 minutes.
pub const RATE_MIN: u64 = 16 << 10;
/// Bytes that may be on their way before those that a reader waits for: read-ahead, and the requests in flight. With a bandwidth
/// limit a read waits longer by the time that they take.
pub const AHEAD_OF_READER_LEN: u64 = 48 << 20;
/// Most files and directories that are pinned themselves: all are held in memory, and looked at whenever one more is pinned.
pub const PINS_MAX: usize = 16_384;
/// Nodes of which it is remembered that a pin may cover them now; past it everything that is pinned is looked at once.
pub const PIN_NEWS_MAX: usize = 1 << 16;
/// Pinned files that are not here and are remembered until they are; what is pinned is looked at again for the others.
pub const PINNED_WAITING_MAX: usize = 1 << 16;
/// Pinned files that are fetched at the same time.
pub const PIN_FILES_AT_ONCE: usize = 4;
/// Bytes of one pinned file that are asked for at once: little enough that readers are served in between.
pub const PIN_PIECE_LEN: u64 = 8 << 20;
/// Milliseconds between two words about how far `dfs pin` is.
pub const PIN_TELL_MS: u64 = 500;
/// Files that `dfs pin` names because they cannot be fetched.
pub const PIN_FAILURES_SHOWN: usize = 16;
