//! Minting: every kind of access token that Auth0 issues, and every way to spoil one.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};

use super::keys::{Algorithm, SigningKey, base64url};
use super::secrets;

/// The API identifier that tokens are minted for unless told otherwise.
pub const AUDIENCE: &str = "https://your-api.com";

/// The application that asks for tokens.
pub const CLIENT: &str = "XyZ0aBcD1eFgH2iJkL3mNoP4qRsT5uVw";

/// Auth0's four token profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    AccessToken,
    AccessTokenAuthz,
    Rfc9068,
    Rfc9068Authz,
}

impl Dialect {
    pub const ALL: [Self; 4] = [
        Self::AccessToken,
        Self::AccessTokenAuthz,
        Self::Rfc9068,
        Self::Rfc9068Authz,
    ];

    fn is_rfc9068(self) -> bool {
        matches!(self, Self::Rfc9068 | Self::Rfc9068Authz)
    }

    fn has_permissions(self) -> bool {
        matches!(self, Self::AccessTokenAuthz | Self::Rfc9068Authz)
    }
}

enum Signature {
    Genuine,
    Bytes(Vec<u8>),
}

/// A token under construction.
pub struct Mint {
    key: Arc<SigningKey>,
    algorithm: Algorithm,
    header: Map<String, Value>,
    claims: Map<String, Value>,
    raw_header: Option<Vec<u8>>,
    raw_payload: Option<Vec<u8>>,
    signature: Signature,
}

impl Mint {
    /// A token of a person who has logged in, in Auth0's default profile.
    pub fn user(key: &Arc<SigningKey>, issuer: &str, subject: &str) -> Self {
        let now = now();
        let claims = json!({
            "iss": issuer,
            "sub": subject,
            "aud": [AUDIENCE, format!("{issuer}userinfo")],
            "iat": now,
            "exp": now + 3600,
            "scope": "openid profile email",
            "azp": CLIENT,
        });
        let algorithm = key.default_algorithm();
        let header = json!({ "alg": algorithm.name(), "typ": "JWT", "kid": key.kid() });
        Self {
            key: Arc::clone(key),
            algorithm,
            header: members(header),
            claims: members(claims),
            raw_header: None,
            raw_payload: None,
            signature: Signature::Genuine,
        }
    }

    /// A token of a machine-to-machine application.
    pub fn machine(key: &Arc<SigningKey>, issuer: &str, client: &str) -> Self {
        Self::user(key, issuer, &format!("{client}@clients"))
            .claim("aud", AUDIENCE)
            .claim("azp", client)
            .claim("gty", "client-credentials")
            .without("scope")
    }

    /// Rewrites the token into another of Auth0's profiles.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        if dialect.is_rfc9068() {
            self.header.insert("typ".to_owned(), json!("at+jwt"));
            if let Some(client) = self.claims.remove("azp") {
                self.claims.insert("client_id".to_owned(), client);
            }
            self.claims
                .insert("jti".to_owned(), json!(format!("jti-{}", now())));
            self.claims.remove("gty");
        }
        if dialect.has_permissions() {
            self.claims.insert(
                "permissions".to_owned(),
                json!(["read:agents", "write:workflows"]),
            );
        }
        self
    }

    /// The member of an organization.
    pub fn organization(self, id: &str, name: &str) -> Self {
        self.claim("org_id", id).claim("org_name", name)
    }

    /// Sets a claim, whatever was there.
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Removes a claim.
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets a header parameter, whatever was there. It does not change what signs the token.
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// Removes a header parameter.
    pub fn without_header(mut self, name: &str) -> Self {
        self.header.remove(name);
        self
    }

    /// Ends the token so many seconds from this moment; a negative number has ended it already.
    pub fn expires_in(self, seconds: i64) -> Self {
        self.claim("exp", now() + seconds)
    }

    /// Dates the token so many seconds into the past.
    pub fn issued_ago(self, seconds: i64) -> Self {
        self.claim("iat", now() - seconds)
    }

    /// Signs with `key` and names it, with the algorithm that comes naturally to it.
    pub fn key(mut self, key: &Arc<SigningKey>) -> Self {
        self.key = Arc::clone(key);
        let kid = key.kid().to_owned();
        self.algorithm(key.default_algorithm()).header("kid", kid)
    }

    /// Signs with `key` and names whatever was named, as a forger would.
    pub fn forged_with(mut self, key: &Arc<SigningKey>) -> Self {
        self.key = Arc::clone(key);
        self.algorithm = key.default_algorithm();
        self
    }

    /// Signs with another algorithm and says so in the header.
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self.header("alg", algorithm.name())
    }

    /// Puts these bytes where the header goes, correctly signed.
    pub fn raw_header(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.raw_header = Some(bytes.into());
        self
    }

    /// Puts these bytes where the claims go, correctly signed.
    pub fn raw_payload(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.raw_payload = Some(bytes.into());
        self
    }

    /// Puts these bytes where the signature goes.
    pub fn signature(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.signature = Signature::Bytes(bytes.into());
        self
    }

    /// The claims as they stand, for a test that edits their text.
    pub fn payload_text(&self) -> String {
        Value::Object(self.claims.clone()).to_string()
    }

    /// The header as it stands, for a test that edits its text.
    pub fn header_text(&self) -> String {
        Value::Object(self.header.clone()).to_string()
    }

    /// The finished token. It is noted as a secret that no log may contain.
    pub fn mint(&self) -> String {
        let header = self
            .raw_header
            .clone()
            .unwrap_or_else(|| self.header_text().into_bytes());
        let payload = self
            .raw_payload
            .clone()
            .unwrap_or_else(|| self.payload_text().into_bytes());
        let input = format!("{}.{}", base64url(&header), base64url(&payload));
        let signature = match &self.signature {
            Signature::Genuine => self.key.sign(self.algorithm, input.as_bytes()),
            Signature::Bytes(bytes) => bytes.clone(),
        };
        let token = format!("{input}.{}", base64url(&signature));
        secrets::note_token(&token);
        token
    }
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let elapsed = UNIX_EPOCH.elapsed().expect("a clock after 1970");
    i64::try_from(elapsed.as_secs()).expect("a clock before the end of time")
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => panic!("not an object: {other}"),
    }
}
