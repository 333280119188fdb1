//! The end of the history: what is older than the retention, or more than it allows, in small transactions.

use dfs_shared::time::Timestamp;

use super::{Collector, GcError, Progress, earlier};
use crate::limits::UPKEEP_PAGE_LEN;

impl Collector {
    /// Drops past records that are beyond the retention at `at`; returns how many. Blocks.
    ///
    /// # Errors
    /// [`GcError`].
    pub(super) fn sweep(&self, at: Timestamp, progress: &mut Progress<'_>) -> Result<u64, GcError> {
        let mut count = 0;
        if let Some(keep) = self.retention.keep {
            count += self.sweep_old(earlier(at, keep), progress)?;
        }
        if let Some(keep) = self.retention.versions {
            count += self.sweep_many(keep, progress)?;
        }
        Ok(count)
    }

    fn sweep_old(&self, before: Timestamp, progress: &mut Progress<'_>) -> Result<u64, GcError> {
        let (mut count, mut next) = (0, Some(0));
        // Rows are in the order in which they ended, so the first page without an old one is the last to look at.
        while let Some(after) = next {
            self.go_on()?;
            let page = self
                .metadata
                .write(UPKEEP_PAGE_LEN, move |tx| tx.drop_history(after, before, UPKEEP_PAGE_LEN));
            let dropped = page.wait()?;
            (count, next) = (count + dropped.count, dropped.next);
            progress("old versions", count);
        }
        for volume in self.metadata.read(|snapshot| snapshot.volumes())? {
            let forget = move |tx: &mut dyn crate::metadata::WriteMetadata| {
                tx.drop_commit_authors(volume.key, before, UPKEEP_PAGE_LEN)
            };
            while self.metadata.write(UPKEEP_PAGE_LEN, forget).wait()? > 0 {
                self.go_on()?;
            }
        }
        Ok(count)
    }

    fn sweep_many(&self, keep: u64, progress: &mut Progress<'_>) -> Result<u64, GcError> {
        let (mut count, mut after) = (0, None);
        loop {
            let crowded =
                self.metadata.read(|snapshot| snapshot.crowded_nodes(keep, after, UPKEEP_PAGE_LEN))?;
            let Some(last) = crowded.last() else { return Ok(count) };
            after = Some(*last);
            for (volume, node) in crowded {
                let drop = move |tx: &mut dyn crate::metadata::WriteMetadata| {
                    tx.drop_versions(volume, node, keep, UPKEEP_PAGE_LEN)
                };
                loop {
                    self.go_on()?;
                    let dropped = self.metadata.write(UPKEEP_PAGE_LEN, drop).wait()?;
                    count += dropped;
                    if dropped < UPKEEP_PAGE_LEN as u64 {
                        break;
                    }
                }
                progress("old versions", count);
            }
        }
    }
}
