//! base64url without padding, in its one canonical form (RFC 7515 §2).

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Refuses padding and set trailing bits, so that every byte string has exactly one spelling.
const CANONICAL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

/// Decodes canonical base64url; `None` for any other text.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    CANONICAL.decode(text).ok()
}

/// Decodes either alphabet, with padding or without: for guessing what somebody has done, and nothing else.
pub(super) fn decode_any(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let standard = STANDARD_NO_PAD.decode(text).ok();
    standard.or_else(|| URL_SAFE_NO_PAD.decode(text).ok())
}

/// The canonical spelling.
pub(super) fn encode(bytes: &[u8]) -> String {
    CANONICAL.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn only_the_canonical_spelling_decodes() {
        assert_eq!(decode("").as_deref(), Some(&b""[..]));
        assert_eq!(decode("-_8").as_deref(), Some(&[0xfb, 0xff][..]));
        for (text, why) in [
            ("-_9", "trailing bits set"),
            ("-_8=", "padding"),
            ("+/8", "the other alphabet"),
            ("-_8\n", "white space"),
            ("-", "impossible length"),
        ] {
            assert_eq!(decode(text), None, "{why}");
        }
    }
}
