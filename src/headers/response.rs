//! A response head on its way to the client.

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};

use super::connection::{TooManyOptions, remove_hop_by_hop};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Drops the upstream's connection fields, and names the request where the upstream did not.
///
/// # Errors
///
/// [`TooManyOptions`] when `Connection` has more options than are looked at.
pub fn rewrite_response(
    headers: &mut HeaderMap,
    request_id: &HeaderValue,
) -> Result<(), TooManyOptions> {
    remove_hop_by_hop(headers)?;
    headers
        .entry(X_REQUEST_ID)
        .or_insert_with(|| request_id.clone());
    Ok(())
}

/// As [`rewrite_response`], for `101 Switching Protocols`, whose two connection fields are made anew.
///
/// # Errors
///
/// [`TooManyOptions`], likewise.
pub fn rewrite_switching_response(
    headers: &mut HeaderMap,
    request_id: &HeaderValue,
) -> Result<(), TooManyOptions> {
    rewrite_response(headers, request_id)?;
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    Ok(())
}
