//! Any bytes as a JWK Set: nothing panics, every entry is either used or skipped with a reason, and
//! what is used is bound to an allowed algorithm.

#![no_main]

use authgate::jose::{Algorithm, CompactJws, KeySet, MAX_DOCUMENT_BYTES};
use libfuzzer_sys::fuzz_target;

/// Headers `{"alg":…}` of every kind of key, with an empty payload and a short signature.
const TOKENS: [&str; 3] = [
    "eyJhbGciOiJSUzI1NiJ9..AAAA",
    "eyJhbGciOiJFUzI1NiJ9..AAAA",
    "eyJhbGciOiJFZERTQSJ9..AAAA",
];

fuzz_target!(|data: &[u8]| {
    for allowed in [&Algorithm::ALL[..], &[Algorithm::Rs256], &[]] {
        let Ok((set, skipped)) = KeySet::parse(data, allowed) else {
            continue;
        };
        assert!(data.len() <= MAX_DOCUMENT_BYTES);
        assert!(skipped.iter().all(|key| !key.reason.is_empty()));
        assert!(set.keys().len() + skipped.len() <= 100);
        for key in set.keys() {
            assert!(allowed.contains(&key.algorithm()));
            assert!(key.kid().is_none_or(|kid| kid.len() <= 256));
        }
        for token in TOKENS {
            let jws = CompactJws::parse(token).expect("well-formed");
            assert!(
                jws.verify(set.keys()).is_err(),
                "four letters are no signature"
            );
        }
    }
});
