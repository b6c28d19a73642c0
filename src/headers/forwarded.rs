//! Who is asking, by the connection: `X-Forwarded-*`, and `Forwarded` (RFC 7239).

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

use super::host::Host;
use super::joined;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What the request said of the way that it has come. Read before anything is removed.
#[derive(Debug)]
pub(super) struct Before {
    /// The `X-Forwarded-For` of a trusted peer.
    addresses: Option<String>,
    /// The `Forwarded` of a trusted peer, if something can be added to it.
    elements: Option<String>,
    /// Whether there was a `Forwarded` at all.
    has_forwarded: bool,
}

impl Before {
    pub(super) fn of(headers: &HeaderMap, peer_is_trusted: bool) -> Self {
        let said = |name| peer_is_trusted.then(|| joined(headers, &name)).flatten();
        Self {
            addresses: said(X_FORWARDED_FOR),
            elements: said(FORWARDED).filter(|elements| is_closed(elements)),
            has_forwarded: headers.contains_key(FORWARDED),
        }
    }

    /// Adds the peer to what was said. What a trusted proxy said of scheme and host stays in
    /// `X-Forwarded-*`; `Forwarded` is for backends that were given one before.
    pub(super) fn extend(
        self,
        headers: &mut HeaderMap,
        peer: Option<&HeaderValue>,
        host: &Host,
        scheme: &'static str,
    ) {
        if let Some(addresses) = added(self.addresses, peer) {
            headers.insert(X_FORWARDED_FOR, addresses);
        }
        headers
            .entry(X_FORWARDED_PROTO)
            .or_insert(HeaderValue::from_static(scheme));
        headers
            .entry(X_FORWARDED_HOST)
            .or_insert_with(|| host.value().clone());
        if self.has_forwarded {
            let element = HeaderValue::try_from(element(peer, host, scheme)).ok();
            if let Some(elements) = added(self.elements, element.as_ref()) {
                headers.insert(FORWARDED, elements);
            }
        }
    }
}

/// A list with one more at its end.
fn added(list: Option<String>, element: Option<&HeaderValue>) -> Option<HeaderValue> {
    let list = match (list, element) {
        (None, element) => return element.cloned(),
        (Some(list), None) => list,
        (Some(list), Some(element)) => format!("{list}, {}", element.to_str().ok()?),
    };
    HeaderValue::try_from(list).ok()
}

/// RFC 7239 §4 and §6. A host is quoted for its colon; it is checked, so nothing in it needs escaping.
fn element(peer: Option<&HeaderValue>, host: &Host, scheme: &str) -> String {
    let peer = peer.and_then(|peer| peer.to_str().ok());
    let node = match peer {
        Some(peer) if peer.contains(':') => format!("\"[{peer}]\""),
        Some(peer) => peer.to_owned(),
        None => "unknown".to_owned(),
    };
    let host = host.value().to_str().unwrap_or_default();
    format!("for={node};host=\"{host}\";proto={scheme}")
}

/// Whether no quoted string is open at the end, which would swallow what is added.
fn is_closed(text: &str) -> bool {
    let mut quoted = false;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '"' => quoted = !quoted,
            '\\' if quoted => {
                characters.next();
            }
            _ => {}
        }
    }
    !quoted
}

#[cfg(test)]
mod tests {
    use super::{Before, Host, element, is_closed};
    use crate::headers::check_head;
    use http::header::{HeaderMap, HeaderValue};
    use http::{HeaderName, Request};

    fn host(text: &str) -> Host {
        let request = Request::builder().header("host", text).body(());
        check_head(&request.expect("a request").into_parts().0).expect("a sound head")
    }

    #[test]
    fn an_element_names_the_peer_as_the_rfc_spells_it() {
        for (peer, host_text, expected) in [
            (
                Some("192.0.2.43"),
                "a.example",
                "for=192.0.2.43;host=\"a.example\";proto=http",
            ),
            (
                Some("2001:db8:cafe::17"),
                "a.example:8080",
                "for=\"[2001:db8:cafe::17]\";host=\"a.example:8080\";proto=http",
            ),
            (None, "[::1]:80", "for=unknown;host=\"[::1]:80\";proto=http"),
        ] {
            let peer = peer.map(HeaderValue::from_static);
            assert_eq!(element(peer.as_ref(), &host(host_text), "http"), expected);
        }
    }

    #[test]
    fn a_quoted_string_is_open_until_its_quote() {
        for (text, closed) in [
            ("", true),
            ("for=192.0.2.1", true),
            ("for=\"[::1]:80\";by=x", true),
            ("for=\"a\\\"b\"", true),
            ("for=\"", false),
            ("for=\"a, for=192.0.2.1", false),
            ("for=\"a\\\"", false),
            ("for=\"a\\", false),
            ("for=\\\"", false),
        ] {
            assert_eq!(is_closed(text), closed, "{text}");
        }
    }

    fn extended(fields: &[(&'static str, &'static str)], trusted: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        let before = Before::of(&headers, trusted);
        headers.remove("forwarded");
        let peer = HeaderValue::from_static("10.0.0.9");
        before.extend(&mut headers, Some(&peer), &host("a.example"), "http");
        headers
    }

    #[test]
    fn forwarded_is_replaced_or_extended_where_there_was_one() {
        const OWN: &str = "for=10.0.0.9;host=\"a.example\";proto=http";
        for (fields, trusted, expected) in [
            (&[][..], false, None),
            (&[], true, None),
            (&[("x-forwarded-for", "192.0.2.1")], true, None),
            (
                &[("forwarded", "for=192.0.2.1")],
                false,
                Some(OWN.to_owned()),
            ),
            (
                &[("forwarded", "for=192.0.2.1")],
                true,
                Some(format!("for=192.0.2.1, {OWN}")),
            ),
            (
                &[
                    ("forwarded", "for=_hidden, for=\"[2001:db8::1]\""),
                    ("forwarded", "for=unknown;proto=https"),
                ],
                true,
                Some(format!(
                    "for=_hidden, for=\"[2001:db8::1]\", for=unknown;proto=https, {OWN}"
                )),
            ),
            // What would swallow the element is not kept.
            (&[("forwarded", "for=\"")], true, Some(OWN.to_owned())),
            (&[("forwarded", "for=\u{e9}")], true, Some(OWN.to_owned())),
        ] {
            let headers = extended(fields, trusted);
            let found: Vec<_> = headers.get_all("forwarded").iter().cloned().collect();
            let expected: Vec<_> = expected.into_iter().collect();
            assert_eq!(found, expected, "{fields:?}, trusted: {trusted}");
        }
    }
}
