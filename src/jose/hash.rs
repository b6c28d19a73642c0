//! SHA-256 and HMAC as RFC 7638 and RFC 9449 use them, and a comparison that takes as long for every answer.

use std::fmt;
use std::hint::black_box;

use ring::digest::{SHA256, digest};
use ring::hmac;

use super::base64url;

/// The SHA-256 of `bytes`, as JOSE writes it.
#[must_use]
pub fn sha256_base64url(bytes: &[u8]) -> String {
    base64url::encode(digest(&SHA256, bytes).as_ref())
}

/// The first half of the SHA-256 of `bytes`: enough to name them among a few million others.
#[must_use]
pub fn sha256_half(bytes: &[u8]) -> u128 {
    let digest = digest(&SHA256, bytes);
    let half = digest.as_ref().iter().take(16);
    half.fold(0, |number, byte| (number << 8) | u128::from(*byte))
}

/// Whether two values are equal, in a time that tells nothing of where they differ.
#[must_use]
pub fn same(one: &[u8], other: &[u8]) -> bool {
    let difference = one
        .iter()
        .zip(other)
        .fold(0, |difference, (one, other)| difference | (one ^ other));
    one.len() == other.len() && black_box(difference) == 0
}

/// A key for HMAC-SHA-256. `Debug` does not show it.
#[derive(Clone)]
pub struct MacKey(hmac::Key);

impl MacKey {
    /// A key of these bytes, which somebody has chosen at random.
    #[must_use]
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The code for `message`, as JOSE writes bytes.
    #[must_use]
    pub fn code(&self, message: &[u8]) -> String {
        base64url::encode(hmac::sign(&self.0, message).as_ref())
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MacKey")
    }
}

#[cfg(test)]
mod tests {
    use super::{MacKey, same, sha256_base64url, sha256_half};

    #[test]
    fn only_equal_values_are_the_same() {
        for (one, other, expected) in [
            ("", "", true),
            ("abc", "abc", true),
            ("abc", "abd", false),
            ("abc", "bbc", false),
            ("abc", "ab", false),
            ("ab", "abc", false),
            ("", "a", false),
        ] {
            assert_eq!(
                same(one.as_bytes(), other.as_bytes()),
                expected,
                "{one} {other}"
            );
        }
    }

    /// FIPS 180-4's example, and RFC 4231's second test case.
    #[test]
    fn published_values() {
        assert_eq!(
            sha256_base64url(b"abc"),
            "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0"
        );
        assert_eq!(
            sha256_half(b"abc"),
            0xba78_16bf_8f01_cfea_4141_40de_5dae_2223
        );
        let code = MacKey::new(b"Jefe").code(b"what do ya want for nothing?");
        assert_eq!(code, "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM");
        assert_eq!(format!("{:?}", MacKey::new(b"Jefe")), "MacKey");
    }
}
