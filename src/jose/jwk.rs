//! A JWK Set document becomes the keys this program can use (RFC 7517).
//!
//! Keys are read one by one: a key that cannot be used is skipped with its reason and never costs
//! the others (RFC 7517 §5). Auth0 publishes members that a strict reader trips over, such as a
//! 40-byte `x5t`, so only the members that matter are looked at.

use std::fmt;

use jose_jwk::{EcCurves, Key as PublicMembers, OkpCurves};
use ring::signature::{RsaPublicKeyComponents, UnparsedPublicKey};
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, KeyKind};
use super::base64url;
use super::hash::sha256_base64url;

/// The largest JWK Set that is read. Auth0 serves 3 KB for two keys with certificates; a private
/// cloud with a dozen custom keys stays under 40 KB.
pub const MAX_DOCUMENT_BYTES: usize = 512 * 1024;

/// How many keys of a set are looked at. Auth0 publishes two or three, at most about thirteen.
const MAX_KEYS: usize = 100;

/// RFC 7518 §3.3 asks for 2048 bits; ring counts in whole bytes and would let 2041 pass.
const MIN_RSA_BITS: usize = 2048;

/// What ring verifies; an 8192-bit check costs about 0.3 ms, so more would be a gift to floods.
const MAX_RSA_BITS: usize = 8192;

/// A `kid` is an opaque name; Auth0's have 21 characters. Longer ones are not worth remembering.
pub(super) const MAX_KID_BYTES: usize = 256;

/// Members that only a private or symmetric key has (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// One usable verification key, bound to exactly one algorithm (RFC 8725 §3.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Material {
    /// Modulus and exponent, big-endian, without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// The point as ring takes it: uncompressed for ECDSA, 32 bytes for Ed25519.
    Point(Vec<u8>),
}

/// The usable keys of one JWK Set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// A key that was left out, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its place in the document, from 0.
    pub index: usize,
    /// Its `kid`, if it has one of reasonable length.
    pub kid: Option<String>,
    /// Why it cannot be used.
    pub reason: String,
}

/// Why a document is not a JWK Set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySetError {
    /// Not JSON, or without a `keys` array.
    Malformed(String),
    /// More keys than are looked at.
    TooManyKeys(usize),
    /// Larger than [`MAX_DOCUMENT_BYTES`].
    TooLarge(usize),
}

impl fmt::Display for KeySetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "not a JWK Set: {why}"),
            Self::TooManyKeys(found) => write!(f, "{found} keys; at most {MAX_KEYS} are read"),
            Self::TooLarge(found) => {
                write!(f, "{found} bytes; at most {MAX_DOCUMENT_BYTES} are read")
            }
        }
    }
}

impl std::error::Error for KeySetError {}

impl KeySet {
    /// Reads a JWK Set document. `allowed` are the configured algorithms, in order of preference:
    /// a key that names no `alg` is bound to the first one of its kind.
    ///
    /// # Errors
    ///
    /// [`KeySetError`] when the document as a whole is unusable. Unusable keys are no error; they
    /// come back as [`SkippedKey`]s.
    pub fn parse(
        document: &[u8],
        allowed: &[Algorithm],
    ) -> Result<(Self, Vec<SkippedKey>), KeySetError> {
        if document.len() > MAX_DOCUMENT_BYTES {
            return Err(KeySetError::TooLarge(document.len()));
        }
        // RFC 8259 §8.1: a byte order mark may be ignored, and some editors write one.
        let document = document.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(document);
        let value: Value = serde_json::from_slice(document).map_err(|error| {
            let why = looks_like(document).map_or_else(|| error.to_string(), str::to_owned);
            KeySetError::Malformed(why)
        })?;
        let Some(Value::Array(entries)) = value.get("keys") else {
            return Err(KeySetError::Malformed("no array named \"keys\"".to_owned()));
        };
        if entries.len() > MAX_KEYS {
            return Err(KeySetError::TooManyKeys(entries.len()));
        }
        let mut keys = Vec::new();
        let mut skipped = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match Key::from_jwk(entry, allowed) {
                Ok(key) => keys.push(key),
                Err(reason) => skipped.push(SkippedKey {
                    index,
                    kid: short_kid(entry).map(str::to_owned),
                    reason,
                }),
            }
        }
        Ok((Self { keys }, skipped))
    }

    /// The usable keys, in the order of the document.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Whether no key is usable.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// What somebody has most likely served or saved in the place of JSON.
fn looks_like(document: &[u8]) -> Option<&'static str> {
    let text = document.trim_ascii_start();
    let begins = |sign: &[u8]| text.starts_with(sign);
    if text.is_empty() {
        Some("it is empty")
    } else if begins(b"\x1F\x8B") {
        Some("it is compressed (gzip), and no coding was asked for")
    } else if begins(b"\xFF\xFE") || begins(b"\xFE\xFF") {
        Some("it is text in UTF-16; JSON is in UTF-8")
    } else if begins(b"-----BEGIN") {
        Some("it is PEM: a key or certificate, and not a set of JSON Web Keys")
    } else if begins(b"<") {
        Some("it is HTML or XML, as an error page, a log-in page or a captive portal sends")
    } else {
        None
    }
}

impl Key {
    /// The key id, if the key has one.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The one algorithm this key verifies.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The key that a proof brings along, for the algorithm that the proof names (RFC 9449 §4.3). The same
    /// strength is asked of it as of an issuer's.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    pub fn from_proof(jwk: &Value, algorithm: Algorithm) -> Result<Self, String> {
        let named = jwk.get("alg");
        if named
            .is_some_and(|named| named.as_str().and_then(Algorithm::from_name) != Some(algorithm))
        {
            return Err(format!("its alg is not {algorithm}, as the header says"));
        }
        Self::from_jwk(jwk, &[algorithm])
    }

    /// The SHA-256 thumbprint, base64url (RFC 7638): of the members that the kind of key needs, in their
    /// order and without white space.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        let encode = |bytes: &[u8]| base64url::encode(bytes);
        let members = match &self.material {
            Material::Rsa { n, e } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, encode(e), encode(n))
            }
            Material::Point(point) if self.algorithm.key_kind() == KeyKind::Ed25519 => {
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encode(point))
            }
            Material::Point(point) => {
                let curve = match self.algorithm.key_kind() {
                    KeyKind::P384 => "P-384",
                    KeyKind::P256 | KeyKind::Ed25519 | KeyKind::Rsa => "P-256",
                };
                // Behind the one byte that marks an uncompressed point.
                let coordinates = point.get(1..).unwrap_or_default();
                let (x, y) = coordinates.split_at(coordinates.len() / 2);
                let (x, y) = (encode(x), encode(y));
                format!(r#"{{"crv":"{curve}","kty":"EC","x":"{x}","y":"{y}"}}"#)
            }
        };
        sha256_base64url(members.as_bytes())
    }

    /// Whether `signature` over `message` was made with this key.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Rsa { n, e } => self.algorithm.rsa().is_some_and(|parameters| {
                RsaPublicKeyComponents { n, e }
                    .verify(parameters, message, signature)
                    .is_ok()
            }),
            Material::Point(point) => self.algorithm.curve().is_some_and(|curve| {
                UnparsedPublicKey::new(curve, point)
                    .verify(message, signature)
                    .is_ok()
            }),
        }
    }

    fn from_jwk(entry: &Value, allowed: &[Algorithm]) -> Result<Self, String> {
        let Value::Object(members) = entry else {
            return Err("not a JSON object".to_owned());
        };
        if let Some(name) = PRIVATE_MEMBERS
            .into_iter()
            .find(|name| members.contains_key(*name))
        {
            return Err(format!(
                "holds the secret member {name:?}: a published secret signs for anybody"
            ));
        }
        check_use(members)?;
        let kid = match members.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= MAX_KID_BYTES => Some(kid.clone()),
            Some(_) => {
                return Err(format!(
                    "kid is not a string of at most {MAX_KID_BYTES} bytes"
                ));
            }
        };
        let (key_kind, material) = public_material(members)?;
        let algorithm = bind_algorithm(members.get("alg"), key_kind, allowed)?;
        Ok(Self {
            kid,
            algorithm,
            material,
        })
    }
}

fn short_kid(entry: &Value) -> Option<&str> {
    entry
        .get("kid")?
        .as_str()
        .filter(|kid| kid.len() <= MAX_KID_BYTES)
}

/// RFC 7517 §4.2 and §4.3: a key that says what it is for must be for verifying signatures.
fn check_use(members: &Map<String, Value>) -> Result<(), String> {
    match members.get("use") {
        None => {}
        Some(Value::String(purpose)) if purpose == "sig" => {}
        Some(other) => return Err(format!("use is {other}, not \"sig\"")),
    }
    match members.get("key_ops") {
        None => Ok(()),
        Some(Value::Array(operations)) if operations.iter().any(|op| op == "verify") => Ok(()),
        Some(_) => Err("key_ops does not hold \"verify\"".to_owned()),
    }
}

/// One key, one algorithm: the one it names, or else the first configured one of its kind.
fn bind_algorithm(
    named: Option<&Value>,
    kind: KeyKind,
    allowed: &[Algorithm],
) -> Result<Algorithm, String> {
    let fits = |algorithm: &Algorithm| algorithm.key_kind() == kind;
    match named {
        None => allowed
            .iter()
            .copied()
            .find(fits)
            .ok_or_else(|| "no configured algorithm uses this kind of key".to_owned()),
        Some(named) => {
            let algorithm = named
                .as_str()
                .and_then(Algorithm::from_name)
                .ok_or_else(|| format!("alg {named} is not supported"))?;
            if !fits(&algorithm) {
                return Err(format!("alg {algorithm} does not fit the key"));
            }
            if !allowed.contains(&algorithm) {
                return Err(format!("alg {algorithm} is not in auth0.algorithms"));
            }
            Ok(algorithm)
        }
    }
}

/// Reads the public members by way of `jose_jwk`, which checks their encoding.
fn public_material(members: &Map<String, Value>) -> Result<(KeyKind, Material), String> {
    let public: Map<String, Value> = ["kty", "n", "e", "crv", "x", "y"]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), members.get(name)?.clone())))
        .collect();
    let parsed: PublicMembers = serde_json::from_value(Value::Object(public))
        .map_err(|error| format!("unsupported or malformed key: {error}"))?;
    match parsed {
        PublicMembers::Rsa(rsa) => {
            rsa_material(&rsa.n, &rsa.e).map(|material| (KeyKind::Rsa, material))
        }
        PublicMembers::Ec(ec) => {
            let (kind, length) = match ec.crv {
                EcCurves::P256 => (KeyKind::P256, 32),
                EcCurves::P384 => (KeyKind::P384, 48),
                other => return Err(format!("curve {other:?} is not supported")),
            };
            if ec.x.len() != length || ec.y.len() != length {
                return Err(format!("coordinates are not {length} bytes each"));
            }
            // SEC 1 §2.3.3: 0x04 marks an uncompressed point.
            let mut point = vec![0x04];
            point.extend_from_slice(&ec.x);
            point.extend_from_slice(&ec.y);
            Ok((kind, Material::Point(point)))
        }
        PublicMembers::Okp(okp) => match okp.crv {
            OkpCurves::Ed25519 if okp.x.len() == 32 => {
                Ok((KeyKind::Ed25519, Material::Point(okp.x.to_vec())))
            }
            OkpCurves::Ed25519 => Err("x is not 32 bytes".to_owned()),
            other => Err(format!("curve {other:?} is not supported")),
        },
        _ => Err("key type is not supported".to_owned()),
    }
}

/// RFC 7518 §6.3.1; ring takes no leading zeros, which some issuers send.
fn rsa_material(n: &[u8], e: &[u8]) -> Result<Material, String> {
    let n = without_leading_zeros(n);
    let e = without_leading_zeros(e);
    let bits = bit_length(n);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(format!(
            "{bits}-bit RSA; {MIN_RSA_BITS} to {MAX_RSA_BITS} bits are accepted"
        ));
    }
    // ring verifies with odd exponents from 3 up to 33 bits; anything else would fail every token.
    let odd = e.last().is_some_and(|last| last & 1 == 1);
    if !odd || e == [1] || bit_length(e) > 33 {
        return Err("RSA exponent is not an odd number from 3 up to 33 bits".to_owned());
    }
    Ok(Material::Rsa {
        n: n.to_vec(),
        e: e.to_vec(),
    })
}

fn without_leading_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.get(zeros..).unwrap_or_default()
}

fn bit_length(bytes: &[u8]) -> usize {
    bytes.first().map_or(0, |first| {
        let unused = usize::try_from(first.leading_zeros()).unwrap_or(0);
        bytes.len().saturating_mul(8).saturating_sub(unused)
    })
}

#[cfg(test)]
mod tests {
    use super::super::base64url::encode;
    use super::{Algorithm, KeySet, KeySetError, MAX_DOCUMENT_BYTES, MAX_KEYS};
    use serde_json::{Value, json};

    /// A number with exactly this many bits that is odd; ring does not factor it.
    fn modulus(bits: usize) -> String {
        let mut bytes = vec![0xff; bits.div_ceil(8)];
        let spare = (8 - bits % 8) % 8;
        bytes[0] = 0xff >> spare;
        encode(&bytes)
    }

    fn rsa(changes: &Value) -> Value {
        let mut key =
            json!({"kty":"RSA","use":"sig","alg":"RS256","kid":"k","n":modulus(2048),"e":"AQAB"});
        for (name, value) in changes.as_object().expect("an object") {
            if value == "absent" {
                key.as_object_mut().expect("an object").remove(name);
            } else {
                key[name] = value.clone();
            }
        }
        key
    }

    fn parse(keys: &Value, allowed: &[Algorithm]) -> (KeySet, Vec<super::SkippedKey>) {
        let document = serde_json::to_vec(&json!({ "keys": keys })).expect("JSON");
        KeySet::parse(&document, allowed).expect("a JWK Set")
    }

    #[test]
    fn what_is_no_key_set_is_named() {
        for (document, expected) in [
            (&b""[..], "it is empty"),
            (b" \n", "it is empty"),
            (b"\x1F\x8B\x08\x00", "it is compressed (gzip)"),
            (b"\xFF\xFE{\x00", "UTF-16"),
            (b"\xFE\xFF\x00{", "UTF-16"),
            (b"-----BEGIN PUBLIC KEY-----", "it is PEM"),
            (b"\n<!DOCTYPE html><html>", "it is HTML or XML"),
            (b"{\"keys\":", "EOF"),
            (b"{}", "no array named"),
        ] {
            let error = KeySet::parse(document, &[Algorithm::Rs256]).expect_err("no key set");
            let told = error.to_string();
            assert!(told.starts_with("not a JWK Set: "), "{told}");
            assert!(told.contains(expected), "{told}");
        }
        let marked = b"\xEF\xBB\xBF{\"keys\":[]}";
        assert!(KeySet::parse(marked, &[Algorithm::Rs256]).is_ok());
    }

    #[test]
    fn one_good_key_survives_any_company() {
        let hex_thumbprint = encode(b"65AF6909B1B0758EF6E0E7C9EE4D7E6FE0BE2C51");
        let keys = json!([
            {"kty":"AKP","alg":"ML-DSA-65","kid":"pq","pub":"AAAA"},
            {"kty":"RSA","use":"enc","alg":"RSA-OAEP-256","kid":"enc","n":modulus(2048),"e":"AQAB"},
            rsa(&json!({"kid":"leaked","d":"AQAB"})),
            {"kty":"EC","crv":"P-521","kid":"p521","x":"AA","y":"AA"},
            {"kty":"oct","k":"c2VjcmV0","kid":"hmac"},
            "not even an object",
            null,
            rsa(&json!({"kid":7})),
            rsa(&json!({"kid":"no alg","alg":"absent"})),
            rsa(&json!({"kid":"good","x5t":hex_thumbprint,"x5c":["not base64 at all"],"x5u":5,"x5t#S256":"?"})),
        ]);
        let (set, skipped) = parse(&keys, &[Algorithm::Rs256]);
        let kids: Vec<_> = set.keys().iter().map(super::Key::kid).collect();
        assert_eq!(kids, [Some("no alg"), Some("good")]);
        assert_eq!(skipped.len(), 8);
        assert!(skipped.iter().all(|key| !key.reason.is_empty()));
    }

    #[test]
    fn unusable_rsa_keys_are_skipped_with_a_reason() {
        for (changes, why) in [
            (json!({"n":modulus(1024)}), "1024-bit"),
            (json!({"n":modulus(2047)}), "2047-bit"),
            (json!({"n":modulus(8193)}), "8193-bit"),
            (json!({"n":"AAAA"}), "0-bit"),
            (json!({"e":"AA"}), "exponent"),
            (json!({"e":"AQ"}), "exponent"),
            (json!({"e":"Ag"}), "exponent"),
            (json!({"e":"____________"}), "exponent"),
            (json!({"n":"!!"}), "malformed"),
            (json!({"n":format!("{}=", modulus(2048))}), "malformed"),
            (json!({"e":"absent"}), "malformed"),
            (json!({"use":"enc"}), "use is"),
            (json!({"use":null}), "use is"),
            (json!({"key_ops":["sign"]}), "key_ops"),
            (json!({"key_ops":"verify"}), "key_ops"),
            (json!({"alg":"none"}), "alg"),
            (json!({"alg":"HS256"}), "alg"),
            (json!({"alg":"ES256"}), "does not fit"),
            (json!({"alg":"RS512"}), "not in auth0.algorithms"),
            (json!({"alg":null}), "alg"),
            (json!({"kid":"x".repeat(257)}), "kid"),
        ] {
            let (set, skipped) = parse(
                &json!([rsa(&changes)]),
                &[Algorithm::Rs256, Algorithm::Ps256],
            );
            assert!(set.is_empty(), "{changes}");
            assert!(
                skipped[0].reason.contains(why),
                "{changes}: {}",
                skipped[0].reason
            );
        }
    }

    #[test]
    fn acceptable_variants_are_kept() {
        let padded = encode(&[&[0, 0][..], &[0xff; 256][..]].concat());
        for changes in [
            json!({}),
            json!({"n":padded}),
            json!({"n":modulus(8192)}),
            json!({"e":"Aw"}),
            json!({"use":"absent"}),
            json!({"key_ops":["sign","verify"]}),
            json!({"kid":"absent"}),
            json!({"unknown":{"nested":[1]}}),
        ] {
            let (set, skipped) = parse(&json!([rsa(&changes)]), &[Algorithm::Rs256]);
            assert_eq!(set.keys().len(), 1, "{changes}: {skipped:?}");
        }
    }

    #[test]
    fn a_key_is_bound_to_one_algorithm() {
        let bound = |changes: &Value, allowed: &[Algorithm]| {
            parse(&json!([rsa(changes)]), allowed).0.keys()[0].algorithm()
        };
        let silent = json!({"alg":"absent"});
        assert_eq!(
            bound(&silent, &[Algorithm::Rs256, Algorithm::Ps256]),
            Algorithm::Rs256
        );
        assert_eq!(
            bound(
                &silent,
                &[Algorithm::Es256, Algorithm::Ps256, Algorithm::Rs256]
            ),
            Algorithm::Ps256
        );
        assert_eq!(
            bound(
                &json!({"alg":"PS256"}),
                &[Algorithm::Rs256, Algorithm::Ps256]
            ),
            Algorithm::Ps256
        );
    }

    #[test]
    fn documents_that_are_no_key_set_are_refused() {
        let many = json!({"keys": vec![json!({}); MAX_KEYS + 1]}).to_string();
        for document in [
            "",
            "[]",
            "{}",
            "{\"keys\":{}}",
            "{\"keys\":[}",
            "null",
            "<html>",
        ] {
            let result = KeySet::parse(document.as_bytes(), &[Algorithm::Rs256]);
            assert!(
                matches!(result, Err(KeySetError::Malformed(_))),
                "{document}"
            );
        }
        assert_eq!(
            KeySet::parse(many.as_bytes(), &[Algorithm::Rs256]),
            Err(KeySetError::TooManyKeys(MAX_KEYS + 1))
        );
        let large = vec![b' '; MAX_DOCUMENT_BYTES + 1];
        assert_eq!(
            KeySet::parse(&large, &[Algorithm::Rs256]),
            Err(KeySetError::TooLarge(MAX_DOCUMENT_BYTES + 1))
        );
    }
}

/// Raw RSA signatures of Project Wycheproof. Their messages are no JWS, so they are verified here
/// and not in `tests/core`.
#[cfg(test)]
mod wycheproof {
    use super::{Algorithm, Key, KeySet};
    use serde_json::{Value, json};

    /// What a file holds: `valid` and `invalid` are settled, `acceptable` is left to the verifier.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Counts {
        valid_accepted: usize,
        invalid_refused: usize,
        acceptable_refused: usize,
    }

    fn hex(text: &Value) -> Vec<u8> {
        let digits = text.as_str().expect("hexadecimal").as_bytes();
        digits
            .chunks(2)
            .map(|pair| {
                let pair = std::str::from_utf8(pair).expect("ASCII");
                u8::from_str_radix(pair, 16).expect("hexadecimal")
            })
            .collect()
    }

    fn key(group: &Value) -> Key {
        let numbers = &group["publicKey"];
        let encode = |name: &str| super::super::base64url::encode(&hex(&numbers[name]));
        // The modulus has a leading zero, as some issuers write it.
        let jwk = json!({
            "kty":"RSA","alg":"RS256","n":encode("modulus"),"e":encode("publicExponent"),
        });
        let document = json!({ "keys": [jwk] }).to_string();
        let (set, skipped) =
            KeySet::parse(document.as_bytes(), &[Algorithm::Rs256]).expect("a JWK Set");
        assert_eq!(skipped, []);
        set.keys()[0].clone()
    }

    fn run(file: &str) -> Counts {
        let path = format!(
            "{}/tests/vectors/wycheproof/{file}",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read(&path).expect(&path);
        let document: Value = serde_json::from_slice(&text).expect("JSON");
        let mut counts = Counts::default();
        let mut ran = 0;
        for group in document["testGroups"].as_array().expect("groups") {
            assert_eq!(group["sha"], "SHA-256");
            let key = key(group);
            for test in group["tests"].as_array().expect("tests") {
                let accepted = key.verifies(&hex(&test["msg"]), &hex(&test["sig"]));
                let result = test["result"].as_str().expect("result");
                let counter = match (result, accepted) {
                    ("valid", true) => &mut counts.valid_accepted,
                    ("invalid", false) => &mut counts.invalid_refused,
                    ("acceptable", false) => &mut counts.acceptable_refused,
                    _ => panic!("{file}: accepted {accepted}: {test}"),
                };
                *counter += 1;
                ran += 1;
            }
        }
        assert_eq!(document["numberOfTests"], ran, "{file} is complete");
        counts
    }

    #[test]
    fn rsa_signatures() {
        // The acceptable one lacks the NULL in its DigestInfo (RFC 8017 §9.2); ring refuses it.
        for (file, valid_accepted, invalid_refused) in [
            ("rsa_signature_2048_sha256_test.json", 9, 249),
            ("rsa_signature_3072_sha256_test.json", 8, 250),
            ("rsa_signature_4096_sha256_test.json", 7, 250),
        ] {
            let expected = Counts {
                valid_accepted,
                invalid_refused,
                acceptable_refused: 1,
            };
            assert_eq!(run(file), expected, "{file}");
        }
    }
}
