//! The JWS compact serialization (RFC 7515 §7.1): shape, header, signature, and only then a payload.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::base64url;
use super::json::{self, JsonError};
use super::jwk::{Key, MAX_KID_BYTES};
use crate::secret::Secret;

/// A token in compact form whose header was read and whose signature was not.
///
/// The payload cannot be reached from here: [`CompactJws::verify`] releases it.
#[derive(Debug)]
pub struct CompactJws<'t> {
    header: Arc<Header>,
    header_text: Secret<&'t str>,
    signing_input: Secret<&'t str>,
    payload: Secret<&'t str>,
    signature: Secret<Vec<u8>>,
}

/// The header members that decide how to verify. None of them is trusted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// `alg`: what the token claims to be signed with.
    pub algorithm: String,
    /// `kid`: which key the token claims to be signed with.
    pub kid: Option<String>,
    /// `typ`: what the token claims to be.
    pub typ: Option<String>,
}

/// A header that was read before, found again by its text. Tokens of one issuer nearly all have the same.
#[derive(Debug, Clone)]
pub struct KnownHeader {
    text: Secret<Box<str>>,
    header: Arc<Header>,
}

/// A payload whose signature holds.
#[derive(Debug)]
pub struct VerifiedPayload<'t> {
    encoded: Secret<&'t str>,
    bytes: Secret<Vec<u8>>,
}

/// Why a text is not an acceptable compact JWS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwsError {
    /// `crit` is there: an extension that must be understood, and none is (RFC 7515 §4.1.11).
    CriticalHeader,
    /// The header brings its own key or a link to one (`jwk`, `jku`, `x5c`, `x5u`).
    EmbeddedKey(&'static str),
    /// Five parts are a JWE (RFC 7516 §3.1), one part is an opaque token: neither can be verified here.
    EncryptedOrOpaque {
        /// How many dot-separated parts the token has.
        parts: usize,
    },
    /// One part, which is base64 of a token that has three.
    EncodedTwice,
    /// One part, which is a word that programs write where they have no value.
    NoValue(&'static str),
    /// A header member is missing or of the wrong type.
    HeaderMember(&'static str),
    /// The header is not a JSON object, or has duplicate members.
    HeaderNotJson(JsonError),
    /// A part is not canonical base64url.
    NotBase64Url(&'static str),
    /// Neither three, five nor one part.
    Parts(usize),
    /// No key verifies the signature.
    Signature,
}

impl fmt::Display for JwsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CriticalHeader => f.write_str("header has crit"),
            Self::EmbeddedKey(name) => write!(f, "header has {name}"),
            Self::EncodedTwice => f.write_str("it is base64 of a token, not the token itself"),
            Self::NoValue(word) => write!(f, "it is the word {word}, and no token"),
            Self::HeaderMember(name) => write!(f, "header member {name} is missing or malformed"),
            Self::HeaderNotJson(error) => write!(f, "header: {error}"),
            Self::NotBase64Url(part) => write!(f, "{part} is not canonical base64url"),
            Self::EncryptedOrOpaque { parts } | Self::Parts(parts) => {
                write!(f, "the number of dot-separated parts is {parts}")
            }
            Self::Signature => f.write_str("signature does not match"),
        }
    }
}

impl std::error::Error for JwsError {}

impl<'t> CompactJws<'t> {
    /// Splits a token and reads its header. The caller has bounded its length.
    ///
    /// # Errors
    ///
    /// [`JwsError`] names the part that is wrong.
    pub fn parse(token: &'t str) -> Result<Self, JwsError> {
        Self::parse_knowing(token, None)
    }

    /// The same with a header that is known. It spares the reading where the text is the same.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn parse_knowing(token: &'t str, known: Option<&KnownHeader>) -> Result<Self, JwsError> {
        let parts = Parts::of(token)?;
        if let Some(known) = known.filter(|known| **known.text.expose() == *parts.header) {
            return parts.with(Arc::clone(&known.header));
        }
        let header = Header::from_members(&parts.header_members()?)?;
        parts.with(Arc::new(header))
    }

    /// The same for a JWS that must bring its own key, and its `jwk`: what it proves is that its sender
    /// holds that key (RFC 9449 §4.2).
    ///
    /// # Errors
    ///
    /// The same.
    pub fn parse_with_jwk(token: &'t str) -> Result<(Self, Value), JwsError> {
        let parts = Parts::of(token)?;
        let mut members = parts.header_members()?;
        let key = members.remove("jwk").ok_or(JwsError::HeaderMember("jwk"))?;
        let header = Header::from_members(&members)?;
        Ok((parts.with(Arc::new(header))?, key))
    }

    /// The header, for reading the next token.
    #[must_use]
    pub fn known_header(&self) -> KnownHeader {
        KnownHeader {
            text: Secret::new((*self.header_text.expose()).into()),
            header: Arc::clone(&self.header),
        }
    }

    /// Whether a token with this header would be spared the reading by `known`.
    #[must_use]
    pub fn has_header(&self, known: &KnownHeader) -> bool {
        **known.text.expose() == **self.header_text.expose()
    }

    /// The header, for choosing keys.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The payload before any key has verified it; `None` where it is not canonical base64url. It proves nothing.
    #[must_use]
    pub fn unverified_payload(&self) -> Option<Secret<Vec<u8>>> {
        base64url::decode(self.payload.expose()).map(Secret::new)
    }

    /// Releases the payload if one of `keys` verifies the signature (RFC 7515 §5.2), with the place
    /// of that key. The caller chooses keys by the header and bounds their number.
    ///
    /// # Errors
    ///
    /// [`JwsError::Signature`] when none does, [`JwsError::NotBase64Url`] when the payload is not
    /// canonical base64url.
    pub fn verify<'k>(
        &self,
        keys: impl IntoIterator<Item = &'k Key>,
    ) -> Result<(VerifiedPayload<'t>, usize), JwsError> {
        let place = keys
            .into_iter()
            .position(|key| {
                Algorithm::from_name(&self.header.algorithm) == Some(key.algorithm())
                    && key.verifies(
                        self.signing_input.expose().as_bytes(),
                        self.signature.expose(),
                    )
            })
            .ok_or(JwsError::Signature)?;
        let bytes =
            base64url::decode(self.payload.expose()).ok_or(JwsError::NotBase64Url("payload"))?;
        let payload = VerifiedPayload {
            encoded: self.payload,
            bytes: Secret::new(bytes),
        };
        Ok((payload, place))
    }
}

/// A token taken apart at its dots.
struct Parts<'t> {
    header: &'t str,
    payload: &'t str,
    signing_input: &'t str,
    signature: &'t str,
}

impl<'t> Parts<'t> {
    fn of(token: &'t str) -> Result<Self, JwsError> {
        let dots = token.bytes().filter(|byte| *byte == b'.').count();
        let parts = dots.saturating_add(1);
        match parts {
            3 => {}
            1 => return Err(one_part(token)),
            5 => return Err(JwsError::EncryptedOrOpaque { parts }),
            _ => return Err(JwsError::Parts(parts)),
        }
        let (signing_input, signature) = token.rsplit_once('.').ok_or(JwsError::Parts(parts))?;
        let (header, payload) = signing_input
            .split_once('.')
            .ok_or(JwsError::Parts(parts))?;
        Ok(Self {
            header,
            payload,
            signing_input,
            signature,
        })
    }

    fn header_members(&self) -> Result<Map<String, Value>, JwsError> {
        let header = base64url::decode(self.header).ok_or(JwsError::NotBase64Url("header"))?;
        json::parse_object(&header).map_err(JwsError::HeaderNotJson)
    }

    fn with(self, header: Arc<Header>) -> Result<CompactJws<'t>, JwsError> {
        let signature =
            base64url::decode(self.signature).ok_or(JwsError::NotBase64Url("signature"))?;
        Ok(CompactJws {
            header,
            header_text: Secret::new(self.header),
            signing_input: Secret::new(self.signing_input),
            payload: Secret::new(self.payload),
            signature: Secret::new(signature),
        })
    }
}

/// Words that programs write in the place of a value that they do not have.
const NO_VALUES: [&str; 6] = ["undefined", "null", "none", "nil", "false", "token"];

/// What a text without dots is.
fn one_part(token: &str) -> JwsError {
    // How base64 of `eyJ` begins, which is how every token does.
    const TWICE: &str = "ZXlK";
    let mut words = NO_VALUES.into_iter();
    if let Some(word) = words.find(|word| token.eq_ignore_ascii_case(word)) {
        return JwsError::NoValue(word);
    }
    if token.starts_with(TWICE) {
        let decoded = base64url::decode_any(token);
        let parts = |text: &[u8]| text.split(|byte| *byte == b'.').count();
        if decoded.is_some_and(|text| parts(&text) == 3) {
            return JwsError::EncodedTwice;
        }
    }
    JwsError::EncryptedOrOpaque { parts: 1 }
}

impl VerifiedPayload<'_> {
    /// The payload bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.expose()
    }

    /// The payload as the token spells it: canonical base64url.
    #[must_use]
    pub const fn encoded(&self) -> &str {
        self.encoded.expose()
    }
}

impl Header {
    fn from_members(members: &Map<String, Value>) -> Result<Self, JwsError> {
        if members.contains_key("crit") {
            return Err(JwsError::CriticalHeader);
        }
        // RFC 8725 §3.10: a key that the token brings along proves nothing.
        for name in ["jwk", "jku", "x5c", "x5u"] {
            if members.contains_key(name) {
                return Err(JwsError::EmbeddedKey(name));
            }
        }
        // RFC 7797 §6: b64 counts only together with crit; alone it can only confuse.
        if members.contains_key("b64") {
            return Err(JwsError::HeaderMember("b64"));
        }
        let text = |name: &'static str| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(JwsError::HeaderMember(name)),
        };
        let kid = text("kid")?;
        if kid.as_ref().is_some_and(|kid| kid.len() > MAX_KID_BYTES) {
            return Err(JwsError::HeaderMember("kid"));
        }
        Ok(Self {
            algorithm: text("alg")?.ok_or(JwsError::HeaderMember("alg"))?,
            kid,
            typ: text("typ")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::base64url::encode;
    use super::{CompactJws, JwsError};

    fn parse_header(header: &str) -> Result<super::Header, JwsError> {
        let token = format!(
            "{}.{}.{}",
            encode(header.as_bytes()),
            encode(b"{}"),
            encode(b"s")
        );
        CompactJws::parse(&token).map(|jws| jws.header().clone())
    }

    #[test]
    fn a_known_header_changes_nothing() {
        let token = |header: &str, rest: &str| format!("{}.{rest}", encode(header.as_bytes()));
        let good = r#"{"alg":"RS256","kid":"a"}"#;
        let known = token(good, "e30.c2ln");
        let known = CompactJws::parse(&known).expect("well-formed");
        for (header, rest) in [
            (good, "e30.c2ln"),
            (good, "e30.c2lnc2ln"),
            (good, "e30.c"),
            (good, "e30"),
            (good, "e30.e30.c2ln"),
            (r#"{"alg":"RS256","kid":"b"}"#, "e30.c2ln"),
            (r#"{"alg":"RS256","kid":"a"} "#, "e30.c2ln"),
            (r#"{"alg":"none","kid":"a"}"#, "e30."),
            (r#"{"alg":"RS256","kid":"a","crit":[]}"#, "e30.c2ln"),
            ("", "e30.c2ln"),
        ] {
            let token = token(header, rest);
            let read = |jws: Result<CompactJws<'_>, JwsError>| {
                jws.map(|jws| (jws.header().clone(), jws.signature))
            };
            assert_eq!(
                read(CompactJws::parse_knowing(
                    &token,
                    Some(&known.known_header())
                )),
                read(CompactJws::parse(&token)),
                "{header} {rest}"
            );
        }
    }

    #[test]
    fn the_shape_is_three_canonical_parts() {
        let header = encode(br#"{"alg":"RS256"}"#);
        for (token, expected) in [
            (format!("{header}.e30"), JwsError::Parts(2)),
            (format!("{header}.e30.c2ln.c2ln"), JwsError::Parts(4)),
            (format!("{header}.e30.c2ln."), JwsError::Parts(4)),
            (
                format!("{header}.a.b.c.d"),
                JwsError::EncryptedOrOpaque { parts: 5 },
            ),
            (
                "opaqueopaqueopaqueopaqueopaque32".to_owned(),
                JwsError::EncryptedOrOpaque { parts: 1 },
            ),
            (String::new(), JwsError::EncryptedOrOpaque { parts: 1 }),
            ("undefined".to_owned(), JwsError::NoValue("undefined")),
            ("NULL".to_owned(), JwsError::NoValue("null")),
            ("nullx".to_owned(), JwsError::EncryptedOrOpaque { parts: 1 }),
            // btoa("eyJ.a.b"), with padding and without; without dots; and broken off.
            ("ZXlKLmEuYg==".to_owned(), JwsError::EncodedTwice),
            ("ZXlKLmEuYg".to_owned(), JwsError::EncodedTwice),
            (
                "ZXlKYWI=".to_owned(),
                JwsError::EncryptedOrOpaque { parts: 1 },
            ),
            ("ZXlKL".to_owned(), JwsError::EncryptedOrOpaque { parts: 1 }),
            (
                format!("{header}=.e30.c2ln"),
                JwsError::NotBase64Url("header"),
            ),
            (
                format!("{header}.e30.c2ln="),
                JwsError::NotBase64Url("signature"),
            ),
            (
                format!("{header}.e30.c2l"),
                JwsError::NotBase64Url("signature"),
            ),
            (
                format!("{header}.e30.c2ln\n"),
                JwsError::NotBase64Url("signature"),
            ),
            (
                format!(" {header}.e30.c2ln"),
                JwsError::NotBase64Url("header"),
            ),
            (
                format!("{header}.e30.+/+/"),
                JwsError::NotBase64Url("signature"),
            ),
        ] {
            assert_eq!(CompactJws::parse(&token).err(), Some(expected), "{token}");
        }
    }

    #[test]
    fn a_bad_header_is_refused() {
        for (header, expected) in [
            (
                r#"{"alg":"RS256","crit":["exp"]}"#,
                JwsError::CriticalHeader,
            ),
            (r#"{"alg":"RS256","crit":[]}"#, JwsError::CriticalHeader),
            (
                r#"{"alg":"RS256","b64":false}"#,
                JwsError::HeaderMember("b64"),
            ),
            (r#"{"alg":"RS256","jwk":{}}"#, JwsError::EmbeddedKey("jwk")),
            (
                r#"{"alg":"RS256","jku":"https://evil.example/"}"#,
                JwsError::EmbeddedKey("jku"),
            ),
            (r#"{"alg":"RS256","x5c":[]}"#, JwsError::EmbeddedKey("x5c")),
            (r#"{"alg":"RS256","x5u":""}"#, JwsError::EmbeddedKey("x5u")),
            ("{}", JwsError::HeaderMember("alg")),
            (r#"{"alg":1}"#, JwsError::HeaderMember("alg")),
            (r#"{"alg":null}"#, JwsError::HeaderMember("alg")),
            (r#"{"alg":"RS256","kid":7}"#, JwsError::HeaderMember("kid")),
            (r#"{"alg":"RS256","typ":[]}"#, JwsError::HeaderMember("typ")),
        ] {
            assert_eq!(parse_header(header), Err(expected), "{header}");
        }
        let long_kid = format!(r#"{{"alg":"RS256","kid":"{}"}}"#, "k".repeat(257));
        assert_eq!(parse_header(&long_kid), Err(JwsError::HeaderMember("kid")));
        for header in ["[]", "x", r#"{"alg":"RS256","alg":"none"}"#] {
            assert!(
                matches!(parse_header(header), Err(JwsError::HeaderNotJson(_))),
                "{header}"
            );
        }
    }
}
