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

#[test]
fn what_is_under_way_at_a_path_is_found_by_indexes() {
    let (dir, store) = store();
    drop(store);
    let connection = connect(&dir.path().join(DATABASE_FILE)).unwrap();
    let sql = format!("EXPLAIN QUERY PLAN {}", crate::metadata::sqlite::sessions::UNDER_WAY);
    let mut statement = connection.prepare(&sql).unwrap();
    let steps = statement.query_map((&b"p"[..], "main", 4, 0), |row| row.get::<_, String>(3)).unwrap();
    let steps: Vec<String> = steps.collect::<Result<_, _>>().unwrap();
    for index in ["staged_file_path", "session_conflict_path"] {
        assert!(
            steps.iter().any(|step| step.contains("SEARCH") && step.contains(index)),
            "{index}: {steps:?}"
        );
    }
    assert!(
        steps.iter().all(|step| !step.contains("SCAN session_file") && !step.contains("SCAN staged")),
        "{steps:?}"
    );
}
