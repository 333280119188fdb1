//! What becomes of one record that both sides changed: pure functions of base, local and remote.
//!
//! | local did | remote did | verdict |
//! |---|---|---|
//! | nothing | anything | take the remote's |
//! | anything | nothing | keep the local |
//! | edit content | edit content | the same: unify; otherwise fork: the local bytes become a new node. Where the last write wins and it is the local one, the local content goes on top of the server's state |
//! | edit content | delete | resurrect |
//! | resurrect | resurrect | the same content: unify; otherwise fork |
//! | delete | edit content | undelete |
//! | delete | change attributes | keep the local deletion |
//! | change attributes | delete | take the deletion |
//! | change attributes | change attributes or content | merge field by field; the same field: the later in server order, which is the local one |
//! | entry leads to X | entry leads to Y | collide: directories merge, the same files unify, otherwise keep both |
//!
//! The rules about several records (what holds an entry, circles, two names of a directory) are in `apply`.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use dfs_shared::ids::NodeId;
use dfs_shared::record::NodeRecord;

/// What becomes of a node's record that was changed here when the server's changes too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeVerdict {
    /// The server's state, be it a deletion.
    TakeRemote,
    /// What is here goes on top of the server's state.
    KeepLocal,
    /// This goes on top of the server's state.
    Merge(NodeRecord),
    /// The server deleted it, what was done here is worth more: it is made anew.
    Resurrect,
    /// It was deleted here, what was done elsewhere is worth more: it comes back.
    Undelete,
    /// Both changed the bytes: this record keeps the node, with the server's content; the local bytes go to a new node.
    Fork(NodeRecord),
    /// The local bytes have to be hashed before it can be told.
    HashFirst,
}

/// How it is decided between two contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Takes unhashed bytes for different ones instead of answering [`NodeVerdict::HashFirst`].
    pub force: bool,
    /// The later content takes the file. Without it the server's does.
    pub last_write_wins: bool,
}

/// Which of two contents is the later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Later {
    /// What is here.
    Local,
    /// What the server has.
    Remote,
    /// The times are the same: the local bytes have to be hashed before it can be told.
    HashFirst,
}

/// What becomes of an entry that was changed here when the server's changes too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryVerdict {
    /// The server's state.
    TakeRemote,
    /// What is here goes on top of the server's state.
    KeepLocal,
    /// The name leads to one node here and to another there.
    Collide,
}

/// A node's record on this mount.
#[derive(Debug, Clone, Copy)]
pub struct LocalView<'a> {
    /// The record, unless it is deleted here.
    pub record: Option<&'a NodeRecord>,
    /// Tells whether the backing file holds bytes that the record does not name yet.
    pub dirty_content: bool,
}

fn content_differs(one: &NodeRecord, other: &NodeRecord) -> bool {
    (one.content, one.size) != (other.content, other.size)
}

/// Tells which of two contents was written last: the one with the later modification time; of the same time the one whose
/// content id is greater. So every mount comes to the same answer, whichever side it is on. `force` takes the server's where that
/// needs a hash that is not there.
#[must_use]
pub fn later(here: &NodeRecord, dirty: bool, remote: &NodeRecord, force: bool) -> Later {
    match here.mtime.cmp(&remote.mtime) {
        Ordering::Greater => Later::Local,
        Ordering::Less => Later::Remote,
        Ordering::Equal if dirty && !force => Later::HashFirst,
        Ordering::Equal if !dirty && here.content > remote.content => Later::Local,
        Ordering::Equal => Later::Remote,
    }
}

/// Decides about a node.
#[must_use]
pub fn node(
    base: Option<&NodeRecord>,
    local: LocalView<'_>,
    remote: Option<&NodeRecord>,
    rules: Rules,
) -> NodeVerdict {
    match (local.record, remote) {
        (None, None) => NodeVerdict::TakeRemote,
        (None, Some(remote)) => match base {
            Some(base) if !content_differs(base, remote) => NodeVerdict::KeepLocal,
            _ => NodeVerdict::Undelete,
        },
        (Some(here), None) => {
            let edited = local.dirty_content || base.is_none_or(|base| content_differs(base, here));
            if edited { NodeVerdict::Resurrect } else { NodeVerdict::TakeRemote }
        }
        (Some(here), Some(remote)) => both(base, here, local.dirty_content, remote, rules),
    }
}

fn both(
    base: Option<&NodeRecord>,
    here: &NodeRecord,
    dirty: bool,
    remote: &NodeRecord,
    rules: Rules,
) -> NodeVerdict {
    let Some(base) = base else {
        // The same node made on both sides: the root, which every side starts with, or a file that was deleted elsewhere
        // and edited on both, so that both brought it back.
        let mut merged = remote.clone();
        if !dirty && !content_differs(here, remote) {
            merged.mtime = here.mtime.max(remote.mtime);
            merged.ctime = here.ctime.max(remote.ctime);
        }
        return between(here, dirty, remote, merged, rules);
    };
    let local_edit = dirty || content_differs(base, here);
    let remote_edit = content_differs(base, remote);
    let mut merged = merge_attributes(base, here, remote);
    match (local_edit, remote_edit) {
        (_, false) => {
            (merged.content, merged.size, merged.mtime) = (here.content, here.size, here.mtime);
            if !local_edit {
                merged.mtime = pick(&base.mtime, &here.mtime, &remote.mtime);
            }
            NodeVerdict::Merge(merged)
        }
        (false, true) => NodeVerdict::Merge(merged),
        (true, true) => between(here, dirty, remote, merged, rules),
    }
}

/// Decides between two contents of one file; `merged` is the record with the remote's.
fn between(
    here: &NodeRecord,
    dirty: bool,
    remote: &NodeRecord,
    mut merged: NodeRecord,
    rules: Rules,
) -> NodeVerdict {
    if dirty && !rules.force && here.size == remote.size {
        return NodeVerdict::HashFirst;
    }
    if !dirty && !content_differs(here, remote) {
        return NodeVerdict::Merge(merged);
    }
    if !rules.last_write_wins {
        return NodeVerdict::Fork(merged);
    }
    match later(here, dirty, remote, rules.force) {
        Later::Local => {
            (merged.content, merged.size, merged.mtime) = (here.content, here.size, here.mtime);
            NodeVerdict::Merge(merged)
        }
        Later::Remote => NodeVerdict::Fork(merged),
        Later::HashFirst => NodeVerdict::HashFirst,
    }
}

fn pick<T: PartialEq + Clone>(base: &T, here: &T, remote: &T) -> T {
    if here == base { remote.clone() } else { here.clone() }
}

/// Merges every field but the content, which stays the remote's.
fn merge_attributes(base: &NodeRecord, here: &NodeRecord, remote: &NodeRecord) -> NodeRecord {
    let mut merged = remote.clone();
    merged.mode = pick(&base.mode, &here.mode, &remote.mode);
    merged.uid = pick(&base.uid, &here.uid, &remote.uid);
    merged.gid = pick(&base.gid, &here.gid, &remote.gid);
    merged.atime = pick(&base.atime, &here.atime, &remote.atime);
    if !content_differs(base, remote) {
        merged.mtime = pick(&base.mtime, &here.mtime, &remote.mtime);
    }
    merged.ctime = here.ctime.max(remote.ctime);
    let names: BTreeSet<&Vec<u8>> = here.xattrs.keys().chain(remote.xattrs.keys()).collect();
    merged.xattrs = names
        .into_iter()
        .filter_map(|name| {
            let value = pick(&base.xattrs.get(name), &here.xattrs.get(name), &remote.xattrs.get(name));
            value.map(|value| (name.clone(), value.clone()))
        })
        .collect();
    merged
}

/// Decides about a node that a server which went back to an older state has lost. What is here goes on top of what the
/// server has, unless somebody `replaced` that since; then both contents stay.
#[must_use]
pub fn lost_node(local: LocalView<'_>, remote: Option<&NodeRecord>, replaced: bool) -> NodeVerdict {
    match (local.record, remote) {
        (None, None) => NodeVerdict::TakeRemote,
        (None, Some(_)) if replaced => NodeVerdict::Undelete,
        (None | Some(_), Some(_)) if !replaced => NodeVerdict::KeepLocal,
        (Some(_), None) => NodeVerdict::Resurrect,
        (Some(here), Some(remote)) if local.dirty_content || content_differs(here, remote) => {
            NodeVerdict::Fork(remote.clone())
        }
        (None | Some(_), Some(_)) => NodeVerdict::TakeRemote,
    }
}

/// Decides about an entry that a server which went back to an older state has lost, as [`lost_node`] does.
#[must_use]
pub fn lost_entry(local: Option<NodeId>, remote: Option<NodeId>, replaced: bool) -> EntryVerdict {
    match (local, remote) {
        _ if local == remote => EntryVerdict::TakeRemote,
        (Some(_), Some(_)) if replaced => EntryVerdict::Collide,
        (None, Some(_)) if replaced => EntryVerdict::TakeRemote,
        (Some(_), _) | (None, _) => EntryVerdict::KeepLocal,
    }
}

/// Decides about an entry; each side is where the name leads, if anywhere.
#[must_use]
pub fn entry(base: Option<NodeId>, local: Option<NodeId>, remote: Option<NodeId>) -> EntryVerdict {
    match (local, remote) {
        _ if local == remote || local == base => EntryVerdict::TakeRemote,
        _ if remote == base => EntryVerdict::KeepLocal,
        (None, _) => EntryVerdict::TakeRemote,
        (Some(_), None) => EntryVerdict::KeepLocal,
        (Some(_), Some(_)) => EntryVerdict::Collide,
    }
}

#[cfg(test)]
mod tests;
