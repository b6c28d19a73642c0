//! Every way in which a token can be refused.

use std::fmt;

use crate::claims::WrongType;
use crate::jose::{JsonError, JwsError};

/// Why a token is refused. `Display` is for the log and holds what was found; the client gets
/// [`Rejection::description`], which holds none of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Rejection {
    /// The subject is an Auth0 anonymous session and those are not allowed.
    Anonymous,
    /// `alg` is not allowed, or is not the one the key is bound to.
    AlgorithmNotAllowed {
        /// Those that would do.
        expected: String,
        /// What the token names.
        found: String,
    },
    /// `exp` is over.
    Expired {
        /// The claim, in seconds since 1970.
        exp: f64,
        /// The time of the check.
        now: f64,
    },
    /// The token is larger than `limits.token_bytes`.
    TooLarge {
        /// Its length in bytes.
        length: usize,
    },
    /// The compact serialization or its header is wrong, or the signature does not hold.
    Jws(JwsError),
    /// A claim has a type or form that it must not have.
    MalformedClaim {
        /// The claim.
        claim: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A claim that must be there is not.
    MissingClaim {
        /// The claim.
        claim: &'static str,
    },
    /// The token is bound to no key, and was presented as if it were, or has to be.
    NotBound,
    /// `nbf`, or `iat`, lies in the future.
    NotYetValid {
        /// Which of the two.
        claim: &'static str,
        /// The claim, in seconds since 1970.
        value: f64,
        /// The time of the check.
        now: f64,
    },
    /// The payload is not a JSON object, or has duplicate members.
    PayloadNotJson(JsonError),
    /// The token is bound to a key (`cnf.jkt`), and was presented as a bearer token.
    NoProof,
    /// The token is bound to a key of the client's (`cnf`), and that binding is not enforced here.
    SenderConstrained,
    /// `iat` is further back than `auth0.max_token_age`.
    TooOld {
        /// The claim, in seconds since 1970.
        iat: f64,
        /// The time of the check.
        now: f64,
        /// The setting, in seconds.
        max_age: f64,
    },
    /// `typ` says that this is no access token.
    TypeNotAllowed {
        /// What it should say.
        expected: &'static str,
        /// What the token says, if anything.
        found: Option<String>,
    },
    /// No key that this token may be signed with is known.
    UnknownKey {
        /// The key id that the token names.
        kid: Option<String>,
    },
    /// `aud` names none of the configured audiences.
    WrongAudience {
        /// Of which it should name one.
        expected: Vec<String>,
        /// What the token names.
        found: Vec<String>,
    },
    /// `iss` is not the issuer whose key signed the token.
    WrongIssuer {
        /// What it must be.
        expected: String,
        /// What the token says.
        found: String,
    },
}

impl Rejection {
    /// The stable code of this refusal, for clients, logs and `docs/responses.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Anonymous => "token_anonymous",
            Self::AlgorithmNotAllowed { .. } => "token_algorithm_not_allowed",
            Self::Expired { .. } => "token_expired",
            Self::TooLarge { .. } => "token_too_large",
            Self::Jws(error) => match error {
                JwsError::CriticalHeader => "token_critical_header",
                JwsError::EmbeddedKey(_) => "token_embedded_key",
                JwsError::EncodedTwice
                | JwsError::EncryptedOrOpaque { .. }
                | JwsError::NoValue(_) => "token_encrypted_or_opaque",
                JwsError::Signature => "token_signature_invalid",
                JwsError::HeaderMember(_)
                | JwsError::HeaderNotJson(_)
                | JwsError::NotBase64Url(_)
                | JwsError::Parts(_) => "token_malformed",
            },
            Self::MalformedClaim { .. } => "token_malformed_claim",
            Self::MissingClaim { .. } => "token_missing_claim",
            Self::NotYetValid { .. } => "token_not_yet_valid",
            Self::PayloadNotJson(_) => "token_malformed",
            Self::NoProof => "token_requires_dpop",
            Self::NotBound => "token_not_bound",
            Self::SenderConstrained => "token_sender_constrained",
            Self::TooOld { .. } => "token_too_old",
            Self::TypeNotAllowed { .. } => "token_type_not_allowed",
            Self::UnknownKey { .. } => "token_unknown_key",
            Self::WrongAudience { .. } => "token_wrong_audience",
            Self::WrongIssuer { .. } => "token_wrong_issuer",
        }
    }

    /// What the client is told: a fixed text without any value, fit for `error_description`
    /// (RFC 6750 §3: no quotes, no backslashes).
    #[must_use]
    pub const fn description(&self) -> &'static str {
        match self {
            Self::Anonymous => "Tokens of anonymous sessions are not accepted here",
            Self::AlgorithmNotAllowed { .. } => {
                "The token is signed with an algorithm that is not allowed"
            }
            Self::Expired { .. } => "The token has expired",
            Self::TooLarge { .. } => "The token is too large",
            Self::Jws(error) => match error {
                JwsError::CriticalHeader => "The token uses a critical header extension",
                JwsError::EmbeddedKey(_) => "The token brings its own key",
                JwsError::EncryptedOrOpaque { .. } => {
                    "The token is encrypted or opaque, not a signed JWT: request the token with audience= set to this API"
                }
                JwsError::EncodedTwice => {
                    "The token is encoded once more in base64: send it as Auth0 gave it"
                }
                JwsError::NoValue(_) => {
                    "The client sent a word such as undefined or null in the place of a token: it has none"
                }
                JwsError::Signature => "The token signature is not valid",
                JwsError::HeaderMember(_)
                | JwsError::HeaderNotJson(_)
                | JwsError::NotBase64Url(_)
                | JwsError::Parts(_) => "The token is not a well-formed JWT",
            },
            Self::MalformedClaim { claim, .. } => malformed(claim),
            Self::MissingClaim { claim } => missing(claim),
            Self::NotYetValid { .. } => "The token is not valid yet",
            Self::PayloadNotJson(_) => "The token is not a well-formed JWT",
            Self::NoProof => {
                "The token is bound to a client key: send it with the scheme DPoP and a proof"
            }
            Self::NotBound => "The token is not bound to a client key",
            Self::SenderConstrained => {
                "The token is bound to a client key, which is not supported here"
            }
            Self::TooOld { .. } => "The token was issued too long ago",
            Self::TypeNotAllowed { .. } => "The token is not an access token",
            Self::UnknownKey { .. } => "The token is signed with an unknown key",
            Self::WrongAudience { .. } => "The token is for another audience",
            Self::WrongIssuer { .. } => "The token is from another issuer",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => {
                f.write_str("sub is an anonymous session; auth0.allow_anonymous is false")
            }
            Self::AlgorithmNotAllowed { expected, found } => {
                write!(f, "alg is {found:?}, not {expected}")
            }
            Self::Expired { exp, now } => write!(f, "exp {exp} is over; it is {now:.0}"),
            Self::TooLarge { length } => write!(f, "{length} bytes"),
            Self::Jws(error) => error.fmt(f),
            Self::MalformedClaim { claim, expected } => {
                write!(f, "claim {claim:?} is not {expected}")
            }
            Self::MissingClaim { claim } => write!(f, "claim {claim:?} is missing"),
            Self::NotYetValid { claim, value, now } => {
                write!(f, "{claim} {value} lies in the future; it is {now:.0}")
            }
            Self::PayloadNotJson(error) => write!(f, "payload: {error}"),
            Self::NoProof => f.write_str("cnf.jkt is present, and the token came without DPoP"),
            Self::NotBound => f.write_str("claim \"cnf\" is missing"),
            Self::SenderConstrained => {
                f.write_str("claim \"cnf\" is present, and this binding is not enforced")
            }
            Self::TooOld { iat, now, max_age } => write!(
                f,
                "iat {iat} is too long ago; it is {now:.0}, and auth0.max_token_age is {max_age:.0} s"
            ),
            Self::TypeNotAllowed {
                expected,
                found: None,
            } => write!(f, "typ is missing, and should be {expected}"),
            Self::TypeNotAllowed {
                expected,
                found: Some(found),
            } => write!(f, "typ should be {expected}, and is {found:?}"),
            Self::UnknownKey { kid } => write!(f, "kid {kid:?} is in no key set"),
            // What is expected stands first, since what a token names may be long, and lines are cut.
            Self::WrongAudience { expected, found } => {
                write!(f, "aud should name one of {expected:?}, and is {found:?}")
            }
            Self::WrongIssuer { expected, found } => {
                write!(
                    f,
                    "iss should be {expected:?}, to which the key belongs, and is {found:?}"
                )
            }
        }
    }
}

/// The texts are fixed, so there is one for each claim that the verifier reads.
const fn missing(claim: &str) -> &'static str {
    match claim.as_bytes() {
        b"aud" => "The token has no aud claim",
        b"client_id" => "The token has no client_id claim",
        b"exp" => "The token has no exp claim",
        b"iat" => "The token has no iat claim",
        b"iss" => "The token has no iss claim",
        b"jti" => "The token has no jti claim",
        b"sub" => "The token has no sub claim",
        _ => "The token lacks a required claim",
    }
}

/// Likewise.
const fn malformed(claim: &str) -> &'static str {
    match claim.as_bytes() {
        b"aud" => "The aud claim of the token is malformed",
        b"client_id" => "The client_id claim of the token is malformed",
        b"cnf" => "The cnf claim of the token is malformed",
        b"exp" => "The exp claim of the token is malformed",
        b"iat" => "The iat claim of the token is malformed",
        b"iss" => "The iss claim of the token is malformed",
        b"jti" => "The jti claim of the token is malformed",
        b"nbf" => "The nbf claim of the token is malformed",
        b"sub" => "The sub claim of the token is malformed",
        _ => "A claim of the token has the wrong type",
    }
}

impl std::error::Error for Rejection {}

impl From<JwsError> for Rejection {
    fn from(error: JwsError) -> Self {
        Self::Jws(error)
    }
}

/// Claims that the verifier reads have fixed names, so a wrong type is known by name.
impl Rejection {
    pub(super) const fn wrong_type(claim: &'static str, error: &WrongType) -> Self {
        Self::MalformedClaim {
            claim,
            expected: error.expected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rejection;

    #[test]
    fn a_refusal_says_what_was_expected_beside_what_was_found() {
        let text = str::to_owned;
        for (rejection, expected) in [
            (
                Rejection::AlgorithmNotAllowed {
                    expected: text("RS256"),
                    found: text("none"),
                },
                "alg is \"none\", not RS256",
            ),
            (
                Rejection::TooOld {
                    iat: 1000.0,
                    now: 5000.4,
                    max_age: 3600.0,
                },
                "iat 1000 is too long ago; it is 5000, and auth0.max_token_age is 3600 s",
            ),
            (
                Rejection::TypeNotAllowed {
                    expected: "at+jwt",
                    found: None,
                },
                "typ is missing, and should be at+jwt",
            ),
            (
                Rejection::WrongAudience {
                    expected: vec![text("https://a")],
                    found: vec![text("https://b")],
                },
                "aud should name one of [\"https://a\"], and is [\"https://b\"]",
            ),
            (
                Rejection::WrongIssuer {
                    expected: text("https://a/"),
                    found: text("https://a"),
                },
                "iss should be \"https://a/\", to which the key belongs, and is \"https://a\"",
            ),
        ] {
            assert_eq!(rejection.to_string(), expected);
        }
    }

    /// RFC 6750 §3 allows no quotation mark, and nothing of a token may stand there.
    #[test]
    fn a_description_names_the_claim() {
        for claim in [
            "iss",
            "aud",
            "exp",
            "sub",
            "iat",
            "jti",
            "client_id",
            "nbf",
            "cnf",
        ] {
            let expected = "a number";
            let malformed = Rejection::MalformedClaim { claim, expected }.description();
            assert_eq!(
                malformed,
                format!("The {claim} claim of the token is malformed")
            );
            if !["nbf", "cnf"].contains(&claim) {
                let missing = Rejection::MissingClaim { claim }.description();
                assert_eq!(missing, format!("The token has no {claim} claim"));
            }
        }
    }
}
