//! TLS for clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::issuer::Issuer;
use crate::support::h2::H2;
use crate::support::proxy::{program, run_to_end};
use crate::support::wire::Wire;
use crate::support::{Client, Reply, Request, Setup, Upstream, assert_own, own, within};

const OPEN: &str = "[[route]]\npath = \"/**\"\naccess = \"public\"";

/// A certificate authority with the listener's files.
struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key"));
        let authority = Self {
            root: root.expect("a root"),
            directory: TempDir::new().expect("a directory"),
        };
        std::fs::write(
            authority.file("root.pem"),
            pem("CERTIFICATE", authority.root.der()),
        )
        .expect("a file");
        authority.renew();
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A certificate for a name, with its key.
    fn issue(&self, name: &str) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.root).expect("a certificate");
        (certificate, key)
    }

    /// Another certificate for the listener, in one step for each file. Its serial number.
    fn renew(&self) -> CertificateDer<'static> {
        let (certificate, key) = self.issue("localhost");
        for (name, pem) in [
            ("cert.pem", pem("CERTIFICATE", certificate.der())),
            ("key.pem", pem("PRIVATE KEY", &key.serialize_der())),
        ] {
            let next = self.file("next");
            std::fs::write(&next, pem).expect("a file");
            std::fs::rename(next, self.file(name)).expect("a file in its place");
        }
        certificate.der().clone()
    }

    fn table(&self) -> String {
        format!(
            "[tls]\ncert_file = \"{}\"\nkey_file = \"{}\"\n",
            self.file("cert.pem").display(),
            self.file("key.pem").display()
        )
    }

    fn connector(
        &self,
        protocols: &[&str],
        versions: &[&'static SupportedProtocolVersion],
        identity: Option<&str>,
    ) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("protocol versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let (certificate, key) = self.issue(name);
                let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
                builder
                    .with_client_auth_cert(vec![certificate.der().clone()], key)
                    .expect("an identity")
            }
        };
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        TlsConnector::from(Arc::new(config))
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

async fn dial(
    connector: &TlsConnector,
    address: SocketAddr,
) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    within("a handshake", connector.connect(name, stream)).await
}

async fn connect(connector: &TlsConnector, address: SocketAddr) -> TlsStream<TcpStream> {
    dial(connector, address).await.expect("a handshake")
}

fn certificate_of(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let chain = stream
        .get_ref()
        .1
        .peer_certificates()
        .expect("a certificate");
    chain[0].clone().into_owned()
}

#[tokio::test]
async fn clients_choose_version_and_protocol() {
    let issuer = Issuer::start();
    let authority = Authority::new();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&authority.table())
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    for version in [&TLS12, &TLS13] {
        for protocols in [&[][..], &["http/1.1"], &["h2", "http/1.1"], &["h2"]] {
            let connector = authority.connector(protocols, &[version], None);
            let stream = connect(&connector, proxy.data).await;
            let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            if protocols.contains(&"h2") {
                assert_eq!(chosen.as_deref(), Some(&b"h2"[..]));
                let mut client = H2::over(stream).await;
                let request = http::Request::get("https://agents.example.com/x")
                    .header("authorization", format!("Bearer {token}"))
                    .body(Full::<Bytes>::default());
                assert_eq!(client.send(request.expect("a request")).await.status(), 200);
            } else {
                let mut client = Client::over(Wire::new(stream));
                let request = Request::get("/x").bearer(&token);
                assert_eq!(client.request(&request).await.text(), "hello");
                assert_own(
                    &client.request(&Request::get("/x")).await,
                    401,
                    "token_missing",
                );
            }
            let head = upstream.next().await.head;
            assert_eq!(head.get("x-forwarded-user"), Some("auth0|alice"));
            assert_eq!(head.get("x-forwarded-proto"), Some("https"));
        }
    }
    // Without ALPN, the first bytes tell, as in clear text.
    let stream = connect(&authority.connector(&[], &[&TLS13], None), proxy.data).await;
    let mut client = H2::over(stream).await;
    let request = http::Request::get("https://a/x").body(Full::<Bytes>::default());
    assert_eq!(client.send(request.expect("a request")).await.status(), 401);
}

/// An offer that is not taken up changes nothing about the end: hyper hands such a connection over instead of
/// closing it.
#[tokio::test]
async fn a_connection_with_an_offer_ends_with_close_notify() {
    let issuer = Issuer::start();
    let authority = Authority::new();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&authority.table())
        .start()
        .await;
    let token = issuer.user("auth0|alice").mint();
    for offer in ["", "Connection: Upgrade\r\nUpgrade: h2c\r\n"] {
        let connector = authority.connector(&["http/1.1"], &[&TLS13], None);
        let mut stream = connect(&connector, proxy.data).await;
        let request = format!(
            "GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{offer}Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("room");
        let mut answer = Vec::new();
        // Without a close_notify, the end is an error.
        let read = within("the end", stream.read_to_end(&mut answer)).await;
        read.expect("a whole stream");
        assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"hello"));
    }
}

#[tokio::test]
async fn a_protocol_that_is_not_spoken_is_refused_in_the_handshake() {
    let issuer = Issuer::start();
    let authority = Authority::new();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&authority.table())
        .start()
        .await;
    let connector = authority.connector(&["http/1.0", "imap"], &[&TLS13], None);
    assert!(dial(&connector, proxy.data).await.is_err());
}

#[tokio::test]
async fn clear_text_gets_nothing_from_a_tls_listener() {
    let issuer = Issuer::start();
    let authority = Authority::new();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest(&authority.table())
        .rest("[timeouts]\nheader = \"1s\"")
        .start()
        .await;
    for bytes in [
        &b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        // Half a handshake, which is not waited for.
        b"\x16\x03\x01\x02\x00\x01",
        b"",
    ] {
        let mut client = Client::connect(proxy.data).await;
        client.send(bytes).await;
        client.closed().await;
    }
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn what_is_no_request_is_answered_over_tls_too() {
    let issuer = Issuer::start();
    let authority = Authority::new();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&authority.table())
        .rest("[timeouts]\nheader = \"1s\"")
        .start()
        .await;
    let connector = authority.connector(&[], &[&TLS13], None);
    for (bytes, status, code) in [
        (&b"no request\r\n\r\n"[..], 400, "request_malformed"),
        (b"GET /x HTTP/1.1\r\nHost: ", 408, "request_timeout"),
    ] {
        let mut client = Client::over(Wire::new(connect(&connector, proxy.data).await));
        client.send(bytes).await;
        own(&client.response().await, status, code).expect("an own answer");
        client.closed().await;
    }
}

#[tokio::test]
async fn streams_and_websockets_pass_over_tls() {
    let issuer = Issuer::start();
    let authority = Authority::new();
    let upstream = Upstream::start(|head| match head.target() {
        "/events" => Reply::events(),
        _ => Reply::WebSocket,
    });
    let proxy = Setup::new(&issuer, &upstream)
        .rest(OPEN)
        .rest(&authority.table())
        .start()
        .await;
    let connector = authority.connector(&["http/1.1"], &[&TLS13], None);
    let mut events = Client::over(Wire::new(connect(&connector, proxy.data).await));
    events.write(&Request::get("/events")).await;
    assert_eq!(events.head().await.status(), 200);
    let exchange = upstream.next().await;
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        exchange.send(event);
        assert_eq!(events.data().await, event);
    }
    drop(events);
    exchange.closed().await;

    let mut socket = Client::over(Wire::new(connect(&connector, proxy.data).await));
    socket.write(&Request::get("/ws").websocket()).await;
    assert_eq!(socket.head().await.status(), 101);
    socket.send(b"\x81\x05hello").await;
    assert_eq!(socket.exactly(7).await, b"\x81\x05hello");
}

#[tokio::test]
async fn a_proxy_header_comes_before_the_handshake() {
    let issuer = Issuer::start();
    let authority = Authority::new();
    let upstream = Upstream::hello();
    let proxy = Setup::new(&issuer, &upstream)
        .top("trusted_proxies = [\"127.0.0.0/8\"]\nproxy_protocol = true")
        .rest(OPEN)
        .rest(&authority.table())
        .start()
        .await;
    let mut stream = TcpStream::connect(proxy.data).await.expect("a connection");
    let header = b"PROXY TCP4 198.51.100.7 10.0.0.1 8080 443\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, header)
        .await
        .expect("room");
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = authority.connector(&[], &[&TLS13], None);
    let stream = connector.connect(name, stream).await.expect("a handshake");
    let mut client = Client::over(Wire::new(stream));
    assert_eq!(client.request(&Request::get("/x")).await.text(), "hello");
    let head = upstream.next().await.head;
    assert_eq!(head.get("x-forwarded-for"), Some("198.51.100.7"));
}

#[tokio::test]
async fn client_certificates_are_asked_for_where_their_roots_are_named() {
    let issuer = Issuer::start();
    let authority = Authority::new();
    let stranger = Authority::new();
    let upstream = Upstream::hello();
    let roots = format!(
        "client_ca_file = \"{}\"",
        authority.file("root.pem").display()
    );
    let proxy = Setup::new(&issuer, &upstream)
        .rest(&(authority.table() + &roots))
        .rest(OPEN)
        .start()
        .await;
    for version in [&TLS12, &TLS13] {
        let good = authority.connector(&[], &[version], Some("client"));
        let mut client = Client::over(Wire::new(connect(&good, proxy.data).await));
        assert_eq!(client.request(&Request::get("/x")).await.text(), "hello");
        // Signed by somebody else, whom the client itself trusts as it should.
        let none = authority.connector(&[], &[version], None);
        // In TLS 1.3 the client learns of its refusal with the first read.
        if let Ok(stream) = dial(&none, proxy.data).await {
            let mut client = Client::over(Wire::new(stream));
            client.write(&Request::get("/x")).await;
            assert!(client.head_or_end().await.is_none());
        }
    }
    assert!(
        dial(&stranger.connector(&[], &[&TLS13], None), proxy.data)
            .await
            .is_err()
    );
    assert_eq!(upstream.requests(), 2);
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_dropping_a_connection() {
    let issuer = Issuer::start();
    let authority = Authority::new();
    let upstream = Upstream::hello();
    let setup = || {
        Setup::new(&issuer, &upstream)
            .rest(OPEN)
            .rest(&authority.table())
    };
    let proxy = setup().start().await;
    let connector = authority.connector(&["http/1.1"], &[&TLS13], None);
    let first = connect(&connector, proxy.data).await;
    let old = certificate_of(&first);
    let mut kept = Client::over(Wire::new(first));
    assert_eq!(kept.request(&Request::get("/x")).await.text(), "hello");

    // Noticed by itself.
    let mark = proxy.mark();
    let new = authority.renew();
    proxy
        .event_after(mark, "a loaded configuration", |event| {
            event["message"] == "configuration loaded"
        })
        .await;
    let second = connect(&connector, proxy.data).await;
    assert_ne!(certificate_of(&second), old);
    assert_eq!(certificate_of(&second), new);
    assert_eq!(kept.request(&Request::get("/x")).await.text(), "hello");

    // What cannot be used changes nothing.
    std::fs::write(authority.file("key.pem"), "no key").expect("a file");
    let mark = proxy.mark();
    proxy.signal("HUP");
    let event = proxy
        .event_after(mark, "a refusal", |event| {
            event["message"] == "configuration not loaded; the one before stays in force"
        })
        .await;
    assert!(
        event["error"]
            .as_str()
            .is_some_and(|error| error.contains("tls.key_file")),
        "{event}"
    );
    assert_eq!(certificate_of(&connect(&connector, proxy.data).await), new);

    // Nor does a key that belongs to another certificate.
    std::fs::write(
        authority.file("key.pem"),
        pem(
            "PRIVATE KEY",
            &KeyPair::generate().expect("a key").serialize_der(),
        ),
    )
    .expect("a file");
    let mark = proxy.mark();
    proxy.signal("HUP");
    proxy
        .event_after(mark, "a refusal", |event| {
            event["message"] == "configuration not loaded; the one before stays in force"
        })
        .await;
    assert_eq!(certificate_of(&connect(&connector, proxy.data).await), new);
    assert_eq!(kept.request(&Request::get("/x")).await.text(), "hello");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_78() {
    let authority = Authority::new();
    let missing = authority.file("nothing.pem");
    std::fs::write(authority.file("empty.pem"), "").expect("a file");
    let other = pem(
        "PRIVATE KEY",
        &KeyPair::generate().expect("a key").serialize_der(),
    );
    std::fs::write(authority.file("other.pem"), other).expect("a file");
    let at = |name: &str| authority.file(name).display().to_string();
    for (cert, key, says) in [
        (
            missing.display().to_string(),
            at("key.pem"),
            "tls.cert_file",
        ),
        (at("empty.pem"), at("key.pem"), "no certificate found"),
        (at("cert.pem"), at("empty.pem"), "tls.key_file"),
        (
            at("cert.pem"),
            at("other.pem"),
            "tls.cert_file and tls.key_file",
        ),
    ] {
        let text = format!(
            "[auth0]\ndomain = \"t.us.auth0.com\"\naudience = \"https://a\"\n[tls]\ncert_file = \"{cert}\"\nkey_file = \"{key}\"\n"
        );
        let file = authority.file("authgate.toml");
        std::fs::write(&file, text).expect("a file");
        let mut command = program();
        command.arg("check").arg("--config").arg(&file);
        let output = run_to_end(command, "").await;
        assert_eq!(output.status.code(), Some(78));
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains(says), "{says} in {told}");
    }
}
