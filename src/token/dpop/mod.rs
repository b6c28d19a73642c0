//! Demonstrating proof of possession (RFC 9449): a token that is bound to a key of its client's counts only
//! together with a proof, a JWS of that key over this request and this token.
//!
//! A proof is read, then verified, then used up; each step is a type that only the one before it makes, and
//! an identity that is bound is released for the last of them alone. Pure: header, keys and the time are
//! arguments.

mod error;
mod nonce;
mod replay;
mod target;

use std::time::Duration;

use http::header::{HeaderMap, HeaderName};
use serde_json::{Map, Value};

pub use error::ProofError;
pub use nonce::{NONCE_PERIOD, NonceAge, Nonces};
pub use replay::{FreshProof, NotRecorded, ReplayCache, ReplayKey};
pub use target::PublicOrigin;

use super::verifier::names;
use crate::clock::UnixTime;
use crate::jose::{self, Algorithm, CompactJws, JwsError, Key};

/// Where a proof stands.
pub const DPOP: HeaderName = HeaderName::from_static("dpop");

/// The largest proof. One with a P-256 key takes some 500 bytes, one with a 4096-bit RSA key 2 KB, and the
/// URI of an agent's API is short.
const MAX_PROOF_BYTES: usize = 8 * 1024;

/// The longest `jti`. A UUID has 36 bytes.
const MAX_JTI_BYTES: usize = 256;

/// How far ahead of our clock a client's may be: Auth0's own libraries allow as much.
pub const IAT_LEAD: Duration = Duration::from_secs(30);

/// The length of a SHA-256 digest in base64url.
const DIGEST_LENGTH: usize = 43;

/// What a proof must satisfy, from `[dpop]` and `public_url`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProofSettings {
    /// Allowed algorithms.
    pub algorithms: Vec<Algorithm>,
    /// How long after `iat` a proof is accepted.
    pub max_age: Duration,
    /// The scheme and authority that clients use.
    pub origin: PublicOrigin,
}

/// What a token is bound to, and the token's own hash. Made with the token that it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// `cnf.jkt`.
    thumbprint: String,
    /// What `ath` must be.
    token_hash: String,
}

/// A proof by the very key that a token is bound to, if its signature holds: that is not known yet.
#[derive(Debug)]
pub struct UnverifiedProof<'p, 'b> {
    jws: CompactJws<'p>,
    key: Key,
    binding: &'b Binding,
}

/// A proof that holds for one request and one token. Whether it is new is not known yet.
#[derive(Debug)]
pub struct Proof<'b> {
    binding: &'b Binding,
    replay_key: ReplayKey,
    nonce_age: Option<NonceAge>,
}

/// The request that a proof must be for.
#[derive(Debug, Clone, Copy)]
pub struct ProofTarget<'r> {
    /// The method.
    pub method: &'r str,
    /// The path as it was received, without a query.
    pub path: &'r str,
}

/// The one proof among the headers of a request.
///
/// # Errors
///
/// [`ProofError`] when there is none, or more than one (RFC 9449 §4.3).
pub fn proof_header(headers: &HeaderMap) -> Result<&str, ProofError> {
    let mut lines = headers.get_all(DPOP).iter();
    let line = lines.next().ok_or(ProofError::Missing)?;
    if lines.next().is_some() {
        return Err(ProofError::Repeated);
    }
    let line = line.to_str().map_err(|_| ProofError::NotVisibleAscii)?;
    // RFC 9110 §5.3: a list is what several lines become on their way.
    if line.contains(',') {
        return Err(ProofError::Repeated);
    }
    Ok(line)
}

impl ProofSettings {
    /// Reads the header of a proof, and whether its key is the one that the token is bound to. So the
    /// signature check that follows is never by a stranger's choice of key. Nothing of the payload is
    /// looked at.
    ///
    /// # Errors
    ///
    /// A [`ProofError`] for a proof that no signature could save.
    pub fn read<'p, 'b>(
        &self,
        proof: &'p str,
        binding: &'b Binding,
    ) -> Result<UnverifiedProof<'p, 'b>, ProofError> {
        if proof.len() > MAX_PROOF_BYTES {
            return Err(ProofError::TooLarge {
                length: proof.len(),
            });
        }
        let (jws, jwk) = CompactJws::parse_with_jwk(proof).map_err(ProofError::Jws)?;
        check_typ(jws.header().typ.as_deref())?;
        let named = &jws.header().algorithm;
        let algorithm = Algorithm::from_name(named)
            .filter(|algorithm| self.algorithms.contains(algorithm))
            .ok_or_else(|| ProofError::AlgorithmNotAllowed {
                expected: names(&self.algorithms),
                found: named.clone(),
            })?;
        let key = Key::from_proof(&jwk, algorithm).map_err(ProofError::Key)?;
        let thumbprint = key.thumbprint();
        if !jose::same(thumbprint.as_bytes(), binding.thumbprint.as_bytes()) {
            return Err(ProofError::WrongKey);
        }
        Ok(UnverifiedProof { jws, key, binding })
    }

    /// Verifies the signature, and then that the proof is for this request, this token and this moment.
    /// With `nonces`, one of them must be in it.
    ///
    /// # Errors
    ///
    /// [`ProofError`] names the first check that fails.
    pub fn verify<'b>(
        &self,
        proof: &UnverifiedProof<'_, 'b>,
        request: ProofTarget<'_>,
        nonces: Option<&Nonces>,
        now: UnixTime,
    ) -> Result<Proof<'b>, ProofError> {
        let (payload, _) = proof
            .jws
            .verify([&proof.key])
            .map_err(|error| match error {
                JwsError::Signature => ProofError::Signature,
                other => ProofError::Jws(other),
            })?;
        let claims = jose::parse_object(payload.bytes()).map_err(ProofError::PayloadNotJson)?;
        let jti = text(&claims, "jti")?;
        if jti.is_empty() || jti.len() > MAX_JTI_BYTES {
            return Err(ProofError::Claim("jti"));
        }
        let htm = text(&claims, "htm")?;
        // RFC 9110 §9.1: methods are case-sensitive.
        if htm != request.method {
            return Err(ProofError::WrongMethod {
                found: htm.to_owned(),
            });
        }
        let htu = self.check_target(text(&claims, "htu")?, request.path)?;
        let ath = text(&claims, "ath")?;
        if !jose::same(ath.as_bytes(), proof.binding.token_hash.as_bytes()) {
            return Err(ProofError::WrongToken);
        }
        let nonce_age = nonces
            .map(|nonces| check_nonce(nonces, claims.get("nonce"), now))
            .transpose()?;
        self.check_freshness(&claims, now)?;
        let Binding { thumbprint, .. } = proof.binding;
        // None of the first three can hold a NUL, so no two uses have one text.
        let used = format!("{thumbprint}\0{htm}\0{htu}\0{jti}");
        Ok(Proof {
            binding: proof.binding,
            replay_key: ReplayKey(jose::sha256_half(used.as_bytes())),
            nonce_age,
        })
    }

    /// How long a proof that is accepted now would be accepted at most.
    #[must_use]
    pub const fn lifetime(&self) -> Duration {
        self.max_age.saturating_add(IAT_LEAD)
    }

    /// RFC 9449 §4.3: the URI without query and fragment, compared in its normal form.
    fn check_target(&self, htu: &str, path: &str) -> Result<String, ProofError> {
        let expected = self.origin.target(path);
        match (target::normal_uri(htu), expected) {
            (Some(found), Some(expected)) if found == expected => Ok(found),
            (found, expected) => Err(ProofError::WrongTarget { found, expected }),
        }
    }

    /// RFC 9449 §11.1: a proof that was made long ago, or ahead, may have been stolen since.
    fn check_freshness(
        &self,
        claims: &Map<String, Value>,
        now: UnixTime,
    ) -> Result<(), ProofError> {
        let iat = claims
            .get("iat")
            .and_then(Value::as_f64)
            .ok_or(ProofError::Claim("iat"))?;
        let now = now.as_secs_f64();
        if iat < now - self.max_age.as_secs_f64() || iat > now + IAT_LEAD.as_secs_f64() {
            return Err(ProofError::Stale { iat, now });
        }
        Ok(())
    }
}

impl Binding {
    /// The binding of a token by its `cnf.jkt`.
    pub(super) fn new(thumbprint: &str, token: &str) -> Self {
        Self {
            thumbprint: thumbprint.to_owned(),
            token_hash: jose::sha256_base64url(token.as_bytes()),
        }
    }

    /// Whether a text can be the SHA-256 thumbprint of a key.
    pub(super) fn is_thumbprint(text: &str) -> bool {
        let is_base64url = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        text.len() == DIGEST_LENGTH && text.bytes().all(is_base64url)
    }
}

impl Proof<'_> {
    /// Whether it is the proof for a token with this binding.
    #[must_use]
    pub fn is_for(&self, binding: &Binding) -> bool {
        self.binding == binding
    }

    /// What names it among used proofs.
    #[must_use]
    pub const fn replay_key(&self) -> ReplayKey {
        self.replay_key
    }

    /// How its nonce stands; `None` where none was asked for.
    #[must_use]
    pub const fn nonce_age(&self) -> Option<NonceAge> {
        self.nonce_age
    }
}

/// RFC 9449 §4.3: so that no other kind of JWS can be taken for a proof.
fn check_typ(typ: Option<&str>) -> Result<(), ProofError> {
    // RFC 7515 §4.1.9: "application/" is implied, and media types are case-insensitive.
    let is_proof = typ.is_some_and(|typ| {
        let typ = typ.to_ascii_lowercase();
        typ.strip_prefix("application/").unwrap_or(&typ) == "dpop+jwt"
    });
    if is_proof {
        Ok(())
    } else {
        Err(ProofError::TypeNotAllowed {
            found: typ.map(str::to_owned),
        })
    }
}

fn check_nonce(
    nonces: &Nonces,
    nonce: Option<&Value>,
    now: UnixTime,
) -> Result<NonceAge, ProofError> {
    let nonce = nonce.and_then(Value::as_str).unwrap_or_default();
    match nonces.judge(nonce, now) {
        NonceAge::Unknown => Err(ProofError::Nonce),
        age @ (NonceAge::Current | NonceAge::Previous) => Ok(age),
    }
}

fn text<'c>(claims: &'c Map<String, Value>, name: &'static str) -> Result<&'c str, ProofError> {
    claims
        .get(name)
        .and_then(Value::as_str)
        .ok_or(ProofError::Claim(name))
}

#[cfg(test)]
mod tests {
    use super::{Binding, ProofError, ProofSettings, ProofTarget, PublicOrigin};
    use crate::clock::UnixTime;
    use crate::jose::Algorithm;
    use std::time::Duration;

    /// RFC 9449 figures 13 and 9, and the thumbprint of figure 9's token.
    #[test]
    fn the_example_of_the_rfc_holds() {
        const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
        const JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
        const PROOF: &str = concat!(
            "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6Ik",
            "VDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCR",
            "nMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JE",
            "QSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIj",
            "oiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0Z",
            "WRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNF",
            "c05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71E",
            "OptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA",
        );
        let rules = ProofSettings {
            algorithms: vec![Algorithm::Es256],
            max_age: Duration::from_mins(5),
            origin: PublicOrigin::parse("https://resource.example.org").expect("an origin"),
        };
        let request = ProofTarget {
            method: "GET",
            path: "/protectedresource",
        };
        let now = UnixTime::from_secs(1_562_262_618);
        let verdict = |token: &str, jkt: &str| {
            let binding = Binding::new(jkt, token);
            let read = rules.read(PROOF, &binding)?;
            rules.verify(&read, request, None, now).map(|_| ())
        };
        assert_eq!(verdict(TOKEN, JKT), Ok(()));
        let other = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2";
        assert_eq!(verdict(TOKEN, other), Err(ProofError::WrongKey));
        assert_eq!(verdict("another.token", JKT), Err(ProofError::WrongToken));
    }
}
