//! Header fields on their way through: what is checked, what is dropped, what is set. Pure.

mod forwarded;
mod hops;
mod host;
mod managed;
mod request;
mod response;
mod trace;
mod trailers;

pub use hops::{Pseudonym, spend_forward};
pub use host::{AllowedHost, Host, HostError, effective_host};
pub use managed::{ManagedNames, may_carry_identity};
pub(crate) use request::is_websocket_upgrade;
pub use request::{HeadError, Outbound, check_head, is_grpc, request_headers};
pub use response::{rewrite_response, rewrite_switching_response};
pub use trace::{is_request_id, is_traceparent, is_tracestate};
pub use trailers::rewrite_trailers;

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};

/// Fields that speak about one connection only (RFC 9110 §7.6.1), beside those that `Connection`
/// nominates.
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

/// What must not pass to the next connection.
struct HopByHop {
    nominated: Vec<HeaderName>,
}

impl HopByHop {
    fn of(headers: &HeaderMap) -> Self {
        let mut nominated = Vec::new();
        for line in headers.get_all(CONNECTION) {
            if !is_about_closing(line.as_bytes()) {
                nominated.extend(nominations(line.as_bytes()));
            }
        }
        Self { nominated }
    }

    fn holds(&self, name: &HeaderName) -> bool {
        is_hop_by_hop(name) || self.nominated.contains(name)
    }
}

/// Removes what must not pass to the next connection.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let hop_by_hop = HopByHop::of(headers);
    let mut is_last = false;
    while !is_last {
        let mut going = headers.keys().filter(|name| hop_by_hop.holds(name));
        let Some(name) = going.next().cloned() else {
            return;
        };
        is_last = going.next().is_none();
        headers.remove(name);
    }
}

/// The fields that a line of `Connection` names.
fn nominations(line: &[u8]) -> impl Iterator<Item = HeaderName> {
    line.split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|option| !is_about_closing(option))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
}

/// Whether it names no field, and is what `Connection` usually says.
fn is_about_closing(option: &[u8]) -> bool {
    option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close")
}

/// Whether a comma-separated list field holds a token, in any case.
fn list_holds(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// The value of a field that stands on one line.
fn only_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// All lines of a list field as one (RFC 9110 §5.3); nothing if one of them is not visible ASCII.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let lines: Option<Vec<&str>> = headers
        .get_all(name)
        .iter()
        .map(|line| line.to_str().ok())
        .collect();
    lines
        .filter(|lines| !lines.is_empty())
        .map(|lines| lines.join(", "))
}
