//! The metadata store on SQLite: one writer thread, a pool of readers, a checkpointer.
//!
//! Invariant: only the writer's connection changes rows; readers see the newest commit whose jobs
//! have been finished, or an earlier one that they began with. WAL with `synchronous=FULL`: a COMMIT
//! that returned has been fsynced, and a process killed at any moment leaves a database that opens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dfs_shared::wire::WireError;
use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use crate::limits;
use crate::metadata::writer::Writer;
use crate::metadata::{MetadataError, MetadataStore, ReadMetadata, ReadWork, WriteJob};

mod checkpoint;
mod files;
mod read;
mod replicas;
mod sessions;
mod upkeep;
mod write;
mod writer;

use checkpoint::Checkpointer;
use read::Tables;
use writer::Batches;

/// File name of the database inside the data directory.
pub const DATABASE_FILE: &str = "metadata.sqlite";

/// Migrations in order; the schema version is how many have run.
const MIGRATIONS: &[&str] = &[
    include_str!("sql/01-init.sql"),
    include_str!("sql/02-files.sql"),
    include_str!("sql/03-sessions.sql"),
    include_str!("sql/04-tokens.sql"),
    include_str!("sql/05-replicas.sql"),
    include_str!("sql/06-history.sql"),
    include_str!("sql/07-lineage.sql"),
    include_str!("sql/08-session-paths.sql"),
    include_str!("sql/09-quota.sql"),
];

/// The schema version that counts the bytes of files.
const COUNTED_VERSION: usize = 9;

/// The metadata store on SQLite.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    readers: Mutex<Vec<Connection>>,
    writer: Writer,
    // Dropped after the writer, which may still ask for a checkpoint.
    _checkpointer: Checkpointer,
}

impl SqliteStore {
    /// Opens the database in a data directory, makes it if it is missing, and starts the writer.
    ///
    /// # Errors
    /// [`MetadataError`] when the database cannot be opened, or a newer program made it.
    pub fn open(data_dir: &Path) -> Result<Self, MetadataError> {
        let path = data_dir.join(DATABASE_FILE);
        let mut connection = connect(&path)?;
        migrate(&mut connection)?;
        let checkpointer = Checkpointer::start(connect(&path)?);
        let writer = Writer::start(Batches::new(connection, checkpointer.trigger()));
        Ok(Self { path, readers: Mutex::default(), writer, _checkpointer: checkpointer })
    }

    /// Writes a copy of the database as it is at this moment into a new file. Writers go on meanwhile.
    ///
    /// # Errors
    /// [`MetadataError`] when the database fails or the file exists.
    pub fn copy_to(&self, file: &Path) -> Result<(), MetadataError> {
        use std::os::unix::ffi::OsStrExt;
        let connection = connect(&self.path)?;
        // The name is taken as text where it can be: SQLite knows no other names.
        let name = String::from_utf8_lossy(file.as_os_str().as_bytes()).into_owned();
        connection.execute("VACUUM INTO ?1", [name]).map_err(failed("copy the database"))?;
        Ok(())
    }

    fn reader(&self) -> Result<Connection, MetadataError> {
        if let Some(connection) = self.readers.lock().pop() {
            return Ok(connection);
        }
        let connection = connect(&self.path)?;
        connection.pragma_update(None, "query_only", true).map_err(failed("open a reader"))?;
        Ok(connection)
    }
}

impl MetadataStore for SqliteStore {
    fn submit(&self, job: Box<dyn WriteJob>) {
        self.writer.submit(job);
    }

    fn read_with(&self, work: &mut ReadWork<'_>) -> Result<(), MetadataError> {
        let mut connection = self.reader()?;
        let outcome = {
            let transaction = connection
                .transaction_with_behavior(TransactionBehavior::Deferred)
                .map_err(failed("begin a read"))?;
            work(&Tables::new(&transaction))
            // Dropping the transaction rolls it back, which for a read only ends the snapshot.
        };
        let mut readers = self.readers.lock();
        if readers.len() < limits::METADATA_READERS_MAX {
            readers.push(connection);
        }
        outcome
    }
}

fn connect(path: &Path) -> Result<Connection, MetadataError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_millis(limits::DATABASE_BUSY_MS_MAX))?;
        connection.set_prepared_statement_cache_capacity(64);
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "temp_store", "memory")?;
        // Otherwise a statement that a partial index serves is planned anew for each value.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        // Negative: KiB instead of pages.
        connection.pragma_update(None, "cache_size", -limits::DATABASE_CACHE_KIB)?;
        // The checkpointer keeps the log short, away from the writer's path. While writes never pause it
        // can not end, so at this length the writer moves the pages itself.
        connection.pragma_update(None, "wal_autocheckpoint", limits::LOG_PAGES_MAX)?;
        Ok(connection)
    };
    open().map_err(failed("open a connection"))
}

fn migrate(connection: &mut Connection) -> Result<(), MetadataError> {
    let known = i64::try_from(MIGRATIONS.len()).expect("a handful of migrations");
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(failed("begin a migration"))?;
    let found: i64 = transaction
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed("read the schema version"))?;
    if found > known {
        return Err(MetadataError::SchemaTooNew { found, known });
    }
    for (version, migration) in (1..).zip(MIGRATIONS).skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(migration).map_err(failed("run a migration"))?;
        if version == COUNTED_VERSION {
            count_used(&transaction)?;
        }
    }
    transaction.pragma_update(None, "user_version", known).map_err(failed("write the schema version"))?;
    transaction.commit().map_err(failed("commit a migration"))
}

/// Counts the bytes of the files that every volume has.
fn count_used(connection: &Connection) -> Result<(), MetadataError> {
    let tables = Tables::new(connection);
    for volume in tables.volumes()? {
        let mut used = 0_u64;
        (&tables as &dyn ReadMetadata).record_pages(volume.key, |page| {
            used = page.iter().fold(used, |used, row| used.wrapping_add(row.record.quota_len()));
            Ok(())
        })?;
        let sql = "UPDATE volume SET used = ?2 WHERE id = ?1";
        tables.execute("count the bytes of files", sql, (volume.key.0, used.cast_signed()))?;
    }
    Ok(())
}

/// Turns a database error into ours.
fn failed(attempted: &'static str) -> impl Fn(rusqlite::Error) -> MetadataError {
    move |source| match source.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => MetadataError::DiskFull,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => MetadataError::Locked { attempted },
        code => MetadataError::Database {
            attempted,
            is_fatal: matches!(
                code,
                Some(ErrorCode::SystemIoFailure | ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
            ),
            source: Arc::new(source),
        },
    }
}

fn damaged(what: &'static str) -> impl Fn(WireError) -> MetadataError {
    move |source| MetadataError::Damaged { what, source: Some(Arc::new(source)) }
}

#[cfg(test)]
mod tests;
