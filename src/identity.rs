//! Who is asking, as the upstream is told: headers made from a verified token and from nothing else.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use serde_json::Value;

use crate::claims::ClaimPath;
use crate::token::{Binding, FreshProof, VerifiedToken};

/// `[identity]`: which claim goes into which header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentitySettings {
    /// Gets `sub`.
    pub subject_header: HeaderName,
    /// Gets the whole payload, base64url.
    pub claims_header: Option<HeaderName>,
    /// Get one claim each.
    pub headers: Vec<(HeaderName, ClaimPath)>,
    /// Whether the upstream gets the token itself.
    pub forward_authorization: bool,
}

/// A verified token with the headers that speak for it. They are made once and serve every request
/// that carries the token. Who holds one has also seen the proof that the token needs, if it needs one.
pub struct Identity {
    token: VerifiedToken,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What a verified token is worth by itself.
#[derive(Debug)]
pub enum Credential {
    /// An identity, for whoever holds the token.
    Bearer(Arc<Identity>),
    /// An identity for those who also hold the key that the token is bound to.
    Bound(BoundIdentity),
}

/// An identity that is released for a proof, request by request.
#[derive(Debug)]
pub struct BoundIdentity {
    binding: Binding,
    identity: Arc<Identity>,
}

impl IdentitySettings {
    /// Makes the headers for a token. A claim that is absent gets no header.
    #[must_use]
    pub fn identify(&self, token: VerifiedToken) -> Credential {
        let subject = Some((self.subject_header.clone(), encode(token.subject(), "")));
        let claims = self
            .claims_header
            .clone()
            .map(|name| (name, token.payload().to_owned()));
        let mapped = self.headers.iter().filter_map(|(name, claim)| {
            let value = token.claims().lookup(claim).ok().flatten()?;
            Some((name.clone(), text_of(value)?))
        });
        let headers = subject
            .into_iter()
            .chain(claims)
            .chain(mapped)
            // Encoded text is visible ASCII, so this never drops one.
            .filter_map(|(name, text)| Some((name, HeaderValue::try_from(text).ok()?)))
            .collect();
        let binding = token.binding().cloned();
        let identity = Arc::new(Identity { token, headers });
        match binding {
            None => Credential::Bearer(identity),
            Some(binding) => Credential::Bound(BoundIdentity { binding, identity }),
        }
    }

    /// The names that only these headers may bear.
    pub fn names(&self) -> impl Iterator<Item = &HeaderName> {
        std::iter::once(&self.subject_header)
            .chain(&self.claims_header)
            .chain(self.headers.iter().map(|(name, _)| name))
    }
}

impl Credential {
    /// The token, for looking at.
    #[must_use]
    pub fn token(&self) -> &VerifiedToken {
        match self {
            Self::Bearer(identity) => identity.token(),
            Self::Bound(bound) => bound.identity.token(),
        }
    }

    /// The identity that the token alone is worth; `None` when it is bound.
    #[must_use]
    pub fn bearer(self) -> Option<Arc<Identity>> {
        match self {
            Self::Bearer(identity) => Some(identity),
            Self::Bound(_) => None,
        }
    }
}

impl BoundIdentity {
    /// What a proof must be for.
    #[must_use]
    pub const fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The identity, for a proof that holds, that was never used before, and that is for this token;
    /// `None` for one that is for another.
    #[must_use]
    pub fn release(&self, proof: &FreshProof<'_>) -> Option<Arc<Identity>> {
        let is_ours = proof.proof().is_for(&self.binding);
        is_ours.then(|| Arc::clone(&self.identity))
    }
}

impl Identity {
    /// The token.
    #[must_use]
    pub const fn token(&self) -> &VerifiedToken {
        &self.token
    }

    /// The headers, each name once.
    #[must_use]
    pub fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }
}

impl fmt::Debug for Identity {
    /// The names of the headers only: one of the values may be the payload of the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&HeaderName> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Identity")
            .field("token", &self.token)
            .field("headers", &names)
            .finish()
    }
}

/// A claim as header text: strings as they are, arrays joined by commas, objects as JSON.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(encode(text, "")),
        Value::Array(items) => {
            let parts: Vec<String> = items
                .iter()
                .map(|item| match item {
                    // A comma inside an element must not make two of it.
                    Value::String(text) => encode(text, ","),
                    other => encode(&other.to_string(), ","),
                })
                .collect();
            Some(parts.join(","))
        }
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            Some(encode(&value.to_string(), ""))
        }
    }
}

/// Percent-encodes every byte that is not visible ASCII, `%` itself, and what `also` holds. No line
/// break can come out of it.
fn encode(text: &str, also: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' && !also.as_bytes().contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::{encode, text_of};
    use serde_json::json;

    #[test]
    fn subjects_of_every_shape_are_safe_in_a_header() {
        for (sub, expected) in [
            (
                "auth0|507f1f77bcf86cd799439020",
                "auth0|507f1f77bcf86cd799439020",
            ),
            ("abc@clients", "abc@clients"),
            ("samlp|corp|Ana Mar\u{ed}a", "samlp|corp|Ana%20Mar%C3%ADa"),
            ("100%", "100%25"),
            ("a\r\nx-admin: 1", "a%0D%0Ax-admin:%201"),
            ("nul\0", "nul%00"),
            ("tab\t", "tab%09"),
            ("\u{7f}", "%7F"),
        ] {
            assert_eq!(encode(sub, ""), expected, "{sub:?}");
        }
    }

    #[test]
    fn claims_of_every_type() {
        for (claim, expected) in [
            (json!("org_1"), Some("org_1")),
            (json!(["a", "b c", "d,e"]), Some("a,b%20c,d%2Ce")),
            (json!([]), Some("")),
            (json!([1, true, null, ["x"]]), Some("1,true,null,[\"x\"]")),
            (json!(7), Some("7")),
            (json!(1.5), Some("1.5")),
            (json!(false), Some("false")),
            (json!({"k": "v w"}), Some("{\"k\":\"v%20w\"}")),
            (json!(null), None),
        ] {
            assert_eq!(text_of(&claim).as_deref(), expected, "{claim}");
        }
    }
}
