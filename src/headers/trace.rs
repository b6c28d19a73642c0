//! Request ids and W3C trace context: what is well-formed is kept. A request without an id gets one; a request
//! without a trace gets none.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::only_value;

pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest request id that is kept; they end up in logs.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Whether a client's request id may be kept: short, and nothing that a log could trip over.
#[must_use]
pub fn is_request_id(text: &[u8]) -> bool {
    (1..=MAX_REQUEST_ID_BYTES).contains(&text.len())
        && text
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(byte))
}

/// The sound `traceparent` of a request.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<&HeaderValue> {
    only_value(headers, &TRACEPARENT).filter(|value| is_traceparent(value.as_bytes()))
}

/// The trace that a request is part of.
#[must_use]
pub fn trace_id(headers: &HeaderMap) -> Option<TraceId> {
    traceparent(headers).cloned().map(TraceId)
}

/// The id of a trace: 32 hexadecimal digits. The whole value is kept, which shares its bytes with the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceId(HeaderValue);

impl TraceId {
    /// Its digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let value = self.0.to_str().unwrap_or_default();
        value.split('-').nth(1).unwrap_or_default()
    }
}

/// Trace Context §3.2: `version-trace_id-parent_id-flags`, lower-case hex, ids not all zero.
#[must_use]
pub fn is_traceparent(text: &[u8]) -> bool {
    let mut fields = text.splitn(5, |byte| *byte == b'-');
    let mut field = |length: usize| {
        fields
            .next()
            .filter(|field| field.len() == length && field.iter().copied().all(is_lower_hex))
    };
    let (Some(version), Some(trace_id), Some(parent_id), Some(_flags)) =
        (field(2), field(32), field(16), field(2))
    else {
        return false;
    };
    let not_zero = |id: &[u8]| id.iter().any(|byte| *byte != b'0');
    // A later version may append fields; version 00 has none.
    let nothing_follows = fields.next().is_none();
    version != b"ff"
        && (version != b"00" || nothing_follows)
        && not_zero(trace_id)
        && not_zero(parent_id)
}

/// The most members of a `tracestate` (Trace Context §3.3.1.1).
const MAX_TRACESTATE_MEMBERS: usize = 32;

/// The length that everybody must be able to pass on (Trace Context §3.3.1.5); beyond it the whole is
/// worth nothing, since nobody knows what the next one would drop.
const MAX_TRACESTATE_BYTES: usize = 512;

/// Whether a `tracestate`, all its lines together, is worth passing on.
#[must_use]
pub fn is_tracestate(text: &str) -> bool {
    let members = text.split(',').filter(|member| !member.trim().is_empty());
    text.len() <= MAX_TRACESTATE_BYTES && members.count() <= MAX_TRACESTATE_MEMBERS
}

const fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::{TraceId, is_request_id, is_traceparent, is_tracestate, trace_id};
    use http::header::{HeaderMap, HeaderValue};

    #[test]
    fn request_ids() {
        for good in ["a", "req-1_2.3", "0f8fad5b-d9cb-469f-a165-70867728950e"] {
            assert!(is_request_id(good.as_bytes()), "{good}");
        }
        for bad in ["", "a b", "a\"b", "a\u{e9}", "{}", "a/b"] {
            assert!(!is_request_id(bad.as_bytes()), "{bad}");
        }
        assert!(is_request_id(&[b'a'; 128]));
        assert!(!is_request_id(&[b'a'; 129]));
    }

    #[test]
    fn traceparents() {
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        const PARENT: &str = "b7ad6b7169203331";
        for (text, expected) in [
            (format!("00-{TRACE}-{PARENT}-01"), true),
            (format!("cc-{TRACE}-{PARENT}-01-what-ever"), true),
            (format!("00-{TRACE}-{PARENT}-01-x"), false),
            (format!("ff-{TRACE}-{PARENT}-01"), false),
            (format!("00-{}-{PARENT}-01", "0".repeat(32)), false),
            (format!("00-{TRACE}-{}-01", "0".repeat(16)), false),
            (format!("00-{}-{PARENT}-01", TRACE.to_uppercase()), false),
            (format!("00-{TRACE}-{PARENT}"), false),
            (format!("00-{TRACE}-{PARENT}-1"), false),
            (String::new(), false),
        ] {
            assert_eq!(is_traceparent(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn the_id_of_a_trace_is_that_of_a_sound_one() {
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        let sound = format!("00-{TRACE}-b7ad6b7169203331-01");
        let later = format!("cc-{TRACE}-b7ad6b7169203331-01-x");
        for (lines, expected) in [
            (&[][..], None),
            (&[sound.as_str()], Some(TRACE)),
            (&[&later], Some(TRACE)),
            (&[&sound, &sound], None),
            (&["nonsense"], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                let value = HeaderValue::from_str(line).expect("visible");
                headers.append("traceparent", value);
            }
            let found = trace_id(&headers);
            assert_eq!(found.as_ref().map(TraceId::as_str), expected, "{lines:?}");
        }
    }

    #[test]
    fn tracestates() {
        let members = |count| vec!["a=1"; count].join(",");
        for (text, expected) in [
            ("v=1".to_owned(), true),
            (members(32), true),
            (format!(",, {} ,", members(32)), true),
            (members(33), false),
            (format!("v={}", "x".repeat(510)), true),
            (format!("v={}", "x".repeat(511)), false),
        ] {
            assert_eq!(is_tracestate(&text), expected, "{text}");
        }
    }
}
