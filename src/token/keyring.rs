//! The keys of every configured issuer at one moment, and which of them may have signed a token.

use super::rejection::Rejection;
use crate::jose::{Algorithm, Header, Key, KeySet};

/// How many keys are tried for one token. More than one fits only when a token names no `kid` or an
/// issuer reuses one; every try costs a signature check that a stranger can ask for.
const MAX_CANDIDATES: usize = 5;

/// The keys of one issuer. A key vouches for its own issuer only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerKeys {
    /// The exact `iss` value, `https://DOMAIN/`.
    pub issuer: String,
    /// The usable keys; `None` while there are none to be had.
    pub keys: Option<KeySet>,
}

/// A snapshot of all keys. It is replaced as a whole, never changed.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    issuers: Vec<IssuerKeys>,
    generation: u64,
}

/// Why no key could be chosen for a token.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum NoKey {
    /// The token can be refused for good.
    Rejected(Rejection),
    /// An issuer's keys are missing, so nobody can say whether the token is good.
    Unavailable,
    /// Every issuer's keys are there and this one is not among them: it may be new.
    Unknown,
}

impl Keyring {
    /// A snapshot. `generation` grows whenever a key that was there is gone, so that what was
    /// verified with it can be forgotten.
    #[must_use]
    pub const fn new(issuers: Vec<IssuerKeys>, generation: u64) -> Self {
        Self {
            issuers,
            generation,
        }
    }

    /// The issuers and their keys.
    #[must_use]
    pub fn issuers(&self) -> &[IssuerKeys] {
        &self.issuers
    }

    /// Verified tokens of another generation must be verified again.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether every issuer has a usable key.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        !self.issuers.is_empty() && self.issuers.iter().all(|issuer| issuer.keys.is_some())
    }

    /// The keys that may have signed a token with this header, each with its issuer (RFC 7515
    /// appendix D; the predicate of `jose` and of Auth0's own libraries).
    pub(super) fn candidates(
        &self,
        header: &Header,
        algorithm: Algorithm,
    ) -> Result<Vec<(&str, &Key)>, NoKey> {
        let named = |key: &&Key| header.kid.is_none() || key.kid() == header.kid.as_deref();
        let mut candidates = Vec::new();
        let mut kid_is_known = false;
        for issuer in &self.issuers {
            let keys = issuer.keys.as_ref().map(KeySet::keys).unwrap_or_default();
            for key in keys.iter().filter(named) {
                kid_is_known |= header.kid.is_some();
                if key.algorithm() == algorithm {
                    candidates.push((issuer.issuer.as_str(), key));
                }
            }
        }
        if candidates.len() > MAX_CANDIDATES {
            return Err(NoKey::Rejected(Rejection::UnknownKey {
                kid: header.kid.clone(),
            }));
        }
        if !candidates.is_empty() {
            return Ok(candidates);
        }
        if !self.is_complete() {
            return Err(NoKey::Unavailable);
        }
        if kid_is_known {
            // RFC 8725 §3.1: the key is known, and bound to another algorithm.
            return Err(NoKey::Rejected(Rejection::AlgorithmNotAllowed {
                found: header.algorithm.clone(),
            }));
        }
        Err(NoKey::Unknown)
    }
}
