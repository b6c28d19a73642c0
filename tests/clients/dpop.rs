//! Proofs by `dpop`, `jose` and `oauth4webapi` for tokens that are bound to their keys.

use serde_json::json;

use crate::issuer::Issuer;
use crate::issuer::port::Port;
use crate::node::Node;
use crate::support::{Setup, Upstream};

pub async fn the_proofs_of_other_libraries_count(node: &Node) {
    run(node, false).await;
}

pub async fn other_clients_follow_the_nonce(node: &Node) {
    run(node, true).await;
}

async fn run(node: &Node, asks_for_nonce: bool) {
    let issuer = Issuer::start();
    let upstream = Upstream::hello();
    let (data, admin) = (Port::reserve(), Port::reserve());
    let origin = format!("http://{}", data.address());
    let nonce = if asks_for_nonce { "required" } else { "off" };
    let proxy = Setup::new(&issuer, &upstream)
        .at(&data, &admin)
        .top(&format!("public_url = \"{origin}\""))
        .rest(&format!(
            "[dpop]\nmode = \"accepted\"\nnonce = \"{nonce}\"\n\
             algorithms = [\"ES256\", \"ES384\", \"EdDSA\", \"RS256\", \"PS256\"]"
        ))
        .start()
        .await;
    let input = json!({"origin": origin, "asksForNonce": asks_for_nonce});
    let mint = move |binding: &serde_json::Value| {
        let user = issuer.user("auth0|alice");
        user.claim("cnf", binding.clone()).mint().into()
    };
    let passed = node.run("dpop.mjs", &input, mint).await;
    assert_eq!(passed.len(), 11, "{passed:?}");
    // Three each for the first four, two for the next six, and three more.
    assert_eq!(upstream.requests(), 27);
    drop(proxy);
}
