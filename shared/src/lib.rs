//! Vocabulary and pure algorithms that the server and the mount share.
//!
//! Nothing here reads a clock, a socket or a random source, with the one exception of
//! [`ids::NodeId::generate`], which makes a fresh identifier. Every other function takes bytes and
//! time as arguments and returns values.

pub mod byte_string;
pub mod chunking;
pub mod ddl;
pub mod event;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod lineage;
pub mod manifest;
pub mod merkle;
pub mod name;
pub mod record;
pub mod revision;
pub mod size;
#[cfg(test)]
mod test_random;
pub mod time;
pub mod wire;
