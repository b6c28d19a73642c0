//! Header fields on their way through: what is checked, what is dropped, what is set. Pure.

mod connection;
mod forwarded;
mod hops;
mod host;
mod managed;
mod request;
mod response;
mod trace;
mod trailers;

pub use connection::{
    MAX_CONNECTION_OPTIONS, NominationError, READ_BY_DECISIONS, TooManyOptions,
    is_read_by_decisions, remove_connection_fields, remove_hop_by_hop,
};
pub use hops::{MaxForwards, Pseudonym};
pub use host::{AllowedHost, Host, HostError, effective_host, forwarded_host};
pub use managed::{MANAGED, ManagedGroup, ManagedNames, may_carry_identity};
pub(crate) use request::is_websocket_upgrade;
pub use request::{HeadError, Outbound, Peer, check_head, check_method, is_grpc, request_headers};
pub use response::{rewrite_response, rewrite_switching_response};
pub use trace::{TraceId, is_request_id, is_traceparent, is_tracestate, trace_id};
pub use trailers::rewrite_trailers;

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Whether a comma-separated list field holds a token, in any case.
pub(crate) fn list_holds(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
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
