//! Which key signed a token, and which issuer that key vouches for.

use std::vec;

use super::keyring::{Candidate, Keyring, NoKey};
use super::rejection::Rejection;
use super::verifier::{SignedToken, Unverified, VerifyError};
use crate::claims::Claims;
use crate::jose::{self, JwsError};

/// How many keys are tried in one step. Nearly every token has one to try; where many issuers are configured,
/// a token without `kid` has many, and the caller lets others go on between two steps: a step costs as many
/// signature checks as a token of one issuer may.
const TRIES_PER_STEP: usize = super::keyring::MAX_TRIES_PER_ISSUER;

/// The check of one signature, with the keys of one snapshot.
#[derive(Debug)]
pub(super) struct SignatureCheck<'t> {
    token: &'t Unverified<'t>,
    keyring: &'t Keyring,
    untried: vec::IntoIter<Candidate<'t>>,
    /// What was signed with a key that does not vouch for its `iss`. Another key may: two issuers can publish
    /// one key under two names, and a key can be made that fits the signature of somebody else's token.
    foreign: Option<SignedToken>,
}

impl<'t> SignatureCheck<'t> {
    pub(super) fn new(
        token: &'t Unverified<'t>,
        keyring: &'t Keyring,
    ) -> Result<Self, VerifyError> {
        let candidates = keyring
            .candidates(token.header(), token.algorithm())
            .map_err(|error| match error {
                NoKey::Rejected(rejection) => VerifyError::Rejected(rejection),
                NoKey::Unavailable => VerifyError::KeysUnavailable,
                NoKey::Unknown => VerifyError::UnknownKey,
            })?;
        Ok(Self {
            token,
            keyring,
            untried: candidates.into_iter(),
            foreign: None,
        })
    }

    /// Tries the next keys; `None` while others are left.
    pub(super) fn step(&mut self) -> Result<Option<SignedToken>, VerifyError> {
        for candidate in self.untried.by_ref().take(TRIES_PER_STEP) {
            if let Some((signed, vouched_for)) = signed_with(self.token, &candidate)? {
                if vouched_for {
                    return Ok(Some(signed));
                }
                self.foreign.get_or_insert(signed);
            }
        }
        if self.untried.len() > 0 {
            return Ok(None);
        }
        match self.foreign.take() {
            Some(signed) if self.awaits_keys_for(&signed) => Err(VerifyError::KeysUnavailable),
            // The check of `iss` refuses it.
            Some(signed) => Ok(Some(signed)),
            // It may be signed with a key of the issuer whose keys are missing.
            None if !self.keyring.is_complete() => Err(VerifyError::KeysUnavailable),
            None => Err(Rejection::Jws(JwsError::Signature).into()),
        }
    }

    /// Whether the token is of an issuer whose keys are missing, and which may publish this one.
    fn awaits_keys_for(&self, signed: &SignedToken) -> bool {
        let iss = signed.claims().get("iss").and_then(|iss| iss.as_str());
        iss.and_then(|iss| self.keyring.issuer(iss))
            .is_some_and(|issuer| issuer.keys.is_none())
    }
}

/// The token, if this key signed it, and whether the key vouches for its `iss`.
fn signed_with(
    token: &Unverified<'_>,
    candidate: &Candidate<'_>,
) -> Result<Option<(SignedToken, bool)>, Rejection> {
    let payload = match token.verify(candidate.key) {
        Err(JwsError::Signature) => return Ok(None),
        verified => verified?,
    };
    let claims = jose::parse_object(payload.bytes())
        .map(Claims::new)
        .map_err(Rejection::PayloadNotJson)?;
    let mut issuers = candidate.issuers.iter();
    let own = issuers.find(|name| claims.get("iss").is_some_and(|iss| iss == **name));
    let Some(issuer) = own.or_else(|| candidate.issuers.first()) else {
        return Ok(None);
    };
    let signed = SignedToken::new(claims, issuer, candidate.key.kid(), &payload);
    Ok(Some((signed, own.is_some())))
}
