//! The one match from errors to status and code. A code is stable, a message may change.

use dfs_shared::ids::IdError;
use dfs_shared::wire::WireError;
use dfs_shared::wire::chunks::ChunkHeaderError;

use crate::chunk_store::ChunkError;
use crate::engine::BodyError;
use crate::files::{FilePath, FilesError};
use crate::http::{Response, Status};
use crate::metadata::MetadataError;
use crate::report::chain;
use crate::sessions::SessionError;
use crate::sync::SyncError;

/// Why a request was not answered with what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The path names no possible volume.
    #[error("bad volume name")]
    VolumeName {
        /// What is wrong with it.
        #[source]
        source: IdError,
    },
    /// The body is no message of the protocol.
    #[error("bad message")]
    Message {
        /// What is wrong with it.
        #[from]
        source: WireError,
    },
    /// The body could not be read.
    #[error("cannot read the request's body")]
    Body {
        /// Why.
        #[from]
        source: BodyError,
    },
    /// A chunk's frame is malformed.
    #[error("bad batch of chunks")]
    Frame {
        /// What is wrong with it.
        #[from]
        source: ChunkHeaderError,
    },
    /// A batch of chunks ends inside a frame, or has a frame without bytes.
    #[error("bad batch of chunks: {why}")]
    Batch {
        /// What is wrong with it.
        why: &'static str,
    },
    /// The body is no JSON object.
    #[error("bad JSON: {why}")]
    Json {
        /// What is wrong with it.
        why: String,
    },
    /// A required field is not there.
    #[error("the field `{name}` is missing")]
    FieldMissing {
        /// Which.
        name: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("the field `{name}` cannot be that: expected {expected}")]
    Field {
        /// Which.
        name: &'static str,
        /// What it can be.
        expected: &'static str,
    },
    /// The body is no text of the metadata language.
    #[error("bad metadata text:\n{why}")]
    Ddl {
        /// Everything that is wrong with it.
        why: String,
    },
    /// The body has more records than one request may have.
    #[error("{count} records are too many in one request: {max} are allowed")]
    TooManyRecords {
        /// How many.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// The page is to have an impossible length.
    #[error("`limit` is a number from 1 to {max}")]
    Limit {
        /// The largest.
        max: usize,
    },
    /// The metadata language has no way to say that a hash is not known.
    #[error(
        "the hash of `{name}` is not known: its content is damaged, too long, or not read yet; ask again, or for JSON"
    )]
    HashUnknown {
        /// The file.
        name: String,
    },
    /// A field does not hold what it should.
    #[error("the field `{name}` {why}")]
    BadField {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A snapshot is too long.
    #[error("a snapshot of {count} files is too long: {max} are allowed")]
    TooManyFiles {
        /// How many files it has.
        count: usize,
        /// How many are allowed.
        max: usize,
    },
    /// The file was there and is deleted.
    #[error("`{path}` is deleted: its versions can be read by number")]
    FileDeleted {
        /// The path.
        path: FilePath,
    },
    /// Too many listen to the events already.
    #[error("{max} listen to the events already")]
    TooManyListeners {
        /// How many are allowed.
        max: usize,
    },
    /// A sync session refused or failed.
    #[error(transparent)]
    Session(
        /// Why.
        #[from]
        SessionError,
    ),
    /// Something about files was refused or failed.
    #[error(transparent)]
    Files(
        /// Why.
        #[from]
        FilesError,
    ),
    /// The sync service refused or failed.
    #[error(transparent)]
    Sync(
        /// Why.
        #[from]
        SyncError,
    ),
}

/// The status and the stable code of an error.
#[must_use]
pub fn status(error: &ApiError) -> (Status, &'static str) {
    match error {
        ApiError::VolumeName { .. } => (Status::BAD_REQUEST, "bad_volume_name"),
        ApiError::Message { source } => match source {
            WireError::NotAMessage => (Status::BAD_REQUEST, "not_a_message"),
            WireError::UnknownVersion { .. } => (Status::BAD_REQUEST, "unknown_version"),
            WireError::TooLong { .. } => (Status::CONTENT_TOO_LARGE, "message_too_long"),
            WireError::Damaged { .. } | WireError::TrailingBytes { .. } => {
                (Status::BAD_REQUEST, "bad_message")
            }
        },
        ApiError::Body { source } => match source {
            BodyError::TooLarge => (source.status(), "body_too_large"),
            BodyError::Malformed => (source.status(), "bad_body"),
            BodyError::Disconnected => (source.status(), "cut_short"),
            BodyError::TimedOut => (source.status(), "body_timeout"),
        },
        ApiError::Frame { .. } | ApiError::Batch { .. } => (Status::BAD_REQUEST, "bad_chunk_batch"),
        ApiError::Json { .. } => (Status::BAD_REQUEST, "bad_json"),
        ApiError::FieldMissing { .. } => (Status::BAD_REQUEST, "missing_field"),
        ApiError::Field { .. } => (Status::BAD_REQUEST, "bad_field"),
        ApiError::Ddl { .. } => (Status::BAD_REQUEST, "bad_metadata_text"),
        ApiError::TooManyRecords { .. } => (Status::CONTENT_TOO_LARGE, "too_many"),
        ApiError::Limit { .. } => (Status::BAD_REQUEST, "bad_limit"),
        ApiError::HashUnknown { .. } => (Status::CONFLICT, "hash_unknown"),
        ApiError::BadField { .. } => (Status::BAD_REQUEST, "bad_field"),
        ApiError::TooManyFiles { .. } => (Status::CONTENT_TOO_LARGE, "too_many"),
        ApiError::FileDeleted { .. } => (Status::GONE, "file_deleted"),
        ApiError::TooManyListeners { .. } => (Status::SERVICE_UNAVAILABLE, "too_many_listeners"),
        ApiError::Session(error) => session_status(error),
        ApiError::Files(error) => files_status(error),
        ApiError::Sync(error) => sync_status(error),
    }
}

fn session_status(error: &SessionError) -> (Status, &'static str) {
    match error {
        SessionError::NotFound { .. } => (Status::NOT_FOUND, "session_not_found"),
        SessionError::WrongState(_) => (Status::CONFLICT, "wrong_state"),
        SessionError::TooManySessions { .. } => (Status::TOO_MANY_REQUESTS, "too_many_sessions"),
        SessionError::ChunkMismatch { .. } | SessionError::FileMismatch { .. } => {
            (Status::UNPROCESSABLE_CONTENT, "hash_mismatch")
        }
        SessionError::ChunkNumber { .. } => (Status::BAD_REQUEST, "bad_field"),
        SessionError::ChunkTooLong { .. } => (Status::CONTENT_TOO_LARGE, "chunk_too_long"),
        SessionError::TooManyBytes { .. } => (Status::CONTENT_TOO_LARGE, "too_many_staged_bytes"),
        SessionError::ChunksMissing { .. } => (Status::CONFLICT, "chunks_missing"),
        SessionError::NothingStaged { .. } => (Status::CONFLICT, "nothing_uploaded"),
        SessionError::Applying { .. } => (Status::CONFLICT, "being_published"),
        SessionError::PlanTooLong { .. } => (Status::UNPROCESSABLE_CONTENT, "too_many_differences"),
        SessionError::Staging { .. } if error.is_retryable() => (Status::INSUFFICIENT_STORAGE, "disk_full"),
        SessionError::Staging { .. } => (Status::INTERNAL_SERVER_ERROR, "staging_failed"),
        SessionError::Files(error) => files_status(error),
    }
}

fn files_status(error: &FilesError) -> (Status, &'static str) {
    match error {
        FilesError::NotFound { .. } => (Status::NOT_FOUND, "file_not_found"),
        FilesError::NoVersion { .. } => (Status::NOT_FOUND, "version_not_found"),
        FilesError::NotAFile { .. } => (Status::CONFLICT, "not_a_file"),
        FilesError::NotADirectory { .. } => (Status::CONFLICT, "not_a_directory"),
        FilesError::Exists { .. } => (Status::CONFLICT, "exists"),
        FilesError::VersionConflict { .. } => (Status::CONFLICT, "version_conflict"),
        FilesError::BadPath { .. } => (Status::BAD_REQUEST, "bad_path"),
        FilesError::BadCursor => (Status::BAD_REQUEST, "bad_cursor"),
        FilesError::ContentUnknown { .. } => (Status::UNPROCESSABLE_CONTENT, "content_unknown"),
        FilesError::ChunksMissing { .. } => (Status::UNPROCESSABLE_CONTENT, "chunks_missing"),
        FilesError::OverQuota { .. } => (Status::INSUFFICIENT_STORAGE, "quota_exceeded"),
        FilesError::Refused { .. } => (Status::UNPROCESSABLE_CONTENT, "refused"),
        FilesError::Damaged { .. } => (Status::INTERNAL_SERVER_ERROR, "content_damaged"),
        FilesError::TooLong { .. } => (Status::UNPROCESSABLE_CONTENT, "hash_too_long"),
        FilesError::Contended { .. } => (Status::SERVICE_UNAVAILABLE, "contended"),
        FilesError::Sync(error) => sync_status(error),
    }
}

fn sync_status(error: &SyncError) -> (Status, &'static str) {
    match error {
        SyncError::VolumeNotFound { .. } => (Status::NOT_FOUND, "volume_not_found"),
        SyncError::ClientUnknown { .. } => (Status::NOT_FOUND, "client_not_found"),
        SyncError::NumberTaken { .. } => (Status::CONFLICT, "number_taken"),
        SyncError::BadRequest { .. } => (Status::BAD_REQUEST, "bad_request"),
        SyncError::TooMany { .. } => (Status::CONTENT_TOO_LARGE, "too_many"),
        SyncError::Metadata(error) => match error {
            MetadataError::DiskFull => (Status::INSUFFICIENT_STORAGE, "disk_full"),
            MetadataError::Busy { .. } | MetadataError::Locked { .. } => {
                (Status::SERVICE_UNAVAILABLE, "busy")
            }
            MetadataError::Stopped { .. } => (Status::SERVICE_UNAVAILABLE, "stopped"),
            MetadataError::Database { .. }
            | MetadataError::Damaged { .. }
            | MetadataError::SchemaTooNew { .. }
            | MetadataError::Panicked => (Status::INTERNAL_SERVER_ERROR, "metadata_failed"),
        },
        SyncError::Chunks(error) => match error {
            ChunkError::HashMismatch { .. } => (Status::UNPROCESSABLE_CONTENT, "hash_mismatch"),
            ChunkError::DiskFull { .. } => (Status::INSUFFICIENT_STORAGE, "disk_full"),
            ChunkError::Absent { .. } => (Status::NOT_FOUND, "chunk_not_found"),
            ChunkError::Corrupt { .. } | ChunkError::Io { .. } => {
                (Status::INTERNAL_SERVER_ERROR, "chunk_store_failed")
            }
        },
    }
}

/// The response that tells of an error; the server's own failures are also logged.
#[must_use]
pub fn response(error: &ApiError) -> Response {
    let (status, code) = status(error);
    let message = chain(error);
    // A quota that is reached is no failure of the server's.
    if status.code() >= 500 && code != "quota_exceeded" {
        tracing::error!(code, error = %message, "a request failed");
    }
    Response::error(status, code, &message)
}

/// Turns a handler's result into its response.
pub(super) fn answer(result: Result<Response, ApiError>) -> Response {
    result.unwrap_or_else(|error| response(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reached_quota_is_507_and_says_so_by_its_code() {
        let over = || FilesError::OverQuota { limit: 10, used: 8, growth: 3 };
        for error in [ApiError::Files(over()), ApiError::Session(SessionError::Files(over()))] {
            assert_eq!((status(&error).0.code(), status(&error).1), (507, "quota_exceeded"));
            assert!(chain(&error).contains("quota of 10 bytes"), "{}", chain(&error));
        }
        assert!(over().is_retryable());
    }

    #[test]
    fn a_full_disk_is_507_and_a_stopped_store_503() {
        let full = ChunkError::DiskFull { path: "chunks".into() };
        let table = [
            (SyncError::Chunks(full), 507, "disk_full"),
            (SyncError::Metadata(MetadataError::DiskFull), 507, "disk_full"),
            (SyncError::Metadata(MetadataError::Busy { waiting: 9 }), 503, "busy"),
            (SyncError::Metadata(MetadataError::Stopped { reason: "x".to_owned() }), 503, "stopped"),
        ];
        for (error, expected, code) in table {
            let error = ApiError::Sync(error);
            assert_eq!((status(&error).0.code(), status(&error).1), (expected, code));
            assert_eq!(response(&error).status.code(), expected);
        }
    }
}
