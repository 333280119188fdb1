//! Jobs and snapshots: order, undo, panics, a full queue, what a reader sees while others write.

use super::*;
use crate::limits;

on_every_store!(
    queued_jobs_finish_in_order_and_one_that_fails_is_undone_alone,
    nothing_is_visible_before_its_commit,
    a_full_queue_answers_busy_at_once,
    what_was_queued_is_written_before_the_store_closes,
    a_panic_in_a_job_is_that_jobs_failure_alone,
    a_snapshot_stays_as_it_began_while_others_write,
    a_job_sees_what_it_and_the_jobs_before_it_wrote,
    readers_on_several_threads_never_see_half_a_job,
);

/// Makes a volume, then fails if it is told to; notes when it was finished.
struct Job {
    name: &'static str,
    fails: bool,
    finished: Arc<Mutex<Vec<(&'static str, bool)>>>,
}

impl WriteJob for Job {
    fn weight(&self) -> usize {
        1
    }

    fn run(&mut self, tx: &mut dyn WriteMetadata) -> Result<(), MetadataError> {
        tx.create_volume(&name(self.name), VolumeId::generate())?;
        match self.fails {
            true => Err(MetadataError::Damaged { what: "test", source: None }),
            false => Ok(()),
        }
    }

    fn finish(self: Box<Self>, outcome: Result<(), MetadataError>) {
        self.finished.lock().unwrap().push((self.name, outcome.is_ok()));
    }
}

fn queued_jobs_finish_in_order_and_one_that_fails_is_undone_alone(opened: Opened) {
    let store = opened.store();
    let finished = Arc::<Mutex<Vec<_>>>::default();
    let open = hold(store);
    for (name, fails) in [("a", false), ("b", false), ("c", true), ("d", false)] {
        store.submit(Box::new(Job { name, fails, finished: Arc::clone(&finished) }));
    }
    open.send(()).unwrap();
    write(store, |_| Ok(()));
    assert_eq!(*finished.lock().unwrap(), [("a", true), ("b", true), ("c", false), ("d", true)]);
    assert_eq!(names(store), ["a", "b", "d"]);
}

fn nothing_is_visible_before_its_commit(opened: Opened) {
    let store = opened.store();
    let (open, gate) = mpsc::channel::<()>();
    let (running, began) = mpsc::channel();
    let pending = store.write(1, move |tx| {
        tx.create_volume(&name("a"), VolumeId::generate())?;
        running.send(()).unwrap();
        gate.recv().unwrap();
        Ok(())
    });
    began.recv().unwrap();
    assert!(names(store).is_empty());
    open.send(()).unwrap();
    pending.wait().unwrap();
    assert_eq!(names(store), ["a"]);
}

fn a_full_queue_answers_busy_at_once(opened: Opened) {
    let store = opened.store();
    let open = hold(store);
    let mut waiting: Vec<_> = (0..limits::WRITE_QUEUE_MAX).map(|_| store.write(1, |_| Ok(()))).collect();
    let one_more = store.write(1, |_| Ok(())).wait();
    assert!(matches!(one_more, Err(MetadataError::Busy { .. })), "{one_more:?}");
    open.send(()).unwrap();
    waiting.drain(..).for_each(|pending| pending.wait().unwrap());
    write(store, |_| Ok(()));
}

fn what_was_queued_is_written_before_the_store_closes(mut opened: Opened) {
    let store = opened.store();
    let pending = ["a", "b", "c"]
        .map(|text| store.write(1, move |tx| tx.create_volume(&name(text), VolumeId::generate())));
    opened.close();
    assert!(pending.into_iter().all(|pending| pending.wait().is_ok()));
}

fn a_panic_in_a_job_is_that_jobs_failure_alone(opened: Opened) {
    let store = opened.store();
    let panics = store.write(1, |tx| -> Result<(), MetadataError> {
        tx.create_volume(&name("half"), VolumeId::generate())?;
        panic!("a test");
    });
    assert!(matches!(panics.wait(), Err(MetadataError::Panicked)));
    volume(store, "after");
    assert_eq!(names(store), ["after"]);
}

fn a_snapshot_stays_as_it_began_while_others_write(opened: Opened) {
    let store = opened.store();
    let key = volume(store, "main");
    write(store, move |tx| tx.put_record(key, Revision(1), &node(1, 10)));
    let record = node(1, 10).key();
    let seen = store.read(|snapshot| {
        let before = snapshot.record(key, &record)?;
        // The writer does not wait for this reader.
        write(store, move |tx| {
            tx.put_record(key, Revision(2), &node(1, 20))?;
            tx.put_record(key, Revision(2), &entry(0, b"new", 1))
        });
        Ok((before, snapshot.record(key, &record)?, snapshot.entries_in(key, node_id(0), 9)?))
    });
    let (before, after, entries) = seen.unwrap();
    assert_eq!(before.as_ref().unwrap().revision, Revision(1));
    assert_eq!((before, entries.len()), (after, 0));
    let now = store.read(|snapshot| snapshot.record(key, &record)).unwrap().unwrap();
    assert_eq!((now.revision, now.record), (Revision(2), node(1, 20)));
}

fn a_job_sees_what_it_and_the_jobs_before_it_wrote(opened: Opened) {
    let store = opened.store();
    let key = volume(store, "main");
    let open = hold(store);
    let first = store.write(1, move |tx| tx.put_record(key, Revision(1), &node(1, 10)));
    let second = store.write(1, move |tx| {
        tx.put_record(key, Revision(2), &entry(0, b"a", 1))?;
        Ok((tx.record(key, &node(1, 0).key())?.is_some(), tx.entries_to(key, node_id(1), 9)?.len()))
    });
    open.send(()).unwrap();
    first.wait().unwrap();
    assert_eq!(second.wait().unwrap(), (true, 1));
}

fn readers_on_several_threads_never_see_half_a_job(opened: Opened) {
    let store = opened.store();
    let key = volume(store, "main");
    let sizes = [node(1, 0).key(), node(2, 0).key()];
    write(store, move |tx| {
        tx.put_record(key, Revision(0), &node(1, 0))?;
        tx.put_record(key, Revision(0), &node(2, 0))
    });
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut newest = Revision(0);
                while newest < Revision(50) {
                    let [one, two] = store
                        .read(|snapshot| {
                            let [one, two] = &sizes;
                            Ok([snapshot.record(key, one)?, snapshot.record(key, two)?])
                        })
                        .unwrap()
                        .map(|found| found.unwrap().revision);
                    assert_eq!(one, two);
                    assert!(one >= newest, "a later snapshot is never an older one");
                    newest = one;
                }
            });
        }
        for number in 1..=50 {
            write(store, move |tx| {
                tx.put_record(key, Revision(number), &node(1, number))?;
                tx.put_record(key, Revision(number), &node(2, number))
            });
        }
    });
}
