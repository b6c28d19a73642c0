//! How far a request has come, and how far it may still go: `Via` and `Max-Forwards`.

use http::header::{HeaderMap, HeaderValue, MAX_FORWARDS, VIA};
use http::{Method, Version, request};

use super::only_value;

/// The name in `Via` (RFC 9110 §7.6.3). One instance has one for its whole life, so that a request
/// that comes round again is told from one that another instance has passed on.
#[derive(Debug, Clone)]
pub struct Pseudonym {
    name: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Pseudonym {
    /// The pseudonym of the instance that has drawn this number.
    #[must_use]
    pub fn new(instance: u32) -> Self {
        let name = format!("authgate-{instance:08x}");
        // Letters, digits and hyphens are always a header value.
        let line = |version: &str| {
            HeaderValue::try_from(format!("{version} {name}"))
                .unwrap_or(HeaderValue::from_static("1.1 authgate"))
        };
        Self {
            http10: line("1.0"),
            http11: line("1.1"),
            http2: line("2"),
            name,
        }
    }

    /// Whether a request has passed here before: forwarding it again would have no end (RFC 9110 §7.6).
    #[must_use]
    pub fn has_forwarded(&self, headers: &HeaderMap) -> bool {
        // Bytes, since a comment may hold any.
        let mut elements = headers
            .get_all(VIA)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
        elements.any(|element| {
            let mut words = element
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            // The protocol, and by whom it was received.
            words
                .nth(1)
                .is_some_and(|by| by.eq_ignore_ascii_case(self.name.as_bytes()))
        })
    }

    /// What is added for a request of this version.
    #[must_use]
    pub(super) const fn line(&self, version: Version) -> &HeaderValue {
        match version {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_10 => &self.http10,
            _ => &self.http11,
        }
    }
}

/// Takes one from the `Max-Forwards` of an OPTIONS request (RFC 9110 §7.6.2); false when none is left
/// to take, so that the request ends here. A number beyond 32 bits counts as the largest of 32 bits;
/// what is not one number is not looked at. For other methods the field means nothing.
#[must_use]
pub fn spend_forward(head: &mut request::Parts) -> bool {
    if head.method != Method::OPTIONS {
        return true;
    }
    let Some(value) = only_value(&head.headers, &MAX_FORWARDS) else {
        return true;
    };
    let digits = value.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return true;
    }
    let left = value
        .to_str()
        .ok()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(u32::MAX);
    let Some(left) = left.checked_sub(1) else {
        return false;
    };
    head.headers.insert(MAX_FORWARDS, HeaderValue::from(left));
    true
}

#[cfg(test)]
mod tests {
    use super::{Pseudonym, spend_forward};
    use http::header::{HeaderMap, HeaderValue};
    use http::{Request, Version};

    #[test]
    fn an_instance_knows_itself_and_no_other() {
        let pseudonym = Pseudonym::new(0x0a0b_0c0d);
        for (version, line) in [
            (Version::HTTP_10, "1.0 authgate-0a0b0c0d"),
            (Version::HTTP_11, "1.1 authgate-0a0b0c0d"),
            (Version::HTTP_2, "2 authgate-0a0b0c0d"),
        ] {
            assert_eq!(pseudonym.line(version), line);
        }
        for (lines, known) in [
            (&["1.1 authgate-0a0b0c0d"][..], true),
            (&["1.1 AUTHGATE-0A0B0C0D"], true),
            (&["HTTP/2 \t authgate-0a0b0c0d"], true),
            (&["1.1 edge, 1.0 authgate-0a0b0c0d (c), 1.1 inner"], true),
            (&["1.1 edge,1.1 authgate-0a0b0c0d"], true),
            (&["1.1 edge", "1.1 inner, 2 authgate-0a0b0c0d"], true),
            (&["1.1 edge (caf\u{e9}), 1.1 authgate-0a0b0c0d"], true),
            (&["1.1 authgate"], false),
            (&["1.1 authgate-0a0b0c0e"], false),
            (&["1.1 authgate-0a0b0c0d0"], false),
            (&["1.1 x-authgate-0a0b0c0d"], false),
            (&["authgate-0a0b0c0d"], false),
            (&["", ",,", "1.1"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                let line = HeaderValue::from_bytes(line.as_bytes()).expect("a value");
                headers.append("via", line);
            }
            assert_eq!(pseudonym.has_forwarded(&headers), known, "{lines:?}");
        }
    }

    #[test]
    fn max_forwards() {
        for (method, values, forwarded, left) in [
            ("OPTIONS", &["0"][..], false, &["0"][..]),
            ("OPTIONS", &["00"], false, &["00"]),
            ("OPTIONS", &["1"], true, &["0"]),
            ("OPTIONS", &["010"], true, &["9"]),
            ("OPTIONS", &["4294967295"], true, &["4294967294"]),
            (
                "OPTIONS",
                &["99999999999999999999999"],
                true,
                &["4294967294"],
            ),
            ("OPTIONS", &["-1"], true, &["-1"]),
            ("OPTIONS", &["+1"], true, &["+1"]),
            ("OPTIONS", &["1.0"], true, &["1.0"]),
            ("OPTIONS", &["0x1"], true, &["0x1"]),
            ("OPTIONS", &["0, 0"], true, &["0, 0"]),
            ("OPTIONS", &[""], true, &[""]),
            ("OPTIONS", &["0", "0"], true, &["0", "0"]),
            ("OPTIONS", &[], true, &[]),
            ("GET", &["0"], true, &["0"]),
            ("options", &["0"], true, &["0"]),
        ] {
            let mut request = Request::builder().method(method);
            for value in values {
                request = request.header("max-forwards", *value);
            }
            let mut head = request.body(()).expect("a request").into_parts().0;
            assert_eq!(spend_forward(&mut head), forwarded, "{method} {values:?}");
            let found: Vec<_> = head.headers.get_all("max-forwards").iter().collect();
            assert_eq!(found, left, "{method} {values:?}");
        }
    }
}
