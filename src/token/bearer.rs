//! The access token in a request's `Authorization` header (RFC 6750 §2.1, RFC 9449 §7.1).

use std::fmt;

use http::header::{AUTHORIZATION, HeaderMap};

/// A token as it was presented: syntactically a `b64token`, and nothing more is known of it.
///
/// `Debug` shows its length only, so that it cannot slip into a log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BearerToken<'h> {
    text: &'h str,
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
    pub fn from_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("bearer") {
            Some(Self::Bearer)
        } else if name.eq_ignore_ascii_case("dpop") {
            Some(Self::Dpop)
        } else {
            None
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
    access_token(headers, false)
}

/// The same, where tokens may come with a proof too.
///
/// # Errors
///
/// The same.
pub(super) fn access_token(
    headers: &HeaderMap,
    allow_dpop: bool,
) -> Result<Option<BearerToken<'_>>, AuthorizationError> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    if lines.next().is_some() {
        return Err(AuthorizationError::Repeated);
    }
    let line = line
        .to_str()
        .map_err(|_| AuthorizationError::NotVisibleAscii)?
        .trim_matches([' ', '\t']);
    if line.contains('\t') {
        return Err(AuthorizationError::NotVisibleAscii);
    }
    let (scheme, rest) = line.split_once(' ').unwrap_or((line, ""));
    match Scheme::from_name(scheme) {
        None => Ok(None),
        Some(Scheme::Dpop) if !allow_dpop => Ok(None),
        Some(scheme) => BearerToken::parse(rest.trim_start_matches(' '), scheme).map(Some),
    }
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
    /// Takes a text for a token if it has the form of one.
    pub(super) fn parse(text: &'h str, scheme: Scheme) -> Result<Self, AuthorizationError> {
        if is_b64token(text) {
            Ok(Self { text, scheme })
        } else {
            Err(AuthorizationError::NotOneToken)
        }
    }

    /// The token's text. It is a secret: it goes to the verifier and nowhere else.
    #[must_use]
    pub const fn secret(self) -> &'h str {
        self.text
    }

    /// How it is presented.
    #[must_use]
    pub const fn scheme(self) -> Scheme {
        self.scheme
    }
}

impl fmt::Debug for BearerToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BearerToken({} bytes)", self.text.len())
    }
}

#[cfg(test)]
mod tests {
    use super::{AuthorizationError, Scheme, access_token, bearer_token};
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
            let found = access_token(&headers, allow_dpop);
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
        assert_eq!(format!("{token:?}"), "BearerToken(17 bytes)");
    }
}
