//! Whether a server's volume goes on from what a mount saw of it, or has gone back: an older backup was restored.
//!
//! A mount remembers some of the states that the server told it, each as a revision and the Merkle root at that revision. The server
//! keeps the roots of its newest revisions. Where both know a revision and the roots differ, the two went different ways before it.
//! Pure. Invariant: states are in ascending order of their revisions.

use serde::{Deserialize, Serialize};

use crate::hash::MerkleHash;
use crate::limits::STATES_SEEN_MAX;
use crate::revision::Revision;

/// A state of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The revision.
    pub revision: Revision,
    /// The Merkle root at that revision.
    pub root: MerkleHash,
}

/// The states that a mount remembers: the newest ones, and of the older ones fewer the older they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen(Vec<State>);

impl Seen {
    /// Returns the states, the oldest first, at most `STATES_SEEN_MAX`.
    #[must_use]
    pub fn states(&self) -> &[State] {
        &self.0
    }

    /// Remembers a state that is newer than all; another one is left out.
    pub fn add(&mut self, state: State) {
        if self.0.last().is_some_and(|last| last.revision >= state.revision) {
            return;
        }
        self.0.push(state);
        if self.0.len() > STATES_SEEN_MAX {
            self.thin_out(state.revision.0);
        }
    }

    /// Forgets everything but `state`: the server went back to it.
    pub fn begin_at(&mut self, state: State) {
        self.0 = vec![state];
    }

    /// Drops the state whose neighbours are the closest to each other, measured by their age.
    fn thin_out(&mut self, newest: u64) {
        let gap = |index: usize| {
            let age = newest - self.0[index].revision.0 + 1;
            (self.0[index + 1].revision.0 - self.0[index - 1].revision.0) as f64 / age as f64
        };
        let inner = 1..self.0.len() - 1;
        if let Some(least) = inner.min_by(|one, other| gap(*one).total_cmp(&gap(*other))) {
            self.0.remove(least);
        }
    }
}

/// What a server knows about the states that a mount has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// The newest of them that the server had, too.
    pub common: Option<Revision>,
    /// The server does not know any more what it was before this revision.
    pub kept_from: Revision,
}

/// How a server's volume stands to what a mount saw of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lineage {
    /// It went on from there, as far as anybody knows.
    Continues,
    /// It lacks what was committed after this revision, and may have other commits in its place.
    WentBack {
        /// The newest revision that both have.
        to: Revision,
    },
}

/// Judges by what the server knows.
#[must_use]
pub fn lineage(seen: &[State], known: Known) -> Lineage {
    let Some(newest) = seen.last() else { return Lineage::Continues };
    let too_old = newest.revision < known.kept_from;
    if known.common == Some(newest.revision) || too_old {
        return Lineage::Continues;
    }
    // Without a common state among those that can be compared, the last that cannot is the best guess on the safe side: an
    // earlier revision only makes more of what is here count as unknown to the server.
    let unknown = seen.iter().rev().find(|state| state.revision < known.kept_from);
    let to = known.common.or(unknown.map(|state| state.revision)).unwrap_or(Revision::ZERO);
    Lineage::WentBack { to }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(revision: u64) -> State {
        let root = MerkleHash::from_bytes([u8::try_from(revision % 251).expect("below 251"); 32]);
        State { revision: Revision(revision), root }
    }

    fn seen(revisions: &[u64]) -> Vec<State> {
        revisions.iter().map(|revision| state(*revision)).collect()
    }

    #[test]
    fn a_server_went_back_if_it_never_had_the_newest_state() {
        let back = |to| Lineage::WentBack { to: Revision(to) };
        let rows = [
            (vec![], None, 0, Lineage::Continues),
            (vec![5], Some(5), 1, Lineage::Continues),
            (vec![3, 5], Some(5), 4, Lineage::Continues),
            (vec![3, 5], Some(3), 1, back(3)),
            (vec![3, 5], None, 1, back(0)),
            (vec![3, 5], None, 4, back(3)),
            (vec![3, 5], None, 6, Lineage::Continues),
            (vec![3, 5], None, 5, back(3)),
        ];
        for (revisions, common, kept_from, wanted) in rows {
            let known = Known { common: common.map(Revision), kept_from: Revision(kept_from) };
            assert_eq!(lineage(&seen(&revisions), known), wanted, "{revisions:?} {known:?}");
        }
    }

    #[test]
    fn states_get_sparser_with_age_and_never_too_many() {
        let mut kept = Seen::default();
        for revision in 1..=100_000 {
            kept.add(state(revision));
            assert!(kept.states().len() <= STATES_SEEN_MAX);
        }
        let revisions: Vec<u64> = kept.states().iter().map(|state| state.revision.0).collect();
        assert!(revisions.is_sorted());
        assert_eq!(revisions.last(), Some(&100_000));
        for back in [1_u64, 10, 100, 1_000, 10_000, 90_000] {
            let nearest = revisions.iter().rev().find(|revision| **revision <= 100_000 - back);
            let nearest = nearest.expect("the first state is kept");
            assert!(100_000 - nearest <= 3 * back, "{back} back: {revisions:?}");
        }
        kept.add(state(7));
        assert_eq!(kept.states().last(), Some(&state(100_000)), "an older one is left out");
        kept.begin_at(state(9));
        assert_eq!(kept.states(), [state(9)]);
    }
}
