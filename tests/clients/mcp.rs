//! MCP by the official client, server and conformance suite.

use std::path::PathBuf;
use std::sync::mpsc as blocking;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::issuer::port::Port;
use crate::issuer::{Issuer, pem};
use crate::node::Node;
use crate::support::{Proxy, Setup};

/// Four clients, each of which has to ask for a token and later for a wider one.
pub async fn the_official_clients_find_the_issuer_and_step_up(node: &Node) {
    let identity = Identity::new();
    let [data, admin, issuer, backend] = [(); 4].map(|()| Port::reserve());
    let [domain, host] =
        [&issuer, &data].map(|port| format!("localhost:{}", port.address().port()));
    let (issuer, resource) = (format!("https://{domain}/"), format!("https://{host}/mcp"));
    let backend = format!("http://{}", backend.address());
    let metadata = json!({
        "client_name": "tests",
        "application_type": "native",
        "redirect_uris": ["http://127.0.0.1/callback"],
        "grant_types": ["authorization_code"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    });
    let server = json!({
        "backend": backend,
        "authorization": {
            "issuer": issuer,
            "certificate": identity.file("cert.pem"),
            "key": identity.file("key.pem"),
            "resource": resource,
            "scopes": ["use:tools", "manage:tools"],
            "client": metadata,
        },
    });
    let client = json!({"issuer": issuer, "resource": resource, "client": metadata});
    let setup = Setup::bare()
        .at(&data, &admin)
        .upstream(&backend)
        .auth0(&format!(
            "domain = \"{domain}\"\naudience = \"https://another.example.com\""
        ))
        .keys(&format!(
            "url = \"{issuer}jwks\"\nca_file = \"{}\"",
            identity.file("root.pem").display()
        ))
        .rest(&format!(
            "[[resource]]\nurl = \"{resource}\"\n\
             [[route]]\npath = \"/mcp/**\"\nrequire = {{ scopes = [\"use:tools\"] }}\n\
             [[route]]\npath = \"/mcp/admin/**\"\nrequire = {{ scopes = [\"use:tools\", \"manage:tools\"] }}\n\
             [[route]]\npath = \"/mcp/older/admin/**\"\nrequire = {{ scopes = [\"use:tools\", \"manage:tools\"] }}\n\
             [tls]\ncert_file = \"{}\"\nkey_file = \"{}\"",
            identity.file("cert.pem").display(),
            identity.file("key.pem").display(),
        ));
    let node = node.trusting(&identity.file("root.pem"));
    beside(&node, &server, async {
        let proxy = setup.start().await;
        let passed = node.run("mcp_client.mjs", &client, |_| Value::Null).await;
        assert_eq!(passed.len(), 4 * 5, "{passed:?}");
        // One challenge each is enough, for the first token and for the wider one.
        assert_eq!(codes(&proxy), [("scope_missing", 4), ("token_missing", 4)]);
    })
    .await;
}

/// What the suite finds is the same with authgate in between.
pub async fn the_conformance_suite_sees_no_difference(node: &Node) {
    let issuer = Issuer::start();
    let [data, admin, backend] = [(); 3].map(|()| Port::reserve());
    let backend = format!("http://{}", backend.address());
    let proxy = format!("http://{}", data.address());
    let resource = format!("{proxy}/mcp");
    let setup = Setup::to(&issuer, &backend)
        .at(&data, &admin)
        .rest(&format!("[[resource]]\nurl = \"{resource}\""));
    let server = json!({"backend": backend});
    let suite = json!({
        "backend": backend,
        "proxy": proxy,
        // How many scenarios there are.
        "revisions": {"2025-11-25": 33, "2026-07-28": 40},
    });
    beside(node, &server, async {
        let _proxy = setup.start().await;
        let token = move |_: &Value| {
            let user = issuer.user("auth0|alice");
            user.claim("aud", resource.as_str()).mint().into()
        };
        let passed = node.run("mcp_conformance.mjs", &suite, token).await;
        assert_eq!(passed.len(), 2, "{passed:?}");
    })
    .await;
}

/// Rules for each tool, lists of tools and sessions are what they should be for clients of all revisions.
pub async fn the_official_clients_see_and_call_their_own_tools(node: &Node) {
    let issuer = Issuer::start();
    let [data, admin, backend] = [(); 3].map(|()| Port::reserve());
    let backend = format!("http://{}", backend.address());
    let url = format!("http://{}/mcp", data.address());
    let keys = TempDir::new().expect("a directory");
    let key = keys.path().join("session.key");
    std::fs::write(&key, "k".repeat(64)).expect("a file");
    let setup = Setup::to(&issuer, &backend).at(&data, &admin).rest(&format!(
        "[[route]]\npath = \"/mcp\"\n\
         [[route]]\npath = \"/mcp\"\nmcp = {{ tool = \"*\" }}\nrequire = {{ scopes = [\"tools:call\"] }}\n\
         [[route]]\npath = \"/mcp\"\nmcp = {{ tool = \"test_*\" }}\n\
         require = {{ scopes = [\"tools:call\", \"tools:test\"] }}\n\
         [mcp]\nread_bodies = true\nfilter_tools = true\nsession_key_file = \"{}\"",
        key.display(),
    ));
    beside(node, &json!({"backend": backend}), async {
        let proxy = setup.start().await;
        let token = move |asked: &Value| {
            let user = issuer.user(asked["sub"].as_str().expect("a subject"));
            user.claim("scope", asked["scope"].as_str().expect("scopes"))
                .mint()
                .into()
        };
        let passed = node.run("mcp_rules.mjs", &json!({"url": url}), token).await;
        assert_eq!(passed.len(), 3 * 3, "{passed:?}");
        let events = proxy.events();
        let of = |code: &str| events.iter().filter(|event| event["code"] == code).count();
        // One call too many each; one stolen and one bare session for each of the two revisions with sessions.
        assert_eq!((of("scope_missing"), of("mcp_session_unknown")), (3, 4));
    })
    .await;
}

/// Runs a case while the backend serves.
async fn beside(node: &Node, server: &Value, case: impl Future<Output = ()>) {
    let (serves, mut served) = mpsc::unbounded_channel();
    let (over, end) = blocking::channel::<()>();
    let serving = node.run("mcp_server.mjs", server, move |_| {
        // Nobody waits for it where the case has failed.
        let _failed = serves.send(());
        let _over = end.recv();
        Value::Null
    });
    let case = async {
        served.recv().await.expect("a backend");
        case.await;
        drop(over);
    };
    tokio::join!(serving, case);
}

/// Why requests were refused, and how often.
fn codes(proxy: &Proxy) -> Vec<(&'static str, usize)> {
    let events = proxy.events();
    let of = |code: &str| events.iter().filter(|event| event["code"] == code).count();
    let known = ["scope_missing", "token_missing"].map(|code| (code, of(code)));
    let refused = events.iter().filter(|event| {
        event["message"] == "request"
            && event["status"].as_u64().is_some_and(|status| status >= 401)
    });
    let refused: Vec<_> = refused.collect();
    let sum: usize = known.iter().map(|(_, count)| count).sum();
    assert_eq!(refused.len(), sum, "{refused:#?}");
    known.to_vec()
}

/// A root, and what it says of `localhost`, in files.
struct Identity {
    directory: TempDir,
}

impl Identity {
    fn new() -> Self {
        let identity = Self {
            directory: TempDir::new().expect("a directory"),
        };
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // By the default of both, the leaf would seem to be its own root.
        params.distinguished_name.push(DnType::CommonName, "root");
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let root = root.expect("a root");
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(vec!["localhost".to_owned()])
            .and_then(|params| params.signed_by(&key, &root))
            .expect("a certificate");
        for (name, text) in [
            ("root.pem", pem("CERTIFICATE", root.der())),
            ("cert.pem", pem("CERTIFICATE", leaf.der())),
            ("key.pem", pem("PRIVATE KEY", &key.serialize_der())),
        ] {
            std::fs::write(identity.file(name), text).expect("a file");
        }
        identity
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}
