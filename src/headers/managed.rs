//! Request headers that a client can never send to the upstream.
//!
//! Many backends fold `_`, `-`, `.` and case when they look a header up, so a name counts with all
//! its spellings (CVE-2025-64484, CVE-2026-88011).

use http::header::HeaderName;

/// Always managed, whatever is configured: what this program sets itself, and what makes some
/// backend believe in another method, path, address or client than the one that was decided on.
const ALWAYS: [&str; 18] = [
    "client-cert",
    "client-cert-chain",
    "dpop",
    "forwarded",
    "http2-settings",
    "proxy",
    "proxy-authorization",
    "traceparent",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-method",
    "x-original-uri",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-uri",
    "x-rewrite-url",
];

/// The family of headers with which proxies speak; a client is no proxy.
const FORWARDED_PREFIX: &str = "x-forwarded-";

/// What frames a message. These names pass as they are spelled in HTTP, which was checked; another
/// spelling means nothing here and the same thing to a backend that folds.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// What a trusted proxy in front says of its client, and nothing else: it may itself relay whatever
/// a stranger sent under other names.
const FROM_TRUSTED_PROXIES: [&str; 4] = [
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
];

/// The set of managed names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedNames {
    /// Folded; these are removed whoever the peer is.
    names: Vec<String>,
}

impl ManagedNames {
    /// The built-in names and `further` ones.
    pub fn new<'n>(further: impl IntoIterator<Item = &'n HeaderName>) -> Self {
        let further = further.into_iter().map(HeaderName::as_str);
        let mut names: Vec<String> = ALWAYS.into_iter().chain(further).map(fold_text).collect();
        names.sort();
        names.dedup();
        Self { names }
    }

    /// Whether a header of the client's must be removed. What a trusted proxy says of its client may
    /// stay, spelled as proxies spell it.
    #[must_use]
    pub fn covers(&self, name: &HeaderName, peer_is_trusted: bool) -> bool {
        let name = name.as_str();
        if peer_is_trusted && FROM_TRUSTED_PROXIES.contains(&name) {
            return false;
        }
        let is_other_framing = FRAMING
            .iter()
            .any(|framing| name != *framing && is_folded(name, framing));
        is_other_framing || has_folded_prefix(name, FORWARDED_PREFIX) || self.holds(name)
    }

    /// Whether two names are spellings of one.
    #[must_use]
    pub fn alike(one: &HeaderName, other: &HeaderName) -> bool {
        is_folded(one.as_str(), &fold_text(other.as_str()))
    }

    fn holds(&self, name: &str) -> bool {
        self.names.iter().any(|folded| is_folded(name, folded))
    }
}

/// Names with a meaning in HTTP of their own, or that this program sets for another purpose.
#[must_use]
pub fn may_carry_identity(name: &HeaderName) -> bool {
    const RESERVED: [&str; 31] = [
        "accept",
        "accept-encoding",
        "accept-language",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "date",
        "expect",
        "host",
        "keep-alive",
        "origin",
        "pragma",
        "range",
        "referer",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-port",
        "x-forwarded-proto",
        "tracestate",
        "location",
    ];
    let folded = fold_text(name.as_str());
    !RESERVED.contains(&folded.as_str())
        && !ALWAYS.contains(&folded.as_str())
        && !folded.starts_with("proxy-")
}

/// Header names are lower case already in `http`; what is not a letter or digit becomes a hyphen.
pub(super) const fn fold(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() {
        byte.to_ascii_lowercase()
    } else {
        b'-'
    }
}

fn fold_text(name: &str) -> String {
    name.bytes().map(fold).map(char::from).collect()
}

fn is_folded(name: &str, folded: &str) -> bool {
    name.len() == folded.len() && name.bytes().map(fold).eq(folded.bytes())
}

fn has_folded_prefix(name: &str, prefix: &str) -> bool {
    name.len() >= prefix.len()
        && name
            .bytes()
            .map(fold)
            .zip(prefix.bytes())
            .all(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use super::{ManagedNames, may_carry_identity};
    use http::header::HeaderName;

    fn name(text: &str) -> HeaderName {
        HeaderName::from_bytes(text.as_bytes()).expect(text)
    }

    #[test]
    fn every_spelling_is_covered() {
        let managed = ManagedNames::new(&[name("x-forwarded-user"), name("x-mastra-client-type")]);
        for spelling in [
            "x-forwarded-user",
            "X-Forwarded-User",
            "x_forwarded_user",
            "x.forwarded.user",
            "X-FORWARDED_USER",
            "x!forwarded~user",
            "x-forwarded-email",
            "x_forwarded_for",
            "X.Forwarded.Host",
            "forwarded",
            "x-real-ip",
            "x_real_ip",
            "X-Mastra-Client-Type",
            "x_mastra.client-type",
            "x-original-url",
            "x_rewrite_url",
            "X-HTTP-Method-Override",
            "proxy",
            "dpop",
            "client-cert",
            "x_request_id",
            "traceparent",
            "http2-settings",
            "content_length",
            "Content.Length",
            "transfer_encoding",
        ] {
            assert!(managed.covers(&name(spelling), false), "{spelling}");
        }
        for other in [
            "accept",
            "content-length",
            "content-type",
            "transfer-encoding",
            "x-forward",
            "x-forwardeduser",
            "x-tenant",
            "tracestate",
            "cookie",
            "mcp-session-id",
        ] {
            assert!(!managed.covers(&name(other), false), "{other}");
        }
    }

    #[test]
    fn a_trusted_proxy_may_forward_but_not_identify() {
        let managed = ManagedNames::new(&[name("x-forwarded-user")]);
        for allowed in [
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "accept",
        ] {
            assert!(!managed.covers(&name(allowed), true), "{allowed}");
        }
        for refused in [
            "x-forwarded-email",
            "x-forwarded-prefix",
            "forwarded",
            "x-real-ip",
            "x-forwarded-user",
            "x_forwarded_user",
            "x_forwarded_for",
            "x-original-url",
            "x-request-id",
        ] {
            assert!(managed.covers(&name(refused), true), "{refused}");
        }
    }

    #[test]
    fn identity_needs_a_name_of_its_own() {
        for fine in ["x-forwarded-user", "x-auth-sub", "x-org-id", "remote-user"] {
            assert!(may_carry_identity(&name(fine)), "{fine}");
        }
        for reserved in [
            "host",
            "authorization",
            "Content_Length",
            "x-forwarded-for",
            "via",
            "x-request-id",
            "proxy-user",
            "traceparent",
        ] {
            assert!(!may_carry_identity(&name(reserved)), "{reserved}");
        }
    }
}
