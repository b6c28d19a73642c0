//! The checks on a payload whose signature holds: one function each, with the rule it enforces.

use serde_json::Value;

use super::dpop::Binding;
use super::rejection::Rejection;
use super::verifier::VerifierSettings;
use crate::claims::Claims;
use crate::clock::UnixTime;

/// The longest `sub` that is accepted. Auth0's are under 255 bytes; some identity providers put
/// whole distinguished names there.
const MAX_SUBJECT_BYTES: usize = 2048;

/// How far ahead `iat` may lie: further, and somebody's clock or the token is wrong. It equals the
/// largest clock tolerance that can be configured.
const IAT_LEAD_SECONDS: f64 = 60.0;

/// Which `typ` header values are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TypPolicy {
    /// Absent, `JWT` or `at+jwt`: all four Auth0 dialects.
    Any,
    /// RFC 9068 only: `at+jwt`, with the claims that profile requires.
    AtJwt,
}

/// One check on the claims of a token whose signature holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimCheck {
    /// `iss` is the issuer whose key signed.
    Issuer,
    /// `aud` names this API.
    Audience,
    /// `exp` is not over.
    Expiry,
    /// `nbf` is over.
    NotBefore,
    /// `iat` is over.
    IssuedAt,
    /// `iat` is not too far back.
    Age,
    /// `cnf` is not there, or names a key that can be asked for a proof.
    Confirmation,
    /// What `auth0.token_type` asks for beside `typ`.
    Profile,
    /// `sub` is there and sound.
    Subject,
    /// `sub` is no anonymous session.
    Anonymous,
}

impl ClaimCheck {
    /// Every check, in the order in which they are made.
    pub const ALL: [Self; 10] = [
        Self::Issuer,
        Self::Audience,
        Self::Expiry,
        Self::NotBefore,
        Self::IssuedAt,
        Self::Age,
        Self::Confirmation,
        Self::Profile,
        Self::Subject,
        Self::Anonymous,
    ];

    /// Makes the check. `issuer` is the one whose key signed.
    pub(super) fn run(
        self,
        claims: &Claims,
        settings: &VerifierSettings,
        issuer: &str,
        now: UnixTime,
    ) -> Result<(), Rejection> {
        match self {
            Self::Issuer => check_issuer(claims, issuer),
            Self::Audience => check_audience(claims, &settings.audiences),
            Self::Expiry => check_expiry(claims, settings, now).map(|_| ()),
            Self::NotBefore => check_not_before(claims, settings, now),
            Self::IssuedAt => check_issued_at(claims, now),
            Self::Age => check_age(claims, settings, now),
            Self::Confirmation => check_confirmation(claims, settings.bound_tokens).map(|_| ()),
            Self::Profile => check_profile(claims, settings.typ),
            Self::Subject => check_subject(claims).map(|_| ()),
            Self::Anonymous => check_anonymous(claims, settings.allow_anonymous),
        }
    }
}

/// RFC 8725 §3.11, RFC 9068 §4: an ID token, a `DPoP` proof or a logout token is no access token.
pub(super) fn check_typ(typ: Option<&str>, policy: TypPolicy) -> Result<(), Rejection> {
    // RFC 7515 §4.1.9: "application/" is implied, and media types are case-insensitive.
    let short = typ.map(|typ| {
        let lower = typ.to_ascii_lowercase();
        lower
            .strip_prefix("application/")
            .map_or(lower.clone(), str::to_owned)
    });
    let expected = match policy {
        TypPolicy::Any => "at+jwt, JWT or none",
        TypPolicy::AtJwt => "at+jwt",
    };
    let accepted = match (short.as_deref(), policy) {
        (Some("at+jwt"), _) | (Some("jwt") | None, TypPolicy::Any) => true,
        (_, TypPolicy::Any | TypPolicy::AtJwt) => false,
    };
    if accepted {
        Ok(())
    } else {
        Err(Rejection::TypeNotAllowed {
            expected,
            found: typ.map(str::to_owned),
        })
    }
}

/// RFC 9068 §4, RFC 8725 §3.8: code point for code point, and only with a key of that issuer.
fn check_issuer(claims: &Claims, expected: &str) -> Result<(), Rejection> {
    let found = required_string(claims, "iss")?;
    if found == expected {
        Ok(())
    } else {
        Err(Rejection::WrongIssuer {
            expected: expected.to_owned(),
            found: found.to_owned(),
        })
    }
}

/// RFC 7519 §4.1.3, RFC 9068 §4: a string or an array of strings, one of which is accepted.
///
/// # Errors
///
/// A [`Rejection`] when there is none of them, or `aud` is something else.
pub fn check_audience(claims: &Claims, accepted: &[String]) -> Result<(), Rejection> {
    const MALFORMED: Rejection = Rejection::MalformedClaim {
        claim: "aud",
        expected: "a string or an array of strings",
    };
    let found: Vec<&str> = match claims.get("aud") {
        None => return Err(Rejection::MissingClaim { claim: "aud" }),
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many
            .iter()
            .map(|entry| entry.as_str().ok_or(MALFORMED))
            .collect::<Result<_, _>>()?,
        Some(_) => return Err(MALFORMED),
    };
    if accepted.iter().any(|one| found.contains(&one.as_str())) {
        Ok(())
    } else {
        let found = found.into_iter().map(str::to_owned).collect();
        let expected = accepted.to_vec();
        Err(Rejection::WrongAudience { expected, found })
    }
}

/// RFC 7519 §4.1.4: `exp` is required. Returns it.
pub(super) fn check_expiry(
    claims: &Claims,
    settings: &VerifierSettings,
    now: UnixTime,
) -> Result<f64, Rejection> {
    let now = now.as_secs_f64();
    let exp = numeric_date(claims, "exp")?.ok_or(Rejection::MissingClaim { claim: "exp" })?;
    if now >= exp + settings.clock_tolerance.as_secs_f64() {
        return Err(Rejection::Expired { exp, now });
    }
    Ok(exp)
}

/// RFC 7519 §4.1.5.
fn check_not_before(
    claims: &Claims,
    settings: &VerifierSettings,
    now: UnixTime,
) -> Result<(), Rejection> {
    let now = now.as_secs_f64();
    match numeric_date(claims, "nbf")? {
        Some(nbf) if nbf > now + settings.clock_tolerance.as_secs_f64() => {
            Err(Rejection::NotYetValid {
                claim: "nbf",
                value: nbf,
                now,
            })
        }
        _ => Ok(()),
    }
}

/// RFC 7519 §4.1.6: it says when, and so cannot lie in the future.
fn check_issued_at(claims: &Claims, now: UnixTime) -> Result<(), Rejection> {
    let now = now.as_secs_f64();
    match numeric_date(claims, "iat")? {
        Some(iat) if iat > now + IAT_LEAD_SECONDS => Err(Rejection::NotYetValid {
            claim: "iat",
            value: iat,
            now,
        }),
        _ => Ok(()),
    }
}

/// `auth0.max_token_age`, from `iat` on.
fn check_age(claims: &Claims, settings: &VerifierSettings, now: UnixTime) -> Result<(), Rejection> {
    let Some(max_age) = settings.max_token_age else {
        return Ok(());
    };
    let now = now.as_secs_f64();
    let iat = numeric_date(claims, "iat")?.ok_or(Rejection::MissingClaim { claim: "iat" })?;
    let max_age = max_age.as_secs_f64();
    if now > iat + max_age + settings.clock_tolerance.as_secs_f64() {
        return Err(Rejection::TooOld { iat, now, max_age });
    }
    Ok(())
}

/// RFC 7519 §4.1.2 leaves `sub` optional; the upstream is promised one, so it is required here.
pub(super) fn check_subject(claims: &Claims) -> Result<&str, Rejection> {
    let sub = required_string(claims, "sub")?;
    if sub.is_empty() || sub.len() > MAX_SUBJECT_BYTES || sub.chars().any(char::is_control) {
        return Err(Rejection::MalformedClaim {
            claim: "sub",
            expected: "a non-empty string of at most 2048 bytes without control characters",
        });
    }
    Ok(sub)
}

/// Auth0 anonymous sessions count only where `auth0.allow_anonymous` says so.
fn check_anonymous(claims: &Claims, allow_anonymous: bool) -> Result<(), Rejection> {
    if !allow_anonymous && is_anonymous(required_string(claims, "sub")?) {
        return Err(Rejection::Anonymous);
    }
    Ok(())
}

/// How Auth0 begins the `sub` of an anonymous session.
pub(super) fn is_anonymous(sub: &str) -> bool {
    sub.starts_with("anon@")
}

/// RFC 7800 §3.1, RFC 9449 §6.1, RFC 8705 §3: a bound token taken as a plain bearer token loses its
/// protection, so a binding that is not enforced refuses it. Returns `cnf.jkt`. Other members may stand
/// beside it, but not a certificate's: that would have to be enforced as well.
pub(super) fn check_confirmation(
    claims: &Claims,
    bound_tokens: bool,
) -> Result<Option<&str>, Rejection> {
    let Some(confirmation) = claims.get("cnf") else {
        return Ok(None);
    };
    let thumbprint = confirmation
        .get("jkt")
        .filter(|_| bound_tokens && confirmation.get("x5t#S256").is_none());
    match thumbprint {
        None => Err(Rejection::SenderConstrained),
        Some(Value::String(thumbprint)) if Binding::is_thumbprint(thumbprint) => {
            Ok(Some(thumbprint))
        }
        Some(_) => Err(Rejection::MalformedClaim {
            claim: "cnf",
            expected: "an object with the SHA-256 thumbprint of a key in jkt",
        }),
    }
}

/// RFC 9068 §2.2: what that profile requires beyond the checks every token passes.
fn check_profile(claims: &Claims, policy: TypPolicy) -> Result<(), Rejection> {
    match policy {
        TypPolicy::Any => Ok(()),
        TypPolicy::AtJwt => {
            required_string(claims, "client_id")?;
            required_string(claims, "jti")?;
            numeric_date(claims, "iat")?
                .map(|_| ())
                .ok_or(Rejection::MissingClaim { claim: "iat" })
        }
    }
}

fn required_string<'c>(claims: &'c Claims, claim: &'static str) -> Result<&'c str, Rejection> {
    claims
        .string(claim)
        .map_err(|error| Rejection::wrong_type(claim, &error))?
        .ok_or(Rejection::MissingClaim { claim })
}

/// RFC 7519 §2 `NumericDate`: a JSON number, fractions allowed, strings never (CVE-2026-25537).
fn numeric_date(claims: &Claims, claim: &'static str) -> Result<Option<f64>, Rejection> {
    match claims.get(claim) {
        None => Ok(None),
        Some(value) => value.as_f64().map(Some).ok_or(Rejection::MalformedClaim {
            claim,
            expected: "a number",
        }),
    }
}
