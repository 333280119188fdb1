//! What a mount remembers.

use std::os::unix::fs::MetadataExt;

use super::kit::Local;

#[test]
fn everything_is_there_after_a_restart_under_the_same_inode_numbers() {
    for mount in Local::both() {
        std::fs::create_dir(mount.at("d")).unwrap();
        std::fs::write(mount.at("d/f"), b"bytes").unwrap();
        let before = std::fs::metadata(mount.at("d/f")).unwrap();
        let mount = mount.restart();
        let after = std::fs::metadata(mount.at("d/f")).unwrap();
        assert_eq!(
            (after.ino(), after.len(), after.modified().unwrap()),
            (before.ino(), 5, before.modified().unwrap())
        );
        assert_eq!(std::fs::read(mount.at("d/f")).unwrap(), b"bytes");
    }
}

#[test]
fn bytes_that_changed_while_nobody_looked_are_noticed_at_the_next_start() {
    let Some(mount) = Local::new() else { return };
    std::fs::write(mount.at("f"), b"bytes").unwrap();
    mount.wait_released("f");
    mount.fs.sweep();
    let node = mount.node("f");
    // As if the process had been killed with the file open, before the last write was noticed.
    mount.tree.mark_open(node.id).unwrap();
    let backing = mount.cache.backing(&node).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&*backing.file().unwrap(), b"longer bytes", 0).unwrap();
    drop(backing);
    let mount = mount.restart();
    assert_ne!(mount.node("f").dirty_content, node.dirty_content);
    assert_eq!(mount.node("f").live().unwrap().size, 12);
    assert!(mount.tree.open_marks().unwrap().is_empty());
    assert_eq!(std::fs::read(mount.at("f")).unwrap(), b"longer bytes");
}
