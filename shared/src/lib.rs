//! Vocabulary and pure algorithms that the server and the mount share.
