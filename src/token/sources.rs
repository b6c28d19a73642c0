//! Where else than in `Authorization` a token may stand, for clients that cannot set that header:
//! `EventSource` (a query parameter) and browsers' `WebSocket` (an offered subprotocol). Both are
//! off unless configured, and wherever one stood, it is taken out before the upstream.

use http::Uri;
use http::header::{HeaderMap, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use http::uri::PathAndQuery;

use super::bearer::{self, AuthorizationError, BearerToken, Presented, Scheme};

/// How an offered subprotocol that is a token begins.
const SUBPROTOCOL_PREFIX: &str = "bearer.";

/// `[token_sources]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSources {
    /// The query parameter that may hold a token.
    pub query_parameter: Option<String>,
    /// Whether a subprotocol `bearer.TOKEN` offered in a WebSocket handshake counts.
    pub websocket_protocol: bool,
    /// Whether `Authorization` may have the scheme `DPoP`; otherwise that one is no token. No other place
    /// has room for a scheme: what stands there is a bearer token.
    pub dpop: bool,
}

impl TokenSources {
    /// Finds the one token of a request (RFC 6750 §2: a client uses one method).
    ///
    /// # Errors
    ///
    /// [`AuthorizationError`] when a token is malformed, or when there are two.
    pub fn find<'h>(
        &self,
        target: &'h Uri,
        headers: &'h HeaderMap,
        is_websocket: bool,
    ) -> Result<Option<BearerToken<'h>>, AuthorizationError> {
        let presented = self.presented(target, headers, is_websocket)?;
        presented.map(Presented::token).transpose()
    }

    /// Finds what is presented as the one token of a request, for [`TokenSources::find`].
    ///
    /// # Errors
    ///
    /// [`AuthorizationError`] when there are two, or the `Authorization` header cannot be read.
    pub fn presented<'h>(
        &self,
        target: &'h Uri,
        headers: &'h HeaderMap,
        is_websocket: bool,
    ) -> Result<Option<Presented<'h>>, AuthorizationError> {
        let mut found = bearer::presented(headers, self.dpop)?;
        let in_query = target
            .query()
            .into_iter()
            .flat_map(|query| self.in_query(query));
        let offered = self.offered(headers, is_websocket);
        for candidate in in_query.chain(offered) {
            if found.is_some() {
                return Err(AuthorizationError::Repeated);
            }
            found = Some(Presented::new(candidate.as_bytes(), Scheme::Bearer));
        }
        Ok(found)
    }

    /// Takes offered subprotocols that are tokens out of a WebSocket handshake.
    pub fn remove_offers(&self, headers: &mut HeaderMap) {
        if self.websocket_protocol {
            remove_offers(headers);
        }
    }

    fn in_query<'h>(&self, query: &'h str) -> impl Iterator<Item = &'h str> + use<'h, '_> {
        query.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            self.names_token(name).then_some(value)
        })
    }

    fn offered<'h>(
        &self,
        headers: &'h HeaderMap,
        is_websocket: bool,
    ) -> impl Iterator<Item = &'h str> + use<'h> {
        let on = self.websocket_protocol && is_websocket;
        on.then(|| offers(headers))
            .into_iter()
            .flatten()
            .filter_map(|offer| offer.strip_prefix(SUBPROTOCOL_PREFIX))
    }

    /// A backend decodes names, so an encoded spelling is the same parameter.
    fn names_token(&self, name: &str) -> bool {
        self.query_parameter
            .as_ref()
            .is_some_and(|parameter| decoded(name).eq(parameter.bytes()))
    }

    /// The target without the parameter; `None` when it has none. All other pairs stay as they are.
    #[must_use]
    pub fn target_without_token(&self, uri: &Uri) -> Option<Uri> {
        let query = uri.query()?;
        let names_token =
            |pair: &&str| self.names_token(pair.split('=').next().unwrap_or_default());
        if !query.split('&').any(|pair| names_token(&pair)) {
            return None;
        }
        let kept: Vec<&str> = query.split('&').filter(|pair| !names_token(pair)).collect();
        let target = if kept.is_empty() {
            uri.path().to_owned()
        } else {
            format!("{}?{}", uri.path(), kept.join("&"))
        };
        // A part of a valid target is a valid target; if it were not, the query goes as a whole.
        let target = PathAndQuery::try_from(target)
            .or_else(|_| uri.path().parse())
            .ok()?;
        Some(Uri::from(target))
    }
}

fn offers(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

fn remove_offers(headers: &mut HeaderMap) {
    if !offers(headers).any(|offer| offer.starts_with(SUBPROTOCOL_PREFIX)) {
        return;
    }
    let kept: Vec<&str> = offers(headers)
        .filter(|offer| !offer.starts_with(SUBPROTOCOL_PREFIX))
        .collect();
    let kept = HeaderValue::try_from(kept.join(", "))
        .ok()
        .filter(|kept| !kept.is_empty());
    headers.remove(SEC_WEBSOCKET_PROTOCOL);
    if let Some(kept) = kept {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

/// Percent-decoded bytes, with `+` for a space, as forms are read. A broken sequence stays as it is.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let digit = |byte: &u8| {
            char::from(*byte)
                .to_digit(16)
                .and_then(|digit| u8::try_from(digit).ok())
        };
        if let [b'%', high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            rest = after;
            return Some(high.wrapping_shl(4) | low);
        }
        let (first, after) = rest.split_first()?;
        rest = after;
        Some(if *first == b'+' { b' ' } else { *first })
    })
}

#[cfg(test)]
mod tests {
    use super::{AuthorizationError, BearerToken, TokenSources};
    use http::{Request, request};

    fn sources() -> TokenSources {
        TokenSources {
            query_parameter: Some("access_token".to_owned()),
            websocket_protocol: true,
            dpop: false,
        }
    }

    fn head(target: &str, headers: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn one_token_is_found_wherever_it_may_stand() {
        let offer = [("sec-websocket-protocol", "chat, bearer.a.b.c")];
        let bearer = [("authorization", "Bearer a.b.c")];
        for (target, headers, websocket, expected) in [
            ("/x?access_token=a.b.c", &[][..], false, Ok(Some("a.b.c"))),
            ("/x?y=1&access_token=a.b.c&z", &[], false, Ok(Some("a.b.c"))),
            ("/x?access%5ftoken=a.b.c", &[], false, Ok(Some("a.b.c"))),
            ("/x?access_tokens=a.b.c", &[], false, Ok(None)),
            ("/x?access_token", &[], false, Ok(None)),
            ("/x", &offer, true, Ok(Some("a.b.c"))),
            ("/x", &offer, false, Ok(None)),
            ("/x", &bearer, true, Ok(Some("a.b.c"))),
            (
                "/x?access_token=",
                &[],
                false,
                Err(AuthorizationError::NotOneToken),
            ),
            (
                "/x?access_token=a%20b",
                &[],
                false,
                Err(AuthorizationError::NotOneToken),
            ),
            (
                "/x?access_token=a&access_token=a",
                &[],
                false,
                Err(AuthorizationError::Repeated),
            ),
            (
                "/x?access_token=a",
                &bearer,
                false,
                Err(AuthorizationError::Repeated),
            ),
            (
                "/x?access_token=a",
                &offer,
                true,
                Err(AuthorizationError::Repeated),
            ),
            (
                "/x",
                &[("sec-websocket-protocol", "bearer.a, bearer.b")],
                true,
                Err(AuthorizationError::Repeated),
            ),
            (
                "/x",
                &[("sec-websocket-protocol", "bearer.")],
                true,
                Err(AuthorizationError::NotOneToken),
            ),
        ] {
            let head = head(target, headers);
            let found = sources()
                .find(&head.uri, &head.headers, websocket)
                .map(|token| token.map(BearerToken::secret));
            assert_eq!(found, expected, "{target} {headers:?}");
            if headers.is_empty() {
                let off = TokenSources::default();
                assert_eq!(
                    off.find(&head.uri, &head.headers, websocket),
                    Ok(None),
                    "{target} with all sources off"
                );
            }
        }
    }

    #[test]
    fn it_is_taken_out_and_the_rest_stays() {
        for (target, expected) in [
            ("/x?access_token=a", "/x"),
            ("/x?access_token", "/x"),
            ("/x?a=1&access_token=t&b=%2F&&c", "/x?a=1&b=%2F&&c"),
            ("/x?access%5Ftoken=t&d", "/x?d"),
            ("/x?access_token=t&access_token=u", "/x"),
            ("/x?access_tokens=t", "/x?access_tokens=t"),
            ("/x?", "/x?"),
        ] {
            let head = head(target, &[]);
            let left = sources().target_without_token(&head.uri);
            assert_eq!(left.unwrap_or(head.uri).to_string(), expected, "{target}");
        }
        for (offered, expected) in [
            ("chat, bearer.t", Some("chat")),
            ("bearer.t,a,b", Some("a, b")),
            ("bearer.t", None),
            ("chat", Some("chat")),
        ] {
            let mut head = head("/", &[("sec-websocket-protocol", offered)]);
            sources().remove_offers(&mut head.headers);
            let left = head
                .headers
                .get("sec-websocket-protocol")
                .map(|value| value.to_str().expect("visible"));
            assert_eq!(left, expected, "{offered}");
        }
    }
}
