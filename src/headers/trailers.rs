//! The trailer fields of an answer: what may follow a body.
//!
//! Whoever merges trailers into the head would take these for fields that the head was decided by
//! (RFC 9110 §6.5.1), so they end here. All others pass, `grpc-status` among them.

use http::header::{HeaderMap, HeaderName};

/// Fields that mean something only in front of a body, beside the families below.
const FORBIDDEN: [&str; 38] = [
    // About this connection, and the framing.
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Routing, and how a request is to be read.
    "expect",
    "host",
    "max-forwards",
    "range",
    // Who somebody is.
    "authentication-info",
    "authorization",
    "clear-site-data",
    "cookie",
    "cookie2",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "set-cookie",
    "set-cookie2",
    "www-authenticate",
    // How the answer is to be taken and kept.
    "age",
    "alt-svc",
    "cache-control",
    "cdn-cache-control",
    "date",
    "expires",
    "location",
    "pragma",
    "refresh",
    "retry-after",
    "strict-transport-security",
    "timing-allow-origin",
    "vary",
    "warning",
    "x-frame-options",
    "x-request-id",
];

/// The format of the body, and what browsers are allowed to do with it.
const FORBIDDEN_FAMILIES: [&str; 3] = ["access-control-", "content-", "cross-origin-"];

/// Made to be known only after the body (RFC 9530 §2).
const CONTENT_DIGEST: &str = "content-digest";

/// Drops the trailer fields that no trailer may be.
pub fn rewrite_trailers(trailers: &mut HeaderMap) {
    let forbidden: Vec<HeaderName> = trailers
        .keys()
        .filter(|name| is_forbidden(name.as_str()))
        .cloned()
        .collect();
    for name in forbidden {
        trailers.remove(name);
    }
}

fn is_forbidden(name: &str) -> bool {
    let of_family = FORBIDDEN_FAMILIES
        .iter()
        .any(|family| name.starts_with(family));
    (of_family && name != CONTENT_DIGEST) || FORBIDDEN.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::rewrite_trailers;
    use http::header::{HeaderMap, HeaderName, HeaderValue};

    fn passes(name: &str) -> bool {
        let name = HeaderName::from_bytes(name.as_bytes()).expect(name);
        let mut trailers = HeaderMap::new();
        trailers.append(name.clone(), HeaderValue::from_static("1"));
        trailers.append(name, HeaderValue::from_static("2"));
        rewrite_trailers(&mut trailers);
        assert!(matches!(trailers.len(), 0 | 2), "{trailers:?}");
        !trailers.is_empty()
    }

    #[test]
    fn what_decides_about_a_message_is_no_trailer() {
        for name in [
            "Transfer-Encoding",
            "content-length",
            "content-type",
            "content-encoding",
            "content-security-policy",
            "host",
            "connection",
            "set-cookie",
            "www-authenticate",
            "authorization",
            "cache-control",
            "vary",
            "location",
            "access-control-allow-origin",
            "Access-Control-Expose-Headers",
            "trailer",
            "te",
            "upgrade",
        ] {
            assert!(!passes(name), "{name}");
        }
    }

    #[test]
    fn what_is_known_after_the_body_is() {
        for name in [
            "grpc-status",
            "grpc-message",
            "grpc-status-details-bin",
            "server-timing",
            "content-digest",
            "repr-digest",
            "etag",
            "x-checksum",
            "x-content-type",
        ] {
            assert!(passes(name), "{name}");
        }
    }
}
