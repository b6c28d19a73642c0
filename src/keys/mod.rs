//! The keys that are known now, and the tasks that keep them fresh.
//!
//! Requests read a snapshot and never wait for a fetch while their key is in it.

mod fetch;
mod proxies;
mod refresher;
mod store;

use http::Uri;

pub use fetch::{FetchError, Fetcher, KeyFileError, check_file};
pub use proxies::Way;
pub use store::{KeyStore, TooManyWait};

/// A host without the brackets of an IPv6 address.
fn bare_host(url: &Uri) -> &str {
    let host = url.host().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']')
}
