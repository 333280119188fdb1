//! Talks to a running mount.
fn main() {}
