//! Sync sessions survive a restart.

use dfs_shared::ids::ClientId;

use super::*;
use crate::metadata::conformance::sessions::row;

#[test]
fn a_session_comes_back_as_it_was_written_also_after_a_restart() {
    let (dir, store) = store();
    let written = row(9);
    let copy = written.clone();
    let dynamic: &dyn MetadataStore = &store;
    dynamic.write(1, move |tx| tx.put_session(&copy)).wait().unwrap();
    drop(store);
    let store = SqliteStore::open(dir.path()).unwrap();
    let store: &dyn MetadataStore = &store;
    let id = written.id;
    assert_eq!(store.read(|snapshot| snapshot.session(&id)).unwrap(), Some(written.clone()));
    let (volume, client) = (written.volume.clone(), written.client.clone());
    let counts = store.read(|snapshot| snapshot.session_count(&volume, &client)).unwrap();
    let others =
        store.read(|snapshot| snapshot.session_count(&volume, &ClientId::new("d").unwrap())).unwrap();
    assert_eq!((counts, others), ((1, 1), (1, 0)));
}
