//! The only kind of request that the upstream accepts.

use std::fmt;

use http::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use http::{Request, Version};

use crate::headers::{self, ManagedNames, Outbound};
use crate::mcp::BoundSession;
use crate::policy::Permit;
use crate::token::TokenSources;

/// A request that a [`Permit`] was given for: the request that was decided on, less the credentials that
/// end here, with what this program sets. No client's copy of a managed header is in it, and the identity
/// is the one that was judged.
pub struct AuthorizedRequest<B> {
    request: Request<B>,
}

impl<B> fmt::Debug for AuthorizedRequest<B> {
    /// Neither the target nor the fields: tokens may stand there.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizedRequest")
            .field("method", self.request.method())
            .finish_non_exhaustive()
    }
}

/// What is set and taken out when a permitted request is forwarded.
#[derive(Debug, Clone, Copy)]
pub struct Forwarding<'r> {
    /// The names that only this program may set.
    pub managed: &'r ManagedNames,
    /// Where the request may have held a token.
    pub token_sources: &'r TokenSources,
    /// The session of an MCP server, where sessions are bound to their caller.
    pub session: Option<&'r BoundSession>,
    /// What the upstream is told beside.
    pub outbound: Outbound<'r>,
}

impl<B> AuthorizedRequest<B> {
    /// The request that a permit was given for, as the upstream gets it. `forwarding.outbound.identity` is
    /// set from the permit, whatever it was.
    #[must_use]
    pub fn new(permit: &Permit<'_>, body: B, forwarding: &Forwarding<'_>) -> Self {
        let permitted = permit.request();
        let outbound = Outbound {
            identity: permit.identity().map(AsRef::as_ref),
            ..forwarding.outbound
        };
        let mut request = Request::new(body);
        *request.method_mut() = permitted.method().clone();
        *request.uri_mut() = forwarding
            .token_sources
            .target_without_token(permitted.target())
            .unwrap_or_else(|| permitted.target().clone());
        *request.version_mut() = Version::HTTP_11;
        let headers = request.headers_mut();
        *headers = headers::request_headers(permitted.headers(), forwarding.managed, &outbound);
        if let Some(session) = forwarding.session {
            session.apply(headers);
        }
        if permitted.is_websocket() {
            forwarding.token_sources.remove_offers(headers);
            ask_for_websocket(headers);
        }
        Self { request }
    }

    /// The request, for sending it.
    pub(crate) fn into_request(self) -> Request<B> {
        self.request
    }
}

/// Asks for the upgrade that the client asked for (RFC 6455 §4.1).
fn ask_for_websocket(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

#[cfg(test)]
mod tests {
    use super::AuthorizedRequest;
    use http::Request;

    #[test]
    fn debug_shows_no_token() {
        let request = Request::get("/x?access_token=geheim")
            .header("authorization", "Bearer geheim")
            .header("x-auth-claims", "geheim")
            .body("geheim")
            .expect("a request");
        let authorized = AuthorizedRequest { request };
        for shown in [format!("{authorized:?}"), format!("{authorized:#?}")] {
            assert!(shown.contains("GET"), "{shown}");
            assert!(!shown.contains("geheim"), "{shown}");
        }
    }
}
