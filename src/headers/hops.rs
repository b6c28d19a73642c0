//! How far a request has come, and how far it may still go: `Via` and `Max-Forwards`.

use http::header::{HeaderMap, HeaderValue, MAX_FORWARDS, VIA};
use http::{Method, Version};

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

/// How far an OPTIONS request may go (RFC 9110 §7.6.2). For other methods the field means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxForwards {
    /// The request says nothing of it, or not one number.
    Unlimited,
    /// It ends here.
    Spent,
    /// The next recipient gets this number. One beyond 32 bits counts as the largest of 32 bits.
    Left(u32),
}

impl MaxForwards {
    /// Reads `Max-Forwards`.
    #[must_use]
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        if *method != Method::OPTIONS {
            return Self::Unlimited;
        }
        let Some(value) = only_value(headers, &MAX_FORWARDS) else {
            return Self::Unlimited;
        };
        let digits = value.as_bytes();
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Self::Unlimited;
        }
        let number = value
            .to_str()
            .ok()
            .and_then(|digits| digits.parse().ok())
            .unwrap_or(u32::MAX);
        number.checked_sub(1).map_or(Self::Spent, Self::Left)
    }
}

#[cfg(test)]
mod tests {
    use super::{MaxForwards, Pseudonym};
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
        use MaxForwards::{Left, Spent, Unlimited};
        for (method, values, expected) in [
            ("OPTIONS", &["0"][..], Spent),
            ("OPTIONS", &["00"], Spent),
            ("OPTIONS", &["1"], Left(0)),
            ("OPTIONS", &["010"], Left(9)),
            ("OPTIONS", &["4294967295"], Left(4_294_967_294)),
            ("OPTIONS", &["99999999999999999999999"], Left(4_294_967_294)),
            ("OPTIONS", &["-1"], Unlimited),
            ("OPTIONS", &["+1"], Unlimited),
            ("OPTIONS", &["1.0"], Unlimited),
            ("OPTIONS", &["0x1"], Unlimited),
            ("OPTIONS", &["0, 0"], Unlimited),
            ("OPTIONS", &[""], Unlimited),
            ("OPTIONS", &["0", "0"], Unlimited),
            ("OPTIONS", &[], Unlimited),
            ("GET", &["0"], Unlimited),
        ] {
            let mut request = Request::builder().method(method);
            for value in values {
                request = request.header("max-forwards", *value);
            }
            let head = request.body(()).expect("a request").into_parts().0;
            let found = MaxForwards::of(&head.method, &head.headers);
            assert_eq!(found, expected, "{method} {values:?}");
        }
    }
}
