//! Puts damaged bytes of a file right: forgets them and fetches them anew.
//!
//! Invariant: what cannot be fetched now stays forgotten, so that nobody reads wrong bytes, and is fetched once the server is back.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use dfs_shared::ids::NodeId;

use super::{Finding, Run, Source, VerifyError};
use crate::cache::{CacheError, Claim, FetchError, Found, RangeSet, compare};
use crate::engine::download::{fetch_again, manifest_of};
use crate::engine::shared::{Shared, chain};
use crate::engine::tasks::off_thread;
use crate::tree::Effect;
use crate::tree::content::{ContentState, Place, Present};

/// Damaged bytes of a file.
pub(super) struct Damage {
    node: NodeId,
    row: ContentState,
    /// Which; `None`: all that is here.
    ranges: Option<Vec<Range<u64>>>,
    len: u64,
    what: String,
}

impl Damage {
    /// The backing file is gone.
    pub(super) fn missing(node: NodeId, row: ContentState, path: &Path) -> Self {
        let len = match &row.present {
            Present::All => row.stamp.size,
            Present::Ranges(ranges) => RangeSet::from_ranges(ranges).len(),
        };
        Self { node, row, ranges: None, len, what: format!("the backing file {} is missing", path.display()) }
    }

    /// Bytes are not what the manifest says.
    pub(super) fn of(node: NodeId, row: ContentState, found: Found) -> Self {
        let what = match (found.is_unreadable, found.damaged.is_empty()) {
            (true, _) => "some of its bytes cannot be read from the disk",
            (false, false) => "its bytes are not those of its hash",
            (false, true) => "the backing file has a wrong length",
        };
        let ranges = (!found.is_beyond_chunks).then_some(found.damaged);
        Self { node, row, ranges, len: found.damaged_len, what: what.to_owned() }
    }

    pub(super) fn finding(&self, shared: &Shared, repaired: bool, outcome: String) -> Finding {
        let path = shared.tree.path_of(self.node).ok().flatten();
        Finding {
            path: path
                .map_or_else(|| self.node.to_string(), |path| String::from_utf8_lossy(&path).into_owned()),
            place: match self.row.place {
                Place::State => "state",
                Place::Cache => "cache",
            }
            .to_owned(),
            what: self.what.clone(),
            offset: self.ranges.as_ref().and_then(|ranges| ranges.first()).map(|range| range.start),
            bytes: self.len,
            repaired,
            outcome,
        }
    }
}

impl Run {
    /// Repairs a file. Returns whether it is good now, and in words what was done.
    pub(super) async fn repair(&self, damage: &Damage) -> Result<(bool, String), VerifyError> {
        let (shared, node) = (&self.shared, damage.node);
        if !shared.cache.may_forget(node, &damage.row)? {
            let why = "not repaired: the server does not have these bytes, so the file was left as it is";
            return Ok((false, why.to_owned()));
        }
        if !self.is_repairing {
            return Ok((false, "not repaired, as asked; the server has a good copy".to_owned()));
        }
        let forgotten = {
            let (shared, row, ranges) = (Arc::clone(shared), damage.row.clone(), damage.ranges.clone());
            off_thread(move || shared.cache.forget(node, &row, ranges.as_deref())).await
        };
        match forgotten {
            Ok(()) => {}
            Err(CacheError::Busy | CacheError::Changed) => {
                let why = "not repaired: the file is in use; close it and verify again";
                return Ok((false, why.to_owned()));
            }
            Err(CacheError::NotFound) => return Ok((true, "the file was removed meanwhile".to_owned())),
            Err(error) => return Ok((false, format!("not repaired: {}", chain(&error)))),
        }
        let Some(found) = shared.tree.node_by_id(node)? else {
            return Ok((true, "the file was removed meanwhile".to_owned()));
        };
        if found.live().is_none_or(|record| record.content != damage.row.content) {
            return Ok((true, "it was of an older version and has been removed".to_owned()));
        }
        if let Some(sink) = shared.sink().cloned() {
            // The kernel may have pages of what was damaged.
            let effect = Effect::Content { node, ino: found.ino };
            off_thread(move || sink.effects(vec![effect])).await;
        }
        let size = found.live().map_or(0, |record| record.size);
        let ranges = damage.ranges.clone().unwrap_or_else(|| std::iter::once(0..size).collect());
        self.fetch(node, ranges).await
    }

    async fn fetch(&self, node: NodeId, ranges: Vec<Range<u64>>) -> Result<(bool, String), VerifyError> {
        let fetched = match self.shared.online() {
            Some(_) => self.telling(fetch_all(&self.shared, node, &ranges)).await?,
            None => Err(FetchError::Offline),
        };
        let Err(error) = fetched else {
            return Ok(match self.is_good(node, &ranges).await? {
                true => (true, "fetched anew from the server".to_owned()),
                false => {
                    (false, "not repaired: the disk does not give back what was written to it".to_owned())
                }
            });
        };
        let shared = Arc::clone(&self.shared);
        self.shared.tasks.spawn(async move {
            shared.wait_online().await;
            if let Err(error) = fetch_all(&shared, node, &ranges).await {
                tracing::warn!(%node, %error, "damaged bytes that were forgotten could not be fetched anew");
            }
        });
        Ok((false, format!("forgotten, so that nobody reads it, and not fetched anew yet: {error}")))
    }

    /// Compares the ranges once more.
    async fn is_good(&self, node: NodeId, ranges: &[Range<u64>]) -> Result<bool, VerifyError> {
        let shared = Arc::clone(&self.shared);
        let claim = off_thread(move || shared.cache.claim(node)).await?;
        // Written or removed since: not what was fetched.
        let Claim::Bytes(claimed) = claim else { return Ok(!matches!(claim, Claim::Missing { .. })) };
        let Some(content) = claimed.row.content else { return Ok(true) };
        let Ok(manifest) = manifest_of(&self.shared, node, content).await else { return Ok(true) };
        let seen = Arc::clone(&self.seen);
        let wanted = RangeSet::from_ranges(ranges);
        let (found, claimed) = off_thread(move || {
            let found = compare(&manifest, Some(&wanted), &Source { claimed: &claimed, seen: &seen });
            (found, claimed)
        })
        .await;
        Ok(!found.is_damaged() || !self.shared.cache.still_stands(node, &claimed)?)
    }
}

async fn fetch_all(shared: &Arc<Shared>, node: NodeId, ranges: &[Range<u64>]) -> Result<(), FetchError> {
    for range in ranges {
        fetch_again(shared, node, range.clone()).await?;
    }
    Ok(())
}
