//! Makes new inputs out of old ones, the same ones for the same seed.

/// Longest input: enough for every structure, little enough for many rounds.
const LEN_MAX: usize = 8 * 1024;

/// Numbers at which lengths, counts and signs change their meaning.
const NUMBERS: [u64; 16] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x100,
    0x7fff,
    0xffff,
    0x1_0000,
    0x7fff_ffff,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];

pub(super) struct Mutator {
    state: u64,
    words: &'static [&'static [u8]],
}

impl Mutator {
    pub(super) fn new(seed: u64, words: &'static [&'static [u8]]) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, words }
    }

    /// Returns the next pseudo-random number (xorshift64*).
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Returns a number below `end`, 0 if there is none.
    fn below(&mut self, end: usize) -> usize {
        let wide = u128::from(self.next()) * (end as u128);
        usize::try_from(wide >> 64).expect("below a usize")
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn range(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        // Mostly short, now and then anything.
        let longest = if self.below(4) == 0 { len - start } else { (len - start).min(16) };
        start..start + self.below(longest + 1)
    }

    /// Changes one of the inputs: mostly a little, now and then much.
    pub(super) fn mutate(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        let most = if self.below(8) == 0 { 16 } else { 3 };
        for _ in 0..=self.below(most) {
            self.change(&mut input, corpus);
        }
        input.truncate(LEN_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(10) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.byte(),
            2 => input.insert(at, self.byte()),
            3 => drop(input.drain(self.range(input.len()))),
            4 => {
                let copy = input[self.range(input.len())].to_vec();
                input.splice(at..at, copy);
            }
            5 => {
                let word = self.words[self.below(self.words.len())];
                // Half of them where a line begins: that is where most words mean something.
                let line = input[at..].iter().position(|byte| *byte == b'\n').map(|len| at + len + 1);
                let at = line.filter(|_| self.below(2) == 0).unwrap_or(at);
                input.splice(at..at, word.iter().copied());
            }
            6 => {
                let word = self.words[self.below(self.words.len())];
                let range = self.range(input.len());
                input.splice(range, word.iter().copied());
            }
            7 => {
                let other = &corpus[self.below(corpus.len())];
                input.truncate(at);
                input.extend_from_slice(&other[self.below(other.len() + 1)..]);
            }
            8 => self.put_number(input, at),
            _ => self.put_digits(input, at),
        }
    }

    /// Writes a number over the bytes at `at`, of any width, in either order.
    fn put_number(&mut self, input: &mut [u8], at: usize) {
        let number = NUMBERS[self.below(NUMBERS.len())];
        let width = 1 << self.below(4);
        let mut bytes = number.to_le_bytes();
        if self.below(2) == 0 {
            bytes[..width].reverse();
        }
        for (to, byte) in input[at..].iter_mut().zip(&bytes[..width]) {
            *to = *byte;
        }
    }

    /// Replaces the digits at `at`, which may be none, by those of a number.
    fn put_digits(&mut self, input: &mut Vec<u8>, at: usize) {
        let len = input[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = NUMBERS[self.below(NUMBERS.len())];
        let digits = if self.below(2) == 0 { number.to_string() } else { format!("{number:x}") };
        input.splice(at..at + len, digits.into_bytes());
    }
}
