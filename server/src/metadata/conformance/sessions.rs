//! What every store promises about sync sessions.

use dfs_shared::hash::ChunkHash;
use dfs_shared::ids::ClientId;

use super::*;
use crate::metadata::sessions::{
    FileAction, PathUnderWay, SessionFile, SessionId, SessionRow, StagedChunk, StagedFile, WhichSessions,
};

on_every_store!(
    a_session_comes_back_as_it_was_written,
    an_upload_is_marked_unmarked_and_removed_with_its_chunks,
    silent_sessions_are_found_oldest_first_and_leave_nothing_behind,
    missing_chunks_are_the_gaps_between_those_that_have_arrived,
    a_plan_is_replaced_whole_and_changed_file_by_file,
    what_is_under_way_at_a_path_is_found_in_the_sessions_that_are_meant,
);

pub(in crate::metadata) fn row(heard: i64) -> SessionRow {
    SessionRow {
        id: SessionId::generate(),
        volume: VolumeName::new("main").unwrap(),
        client: ClientId::new("c").unwrap(),
        state: 2,
        heard: Timestamp { secs: heard, nanos: 5000 },
        transfers: 1,
        conflicts: 2,
        bytes_left: 3,
        applying: 4,
        staged: 5,
        files_synced: 6,
        bytes_synced: 7,
        last_error: Some("why".to_owned()),
    }
}

fn chunk(number: u64) -> StagedChunk {
    StagedChunk { number, hash: ChunkHash::of(&number.to_be_bytes()), len: number + 1 }
}

fn silent_sessions_are_found_oldest_first_and_leave_nothing_behind(opened: Opened) {
    let store = opened.store();
    let rows = [row(30), row(10), row(20)];
    let ids = rows.clone().map(|row| row.id);
    write(store, move |tx| {
        for row in &rows {
            tx.put_session(row)?;
            tx.put_staged_file(&row.id, b"f", &StagedFile { total: 2, prefix: 0, applying: true })?;
            tx.put_staged_chunk(&row.id, b"f", &chunk(1))?;
            let file = SessionFile { path: b"f".to_vec(), action: FileAction::Upload, bytes: 1, base: None };
            tx.put_session_files(&row.id, &[file])?;
        }
        Ok(())
    });
    let silent = |at| {
        let at = Timestamp { secs: at, nanos: 0 };
        store.read(|snapshot| snapshot.sessions_heard_before(at, 2)).unwrap()
    };
    assert!(silent(10).is_empty());
    assert_eq!(silent(21), [ids[1], ids[2]]);
    assert_eq!(silent(99), [ids[1], ids[2]], "the limit holds");
    let removed = ids[1];
    write(store, move |tx| tx.remove_session(&removed));
    let left = |id: SessionId| {
        store
            .read(|snapshot| {
                Ok((
                    snapshot.session(&id)?.is_some(),
                    snapshot.session_file(&id, b"f")?.is_some(),
                    snapshot.staged_file(&id, b"f")?.is_some(),
                    snapshot.staged_chunks(&id, b"f", 0, 9)?.len(),
                ))
            })
            .unwrap()
    };
    assert_eq!(left(ids[1]), (false, false, false, 0));
    assert_eq!(left(ids[0]), (true, true, true, 1));
    let in_state = store.read(|snapshot| snapshot.sessions_in_state(2, 9)).unwrap();
    assert_eq!(in_state.len(), 2);
}

fn missing_chunks_are_the_gaps_between_those_that_have_arrived(opened: Opened) {
    let store = opened.store();
    let id = SessionId::generate();
    write(store, move |tx| {
        [3, 1, 4, 1].into_iter().try_for_each(|number| tx.put_staged_chunk(&id, b"f", &chunk(number)))
    });
    let missing = |range: std::ops::Range<u64>, limit| {
        store.read(|snapshot| snapshot.missing_chunks(&id, b"f", range.clone(), limit)).unwrap()
    };
    assert_eq!(missing(0..7, 9), [0, 2, 5, 6]);
    assert_eq!(missing(0..7, 3), [0, 2, 5]);
    assert_eq!(missing(2..7, 1), [2]);
    assert_eq!(missing(3..5, 9), [0; 0]);
    assert_eq!(missing(0..2, 9), [0], "what is behind the range does not count");
    let from = |number| store.read(|snapshot| snapshot.staged_chunks(&id, b"f", number, 2)).unwrap();
    assert_eq!(from(2), [chunk(3), chunk(4)]);
    write(store, move |tx| tx.remove_staged_chunk(&id, b"f", 3));
    assert_eq!(missing(0..5, 9), [0, 2, 3]);
}

fn a_plan_is_replaced_whole_and_changed_file_by_file(opened: Opened) {
    let store = opened.store();
    let id = SessionId::generate();
    let file = |path: &[u8], action, base| SessionFile { path: path.to_vec(), action, bytes: 7, base };
    let plan = [
        file(b"a", FileAction::Upload, None),
        file(b"b", FileAction::Download, Some(3)),
        file(b"c", FileAction::Conflict, Some(4)),
    ];
    let first = plan.clone();
    write(store, move |tx| tx.put_session_files(&id, &first));
    let found = |path: &[u8]| store.read(|snapshot| snapshot.session_file(&id, path)).unwrap();
    for file in &plan {
        assert_eq!(found(&file.path).as_ref(), Some(file));
    }
    write(store, move |tx| tx.put_session_file(&id, b"a", None));
    assert_eq!(found(b"a"), None);
    let second = [file(b"d", FileAction::Upload, None)];
    write(store, move |tx| tx.put_session_files(&id, &second));
    assert_eq!((found(b"b"), found(b"d").is_some()), (None, true));
}

fn a_session_comes_back_as_it_was_written(opened: Opened) {
    let store = opened.store();
    let written = row(9);
    let copy = written.clone();
    write(store, move |tx| tx.put_session(&copy));
    let id = written.id;
    assert_eq!(store.read(|snapshot| snapshot.session(&id)).unwrap(), Some(written.clone()));
    let (volume, client) = (written.volume.clone(), written.client.clone());
    let counts = store.read(|snapshot| snapshot.session_count(&volume, &client)).unwrap();
    let others =
        store.read(|snapshot| snapshot.session_count(&volume, &ClientId::new("d").unwrap())).unwrap();
    assert_eq!((counts, others), ((1, 1), (1, 0)));
}

fn an_upload_is_marked_unmarked_and_removed_with_its_chunks(opened: Opened) {
    let store = opened.store();
    let id = SessionId::generate();
    let marked = StagedFile { total: 2, prefix: 1, applying: true };
    write(store, move |tx| {
        tx.put_staged_file(&id, b"a", &marked)?;
        tx.put_staged_file(&id, b"b", &marked)?;
        tx.put_staged_chunk(&id, b"a", &chunk(0))?;
        tx.put_staged_chunk(&id, b"b", &chunk(0))
    });
    let file = |path: &[u8]| store.read(|snapshot| snapshot.staged_file(&id, path)).unwrap();
    let chunks = |path: &[u8]| store.read(|snapshot| snapshot.staged_chunks(&id, path, 0, 9)).unwrap().len();
    assert_eq!((file(b"a"), file(b"b")), (Some(marked), Some(marked)));
    write(store, move |tx| tx.clear_applying(&id));
    let unmarked = StagedFile { applying: false, ..marked };
    assert_eq!((file(b"a"), file(b"b")), (Some(unmarked), Some(unmarked)));
    write(store, move |tx| tx.remove_staged_file(&id, b"a"));
    assert_eq!((file(b"a"), file(b"b")), (None, Some(unmarked)));
    assert_eq!((chunks(b"a"), chunks(b"b")), (0, 1));
}

fn what_is_under_way_at_a_path_is_found_in_the_sessions_that_are_meant(opened: Opened) {
    let store = opened.store();
    let session = row(9);
    let (id, heard) = (session.id, session.heard);
    let file = |path: &[u8], action| SessionFile { path: path.to_vec(), action, bytes: 7, base: None };
    let plan = [
        file(b"conflict", FileAction::Conflict),
        file(b"up", FileAction::Upload),
        file(b"down", FileAction::Download),
        file(b"both", FileAction::Conflict),
    ];
    write(store, move |tx| {
        tx.put_session(&session)?;
        tx.put_session(&SessionRow { volume: VolumeName::new("other").unwrap(), ..row(10) })?;
        tx.put_session_files(&id, &plan)?;
        let staged = StagedFile { total: 2, prefix: 0, applying: false };
        [&b"staged"[..], b"both"].into_iter().try_for_each(|path| tx.put_staged_file(&id, path, &staged))
    });
    let main = VolumeName::new("main").unwrap();
    let other = VolumeName::new("other").unwrap();
    let which = WhichSessions { volume: &main, states: 1 << 2, heard_from: heard };
    let found = |which, path: &[u8]| {
        let PathUnderWay { is_staged, is_in_conflict } =
            store.read(|snapshot| snapshot.path_under_way(which, path)).unwrap();
        (is_staged, is_in_conflict)
    };
    for (path, wanted) in [
        (&b"staged"[..], (true, false)),
        (b"conflict", (false, true)),
        (b"both", (true, true)),
        (b"up", (false, false)),
        (b"down", (false, false)),
        (b"bot", (false, false)),
    ] {
        assert_eq!(found(which, path), wanted, "{}", path.escape_ascii());
    }
    let later = Timestamp { nanos: heard.nanos + 1000, ..heard };
    for not_meant in [
        WhichSessions { volume: &other, ..which },
        WhichSessions { states: !(1 << 2), ..which },
        WhichSessions { heard_from: later, ..which },
    ] {
        assert_eq!(found(not_meant, b"both"), (false, false), "{not_meant:?}");
    }
    write(store, move |tx| tx.remove_session(&id));
    assert_eq!(found(which, b"both"), (false, false));
}
