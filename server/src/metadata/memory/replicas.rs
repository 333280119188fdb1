//! What the store in memory keeps of mounts and of past commits.

use std::sync::Arc;

use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::revision::Revision;

use super::tables::{Tables, whole_micros};
use crate::metadata::{
    Client, CommitChanges, HeldVersion, MetadataError, ReadChanges, ReadReplicas, VolumeKey, WriteChanges,
    WriteReplicas,
};

impl ReadReplicas for Tables {
    fn clients(&self, volume: VolumeKey) -> Result<Vec<Client>, MetadataError> {
        let of_volume = self.clients.iter().filter(|((of, _), _)| *of == volume);
        Ok(of_volume.map(|(_, client)| Client::clone(client)).collect())
    }

    fn report_number(&self, volume: VolumeKey, client: &ClientId) -> Result<u64, MetadataError> {
        Ok(self.reports.get(&(volume, client.clone())).copied().unwrap_or(0))
    }

    fn replicas(
        &self,
        volume: VolumeKey,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<(ClientId, HeldVersion)>, MetadataError> {
        // No id sorts before this one.
        let Ok(first) = ClientId::new("-") else { return Ok(Vec::new()) };
        let from = self.replicas.range((volume, node, first)..);
        let of_node = from.take_while(|((of, about, _), _)| (*of, *about) == (volume, node));
        Ok(of_node.take(limit).map(|((_, _, client), held)| (client.clone(), *held)).collect())
    }
}

impl WriteReplicas for Tables {
    fn put_report_number(
        &mut self,
        volume: VolumeKey,
        client: &ClientId,
        number: u64,
    ) -> Result<(), MetadataError> {
        let key = (volume, client.clone());
        if self.clients.contains_key(&key) {
            self.reports.put(key, number);
        }
        Ok(())
    }

    fn put_replica(
        &mut self,
        volume: VolumeKey,
        node: NodeId,
        client: &ClientId,
        held: Option<&HeldVersion>,
    ) -> Result<(), MetadataError> {
        let key = (volume, node, client.clone());
        match held {
            Some(held) => self.replicas.put(key, *held),
            None => self.replicas.take(&key),
        };
        Ok(())
    }

    fn drop_replicas(&mut self, volume: VolumeKey, client: &ClientId) -> Result<(), MetadataError> {
        let held = self.replicas.keys().filter(|(of, _, by)| *of == volume && by == client);
        let held = held.cloned().collect();
        self.replicas.take_all(held);
        Ok(())
    }

    fn remove_client(&mut self, volume: VolumeKey, client: &ClientId) -> Result<bool, MetadataError> {
        self.drop_replicas(volume, client)?;
        let all = (volume, client.clone(), 0)..=(volume, client.clone(), u64::MAX);
        let replies = self.replies.range(all).map(|(key, _)| key.clone()).collect();
        self.replies.take_all(replies);
        let key = (volume, client.clone());
        self.reports.take(&key);
        Ok(self.clients.take(&key).is_some())
    }
}

impl ReadChanges for Tables {
    fn changes_from(
        &self,
        volume: VolumeKey,
        first: Revision,
        limit: usize,
    ) -> Result<Vec<CommitChanges>, MetadataError> {
        let from = self.changes.range((volume, first)..);
        let of_volume = from.take_while(|((of, _), _)| *of == volume);
        Ok(of_volume.take(limit).map(|(_, (changes, _))| CommitChanges::clone(changes)).collect())
    }

    fn oldest_changes(&self, volume: VolumeKey) -> Result<Option<Revision>, MetadataError> {
        let first = self.changes.range((volume, Revision::ZERO)..).next();
        Ok(first.filter(|((of, _), _)| *of == volume).map(|((_, revision), _)| *revision))
    }
}

impl WriteChanges for Tables {
    fn put_changes(
        &mut self,
        volume: VolumeKey,
        changes: &CommitChanges,
        keep_len: u64,
    ) -> Result<(), MetadataError> {
        let all = (volume, Revision::ZERO)..=(volume, Revision(u64::MAX));
        let before = self.changes.range(all.clone()).next_back().map_or(0, |(_, (_, stored))| *stored);
        let stored = before + changes.changes.len() as u64;
        let row = CommitChanges { time: whole_micros(changes.time), ..changes.clone() };
        self.changes.put((volume, changes.revision), (Arc::new(row), stored));
        let beyond = stored.saturating_sub(keep_len);
        let old = self
            .changes
            .range(all)
            .take_while(|((_, revision), (_, stored))| *stored <= beyond && *revision != changes.revision);
        let old = old.map(|(key, _)| *key).collect();
        self.changes.take_all(old);
        Ok(())
    }
}
