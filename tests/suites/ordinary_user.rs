//! Mounting without root, through fusermount3, where the daemon itself serves the data.
//!
//! As root this suite starts itself anew as `nobody`; mounted_basic and mounted_content do the same.

use std::fs;

use anyhow::{Result, ensure};
use dfs_tests::machine::{self, Need};
use dfs_tests::random::Random;
use dfs_tests::{Setup, eventually, fixture, run, user};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

const NAME: &str = "an_ordinary_user_mounts_writes_reads_and_unmounts";

/// As root runs test `name` of this executable as `nobody`, otherwise says that the caller itself must.
fn done_as_ordinary_user(name: &str) -> Result<bool> {
    if !machine::is_root() {
        return Ok(false);
    }
    if !machine::skip_for(name, &[Need::Fuse, Need::Program("fusermount3")]) {
        user::rerun_as_ordinary_user(&["--exact", name])?;
    }
    Ok(true)
}

#[test]
fn an_ordinary_user_mounts_writes_reads_and_unmounts() -> Result<()> {
    if done_as_ordinary_user(NAME)? {
        return Ok(());
    }
    run(&Setup::mounts(2), |cluster| {
        ensure!(!machine::is_root(), "this is about ordinary users");
        fixture::write_small_tree(&cluster.a().join("tree"), &mut Random::new(81))?;
        let large = Random::new(82).bytes(9 << 20);
        fs::write(cluster.a().join("large"), &large)?;
        eventually("b reads it", || Ok(fs::read(cluster.b().join("large"))? == large))?;
        fs::write(cluster.b().join("large"), &large[1..])?;
        eventually("a reads the edit", || Ok(fs::read(cluster.a().join("large"))? == large[1..]))?;
        cluster.expect_equal_trees()?;
        for mount in &mut cluster.mounts {
            mount.restart()?;
        }
        cluster.expect_equal_trees()?;
        Ok(())
    });
    Ok(())
}

/// The kernel begins with a root that nobody may use, and an answer about it may be overtaken by a change.
#[test]
fn the_kernel_knows_who_may_use_the_root_before_the_mount_is_called_mounted() -> Result<()> {
    if done_as_ordinary_user("the_kernel_knows_who_may_use_the_root_before_the_mount_is_called_mounted")? {
        return Ok(());
    }
    run(&Setup::mounts(1), |cluster| {
        // Without asking the daemon.
        let known = statx(CWD, cluster.a(), AtFlags::STATX_DONT_SYNC, StatxFlags::MODE)?;
        ensure!(known.stx_mode & 0o500 == 0o500, "its mode is {:o}", known.stx_mode);
        Ok(())
    });
    Ok(())
}

#[test]
fn an_ordinary_users_mount_survives_a_kill() -> Result<()> {
    if done_as_ordinary_user("an_ordinary_users_mount_survives_a_kill")? {
        return Ok(());
    }
    run(&Setup::mounts(2), |cluster| {
        for round in 0..3 {
            let tree = cluster.a().join(format!("tree {round}"));
            fixture::write_small_tree(&tree, &mut Random::new(83 + round))?;
            let wanted = dfs_tests::snapshot::tree_snapshot(cluster.a())?;
            cluster.mounts[0].kill();
            cluster.mounts[0].start()?;
            let seen = dfs_tests::snapshot::tree_snapshot(cluster.a())?;
            dfs_tests::snapshot::expect_equal("before".as_ref(), &wanted, "after".as_ref(), &seen)?;
        }
        cluster.expect_equal_trees()?;
        Ok(())
    });
    Ok(())
}

#[test]
fn the_awkward_tree_of_an_ordinary_user_is_equal_in_both_mounts() -> Result<()> {
    if done_as_ordinary_user("the_awkward_tree_of_an_ordinary_user_is_equal_in_both_mounts")? {
        return Ok(());
    }
    let sizes = fixture::AwkwardSizes { sparse_len: 5 << 30, random_len: 20 << 20, wide_entries: 500 };
    run(&Setup::mounts(2), |cluster| {
        fixture::write_awkward_tree(&cluster.a().join("awkward"), sizes)?;
        cluster.expect_equal_trees()?;
        Ok(())
    });
    Ok(())
}
