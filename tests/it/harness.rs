//! The stand-ins themselves, checked without the program between them.

use std::sync::Arc;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, Validation, decode};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::issuer::keys::{Algorithm, SigningKey};
use crate::issuer::tokens::AUDIENCE;
use crate::issuer::{Issuer, KEYS_PATH, secrets};
use crate::support::upstream::Feed;
use crate::support::wire::Wire;
use crate::support::{Client, Reply, Request, Response, Upstream};

/// Another library's opinion of a token.
fn opinion(
    token: &str,
    jwk: &Value,
    algorithm: Algorithm,
    issuer: &Issuer,
) -> Result<Value, String> {
    let mut jwk = jwk.clone();
    jwk["alg"] = json!(algorithm.name());
    // This library cannot read the thumbprint that Auth0 publishes.
    jwk.as_object_mut().expect("an object").remove("x5t");
    let jwk: Jwk = serde_json::from_value(jwk).map_err(|error| error.to_string())?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| error.to_string())?;
    let algorithm = algorithm.name().parse();
    let mut validation = Validation::new(algorithm.map_err(|_| "an unknown algorithm")?);
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[issuer.issuer()]);
    decode(token, &key, &validation)
        .map(|token| token.claims)
        .map_err(|error| error.to_string())
}

#[test]
fn minted_tokens_hold_elsewhere() {
    let issuer = Issuer::start();
    let rsa = issuer.key();
    let mut signers: Vec<(Algorithm, Arc<SigningKey>)> = [
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Ps256,
        Algorithm::Ps384,
        Algorithm::Ps512,
    ]
    .map(|algorithm| (algorithm, Arc::clone(&rsa)))
    .to_vec();
    for key in [
        SigningKey::ec(Algorithm::Es256),
        SigningKey::ec(Algorithm::Es384),
        SigningKey::ed25519(),
    ] {
        signers.push((key.default_algorithm(), Arc::new(key)));
    }
    for (algorithm, key) in signers {
        let mint = || issuer.user("auth0|alice").key(&key).algorithm(algorithm);
        let claims = opinion(&mint().mint(), &key.jwk(), algorithm, &issuer).expect("a good token");
        assert_eq!(claims["sub"], "auth0|alice");
        let forged = mint().signature(vec![1; 64]).mint();
        assert!(
            opinion(&forged, &key.jwk(), algorithm, &issuer).is_err(),
            "{}",
            algorithm.name()
        );
    }
}

async fn fetch(issuer: &Issuer) -> Response {
    let stream = TcpStream::connect(issuer.domain())
        .await
        .expect("a connection");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = issuer
        .tls_connector(&[])
        .connect(name, stream)
        .await
        .expect("a handshake");
    Client::over(Wire::new(stream))
        .request(&Request::get(KEYS_PATH))
        .await
}

#[tokio::test]
async fn the_key_set_has_the_shape_of_auth0s() {
    let issuer = Issuer::start();
    let keys = fetch(&issuer).await.json();
    let key = &keys["keys"][0];
    for name in ["alg", "kty", "use", "n", "e", "kid", "x5t", "x5c"] {
        assert!(!key[name].is_null(), "no {name} in {key}");
    }
    // The base64url of 40 bytes, where RFC 7517 wants 20.
    assert_eq!(key["x5t"].as_str().map(str::len), Some(54));
    assert_eq!(issuer.requests(), 1);
}

#[tokio::test]
async fn the_issuer_goes_and_comes_back_on_its_port() {
    let issuer = Issuer::start();
    for _ in 0..3 {
        issuer.go_down();
        assert!(TcpStream::connect(issuer.domain()).await.is_err());
        issuer.come_back();
        assert_eq!(fetch(&issuer).await.status(), 200);
    }
    issuer.behave(|behaviour| behaviour.status = 429);
    assert_eq!(fetch(&issuer).await.status(), 429);
}

#[tokio::test]
async fn the_upstream_records_and_tells_who_hung_up() {
    let upstream = Upstream::start(|head| match head.target() {
        "/events" => Reply::events(),
        _ => Reply::Echo,
    });
    let mut client = Client::connect(upstream.address()).await;
    assert_eq!(
        client.request(&Request::post("/x", "hello")).await.text(),
        "hello"
    );
    let exchange = upstream.next().await;
    assert_eq!(exchange.body().await, b"hello");
    assert_eq!((exchange.connection, exchange.is_closed()), (1, false));

    client.write(&Request::get("/events")).await;
    assert_eq!(client.head().await.status(), 200);
    let exchange = upstream.next().await;
    exchange.send("data: 1\n\n");
    assert_eq!(client.data().await, "data: 1\n\n");
    drop(client);
    exchange.closed().await;

    let mut client = Request::get("/events").open(upstream.address()).await;
    assert_eq!(client.head().await.status(), 200);
    upstream.next().await.feed(Feed::Cut);
    assert!(client.body().await.is_err());
}

#[test]
fn a_leak_is_found() {
    let issuer = Issuer::start();
    let token = issuer.user("auth0|alice").mint();
    let (_, signature) = token.rsplit_once('.').expect("three parts");
    assert!(secrets::found_in("an innocent line").is_empty());
    assert_eq!(secrets::found_in(&format!("sig={signature}")), [signature]);
    assert!(secrets::found_in(&token).contains(&token));
}
