//! What a pin covers, and how long it lasts.

use super::*;
use crate::limits::{PIN_NEWS_MAX, PINS_MAX};
use crate::tree::pins::PinNews;

fn move_to(mount: &Mount, from: (Ino, &str), to: (Ino, &str)) {
    let (from, to) = ((from.0, name(from.1)), (to.0, name(to.1)));
    let renamed = mount.tree.rename((from.0, &from.1), (to.0, &to.1), RenameMode::Replace, at(300));
    renamed.expect("renamed");
}

fn pins(mount: &Mount) -> Vec<NodeId> {
    mount.tree.pins().expect("a store")
}

fn covers(mount: &Mount, path: &str) -> Option<NodeId> {
    mount.tree.pinned_by(mount.find(path).id).expect("a store")
}

#[test]
fn a_pin_survives_renames_and_restarts() {
    let mount = Mount::new("one");
    let (d, e) =
        (mount.make(Ino::ROOT, "d", NodeKind::Directory), mount.make(Ino::ROOT, "e", NodeKind::Directory));
    let file = mount.make(d.ino, "f", NodeKind::File);
    assert!(mount.tree.pin(file.id).expect("pinned"));
    assert!(!mount.tree.pin(file.id).expect("pinned"), "it was");
    move_to(&mount, (d.ino, "f"), (e.ino, "g"));
    let mount = mount.restart();
    assert_eq!(pins(&mount), [file.id]);
    assert_eq!(covers(&mount, "e/g"), Some(file.id));
    assert_eq!(mount.tree.take_pin_news(), PinNews::All, "after a start all of it is looked at");
    assert!(mount.tree.unpin(file.id).expect("a store"));
    let mount = mount.restart();
    assert_eq!((pins(&mount), covers(&mount, "e/g")), (vec![], None));
    assert_eq!(mount.tree.take_pin_news(), PinNews::Some(vec![]));
}

#[test]
fn a_directorys_pin_covers_what_is_below_it_at_the_moment() {
    let mount = Mount::new("one");
    let d = mount.make(Ino::ROOT, "d", NodeKind::Directory);
    let below = mount.make(d.ino, "below", NodeKind::Directory);
    let file = mount.make(Ino::ROOT, "f", NodeKind::File);
    mount.tree.pin(d.id).expect("pinned");
    drop(mount.tree.take_pin_news());
    assert_eq!(covers(&mount, "f"), None);
    move_to(&mount, (Ino::ROOT, "f"), (below.ino, "f"));
    assert_eq!(covers(&mount, "d/below/f"), Some(d.id));
    let PinNews::Some(news) = mount.tree.take_pin_news() else { panic!("only one was moved") };
    assert!(news.contains(&file.id), "{news:?}");
    mount.make(below.ino, "new", NodeKind::File);
    assert_eq!(covers(&mount, "d/below/new"), Some(d.id));
    assert_eq!(mount.tree.take_pin_news(), PinNews::Some(vec![]), "what is made here is here");
    move_to(&mount, (d.ino, "below"), (Ino::ROOT, "below"));
    assert_eq!((covers(&mount, "below/f"), covers(&mount, "d")), (None, Some(d.id)));
    // A second name is enough.
    mount.tree.link(file.ino, d.ino, &name("again"), at(300)).expect("linked");
    assert_eq!(covers(&mount, "below/f"), Some(d.id));
}

#[test]
fn a_pin_goes_with_its_node_and_with_the_nodes_last_name() {
    let (mut server, mut one, mut two) = pair();
    let file = one.find("f");
    one.tree.pin(file.id).expect("pinned");
    two.tree.unlink(Ino::ROOT, &name("f"), at(300)).expect("removed");
    two.sync(&mut server);
    one.sync(&mut server);
    assert_eq!(pins(&one), []);
    one.tree.forget_dead_pins().expect("a store");
    let one = one.restart();
    assert_eq!(one.tree.take_pin_news(), PinNews::Some(vec![]), "the row is gone, too");
}

#[test]
fn a_pin_stays_while_the_removal_may_be_undone() {
    let (mut server, mut one, mut two) = pair();
    let file = one.find("f");
    one.tree.pin(file.id).expect("pinned");
    one.tree.unlink(Ino::ROOT, &name("f"), at(300)).expect("removed");
    one.tree.forget_dead_pins().expect("a store");
    assert_eq!(pins(&one), []);
    two.write(&two.find("f"), "edited");
    two.sync(&mut server);
    one.sync(&mut server);
    assert_eq!(covers(&one, "f"), Some(file.id));
}

#[test]
fn only_files_and_directories_can_be_pinned() {
    let mount = Mount::new("one");
    let link = mount.make(Ino::ROOT, "link", NodeKind::Symlink);
    assert!(matches!(mount.tree.pin(link.id), Err(TreeError::NotPermitted)));
    assert!(matches!(mount.tree.pin(NodeId::generate()), Err(TreeError::NotFound)));
    mount.tree.pin(NodeId::ROOT).expect("all of the mount");
    assert_eq!(covers(&mount, "link"), Some(NodeId::ROOT));
}

#[test]
fn as_many_as_can_be_are_pinned_and_not_one_more() {
    let mount = Mount::new("one");
    let files: Vec<_> =
        (0..=PINS_MAX).map(|n| mount.make(Ino::ROOT, &format!("f{n}"), NodeKind::File)).collect();
    for file in &files[..PINS_MAX] {
        mount.tree.pin(file.id).expect("there is room");
    }
    let error = mount.tree.pin(files[PINS_MAX].id).expect_err("one more");
    assert!(matches!(error, TreeError::TooManyPins), "{error}");
    assert!(error.to_string().contains("PINS_MAX"), "{error}");
    mount.tree.unpin(files[0].id).expect("a store");
    mount.tree.pin(files[PINS_MAX].id).expect("there is room again");
}

#[test]
fn past_their_limit_news_are_everything() {
    let mount = Mount::new("one");
    mount.tree.pin(NodeId::ROOT).expect("pinned");
    drop(mount.tree.take_pin_news());
    let ids = |count: usize| (0..count as u128).map(|n| NodeId::from_bytes(n.to_be_bytes())).collect();
    mount.tree.pins.note(ids(PIN_NEWS_MAX));
    assert!(matches!(mount.tree.take_pin_news(), PinNews::Some(news) if news.len() == PIN_NEWS_MAX));
    mount.tree.pins.note(ids(PIN_NEWS_MAX + 1));
    assert_eq!(mount.tree.take_pin_news(), PinNews::All);
}
