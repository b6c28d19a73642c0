//! JSON Web Algorithms, Keys and Signatures: RFC 7515, 7517 and 7518, verifying only.
//!
//! Pure: bytes and keys come in, a verified payload or the reason against it goes out. Nothing here
//! looks into a payload before its signature holds, and no algorithm is ever chosen by a token.

mod algorithm;
mod base64url;
mod checked;
mod cursor;
mod hash;
mod json;
mod jwk;
mod jws;

pub use algorithm::Algorithm;
pub use checked::check;
pub use cursor::Cursor;
pub use hash::{MacKey, same, sha256_base64url, sha256_half};
pub use json::{JsonError, parse_object};
pub use jwk::{Key, KeySet, KeySetError, MAX_DOCUMENT_BYTES, SkippedKey};
pub use jws::{CompactJws, Header, JwsError, KnownHeader, VerifiedPayload};
