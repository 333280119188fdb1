//! A map that remembers what a job replaced in it, so that a job that fails is undone.
//!
//! Invariant: undoing brings back the map as it was at the last [`Logged::keep`]. A clone shares the rows and has no memory of
//! the job: it is a snapshot.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Deref;

use equivalent::Comparable;
use imbl::OrdMap;

/// An ordered map and what the running job replaced in it. Reading is the map's own.
pub(super) struct Logged<K, V> {
    map: OrdMap<K, V>,
    /// What was there before each change, the oldest first.
    replaced: Vec<(K, Option<V>)>,
    /// The keys whose values were changed in place: what was there is remembered once.
    changed: BTreeSet<K>,
}

impl<K: Ord + Clone, V: Clone> Logged<K, V> {
    /// Puts a row in, in the place of the one with its key; returns that.
    pub(super) fn put(&mut self, key: K, value: V) -> Option<&V> {
        let old = self.map.insert(key.clone(), value);
        self.remember(key, old)
    }

    /// Removes a row and returns it.
    pub(super) fn take(&mut self, key: &(impl Comparable<K> + ?Sized)) -> Option<&V> {
        // Removing copies its way to the row: nothing is copied for a row that is not there.
        if !self.map.contains_key(key) {
            return None;
        }
        let (key, old) = self.map.remove_with_key(key)?;
        self.remember(key, Some(old))
    }

    fn remember(&mut self, key: K, old: Option<V>) -> Option<&V> {
        self.replaced.push((key, old));
        self.replaced.last().and_then(|(_, old)| old.as_ref())
    }

    /// Removes these rows.
    pub(super) fn take_all(&mut self, keys: Vec<K>) {
        for key in keys {
            self.take(&key);
        }
    }

    /// Returns a row to be changed.
    pub(super) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        if !self.changed.contains(key) {
            let old = self.map.get(key)?.clone();
            self.replaced.push((key.clone(), Some(old)));
            self.changed.insert(key.clone());
        }
        self.map.get_mut(key)
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
                Some(old) => self.map.insert(key, old),
                None => self.map.remove(&key),
            };
        }
        self.changed.clear();
    }
}

impl<K, V> Clone for Logged<K, V> {
    fn clone(&self) -> Self {
        Self { map: self.map.clone(), ..Self::default() }
    }
}

impl<K, V> Default for Logged<K, V> {
    fn default() -> Self {
        Self { map: OrdMap::new(), replaced: Vec::new(), changed: BTreeSet::new() }
    }
}

impl<K, V> Deref for Logged<K, V> {
    type Target = OrdMap<K, V>;

    fn deref(&self) -> &Self::Target {
        &self.map
    }
}

impl<K, V> fmt::Debug for Logged<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logged").field("replaced", &self.replaced.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn undoing_brings_back_what_was_inserted_removed_and_changed_in_place_since_the_last_keep() {
        let mut map: Logged<u8, u8> = Logged::default();
        for key in 1..4 {
            map.put(key, key);
        }
        map.keep();
        let before = map.clone();

        map.put(1, 10);
        map.put(9, 90);
        assert_eq!(map.take(&2), Some(&2));
        assert_eq!(map.take(&2), None);
        *map.get_mut(&3).expect("it is there") += 1;
        *map.get_mut(&3).expect("it is there") += 1;
        assert_eq!(map.take(&3), Some(&5));
        map.put(3, 7);
        *map.get_mut(&3).expect("it is there") += 1;
        assert!(map.get_mut(&4).is_none());
        assert!(map.iter().eq([(&1, &10), (&3, &8), (&9, &90)]));

        map.undo();
        assert!(map.iter().eq(before.iter()));
        map.put(1, 11);
        map.keep();
        map.undo();
        assert_eq!(map.get(&1), Some(&11));
        assert_eq!(before.get(&1), Some(&1), "a clone is a snapshot");
    }

    #[test]
    fn undoing_a_job_among_many_rows_leaves_every_other_row() {
        let mut map: Logged<u32, u32> = Logged::default();
        for key in 0..5_000 {
            map.put(key * 2, key);
        }
        map.keep();
        let before = map.clone();
        // A step that shares no factor with the number of keys comes to many of them, out of order.
        for number in 1..6_000 {
            let key = number * 7_919 % 10_000;
            match number % 3 {
                0 => assert_ne!(map.put(key, number), Some(&number)),
                1 => assert!(map.take(&key).is_none_or(|old| *old < 5_000)),
                _ => map.get_mut(&key).into_iter().for_each(|value| *value = 0),
            }
        }
        assert!(!map.iter().eq(before.iter()));
        map.undo();
        assert!(map.iter().eq(before.iter()));
    }
}
