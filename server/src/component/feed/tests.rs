//! Places, gaps and bounds of the feed.

use super::*;
use crate::blocking::block_on;

fn volume(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

fn event(kind: &'static str, of: &str, revision: Option<u64>) -> Entry {
    let mark = revision.map(|revision| Mark { revision: Revision(revision), index: 0 });
    Entry { kind, volume: Some(volume(of)), mark, data: format!("{{\"of\":\"{of}\"}}") }
}

fn wanted(kinds: &[&str]) -> Wanted {
    let kinds = (!kinds.is_empty()).then(|| kinds.iter().map(ToString::to_string).collect());
    Wanted { kinds, volume: volume("main"), newest: Revision::ZERO }
}

/// As [`wanted`], of a volume that has this revision.
fn wanted_at(newest: u64) -> Wanted {
    Wanted { newest: Revision(newest), ..wanted(&[]) }
}

/// The names and ids of the next events.
fn next(listener: &mut Listener) -> Vec<String> {
    let text = String::from_utf8(block_on(listener.next()).unwrap().to_vec()).unwrap();
    let event = |event: &str| {
        let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("-");
        assert!(line("data: ").starts_with('{'), "{event}");
        // Without its mark.
        let id: Vec<&str> = line("id: ").splitn(3, '-').take(2).collect();
        format!("{} {}", line("event: "), if id == ["", ""] { "-".to_owned() } else { id.join("-") })
    };
    text.split_terminator("\n\n").map(event).collect()
}

fn since(revision: u64) -> Since {
    Since::Revision { since: Revision(revision) }
}

#[test]
fn a_listener_gets_what_it_wants_from_its_beginning_on_in_order() {
    let feed = Arc::new(Feed::new(0xb));
    feed.add(event("A", "main", None));
    let mut all = feed.listen(wanted(&[]), &Since::Now).unwrap();
    let mut some = feed.listen(wanted(&["B"]), &Since::Now).unwrap();
    for (kind, of) in [("A", "main"), ("B", "other"), ("B", "main"), ("A", "main")] {
        feed.add(event(kind, of, None));
    }
    feed.add(Entry { kind: "C", volume: None, mark: None, data: "{}".to_owned() });
    assert_eq!(next(&mut all), ["A b-1", "B b-3", "A b-4", "C b-5"]);
    assert_eq!(next(&mut some), ["B b-3"]);
}

#[test]
fn a_listener_that_comes_back_goes_on_behind_its_last_event() {
    let feed = Arc::new(Feed::new(0xb));
    (0..4).for_each(|_| feed.add(event("A", "main", None)));
    let id = Since::from_id("b-1").unwrap();
    assert_eq!(next(&mut feed.listen(wanted(&[]), &id).unwrap()), ["A b-2", "A b-3"]);
    let id = Since::from_id("a-1").unwrap();
    let mut of_another_start = feed.listen(wanted(&[]), &id).unwrap();
    assert_eq!(next(&mut of_another_start), ["gap -"]);
    feed.add(event("A", "main", None));
    assert_eq!(next(&mut of_another_start), ["A b-4"]);
    for bad in ["", "b", "b-", "-1", "x-1", "b-x", "b-1-", "b-1-x", "b-1-2.x", "b-1-2-3"] {
        assert_eq!(Since::from_id(bad), None, "{bad}");
    }
}

#[test]
fn events_since_a_revision_are_those_of_later_commits_or_a_gap() {
    let feed = Arc::new(Feed::new(0xb));
    let mut empty = feed.listen(wanted_at(5), &since(4)).unwrap();
    assert_eq!(next(&mut empty), ["gap -"], "a commit from before the start");
    for revision in [6, 6, 7, 9] {
        feed.add(event("A", "main", Some(revision)));
    }
    let from = |revision| next(&mut feed.listen(wanted_at(9), &since(revision)).unwrap());
    assert_eq!(from(5), ["A b-0", "A b-1", "A b-2", "A b-3"]);
    assert_eq!(from(6), ["A b-2", "A b-3"]);
    assert_eq!(from(8), ["A b-3"]);
    let mut early = feed.listen(wanted_at(9), &since(3)).unwrap();
    assert_eq!(next(&mut early), ["gap -"]);
    assert_eq!(next(&mut early).len(), 4);
    let mut current = feed.listen(wanted_at(9), &since(9)).unwrap();
    feed.add(event("A", "main", Some(10)));
    assert_eq!(next(&mut current), ["A b-4"], "nothing was missed");
}

#[test]
fn a_listener_that_is_slower_than_the_ring_is_told_how_much_it_missed() {
    let feed = Arc::new(Feed::new(0xb));
    let mut slow = feed.listen(wanted(&[]), &Since::Now).unwrap();
    for revision in 1..=FEED_EVENTS_MAX as u64 + 2 {
        feed.add(event("A", "main", Some(revision)));
    }
    let text = String::from_utf8(block_on(slow.next()).unwrap().to_vec()).unwrap();
    assert!(text.starts_with("event: gap\ndata: {") && text.contains("\"missed\":2"), "{}", &text[..200]);
    assert!(text.contains("\nid: b-2-3.0\n"), "it goes on with the oldest");
    let mut early = feed.listen(wanted_at(9999), &since(1)).unwrap();
    assert_eq!(next(&mut early), ["gap -"], "what has left the ring is no longer covered");
    let mut covered = feed.listen(wanted_at(9999), &since(2)).unwrap();
    assert_ne!(next(&mut covered)[0], "gap -");
}

#[test]
fn the_rings_bytes_are_bounded() {
    let feed = Arc::new(Feed::new(0xb));
    let long = "x".repeat(FEED_BYTES_MAX / 4);
    for _ in 0..9 {
        feed.add(Entry { data: long.clone(), ..event("A", "main", None) });
        assert!(feed.ring.lock().bytes <= FEED_BYTES_MAX);
    }
    assert_eq!(feed.ring.lock().entries.len(), 4);
}

#[test]
fn events_that_found_the_queue_full_are_a_gap_before_the_next() {
    let feed = Arc::new(Feed::new(0xb));
    let mut listener = feed.listen(wanted(&["A"]), &Since::Now).unwrap();
    feed.dropped.store(3, Ordering::Release);
    feed.add(event("A", "main", None));
    assert_eq!(next(&mut listener), ["gap b-0", "A b-1"]);
}

#[test]
fn listeners_are_bounded_and_leave_their_place() {
    let feed = Arc::new(Feed::new(0xb));
    let listen = || feed.listen(wanted(&[]), &Since::Now);
    let mut all: Vec<_> = (0..FEED_LISTENERS_MAX).map(|_| listen().unwrap()).collect();
    assert!(listen().is_none());
    all.pop();
    assert!(listen().is_some());
}

#[test]
fn a_mark_survives_its_text_and_ids_carry_how_far_the_commits_were_told() {
    let part = Mark { revision: Revision(7), index: 3 };
    for mark in [part, Mark::end_of(Revision(7)), Mark::end_of(Revision::ZERO)] {
        assert_eq!(Mark::from_text(&mark.to_string()), Some(mark));
    }
    assert!(part < Mark::end_of(Revision(7)) && Mark::end_of(Revision(6)) < part);
    assert_eq!((part.first_open(), Mark::end_of(Revision(7)).first_open()), (Revision(7), Revision(8)));
    let feed = Arc::new(Feed::new(0xb));
    let mut listener = feed.listen(wanted_at(4), &Since::Now).unwrap();
    for (of, revision) in [("main", None), ("other", Some(9)), ("main", Some(5)), ("main", None)] {
        feed.add(event("A", of, revision));
    }
    let text = String::from_utf8(block_on(listener.next()).unwrap().to_vec()).unwrap();
    let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids, ["b-0-4", "b-2-5.0", "b-3-5.0"]);
    let Some(Since::Event { mark, .. }) = Since::from_id(ids[1]) else { panic!("an id") };
    assert_eq!(mark, Some(Mark { revision: Revision(5), index: 0 }));
}

#[test]
fn who_comes_back_from_before_the_start_is_told_of_it_once_and_nobody_else() {
    let feed = Arc::new(Feed::new(0xb));
    let come_back =
        |kinds: &[&str], id: &str| feed.listen(wanted(kinds), &Since::from_id(id).unwrap()).unwrap();
    let mut early = come_back(&["A", "ServerStarted"], "a-7-0.0");
    feed.add(Entry { kind: "ServerStarted", volume: None, mark: None, data: "{}".to_owned() });
    feed.add(event("A", "main", None));
    assert_eq!(next(&mut early), ["ServerStarted b-0", "A b-1"], "it hears of the start as it happens");
    let mut late = come_back(&["A", "ServerStarted"], "a-7-0.0");
    let mut unmarked = come_back(&["A", "ServerStarted"], "a-7");
    feed.add(event("A", "main", None));
    assert_eq!([next(&mut late), next(&mut late)].concat(), ["ServerStarted -", "A b-2"]);
    let told = [next(&mut unmarked), next(&mut unmarked), next(&mut unmarked)].concat();
    assert_eq!(told, ["gap -", "ServerStarted -", "A b-2"]);
    let mut picky = come_back(&["A"], "a-7-0.0");
    let mut from_here = come_back(&["A", "ServerStarted"], "b-2-0.0");
    feed.add(event("A", "main", None));
    assert_eq!(next(&mut picky), ["A b-3"]);
    assert_eq!(next(&mut from_here), ["A b-3"]);
}

#[test]
fn a_listener_leaves_behind_the_servers_end_whatever_it_wants() {
    let feed = Arc::new(Feed::new(0xb));
    let mut all = feed.listen(wanted(&[]), &Since::Now).unwrap();
    let mut picky = feed.listen(wanted(&["B"]), &Since::Now).unwrap();
    feed.add(event("A", "main", None));
    feed.add(Entry { kind: "ServerShuttingDown", volume: None, mark: None, data: "{}".to_owned() });
    assert_eq!(next(&mut all), ["A b-0", "ServerShuttingDown b-1"]);
    assert_eq!(block_on(all.next()), None);
    assert_eq!(block_on(picky.next()), None);
}

#[tokio::test]
async fn a_farewell_waits_for_all_listeners_but_not_longer_than_it_may() {
    let feed = Arc::new(Feed::new(0xb));
    assert!(feed.farewell(Duration::MAX).await, "nobody listens");
    let (slow, slower) = (feed.listen(wanted(&[]), &Since::Now), feed.listen(wanted(&[]), &Since::Now));
    assert!(!feed.farewell(Duration::ZERO).await);
    let waiting = Arc::clone(&feed);
    let farewell = tokio::spawn(async move { waiting.farewell(Duration::MAX).await });
    drop(slow);
    tokio::task::yield_now().await;
    assert!(!farewell.is_finished());
    drop(slower);
    assert!(farewell.await.unwrap());
    let mut last = feed.listen(wanted(&[]), &Since::Now).unwrap();
    feed.add(event("A", "main", None));
    let events = last.next().await.unwrap();
    drop(last);
    assert!(!feed.farewell(Duration::ZERO).await, "the events are still on their way");
    drop(events);
    assert!(feed.farewell(Duration::ZERO).await);
}
