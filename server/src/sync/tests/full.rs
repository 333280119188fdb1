//! A server whose disk takes nothing: what it knows already it says.

use dfs_shared::ids::NodeId;
use dfs_shared::record::{ChangeGroup, NodeKind};
use dfs_shared::wire::messages::RegisterRequest;

use super::super::kit::*;
use super::*;
use crate::chunk_store::DiskStore;
use crate::metadata::{ReadWork, WriteJob};

/// The metadata of another store, on a disk that is full.
struct Full(Arc<dyn MetadataStore>);

impl MetadataStore for Full {
    fn submit(&self, job: Box<dyn WriteJob>) {
        job.finish(Err(MetadataError::DiskFull));
    }

    fn read_with(&self, work: &mut ReadWork<'_>) -> Result<(), MetadataError> {
        self.0.read_with(work)
    }
}

fn is_full<T>(result: &Result<T, SyncError>) -> bool {
    matches!(result, Err(SyncError::Metadata(MetadataError::DiskFull)))
}

// S49
#[test]
fn a_full_disk_refuses_what_is_new_and_answers_for_what_was_made() {
    let kit = Kit::new();
    let chunks = Arc::new(DiskStore::open(&kit.dir.path().join("chunks")).unwrap());
    let full = SyncService::new(Arc::new(Full(Arc::clone(&kit.metadata))), chunks, kit.bus.clone());
    let request = |name| {
        let id = NodeId::generate();
        let changes =
            vec![put(None, node(id, NodeKind::Directory)), put(None, entry(NodeId::ROOT, name, id))];
        kit.request(vec![ChangeGroup { changes }], &[])
    };
    let (made, new) = (request("made"), request("new"));
    let reply = kit.send(made.clone()).unwrap();
    let commit = |request| block_on(full.commit(&main_volume(), SyncService::prepare(request).unwrap()));
    assert_eq!(commit(made).unwrap(), reply);
    assert!(is_full(&commit(new)));

    let register = |client| {
        let request = RegisterRequest { client_name: "test".to_owned(), client, uid: 1, gid: 2 };
        block_on(full.register(&main_volume(), request))
    };
    assert!(is_full(&register(None)));
    assert!(is_full(&register(Some(ClientId::new("stranger").unwrap()))));
    let again = register(Some(kit.client.clone())).unwrap();
    assert_eq!((again.client, again.revision, again.root), (kit.client.clone(), reply.revision, reply.root));
}
