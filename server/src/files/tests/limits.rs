//! Limits of pages, histories and replicas, at the limit and one past it.

use std::sync::atomic::{AtomicUsize, Ordering};

use dfs_shared::limits::HISTORY_ITEMS_MAX;
use dfs_shared::wire::history::{HistoryReply, HistoryRequest};

use super::*;
use crate::files::{view, write};
use crate::limits::{FILE_HASH_LEN_MAX, FILE_REPLICAS_SHOWN_MAX, FILE_TRIES_MAX, FILE_VERSIONS_MAX};
use crate::metadata::{HeldVersion, PastRecord, VolumeKey, WriteMetadata};

impl Kit {
    fn write(
        &self,
        work: impl FnMut(&mut dyn WriteMetadata, VolumeKey) -> Result<(), MetadataError> + Send + 'static,
    ) {
        let mut work = work;
        let written = self.files.metadata.write(1, move |tx| {
            let key = tx.volume(&volume())?.unwrap().key;
            work(tx, key)
        });
        written.wait().unwrap();
    }

    /// Gives a node so many more past versions.
    fn add_past(&self, info: &FileInfo, numbers: std::ops::Range<u64>) {
        let record = info.record.clone();
        self.write(move |tx, key| {
            numbers.clone().try_for_each(|number| {
                tx.put_history(key, &past(Record::Node(record.clone()), record.id, number))
            })
        });
    }
}

fn past(record: Record, node: NodeId, number: u64) -> PastRecord {
    let (began, ended, time) = (Revision(number), Revision(number + 1), Timestamp::default());
    PastRecord { node, began, ended, time, author: None, record }
}

#[test]
fn a_page_that_has_looked_at_enough_records_says_where_to_go_on() {
    let kit = Kit::new();
    for name in ["a/1", "b/1"] {
        kit.publish(name, &[b"x"]);
    }
    let page = |visits_max, cursor: Option<&str>| {
        let cursor = cursor.map(|text| list::cursor_bytes(text, b"").unwrap());
        view::read(&*kit.files.metadata, &volume(), |view| {
            list::page(view, b"", 10, cursor.as_deref(), visits_max)
        })
        .unwrap()
    };
    // Two directories, two files, and the look that finds the end.
    for (visits_max, pages) in [(1, 5), (2, 3), (4, 2), (5, 1), (6, 1)] {
        let (mut names, mut cursor, mut count) = (Vec::new(), None::<String>, 0);
        loop {
            let page = page(visits_max, cursor.as_deref());
            count += 1;
            names.extend(page.files.iter().map(|file| file.path.to_string()));
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((&names[..], count), (&["a/1".to_owned(), "b/1".to_owned()][..], pages), "{visits_max}");
    }
}

#[test]
fn as_many_replicas_as_are_shown_and_one_more() {
    let kit = Kit::new();
    let info = kit.publish("f", &[b"x"]);
    let (node, content) = (info.node, info.content());
    let hold = |numbers: std::ops::Range<usize>| {
        kit.write(move |tx, key| {
            numbers.clone().try_for_each(|number| {
                let held = HeldVersion { content, version: 1 };
                tx.put_replica(key, node, &client(&format!("m{number}")), Some(&held))
            })
        });
    };
    hold(0..FILE_REPLICAS_SHOWN_MAX);
    assert_eq!(kit.find("f").unwrap().replicas.len(), 1 + FILE_REPLICAS_SHOWN_MAX, "and the server");
    hold(FILE_REPLICAS_SHOWN_MAX..FILE_REPLICAS_SHOWN_MAX + 1);
    assert_eq!(kit.find("f").unwrap().replicas.len(), 1 + FILE_REPLICAS_SHOWN_MAX);
}

#[test]
fn a_history_shows_the_newest_versions_up_to_the_limit() {
    let kit = Kit::new();
    let max = FILE_VERSIONS_MAX as u64;
    let info = kit.publish("f", &[]);
    let shown = || {
        let versions = kit.files.history(&volume(), &path("f")).unwrap();
        (versions.len() as u64, versions[0].version, versions.last().unwrap().version)
    };
    kit.add_past(&info, 0..max - 1);
    assert_eq!(shown(), (max, max, 1));
    kit.add_past(&info, max - 1..max);
    assert_eq!(shown(), (max, max + 1, 2), "the oldest is left out");
}

#[test]
fn a_mounts_question_about_a_path_is_answered_with_versions_up_to_the_limit() {
    let kit = Kit::new();
    let max = HISTORY_ITEMS_MAX as u64;
    let info = kit.publish("f", &[]);
    let shown = || match kit.files.past(&volume(), &HistoryRequest::Versions { path: b"f".to_vec() }).unwrap()
    {
        HistoryReply::Versions { versions } => (versions[0].number, versions.last().unwrap().number),
        other => panic!("{other:?}"),
    };
    kit.add_past(&info, 0..max - 1);
    assert_eq!(shown(), (max, 1));
    kit.add_past(&info, max - 1..max);
    assert_eq!(shown(), (max + 1, 2), "the oldest is left out");
}

#[test]
fn removed_names_come_in_pages_up_to_the_limit() {
    let kit = Kit::new();
    let record = kit.publish("f", &[]).record;
    let max = HISTORY_ITEMS_MAX as u64;
    let remove = |numbers: std::ops::Range<u64>| {
        let record = record.clone();
        kit.write(move |tx, key| {
            numbers.clone().try_for_each(|number| {
                let node = NodeRecord { id: NodeId::generate(), ..record.clone() };
                let name = Name::new(format!("{number:04}").as_bytes()).unwrap();
                let entry = EntryRecord { parent: NodeId::ROOT, name, node: node.id };
                let id = node.id;
                tx.put_history(key, &past(Record::Entry(entry), id, number))?;
                tx.put_history(key, &past(Record::Node(node), id, number))
            })
        });
    };
    let shown = |after: &[u8]| {
        let request = HistoryRequest::Removed { path: Vec::new(), after: after.to_vec() };
        match kit.files.past(&volume(), &request).unwrap() {
            HistoryReply::Removed { names, next } => (names.len() as u64, next),
            other => panic!("{other:?}"),
        }
    };
    remove(0..max - 1);
    assert_eq!(shown(b""), (max - 1, None));
    remove(max - 1..max + 1);
    let (count, next) = shown(b"");
    assert_eq!((count, next.as_deref()), (max, Some(&b"0999"[..])));
    assert_eq!(shown(b"0999"), (1, None));
}

#[test]
fn the_longest_content_is_hashed_and_none_that_is_longer() {
    let kit = Kit::new();
    let info = kit.publish("f", &[b"x"]);
    let check = |size| crate::files::hash::check_len(&info, size);
    assert!(check(FILE_HASH_LEN_MAX).is_ok());
    assert!(matches!(check(FILE_HASH_LEN_MAX + 1), Err(FilesError::TooLong { .. })));
}

/// Publishes a file that somebody else publishes first, after each of so many plans; returns what came of it and how often it
/// was planned.
fn publish_against_faster_ones(faster: usize) -> (Result<FileInfo, FilesError>, usize) {
    let kit = Kit::new();
    let files = Arc::clone(&kit.files);
    let planned = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&planned);
    let plan = move |view: &view::View<'_>| {
        let plan = write::publish(view, &wanted("f", &[b"slow"]))?;
        let number = counted.fetch_add(1, Ordering::Relaxed);
        if number < faster {
            block_on(files.publish(&volume(), wanted("f", &[number.to_string().as_bytes()])))?;
        }
        Ok(plan)
    };
    let changed = block_on(kit.files.change(&volume(), &path("f"), plan));
    (changed, planned.load(Ordering::Relaxed))
}

#[test]
fn a_change_is_planned_as_often_as_the_limit_says_and_then_refused() {
    let (changed, planned) = publish_against_faster_ones(FILE_TRIES_MAX - 1);
    assert_eq!((changed.unwrap().version, planned), (FILE_TRIES_MAX as u64, FILE_TRIES_MAX));
    let (changed, planned) = publish_against_faster_ones(FILE_TRIES_MAX);
    assert!(matches!(changed, Err(FilesError::Contended { tries: FILE_TRIES_MAX, .. })), "{changed:?}");
    assert_eq!(planned, FILE_TRIES_MAX);
}
