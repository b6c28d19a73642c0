//! TLS client configurations. The crypto provider is ring, always named, never a process default.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

/// What ALPN calls HTTP/1.1 (RFC 7301).
pub const HTTP_1_1: &[u8] = b"http/1.1";
/// What ALPN calls HTTP/2 (RFC 9113 §3.2).
pub const H2: &[u8] = b"h2";

/// The trusted roots, and where they came from.
#[derive(Debug, Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    /// `system` or `built-in`, with `+ ca_file` where one was added.
    pub origin: String,
    /// How many there are.
    pub count: usize,
}

/// Why no roots could be put together.
#[derive(Debug)]
pub enum RootsError {
    /// `ca_file` cannot be read, or holds no certificate.
    CaFile(String),
    /// `SSL_CERT_FILE` or `SSL_CERT_DIR` is set and nothing could be loaded from there.
    Environment(String),
}

impl fmt::Display for RootsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaFile(why) => write!(f, "ca_file: {why}"),
            Self::Environment(why) => write!(f, "SSL_CERT_FILE or SSL_CERT_DIR: {why}"),
        }
    }
}

impl std::error::Error for RootsError {}

impl Roots {
    /// The system's roots (or those of `SSL_CERT_FILE` and `SSL_CERT_DIR`), the built-in ones where
    /// the image has none, and those of `ca_file` on top.
    ///
    /// # Errors
    ///
    /// [`RootsError`] when something that was asked for explicitly cannot be had.
    pub fn load(ca_file: Option<&Path>) -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        let (added, _ignored) = store.add_parsable_certificates(native.certs);
        let mut origin = "system".to_owned();
        if added == 0 {
            let asked = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
                .into_iter()
                .any(|name| std::env::var_os(name).is_some());
            if asked {
                let errors: Vec<String> = native.errors.iter().map(ToString::to_string).collect();
                return Err(RootsError::Environment(format!(
                    "no certificate found ({})",
                    errors.join("; ")
                )));
            }
            store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            "built-in".clone_into(&mut origin);
        }
        if let Some(path) = ca_file {
            let describe = |why: String| RootsError::CaFile(format!("{}: {why}", path.display()));
            let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect)
                .map_err(|error| describe(error.to_string()))?;
            if certificates.is_empty() {
                return Err(describe("no certificate found".to_owned()));
            }
            for certificate in certificates {
                store
                    .add(certificate)
                    .map_err(|error| describe(error.to_string()))?;
            }
            origin.push_str(" + ca_file");
        }
        Ok(Self {
            count: store.len(),
            store: Arc::new(store),
            origin,
        })
    }

    /// A client configuration that trusts these roots and asks for one protocol by ALPN.
    ///
    /// # Errors
    ///
    /// A rustls error if ring cannot do the default protocol versions, which it can.
    pub fn client_config(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.store))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        Ok(Arc::new(config))
    }
}
