//! The same random jobs on two stores give the same answers. A failure names its seed.

use dfs_shared::hash::ChunkHash;
use dfs_shared::record::RecordKey;

use super::*;
use crate::metadata::{PastRecord, ReadMetadata};

/// A small generator of numbers that anybody can run again from its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }

    fn record(&mut self) -> Record {
        let target = self.below(6) as u8;
        match self.below(2) {
            0 => node(target, self.below(100)),
            _ => entry(self.below(3) as u8, &[b'a' + self.below(8) as u8], target),
        }
    }
}

/// One job: a few random writes, and at times a failure at its end.
fn job(tx: &mut dyn WriteMetadata, volume: VolumeKey, random: &mut Random) -> Result<(), MetadataError> {
    for _ in 0..random.below(8) {
        let (revision, record) = (Revision(random.below(20)), random.record());
        match random.below(6) {
            0 => tx.remove_record(volume, &record.key())?,
            1 => {
                let node = match &record {
                    Record::Node(node) => node.id,
                    Record::Entry(entry) => entry.node,
                };
                let ended = Revision(revision.0 + 1);
                tx.put_history(
                    volume,
                    &PastRecord { node, began: revision, ended, time: at(1), record, author: None },
                )?;
            }
            2 => {
                let hash = ChunkHash::of(&[random.below(9) as u8]);
                match random.below(3) {
                    0 => tx.forget_chunk(&hash)?,
                    1 => tx.put_chunk(&hash, random.below(50))?,
                    _ => tx.put_small_chunk(&hash, &[1; 3][..random.below(4) as usize])?,
                }
            }
            3 => {
                let path = [b'a' + random.below(9) as u8];
                let metadata = (random.below(3) > 0).then_some(&b"m"[..]);
                tx.put_announced(volume, &path, metadata)?;
            }
            _ => tx.put_record(volume, revision, &record)?,
        }
    }
    match random.below(4) {
        0 => Err(MetadataError::Damaged { what: "test", source: None }),
        _ => Ok(()),
    }
}

/// Everything that can be asked about what [`job`] writes, as text.
fn answers(snapshot: &dyn ReadMetadata, volume: VolumeKey) -> Result<String, MetadataError> {
    let mut all = Vec::new();
    for number in 0..6 {
        let id = node_id(number);
        all.push(format!("{:?}", snapshot.record(volume, &RecordKey::Node(id))?));
        all.push(format!("{:?}", snapshot.entries_in(volume, id, 5)?));
        all.push(format!("{:?}", snapshot.entries_from(volume, id, b"c", 3)?));
        all.push(format!("{:?}", snapshot.entries_to(volume, id, 5)?));
        all.push(format!("{:?}", snapshot.history(volume, id, 50)?));
        all.push(format!("{:?}", snapshot.past_versions(volume, id)?));
    }
    for parent in 0..3 {
        for letter in b'a'..b'i' {
            all.push(format!("{:?}", snapshot.removed_entry(volume, &entry(parent, &[letter], 0).key())?));
        }
    }
    for number in 0..9 {
        all.push(format!("{:?}", snapshot.chunk_place(&ChunkHash::of(&[number]))?));
    }
    all.push(format!("{:?}", snapshot.announced_from(volume, b"b", 5)?));
    Ok(all.join("\n"))
}

#[test]
fn the_same_random_jobs_give_the_same_answers_on_both_stores() {
    for seed in 0..3_u64 {
        let opened = [Opened::memory(), Opened::sqlite()];
        let keys = [0, 1].map(|at: usize| volume(opened[at].store(), "main"));
        assert_eq!(keys[0], keys[1]);
        for step in 0..60_u64 {
            let outcomes = [0, 1].map(|at: usize| {
                let (key, mut same) =
                    (keys[at], Random((seed << 32 | step).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
                opened[at].store().write(1, move |tx| job(tx, key, &mut same)).wait().is_ok()
            });
            assert_eq!(outcomes[0], outcomes[1], "seed {seed}, job {step}");
            let [memory, sqlite] = [0, 1]
                .map(|at: usize| opened[at].store().read(|snapshot| answers(snapshot, keys[at])).unwrap());
            assert_eq!(memory, sqlite, "seed {seed}, job {step}");
        }
    }
}
