//! What `Debug` shows of every type that can hold a token, a proof or a key: not these.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use authgate::canonical::CanonicalRequest;
use authgate::clock::UnixTime;
use authgate::identity::{Credential, IdentitySettings};
use authgate::jose::{CompactJws, MacKey};
use authgate::mcp::SessionKeys;
use authgate::secret::Secret;
use authgate::token::{Nonces, TokenCache, TokenSources, Verifier, bearer_token};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Request;
use http::header::{AUTHORIZATION, HOST, HeaderName, HeaderValue};
use serde_json::json;

use super::mint::{self, NOW};

/// Fails where a part of the token is shown, as text or as the numbers of its bytes.
pub fn assert_hidden(secret: &str, what: &str, value: &dyn Debug) {
    let compact = |text: String| text.replace(char::is_whitespace, "");
    for shown in [format!("{value:?}"), format!("{value:#?}")].map(compact) {
        for part in secret.split(['.', ' ']).filter(|part| part.len() >= 8) {
            let decoded = URL_SAFE_NO_PAD.decode(part).unwrap_or_default();
            let end = |bytes: &[u8]| {
                let end = bytes.last_chunk::<6>().unwrap_or(b"geheim");
                let numbers = compact(format!("{end:?}"));
                numbers.trim_matches(['[', ']']).to_owned()
            };
            let numbers = [part.as_bytes(), &decoded].map(end);
            for hidden in numbers.into_iter().chain([part.to_owned()]) {
                assert!(!shown.contains(&hidden), "{what} shows {hidden}: {shown}");
            }
        }
    }
}

#[test]
fn the_search_finds_what_is_shown() {
    let token = mint::with_claims(&json!({}));
    let signature = token.rsplit('.').next().expect("a signature");
    let bytes = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let shown: [&dyn Debug; 5] = [
        &token,
        &signature,
        &Some(token.as_bytes()),
        &bytes,
        &Arc::new((1, &bytes[..])),
    ];
    for value in shown {
        let search = AssertUnwindSafe(|| assert_hidden(&token, "it", value));
        assert!(catch_unwind(search).is_err(), "{value:?}");
    }
}

#[test]
fn no_type_on_the_way_of_a_token_shows_it() {
    let token = mint::with_claims(&json!({}));
    let hidden = |what: &str, value: &dyn Debug| assert_hidden(&token, what, value);
    hidden("Secret", &Secret::new(&token));

    let request = Request::get("/")
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .body(())
        .expect("a request");
    let (head, ()) = request.into_parts();
    let sources = TokenSources::default();
    hidden(
        "Presented",
        &sources.presented(&head.uri, &head.headers, false),
    );
    hidden(
        "BearerToken",
        &sources.find(&head.uri, &head.headers, false),
    );
    let bearer = bearer_token(&head.headers);
    hidden("BearerToken", &bearer);
    let bearer = bearer.expect("well-formed").expect("a token");
    let mut sent = head.clone();
    sent.uri = format!("/x?access_token={token}")
        .parse()
        .expect("a target");
    sent.headers
        .insert(HOST, HeaderValue::from_static("example.com"));
    hidden("CanonicalRequest", &CanonicalRequest::new(sent, false));

    let jws = CompactJws::parse(&token).expect("a JWS");
    hidden("CompactJws", &jws);
    hidden("KnownHeader", &jws.known_header());
    let keys = mint::key_set(
        &[mint::tenant().jwk(&json!({"kid":"k1","alg":"RS256"}))],
        &[authgate::jose::Algorithm::Rs256],
    );
    hidden("VerifiedPayload", &jws.verify(keys.keys()));

    let verifier = Verifier::new(mint::settings());
    let unverified = verifier.read(bearer).expect("readable");
    hidden("Unverified", &unverified);
    hidden(
        "SignedToken",
        &Verifier::check_signature(&unverified, &mint::keyring()),
    );
    let now = UnixTime::from_secs(NOW);
    let verified = verifier
        .verify(&unverified, &mint::keyring(), now)
        .expect("valid");
    hidden("VerifiedToken", &verified);
    hidden("Verifier", &verifier);

    let settings = IdentitySettings {
        subject_header: HeaderName::from_static("x-forwarded-user"),
        claims_header: Some(HeaderName::from_static("x-auth-claims")),
        headers: vec![],
        forward_authorization: true,
    };
    let credential = Arc::new(settings.identify(verified));
    hidden("Credential", &credential);
    let cache: TokenCache<Credential> = TokenCache::new();
    cache.insert(&token, 1, now, credential);
    hidden("TokenCache", &cache);
}

#[test]
fn no_key_is_shown() {
    const KEY: &str = "0123456789abcdef0123456789abcdef";
    let key = KEY.as_bytes();
    assert_hidden(KEY, "MacKey", &MacKey::new(key));
    assert_hidden(KEY, "Nonces", &Nonces::new(key));
    assert_hidden(KEY, "SessionKeys", &SessionKeys::parse(KEY));
    assert_hidden(KEY, "KeyError", &SessionKeys::parse(&KEY[1..]));
}
