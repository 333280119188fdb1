//! Large trees, real and awkward, are equal in the second mount down to the last byte and nanosecond.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::ensure;
use dfs_tests::fixture::{self, AwkwardSizes};
use dfs_tests::machine::{self, Need};
use dfs_tests::snapshot::{expect_equal, tree_snapshot};
use dfs_tests::{Setup, eventually_within, run};

const SETTLE_DEADLINE: Duration = Duration::from_secs(600);

// S9
#[test]
fn a_real_source_tree_copied_with_cp_is_equal_in_the_second_mount() {
    let files_min = usize::try_from(machine::scale("DFS_TESTS_REAL_FILES", 3000)).unwrap_or(3000);
    run(&Setup::mounts(2).needs(&[Need::Program("cp")]), |cluster| {
        let original = cluster.scratch("original")?.join("tree");
        fs::create_dir(&original)?;
        let files = fixture::copy_real_sources(&original, files_min)?;
        let start = Instant::now();
        fixture::copy_with_attributes(&original, cluster.a())?;
        let copied = start.elapsed();
        cluster.settle_within(SETTLE_DEADLINE)?;
        machine::say(&format!(
            "{files} real files: copied in {copied:?}, settled after {:?}",
            start.elapsed()
        ));
        let wanted = tree_snapshot(&original)?;
        for mount in &cluster.mounts {
            let seen = tree_snapshot(&mount.path("tree"))?;
            expect_equal(&original, &wanted, &mount.path("tree"), &seen)?;
        }
        fs::rename(cluster.b().join("tree"), cluster.b().join("renamed"))?;
        cluster.settle_within(SETTLE_DEADLINE)?;
        let seen = tree_snapshot(&cluster.a().join("renamed"))?;
        expect_equal(&original, &wanted, cluster.a(), &seen)?;
        fs::remove_dir_all(cluster.a().join("renamed"))?;
        eventually_within(SETTLE_DEADLINE, "the tree is gone in b", || {
            Ok((fs::read_dir(cluster.b())?.count() == 0).then_some(()))
        })?;
        cluster.settle_within(SETTLE_DEADLINE)
    });
}

// S9, S21
#[test]
fn an_awkward_tree_is_equal_in_the_second_mount() {
    run(&Setup::mounts(2).needs(&[Need::Root]), |cluster| {
        let sizes = AwkwardSizes::from_environment();
        fixture::write_awkward_tree(&cluster.a().join("awkward"), sizes)?;
        cluster.settle_within(SETTLE_DEADLINE)?;
        let tree = cluster.compare_trees()?;
        ensure!(tree.len() as u64 > sizes.wide_entries + 300, "only {} names", tree.len());
        let sparse = &tree[&b"awkward/sparse"[..]];
        ensure!(sparse.size == sizes.sparse_len, "{sparse:?}");
        ensure!(tree[&b"awkward/random"[..]].size == sizes.random_len, "the random file");
        for mount in &mut cluster.mounts {
            mount.restart()?;
        }
        let again = cluster.compare_trees()?;
        expect_equal("before the restart".as_ref(), &tree, "after".as_ref(), &again)
    });
}

#[test]
fn an_awkward_tree_made_beforehand_is_copied_into_a_mount_without_loss() {
    run(&Setup::mounts(2).needs(&[Need::Root, Need::Program("cp")]), |cluster| {
        let sizes = AwkwardSizes { sparse_len: 1 << 30, random_len: 5 << 20, wide_entries: 300 };
        let original = cluster.scratch("original")?.join("awkward");
        fixture::write_awkward_tree(&original, sizes)?;
        fixture::copy_with_attributes(&original, cluster.a())?;
        cluster.settle_within(SETTLE_DEADLINE)?;
        let wanted = tree_snapshot(&original)?;
        for mount in &cluster.mounts {
            let seen = tree_snapshot(&mount.path("awkward"))?;
            expect_equal(&original, &wanted, &mount.path("awkward"), &seen)?;
        }
        Ok(())
    });
}
