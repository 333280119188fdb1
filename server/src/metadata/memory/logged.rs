//! A map that remembers what a job replaced in it, so that a job that fails is undone.
//!
//! Invariant: undoing brings back the map as it was at the last [`Logged::keep`]. A clone shares the rows and has no memory of
//! the job: it is a snapshot.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::ops::Deref;

use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

/// A persistent map: what changes are made of.
pub(super) trait Map: Clone + Default {
    type Key: Clone + Hash + Eq;
    type Value: Clone;

    fn find(&self, key: &Self::Key) -> Option<&Self::Value>;
    fn find_mut(&mut self, key: &Self::Key) -> Option<&mut Self::Value>;
    fn put(&mut self, key: Self::Key, value: Self::Value);
    fn take(&mut self, key: &Self::Key) -> bool;
}

macro_rules! map {
    ($map:ident, $($bound:tt)*) => {
        impl<K: $($bound)*, V: Clone> Map for $map<K, V> {
            type Key = K;
            type Value = V;

            fn find(&self, key: &K) -> Option<&V> {
                self.get(key)
            }

            fn find_mut(&mut self, key: &K) -> Option<&mut V> {
                self.get_mut(key)
            }

            fn put(&mut self, key: K, value: V) {
                self.insert_mut(key, value);
            }

            fn take(&mut self, key: &K) -> bool {
                self.remove_mut(key)
            }
        }
    };
}

map!(HashTrieMapSync, Clone + Hash + Eq);
map!(RedBlackTreeMapSync, Clone + Hash + Ord);

/// A map and what the running job replaced in it. Reading is the map's own.
pub(super) struct Logged<M: Map> {
    map: M,
    /// What was there before each change, the oldest first.
    replaced: Vec<(M::Key, Option<M::Value>)>,
    /// The keys whose values were changed in place: what was there is remembered once.
    changed: HashSet<M::Key>,
}

impl<M: Map> Logged<M> {
    /// Puts a row in, in the place of the one with its key.
    pub(super) fn insert_mut(&mut self, key: M::Key, value: M::Value) {
        self.replaced.push((key.clone(), self.map.find(&key).cloned()));
        self.map.put(key, value);
    }

    /// Removes a row; tells whether there was one.
    pub(super) fn remove_mut(&mut self, key: &M::Key) -> bool {
        let Some(old) = self.map.find(key).cloned() else { return false };
        self.replaced.push((key.clone(), Some(old)));
        self.map.take(key)
    }

    /// Returns a row to be changed.
    pub(super) fn get_mut(&mut self, key: &M::Key) -> Option<&mut M::Value> {
        if !self.changed.contains(key) {
            let old = self.map.find(key)?.clone();
            self.replaced.push((key.clone(), Some(old)));
            self.changed.insert(key.clone());
        }
        self.map.find_mut(key)
    }

    /// Keeps every change: the job is done.
    pub(super) fn keep(&mut self) {
        self.replaced.clear();
        self.changed.clear();
    }

    /// Takes every change since the last [`Self::keep`] back.
    pub(super) fn undo(&mut self) {
        for (key, old) in self.replaced.drain(..).rev() {
            match old {
                Some(old) => self.map.put(key, old),
                None => {
                    self.map.take(&key);
                }
            }
        }
        self.changed.clear();
    }
}

impl<M: Map> Clone for Logged<M> {
    fn clone(&self) -> Self {
        Self { map: self.map.clone(), ..Self::default() }
    }
}

impl<M: Map> Default for Logged<M> {
    fn default() -> Self {
        Self { map: M::default(), replaced: Vec::new(), changed: HashSet::new() }
    }
}

impl<M: Map> Deref for Logged<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.map
    }
}

impl<M: Map> fmt::Debug for Logged<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logged").field("replaced", &self.replaced.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoing_brings_back_what_was_inserted_removed_and_changed_in_place_since_the_last_keep() {
        let mut map: Logged<RedBlackTreeMapSync<u8, u8>> = Logged::default();
        (1..4).for_each(|key| map.insert_mut(key, key));
        map.keep();
        let before = map.clone();

        map.insert_mut(1, 10);
        map.insert_mut(9, 90);
        assert!(map.remove_mut(&2));
        assert!(!map.remove_mut(&2));
        *map.get_mut(&3).expect("it is there") += 1;
        *map.get_mut(&3).expect("it is there") += 1;
        map.remove_mut(&3);
        map.insert_mut(3, 7);
        *map.get_mut(&3).expect("it is there") += 1;
        assert!(map.get_mut(&4).is_none());
        assert!(map.iter().eq([(&1, &10), (&3, &8), (&9, &90)]));

        map.undo();
        assert!(map.iter().eq(before.iter()));
        map.insert_mut(1, 11);
        map.keep();
        map.undo();
        assert_eq!(map.get(&1), Some(&11));
        assert_eq!(before.get(&1), Some(&1), "a clone is a snapshot");
    }
}
