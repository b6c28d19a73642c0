//! The only kind of request that the upstream accepts.

use http::header::HeaderValue;
use http::{Request, Uri, Version, request};

use crate::headers::{self, ManagedNames, Outbound};
use crate::policy::Permit;

/// A request that a [`Permit`] was given for, with headers made anew: no client's copy of a managed
/// header is in it, and the identity is the one that was judged.
#[derive(Debug)]
pub struct AuthorizedRequest<B> {
    request: Request<B>,
}

impl<B> AuthorizedRequest<B> {
    /// The request that a permit was given for, as the upstream gets it. `outbound.identity` is set from
    /// the permit, whatever it was.
    #[must_use]
    pub fn new(
        permit: &Permit,
        head: &request::Parts,
        body: B,
        managed: &ManagedNames,
        outbound: &Outbound<'_>,
    ) -> Self {
        let outbound = Outbound {
            identity: permit.identity().map(AsRef::as_ref),
            ..*outbound
        };
        let mut request = Request::new(body);
        *request.method_mut() = head.method.clone();
        // Origin form, byte for byte as the client sent it; where there was no path it is the root that
        // was decided on, and the root is what an empty target must be sent as (RFC 9112 §3.2.1).
        *request.uri_mut() = head
            .uri
            .path_and_query()
            .cloned()
            .map(Uri::from)
            .filter(|target| !target.path().is_empty())
            .unwrap_or_default();
        *request.version_mut() = Version::HTTP_11;
        *request.headers_mut() = headers::request_headers(&head.headers, managed, &outbound);
        Self { request }
    }

    /// Asks for the upgrade that the client asked for; the connection fields are made anew.
    #[must_use]
    pub fn upgrading_to_websocket(mut self) -> Self {
        let headers = self.request.headers_mut();
        headers.insert(
            http::header::CONNECTION,
            HeaderValue::from_static("upgrade"),
        );
        headers.insert(http::header::UPGRADE, HeaderValue::from_static("websocket"));
        self
    }

    /// The request, for sending it.
    pub(crate) fn into_request(self) -> Request<B> {
        self.request
    }
}
