//! Tests of cutting: whole contents, changed contents, sparse contents.

use std::collections::BTreeSet;
use std::io::{self, Read};

use super::*;
use crate::limits::{CHUNK_LEN_MAX, SMALL_CONTENT_LEN_MAX};
use crate::manifest::Manifest;
use crate::test_random::Random;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Gives at most a few bytes at a time, and an interruption now and then.
struct Dribble<'a> {
    bytes: &'a [u8],
    random: Random,
}

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.random.below(10) == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len =
            (1 + self.random.below(7000)).min(buffer.len() as u64).min(self.bytes.len() as u64) as usize;
        let (now, later) = self.bytes.split_at(len);
        buffer[..len].copy_from_slice(now);
        self.bytes = later;
        Ok(len)
    }
}

/// Makes bytes with stretches of zeros, of one value and of noise.
fn content(random: &mut Random, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    let mut at = 0;
    while at < bytes.len() {
        let len = (1 + random.below(size / 3 + 1)).min((bytes.len() - at) as u64) as usize;
        match random.below(6) {
            0 => {}
            1 => bytes[at..at + len].fill(random.below(256) as u8),
            _ => random.fill(&mut bytes[at..at + len]),
        }
        at += len;
    }
    bytes
}

fn noise(random: &mut Random, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    random.fill(&mut bytes);
    bytes
}

fn whole(bytes: &[u8], previous: Option<u8>) -> Manifest {
    manifest_of(bytes, bytes.len() as u64, previous).expect("memory does not fail")
}

fn assert_holds(manifest: &Manifest, bytes: &[u8]) {
    assert_eq!(manifest.size(), bytes.len() as u64);
    for (offset, chunk) in manifest.offsets() {
        let slice = &bytes[offset as usize..(offset + chunk.len) as usize];
        assert_eq!(chunk.hash, chunk_hash(slice), "at {offset}");
        assert!(chunk.len > 0 && (chunk.hash.is_hole() || chunk.len <= CHUNK_LEN_MAX));
    }
    assert!(!manifest.chunks.windows(2).any(|pair| pair[0].hash.is_hole() && pair[1].hash.is_hole()));
}

fn read_from<'a>(bytes: &'a [u8], read: &'a mut u64) -> impl FnMut(u64, &mut [u8]) -> io::Result<usize> + 'a {
    move |offset, buffer| {
        let from = &bytes[(offset as usize).min(bytes.len())..];
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        *read += len as u64;
        Ok(len)
    }
}

fn changed(one: &Manifest, two: &Manifest) -> usize {
    let known: BTreeSet<_> = one.chunks.iter().map(|chunk| chunk.hash).collect();
    two.chunks.iter().filter(|chunk| !known.contains(&chunk.hash)).count()
}

#[test]
fn the_average_grows_with_the_content_between_its_limits() {
    for (size, log2) in [
        (0, 14),
        (1, 14),
        (16 * MIB, 14),
        (16 * MIB + 1, 15),
        (256 * MIB, 18),
        (4096 * MIB, 22),
        (1 << 50, 22),
        (u64::MAX, 22),
    ] {
        assert_eq!(chunk_log2_for(size, None), log2, "{size}");
    }
}

#[test]
fn the_average_stays_until_it_is_off_by_more_than_a_factor_of_four() {
    assert_eq!(chunk_log2_for(256 * MIB + 1, Some(18)), 18);
    assert_eq!(chunk_log2_for(1024 * MIB, Some(18)), 18);
    assert_eq!(chunk_log2_for(1024 * MIB + 1, Some(18)), 21);
    assert_eq!(chunk_log2_for(64 * MIB, Some(18)), 18);
    assert_eq!(chunk_log2_for(32 * MIB, Some(18)), 15);
    for nonsense in [0, 13, 23, 255] {
        assert_eq!(chunk_log2_for(256 * MIB, Some(nonsense)), 18);
    }
}

#[test]
fn a_content_of_256_mib_is_cut_in_pieces_of_about_256_kib() {
    let log2 = chunk_log2_for(256 * MIB, None);
    let bytes = noise(&mut Random::new(1), 48 * MIB);
    let manifest = whole(&bytes, Some(log2));
    assert_eq!(manifest.chunk_log2, 18);
    let average = manifest.size() / manifest.chunks.len() as u64;
    assert!((160 * KIB..=400 * KIB).contains(&average), "{average}");
    let inner = &manifest.chunks[..manifest.chunks.len() - 1];
    assert!(inner.iter().all(|chunk| (64 * KIB..=1024 * KIB).contains(&chunk.len)));
}

#[test]
fn small_contents_are_one_chunk_up_to_the_limit_and_larger_ones_can_be_more() {
    let bytes = noise(&mut Random::new(2), 4 * SMALL_CONTENT_LEN_MAX);
    for size in [1, 100, SMALL_CONTENT_LEN_MAX] {
        assert_eq!(whole(&bytes[..size as usize], None).chunks.len(), 1, "{size}");
    }
    assert_eq!(whole(&[], None).chunks, []);
    let is_cut = |seed| {
        let bytes = noise(&mut Random::new(seed), SMALL_CONTENT_LEN_MAX + 1);
        whole(&bytes, None).chunks.len() > 1
    };
    assert!((0..20).any(is_cut), "one byte past the limit is cut");
    let zeros = vec![0; SMALL_CONTENT_LEN_MAX as usize];
    assert_eq!(whole(&zeros, None).chunks, [ChunkRef { hash: ChunkHash::HOLE, len: SMALL_CONTENT_LEN_MAX }]);
}

#[test]
fn how_the_reader_splits_the_bytes_does_not_matter() {
    let seed = 0x5eed_0010;
    let mut random = Random::new(seed);
    for round in 0..30 {
        let size = random.below(3 * MIB);
        let bytes = content(&mut random, size);
        let log2 = [None, Some(14), Some(16)][round % 3];
        let expected = whole(&bytes, log2);
        assert_holds(&expected, &bytes);
        let dribble = Dribble { bytes: &bytes, random: Random::new(round as u64) };
        assert_eq!(manifest_of(dribble, size, log2).expect("whole"), expected, "seed {seed} round {round}");
    }
}

#[test]
fn a_reader_that_ends_early_is_an_error_and_what_it_has_more_is_not_read() {
    let bytes = noise(&mut Random::new(3), 100_000);
    let error = manifest_of(&bytes[..], 100_001, None).expect_err("one byte is missing");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(manifest_of(&bytes[..], 70_000, None).expect("enough"), whole(&bytes[..70_000], None));
}

#[test]
fn a_cut_is_only_told_once_it_is_certain() {
    let mut random = Random::new(0x5eed_0011);
    for _ in 0..20 {
        let bytes = content(&mut random, 200_000);
        let certain = cut(&bytes, false, 14).expect("more than the longest chunk");
        assert_eq!(cut(&bytes[..chunk_len_max(14)], false, 14), Some(certain));
        for len in (0..bytes.len()).step_by(511) {
            let found = cut(&bytes[..len], false, 14);
            assert!(
                found == Some(certain) || (found.is_none() && len < chunk_len_max(14)),
                "{len}: {found:?}"
            );
            let last = cut(&bytes[..len], true, 14);
            assert_eq!(last, (len > 0).then_some(certain.min(len)), "{len}");
        }
    }
}

#[test]
fn zeros_are_cut_at_the_longest_chunk_only() {
    for log2 in CHUNK_LOG2_MIN..=CHUNK_LOG2_MAX {
        let zeros = vec![0; chunk_len_max(log2) + 1];
        assert_eq!(find_boundary(&zeros, log2), chunk_len_max(log2));
        assert_eq!(cut(&zeros, false, log2), Some(chunk_len_max(log2)));
        assert_eq!(cut(&zeros[..chunk_len_max(log2) - 1], false, log2), None);
    }
}

#[test]
fn zeros_are_told_from_other_bytes_at_every_place() {
    for len in [0, 1, 63, 64, 65, 200] {
        let mut bytes = vec![0; len];
        assert!(is_zero(&bytes));
        for at in 0..len {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "{at} of {len}");
            bytes[at] = 0;
        }
    }
}

#[test]
fn an_edit_changes_the_chunks_around_it_and_no_others() {
    let mut random = Random::new(0x5eed_0012);
    let bytes = noise(&mut random, 8 * MIB);
    let before = whole(&bytes, None);
    let mut edited = bytes.clone();
    edited[4_000_000] ^= 1;
    assert!((1..=2).contains(&changed(&before, &whole(&edited, None))));
    let mut longer = bytes;
    longer.insert(4_000_000, 7);
    assert!((1..=3).contains(&changed(&before, &whole(&longer, None))));
}

/// Changes the content at random and returns where.
fn random_edit(random: &mut Random, bytes: &mut Vec<u8>) -> Vec<Range<u64>> {
    let mut dirty = Vec::new();
    for _ in 0..random.below(4) {
        let len = [1, 100, 5000, 300_000][random.below(4) as usize].min(bytes.len());
        let at = random.below((bytes.len() - len) as u64 + 1) as usize;
        let part = &mut bytes[at..at + len];
        if random.below(4) == 0 {
            part.fill(0)
        } else {
            random.fill(part)
        }
        dirty.push(at as u64..(at + len) as u64);
    }
    match random.below(5) {
        0 => {
            let longer = bytes.len() + random.below(200_000) as usize;
            bytes.resize(longer, 0);
        }
        1 => {
            let extra = random.below(200_000);
            bytes.extend(noise(random, extra));
        }
        2 => bytes.truncate(random.below(bytes.len() as u64 + 1) as usize),
        _ => {}
    }
    if random.below(4) == 0 {
        dirty.push(u64::MAX - 5..u64::MAX);
        dirty.push(9..9);
    }
    dirty
}

#[test]
fn a_changed_content_gets_the_chunks_that_cutting_it_whole_gives() {
    let seed = 0x5eed_0013;
    let mut random = Random::new(seed);
    for round in 0..120 {
        let size = [20_000, 100_000, 700_000, 3_000_000][round % 4];
        let mut bytes = content(&mut random, size);
        let mut manifest = whole(&bytes, [None, Some(15), Some(16)][round % 3]);
        for step in 0..4 {
            let dirty = random_edit(&mut random, &mut bytes);
            let mut read = 0;
            let found = rechunk(&manifest, &dirty, bytes.len() as u64, read_from(&bytes, &mut read));
            let found = found.expect("memory does not fail");
            assert_holds(&found, &bytes);
            let expected = whole(&bytes, Some(manifest.chunk_log2));
            assert_eq!(found, expected, "seed {seed} round {round} step {step}");
            manifest = found;
        }
    }
}

#[test]
fn only_what_is_near_the_changes_is_read() {
    let mut random = Random::new(0x5eed_0014);
    let mut bytes = noise(&mut random, 24 * MIB);
    let before = whole(&bytes, None);
    let max = chunk_len_max(before.chunk_log2) as u64;
    let size = bytes.len() as u64;
    let check = |bytes: &[u8], dirty: &[Range<u64>], limit: u64| {
        let mut read = 0;
        let found = rechunk(&before, dirty, bytes.len() as u64, read_from(bytes, &mut read)).expect("memory");
        assert_eq!(found, whole(bytes, Some(before.chunk_log2)));
        assert!(read <= limit, "{read} bytes were read, limit {limit}");
    };
    check(&bytes, &[], 0);
    let longer = [&bytes[..], &[1, 2, 3]].concat();
    check(&longer, &[], 2 * max);
    check(&bytes[..bytes.len() - 1], &[], 2 * max);
    let middle = 12 * MIB;
    bytes[middle as usize] ^= 1;
    check(&bytes, &[middle..middle + 1, 0..0], 6 * max);
    bytes[0] ^= 1;
    bytes[size as usize - 1] ^= 1;
    check(&bytes, &[size - 1..size, middle..middle + 1, 0..1], 16 * max);
    random.fill(&mut bytes[middle as usize..(middle + 4 * MIB) as usize]);
    check(&bytes, &[size - 1..size, middle..middle + 4 * MIB, 0..1], 4 * MIB + 16 * max);
}

#[test]
fn a_change_of_the_byte_after_a_chunk_is_seen() {
    let mut random = Random::new(0x5eed_0015);
    let bytes = noise(&mut random, 2 * MIB);
    let before = whole(&bytes, None);
    for (boundary, _) in before.offsets().skip(1) {
        let mut edited = bytes.clone();
        edited[boundary as usize] ^= 0x55;
        let dirty = boundary..boundary + 1;
        let mut read = 0;
        let found = rechunk(&before, &[dirty], 2 * MIB, read_from(&edited, &mut read)).expect("memory");
        assert_eq!(found, whole(&edited, None), "{boundary}");
    }
}

#[test]
fn a_source_that_ends_early_is_an_error() {
    let bytes = noise(&mut Random::new(4), 100_000);
    let mut read = 0;
    let error = rechunk(&Manifest::default(), &[], 100_001, read_from(&bytes, &mut read)).expect_err("short");
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

/// A file with little data in it.
struct Sparse {
    islands: Vec<(u64, Vec<u8>)>,
    read: u64,
}

impl ContentSource for &mut Sparse {
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        buffer.fill(0);
        for (start, bytes) in &self.islands {
            let from = offset.max(*start);
            let to = (offset + buffer.len() as u64).min(start + bytes.len() as u64);
            if from < to {
                let part = &bytes[(from - start) as usize..(to - start) as usize];
                buffer[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
        }
        self.read += buffer.len() as u64;
        Ok(buffer.len())
    }
    fn next_data(&mut self, offset: u64) -> io::Result<u64> {
        let ends_later = self.islands.iter().find(|(start, bytes)| start + bytes.len() as u64 > offset);
        Ok(ends_later.map_or(u64::MAX, |(start, _)| offset.max(*start)))
    }
}

#[test]
fn holes_that_the_source_knows_are_not_read_and_give_the_same_chunks() {
    let mut random = Random::new(0x5eed_0016);
    let size = 40 * MIB + 12345;
    let islands = [(0, 10), (3 * MIB + 5, 300_000), (20 * MIB, 1), (size - 7, 3)]
        .map(|(start, len)| (start, noise(&mut random, len)))
        .to_vec();
    let mut sparse = Sparse { islands, read: 0 };
    let found = rechunk(&Manifest::default(), &[], size, &mut sparse).expect("memory");
    assert!(sparse.read < 4 * MIB, "{} bytes were read", sparse.read);
    let mut bytes = vec![0; size as usize];
    (&mut &mut sparse).read_at(0, &mut bytes).expect("memory");
    assert_eq!(found, whole(&bytes, None));
}

#[test]
fn a_tebibyte_of_zeros_costs_nothing_and_a_byte_in_it_one_chunk() {
    let size = 1 << 40;
    let mut sparse = Sparse { islands: vec![], read: 0 };
    let before = rechunk(&Manifest::default(), &[], size, &mut sparse).expect("memory");
    assert_eq!(before.chunks, [ChunkRef { hash: ChunkHash::HOLE, len: size }]);
    assert_eq!(sparse.read, 0);
    let at = size / 3;
    sparse.islands.push((at, vec![1]));
    let dirty = at..at + 1;
    let after = rechunk(&before, &[dirty], size, &mut sparse).expect("memory");
    assert_eq!(after.chunks.len(), 3);
    assert_eq!(after.size(), size);
    assert!(sparse.read <= 2 * CHUNK_LEN_MAX, "{} bytes were read", sparse.read);
    assert_eq!(after, rechunk(&Manifest::default(), &[], size, &mut sparse).expect("memory"));
}

#[test]
fn a_manifest_that_was_cut_by_other_rules_gives_a_content_that_is_right() {
    let mut random = Random::new(0x5eed_0017);
    let mut bytes = content(&mut random, 500_000);
    let strange: Vec<_> = bytes.chunks(7001).collect();
    let mut chunks = Vec::new();
    for slice in strange {
        push_chunk(&mut chunks, ChunkRef { hash: chunk_hash(slice), len: slice.len() as u64 });
    }
    let before = Manifest { chunk_log2: 14, chunks };
    let dirty = 250_000..250_001;
    bytes[250_000] ^= 1;
    bytes.truncate(480_000);
    let mut read = 0;
    let found = rechunk(&before, &[dirty], 480_000, read_from(&bytes, &mut read)).expect("memory");
    assert_eq!(found.size(), 480_000);
    for (offset, chunk) in found.offsets() {
        assert_eq!(chunk.hash, chunk_hash(&bytes[offset as usize..(offset + chunk.len) as usize]));
    }
}
