//! The base's Merkle tree, as far as a change has it: reads through to the store, collects what changes.

use dfs_shared::merkle::NodeStore;

use super::Txn;
use crate::tree::store::Space;
use crate::tree::{TreeError, keys};

impl NodeStore for Txn<'_> {
    type Error = TreeError;

    fn get(&self, prefix: &[u8]) -> Result<Option<Vec<u8>>, TreeError> {
        match self.merkle.get(prefix) {
            Some(node) => Ok(node.clone()),
            None => {
                Ok(self.store.read_raw(Space::Merkle, &keys::merkle(prefix))?.map(|bytes| bytes.to_vec()))
            }
        }
    }

    fn put(&mut self, prefix: &[u8], node: Vec<u8>) -> Result<(), TreeError> {
        self.merkle.insert(prefix.to_vec(), Some(node));
        Ok(())
    }

    fn remove(&mut self, prefix: &[u8]) -> Result<(), TreeError> {
        self.merkle.insert(prefix.to_vec(), None);
        Ok(())
    }
}
