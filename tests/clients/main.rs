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

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Instant;

use node::Node;

type Case = for<'n> fn(&'n Node) -> Pin<Box<dyn Future<Output = ()> + 'n>>;

macro_rules! cases {
    ($($module:ident::$case:ident,)*) => {
        [$((
            concat!(stringify!($module), "::", stringify!($case)),
            (|node| Box::pin($module::$case(node))) as Case,
        )),*]
    };
}

fn main() -> ExitCode {
    let cases = cases![
        dpop::the_proofs_of_other_libraries_count,
        dpop::other_clients_follow_the_nonce,
        mcp::the_official_clients_find_the_issuer_and_step_up,
        mcp::the_official_clients_see_and_call_their_own_tools,
        mcp::the_conformance_suite_sees_no_difference,
    ];
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let chosen = cases
        .into_iter()
        .filter(|(name, _)| words.is_empty() || words.iter().any(|word| name.contains(word)));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let node = Node::install();
    let (mut run, mut failed) = (0, Vec::new());
    for (name, case) in chosen {
        let start = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| runtime.block_on(case(&node))));
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{name} ... {word} ({:.1} s)", start.elapsed().as_secs_f64());
        run += 1;
        failed.extend(outcome.is_err().then_some(name));
    }
    println!("\n{run} cases, {} failed {failed:?}", failed.len());
    if run == 0 || !failed.is_empty() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
