//! From an `Authorization` header to a [`VerifiedToken`], or to the [`Rejection`] that says why not.
//!
//! Pure: keys and the time are arguments. A [`VerifiedToken`] can be made only here, and holding one
//! is the proof that signature, issuer, audience and times were checked.

mod bearer;
mod cache;
mod checks;
mod dpop;
mod keyring;
mod rejection;
mod signature;
mod sources;
mod subject_kind;
mod verifier;

pub use bearer::{AuthorizationError, BearerToken, Presented, Scheme, bearer_token};
pub use cache::TokenCache;
pub use checks::{ClaimCheck, TypPolicy, check_audience};
pub use dpop::{
    Binding, DPOP, FreshProof, IAT_LEAD, NONCE_PERIOD, NonceAge, Nonces, NotRecorded, Proof,
    ProofError, ProofSettings, ProofTarget, PublicOrigin, ReplayCache, ReplayKey, UnverifiedProof,
    proof_header,
};
pub use keyring::{AmbiguousKid, IssuerKeys, Keyring};
pub use rejection::Rejection;
pub use sources::TokenSources;
pub use subject_kind::SubjectKind;
pub use verifier::{
    SignedToken, Unverified, Verification, VerifiedToken, Verifier, VerifierSettings, VerifyError,
};
