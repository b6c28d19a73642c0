//! The worked examples of RFC 7515 appendix A and RFC 8037 appendix A.
//!
//! Their payloads lack what an access token needs, so they are tested where signatures are.

use authgate::jose::{Algorithm, CompactJws, JwsError, KeySet};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use crate::mint::{Draft, tenant};

const PAYLOAD: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

const PAYLOAD_TEXT: &str =
    "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}";

/// A.1.
const HS256_HEADER: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9";
const HS256_SECRET: &str =
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const HS256_SIGNATURE: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// A.2.
const RS256_HEADER: &str = "eyJhbGciOiJSUzI1NiJ9";
const RS256_MODULUS: &str = concat!(
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4",
    "d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5re",
    "xMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxX",
    "FvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
);
const RS256_SIGNATURE: &str = concat!(
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5",
    "jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb",
    "1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QO",
    "YEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
);

/// A.3.
const ES256_HEADER: &str = "eyJhbGciOiJFUzI1NiJ9";
const ES256_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const ES256_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const ES256_SIGNATURE: &str =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";

/// A.4.
const ES512_TOKEN: &str = concat!(
    "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.",
    "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8G",
    "aSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"
);
const ES512_X: &str =
    "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk";
const ES512_Y: &str =
    "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2";

/// A.5.
const NONE_HEADER: &str = "eyJhbGciOiJub25lIn0";

/// RFC 8037 A.2 and A.4.
const ED25519_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const ED25519_TOKEN: &str = concat!(
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.",
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
);

fn rsa_key() -> Value {
    json!({"kty":"RSA","n":RS256_MODULUS,"e":"AQAB"})
}

fn keys(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({"keys":keys}).to_string().as_bytes(), &Algorithm::ALL)
        .expect("a JWK Set")
        .0
}

/// The payload, if a key of the set verifies it.
fn verify(token: &str, keys: &KeySet) -> Result<Vec<u8>, JwsError> {
    let jws = CompactJws::parse(token)?;
    let (payload, _) = jws.verify(keys.keys())?;
    Ok(payload.bytes().to_vec())
}

#[test]
fn the_supported_examples_verify_and_release_their_payload() {
    let p256 = json!({"kty":"EC","crv":"P-256","x":ES256_X,"y":ES256_Y});
    let ed25519 = json!({"kty":"OKP","crv":"Ed25519","x":ED25519_X});
    for (name, token, key, payload) in [
        (
            "RFC 7515 A.2",
            format!("{RS256_HEADER}.{PAYLOAD}.{RS256_SIGNATURE}"),
            rsa_key(),
            PAYLOAD_TEXT,
        ),
        (
            "RFC 7515 A.3",
            format!("{ES256_HEADER}.{PAYLOAD}.{ES256_SIGNATURE}"),
            p256,
            PAYLOAD_TEXT,
        ),
        (
            "RFC 8037 A.4",
            ED25519_TOKEN.to_owned(),
            ed25519,
            "Example of Ed25519 signing",
        ),
    ] {
        let set = keys(&[key]);
        assert_eq!(set.keys().len(), 1, "{name}: the key is usable");
        assert_eq!(
            verify(&token, &set).as_deref(),
            Ok(payload.as_bytes()),
            "{name}"
        );
        for (part, why) in ["header", "payload", "signature"].iter().enumerate() {
            let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
            let flipped = if parts[part].starts_with('e') {
                "f"
            } else {
                "e"
            };
            parts[part].replace_range(0..1, flipped);
            assert!(
                verify(&parts.join("."), &set).is_err(),
                "{name}: one bit of the {why}"
            );
        }
    }
}

#[test]
fn the_mac_example_is_genuine_and_refused() {
    let secret = URL_SAFE_NO_PAD.decode(HS256_SECRET).expect("base64url");
    let input = format!("{HS256_HEADER}.{PAYLOAD}");
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, &secret),
        input.as_bytes(),
    );
    assert_eq!(
        URL_SAFE_NO_PAD.encode(tag),
        HS256_SIGNATURE,
        "the example is copied right"
    );
    let set = keys(&[json!({"kty":"oct","k":HS256_SECRET}), rsa_key()]);
    assert_eq!(set.keys().len(), 1, "the secret is no key of ours");
    assert_eq!(
        verify(&format!("{input}.{HS256_SIGNATURE}"), &set),
        Err(JwsError::Signature)
    );
}

#[test]
fn unsupported_and_unsecured_examples_are_refused() {
    let p521 = json!({"kty":"EC","crv":"P-521","x":ES512_X,"y":ES512_Y});
    assert!(
        keys(std::slice::from_ref(&p521)).is_empty(),
        "P-521 is not supported"
    );
    let set = keys(&[rsa_key(), p521]);
    assert_eq!(set.keys().len(), 1, "it does not cost the other key");
    assert_eq!(verify(ES512_TOKEN, &set), Err(JwsError::Signature));
    for token in [
        format!("{NONE_HEADER}.{PAYLOAD}."),
        format!("{NONE_HEADER}.{PAYLOAD}.{RS256_SIGNATURE}"),
    ] {
        assert_eq!(verify(&token, &set), Err(JwsError::Signature), "alg none");
    }
    assert_eq!(
        verify(&format!("{NONE_HEADER}.{PAYLOAD}"), &set),
        Err(JwsError::Parts(2)),
        "alg none without its last dot"
    );
}

/// The key decides how a signature is computed; the header only may not contradict it.
#[test]
fn a_header_that_contradicts_its_key_is_refused() {
    let key = tenant().jwk(&json!({"alg":"RS256"}));
    let set = keys(&[key]);
    let draft = Draft::new(&json!({}), &json!({}));
    assert!(verify(&draft.sign(tenant()), &set).is_ok());
    for alg in [
        "RS384", "RS512", "PS256", "ES256", "EdDSA", "HS256", "none", "rs256", "",
    ] {
        let draft = Draft::new(&json!({"alg":alg}), &json!({})).signed_as("RS256");
        assert_eq!(
            verify(&draft.sign(tenant()), &set),
            Err(JwsError::Signature),
            "{alg:?}"
        );
    }
}
