//! File metadata as bytes.
//!
//! All numbers are big-endian.
//!
//! | bytes | content |
//! |---|---|
//! | 0..4 | magic `dfsm` |
//! | 4..6 | schema version, now [`BINARY_VERSION`] |
//! | 6..10 | number of records |
//! | … | the records: a length of 4 bytes and as many bytes each |
//!
//! A record: name, hash, owner (a length of 4 bytes and the bytes each), version (8), size (8), time in seconds since 1970
//! (8, signed) and nanoseconds (4), status (1); since version 2 the number of replicas (4) and for each its name and version.

use super::metadata::{FileHash, FileMetadata, ModifiedAt, Replica, SyncState, SyncStatus};
use crate::limits::{DDL_RECORDS_MAX, DDL_REPLICAS_MAX};
use crate::time::Timestamp;

/// First bytes of the binary form.
pub const BINARY_MAGIC: [u8; 4] = *b"dfsm";
/// Version that is written; this one and older ones are read.
pub const BINARY_VERSION: u16 = 2;
const REPLICAS_SINCE: u16 = 2;

/// Why bytes are no file metadata.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BinaryError {
    /// They begin with something else.
    #[error("not file metadata: it does not start with `dfsm` and a version")]
    NotMetadata,
    /// They were written by a newer program.
    #[error(
        "metadata schema version {found} is not known here (this program knows 1 to {BINARY_VERSION}): update it"
    )]
    NewerVersion {
        /// The version found.
        found: u16,
    },
    /// Something is cut short.
    #[error("the metadata ends in the middle of {what}")]
    CutShort {
        /// What is not whole.
        what: &'static str,
    },
    /// A value is none of those that are allowed.
    #[error("the metadata has a {what} that cannot be")]
    BadValue {
        /// Which.
        what: &'static str,
    },
}

/// Encodes records.
#[must_use]
pub fn encode(records: &[FileMetadata]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16 + 128 * records.len());
    bytes.extend_from_slice(&BINARY_MAGIC);
    bytes.extend_from_slice(&BINARY_VERSION.to_be_bytes());
    put_len(&mut bytes, records.len());
    for record in records {
        let mut body = Vec::with_capacity(128);
        put_bytes(&mut body, &record.name);
        put_bytes(&mut body, record.hash.as_str().as_bytes());
        put_bytes(&mut body, record.owner.as_bytes());
        body.extend_from_slice(&record.version.to_be_bytes());
        body.extend_from_slice(&record.size.to_be_bytes());
        let at = record.last_modified.timestamp();
        body.extend_from_slice(&at.secs.to_be_bytes());
        body.extend_from_slice(&at.nanos.to_be_bytes());
        body.push(number_of(record.sync_state.status));
        put_len(&mut body, record.sync_state.replicas.len());
        for replica in &record.sync_state.replicas {
            put_bytes(&mut body, replica.node.as_bytes());
            body.extend_from_slice(&replica.version.to_be_bytes());
        }
        put_bytes(&mut bytes, &body);
    }
    bytes
}

fn number_of(status: SyncStatus) -> u8 {
    match status {
        SyncStatus::Synced => 0,
        SyncStatus::Modified => 1,
        SyncStatus::Syncing => 2,
        SyncStatus::Conflict => 3,
        SyncStatus::Deleted => 4,
    }
}

fn put_len(bytes: &mut Vec<u8>, len: usize) {
    let len = u32::try_from(len).expect("nothing in memory that long is metadata");
    bytes.extend_from_slice(&len.to_be_bytes());
}

fn put_bytes(bytes: &mut Vec<u8>, value: &[u8]) {
    put_len(bytes, value.len());
    bytes.extend_from_slice(value);
}

/// Decodes what this or an older version of [`encode`] made.
///
/// # Errors
/// [`BinaryError`].
pub fn decode(bytes: &[u8]) -> Result<Vec<FileMetadata>, BinaryError> {
    let rest = bytes.strip_prefix(&BINARY_MAGIC).ok_or(BinaryError::NotMetadata)?;
    let mut reader = Reader { rest };
    let version = u16::from_be_bytes(reader.array().map_err(|_| BinaryError::NotMetadata)?);
    match version {
        0 => return Err(BinaryError::BadValue { what: "schema version" }),
        1..=BINARY_VERSION => {}
        found => return Err(BinaryError::NewerVersion { found }),
    }
    let count = reader.len("number of records")?;
    if count > DDL_RECORDS_MAX {
        return Err(BinaryError::BadValue { what: "number of records" });
    }
    let mut records = Vec::new();
    for _ in 0..count {
        let body = reader.bytes("record")?;
        records.push(record(&mut Reader { rest: body }, version)?);
    }
    if reader.rest.is_empty() {
        Ok(records)
    } else {
        Err(BinaryError::BadValue { what: "number of records" })
    }
}

fn record(reader: &mut Reader<'_>, schema: u16) -> Result<FileMetadata, BinaryError> {
    let bad = |what| BinaryError::BadValue { what };
    let name = reader.bytes("name")?;
    if name.is_empty() {
        return Err(bad("name"));
    }
    let hash = FileHash::from_text(reader.text("hash")?).ok_or(bad("hash"))?;
    let owner = reader.text("owner")?.to_owned();
    let version = reader.number("version")?;
    let size = reader.number("size")?;
    let cut = |_| BinaryError::CutShort { what: "time" };
    let secs = i64::from_be_bytes(reader.array().map_err(cut)?);
    let nanos = u32::from_be_bytes(reader.array().map_err(cut)?);
    let at = Timestamp { secs, nanos };
    let last_modified = ModifiedAt::from(at);
    if last_modified.timestamp() != at || nanos >= 1_000_000_000 {
        return Err(bad("time"));
    }
    let [status] = reader.array().map_err(|_| BinaryError::CutShort { what: "status" })?;
    let status = *SyncStatus::ALL.get(usize::from(status)).ok_or(bad("status"))?;
    let mut replicas = Vec::new();
    if schema >= REPLICAS_SINCE {
        let count = reader.len("number of replicas")?;
        if count > DDL_REPLICAS_MAX {
            return Err(bad("number of replicas"));
        }
        for _ in 0..count {
            let node = reader.text("replica")?.to_owned();
            replicas.push(Replica { node, version: reader.number("replica")? });
        }
    }
    if !reader.rest.is_empty() {
        return Err(bad("length of a record"));
    }
    let name = name.to_vec();
    Ok(FileMetadata {
        name,
        version,
        size,
        hash,
        last_modified,
        owner,
        sync_state: SyncState { status, replicas },
    })
}

struct Reader<'a> {
    rest: &'a [u8],
}

/// There are not that many bytes left.
struct Short;

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(Short)?;
        self.rest = rest;
        Ok(*array)
    }

    fn number(&mut self, what: &'static str) -> Result<u64, BinaryError> {
        self.array().map(u64::from_be_bytes).map_err(|Short| BinaryError::CutShort { what })
    }

    fn len(&mut self, what: &'static str) -> Result<usize, BinaryError> {
        let len = self.array().map(u32::from_be_bytes).map_err(|Short| BinaryError::CutShort { what })?;
        usize::try_from(len).map_err(|_| BinaryError::BadValue { what })
    }

    fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], BinaryError> {
        let len = self.len(what)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(BinaryError::CutShort { what })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, BinaryError> {
        std::str::from_utf8(self.bytes(what)?).map_err(|_| BinaryError::BadValue { what })
    }
}
