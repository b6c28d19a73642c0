//! Header fields on their way through: what is checked, what is dropped, what is set. Pure.

mod host;
mod managed;
mod request;
mod response;
mod trace;

pub use host::{Host, HostError, effective_host};
pub use managed::{ManagedNames, may_carry_identity};
pub(crate) use request::is_websocket_upgrade;
pub use request::{HeadError, Outbound, check_head, rewrite_request};
pub use response::{rewrite_response, rewrite_switching_response};
pub use trace::{is_request_id, is_traceparent};

use http::header::{CONNECTION, HeaderMap, HeaderName, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};

/// Fields that speak about one connection only (RFC 9110 §7.6.1), beside those that `Connection`
/// nominates.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authorization"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Removes what must not pass to the next connection.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let nominated: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .collect();
        for name in nominated {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
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
