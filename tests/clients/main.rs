//! What other people's clients make of it: scripts for Node.js, with the packages that `package-lock.json`
//! names.
//!
//! `cargo test --test clients` runs all cases, or those whose names contain one of the words after `--`. It
//! needs `node` and `npm` on the `PATH` and fails without.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends by panicking"
)]
#![expect(unreachable_pub, reason = "nobody is outside of a test")]

#[path = "../support/cases.rs"]
mod cases;
mod dpop;
#[path = "../support/issuer.rs"]
#[expect(
    dead_code,
    reason = "it is written for the integration tests, which use all of it"
)]
mod issuer;
mod mcp;
mod node;
#[path = "../it/support/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "it is written for the integration tests, which use all of it"
)]
mod support;

use std::process::ExitCode;

use node::Node;

fn main() -> ExitCode {
    let cases = cases::cases![
        dpop::the_proofs_of_other_libraries_count,
        dpop::other_clients_follow_the_nonce,
        mcp::the_official_clients_find_the_issuer_and_step_up,
        mcp::the_official_clients_see_and_call_their_own_tools,
        mcp::the_conformance_suite_sees_no_difference,
    ];
    cases::run(cases, |_| Node::install())
}
