//! authgate: an authenticating reverse proxy in front of an AI-agent backend.
//!
//! This library is the program; it is split from `main` so that tests and the demo can reach it, and
//! it is not an API that others should build on.
//!
//! # The map
//!
//! In the order in which a request meets them:
//!
//! | room | what happens there |
//! |---|---|
//! | [`listener`] | a client's connection: accepted, bounded, served, drained |
//! | [`proxy`] | the straight path of one request, and the one exit for refusals |
//! | [`canonical`] | the head becomes the one form of the request that is decided on and forwarded |
//! | [`resource`] | protected resources: what is published of each, and from where requests may come |
//! | [`cors`] | which pages on other origins may ask and read |
//! | [`headers`] | is the head sound? and later: what does the upstream, and the client, get of it? |
//! | [`token`] | the `Authorization` header becomes a [`token::VerifiedToken`] or a [`token::Rejection`] |
//! | [`mcp`] | where rules ask for it: which MCP method and tool is it about? |
//! | [`keys`] | the issuers' keys as they are known now, and the tasks that keep them fresh |
//! | [`policy`] | path, method and caller become a [`policy::Permit`] or a [`policy::Denial`] |
//! | [`identity`] | a verified token becomes the headers that speak for it; one that is bound to a key, for a proof only |
//! | [`authorized`] | what a permit is good for: the only kind of request that an upstream accepts |
//! | [`upstream`] | the connections to the backend, streaming both ways |
//!
//! Below them: [`jose`] (JWS and JWK on ring), [`claims`], [`clock`], [`rotation`] (when to fetch keys,
//! as a state machine), [`random`], [`budget`] (what the whole process may hold), [`container`] (what it is given), [`secret`] (what
//! `Debug` does not show), [`resolve`] (names), [`dial`] (names with several addresses), [`listening`] (who else does), [`metrics`], [`tls`], [`certificate`], [`nonce_key`],
//! [`secret_files`] (who else may read them), `writing` (small writes in one piece, large ones not ahead). Above them: [`config`] (flags, environment and
//! file, parsed once), [`app`]
//! (threads and tasks), [`reload`] (another configuration in the running process), [`admin`] (probes, metrics and the drain), [`operate`] (its
//! other end), [`check`], [`explain`] (the decision about one request, told), [`logging`],
//! [`cli`] with its `manual`.
//!
//! # Invariants
//!
//! - **The core is pure.** `canonical`, `jose`, `token`, `mcp`, `policy`, `claims`, `identity`, `headers`, `cors`, `resource`,
//!   `authorized`, `rotation` and `budget` do no I/O, read no clock and write no log. `tests/layering.rs` enforces who may import what.
//! - **What is decided on is what is forwarded.** A [`canonical::CanonicalRequest`] has no field of the client's
//!   connection and cannot be changed. Every decision reads it, a [`policy::Permit`] borrows the one that was
//!   judged, and the upstream's request is made of that one.
//! - **Nothing unauthorised can be forwarded.** [`upstream::Upstream::send`] takes nothing but an
//!   [`authorized::AuthorizedRequest`], which takes a [`policy::Permit`], which only [`policy`] makes, for
//!   a caller that only [`token`] can prove and whose token is for the resource that is asked for. The upstream's
//!   headers are made in the same step.
//! - **A bound token alone is worth nothing.** [`identity`] releases what it stands for to a
//!   [`token::FreshProof`], which only a proof that was verified and not used before becomes.
//! - **A payload is not looked at before its signature holds**, and an algorithm is never chosen by a token.
//! - **Every path is decided under every reading** that a backend could make of it.
//! - **Whatever a stranger controls has a named bound** with its reason beside it; what all strangers can make the process
//!   hold has one in [`budget`].
//! - **No secret in a log.** The text of tokens, proofs and keys is kept as a [`secret::Secret`], or in a type without `Debug`;
//!   `tests/layering.rs` enforces it. A query string is read only for a token that configuration allows there, and never
//!   logged.

#![warn(missing_docs, unreachable_pub)]
#![warn(clippy::pedantic)]
#![warn(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::exit,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::string_slice,
    clippy::unwrap_in_result,
    clippy::unwrap_used,
    clippy::use_self
)]
#![cfg_attr(
    test,
    expect(
        clippy::arithmetic_side_effects,
        clippy::too_many_lines,
        clippy::string_slice,
        clippy::unwrap_in_result,
        reason = "tests are tables, and a panic there is a failure as it should be"
    )
)]

pub mod admin;
pub mod app;
pub mod authorized;
pub mod budget;
pub mod canonical;
pub mod certificate;
pub mod check;
pub mod claims;
pub mod cli;
pub mod clock;
pub mod config;
pub mod container;
pub mod cors;
pub mod dial;
pub mod explain;
pub mod headers;
pub mod identity;
pub mod jose;
pub mod keys;
pub mod listener;
pub mod listening;
pub mod logging;
mod manual;
pub mod mcp;
pub mod metrics;
pub mod nonce_key;
pub mod operate;
pub mod policy;
pub mod proxy;
pub mod random;
pub mod reload;
pub mod resolve;
pub mod resource;
pub mod rotation;
pub mod secret;
pub mod secret_files;
pub mod tls;
pub mod token;
pub mod upstream;
mod writing;

pub use cli::run;
