//! Decisions of the registry on a real store.

use std::task::{Context, Poll, Waker};

use dfs_shared::time::Timestamp;

use super::*;
use crate::access::token::Secret;
use crate::metadata::sqlite::SqliteStore;

struct Rig {
    _dir: tempfile::TempDir,
    store: Arc<dyn MetadataStore>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(dir.path()).unwrap());
        Self { _dir: dir, store }
    }

    /// Makes a token and returns its header.
    fn create(&self, number: u8, volume: &str, access: Access) -> String {
        let (id, secret) = (TokenId::from_bytes([number; 8]), Secret::from_bytes([number; 32]));
        let token = AccessToken {
            id,
            digest: secret.digest(),
            volume: VolumeName::new(volume).unwrap(),
            access,
            name: "test".to_owned(),
            created: Timestamp::default(),
            revoked: None,
        };
        self.store.write(1, move |tx| tx.put_token(&token)).wait().unwrap();
        format!("Bearer {}", secret.text(id))
    }

    fn revoke(&self, number: u8) {
        let id = TokenId::from_bytes([number; 8]);
        let revoked = self.store.write(1, move |tx| tx.revoke_token(&id, Timestamp::default())).wait();
        assert!(revoked.unwrap());
    }
}

fn check(registry: &Registry, header: Option<&str>, access: Access, volume: &str) -> Result<Grant, Refusal> {
    let volume = VolumeName::new(volume).unwrap();
    registry.check(header.into_iter().map(str::as_bytes), Need::Volume(access), Some(&volume))
}

fn is_over(grant: &Grant) -> bool {
    let mut revoked = std::pin::pin!(grant.revoked());
    revoked.as_mut().poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

#[test]
fn each_token_allows_its_own_volume_up_to_its_access_and_nothing_else() {
    let rig = Rig::new();
    let all = [Access::Read, Access::Write, Access::Admin];
    let headers: Vec<_> = (1..).zip(all).map(|(number, access)| rig.create(number, "a", access)).collect();
    let registry = Registry::open(Arc::clone(&rig.store), true).unwrap();
    for (header, allowed) in headers.iter().zip(all) {
        for needed in all {
            assert_eq!(check(&registry, Some(header), needed, "a").is_ok(), allowed >= needed);
            let other = check(&registry, Some(header), needed, "b").expect_err("another volume");
            assert!(matches!(other, Refusal::OtherVolume { .. }) && other.is_forbidden());
        }
        let grant = check(&registry, Some(header), Access::Read, "a").unwrap();
        assert_eq!(grant.allows(&VolumeName::new("a").unwrap(), Access::Write), allowed >= Access::Write);
        assert!(!grant.allows(&VolumeName::new("b").unwrap(), Access::Read));
    }
}

#[test]
fn without_a_token_with_two_or_with_a_wrong_secret_nobody_is_let_in() {
    let rig = Rig::new();
    let good = rig.create(1, "a", Access::Read);
    let wrong = format!("Bearer {}", Secret::from_bytes([9; 32]).text(TokenId::from_bytes([1; 8])));
    let unknown = format!("Bearer {}", Secret::from_bytes([1; 32]).text(TokenId::from_bytes([9; 8])));
    let registry = Registry::open(Arc::clone(&rig.store), true).unwrap();
    let id = TokenId::from_bytes([1; 8]);
    for (header, refusal) in [
        (None, Refusal::NoToken),
        (Some("Basic eDp5"), Refusal::Malformed),
        (Some("Bearer x"), Refusal::Malformed),
        (Some(wrong.as_str()), Refusal::WrongSecret { id }),
        (Some(unknown.as_str()), Refusal::Unknown),
    ] {
        assert_eq!(check(&registry, header, Access::Read, "a").expect_err("refused"), refusal);
        assert!(!refusal.is_forbidden());
    }
    let twice = [good.as_bytes(), good.as_bytes()];
    let volume = VolumeName::new("a").unwrap();
    let twice = registry.check(twice.into_iter(), Need::Volume(Access::Read), Some(&volume));
    assert_eq!(twice.expect_err("two headers"), Refusal::Malformed);
}

#[test]
fn a_revoked_token_ends_its_grants_and_those_of_no_other() {
    let rig = Rig::new();
    let (first, second) = (rig.create(1, "a", Access::Read), rig.create(2, "a", Access::Read));
    let registry = Registry::open(Arc::clone(&rig.store), true).unwrap();
    let cut = check(&registry, Some(&first), Access::Read, "a").unwrap();
    let kept = check(&registry, Some(&second), Access::Read, "a").unwrap();
    registry.reload().unwrap();
    assert!(!is_over(&cut), "a reload alone ends nothing");
    rig.revoke(1);
    registry.reload().unwrap();
    assert!(is_over(&cut) && !is_over(&kept));
    let refused = check(&registry, Some(&first), Access::Read, "a").expect_err("revoked");
    assert_eq!(refused, Refusal::Revoked { id: TokenId::from_bytes([1; 8]) });
    assert_eq!(registry.active(), 1);
}

#[test]
fn the_first_token_closes_the_door_and_revoking_the_last_does_not_open_it() {
    let rig = Rig::new();
    let registry = Registry::open(Arc::clone(&rig.store), true).unwrap();
    let open = check(&registry, None, Access::Admin, "a").unwrap();
    assert!(!is_over(&open));
    rig.create(1, "a", Access::Read);
    registry.reload().unwrap();
    assert!(is_over(&open), "what was open is cut");
    assert_eq!(check(&registry, None, Access::Read, "a").expect_err("closed"), Refusal::NoToken);
    rig.revoke(1);
    registry.reload().unwrap();
    assert_eq!(check(&registry, None, Access::Read, "a").expect_err("still closed"), Refusal::NoToken);
    let again = Registry::open(Arc::clone(&rig.store), true).unwrap();
    assert!(check(&again, None, Access::Read, "a").is_err(), "also after a restart");
}

#[test]
fn a_listener_beyond_loopback_is_never_open_and_insecure_always_is() {
    let rig = Rig::new();
    let closed = Registry::open(Arc::clone(&rig.store), false).unwrap();
    assert!(check(&closed, None, Access::Read, "a").is_err());
    rig.create(1, "a", Access::Read);
    let insecure = Registry::insecure(Arc::clone(&rig.store));
    assert!(!check(&insecure, None, Access::Admin, "a").unwrap().is_revocable());
}

#[test]
fn what_names_no_volume_takes_a_token_of_any() {
    let rig = Rig::new();
    let header = rig.create(1, "a", Access::Read);
    let registry = Registry::open(Arc::clone(&rig.store), true).unwrap();
    let ask = |need| registry.check([header.as_bytes()].into_iter(), need, None);
    assert!(ask(Need::Server(Access::Read)).is_ok());
    assert!(ask(Need::Server(Access::Write)).is_err());
    assert!(ask(Need::Volume(Access::Read)).is_err(), "a volume's name that is none");
    assert!(registry.check(std::iter::empty(), Need::Nothing, None).is_ok());
}
