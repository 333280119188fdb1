//! Test kit: server, mounts, fixtures.
