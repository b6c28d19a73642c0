//! Signing keys of the stand-in tenant, and the JWKs that publish them.

use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{CertificateParams, KeyPair as CertificateKey};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair as _, RsaKeyPair,
};
use rsa::pkcs8::EncodePrivateKey as _;
use rsa::traits::PublicKeyParts as _;
use rsa::{Pkcs1v15Sign, RsaPrivateKey};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};

/// How many distinct RSA keys a process can ask for. Making one costs a second in a debug build, so
/// they are made once and shared by every issuer of the process, each time under a new `kid`.
const RSA_SLOTS: usize = 4;

/// The DER of a `DigestInfo` for SHA-256, up to the digest itself (RFC 8017, section 9.2, note 1).
const SHA256_DIGEST_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];

/// The signature algorithms that a token of the stand-in tenant can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    /// The name that stands in `alg`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Ps256 => "PS256",
            Self::Ps384 => "PS384",
            Self::Ps512 => "PS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    fn rsa_encoding(self) -> &'static dyn signature::RsaEncoding {
        match self {
            Self::Rs256 => &signature::RSA_PKCS1_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_SHA512,
            Self::Ps256 => &signature::RSA_PSS_SHA256,
            Self::Ps384 => &signature::RSA_PSS_SHA384,
            Self::Ps512 => &signature::RSA_PSS_SHA512,
            Self::Es256 | Self::Es384 | Self::EdDsa => {
                panic!("{} is no RSA algorithm", self.name())
            }
        }
    }
}

enum Pair {
    Rsa(&'static RsaMaterial),
    /// Too short for ring, which is why it exists: a proxy must refuse it.
    WeakRsa(Box<RsaPrivateKey>),
    Ec(EcdsaKeyPair, Algorithm),
    Ed(Ed25519KeyPair),
}

struct RsaMaterial {
    pair: RsaKeyPair,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    /// A self-signed certificate over the key, in DER, because Auth0 publishes one.
    certificate: Vec<u8>,
}

/// A key with the `kid` it is published under.
pub struct SigningKey {
    kid: String,
    pair: Pair,
}

impl SigningKey {
    /// An RSA key of 2,048 bits under a fresh `kid`. The same slot is the same key under another name.
    pub fn rsa(slot: usize) -> Self {
        Self::named(Pair::Rsa(rsa_material(slot)))
    }

    /// An RSA key of 1,024 bits, which no verifier may accept.
    pub fn weak_rsa() -> Self {
        let key = RsaPrivateKey::new(&mut rand::rngs::OsRng, 1024).expect("a short RSA key");
        Self::named(Pair::WeakRsa(Box::new(key)))
    }

    /// A key on the curve of `algorithm`, which is ES256 or ES384.
    pub fn ec(algorithm: Algorithm) -> Self {
        let curve = match algorithm {
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            Algorithm::Es384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
            other => panic!("{} has no curve", other.name()),
        };
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(curve, &random).expect("an EC key");
        let pair = EcdsaKeyPair::from_pkcs8(curve, document.as_ref(), &random).expect("an EC key");
        Self::named(Pair::Ec(pair, algorithm))
    }

    /// An Ed25519 key.
    pub fn ed25519() -> Self {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("an Ed25519 key");
        Self::named(Pair::Ed(
            Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("an Ed25519 key"),
        ))
    }

    fn named(pair: Pair) -> Self {
        Self {
            kid: random_name(),
            pair,
        }
    }

    /// The same key under a `kid` of the caller's choice.
    pub fn with_kid(mut self, kid: &str) -> Self {
        kid.clone_into(&mut self.kid);
        self
    }

    /// The name that tokens and the key set know this key by.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The algorithm this key signs with when nothing else is asked for.
    pub fn default_algorithm(&self) -> Algorithm {
        match &self.pair {
            Pair::Rsa(_) | Pair::WeakRsa(_) => Algorithm::Rs256,
            Pair::Ec(_, algorithm) => *algorithm,
            Pair::Ed(_) => Algorithm::EdDsa,
        }
    }

    /// The signature over `message`.
    pub fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(material) => {
                let mut signature = vec![0; material.pair.public().modulus_len()];
                material
                    .pair
                    .sign(algorithm.rsa_encoding(), &random, message, &mut signature)
                    .expect("an RSA signature");
                signature
            }
            Pair::WeakRsa(key) => {
                let scheme = Pkcs1v15Sign {
                    hash_len: Some(32),
                    prefix: SHA256_DIGEST_INFO.into(),
                };
                key.sign(scheme, digest(&SHA256, message).as_ref())
                    .expect("an RSA signature")
            }
            Pair::Ec(pair, _) => pair
                .sign(&random, message)
                .expect("an EC signature")
                .as_ref()
                .to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public half in the shape of Auth0's own key set: `x5t` is the base64url of 40 hexadecimal
    /// characters, which RFC 7517 does not allow and older tenants serve.
    pub fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Rsa(material) => {
                let thumbprint = digest(&SHA1_FOR_LEGACY_USE_ONLY, &material.certificate);
                json!({
                    "alg": "RS256",
                    "kty": "RSA",
                    "use": "sig",
                    "n": base64url(&material.modulus),
                    "e": base64url(&material.exponent),
                    "kid": self.kid,
                    "x5t": base64url(upper_hex(thumbprint.as_ref()).as_bytes()),
                    "x5c": [STANDARD.encode(&material.certificate)],
                })
            }
            Pair::WeakRsa(key) => json!({
                "alg": "RS256",
                "kty": "RSA",
                "use": "sig",
                "n": base64url(&key.n().to_bytes_be()),
                "e": base64url(&key.e().to_bytes_be()),
                "kid": self.kid,
            }),
            Pair::Ec(pair, algorithm) => {
                // An uncompressed point: one byte 0x04, then both coordinates.
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                json!({
                    "alg": algorithm.name(),
                    "kty": "EC",
                    "use": "sig",
                    "crv": if *algorithm == Algorithm::Es256 { "P-256" } else { "P-384" },
                    "x": base64url(x),
                    "y": base64url(y),
                    "kid": self.kid,
                })
            }
            Pair::Ed(pair) => json!({
                "alg": "EdDSA",
                "kty": "OKP",
                "use": "sig",
                "crv": "Ed25519",
                "x": base64url(pair.public_key().as_ref()),
                "kid": self.kid,
            }),
        }
    }
}

fn rsa_material(slot: usize) -> &'static RsaMaterial {
    static SLOTS: [OnceLock<RsaMaterial>; RSA_SLOTS] = [const { OnceLock::new() }; RSA_SLOTS];
    SLOTS[slot].get_or_init(|| {
        let key = RsaPrivateKey::new(&mut rand::rngs::OsRng, 2048).expect("an RSA key");
        let pkcs8 = key.to_pkcs8_der().expect("PKCS #8");
        let pair = RsaKeyPair::from_pkcs8(pkcs8.as_bytes()).expect("an RSA key that ring takes");
        let certificate_key = CertificateKey::from_pkcs8_der_and_sign_algo(
            &PrivatePkcs8KeyDer::from(pkcs8.as_bytes()),
            &rcgen::PKCS_RSA_SHA256,
        )
        .expect("a certificate key");
        let certificate = CertificateParams::new(vec!["your-tenant.example".to_owned()])
            .and_then(|params| params.self_signed(&certificate_key))
            .expect("a certificate");
        RsaMaterial {
            pair,
            modulus: key.n().to_bytes_be(),
            exponent: key.e().to_bytes_be(),
            certificate: certificate.der().to_vec(),
        }
    })
}

/// Base64url without padding, the encoding of everything in JOSE.
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn upper_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}

fn random_name() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("randomness");
    base64url(&bytes)
}
