//! The bucket on a list of times, and chunks on a clock that stands until everything waits.

use super::*;
use crate::remote::memory::MemoryRemote;

const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

#[test]
fn in_no_stretch_of_time_more_is_begun_than_the_rate_the_burst_and_one_chunk() {
    let mut bucket = Bucket::new(MIB);
    let (mut now, mut seed, mut begun) = (100 * SECOND, 7_u64, Vec::new());
    for _ in 0..400 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bytes = seed >> 44;
        // Sometimes nothing is wanted for a while.
        now += Duration::from_millis(if seed.is_multiple_of(50) { 30_000 } else { seed % 300 });
        begun.push((now + bucket.take(now, bytes), bytes));
    }
    begun.sort_unstable();
    for (first, (from, _)) in begun.iter().enumerate() {
        let mut sum = 0;
        for (at, bytes) in &begun[first..] {
            sum += bytes;
            let allowed = (*at - *from + Duration::from_millis(RATE_BURST_MS)).as_secs_f64() * MIB as f64;
            // The last one may just have been begun.
            assert!((sum - bytes) as f64 <= allowed + 1.0, "{sum} bytes from {from:?} to {at:?}");
        }
    }
    let all: u64 = begun.iter().map(|(_, bytes)| bytes).sum();
    assert!(all > 100 * MIB, "the limit was reached");
}

#[test]
fn what_does_not_wait_holds_up_the_rest_for_a_moment_only() {
    let mut bucket = Bucket::new(1000);
    let now = 100 * SECOND;
    bucket.take_at_once(now, 500_000);
    assert_eq!(bucket.take(now, 1000), Duration::from_millis(RATE_BURST_MS));
    // And it takes nothing back of what waits already.
    let mut bucket = Bucket::new(1000);
    bucket.take(now, 60_000);
    let waits = bucket.paid_at;
    bucket.take_at_once(now, 1);
    assert_eq!(bucket.paid_at, waits);
}

/// Runs with a clock that is moved on only when every task waits for it.
fn in_held_time<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(work)
}

fn chunks(count: u8) -> Vec<(ChunkHash, Bytes)> {
    let chunk = |n| Bytes::from(vec![n + 1; MIB as usize]);
    (0..count).map(|n| (ChunkHash::of(&chunk(n)), chunk(n))).collect()
}

#[test]
fn chunks_go_up_and_come_down_at_the_rate_and_metadata_does_not_wait_behind_them() {
    in_held_time(async {
        let rates = Rates { up: Some(MIB), down: Some(2 * MIB) };
        let remote = Arc::new(Limited::new(Arc::new(MemoryRemote::new()), rates));
        let begin = Instant::now();
        let upload = tokio::spawn({
            let remote = Arc::clone(&remote);
            async move { remote.put_chunks(chunks(10), None).await }
        });
        tokio::task::yield_now().await;
        remote.merkle(vec![Vec::new()]).await.expect("an answer");
        let _ = remote.commit(Bytes::from_static(b"no commit")).await;
        assert_eq!(begin.elapsed(), Duration::ZERO, "metadata waited");
        assert!(!upload.is_finished());
        upload.await.expect("no panic").expect("uploaded");
        assert!(
            (8 * SECOND..=10 * SECOND).contains(&begin.elapsed()),
            "10 MiB up took {:?}",
            begin.elapsed()
        );

        let begin = Instant::now();
        let hashes: Vec<_> = chunks(10).into_iter().map(|(hash, _)| hash).collect();
        let asked = hashes.iter().copied().chain([ChunkHash::of(b"nowhere"), hashes[0]]).collect();
        let came: Vec<_> = remote.get_chunks(asked).await.expect("a stream").collect().await;
        let good: Vec<_> = came.iter().filter_map(|chunk| Some(chunk.as_ref().ok()?.0)).collect();
        assert_eq!((&good[..10], good.len(), came.len()), (&hashes[..], 11, 12), "one is not there");
        assert!(
            (3 * SECOND..=6 * SECOND).contains(&begin.elapsed()),
            "11 MiB down took {:?}",
            begin.elapsed()
        );
    });
}

#[test]
fn without_a_limit_nothing_waits() {
    in_held_time(async {
        let remote = Limited::new(Arc::new(MemoryRemote::new()), Rates::default());
        let begin = Instant::now();
        remote.put_chunks(chunks(50), None).await.expect("uploaded");
        let hashes = chunks(50).into_iter().map(|(hash, _)| hash).collect();
        assert_eq!(remote.get_chunks(hashes).await.expect("a stream").count().await, 50);
        assert_eq!(begin.elapsed(), Duration::ZERO);
    });
}
