//! What a token that is bound to a key needs beside itself: the proof of this request (RFC 9449).
//!
//! Every proof costs a signature check, also where its token is remembered, so whoever has one token can ask
//! for many. Four things bound that. A proof with any other key than the token's own is refused before its
//! signature is looked at. The checks take turns as those of new tokens do, one of each connection at a time
//! and the doubtful ones behind, in a line of their own, so that neither stands before the other. One token's
//! proofs get only a part of that line, so that the flood of one does not stand before the proofs of others.
//! And all of it comes after the token's own verification: without a good token nobody gets here.
//!
//! A request that is sent to the upstream once more, on another connection, repeats no proof (RFC 9449 §7.3):
//! the header ends here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};

use super::first_sight::{Overloaded, REFUSAL_PAUSE};
use super::{Proxy, Refusal, Settings};
use crate::budget::Shares;
use crate::canonical::CanonicalRequest;
use crate::clock::UnixTime;
use crate::config::Dpop;
use crate::identity::{BoundIdentity, Credential, Identity};
use crate::listener::{Client, Standing};
use crate::token::{
    NonceAge, NotRecorded, ProofError, ProofTarget, Rejection, ReplayKey, Scheme, proof_header,
};

/// How many proofs of one token may wait for their check, on all workers together and one of each connection:
/// more connections than a client has, and a fortieth of one worker's line.
const MAX_WAITING_OF_ONE_TOKEN: usize = 256;

/// Where a client learns the nonce for its next proof.
pub(super) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// A verified token as it is remembered.
#[derive(Debug)]
pub(super) struct Remembered {
    pub(super) credential: Credential,
    /// What the caller holds of the budgets, with this token or another.
    pub(super) shares: Arc<Shares>,
    proofs_waiting: AtomicUsize,
}

/// What is known of the proof of a request.
#[derive(Debug, Default)]
pub(super) struct Possession {
    /// What this request has used up. It is still its own when the request is decided on again.
    recorded: Option<ReplayKey>,
    /// The nonce that the client should use from now on.
    renewed: Option<String>,
}

/// What a verified token is worth, as it was presented.
pub(crate) enum Worth<'c> {
    /// An identity.
    Identity(&'c Arc<Identity>),
    /// An identity for a proof under these rules.
    Proof(&'c BoundIdentity, &'c Dpop),
}

/// What a proof is asked for.
#[derive(Clone, Copy)]
struct Demand<'t> {
    dpop: &'t Dpop,
    bound: &'t BoundIdentity,
    /// How many proofs of this token wait for their check.
    waiting: &'t AtomicUsize,
}

/// Whether a token may be presented in this way (RFC 9449 §7.1, §7.2).
pub(crate) fn worth<'c>(
    credential: &'c Credential,
    scheme: Scheme,
    dpop: Option<&'c Dpop>,
) -> Result<Worth<'c>, Rejection> {
    match (credential, scheme, dpop) {
        (Credential::Bound(bound), Scheme::Dpop, Some(dpop)) => Ok(Worth::Proof(bound, dpop)),
        (Credential::Bound(_), Scheme::Bearer, Some(_)) => Err(Rejection::NoProof),
        (Credential::Bound(_), _, None) => Err(Rejection::SenderConstrained),
        (Credential::Bearer(identity), Scheme::Bearer, dpop)
            if dpop.is_none_or(|dpop| !dpop.required) =>
        {
            Ok(Worth::Identity(identity))
        }
        (Credential::Bearer(_), ..) => Err(Rejection::NotBound),
    }
}

impl Remembered {
    pub(super) const fn new(credential: Credential, shares: Arc<Shares>) -> Self {
        Self {
            credential,
            shares,
            proofs_waiting: AtomicUsize::new(0),
        }
    }
}

/// One of the places that a token's proofs have, given up when it is dropped.
struct Place<'t>(&'t AtomicUsize);

impl<'t> Place<'t> {
    fn join(waiting: &'t AtomicUsize) -> Result<Self, Overloaded> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING_OF_ONE_TOKEN {
            Ok(place)
        } else {
            Err(Overloaded)
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Possession {
    /// Gives a client the next nonce in time (RFC 9449 §8.2). An answer that carries one must not be stored.
    pub(super) fn renew_nonce(&self, headers: &mut HeaderMap) {
        let nonce = self.renewed.as_ref();
        if let Some(nonce) = nonce.and_then(|nonce| HeaderValue::try_from(nonce).ok()) {
            headers.insert(DPOP_NONCE, nonce);
            headers.append(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
    }
}

impl Proxy {
    /// The identity that the token is worth in this request.
    pub(super) async fn identity_of(
        &self,
        settings: &Settings,
        request: &CanonicalRequest,
        client: &Client,
        remembered: &Remembered,
        scheme: Scheme,
        possession: &mut Possession,
    ) -> Result<Arc<Identity>, Refusal> {
        let dpop = settings.config.dpop.as_ref();
        match worth(&remembered.credential, scheme, dpop).map_err(Refusal::Token)? {
            Worth::Identity(identity) => Ok(Arc::clone(identity)),
            Worth::Proof(bound, dpop) => {
                let demand = Demand {
                    dpop,
                    bound,
                    waiting: &remembered.proofs_waiting,
                };
                // Boxed, so that it takes no room in the futures of those who need none.
                Box::pin(self.prove(settings, demand, request, client, possession)).await
            }
        }
    }

    async fn prove(
        &self,
        settings: &Settings,
        demand: Demand<'_>,
        request: &CanonicalRequest,
        client: &Client,
        possession: &mut Possession,
    ) -> Result<Arc<Identity>, Refusal> {
        let Demand {
            dpop,
            bound,
            waiting,
        } = demand;
        let nonces = settings.nonces.as_ref();
        let refuse = |error: ProofError| {
            let nonce = nonces.filter(|_| error == ProofError::Nonce);
            let nonce = nonce.map(|nonces| nonces.current(UnixTime::now()));
            Refusal::Proof { error, nonce }
        };
        let target = ProofTarget {
            method: request.method().as_str(),
            path: request.path(),
        };
        let rules = &dpop.proofs;
        let unverified = proof_header(request.headers())
            .and_then(|proof| rules.read(proof, bound.binding()))
            .map_err(refuse)?;
        let check = || {
            let now = UnixTime::now();
            let proof = rules.verify(&unverified, target, nonces, now);
            proof.map_err(refuse).and_then(|proof| {
                let (key, nonce_age) = (proof.replay_key(), proof.nonce_age());
                let recorded = self.shared.used_proofs.record(
                    proof,
                    now,
                    rules.lifetime(),
                    dpop.replay_cache
                        .min(self.shared.budgets.sizes.replay_entries),
                    possession.recorded,
                );
                match recorded {
                    Ok(fresh) => Ok((fresh, key, nonce_age, now)),
                    Err(NotRecorded::Replayed) => Err(refuse(ProofError::Replayed)),
                    Err(NotRecorded::Full | NotRecorded::ShareUsed) => {
                        Err(Refusal::ReplayCacheFull)
                    }
                }
            })
        };
        let verdict = self.prove_in_turn(client, waiting, check).await?;
        let (fresh, key, nonce_age, now) = verdict?;
        possession.recorded = Some(key);
        possession.renewed = nonces
            .filter(|_| nonce_age == Some(NonceAge::Previous))
            .map(|nonces| nonces.current(now));
        // The binding was this token's own all the way.
        bound
            .release(&fresh)
            .ok_or_else(|| refuse(ProofError::WrongToken))
    }

    /// One check, when its turn comes. The connection's standing is that of tokens, whose check is over by
    /// now. A proof that was used before has cost a turn as a forged one has.
    async fn prove_in_turn<T>(
        &self,
        client: &Client,
        waiting: &AtomicUsize,
        check: impl FnOnce() -> Result<T, Refusal>,
    ) -> Result<Result<T, Refusal>, Refusal> {
        let mut standing = client.standing().await;
        let judged = match Place::join(waiting) {
            Ok(_place) => self.proofs.in_turn(*standing, check).await,
            Err(Overloaded) => Err(Overloaded),
        };
        let Ok(verdict) = judged else {
            drop(standing);
            tokio::time::sleep(REFUSAL_PAUSE).await;
            return Err(Refusal::Overloaded);
        };
        *standing = match verdict {
            Err(Refusal::Proof { .. }) => Standing::Doubtful,
            _ => Standing::Good,
        };
        Ok(verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_WAITING_OF_ONE_TOKEN, Place};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn one_token_has_its_places_and_gives_them_back() {
        let waiting = AtomicUsize::new(MAX_WAITING_OF_ONE_TOKEN - 1);
        let last = Place::join(&waiting).expect("one is left");
        assert!(Place::join(&waiting).is_err());
        drop(last);
        assert_eq!(
            waiting.load(Ordering::Relaxed),
            MAX_WAITING_OF_ONE_TOKEN - 1
        );
        assert!(Place::join(&waiting).is_ok());
    }
}
