//! Says by name what this machine lacks and which tests therefore can't run; in CI nothing may be lacking.

use dfs_tests::machine::{ALL, lacking, requires_all, say};

#[test]
fn this_machine_has_what_the_suites_need() {
    let missing: Vec<String> =
        ALL.iter().filter_map(|need| lacking(*need).map(|why| format!("{need:?}: {why}"))).collect();
    for line in &missing {
        say(&format!("skipped: all tests that need {line}"));
    }
    assert!(missing.is_empty() || !requires_all(), "lacking: {missing:#?}");
}
