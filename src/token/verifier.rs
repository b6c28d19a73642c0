//! The order of verification: size, shape, header, algorithm, key, signature, and only then claims.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::bearer::BearerToken;
use super::checks::{self, ClaimCheck, TypPolicy};
use super::dpop::Binding;
use super::keyring::Keyring;
use super::rejection::Rejection;
use super::signature::SignatureCheck;
use crate::claims::Claims;
use crate::clock::UnixTime;
use crate::jose::{
    self, Algorithm, CompactJws, Header, JwsError, Key, KnownHeader, VerifiedPayload,
};
use crate::secret::Secret;

/// What a token must satisfy, from `[auth0]` and `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierSettings {
    /// Allowed algorithms, in order of preference.
    pub algorithms: Vec<Algorithm>,
    /// A token must name at least one of these.
    pub audiences: Vec<String>,
    /// How far clocks may disagree.
    pub clock_tolerance: Duration,
    /// How long after `iat` a token is accepted; `None` leaves it to `exp`.
    pub max_token_age: Option<Duration>,
    /// Which `typ` header values are accepted.
    pub typ: TypPolicy,
    /// Whether Auth0 anonymous sessions are accepted.
    pub allow_anonymous: bool,
    /// Whether tokens that are bound to a key (`cnf.jkt`) are taken at all. A proof is then needed.
    pub bound_tokens: bool,
    /// The largest token, in bytes.
    pub max_token_bytes: usize,
}

/// Verifies access tokens. See [`VerifierSettings`] for what is adjustable; the rest is not.
#[derive(Debug, Clone)]
pub struct Verifier {
    settings: VerifierSettings,
    /// Of the last token that passed every check: the next one is nearly always signed with the same key.
    /// A stranger cannot put another in its place.
    known_header: Arc<Mutex<Option<KnownHeader>>>,
}

/// A token whose shape and header are acceptable, and nothing else is known.
#[derive(Debug)]
pub struct Unverified<'t> {
    text: Secret<&'t str>,
    jws: CompactJws<'t>,
    algorithm: Algorithm,
}

/// The verification of one token with the keys of one snapshot, in steps that the caller may let others go on
/// between. See [`Verifier::begin`].
#[derive(Debug)]
pub struct Verification<'t> {
    verifier: &'t Verifier,
    token: &'t Unverified<'t>,
    keyring: &'t Keyring,
    /// Once it has begun.
    signature: Option<SignatureCheck<'t>>,
}

/// A token whose signature holds, and whose claims are not checked: it proves nothing yet.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedToken {
    claims: Claims,
    issuer: String,
    kid: Option<String>,
    payload: Secret<String>,
}

/// A token that passed every check. The fields are private and this module makes the only ones. Where it has
/// a [`Binding`], it counts together with a proof only, which is not checked here.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedToken {
    claims: Claims,
    issuer: String,
    kid: Option<String>,
    payload: Secret<String>,
    subject: String,
    valid_until: UnixTime,
    binding: Option<Binding>,
}

/// How verification can fail: for good, or for want of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum VerifyError {
    /// Some issuer's keys are missing: nothing can be said about this token.
    KeysUnavailable,
    /// The token is refused.
    Rejected(Rejection),
    /// The key is in no key set that is known; a fresh one may have it.
    UnknownKey,
}

impl Verifier {
    /// A verifier with these settings.
    #[must_use]
    pub fn new(settings: VerifierSettings) -> Self {
        Self {
            settings,
            known_header: Arc::default(),
        }
    }

    /// Reads shape and header. Nothing of the payload is looked at.
    ///
    /// # Errors
    ///
    /// A [`Rejection`] for a token that no key could save.
    pub fn read<'t>(&self, token: BearerToken<'t>) -> Result<Unverified<'t>, Rejection> {
        let token = token.secret();
        if token.len() > self.settings.max_token_bytes {
            return Err(Rejection::TooLarge {
                length: token.len(),
            });
        }
        let known = self.known_header().clone();
        let jws = CompactJws::parse_knowing(token, known.as_ref())?;
        // RFC 8725 §3.1: the list is configured; the token can only name one of it.
        let algorithm = Algorithm::from_name(&jws.header().algorithm)
            .filter(|algorithm| self.settings.algorithms.contains(algorithm))
            .ok_or_else(|| Rejection::AlgorithmNotAllowed {
                expected: names(&self.settings.algorithms),
                found: jws.header().algorithm.clone(),
            })?;
        checks::check_typ(jws.header().typ.as_deref(), self.settings.typ)?;
        Ok(Unverified {
            text: Secret::new(token),
            jws,
            algorithm,
        })
    }

    /// Verifies the signature with the keys that are known `now`, and then every claim.
    ///
    /// # Errors
    ///
    /// [`VerifyError`] separates a refused token from one that cannot be judged yet.
    pub fn verify(
        &self,
        token: &Unverified<'_>,
        keyring: &Keyring,
        now: UnixTime,
    ) -> Result<VerifiedToken, VerifyError> {
        let mut verification = self.begin(token, keyring);
        loop {
            if let Some(verified) = verification.step(now)? {
                return Ok(verified);
            }
        }
    }

    /// The same in steps. Nothing is done before the first.
    #[must_use]
    pub const fn begin<'t>(
        &'t self,
        token: &'t Unverified<'t>,
        keyring: &'t Keyring,
    ) -> Verification<'t> {
        Verification {
            verifier: self,
            token,
            keyring,
            signature: None,
        }
    }

    fn remember_header(&self, jws: &CompactJws<'_>) {
        let mut known = self.known_header();
        if !known.as_ref().is_some_and(|known| jws.has_header(known)) {
            *known = Some(jws.known_header());
        }
    }

    fn known_header(&self) -> MutexGuard<'_, Option<KnownHeader>> {
        self.known_header
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The first half of [`Verifier::verify`]: key, signature, and the payload as JSON.
    ///
    /// # Errors
    ///
    /// The same.
    pub fn check_signature(
        token: &Unverified<'_>,
        keyring: &Keyring,
    ) -> Result<SignedToken, VerifyError> {
        let mut check = SignatureCheck::new(token, keyring)?;
        loop {
            if let Some(signed) = check.step()? {
                return Ok(signed);
            }
        }
    }

    /// Every check on the claims, each with its verdict, in the order in which they decide.
    pub fn claim_checks(
        &self,
        token: &SignedToken,
        now: UnixTime,
    ) -> impl Iterator<Item = (ClaimCheck, Result<(), Rejection>)> {
        ClaimCheck::ALL.into_iter().map(move |check| {
            let verdict = check.run(&token.claims, &self.settings, &token.issuer, now);
            (check, verdict)
        })
    }

    /// The second half of [`Verifier::verify`]: the first check that fails decides.
    fn accept(
        &self,
        text: &str,
        token: SignedToken,
        now: UnixTime,
    ) -> Result<VerifiedToken, Rejection> {
        for (_, verdict) in self.claim_checks(&token, now) {
            verdict?;
        }
        let exp = checks::check_expiry(&token.claims, &self.settings, now)?;
        let subject = checks::check_subject(&token.claims)?.to_owned();
        let valid_until = self.valid_until(&token.claims, exp);
        let thumbprint = checks::check_confirmation(&token.claims, self.settings.bound_tokens)?;
        let binding = thumbprint.map(|thumbprint| Binding::new(thumbprint, text));
        let SignedToken {
            claims,
            issuer,
            kid,
            payload,
        } = token;
        Ok(VerifiedToken {
            claims,
            issuer,
            kid,
            payload,
            subject,
            valid_until,
            binding,
        })
    }

    /// Until when these checks need not be made again: `exp`, or the end of `max_token_age`.
    fn valid_until(&self, claims: &Claims, exp: f64) -> UnixTime {
        let age_limit = self.settings.max_token_age.and_then(|max_age| {
            let iat = claims.get("iat").and_then(serde_json::Value::as_f64)?;
            Some(iat + max_age.as_secs_f64())
        });
        let seconds = age_limit.map_or(exp, |limit| exp.min(limit));
        Duration::try_from_secs_f64(seconds.clamp(0.0, f64::from(u32::MAX)))
            .map_or(UnixTime::from_secs(0), |end| {
                UnixTime::from_secs(0).plus(end)
            })
    }
}

/// Algorithms as they are named, for a refusal.
pub(super) fn names(algorithms: &[Algorithm]) -> String {
    let names: Vec<&str> = algorithms.iter().map(|one| one.name()).collect();
    names.join(" or ")
}

impl Verification<'_> {
    /// The next step; `None` while others are left. One step costs a few signature checks at most.
    ///
    /// # Errors
    ///
    /// As [`Verifier::verify`].
    pub fn step(&mut self, now: UnixTime) -> Result<Option<VerifiedToken>, VerifyError> {
        let check = match &mut self.signature {
            Some(check) => check,
            begun => begun.insert(SignatureCheck::new(self.token, self.keyring)?),
        };
        let Some(signed) = check.step()? else {
            return Ok(None);
        };
        let verified = self
            .verifier
            .accept(self.token.text.expose(), signed, now)?;
        self.verifier.remember_header(&self.token.jws);
        Ok(Some(verified))
    }
}

impl From<Rejection> for VerifyError {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl<'t> Unverified<'t> {
    pub(super) fn header(&self) -> &Header {
        self.jws.header()
    }

    /// Releases the payload if this key signed it.
    pub(super) fn verify(&self, key: &Key) -> Result<VerifiedPayload<'t>, JwsError> {
        self.jws.verify([key]).map(|(payload, _)| payload)
    }

    /// The key id that the token names, for the log.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.jws.header().kid.as_deref()
    }

    /// The `iss` that the token claims. Nothing vouches for it: it says whose keys to wait for, and decides nothing.
    #[must_use]
    pub fn claimed_issuer(&self) -> Option<String> {
        let payload = self.jws.unverified_payload()?;
        let claims = jose::parse_object(payload.expose()).ok()?;
        Some(claims.get("iss")?.as_str()?.to_owned())
    }

    /// The type that the token names.
    #[must_use]
    pub fn typ(&self) -> Option<&str> {
        self.jws.header().typ.as_deref()
    }

    /// The algorithm, which is one of those that are allowed.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl SignedToken {
    /// Of a payload whose signature holds, with the name of an issuer whose key signed it.
    pub(super) fn new(
        claims: Claims,
        issuer: &str,
        kid: Option<&str>,
        payload: &VerifiedPayload<'_>,
    ) -> Self {
        Self {
            claims,
            issuer: issuer.to_owned(),
            kid: kid.map(str::to_owned),
            payload: Secret::new(payload.encoded().to_owned()),
        }
    }

    /// All claims, unchecked.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The issuer whose key signed the token.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}

impl VerifiedToken {
    /// All claims.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The issuer whose key signed the token; equal to `iss`.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The id of the key that signed the token, if it has one.
    #[must_use]
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The payload as the token spells it: base64url of the claims.
    #[must_use]
    pub fn payload(&self) -> &str {
        self.payload.expose()
    }

    /// `sub`: non-empty, without control characters.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// What the token is bound to, if it is.
    #[must_use]
    pub const fn binding(&self) -> Option<&Binding> {
        self.binding.as_ref()
    }

    /// The end of the token's life: `exp`, or earlier where `max_token_age` says so.
    #[must_use]
    pub const fn valid_until(&self) -> UnixTime {
        self.valid_until
    }
}
