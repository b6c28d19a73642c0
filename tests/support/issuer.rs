//! A stand-in for an Auth0 tenant: fresh keys, a key set served over TLS on loopback, and tokens.
//!
//! It runs in a thread of its own, so that it answers whatever the caller's thread is doing, and every
//! part of its behaviour can be changed while it runs.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc as blocking};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub mod keys;
pub mod port;
pub mod secrets;
pub mod tokens;

use keys::SigningKey;
use port::Port;
use tokens::Mint;

/// Where Auth0 publishes a tenant's keys.
pub const KEYS_PATH: &str = "/.well-known/jwks.json";

/// How the key endpoint answers.
#[derive(Clone)]
pub struct Behaviour {
    pub status: u16,
    /// Sent beside `Content-Type`.
    pub headers: Vec<(String, String)>,
    /// The JWKs of the set. Ignored when `body` is given.
    pub keys: Vec<Value>,
    /// The whole body, for answers that are no key set.
    pub body: Option<Bytes>,
    /// Requests wait until this is false.
    pub held: bool,
    /// The connection ends without an answer.
    pub hang_up: bool,
}

struct Shared {
    behaviour: watch::Sender<Behaviour>,
    /// Targets of the requests seen, in their order.
    seen: watch::Sender<Vec<String>>,
    signing: Mutex<Arc<SigningKey>>,
}

enum Command {
    Listen(blocking::Sender<()>),
    Refuse(blocking::Sender<()>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tls,
    Plain,
}

/// A running tenant. It ends with this value.
pub struct Issuer {
    shared: Arc<Shared>,
    address: SocketAddr,
    transport: Transport,
    authority: Authority,
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Issuer {
    /// A tenant that serves its keys over TLS.
    pub fn start() -> Self {
        Self::launch(Transport::Tls, 0)
    }

    /// A tenant with keys that the first one of the process does not have.
    pub fn start_another() -> Self {
        Self::launch(Transport::Tls, 1)
    }

    /// A tenant that serves its keys over plain HTTP.
    pub fn start_plain() -> Self {
        Self::launch(Transport::Plain, 0)
    }

    fn launch(transport: Transport, slot: usize) -> Self {
        let signing = Arc::new(SigningKey::rsa(slot));
        let behaviour = Behaviour {
            status: 200,
            headers: Vec::new(),
            keys: vec![signing.jwk()],
            body: None,
            held: false,
            hang_up: false,
        };
        let shared = Arc::new(Shared {
            behaviour: watch::Sender::new(behaviour),
            seen: watch::Sender::new(Vec::new()),
            signing: Mutex::new(signing),
        });
        let authority = Authority::new();
        let tls = (transport == Transport::Tls).then(|| authority.acceptor());
        let (commands, received) = mpsc::unbounded_channel();
        let (announce, announced) = blocking::channel();
        let thread = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(serve(shared, tls, received, announce));
            }
        });
        let address = announced.recv().expect("the issuer's address");
        let commands = Some(commands);
        Self {
            shared,
            address,
            transport,
            authority,
            commands,
            thread: Some(thread),
        }
    }

    /// What stands in `auth0.domain`.
    pub fn domain(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// What stands in `iss`.
    pub fn issuer(&self) -> String {
        format!("https://{}/", self.domain())
    }

    /// Where the keys are. A plain issuer is named by its address, as a loopback URL must be.
    pub fn keys_url(&self) -> String {
        match self.transport {
            Transport::Tls => format!("https://{}{KEYS_PATH}", self.domain()),
            Transport::Plain => format!("http://{}{KEYS_PATH}", self.address),
        }
    }

    /// The file with the root that signed the TLS certificate, for `auth0.keys.ca_file`.
    pub fn ca_file(&self) -> &Path {
        &self.authority.file
    }

    /// The same root as text.
    pub fn ca_pem(&self) -> &str {
        &self.authority.pem
    }

    /// A server identity for `localhost` under the same root, for a backend.
    pub fn tls_acceptor(&self) -> TlsAcceptor {
        self.authority.acceptor()
    }

    /// A client that trusts the same root and offers these protocols.
    pub fn tls_connector(&self, protocols: &[&str]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.authority.root.der().clone())
            .expect("a root");
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        TlsConnector::from(Arc::new(config))
    }

    /// The key that signs at this moment.
    pub fn key(&self) -> Arc<SigningKey> {
        Arc::clone(&lock(&self.shared.signing))
    }

    /// A token of a person, signed with the current key.
    pub fn user(&self, subject: &str) -> Mint {
        Mint::user(&self.key(), &self.issuer(), subject)
    }

    /// A token of an application, signed with the current key.
    pub fn machine(&self, client: &str) -> Mint {
        Mint::machine(&self.key(), &self.issuer(), client)
    }

    /// A token of an anonymous session.
    pub fn anonymous(&self) -> Mint {
        self.user("anon@8f14e45fceea167a5a36dedd4bea2543")
    }

    /// Changes how the key endpoint answers from the next request on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        self.shared.behaviour.send_modify(change);
    }

    /// Publishes one more key.
    pub fn publish(&self, key: &SigningKey) {
        self.behave(|behaviour| behaviour.keys.push(key.jwk()));
    }

    /// Signs with `key` from now on and publishes it beside the others, as Auth0 does.
    pub fn rotate_to(&self, key: SigningKey) -> Arc<SigningKey> {
        let key = Arc::new(key);
        self.publish(&key);
        *lock(&self.shared.signing) = Arc::clone(&key);
        key
    }

    /// Takes a key out of the published set.
    pub fn revoke(&self, kid: &str) {
        self.behave(|behaviour| behaviour.keys.retain(|jwk| jwk["kid"] != kid));
    }

    /// How many requests have been seen.
    pub fn requests(&self) -> usize {
        self.shared.seen.borrow().len()
    }

    /// The targets of the requests seen.
    pub fn targets(&self) -> Vec<String> {
        self.shared.seen.borrow().clone()
    }

    /// Waits until so many requests have been seen.
    pub async fn wait_for_requests(&self, count: usize, patience: Duration) {
        let mut seen = self.shared.seen.subscribe();
        let reached =
            tokio::time::timeout(patience, seen.wait_for(|seen| seen.len() >= count)).await;
        let seen = self.requests();
        assert!(
            reached.is_ok(),
            "the issuer saw {seen} requests, expected {count}"
        );
    }

    /// Refuses connections and ends those that are open. The port stays reserved.
    pub fn go_down(&self) {
        self.command(Command::Refuse);
    }

    /// Listens again on the same port.
    pub fn come_back(&self) {
        self.command(Command::Listen);
    }

    fn command(&self, command: impl FnOnce(blocking::Sender<()>) -> Command) {
        let (done, wait) = blocking::channel();
        let commands = self.commands.as_ref().expect("a running issuer");
        commands.send(command(done)).expect("a running issuer");
        wait.recv().expect("a running issuer");
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed, and this may be an unwinding itself.
            let _printed = thread.join();
        }
    }
}

/// A certificate authority of one tenant.
struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    pem: String,
    file: PathBuf,
    _directory: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "authgate test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().expect("a CA key");
        let root = CertifiedIssuer::self_signed(params, key).expect("a CA");
        let pem = pem("CERTIFICATE", root.der());
        let directory = TempDir::new().expect("a directory for the CA");
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, &pem).expect("the CA file");
        Self {
            root,
            pem,
            file,
            _directory: directory,
        }
    }

    /// A certificate for `localhost` and its addresses, with its key.
    fn leaf(&self) -> (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
        let key = KeyPair::generate().expect("a leaf key");
        let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let leaf = CertificateParams::new(names)
            .and_then(|params| params.signed_by(&key, &self.root))
            .expect("a leaf certificate");
        (
            leaf.der().clone(),
            PrivatePkcs8KeyDer::from(key.serialize_der()),
        )
    }

    fn acceptor(&self) -> TlsAcceptor {
        let (certificate, key) = self.leaf();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("protocol versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::from(key))
            .expect("a server identity");
        TlsAcceptor::from(Arc::new(config))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// DER as the text that configuration files want.
pub fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let lines: Vec<_> = encoded
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect();
    let body = lines.join(
        "
",
    );
    format!(
        "-----BEGIN {label}-----
{body}
-----END {label}-----
"
    )
}

async fn serve(
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    announce: blocking::Sender<SocketAddr>,
) {
    let port = Port::reserve();
    let mut listener = Some(port.listen());
    announce
        .send(port.address())
        .expect("someone who starts the issuer");
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                None => return,
                Some(Command::Refuse(done)) => {
                    listener = None;
                    connections.shutdown().await;
                    // A caller that has gone away needs no answer.
                    let _gone = done.send(());
                }
                Some(Command::Listen(done)) => {
                    listener.get_or_insert_with(|| port.listen());
                    let _gone = done.send(());
                }
            },
            Ok((stream, _)) = accept(listener.as_ref()) => {
                let shared = Arc::clone(&shared);
                match tls.clone() {
                    Some(tls) => connections.spawn(async move {
                        // A client that distrusts the certificate ends the handshake.
                        if let Ok(stream) = tls.accept(stream).await {
                            converse(shared, stream).await;
                        }
                    }),
                    None => connections.spawn(converse(shared, stream)),
                };
            }
        }
    }
}

async fn accept(
    listener: Option<&tokio::net::TcpListener>,
) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

async fn converse(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let service = service_fn(|request| answer(Arc::clone(&shared), request));
    // An error here is the client's hanging up, or ours on purpose.
    let _ended = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Fails where the connection is to end without an answer.
async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, HungUp> {
    shared
        .seen
        .send_modify(|seen| seen.push(request.uri().to_string()));
    let behaviour = {
        let mut changes = shared.behaviour.subscribe();
        changes
            .wait_for(|behaviour| !behaviour.held)
            .await
            .map_err(|_| HungUp)?
            .clone()
    };
    if behaviour.hang_up {
        return Err(HungUp);
    }
    if request.uri().path() != KEYS_PATH {
        return Ok(plain(StatusCode::NOT_FOUND));
    }
    let body = behaviour
        .body
        .unwrap_or_else(|| Bytes::from(json!({ "keys": behaviour.keys }).to_string()));
    let mut response = Response::builder().status(behaviour.status);
    response = response.header("content-type", "application/json; charset=utf-8");
    for (name, value) in &behaviour.headers {
        response = response.header(name, value);
    }
    Ok(response.body(Full::new(body)).expect("a response"))
}

fn plain(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}

#[derive(Debug)]
struct HungUp;

impl std::fmt::Display for HungUp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("hung up on purpose")
    }
}

impl std::error::Error for HungUp {}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
