//! The program from outside: a process between raw sockets.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "a test ends by panicking"
)]
#![expect(unreachable_pub, reason = "nobody is outside of a test")]

mod a2a;
mod addresses;
mod admin;
mod answers;
mod attacks;
mod budgets;
mod canonical;
mod conduct;
mod config;
mod connections;
mod dpop;
mod early_answers;
mod explain;
mod flaws;
mod floods;
mod forwarding;
mod grpc;
mod harness;
mod http2;
mod identity;
#[path = "../support/issuer.rs"]
mod issuer;
mod keys;
mod life;
mod log;
mod mcp;
mod message_room;
mod metrics;
mod operate;
mod regressions;
mod reload;
mod resource;
mod rolling;
mod rules;
mod same_verdict;
mod storms;
mod streaming;
mod support;
mod tls;
mod tokens;
mod upgrades;
mod upstream_http2;
mod upstream_room;
