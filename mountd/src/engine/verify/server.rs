//! Compares the base with the server, by the walk that reconciles.
//!
//! Commits and events wait while it lasts; whoever writes to the mount does not.

use std::time::Duration;

use dfs_shared::record::RecordKey;
use dfs_shared::revision::Revision;

use super::{Finding, Run, VerifyError};
use crate::engine::reconcile::{self, Walked};
use crate::engine::shared::{EngineError, chain};
use crate::engine::status::path_of;
use crate::limits::{RECONCILE_ATTEMPTS_MAX, VERIFY_EVENTS_WAIT_MS};

/// What one comparison came to.
enum Side {
    Equal(Revision),
    /// The server went on, and its events are not here yet.
    Behind(Revision),
    Differs(Walked),
    NotCompared(String),
}

impl Run {
    /// Compares the base's records with the server's, and takes the server's side of what differs.
    pub(super) async fn server(&mut self) -> Result<(), VerifyError> {
        let mut differing: Vec<RecordKey> = Vec::new();
        let mut why = String::new();
        // An event may have been lost: what does not come counts as a difference.
        let mut is_waiting = true;
        for _ in 0..RECONCILE_ATTEMPTS_MAX {
            match self.telling(self.look(&differing, is_waiting)).await? {
                Side::Equal(revision) => {
                    self.result.server_revision = Some(revision.0);
                    why.clear();
                    break;
                }
                Side::NotCompared(reason) => {
                    why = reason;
                    break;
                }
                Side::Behind(revision) => {
                    why = "it changes all the time".to_owned();
                    is_waiting = self.events_came(revision).await;
                }
                Side::Differs(walked) => {
                    why.clear();
                    let is_known = !differing.is_empty();
                    differing = walked.differences;
                    if is_known || !self.is_repairing {
                        break;
                    }
                }
            }
        }
        self.result.server_not_compared = why;
        let repaired = self.result.server_revision.is_some();
        for key in differing {
            let outcome = match (repaired, self.is_repairing) {
                (true, _) => "taken from the server",
                (false, true) => "not repaired: it differs still; mount anew to reconcile",
                (false, false) => "not repaired, as asked; the server's record counts",
            };
            let what = match &key {
                RecordKey::Node(_) => "its attributes or content are not those that the server has",
                RecordKey::Entry { .. } => "this name is not what the server has",
            };
            self.found(Finding {
                path: path_of(&self.shared, &key),
                place: "server".to_owned(),
                what: what.to_owned(),
                offset: None,
                bytes: 0,
                repaired,
                outcome: outcome.to_owned(),
            })
            .await?;
        }
        Ok(())
    }

    /// Compares once, after taking the server's side of `known`.
    async fn look(&self, known: &[RecordKey], is_waiting: bool) -> Side {
        match self.look_locked(known, is_waiting).await {
            Ok(side) => side,
            Err(error) => Side::NotCompared(chain(&error)),
        }
    }

    async fn look_locked(&self, known: &[RecordKey], is_waiting: bool) -> Result<Side, EngineError> {
        let shared = &self.shared;
        if shared.online().is_none() {
            return Ok(Side::NotCompared("the server cannot be reached".to_owned()));
        }
        // A commit that the server has and this mount does not know of would look like somebody else's.
        let _sending = shared.sending.lock().await;
        if shared.tree.in_flight()?.is_some() {
            return Ok(Side::NotCompared("the connection was lost".to_owned()));
        }
        let base = shared.base.lock().await;
        if !known.is_empty() {
            reconcile::take(shared, known, None).await?;
        }
        let walked = reconcile::walk(shared).await?;
        let here = shared.tree.membership()?.revision.max(*base);
        Ok(match walked.differences.is_empty() {
            true => Side::Equal(walked.revision),
            false if is_waiting && walked.revision > here => Side::Behind(walked.revision),
            false => Side::Differs(walked),
        })
    }

    /// Waits until events up to a revision are here; `false` if they do not come.
    async fn events_came(&self, revision: Revision) -> bool {
        let mut applied = self.shared.applied.subscribe();
        let wait = applied.wait_for(|applied| *applied >= revision);
        tokio::time::timeout(Duration::from_millis(VERIFY_EVENTS_WAIT_MS), wait).await.is_ok()
    }
}
