//! Every way in which a proof can be refused.

use std::fmt;

use crate::jose::{JsonError, JwsError};

/// Why a proof is refused. `Display` is for the log; the client gets [`ProofError::description`].
#[derive(Debug, Clone, PartialEq)]
pub enum ProofError {
    /// `alg` is not in `dpop.algorithms`.
    AlgorithmNotAllowed {
        /// Those that would do.
        expected: String,
        /// What the proof names.
        found: String,
    },
    /// A claim is missing, or has a type or form that it must not have.
    Claim(&'static str),
    /// The compact serialization or its header is wrong.
    Jws(JwsError),
    /// The key that it brings cannot be used.
    Key(String),
    /// There is no `DPoP` header.
    Missing,
    /// A nonce of ours is needed, and the proof has none, or an old one.
    Nonce,
    /// The header is not visible ASCII.
    NotVisibleAscii,
    /// The payload is not a JSON object, or has duplicate members.
    PayloadNotJson(JsonError),
    /// There is more than one `DPoP` header, or a list in one.
    Repeated,
    /// It was used before.
    Replayed,
    /// The signature does not hold.
    Signature,
    /// `iat` is too far back or ahead.
    Stale {
        /// The claim, in seconds since 1970.
        iat: f64,
        /// The time of the check.
        now: f64,
    },
    /// It is larger than any proof.
    TooLarge {
        /// Its length in bytes.
        length: usize,
    },
    /// `typ` is not `dpop+jwt`.
    TypeNotAllowed {
        /// What the proof says, if anything.
        found: Option<String>,
    },
    /// The key is not the one that the token is bound to.
    WrongKey,
    /// `htm` is another method.
    WrongMethod {
        /// What the proof is for.
        found: String,
    },
    /// `htu` is another URI.
    WrongTarget {
        /// What the proof is for, without a query.
        found: Option<String>,
        /// What the request is for.
        expected: Option<String>,
    },
    /// `ath` is not the hash of this token.
    WrongToken,
}

impl ProofError {
    /// The stable code of this refusal, for clients, logs and `docs/responses.md`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::AlgorithmNotAllowed { .. } => "dpop_algorithm_not_allowed",
            Self::Claim(_)
            | Self::Jws(_)
            | Self::NotVisibleAscii
            | Self::PayloadNotJson(_)
            | Self::Repeated
            | Self::TooLarge { .. }
            | Self::TypeNotAllowed { .. } => "dpop_proof_malformed",
            Self::Key(_) => "dpop_key_not_allowed",
            Self::Missing => "dpop_proof_missing",
            Self::Nonce => "dpop_nonce_required",
            Self::Replayed => "dpop_proof_replayed",
            Self::Signature => "dpop_signature_invalid",
            Self::Stale { .. } => "dpop_proof_expired",
            Self::WrongKey => "dpop_wrong_key",
            Self::WrongMethod { .. } => "dpop_wrong_method",
            Self::WrongTarget { .. } => "dpop_wrong_target",
            Self::WrongToken => "dpop_wrong_token",
        }
    }

    /// What the client is told: a fixed text without any value, fit for `error_description`.
    #[must_use]
    pub const fn description(&self) -> &'static str {
        match self {
            Self::AlgorithmNotAllowed { .. } => {
                "The DPoP proof is signed with an algorithm that is not allowed"
            }
            Self::Claim(_) => "A claim of the DPoP proof is missing or malformed",
            Self::Jws(_) | Self::NotVisibleAscii | Self::PayloadNotJson(_) => {
                "The DPoP header is not a well-formed proof"
            }
            Self::Key(_) => "The key in the DPoP proof cannot be used",
            Self::Missing => "The token is bound to a key, and there is no DPoP proof of it",
            Self::Nonce => "The DPoP proof needs the nonce of this answer",
            Self::Repeated => "There is more than one DPoP proof",
            Self::Replayed => "The DPoP proof was used before",
            Self::Signature => "The signature of the DPoP proof is not valid",
            Self::Stale { .. } => "The DPoP proof was not made just now",
            Self::TooLarge { .. } => "The DPoP proof is too large",
            Self::TypeNotAllowed { .. } => "The DPoP header is not of the type dpop+jwt",
            Self::WrongKey => "The token is bound to another key than that of the DPoP proof",
            Self::WrongMethod { .. } => "The DPoP proof is for another method",
            Self::WrongTarget { .. } => "The DPoP proof is for another URI",
            Self::WrongToken => "The DPoP proof is for another access token",
        }
    }
}

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlgorithmNotAllowed { expected, found } => {
                write!(f, "alg is {found:?}, not {expected}")
            }
            Self::Claim(claim) => write!(f, "claim {claim:?} is missing or malformed"),
            Self::Jws(error) => error.fmt(f),
            Self::Key(why) => write!(f, "jwk: {why}"),
            Self::Missing => f.write_str("no DPoP header"),
            Self::Nonce => f.write_str("nonce is missing or too old"),
            Self::NotVisibleAscii => f.write_str("DPoP holds bytes outside visible ASCII"),
            Self::PayloadNotJson(error) => write!(f, "payload: {error}"),
            Self::Repeated => f.write_str("more than one DPoP header or proof"),
            Self::Replayed => f.write_str("jti was used before with this key, method and URI"),
            Self::Signature => f.write_str("signature does not match the jwk"),
            Self::Stale { iat, now } => write!(f, "iat is {iat:.0}; it is {now:.0}"),
            Self::TooLarge { length } => write!(f, "{length} bytes"),
            Self::TypeNotAllowed { found } => write!(f, "typ should be dpop+jwt, and is {found:?}"),
            Self::WrongKey => f.write_str("the thumbprint of jwk is not the token's cnf.jkt"),
            Self::WrongMethod { found } => write!(f, "htm is {found:?}"),
            Self::WrongTarget { found, expected } => {
                write!(f, "htu is {found:?}; the request is for {expected:?}")
            }
            Self::WrongToken => f.write_str("ath is not the hash of the token"),
        }
    }
}

impl std::error::Error for ProofError {}
