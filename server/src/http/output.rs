//! Bytes on their way out: small ones are gathered into one block, large ones are queued as they are.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use crate::limits;

/// Encoded bytes that the engine has not yet written; read through [`Buf`], vectored.
#[derive(Debug, Default)]
pub struct Output {
    queue: VecDeque<Bytes>,
    queue_len: usize,
    /// What comes after the queue.
    open: BytesMut,
}

impl Output {
    /// Appends bytes by copying them.
    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.open.extend_from_slice(bytes);
    }

    /// Appends bytes, copying them only if they are few.
    pub(super) fn put_shared(&mut self, bytes: Bytes) {
        if self.open.len() + bytes.len() <= limits::HTTP_COALESCE_LEN {
            self.open.extend_from_slice(&bytes);
            return;
        }
        if !self.open.is_empty() {
            self.queue_len += self.open.len();
            self.queue.push_back(self.open.split().freeze());
        }
        if !bytes.is_empty() {
            self.queue_len += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Appends a number in this base.
    pub(super) fn put_number(&mut self, mut value: u64, base: u64) {
        let mut digits = [0_u8; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            digits[start] = b"0123456789abcdef"[(value % base) as usize];
            value /= base;
            if value == 0 {
                break;
            }
        }
        self.put(&digits[start..]);
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.queue_len + self.open.len()
    }

    fn chunk(&self) -> &[u8] {
        self.queue.front().map_or(&self.open, |front| front)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let blocks = self.queue.iter().map(Bytes::as_ref).chain([self.open.as_ref()]);
        let mut count = 0;
        for (slice, block) in slices.iter_mut().zip(blocks.filter(|block| !block.is_empty())) {
            *slice = IoSlice::new(block);
            count += 1;
        }
        count
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.queue.front_mut() {
            let len = front.len().min(count);
            front.advance(len);
            self.queue_len -= len;
            count -= len;
            if !front.is_empty() {
                return;
            }
            self.queue.pop_front();
        }
        if count == self.open.len() { self.open.clear() } else { self.open.advance(count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_out_in_order_however_they_are_taken() {
        for step in [1, 7, 20_000, 70_000] {
            let mut output = Output::default();
            let large = Bytes::from(vec![b'x'; limits::HTTP_COALESCE_LEN + 1]);
            output.put(b"head ");
            output.put_number(255, 16);
            output.put_shared(Bytes::from_static(b" small "));
            output.put_shared(large.clone());
            output.put_number(0, 10);
            output.put_shared(large.clone());
            output.put(b" end");
            let expected = [b"head ff small ", &large[..], b"0", &large[..], b" end"].concat();
            let mut taken = Vec::new();
            while output.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 8];
                let count = output.chunks_vectored(&mut slices);
                let all = slices[..count].iter().flat_map(|slice| slice.iter().copied());
                let mut part: Vec<u8> = all.take(step).collect();
                assert!(!part.is_empty());
                output.advance(part.len());
                taken.append(&mut part);
            }
            assert!(taken == expected, "step {step}");
        }
    }
}
