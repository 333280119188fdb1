//! The queries and statements about mounts and past commits of the SQLite store.

use dfs_shared::hash::ContentId;
use dfs_shared::ids::{ClientId, NodeId};
use dfs_shared::revision::Revision;

use super::failed;
use super::read::{Tables, from_micros, micros, signed, unsigned};
use crate::metadata::{
    Client, CommitChanges, HeldVersion, MetadataError, ReadChanges, ReadReplicas, VolumeKey, WriteChanges,
    WriteReplicas,
};

fn client_id(text: &str) -> Result<ClientId, MetadataError> {
    ClientId::new(text).map_err(|_| MetadataError::Damaged { what: "client id", source: None })
}

impl ReadReplicas for Tables<'_> {
    fn clients(&self, volume: VolumeKey) -> Result<Vec<Client>, MetadataError> {
        let sql = "SELECT id, name, last_seen FROM client WHERE volume = ?1 ORDER BY id";
        let row = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
        };
        let rows = self.all("list the clients", sql, [volume.0], row)?;
        let client = |(id, name, seen): (String, String, i64)| {
            Ok(Client { id: client_id(&id)?, name, last_seen: from_micros(seen) })
        };
        rows.into_iter().map(client).collect()
    }

    fn report_number(&self, volume: VolumeKey, client: &ClientId) -> Result<u64, MetadataError> {
        let sql = "SELECT reported FROM client WHERE volume = ?1 AND id = ?2";
        let number =
            self.one("read the number of a report", sql, (volume.0, client.as_str()), |row| row.get(0))?;
        Ok(number.map_or(0, unsigned))
    }

    fn replicas(
        &self,
        volume: VolumeKey,
        node: NodeId,
        limit: usize,
    ) -> Result<Vec<(ClientId, HeldVersion)>, MetadataError> {
        let sql = "SELECT client, content, version FROM replica WHERE volume = ?1 AND node = ?2 \
                   ORDER BY client LIMIT ?3";
        let params = (volume.0, node.as_bytes(), signed(limit as u64));
        let row = |row: &rusqlite::Row<'_>| {
            Ok((row.get::<_, String>(0)?, row.get::<_, Option<[u8; 32]>>(1)?, row.get::<_, i64>(2)?))
        };
        let rows = self.all("read the replicas of a file", sql, params, row)?;
        let replica = |(client, content, version): (String, Option<[u8; 32]>, i64)| {
            let (content, version) = (content.map(ContentId::from_bytes), unsigned(version));
            Ok((client_id(&client)?, HeldVersion { content, version }))
        };
        rows.into_iter().map(replica).collect()
    }
}

impl WriteReplicas for Tables<'_> {
    fn put_report_number(
        &mut self,
        volume: VolumeKey,
        client: &ClientId,
        number: u64,
    ) -> Result<(), MetadataError> {
        let sql = "UPDATE client SET reported = ?3 WHERE volume = ?1 AND id = ?2";
        self.execute("keep the number of a report", sql, (volume.0, client.as_str(), signed(number)))
    }

    fn put_replica(
        &mut self,
        volume: VolumeKey,
        node: NodeId,
        client: &ClientId,
        held: Option<&HeldVersion>,
    ) -> Result<(), MetadataError> {
        match held {
            Some(held) => {
                let sql = "INSERT INTO replica (volume, node, client, content, version) VALUES (?1, ?2, ?3, ?4, ?5) \
                           ON CONFLICT (volume, node, client) DO UPDATE SET content = ?4, version = ?5";
                let content = held.content.as_ref().map(ContentId::as_bytes);
                let params = (volume.0, node.as_bytes(), client.as_str(), content, signed(held.version));
                self.execute("keep a replica", sql, params)
            }
            None => {
                let sql = "DELETE FROM replica WHERE volume = ?1 AND node = ?2 AND client = ?3";
                self.execute("drop a replica", sql, (volume.0, node.as_bytes(), client.as_str()))
            }
        }
    }

    fn drop_replicas(&mut self, volume: VolumeKey, client: &ClientId) -> Result<(), MetadataError> {
        let sql = "DELETE FROM replica WHERE volume = ?1 AND client = ?2";
        self.execute("drop the replicas of a client", sql, (volume.0, client.as_str()))
    }

    fn remove_client(&mut self, volume: VolumeKey, client: &ClientId) -> Result<bool, MetadataError> {
        self.drop_replicas(volume, client)?;
        let replies = "DELETE FROM client_commit WHERE volume = ?1 AND client = ?2";
        self.execute("drop the replies to a client", replies, (volume.0, client.as_str()))?;
        let sql = "DELETE FROM client WHERE volume = ?1 AND id = ?2";
        let removed = self
            .connection
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute((volume.0, client.as_str())));
        removed.map(|rows| rows > 0).map_err(failed("remove a client"))
    }
}

impl ReadChanges for Tables<'_> {
    fn changes_from(
        &self,
        volume: VolumeKey,
        first: Revision,
        limit: usize,
    ) -> Result<Vec<CommitChanges>, MetadataError> {
        let sql = "SELECT revision, time, changes FROM commit_changes WHERE volume = ?1 AND revision >= ?2 \
                   ORDER BY revision LIMIT ?3";
        let params = (volume.0, signed(first.0), signed(limit as u64));
        self.all("read the changes of commits", sql, params, |row| {
            Ok(CommitChanges {
                revision: Revision(unsigned(row.get(0)?)),
                time: from_micros(row.get(1)?),
                changes: row.get(2)?,
            })
        })
    }

    fn oldest_changes(&self, volume: VolumeKey) -> Result<Option<Revision>, MetadataError> {
        let sql = "SELECT revision FROM commit_changes WHERE volume = ?1 ORDER BY revision LIMIT 1";
        let oldest = self.one("find the oldest changes", sql, [volume.0], |row| row.get(0))?;
        Ok(oldest.map(|revision| Revision(unsigned(revision))))
    }
}

impl WriteChanges for Tables<'_> {
    fn put_changes(
        &mut self,
        volume: VolumeKey,
        changes: &CommitChanges,
        keep_len: u64,
    ) -> Result<(), MetadataError> {
        let newest = "SELECT stored FROM commit_changes WHERE volume = ?1 ORDER BY revision DESC LIMIT 1";
        let before = self.one("find the newest changes", newest, [volume.0], |row| row.get(0))?.unwrap_or(0);
        let stored = before + signed(changes.changes.len() as u64);
        let put = "INSERT OR REPLACE INTO commit_changes (volume, revision, time, stored, changes) \
                   VALUES (?1, ?2, ?3, ?4, ?5)";
        let revision = signed(changes.revision.0);
        let params = (volume.0, revision, micros(changes.time), stored, &changes.changes);
        self.execute("keep the changes of a commit", put, params)?;
        // Every commit drops what is too much, so there are only a few: the rows are looked at from the oldest on.
        let drop = "DELETE FROM commit_changes WHERE volume = ?1 AND revision < ?2 AND revision < \
                    (SELECT revision FROM commit_changes WHERE volume = ?1 AND stored > ?3 ORDER BY revision LIMIT 1)";
        let params = (volume.0, revision, stored - signed(keep_len));
        self.execute("drop the changes of old commits", drop, params)
    }
}
