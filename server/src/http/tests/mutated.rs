//! Input that nobody would write: good input with random damage, from a fixed seed.

use super::run_split;

const GOOD: [&str; 3] = [
    "POST /a%20b?x=1&y=%26 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nA: b\r\n\r\n3;e\r\nabc\r\n0\r\nT: 1\r\n\r\n",
    "\r\nPUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbodyGET / HTTP/1.1\r\nHost: h\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\nHEAD http://h/?a=b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
];
/// Bytes that mean something to a parser.
const MARKS: &[u8] = b"\r\n \t:;,%/?#*0159aFx\0\x7f\x80\xff";

/// Xorshift (Marsaglia 2003).
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 33) as usize
}

#[test]
fn damaged_input_never_panics_and_says_the_same_however_it_is_split() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    for round in 0..800 {
        let mut input = GOOD[round % GOOD.len()].as_bytes().to_vec();
        for _ in 0..=next(&mut state) % 3 {
            if input.is_empty() {
                break;
            }
            let (at, mark) = (next(&mut state) % input.len(), MARKS[next(&mut state) % MARKS.len()]);
            match next(&mut state) % 4 {
                0 => input[at] = mark,
                1 => input.insert(at, mark),
                2 => drop(input.remove(at)),
                _ => input.truncate(at.max(1)),
            }
        }
        let said = run_split(&input, 100);
        assert_eq!(said.last().map(String::as_str), Some("closed"), "{}", input.escape_ascii());
    }
}
