//! The access token in a request's `Authorization` header (RFC 6750 §2.1, RFC 9449 §7.1).

use std::fmt;

use http::header::{AUTHORIZATION, HeaderMap};

use crate::secret::Secret;

/// A token as it was presented: syntactically a `b64token`, and nothing more is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BearerToken<'h> {
    text: Secret<&'h str>,
    scheme: Scheme,
}

/// How a token is presented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// For whoever holds it.
    Bearer,
    /// Together with a proof of the key that it is bound to.
    Dpop,
}

/// Why an `Authorization` header cannot be read. All of these are the client's mistake (400).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationError {
    /// Two or more `Authorization` lines (the field is a singleton, RFC 9110 §11.6.2), or tokens in
    /// two places.
    Repeated,
    /// The scheme is known, or a token stands elsewhere, and what follows is not one token.
    NotOneToken,
    /// Bytes that no header of this kind has.
    NotVisibleAscii,
}

impl fmt::Display for AuthorizationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Repeated => "more than one Authorization header or token",
            Self::NotOneToken => "a credential is not exactly one token",
            Self::NotVisibleAscii => "Authorization holds bytes outside visible ASCII",
        })
    }
}

impl std::error::Error for AuthorizationError {}

impl Scheme {
    /// The scheme of this name; RFC 9110 §11.1: names are case-insensitive.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        if name.eq_ignore_ascii_case(b"bearer") {
            Some(Self::Bearer)
        } else if name.eq_ignore_ascii_case(b"dpop") {
            Some(Self::Dpop)
        } else {
            None
        }
    }
}

/// What stands where a token should, not looked at yet. A token that is remembered as a whole needs no
/// look at its form, which takes longer than finding it.
#[derive(Debug, Clone, Copy)]
pub struct Presented<'h> {
    bytes: Secret<&'h [u8]>,
    scheme: Scheme,
}

impl<'h> Presented<'h> {
    pub(super) const fn new(bytes: &'h [u8], scheme: Scheme) -> Self {
        let bytes = Secret::new(bytes);
        Self { bytes, scheme }
    }

    /// The bytes. They are a secret, as [`BearerToken::secret`] is.
    #[must_use]
    pub const fn secret(self) -> &'h [u8] {
        self.bytes.expose()
    }

    /// How the token is presented.
    #[must_use]
    pub const fn scheme(self) -> Scheme {
        self.scheme
    }

    /// The token, if it has the form of one.
    ///
    /// # Errors
    ///
    /// [`AuthorizationError`] when it has not.
    pub fn token(self) -> Result<BearerToken<'h>, AuthorizationError> {
        let (bytes, scheme) = (self.secret(), self.scheme);
        let text = std::str::from_utf8(bytes).ok();
        match text.filter(|text| is_b64token(text)) {
            Some(text) => Ok(BearerToken {
                text: Secret::new(text),
                scheme,
            }),
            None if is_visible(bytes) => Err(AuthorizationError::NotOneToken),
            None => Err(AuthorizationError::NotVisibleAscii),
        }
    }
}

/// Finds the bearer token of a request; `None` when there is no `Authorization` header or it uses
/// another scheme, which counts as no token.
///
/// # Errors
///
/// [`AuthorizationError`] when the header is there and is not exactly one well-formed credential.
pub fn bearer_token(headers: &HeaderMap) -> Result<Option<BearerToken<'_>>, AuthorizationError> {
    presented(headers, false)?.map(Presented::token).transpose()
}

/// Finds what is presented as the access token; with the scheme `DPoP` too, where proofs are taken.
pub(super) fn presented(
    headers: &HeaderMap,
    allow_dpop: bool,
) -> Result<Option<Presented<'_>>, AuthorizationError> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(AuthorizationError::Repeated);
    }
    // The field's value is without white space around it, as the grammar has it; HTTP/2 may leave some.
    let line = line.as_bytes().trim_ascii();
    let end = line.iter().position(|byte| *byte == b' ');
    let (scheme, rest) = line.split_at(end.unwrap_or(line.len()));
    let scheme = Scheme::from_name(scheme).filter(|scheme| match scheme {
        Scheme::Bearer => true,
        Scheme::Dpop => allow_dpop,
    });
    if let Some(scheme) = scheme {
        // RFC 9110 §11.4: spaces, and no tab.
        let start = rest.iter().position(|byte| *byte != b' ');
        let rest = rest.get(start.unwrap_or(rest.len())..).unwrap_or_default();
        return Ok(Some(Presented::new(rest, scheme)));
    }
    if is_visible(line) {
        Ok(None)
    } else {
        Err(AuthorizationError::NotVisibleAscii)
    }
}

fn is_visible(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// RFC 6750 §2.1: `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="`.
fn is_b64token(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let allowed = |byte: u8| {
        byte.is_ascii_alphanumeric() | matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
    };
    // Without an early end the loop is over many bytes at once; good tokens are looked at whole anyway.
    !body.is_empty() & body.bytes().fold(true, |all, byte| all & allowed(byte))
}

impl<'h> BearerToken<'h> {
    /// The token's text. It is a secret: it goes to the verifier and nowhere else.
    #[must_use]
    pub const fn secret(self) -> &'h str {
        self.text.expose()
    }

    /// How it is presented.
    #[must_use]
    pub const fn scheme(self) -> Scheme {
        self.scheme
    }
}

#[cfg(test)]
mod tests {
    use super::{AuthorizationError, Presented, Scheme, bearer_token, presented};
    use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};

    fn headers(lines: &[&[u8]]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(
                AUTHORIZATION,
                HeaderValue::from_bytes(line).expect("a header value"),
            );
        }
        headers
    }

    #[test]
    fn one_bearer_token_in_any_case() {
        for line in [
            "Bearer abc.def.ghi",
            "bearer abc.def.ghi",
            "BEARER abc.def.ghi",
            "BeArEr   abc.def.ghi",
            "Bearer abc.def.ghi ",
        ] {
            let headers = headers(&[line.as_bytes()]);
            let token = bearer_token(&headers)
                .expect("well-formed")
                .expect("a token");
            assert_eq!(token.secret(), "abc.def.ghi", "{line}");
        }
    }

    #[test]
    fn other_schemes_are_no_token() {
        for lines in [
            &[][..],
            &[&b"Basic dXNlcjpwYXNz"[..]],
            &[b"DPoP abc"],
            &[b"Bearerabc"],
            &[b""],
            &[b"MAC id=1"],
        ] {
            assert_eq!(
                bearer_token(&headers(lines)).map(|token| token.is_some()),
                Ok(false),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn malformed_credentials_are_errors() {
        use AuthorizationError::{NotOneToken, NotVisibleAscii, Repeated};
        for (lines, expected) in [
            (&[&b"Bearer"[..]][..], NotOneToken),
            (&[b"Bearer "], NotOneToken),
            (&[b"Bearer a b"], NotOneToken),
            (&[b"Bearer a,b"], NotOneToken),
            (&[b"Bearer a, Bearer b"], NotOneToken),
            (&[b"Bearer {\"alg\":\"RS256\"}"], NotOneToken),
            (&[b"Bearer \"a\""], NotOneToken),
            (&[b"Bearer ==="], NotOneToken),
            (&[b"Bearer a=b"], NotOneToken),
            (&[b"Bearer\ta"], NotVisibleAscii),
            (&[b"Bearer \ta"], NotVisibleAscii),
            (&[b"Bearer a\xff"], NotVisibleAscii),
            (&[b"Bearer a", b"Bearer a"], Repeated),
            (&[b"Bearer a", b"Basic b"], Repeated),
            (&[b"", b"Bearer a"], Repeated),
        ] {
            assert_eq!(bearer_token(&headers(lines)), Err(expected), "{lines:?}");
        }
    }

    #[test]
    fn the_scheme_of_proofs_counts_where_it_is_allowed() {
        for (line, allow_dpop, expected) in [
            ("DPoP abc", true, Ok(Some(Scheme::Dpop))),
            ("dpop abc", true, Ok(Some(Scheme::Dpop))),
            ("DPOP   abc", true, Ok(Some(Scheme::Dpop))),
            ("Bearer abc", true, Ok(Some(Scheme::Bearer))),
            ("DPoP abc", false, Ok(None)),
            ("DPoPabc", true, Ok(None)),
            ("DPoP", true, Err(AuthorizationError::NotOneToken)),
            ("DPoP a b", true, Err(AuthorizationError::NotOneToken)),
            (
                "DPoP a, Bearer b",
                true,
                Err(AuthorizationError::NotOneToken),
            ),
        ] {
            let headers = headers(&[line.as_bytes()]);
            let found = presented(&headers, allow_dpop);
            let found = found.and_then(|found| found.map(Presented::token).transpose());
            let found = found.map(|token| token.map(super::BearerToken::scheme));
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn debug_does_not_show_the_token() {
        let headers = headers(&[b"Bearer very.secret.token"]);
        let token = bearer_token(&headers)
            .expect("well-formed")
            .expect("a token");
        assert!(!format!("{token:?}").contains(token.secret()));
    }
}
