//! The form of a token: `dfs_`, the id in 16 digits, `_`, the secret in 64 digits.
//!
//! The secret is 256 random bits, so there is nothing to guess from and the store keeps its plain SHA-256: a slow
//! password hash defends secrets that people choose, and would only make each request slow here. Invariant: a
//! secret is printed by [`Secret::text`] and in no other way.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::metadata::token::TokenId;

/// What every token begins with, so that it is found in a text where it should not be.
pub const PREFIX: &str = "dfs_";

/// Digits of the secret.
const SECRET_TEXT_LEN: usize = 64;

/// The secret half of a token.
pub struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Takes the bytes of a secret; they have to come from the system's random source.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns what the store keeps.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }

    /// Compares with what the store keeps, in a time that does not tell where they differ.
    #[must_use]
    pub fn matches(&self, digest: &[u8; 32]) -> bool {
        self.digest().ct_eq(digest).into()
    }

    /// Returns the whole token: the only place where a secret becomes text.
    #[must_use]
    pub fn text(&self, id: TokenId) -> String {
        let mut text = format!("{PREFIX}{id}_");
        for byte in self.0 {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        text
    }
}

/// Takes a token apart; `None` when it has not the form of one.
#[must_use]
pub fn parse(text: &[u8]) -> Option<(TokenId, Secret)> {
    let rest = std::str::from_utf8(text).ok()?.strip_prefix(PREFIX)?;
    let (id, secret) = rest.split_once('_')?;
    let id = id.parse().ok()?;
    if secret.len() != SECRET_TEXT_LEN {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(secret.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some((id, Secret(bytes)))
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

/// Takes the token out of an `Authorization` header (RFC 6750, 2.1; the scheme's name has no case).
#[must_use]
pub fn bearer(header: &[u8]) -> Option<&[u8]> {
    let at = header.iter().position(|byte| *byte == b' ')?;
    let (scheme, rest) = header.split_at(at);
    scheme.eq_ignore_ascii_case(b"Bearer").then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (TokenId, Secret, String) {
        let (id, secret) = (TokenId::from_bytes([1, 2, 3, 4, 5, 6, 7, 0xf8]), Secret::from_bytes([0x5a; 32]));
        let text = secret.text(id);
        (id, secret, text)
    }

    #[test]
    fn a_token_is_read_as_it_is_printed() {
        let (id, secret, text) = sample();
        assert_eq!(text.len(), 4 + 16 + 1 + 64);
        let (read, again) = parse(text.as_bytes()).unwrap();
        assert_eq!(read, id);
        assert!(again.matches(&secret.digest()));
        assert!(!Secret::from_bytes([0x5b; 32]).matches(&secret.digest()));
    }

    #[test]
    fn nothing_but_a_whole_token_is_read() {
        let (_, _, text) = sample();
        for end in 0..text.len() {
            assert!(parse(&text.as_bytes()[..end]).is_none(), "{end}");
        }
        for bad in [format!("{text}0"), text.to_uppercase(), text.replace("dfs_", "dfs-"), format!(" {text}")]
        {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
        assert!(parse(&[0xff; 85]).is_none());
    }

    #[test]
    fn debug_output_does_not_show_a_secret() {
        let (_, secret, text) = sample();
        assert!(!format!("{secret:?}").contains(&text[30..40]));
    }

    #[test]
    fn a_bearer_header_is_read_whatever_the_case_of_its_scheme() {
        for (header, token) in [("Bearer x", "x"), ("bEARER  x ", "x"), ("bearer ", "")] {
            assert_eq!(bearer(header.as_bytes()), Some(token.as_bytes()));
        }
        for other in ["", "Bearer", "Basic x", "Bearerx y"] {
            assert_eq!(bearer(other.as_bytes()), None, "{other}");
        }
    }
}
