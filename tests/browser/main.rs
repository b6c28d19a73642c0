//! What a real browser makes of it: pages on other origins, run by a headless Chromium.
//!
//! `cargo test --test browser` runs all cases, or those whose names contain one of the words after
//! `--`. They share one browser, which is why this is no ordinary test harness. It needs `chromium` on
//! the `PATH` and fails without.
#![expect(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test ends by panicking"
)]
#![expect(unreachable_pub, reason = "nobody is outside of a test")]

mod browser;
mod caches;
#[path = "../support/cases.rs"]
mod cases;
mod failures;
#[path = "../support/issuer.rs"]
#[expect(
    dead_code,
    reason = "it is written for the integration tests, which use all of it"
)]
mod issuer;
mod managed;
mod streams;
#[path = "../it/support/mod.rs"]
#[expect(
    dead_code,
    unused_imports,
    reason = "it is written for the integration tests, which use all of it"
)]
mod support;
mod unmanaged;

use std::process::ExitCode;

use browser::Browser;

fn main() -> ExitCode {
    let cases = cases::cases![
        unmanaged::the_upstream_answers_preflights_and_a_good_token_passes,
        unmanaged::a_page_reads_why_it_was_refused,
        unmanaged::an_upstream_without_cors_stays_closed_to_pages,
        managed::preflights_are_answered_here,
        managed::a_page_reads_what_is_exposed,
        managed::every_method_passes,
        managed::a_foreign_page_reads_nothing,
        managed::a_foreign_page_does_not_reach_a_closed_upstream,
        managed::every_origin_can_be_welcome,
        failures::a_page_reads_that_the_upstream_failed,
        failures::a_page_reads_that_keys_are_missing,
        failures::a_broken_answer_is_no_whole_one,
        streams::events_are_read_one_by_one_and_can_be_left,
        streams::an_event_source_has_its_token_in_the_query,
        streams::a_websocket_offers_its_token,
        caches::an_answer_for_one_origin_is_not_shown_to_another,
        caches::an_answer_without_origin_is_not_shown_to_a_page,
    ];
    cases::run(cases, |runtime| {
        let browser = runtime.block_on(Browser::start());
        println!("{}", browser.version());
        browser
    })
}
