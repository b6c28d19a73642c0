//! Fields that speak of one connection only (RFC 9110 §7.6.1): what `Connection` nominates, and those
//! that are always of that kind.

use std::fmt;

use http::header::{CONNECTION, HeaderMap, HeaderName};

use super::managed::fold;

/// How many options the `Connection` lines of one message may have. Each is compared with the message's
/// fields, before any token is looked at; senders name two or three.
pub const MAX_CONNECTION_OPTIONS: usize = 32;

/// The request fields that a decision reads, and therefore no request may nominate: nominated, they would
/// have to be removed, and the backend would see another request than the client described. RFC 9110
/// §7.6.1 forbids a sender to nominate a field that is meant for every recipient. A name that ends in a
/// hyphen stands for all names that begin with it.
pub const READ_BY_DECISIONS: [&str; 11] = [
    "access-control-request-",
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "dpop",
    "host",
    "mcp-",
    "origin",
    // May hold a token: `token_sources.websocket_protocol`.
    "sec-websocket-protocol",
];

/// Why the `Connection` lines of a request are not obeyed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NominationError {
    /// More than [`MAX_CONNECTION_OPTIONS`] options.
    TooMany,
    /// The nominated field is one of [`READ_BY_DECISIONS`].
    ReadByDecisions(HeaderName),
}

impl fmt::Display for NominationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(
                f,
                "Connection has more than {MAX_CONNECTION_OPTIONS} options"
            ),
            Self::ReadByDecisions(name) => write!(
                f,
                "Connection nominates {name}, which is for every recipient (RFC 9110 section 7.6.1)"
            ),
        }
    }
}

impl std::error::Error for NominationError {}

/// A message whose `Connection` lines have more than [`MAX_CONNECTION_OPTIONS`] options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyOptions;

/// Removes the connection fields of a request, the nominated ones included.
///
/// # Errors
///
/// [`NominationError`], with the fields as they were.
pub fn remove_connection_fields(headers: &mut HeaderMap) -> Result<(), NominationError> {
    let nominated = nominated(headers).map_err(|TooManyOptions| NominationError::TooMany)?;
    if let Some(name) = nominated.iter().find(|name| is_read_by_decisions(name)) {
        return Err(NominationError::ReadByDecisions(name.clone()));
    }
    remove(headers, &nominated);
    Ok(())
}

/// Removes the connection fields of a response, the nominated ones included.
///
/// # Errors
///
/// [`TooManyOptions`], with the fields as they were.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) -> Result<(), TooManyOptions> {
    let nominated = nominated(headers)?;
    remove(headers, &nominated);
    Ok(())
}

/// Whether a decision reads the field: see [`READ_BY_DECISIONS`]. A name counts in every spelling that a
/// backend may fold (`_` or `.` for `-`), since some decisions refuse those.
#[must_use]
pub fn is_read_by_decisions(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is = |read: &str| {
        let mut folded = name.bytes().map(fold);
        let begins = read.bytes().all(|byte| folded.next() == Some(byte));
        begins && (read.ends_with('-') || folded.next().is_none())
    };
    READ_BY_DECISIONS.iter().any(|read| is(read))
}

/// Whether a field is a connection field whether or not it is nominated.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// The fields that the `Connection` lines nominate. An option that is no field name nominates none.
fn nominated(headers: &HeaderMap) -> Result<Vec<HeaderName>, TooManyOptions> {
    let options = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|option| !option.is_empty());
    let mut count: usize = 0;
    let mut nominated = Vec::new();
    for option in options {
        count = count.saturating_add(1);
        if count > MAX_CONNECTION_OPTIONS {
            return Err(TooManyOptions);
        }
        if !is_about_closing(option) {
            nominated.extend(HeaderName::from_bytes(option));
        }
    }
    Ok(nominated)
}

/// Whether an option is of the two that nearly every message has, and that name no field.
fn is_about_closing(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close")
}

fn remove(headers: &mut HeaderMap, nominated: &[HeaderName]) {
    let removed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_hop_by_hop(name) || nominated.contains(name))
        .cloned()
        .collect();
    for name in removed {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        MAX_CONNECTION_OPTIONS, NominationError, TooManyOptions, remove_connection_fields,
        remove_hop_by_hop,
    };
    use http::header::{HeaderMap, HeaderName, HeaderValue};

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_bytes(name.as_bytes()).expect("a name"),
                    HeaderValue::from_str(value).expect("a value"),
                )
            })
            .fold(HeaderMap::new(), |mut headers, (name, value)| {
                headers.append(name, value);
                headers
            })
    }

    #[test]
    fn nominated_fields_and_connection_fields_are_removed() {
        let mut found = headers(&[
            ("connection", "x-a, X_B ,close,, keep-alive"),
            ("connection", "upgrade, via, not a name, max-forwards"),
            ("x-a", "1"),
            ("x-a", "2"),
            ("x_b", "1"),
            ("x-b", "1"),
            ("via", "1.1 a"),
            ("max-forwards", "0"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("accept", "*/*"),
        ]);
        assert_eq!(remove_connection_fields(&mut found), Ok(()));
        assert_eq!(found, headers(&[("x-b", "1"), ("accept", "*/*")]));
    }

    #[test]
    fn a_field_that_decisions_read_cannot_be_nominated() {
        for (option, name) in [
            ("authorization", "authorization"),
            ("close, DPoP", "dpop"),
            ("Host", "host"),
            ("keep-alive,origin", "origin"),
            (
                "Access-Control-Request-Method",
                "access-control-request-method",
            ),
            (
                "access-control-request-headers",
                "access-control-request-headers",
            ),
            (
                "access-control-request-private-network",
                "access-control-request-private-network",
            ),
            ("content-type", "content-type"),
            ("content-encoding", "content-encoding"),
            ("CONTENT-LENGTH", "content-length"),
            ("cookie", "cookie"),
            ("mcp-method", "mcp-method"),
            ("Mcp-Session-Id", "mcp-session-id"),
            ("mcp-anything", "mcp-anything"),
            ("sec-websocket-protocol", "sec-websocket-protocol"),
            ("mcp_method", "mcp_method"),
            ("Content.Type", "content.type"),
        ] {
            let before = headers(&[("connection", option), ("accept", "*/*"), (name, "1")]);
            let mut found = before.clone();
            let expected = NominationError::ReadByDecisions(
                HeaderName::from_bytes(name.as_bytes()).expect(name),
            );
            assert_eq!(
                remove_connection_fields(&mut found),
                Err(expected),
                "{option}"
            );
            assert_eq!(found, before, "{option}");
        }
    }

    #[test]
    fn the_number_of_options_is_bounded() {
        for (option, count, fits) in [
            ("x", MAX_CONNECTION_OPTIONS, true),
            ("x", MAX_CONNECTION_OPTIONS + 1, false),
            ("close", MAX_CONNECTION_OPTIONS + 1, false),
            ("not a name", MAX_CONNECTION_OPTIONS + 1, false),
            ("", 10_000, true),
        ] {
            let line = vec![option; count].join(",");
            let mut request = headers(&[("connection", &line)]);
            let mut response = request.clone();
            assert_eq!(
                remove_connection_fields(&mut request).is_ok(),
                fits,
                "{option} {count}"
            );
            let expected = if fits { Ok(()) } else { Err(TooManyOptions) };
            assert_eq!(
                remove_hop_by_hop(&mut response),
                expected,
                "{option} {count}"
            );
        }
    }
}
