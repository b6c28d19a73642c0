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

/// A claim as header text: the elements of an array with commas between them, and everything else as one
/// element. A comma stands nowhere else, so a string can never be taken for several elements.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Array(items) => {
            let elements: Vec<String> = items.iter().map(element).collect();
            Some(elements.join(","))
        }
        other => Some(element(other)),
    }
}

/// Strings as they are, and everything else as JSON. A string that begins like an object or an array has its
/// first byte encoded, so that it is not taken for one.
fn element(value: &Value) -> String {
    let Value::String(text) = value else {
        return encode(&value.to_string(), ",");
    };
    let (first, rest) = match (text.strip_prefix('{'), text.strip_prefix('[')) {
        (Some(rest), _) => ("%7B", rest),
        (_, Some(rest)) => ("%5B", rest),
        (None, None) => ("", text.as_str()),
    };
    format!("{first}{}", encode(rest, ","))
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
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::{Value, json};

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
            // A comma separates elements, and stands nowhere else.
            (json!("a,b"), Some("a%2Cb")),
            (json!(["a", "b"]), Some("a,b")),
            (json!(["a,b"]), Some("a%2Cb")),
            (json!(","), Some("%2C")),
            (json!(["", ""]), Some(",")),
            (json!("a%2Cb"), Some("a%252Cb")),
            (json!({"a": 1, "b": 2}), Some("{\"a\":1%2C\"b\":2}")),
            (json!(["{\"a\":1", "\"b\":2}"]), Some("%7B\"a\":1,\"b\":2}")),
            (json!([[1, 2]]), Some("[1%2C2]")),
            // No string is taken for JSON.
            (json!("{}"), Some("%7B}")),
            (json!({}), Some("{}")),
            (json!("[\"x\"]"), Some("%5B\"x\"]")),
            (json!([["x"]]), Some("[\"x\"]")),
            (json!(["[1]"]), Some("%5B1]")),
            (json!("a{b[c"), Some("a{b[c")),
            // What is one text, of whichever type, is one value: see the property.
            (json!(["a"]), Some("a")),
            (json!(""), Some("")),
            (json!("7"), Some("7")),
            (json!("true"), Some("true")),
        ] {
            assert_eq!(text_of(&claim).as_deref(), expected, "{claim}");
        }
    }

    /// What a reader makes of a claim who knows neither its type nor whether one element was a list.
    #[derive(Debug, PartialEq)]
    enum Part {
        Text(String),
        Json(String),
    }

    fn parts(value: &Value) -> Vec<Part> {
        let part = |value: &Value| match value {
            Value::String(text) => Part::Text(text.clone()),
            Value::Array(_) | Value::Object(_) => Part::Json(value.to_string()),
            other => Part::Text(other.to_string()),
        };
        match value {
            Value::Array(items) if items.is_empty() => vec![Part::Text(String::new())],
            Value::Array(items) => items.iter().map(part).collect(),
            other => vec![part(other)],
        }
    }

    /// Claims of few and awkward texts, so that two of them often come close to each other.
    fn claim() -> impl Strategy<Value = Value> {
        let text = vec(
            select(vec![
                "a", ",", "%", "2C", "{", "}", "[", "]", "\"", ":", "7", "true", " ", "\u{e9}",
            ]),
            0..5,
        );
        let text = text.prop_map(|texts| texts.concat());
        let scalar = prop_oneof![
            4 => text.clone().prop_map(Value::from),
            1 => select(vec![json!(7), json!(77), json!(7.5), json!(true), json!(false)]),
        ];
        let inner = prop_oneof![4 => scalar, 1 => Just(Value::Null)];
        let nested = inner.prop_recursive(2, 8, 3, move |inner| {
            prop_oneof![
                vec(inner.clone(), 0..4).prop_map(Value::from),
                vec((text.clone(), inner), 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        });
        nested.prop_filter("a claim that is there", |value| !value.is_null())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// S21. Two claims make one value only where their parts are the same texts: a list of one and its
        /// element, an empty list and an empty string, and a number or a boolean and its text.
        #[test]
        fn different_claims_make_different_values(one in claim(), other in claim()) {
            let text = text_of(&one).expect("a value");
            let pieces = |text: &str| text.split(',').map(Value::from).collect::<Vec<_>>();
            let near = [
                other,
                Value::from(text.as_str()),
                Value::from(decode(&text)),
                Value::from(pieces(&text)),
                Value::from(pieces(&decode(&text))),
                json!([one.clone()]),
                serde_json::from_str(&decode(&text)).unwrap_or(json!(7)),
            ];
            for other in near.into_iter().filter(|other| !other.is_null()) {
                let alike = Some(&text) == text_of(&other).as_ref();
                prop_assert_eq!(alike, parts(&one) == parts(&other), "{} and {}", one, other);
            }
        }

        /// A reader who splits at commas and decodes each element finds the parts again.
        #[test]
        fn elements_can_be_read_again(value in claim()) {
            let text = text_of(&value).expect("a value");
            let found: Vec<Part> = text
                .split(',')
                .map(|element| {
                    let decoded = decode(element);
                    match element.chars().next() {
                        Some('{' | '[') => Part::Json(decoded),
                        _ => Part::Text(decoded),
                    }
                })
                .collect();
            prop_assert_eq!(found, parts(&value), "{} as {}", value, text);
        }
    }

    fn decode(text: &str) -> String {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'%' {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                bytes.push(u8::from_str_radix(&digits, 16).expect("two digits"));
            } else {
                assert!(byte.is_ascii_graphic(), "{text:?}");
                bytes.push(byte);
            }
        }
        String::from_utf8(bytes).expect("UTF-8")
    }
}
