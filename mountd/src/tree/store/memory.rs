//! Tables in memory with explicit sync points, behind the same interface as those on the disk.
//!
//! A [`MemoryDisk`] outlives the stores that are opened on it, as a disk outlives processes: killing the process keeps
//! every batch, losing power keeps what was persisted and a prefix of what came after it. Whoever simulates mounts
//! opens many thousands of these in the time of one database.
//!
//! Invariant: only the newest store of a disk reads or writes; an earlier one finds itself closed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use fjall::Slice;
use parking_lot::{Mutex, MutexGuard};

use super::{EachRow, SPACES, Space, TreeError, Write, upper_bound};

/// The rows of every table. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables([Arc<BTreeMap<Vec<u8>, Slice>>; SPACES.len()]);

impl Tables {
    fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            let table = Arc::make_mut(&mut self.0[write.space as usize]);
            match &write.value {
                Some(value) => table.insert(write.key.clone(), value.clone()),
                None => table.remove(&write.key),
            };
        }
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Option<Slice> {
        self.0[space as usize].get(key).cloned()
    }

    /// Calls `each` with the rows from `lower` on that start with `prefix`, in order, until it returns `false`.
    pub(super) fn each(
        &self,
        space: Space,
        prefix: &[u8],
        lower: Bound<Vec<u8>>,
        each: &mut EachRow<'_>,
    ) -> Result<(), TreeError> {
        let upper = upper_bound(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in self.0[space as usize].range((lower, upper)) {
            if !each(key, value)? {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn last_key(&self, space: Space) -> Option<Vec<u8>> {
        self.0[space as usize].last_key_value().map(|(key, _)| key.clone())
    }

    pub(super) fn len(&self, space: Space) -> u64 {
        self.0[space as usize].len() as u64
    }
}

#[derive(Debug, Default)]
struct State {
    /// Number of the newest store.
    life: u64,
    full: bool,
    written: Tables,
    persisted: Tables,
    /// What came since.
    unsynced: Vec<Vec<Write>>,
}

/// A disk in memory that holds one store. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

impl MemoryDisk {
    /// Ends the process that has the store open: it writes and reads nothing more. Everything written stays.
    pub fn kill(&self) {
        self.0.lock().life += 1;
    }

    /// Cuts the power: of the batches that were not persisted, the first `kept` stay.
    pub fn lose_power(&self, kept: usize) {
        let mut state = self.0.lock();
        state.life += 1;
        let mut written = state.persisted.clone();
        for batch in state.unsynced.iter().take(kept) {
            written.apply(batch);
        }
        state.persisted = written.clone();
        state.written = written;
        state.unsynced.clear();
    }

    /// Returns how many batches a power loss could take away.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.0.lock().unsynced.len()
    }

    /// Says whether the disk has no room left.
    pub fn set_full(&self, full: bool) {
        self.0.lock().full = full;
    }
}

/// One opening of a [`MemoryDisk`].
#[derive(Debug)]
pub(super) struct Memory {
    disk: MemoryDisk,
    life: u64,
}

impl Memory {
    pub(super) fn open(disk: &MemoryDisk) -> Self {
        let mut state = disk.0.lock();
        state.life += 1;
        Self { disk: disk.clone(), life: state.life }
    }

    fn state(&self) -> Result<MutexGuard<'_, State>, TreeError> {
        let state = self.disk.0.lock();
        if state.life == self.life { Ok(state) } else { Err(TreeError::Closed) }
    }

    pub(super) fn is_full(&self) -> bool {
        self.disk.0.lock().full
    }

    pub(super) fn tables(&self) -> Result<Tables, TreeError> {
        Ok(self.state()?.written.clone())
    }

    pub(super) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Slice>, TreeError> {
        Ok(self.state()?.written.get(space, key))
    }

    pub(super) fn write(&self, writes: &[Write]) -> Result<(), TreeError> {
        let mut state = self.state()?;
        state.written.apply(writes);
        state.unsynced.push(writes.to_vec());
        Ok(())
    }

    pub(super) fn persist(&self) -> Result<(), TreeError> {
        let mut state = self.state()?;
        state.persisted = state.written.clone();
        state.unsynced.clear();
        Ok(())
    }
}
