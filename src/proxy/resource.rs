//! What a request meets where `[[resource]]` is configured: the metadata, and the checks against DNS
//! rebinding.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response};

use super::Refusal;
use super::respond;
use crate::canonical::CanonicalRequest;
use crate::config::Config;
use crate::cors::{self, Origin};
use crate::headers::Host;
use crate::resource::{Misdirected, WellKnown};

/// What the metadata can be asked for.
pub(super) const METHODS: &str = "GET, HEAD, OPTIONS";

/// For how long it may be kept: what it says changes with the configuration only, and clients read it
/// again when they are refused (RFC 9728 §3.2, §5.2).
const FRESH_FOR: &str = "public, max-age=3600";

/// The metadata of a resource (RFC 9728 §3), which anybody may read: it is what a client needs to get a
/// token. `None` for a request that is about something else.
///
/// # Errors
///
/// [`Refusal`] where metadata could be and is not, or when it is asked for in another way.
pub(crate) fn metadata(
    config: &Config,
    request: &CanonicalRequest,
    request_id: &HeaderValue,
) -> Result<Option<Response<Bytes>>, Refusal> {
    let resource = match config.resources.well_known(&request.readings()) {
        WellKnown::Elsewhere => return Ok(None),
        WellKnown::Unknown => return Err(Refusal::ResourceUnknown),
        WellKnown::Metadata(resource) => resource,
    };
    let mut answer = match *request.method() {
        Method::GET | Method::HEAD => respond::ok(resource.document().clone(), request_id),
        Method::OPTIONS => respond::no_content(request_id),
        _ => return Err(Refusal::MetadataMethod),
    };
    let headers = answer.headers_mut();
    // A client may be a page, on whatever origin.
    if *request.method() == Method::OPTIONS {
        headers.insert(ALLOW, HeaderValue::from_static(METHODS));
        cors::mark_public_preflight(headers, request.headers(), METHODS);
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(FRESH_FOR));
        Origin::Unmanaged.mark_own(headers);
    }
    Ok(Some(answer))
}

/// Whether a request that belongs to a resource comes under the resource's own name and, if from a page,
/// from one that is welcome (MCP, "DNS rebinding"). A page that has its own name resolve to this address
/// has the browser send that name. `forwarded_host` is a trusted proxy's word, which may have put its own name for
/// this program into `Host`.
///
/// # Errors
///
/// [`Refusal::HostNotServed`] or [`Refusal::OriginDenied`].
pub(crate) fn check_source(
    config: &Config,
    request: &CanonicalRequest,
    forwarded_host: Option<&Host>,
    origin: &Origin,
) -> Result<(), Refusal> {
    if config.resources.is_empty() {
        return Ok(());
    }
    let mut hosts: Vec<&Host> = vec![request.host()];
    hosts.extend(forwarded_host);
    let is_allowed = |host: &&Host| {
        let mut allowed = config.allowed_hosts.iter();
        allowed.any(|allowed| allowed.covers(host))
    };
    if hosts.iter().any(is_allowed) {
        hosts.clear();
    }
    let headers = match origin {
        Origin::None | Origin::Welcome(_) => None,
        Origin::Foreign | Origin::Reader(_) | Origin::Unmanaged => Some(request.headers()),
    };
    let checked = config
        .resources
        .check_source(&request.readings(), &hosts, headers);
    checked.map_err(|misdirected| match misdirected {
        Misdirected::Host => Refusal::HostNotServed,
        Misdirected::Origin => Refusal::OriginDenied,
    })
}
