//! Keys and tokens made for a test, byte by byte: nothing here refuses to build a wrong one.

use std::sync::{Arc, OnceLock};

use authgate::clock::UnixTime;
use authgate::identity::{Identity, IdentitySettings};
use authgate::jose::{Algorithm, KeySet};
use authgate::token::{
    IssuerKeys, Keyring, Rejection, TypPolicy, VerifiedToken, Verifier, VerifierSettings,
    VerifyError, bearer_token,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use ring::rand::SystemRandom;
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair,
};
use rsa::RsaPrivateKey;
use rsa::pkcs8::EncodePrivateKey as _;
use rsa::traits::PublicKeyParts as _;
use serde_json::{Map, Value, json};

/// The issuer that every test trusts.
pub const ISSUER: &str = "https://tenant.us.auth0.com/";

/// A second issuer with keys of its own.
pub const OTHER_ISSUER: &str = "https://login.example.com/";

/// The API identifier that tokens are made for.
pub const AUDIENCE: &str = "https://your-api.com";

/// The moment of every check that does not say otherwise, in seconds.
pub const NOW: u64 = 1_800_000_000;

/// In [`edited`], removes a member.
pub const ABSENT: &str = "\u{1}absent";

/// A key pair and the public members of its JWK, without `kid`, `alg` and `use`.
pub struct Signer {
    pair: Pair,
    public: Value,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    /// A fresh RSA key of 2048 bits.
    pub fn rsa() -> Self {
        let key = RsaPrivateKey::new(&mut rand::thread_rng(), 2048).expect("an RSA key");
        let der = key.to_pkcs8_der().expect("PKCS#8");
        Self {
            pair: Pair::Rsa(RsaKeyPair::from_pkcs8(der.as_bytes()).expect("ring reads it")),
            public: json!({
                "kty": "RSA",
                "n": base64url(&key.n().to_bytes_be()),
                "e": base64url(&key.e().to_bytes_be()),
            }),
        }
    }

    /// A fresh key on P-256.
    pub fn p256() -> Self {
        Self::ec(&ECDSA_P256_SHA256_FIXED_SIGNING, "P-256")
    }

    /// A fresh key on P-384.
    pub fn p384() -> Self {
        Self::ec(&ECDSA_P384_SHA384_FIXED_SIGNING, "P-384")
    }

    fn ec(algorithm: &'static EcdsaSigningAlgorithm, curve: &str) -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("an EC key");
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random)
            .expect("ring reads its own");
        let point = pair.public_key().as_ref()[1..].to_vec();
        let (x, y) = point.split_at(point.len() / 2);
        let public = json!({"kty":"EC","crv":curve,"x":base64url(x),"y":base64url(y)});
        Self {
            pair: Pair::Ec(pair),
            public,
        }
    }

    /// A fresh Ed25519 key, which costs nothing to make.
    pub fn ed25519() -> Self {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("an Ed25519 key");
        let pair = Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("ring reads its own");
        let public = json!({
            "kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref()),
        });
        Self {
            pair: Pair::Ed(pair),
            public,
        }
    }

    /// The bare public members.
    pub const fn public(&self) -> &Value {
        &self.public
    }

    /// The JWK as Auth0 publishes it, with these members set or, by [`ABSENT`], removed.
    pub fn jwk(&self, changes: &Value) -> Value {
        edited(&edited(&self.public, &json!({"use":"sig"})), changes)
    }

    /// Signs with the algorithm of this name. Its fit to the key is the caller's business.
    pub fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let encoding: &dyn RsaEncoding = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    "PS512" => &signature::RSA_PSS_SHA512,
                    other => panic!("{other} is no RSA algorithm"),
                };
                let mut bytes = vec![0; pair.public().modulus_len()];
                pair.sign(encoding, &random, message, &mut bytes)
                    .expect("a signature");
                bytes
            }
            Pair::Ec(pair) => pair
                .sign(&random, message)
                .expect("a signature")
                .as_ref()
                .to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The RSA pair, for encodings of its public half.
    pub fn rsa_pair(&self) -> &RsaKeyPair {
        match &self.pair {
            Pair::Rsa(pair) => pair,
            Pair::Ec(_) | Pair::Ed(_) => panic!("not an RSA key"),
        }
    }
}

/// The first tenant's RSA key. Making one takes a second, so the tests share it.
pub fn tenant() -> &'static Signer {
    static KEY: OnceLock<Signer> = OnceLock::new();
    KEY.get_or_init(Signer::rsa)
}

/// Another RSA key: another issuer's, or an attacker's.
pub fn stranger() -> &'static Signer {
    static KEY: OnceLock<Signer> = OnceLock::new();
    KEY.get_or_init(Signer::rsa)
}

/// A token before it is signed. Header and payload are bytes, so that they can be anything.
#[derive(Clone)]
pub struct Draft {
    pub header: Vec<u8>,
    pub payload: Vec<u8>,
    pub algorithm: String,
}

impl Draft {
    /// A user's token in Auth0's default dialect, with these changes.
    pub fn new(header: &Value, claims: &Value) -> Self {
        let header = edited(&default_header(), header);
        let algorithm = header
            .get("alg")
            .and_then(Value::as_str)
            .unwrap_or("RS256")
            .to_owned();
        Self {
            header: header.to_string().into_bytes(),
            payload: edited(&default_claims(), claims).to_string().into_bytes(),
            algorithm,
        }
    }

    /// Signs with an algorithm other than the one that the header names.
    pub fn signed_as(mut self, algorithm: &str) -> Self {
        algorithm.clone_into(&mut self.algorithm);
        self
    }

    /// Header bytes that need not be JSON.
    pub fn raw_header(mut self, header: impl Into<Vec<u8>>) -> Self {
        self.header = header.into();
        self
    }

    /// Payload bytes that need not be JSON.
    pub fn raw_payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// The two parts that are signed.
    pub fn signing_input(&self) -> String {
        format!("{}.{}", base64url(&self.header), base64url(&self.payload))
    }

    /// The token.
    pub fn sign(&self, signer: &Signer) -> String {
        sign_text(&self.signing_input(), signer, &self.algorithm)
    }
}

/// A token over exactly these two parts.
pub fn sign_text(signing_input: &str, signer: &Signer, algorithm: &str) -> String {
    let signature = signer.sign(algorithm, signing_input.as_bytes());
    format!("{signing_input}.{}", base64url(&signature))
}

/// A tenant's token with these claims changed.
pub fn with_claims(claims: &Value) -> String {
    Draft::new(&json!({}), claims).sign(tenant())
}

/// A tenant's token with these header members changed.
pub fn with_header(header: &Value) -> String {
    Draft::new(header, &json!({}))
        .signed_as("RS256")
        .sign(tenant())
}

pub fn default_header() -> Value {
    json!({"alg":"RS256","typ":"JWT","kid":"k1"})
}

pub fn default_claims() -> Value {
    json!({
        "iss": ISSUER,
        "sub": "auth0|123456",
        "aud": [AUDIENCE, format!("{ISSUER}userinfo")],
        "iat": NOW - 60,
        "exp": NOW + 86_340,
        "scope": "openid profile read:agents",
        "azp": "XyZ0aBcD1eFgH2iJkL3mNoP4qRsT5uVw",
    })
}

/// A copy in which `changes` are set, and those that are [`ABSENT`] are removed.
pub fn edited(base: &Value, changes: &Value) -> Value {
    let mut members = object(base).clone();
    for (name, value) in object(changes) {
        if value == ABSENT {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    Value::Object(members)
}

/// A copy in which `changes` are set; [`ABSENT`] stays, for a later [`edited`].
pub fn overlaid(base: &Value, changes: &Value) -> Value {
    let mut members = object(base).clone();
    members.extend(object(changes).clone());
    Value::Object(members)
}

pub fn object(value: &Value) -> &Map<String, Value> {
    value.as_object().expect("a JSON object")
}

pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The same bytes spelled with a set trailing bit, which a canonical reader refuses.
pub fn non_canonical(text: &str) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    assert!(
        matches!(text.len() % 4, 2 | 3),
        "no unused bits in {text:?}"
    );
    let last = text.as_bytes()[text.len() - 1];
    let place = ALPHABET
        .iter()
        .position(|byte| *byte == last)
        .expect("base64url");
    format!(
        "{}{}",
        &text[..text.len() - 1],
        char::from(ALPHABET[place + 1])
    )
}

/// What a configuration with Auth0's defaults asks for.
pub fn settings() -> VerifierSettings {
    VerifierSettings {
        algorithms: vec![Algorithm::Rs256],
        audiences: vec![AUDIENCE.to_owned()],
        clock_tolerance: std::time::Duration::from_secs(5),
        max_token_age: None,
        typ: TypPolicy::Any,
        allow_anonymous: false,
        bound_tokens: false,
        max_token_bytes: 16 * 1024,
    }
}

/// The keys that a JWK Set of these keys leaves usable.
pub fn key_set(keys: &[Value], allowed: &[Algorithm]) -> KeySet {
    let document = json!({ "keys": keys }).to_string();
    KeySet::parse(document.as_bytes(), allowed)
        .expect("a JWK Set")
        .0
}

/// One issuer's keys; an empty list stands for keys that could not be had.
pub fn issuer(name: &str, keys: &[Value], allowed: &[Algorithm]) -> IssuerKeys {
    IssuerKeys {
        issuer: name.to_owned(),
        keys: (!keys.is_empty()).then(|| key_set(keys, allowed)),
    }
}

/// The tenant with its one key, `k1`.
pub fn keyring() -> Keyring {
    let keys = [tenant().jwk(&json!({"kid":"k1","alg":"RS256"}))];
    Keyring::new(vec![issuer(ISSUER, &keys, &[Algorithm::Rs256])], 1)
}

/// What becomes of a token, from its header line to its claims.
#[derive(Debug)]
pub enum Verdict {
    Accepted(Box<VerifiedToken>),
    KeysUnavailable,
    NoToken,
    NotAHeader,
    NotOneToken,
    Rejected(Rejection),
    UnknownKey,
}

impl Verdict {
    /// One word for a table.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::KeysUnavailable => "keys_unavailable",
            Self::NoToken => "no_token",
            Self::NotAHeader => "not_a_header",
            Self::NotOneToken => "authorization_malformed",
            Self::Rejected(rejection) => rejection.code(),
            Self::UnknownKey => "unknown_key",
        }
    }
}

/// Puts a token through everything that stands between a header line and its claims.
pub fn judge(verifier: &Verifier, keyring: &Keyring, token: &str, now: UnixTime) -> Verdict {
    let Ok(line) = HeaderValue::from_str(&format!("Bearer {token}")) else {
        return Verdict::NotAHeader;
    };
    let headers = HeaderMap::from_iter([(AUTHORIZATION, line)]);
    let bearer = match bearer_token(&headers) {
        Ok(Some(bearer)) => bearer,
        Ok(None) => return Verdict::NoToken,
        Err(_) => return Verdict::NotOneToken,
    };
    let unverified = match verifier.read(bearer) {
        Ok(unverified) => unverified,
        Err(rejection) => return Verdict::Rejected(rejection),
    };
    match verifier.verify(&unverified, keyring, now) {
        Ok(token) => Verdict::Accepted(Box::new(token)),
        Err(VerifyError::KeysUnavailable) => Verdict::KeysUnavailable,
        Err(VerifyError::Rejected(rejection)) => Verdict::Rejected(rejection),
        Err(VerifyError::UnknownKey) => Verdict::UnknownKey,
    }
}

/// A caller with these claims in a token that was verified.
pub fn identity(claims: &Value) -> Arc<Identity> {
    let settings = IdentitySettings {
        subject_header: HeaderName::from_static("x-forwarded-user"),
        claims_header: None,
        headers: vec![],
        forward_authorization: false,
    };
    let credential = settings.identify(verified(claims));
    credential.bearer().expect("bound to nothing")
}

/// A verified token with these claims, signed by a key made for it alone.
pub fn verified(claims: &Value) -> VerifiedToken {
    let signer = Signer::ed25519();
    let allowed = [Algorithm::EdDsa];
    let keys = [signer.jwk(&json!({"kid":"k1","alg":"EdDSA"}))];
    let keyring = Keyring::new(vec![issuer(ISSUER, &keys, &allowed)], 1);
    let verifier = Verifier::new(VerifierSettings {
        algorithms: allowed.to_vec(),
        allow_anonymous: true,
        ..settings()
    });
    let token = Draft::new(&json!({"alg":"EdDSA"}), claims).sign(&signer);
    match judge(&verifier, &keyring, &token, UnixTime::from_secs(NOW)) {
        Verdict::Accepted(token) => *token,
        other => panic!("{claims}: {other:?}"),
    }
}
