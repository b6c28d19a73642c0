//! What a known user and a probe wait for while strangers storm a process that has the memory of the Kubernetes
//! sample (`prlimit --data`), and the most memory that it holds. The storms are those of `tests/it/budgets.rs`, in
//! full size and without a pause.
//!
//! `cargo bench --bench storms` runs all, `-- NAME` those whose name has this part.

use std::time::Duration;

#[path = "../tests/support/issuer.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "it is written for the integration tests, which use all of it"
)]
mod issuer;
#[path = "../tests/it/support/mod.rs"]
#[expect(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::string_slice,
    reason = "it is written for the integration tests, which use all of it"
)]
mod support;

use support::Request;
use support::frames::{HEADERS, PREFACE, WHOLE, block, frame, pseudo, settings};
use support::storm::{
    AT_ONCE, Crowd, DEAF, GOOD, HANG, MCP_EVENTS, MCP_GOOD, MCP_LIST, Place, Scene, call, converse,
    message_of, unfinished_head,
};

/// The values that the long messages are made of.
const SHAPES: [&str; 5] = ["\"x\"", "0", "[0]", r#"{"":0}"#, r#"{"":{"":{"":{"":0}}}}"#];

const LONG_MESSAGES: usize = 500;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!(
        "{:<44}{:>8}  kept, new, probe: 50 %  99 %  most, in ms",
        "storm", "peak MiB"
    );
    run("no storm", Scene::set, |_| {
        std::thread::sleep(Duration::from_secs(2))
    })
    .await;
    run("5,000 unfinished heads of 60 KB", Scene::set, |place| {
        stay(Crowd::of(place, 5_000, &unfinished_head(60_000)));
    })
    .await;
    run("10,000 idle connections", Scene::set, |place| {
        stay(Crowd::served(
            place,
            10_000,
            &Request::get(GOOD).bytes(),
            b"hello",
        ));
    })
    .await;
    run("500 uploads that nobody reads", Scene::set, |place| {
        let head = Request::new("POST", DEAF).header("Content-Length", "100000000");
        stay(Crowd::uploading(
            place,
            500,
            &head.bytes(),
            &[b'z'; 65_536],
            12,
        ));
    })
    .await;
    run(
        "11 × 95 streams to an agent that hangs",
        Scene::with_few_files,
        |place| {
            let mut bytes = [PREFACE, &settings(&[])].concat();
            for stream in (1..).step_by(2).take(95) {
                bytes.extend(frame(HEADERS, WHOLE, stream, &block(&pseudo("GET", HANG))));
            }
            stay(Crowd::of(place, 11, &bytes));
        },
    )
    .await;
    for shape in SHAPES {
        let message = message_of(shape);
        for (callers, is_kept) in [(AT_ONCE, false), (1, true)] {
            let way = if is_kept {
                "one caller, kept"
            } else {
                "16 callers, new"
            };
            let name = format!("500 messages of 1 MiB of {shape}, {way}");
            let times = LONG_MESSAGES.div_ceil(AT_ONCE);
            messages(&name, MCP_GOOD, "read", &message, move |place, requests| {
                let requests = requests.get(..callers).unwrap_or_default();
                let tally = converse(place, requests, times, is_kept);
                println!("    {tally:?}");
            })
            .await;
        }
        let name = format!("500 messages of 1 MiB of {shape}, last byte missing");
        messages(&name, MCP_GOOD, "read", &message, |place, requests| {
            let Some((_, almost)) = requests.first().and_then(|request| request.split_last())
            else {
                return;
            };
            stay(Crowd::of(place, LONG_MESSAGES, almost));
        })
        .await;
    }
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    for path in [MCP_LIST, MCP_EVENTS] {
        let name = format!("160 answers of 4 MiB to filter, {path}");
        messages(&name, path, "call", list, |place, requests| {
            println!("    {:?}", converse(place, requests, 10, false));
        })
        .await;
    }
}

/// When all have come, they stay for a while.
fn stay(crowd: Crowd) {
    std::thread::sleep(Duration::from_secs(2));
    drop(crowd);
}

/// A storm of MCP messages by some callers of this scope.
async fn messages(
    name: &str,
    path: &'static str,
    scope: &'static str,
    message: &str,
    storm: impl FnOnce(&Place, &[Vec<u8>]) + Send + 'static,
) {
    let message = message.to_owned();
    let set = || async move {
        let scene = Scene::with_mcp().await;
        let requests: Vec<Vec<u8>> = (0..AT_ONCE)
            .map(|number| {
                let user = scene.issuer.user(&format!("auth0|mallory-{number}"));
                call(path, &user.claim("scope", scope).mint(), &message)
            })
            .collect();
        (scene, requests)
    };
    let is_wanted = wanted(name);
    if is_wanted {
        let (scene, requests) = set().await;
        endure(name, scene, move |place| storm(place, &requests)).await;
    }
}

async fn run<F: Future<Output = Scene>>(
    name: &str,
    set: impl FnOnce() -> F,
    storm: impl FnOnce(&Place) + Send + 'static,
) {
    if wanted(name) {
        endure(name, set().await, storm).await;
    }
}

/// Whether a storm has been asked for by a part of its name, as all are without one.
fn wanted(name: &str) -> bool {
    let mut parts = std::env::args().skip(1).filter(|part| part != "--bench");
    parts.next().is_none_or(|part| name.contains(&part))
}

async fn endure(name: &str, mut scene: Scene, storm: impl FnOnce(&Place) + Send + 'static) {
    scene.wave = usize::MAX;
    scene.endures(storm).await;
    let peak = scene.proxy.peak_kib().div_euclid(1024);
    let mut waits = scene.waits();
    let columns = [&mut waits.kept, &mut waits.new, &mut waits.probe].map(|waits| quantiles(waits));
    println!("{name:<60}{peak:>5}  {}", columns.join(" |"));
}

fn quantiles(waits: &mut [Duration]) -> String {
    waits.sort_unstable();
    let at = |percent: usize| {
        let place = waits.len().saturating_mul(percent).div_euclid(100);
        let wait = waits.get(place.min(waits.len().saturating_sub(1)));
        wait.copied().unwrap_or_default().as_secs_f64() * 1000.0
    };
    format!("{:>7.1}{:>7.1}{:>8.1}", at(50), at(99), at(100))
}
