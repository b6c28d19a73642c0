//! The keys that are known now, and the tasks that keep them fresh.
//!
//! Requests read a snapshot and never wait for a fetch while their key is in it.

mod fetch;
mod refresher;
mod store;

pub use fetch::{FetchError, Fetcher, KeyFileError, check_file};
pub use store::{KeyStore, TooManyWait};
