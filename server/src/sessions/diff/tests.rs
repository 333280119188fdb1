//! The table of the module's head, and what holds for every pair of snapshots.

use std::convert::Infallible;

use dfs_shared::ddl::SyncStatus::{self, Conflict, Deleted, Modified, Synced, Syncing};

use super::*;

fn hash(text: &str) -> ChunkHash {
    ChunkHash::of(text.as_bytes())
}

fn local(version: Option<u64>, content: &str, status: Option<SyncStatus>) -> LocalFile {
    LocalFile { version, size: content.len() as u64, hash: Some(hash(content)), status }
}

fn server(version: u64, content: &str) -> ServerFile {
    ServerFile { version, size: content.len() as u64, hash: Some(hash(content)) }
}

fn compare(
    local: &BTreeMap<Vec<u8>, LocalFile>,
    server: &BTreeMap<Vec<u8>, ServerFile>,
    deleted: &BTreeMap<Vec<u8>, ServerFile>,
) -> Plan {
    let mut comparison = Comparison::new(local.clone());
    for (path, file) in server {
        comparison.add(path.clone(), file);
    }
    comparison.finish(|path| Ok::<_, Infallible>(deleted.get(path).cloned())).unwrap()
}

fn one(local: Option<LocalFile>, server: Option<ServerFile>, deleted: Option<ServerFile>) -> Option<Action> {
    let named = |file: Option<_>| file.into_iter().map(|file| (b"f".to_vec(), file)).collect();
    let deleted = deleted.into_iter().map(|file| (b"f".to_vec(), file)).collect();
    let server = server.into_iter().map(|file| (b"f".to_vec(), file)).collect();
    compare(&named(local), &server, &deleted).remove(&b"f"[..]).map(|planned| planned.action)
}

#[test]
fn every_row_of_the_table_holds() {
    use Action::{DeleteLocal, DeleteRemote, Download, Upload};
    let clash = Some(Action::Conflict);
    let s = || Some(server(5, "server"));
    for (line, local, server, deleted, expected) in [
        ("never seen", None, s(), None, Some(Download)),
        ("new here", Some(local(None, "mine", None)), None, None, Some(Upload)),
        (
            "new here, numbered by the client",
            Some(local(Some(1), "mine", Some(Modified))),
            None,
            None,
            Some(Upload),
        ),
        (
            "deleted there, unchanged",
            Some(local(Some(5), "server", Some(Synced))),
            None,
            s(),
            Some(DeleteLocal),
        ),
        ("deleted there, edited", Some(local(Some(5), "mine", Some(Modified))), None, s(), Some(Upload)),
        (
            "deleted there, said to be edited",
            Some(local(Some(5), "server", Some(Modified))),
            None,
            s(),
            Some(Upload),
        ),
        ("deleted there, never seen", Some(local(None, "server", None)), None, s(), Some(Upload)),
        ("same", Some(local(None, "server", None)), s(), None, None),
        ("same, old number", Some(local(Some(1), "server", Some(Modified))), s(), None, None),
        ("same name by chance", Some(local(None, "mine", None)), s(), None, clash),
        ("edited", Some(local(Some(5), "mine", None)), s(), None, Some(Upload)),
        ("edited and said so", Some(local(Some(5), "mine", Some(Modified))), s(), None, Some(Upload)),
        ("on its way", Some(local(Some(5), "mine", Some(Syncing))), s(), None, Some(Upload)),
        ("counted on by the client", Some(local(Some(6), "mine", Some(Modified))), s(), None, Some(Upload)),
        ("synced with other bytes", Some(local(Some(5), "mine", Some(Synced))), s(), None, clash),
        ("behind", Some(local(Some(4), "old", Some(Synced))), s(), None, Some(Download)),
        ("behind and edited", Some(local(Some(4), "mine", Some(Modified))), s(), None, clash),
        ("behind and silent", Some(local(Some(4), "mine", None)), s(), None, clash),
        ("marked", Some(local(Some(5), "mine", Some(Conflict))), s(), None, clash),
        ("removed here", Some(local(Some(5), "server", Some(Deleted))), s(), None, Some(DeleteRemote)),
        ("removed here, edited there", Some(local(Some(4), "old", Some(Deleted))), s(), None, Some(Download)),
        ("removed by hash", Some(local(None, "server", Some(Deleted))), s(), None, Some(DeleteRemote)),
        ("removed, never seen", Some(local(None, "mine", Some(Deleted))), s(), None, Some(Download)),
        ("removed on both sides", Some(local(Some(5), "server", Some(Deleted))), None, s(), None),
    ] {
        assert_eq!(one(local, server, deleted), expected, "{line}");
    }
}

#[test]
fn without_a_hash_only_a_synced_file_of_the_same_version_counts_as_equal() {
    let unhashed = |version, status| Some(LocalFile { version, size: 6, hash: None, status });
    let s = || Some(server(5, "server"));
    assert_eq!(one(unhashed(Some(5), Some(Synced)), s(), None), None);
    assert_eq!(one(unhashed(Some(5), None), s(), None), Some(Action::Upload));
    assert_eq!(one(unhashed(None, Some(Synced)), s(), None), Some(Action::Conflict));
    let unknown = Some(ServerFile { version: 5, size: 6, hash: None });
    assert_eq!(one(Some(local(None, "server", None)), unknown, None), Some(Action::Conflict));
}

#[test]
fn the_plan_says_how_many_bytes_move_and_over_which_version() {
    let mine = BTreeMap::from([
        (b"up".to_vec(), local(Some(3), "1234", Some(Modified))),
        (b"new".to_vec(), local(None, "123", None)),
    ]);
    let theirs = BTreeMap::from([(b"up".to_vec(), server(3, "1")), (b"down".to_vec(), server(9, "12"))]);
    let plan = compare(&mine, &theirs, &BTreeMap::new());
    let planned = |action, bytes, base| Planned { action, bytes, base };
    assert_eq!(plan[&b"up"[..]], planned(Action::Upload, 4, Some(3)));
    assert_eq!(plan[&b"new"[..]], planned(Action::Upload, 3, None));
    assert_eq!(plan[&b"down"[..]], planned(Action::Download, 2, Some(9)));
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

type Snapshots = (BTreeMap<Vec<u8>, LocalFile>, BTreeMap<Vec<u8>, ServerFile>, BTreeMap<Vec<u8>, ServerFile>);

fn generated(seed: u64) -> Snapshots {
    let mut numbers = Numbers(seed);
    let (mut mine, mut theirs, mut deleted) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for path in 0..numbers.below(30) {
        let path = format!("d/{path}").into_bytes();
        let content = |numbers: &mut Numbers| format!("content {}", numbers.below(3));
        if numbers.below(4) > 0 {
            let version = Some(numbers.below(5)).filter(|version| *version > 0);
            let status = SyncStatus::ALL.get(usize::try_from(numbers.below(6)).unwrap()).copied();
            mine.insert(path.clone(), local(version, &content(&mut numbers), status));
        }
        let file = server(1 + numbers.below(4), &content(&mut numbers));
        match numbers.below(4) {
            0 => {}
            1 => drop(deleted.insert(path, file)),
            _ => drop(theirs.insert(path, file)),
        }
    }
    (mine, theirs, deleted)
}

#[test]
fn the_order_of_the_servers_files_does_not_matter() {
    for seed in 0..300 {
        let (mine, theirs, deleted) = generated(seed);
        let mut comparison = Comparison::new(mine.clone());
        for (path, file) in theirs.iter().rev() {
            comparison.add(path.clone(), file);
        }
        let reversed = comparison.finish(|path| Ok::<_, Infallible>(deleted.get(path).cloned())).unwrap();
        assert_eq!(reversed, compare(&mine, &theirs, &deleted), "seed {seed}");
    }
}

#[test]
fn a_client_that_did_what_the_plan_says_has_nothing_left_to_do() {
    for seed in 0..300 {
        let (mut mine, mut theirs, mut deleted) = generated(seed);
        for (path, planned) in compare(&mine, &theirs, &deleted) {
            let current = theirs.get(&path).map_or(0, |file| file.version);
            match planned.action {
                // A conflict is resolved here in favour of the client.
                Action::Upload | Action::Conflict => {
                    let file = mine.get_mut(&path).expect("what is uploaded is here");
                    theirs
                        .insert(path, ServerFile { version: current + 1, size: file.size, hash: file.hash });
                    *file = LocalFile { version: Some(current + 1), status: Some(Synced), ..file.clone() };
                }
                Action::Download => {
                    let file = &theirs[&path];
                    let (version, size, hash) = (Some(file.version), file.size, file.hash);
                    mine.insert(path, LocalFile { version, size, hash, status: Some(Synced) });
                }
                Action::DeleteRemote => {
                    let file = theirs.remove(&path).expect("what is deleted there is there");
                    deleted.insert(path, file);
                }
                Action::DeleteLocal => drop(mine.remove(&path).expect("what is deleted here is here")),
            }
        }
        assert_eq!(compare(&mine, &theirs, &deleted), Plan::new(), "seed {seed}");
    }
}

#[test]
fn nothing_is_deleted_that_the_other_side_has_not_seen() {
    for seed in 0..300 {
        let (mine, theirs, deleted) = generated(seed);
        for (path, planned) in compare(&mine, &theirs, &deleted) {
            match planned.action {
                Action::DeleteRemote => {
                    let (here, there) = (&mine[&path], &theirs[&path]);
                    assert_eq!(here.status, Some(Deleted), "seed {seed}");
                    assert!(here.version >= Some(there.version) || here.hash == there.hash, "seed {seed}");
                }
                Action::DeleteLocal => {
                    assert_eq!(mine[&path].hash, deleted[&path].hash, "seed {seed}");
                    assert!(mine[&path].version <= Some(deleted[&path].version), "seed {seed}");
                }
                Action::Upload | Action::Download | Action::Conflict => {}
            }
        }
    }
}
