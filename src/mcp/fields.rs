//! The headers of a request that mirror its body, from revision 2026-07-28 on.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::error::MessageError;
use super::message::{Call, check_beside, named_by};
use crate::headers::ManagedNames;

/// The first revision whose servers must check the headers against the body.
const MIRRORED_SINCE: &[u8] = b"2026-07-28";

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");

/// How a value is written that is not visible ASCII.
const ENCODED: (&str, &str) = ("=?base64?", "?=");

/// What a request says of its revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revision {
    /// Nothing, or one before the headers.
    Older,
    /// One that has sessions no more, and says in headers what the body asks for.
    Mirrored,
}

/// Reads `MCP-Protocol-Version`.
///
/// # Errors
///
/// [`MessageError::Field`] when it is there and is not one date.
pub fn revision(headers: &HeaderMap) -> Result<Revision, MessageError> {
    let Some(value) = only(headers, &PROTOCOL_VERSION, "MCP-Protocol-Version")? else {
        return Ok(Revision::Older);
    };
    let value = value.as_bytes();
    if !is_date(value) {
        return Err(MessageError::Field {
            name: "MCP-Protocol-Version",
            problem: "is not a date such as 2026-07-28",
        });
    }
    // Dates of one form sort as their letters do.
    Ok(if value >= MIRRORED_SINCE {
        Revision::Mirrored
    } else {
        Revision::Older
    })
}

/// Reads `Mcp-Method`, and `Mcp-Name` where the method has a name beside it.
///
/// # Errors
///
/// [`MessageError::Field`] for a header that is missing, repeated or malformed.
pub fn mirrors(headers: &HeaderMap) -> Result<Call, MessageError> {
    let field = |name, problem| MessageError::Field { name, problem };
    let method = only(headers, &METHOD, "Mcp-Method")?;
    let method = method.ok_or(field("Mcp-Method", "is missing"))?;
    let method = plain(method.as_bytes())
        .filter(|method| method.bytes().all(is_method_byte) && !method.is_empty())
        .ok_or(field("Mcp-Method", "is not the name of a method"))?;
    // Checked whether it is needed or not: a backend may look at it all the same.
    let name = only(headers, &NAME, "Mcp-Name")?;
    let name = name
        .map(|name| decode(name.as_bytes()))
        .transpose()
        .map_err(|problem| field("Mcp-Name", problem))?;
    if named_by(&method).is_some() && name.is_none() {
        return Err(field("Mcp-Name", "is missing"));
    }
    if let Some(name) = &name {
        check_beside(&method, name).map_err(|problem| field("Mcp-Name", problem))?;
    }
    Call::new(method, name)
}

/// Whether a body is what MCP sends: JSON in UTF-8, as it is.
///
/// # Errors
///
/// [`MessageError::BodyKind`] for anything that somebody may read differently.
pub fn check_body_kind(headers: &HeaderMap) -> Result<(), MessageError> {
    let kind = only(headers, &CONTENT_TYPE, "Content-Type")?;
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !is_json(kind) {
        return Err(MessageError::BodyKind(
            "Content-Type is not application/json, in UTF-8 if it says so",
        ));
    }
    let coding = only(headers, &CONTENT_ENCODING, "Content-Encoding")?;
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(MessageError::BodyKind(
            "a body with a Content-Encoding cannot be read",
        ));
    }
    Ok(())
}

fn is_json(kind: &str) -> bool {
    let mut parts = kind.split(';').map(str::trim);
    let is_json = parts
        .next()
        .is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    is_json
        && parts.all(|parameter| {
            let parameter = parameter.to_ascii_lowercase();
            matches!(
                parameter.as_str(),
                "" | "charset=utf-8" | "charset=\"utf-8\""
            )
        })
}

/// The value of a field that is said once or not at all, and in no other spelling: a backend that folds
/// names would see two.
fn only<'h>(
    headers: &'h HeaderMap,
    name: &HeaderName,
    shown: &'static str,
) -> Result<Option<&'h HeaderValue>, MessageError> {
    let mut alike = headers
        .iter()
        .filter(|(other, _)| ManagedNames::alike(other, name));
    let first = alike.next();
    if alike.next().is_some() || first.is_some_and(|(found, _)| found != name) {
        return Err(MessageError::Field {
            name: shown,
            problem: "is there more than once, or in another spelling",
        });
    }
    Ok(first.map(|(_, value)| value))
}

fn is_date(value: &[u8]) -> bool {
    let two = |tens: u8, ones: u8| {
        (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| {
            tens.wrapping_sub(b'0')
                .wrapping_mul(10)
                .wrapping_add(ones.wrapping_sub(b'0'))
        })
    };
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *value else {
        return false;
    };
    [y1, y2, y3, y4].iter().all(u8::is_ascii_digit)
        && two(m1, m2).is_some_and(|month| (1..=12).contains(&month))
        && two(d1, d2).is_some_and(|day| (1..=31).contains(&day))
}

const fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-' | b'.' | b'$')
}

/// Visible ASCII, with spaces within.
fn plain(value: &[u8]) -> Option<String> {
    let visible = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let text = std::str::from_utf8(value).ok().filter(|_| visible)?;
    (text.trim() == text).then(|| text.to_owned())
}

/// A value as it is, or decoded. Whatever looks like an encoded one and is none is refused, since
/// others may decode it.
fn decode(value: &[u8]) -> Result<String, &'static str> {
    let text = plain(value).filter(|text| !text.is_empty());
    let text = text.ok_or("holds other bytes than visible ASCII")?;
    if !text.starts_with("=?") {
        return Ok(text);
    }
    let (begin, end) = ENCODED;
    text.strip_prefix(begin)
        .and_then(|text| text.strip_suffix(end))
        // Canonical: with its padding, and without bits to spare.
        .and_then(|text| STANDARD.decode(text).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|text| !text.is_empty())
        .ok_or("looks like =?base64?…?= and cannot be decoded")
}

#[cfg(test)]
mod tests {
    use super::super::headers_of as headers;
    use super::{Revision, mirrors, revision};
    use http::header::HeaderMap;

    #[test]
    fn a_revision_is_one_date() {
        let version = |value| revision(&headers(&[("mcp-protocol-version", value)]));
        assert_eq!(revision(&HeaderMap::new()), Ok(Revision::Older));
        for old in ["2024-11-05", "2025-11-25", "2026-07-27", "0000-01-01"] {
            assert_eq!(version(old), Ok(Revision::Older), "{old}");
        }
        for new in ["2026-07-28", "2026-12-01", "9999-12-31"] {
            assert_eq!(version(new), Ok(Revision::Mirrored), "{new}");
        }
        for bad in [
            "",
            "2026",
            "2026-7-28",
            "2026-07-28 ",
            "2026-07-28, 2025-11-25",
            "2026-13-28",
            "2026-00-01",
            "2026-07-32",
            "DRAFT-2026-v1",
            "2026/07/28",
            "9999-99-99",
            "２026-07-28",
            "2026-07-281",
        ] {
            assert!(version(bad).is_err(), "{bad:?}");
        }
        for twice in [
            "mcp-protocol-version",
            "mcp_protocol_version",
            "mcp.protocol.version",
        ] {
            let both = [
                ("mcp-protocol-version", "2026-07-28"),
                (twice, "2026-07-28"),
            ];
            assert!(revision(&headers(&both)).is_err(), "{twice}");
        }
        assert!(revision(&headers(&[("mcp_protocol_version", "2026-07-28")])).is_err());
    }

    #[test]
    fn method_and_name_are_read() {
        for (method, name, expected) in [
            ("tools/list", None, None),
            ("tools/call", Some("delete_user"), Some("delete_user")),
            ("tools/call", Some("a b%20c, d"), Some("a b%20c, d")),
            ("tools/call", Some("=?base64?w6TDtg==?="), Some("äö")),
            (
                "tools/call",
                Some("=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
                Some("=?base64?literal?="),
            ),
            (
                "tools/call",
                Some("=?base64?IGRlbGV0ZQ==?="),
                Some(" delete"),
            ),
            ("prompts/get", Some("p"), Some("p")),
            ("resources/read", Some("file:///a"), Some("file:///a")),
            ("sampling/createMessage", None, None),
        ] {
            let mut lines = vec![("mcp-method", method)];
            lines.extend(name.map(|name| ("mcp-name", name)));
            let call = mirrors(&headers(&lines)).expect(method);
            assert_eq!((call.method(), call.name()), (method, expected));
        }
    }

    #[test]
    fn a_body_is_json_in_utf_8() {
        let kind = |lines: &[(&str, &str)]| super::check_body_kind(&headers(lines)).is_ok();
        for good in [
            "application/json",
            "Application/JSON; charset=UTF-8",
            "application/json;charset=\"utf-8\";",
        ] {
            assert!(
                kind(&[("content-type", good), ("content-encoding", "identity")]),
                "{good}"
            );
        }
        let json = ("content-type", "application/json");
        for lines in [
            &[][..],
            &[("content-type", "text/plain")],
            &[("content-type", "application/json-patch+json")],
            &[("content-type", "application/x-www-form-urlencoded")],
            &[("content-type", "application/json; charset=utf-16")],
            &[("content-type", "application/json; charset=utf-7")],
            &[("content-type", "text/plain; a=application/json")],
            &[("content-type", "application/json, text/plain")],
            &[json, json],
            &[json, ("content_type", "text/plain")],
            &[json, ("content-encoding", "gzip")],
            &[json, ("content-encoding", "identity, gzip")],
            &[json, ("content-encoding", "")],
            &[
                json,
                ("content-encoding", "identity"),
                ("content-encoding", "br"),
            ],
            &[json, ("content_encoding", "gzip")],
        ] {
            assert!(!kind(lines), "{lines:?}");
        }
    }

    #[test]
    fn headers_that_are_not_certain_are_refused() {
        let call = ("mcp-method", "tools/call");
        for lines in [
            &[][..],
            &[("mcp-name", "a")],
            &[call],
            &[("mcp-method", "Tools/Call")],
            &[("mcp-method", "prompts/get")],
            &[("mcp-method", "resources/read")],
            &[("mcp-method", "")],
            &[("mcp-method", "tools/list, tools/call")],
            &[("mcp-method", "tools/list,tools/call")],
            &[("mcp-method", "tools%2Fcall")],
            &[("mcp-method", "=?base64?dG9vbHMvbGlzdA==?=")],
            &[("mcp-method", "tools/list"), ("mcp-method", "tools/list")],
            &[("mcp-method", "tools/list"), call],
            &[("mcp-method", "tools/list"), ("mcp_method", "tools/list")],
            &[("mcp_method", "tools/list")],
            &[call, ("mcp-name", "")],
            &[call, ("mcp-name", "a"), ("mcp-name", "a")],
            &[call, ("mcp-name", "a"), ("mcp_name", "b")],
            &[call, ("mcp.name", "a")],
            &[call, ("mcp-name", "ä")],
            &[call, ("mcp-name", "a\tb")],
            &[call, ("mcp-name", "=?base64?ZGVsZXRl")],
            &[call, ("mcp-name", "=?base64??=")],
            &[call, ("mcp-name", "=?BASE64?ZGVsZXRl?=")],
            &[call, ("mcp-name", "=?utf-8?B?ZGVsZXRl?=")],
            &[call, ("mcp-name", "=?base64?ZGVsZXRlX3VzZXI?=")],
            &[call, ("mcp-name", "=?base64?ZGVsZXRlX3VzZXJ=?=")],
            &[call, ("mcp-name", "=?base64?_-8=?=")],
            &[call, ("mcp-name", "=?base64?/w==?=")],
            &[call, ("mcp-name", "=?base64?ZGVs ZXRl?=")],
            // "run_shell" with NUL, U+001F, U+FEFF or U+200D, in wide letters, and with U+017F.
            &[call, ("mcp-name", "=?base64?cnVuX3NoZWxsAA==?=")],
            &[call, ("mcp-name", "=?base64?cnVuX3NoZWxsAHg=?=")],
            &[call, ("mcp-name", "=?base64?cnVuX3NoZWxsHw==?=")],
            &[call, ("mcp-name", "=?base64?77u/cnVuX3NoZWxs?=")],
            &[call, ("mcp-name", "=?base64?cnVu4oCNX3NoZWxs?=")],
            &[call, ("mcp-name", "=?base64?772S772V772OX3NoZWxs?=")],
            &[call, ("mcp-name", "=?base64?cnVuX8W/aGVsbA==?=")],
            &[
                ("mcp-method", "prompts/get"),
                ("mcp-name", "=?base64?cAA=?="),
            ],
            &[
                ("mcp-method", "resources/read"),
                ("mcp-name", "=?base64?ZmlsZTovLy9hAA==?="),
            ],
            &[
                ("mcp-method", "tools/list"),
                ("mcp-name", "=?base64?cAA=?="),
            ],
            &[("mcp-method", "tools/list"), ("mcp-name", "=?base64?ä?=")],
        ] {
            assert!(mirrors(&headers(lines)).is_err(), "{lines:?}");
        }
    }
}
