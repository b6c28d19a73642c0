//! What is fuzzed: one function a target, which takes any bytes and panics when a promise is broken.
//!
//! `fuzz_targets` hands these functions to the fuzzer, and `tests/seeds.rs` of the product runs them
//! on the inputs in `seeds`, so that what was found once stays found.

pub mod bearer_jws;
pub mod canonical;
pub mod config;
pub mod connection;
pub mod dpop;
pub mod headers;
pub mod jwk_set;
pub mod mcp;
mod mint;
pub mod paths;
mod wire;

// How backends read paths, simulated; the product's own tests hold it to the same model.
#[path = "../../tests/support/backends.rs"]
mod backends;
