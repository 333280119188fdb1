//! Mounts a volume.
fn main() {}
