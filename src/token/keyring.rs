//! The keys of every configured issuer at one moment, and which of them may have signed a token.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::rejection::Rejection;
use super::verifier::{Unverified, VerifyError, names};
use crate::jose::{Algorithm, Header, JwsError, Key, KeySet};

/// How many keys of one issuer may fit a token. More than one fits only when a token names no `kid` or an
/// issuer reuses one; every try costs a signature check that a stranger can ask for. An issuer with more
/// vouches for none of them. The bound is per issuer, so that no issuer uses up the tries of another: a token
/// costs at most this many signature checks for each configured issuer, and one for each distinct key.
pub(super) const MAX_TRIES_PER_ISSUER: usize = 5;

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
    published: Vec<PublishedKey>,
    generation: u64,
}

/// A distinct key with all issuers that publish it: Auth0 publishes one key set under the tenant's own domain
/// and under each of its custom domains.
#[derive(Debug, Clone)]
struct PublishedKey {
    key: Key,
    /// Their places among the issuers.
    by: Vec<usize>,
}

/// A key that may have signed a token, with the issuers that it vouches for.
#[derive(Debug)]
pub(super) struct Candidate<'k> {
    pub(super) key: &'k Key,
    /// Never empty.
    pub(super) issuers: Vec<&'k str>,
}

/// A `kid` that does not say which key is meant: several distinct keys of one algorithm have it. All of them
/// are tried, unless one issuer has more than are tried.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AmbiguousKid {
    /// The name.
    pub kid: String,
    /// How many distinct keys have it.
    pub keys: usize,
    /// The issuers of these keys.
    pub issuers: Vec<String>,
    /// The issuers that have so many keys of this name that none of them is tried.
    pub untried: Vec<String>,
}

impl fmt::Display for AmbiguousKid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kid,
            keys,
            issuers,
            untried,
        } = self;
        write!(
            f,
            "{keys} keys have the kid {kid:?} ({})",
            issuers.join(", ")
        )?;
        if untried.is_empty() {
            f.write_str(": each of them is tried for a token that names it")
        } else {
            write!(
                f,
                ": of {}, which has more than {MAX_TRIES_PER_ISSUER} of them, none is tried",
                untried.join(", ")
            )
        }
    }
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
    pub fn new(issuers: Vec<IssuerKeys>, generation: u64) -> Self {
        Self {
            published: distinct(&issuers),
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

    /// Every `kid` that stands for several keys of one algorithm, in alphabetical order.
    #[must_use]
    pub fn ambiguous(&self) -> Vec<AmbiguousKid> {
        let mut of_name: BTreeMap<(&str, Algorithm), Vec<&PublishedKey>> = BTreeMap::new();
        for published in &self.published {
            if let Some(kid) = published.key.kid() {
                let name = (kid, published.key.algorithm());
                of_name.entry(name).or_default().push(published);
            }
        }
        let several = of_name.into_iter().filter(|(_, keys)| keys.len() > 1);
        several
            .map(|((kid, _), keys)| self.ambiguity(kid, &keys))
            .collect()
    }

    fn ambiguity(&self, kid: &str, keys: &[&PublishedKey]) -> AmbiguousKid {
        let fitting = counts(keys);
        let named = |least: usize| {
            let places = fitting.iter().filter(|(_, count)| **count >= least);
            let issuers = places.filter_map(|(place, _)| self.issuers.get(*place));
            issuers.map(|issuer| issuer.issuer.clone()).collect()
        };
        AmbiguousKid {
            kid: kid.to_owned(),
            keys: keys.len(),
            issuers: named(1),
            untried: named(MAX_TRIES_PER_ISSUER.saturating_add(1)),
        }
    }

    /// The keys that may have signed a token with this header, each with its issuers (RFC 7515
    /// appendix D; the predicate of `jose` and of Auth0's own libraries).
    pub(super) fn candidates(
        &self,
        header: &Header,
        algorithm: Algorithm,
    ) -> Result<Vec<Candidate<'_>>, NoKey> {
        let is_named = |key: &Key| header.kid.is_none() || key.kid() == header.kid.as_deref();
        let named = self.published.iter().filter(|one| is_named(&one.key));
        let fitting: Vec<&PublishedKey> = named
            .filter(|published| published.key.algorithm() == algorithm)
            .collect();
        let of_each = counts(&fitting);
        let vouches = |place: &&usize| {
            of_each
                .get(place)
                .is_some_and(|count| *count <= MAX_TRIES_PER_ISSUER)
        };
        let candidates: Vec<Candidate<'_>> = fitting
            .iter()
            .map(|published| {
                let places = published.by.iter().filter(vouches);
                let issuers = places.filter_map(|place| self.issuers.get(*place));
                Candidate {
                    key: &published.key,
                    issuers: issuers.map(|issuer| issuer.issuer.as_str()).collect(),
                }
            })
            .filter(|candidate| !candidate.issuers.is_empty())
            .collect();
        if !candidates.is_empty() {
            return Ok(candidates);
        }
        Err(self.why_none(header, !fitting.is_empty()))
    }

    /// What the keys of this name are for.
    fn algorithms_of(&self, kid: &str) -> Vec<Algorithm> {
        let mut algorithms = Vec::new();
        let published = self
            .issuers
            .iter()
            .filter_map(|issuer| issuer.keys.as_ref());
        for key in published.flat_map(KeySet::keys) {
            if key.kid() == Some(kid) && !algorithms.contains(&key.algorithm()) {
                algorithms.push(key.algorithm());
            }
        }
        algorithms
    }

    /// `some_fit` where keys fit, of issuers that have too many of them.
    fn why_none(&self, header: &Header, some_fit: bool) -> NoKey {
        if !self.is_complete() {
            return NoKey::Unavailable;
        }
        match &header.kid {
            // An issuer that has no key of this name may have one since its last fetch.
            Some(kid) if !self.is_known_to_all(kid) => NoKey::Unknown,
            // RFC 8725 §3.1: the key is known, and bound to another algorithm.
            Some(kid) if !some_fit => NoKey::Rejected(Rejection::AlgorithmNotAllowed {
                expected: names(&self.algorithms_of(kid)),
                found: header.algorithm.clone(),
            }),
            None if !some_fit => NoKey::Unknown,
            kid => NoKey::Rejected(Rejection::UnknownKey { kid: kid.clone() }),
        }
    }

    /// The issuers whose newer keys, if there are any, may change this verdict on a token.
    #[must_use]
    pub fn outdated_for(&self, token: &Unverified<'_>, error: &VerifyError) -> Vec<&str> {
        let names = |lacks_it: &dyn Fn(&IssuerKeys) -> bool| {
            let issuers = self.issuers.iter().filter(|issuer| lacks_it(issuer));
            issuers.map(|issuer| issuer.issuer.as_str()).collect()
        };
        match (error, token.kid()) {
            (VerifyError::UnknownKey, None) => names(&|_| true),
            // Of several issuers, one may publish a key under a name that another has given to a new one.
            (
                VerifyError::UnknownKey
                | VerifyError::Rejected(Rejection::Jws(JwsError::Signature)),
                Some(kid),
            ) => names(&|issuer| !issuer.knows(kid)),
            // The key is there by way of another issuer that publishes it too, and was asked later.
            (VerifyError::Rejected(Rejection::WrongIssuer { found, .. }), _) => {
                names(&|issuer| issuer.issuer == *found)
            }
            _ => Vec::new(),
        }
    }

    /// Whether every issuer publishes a key of this name.
    fn is_known_to_all(&self, kid: &str) -> bool {
        self.issuers.iter().all(|issuer| issuer.knows(kid))
    }

    /// The issuer with this `iss`, if it is configured.
    pub(super) fn issuer(&self, iss: &str) -> Option<&IssuerKeys> {
        self.issuers.iter().find(|known| known.issuer == iss)
    }
}

impl IssuerKeys {
    fn keys(&self) -> &[Key] {
        self.keys.as_ref().map(KeySet::keys).unwrap_or_default()
    }

    /// Whether one of its keys has this name.
    fn knows(&self, kid: &str) -> bool {
        self.keys().iter().any(|key| key.kid() == Some(kid))
    }
}

/// How many of these keys each issuer publishes, by its place.
fn counts(keys: &[&PublishedKey]) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for place in keys.iter().flat_map(|published| &published.by) {
        let count: &mut usize = counts.entry(*place).or_default();
        *count = count.saturating_add(1);
    }
    counts
}

/// Every distinct key once, in the order of the issuers and their documents.
fn distinct(issuers: &[IssuerKeys]) -> Vec<PublishedKey> {
    let mut published: Vec<PublishedKey> = Vec::new();
    let mut places: HashMap<&Key, usize> = HashMap::new();
    for (issuer, known) in issuers.iter().enumerate() {
        for key in known.keys() {
            let place = *places.entry(key).or_insert(published.len());
            match published.get_mut(place) {
                // A document may hold a key twice.
                Some(known) if known.by.last() == Some(&issuer) => {}
                Some(known) => known.by.push(issuer),
                None => published.push(PublishedKey {
                    key: key.clone(),
                    by: vec![issuer],
                }),
            }
        }
    }
    published
}
