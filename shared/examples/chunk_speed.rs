//! Measures cutting and naming of chunks: `cargo run --release -p dfs-shared --example chunk_speed`.
#![allow(clippy::print_stdout, reason = "an example prints its figures")]

use std::hint::black_box;
use std::time::Instant;

use dfs_shared::chunking::{chunk_hash, chunk_log2_for, cut, manifest_of, rechunk};
use dfs_shared::manifest::Manifest;

const LEN: usize = 256 << 20;

fn main() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = vec![0; LEN];
    for word in bytes.chunks_exact_mut(8) {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        word.copy_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    let zeros = vec![0; LEN];
    for log2 in [14, chunk_log2_for(LEN as u64, None), 22] {
        let chunks = measure(&format!("cut, average 2^{log2}"), || cut_all(&bytes, log2, |_| {}));
        println!("{:40} {chunks} chunks of {} KiB", "", (LEN >> 10) / chunks);
        measure(&format!("cut + SHA-256, average 2^{log2}"), || {
            cut_all(&bytes, log2, |chunk| {
                black_box(chunk_hash(chunk));
            })
        });
    }
    let before =
        measure("manifest_of from a reader", || manifest_of(&bytes[..], LEN as u64, None).expect("memory"));
    measure("manifest_of zeros", || manifest_of(&zeros[..], LEN as u64, None).expect("memory"));
    measure("rechunk with nothing known", || {
        rechunk(&Manifest::default(), &[], LEN as u64, read_at(&bytes)).expect("memory")
    });
    let dirty = LEN as u64 / 2..LEN as u64 / 2 + 1;
    bytes[LEN / 2] ^= 1;
    let start = Instant::now();
    let after = rechunk(&before, &[dirty], LEN as u64, read_at(&bytes)).expect("memory");
    let micros = start.elapsed().as_micros();
    assert_ne!(before.id(), after.id());
    println!("rechunk after one byte of 256 MiB changed: {micros} µs");
}

fn read_at(bytes: &[u8]) -> impl FnMut(u64, &mut [u8]) -> std::io::Result<usize> + '_ {
    |offset, buffer| {
        let from = &bytes[usize::try_from(offset).expect("in memory")..];
        let len = from.len().min(buffer.len());
        buffer[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }
}

fn cut_all(bytes: &[u8], log2: u8, mut visit: impl FnMut(&[u8])) -> usize {
    let (mut rest, mut count) = (bytes, 0);
    while let Some(len) = cut(rest, true, log2) {
        let (chunk, after) = rest.split_at(len);
        visit(chunk);
        (rest, count) = (after, count + 1);
    }
    count
}

fn measure<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = black_box(run());
    println!("{what:40} {:6.2} GB/s", LEN as f64 / start.elapsed().as_secs_f64() / 1e9);
    result
}
