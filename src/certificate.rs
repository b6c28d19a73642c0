//! TLS for clients: the listener's certificate, and whose client certificates are asked for. The
//! crypto provider is ring, always named, never a process default.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// What clients may choose from, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// `[tls]`: where the files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and what leads to its root, in PEM.
    pub cert_file: PathBuf,
    /// Its private key, in PEM.
    pub key_file: PathBuf,
    /// Roots of client certificates. With them, a client without a certificate is turned away.
    pub client_ca_file: Option<PathBuf>,
}

/// Why the listener cannot have its certificate.
#[derive(Debug)]
pub enum CertificateError {
    /// A file cannot be read, or holds nothing of the kind. The setting, and why.
    File(&'static str, PathBuf, String),
    /// What is in the files does not fit together.
    Mismatch(rustls::Error),
    /// The roots of client certificates cannot be used.
    ClientRoots(String),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(key, path, why) => write!(f, "{key}: {}: {why}", path.display()),
            Self::Mismatch(error) => write!(f, "tls.cert_file and tls.key_file: {error}"),
            Self::ClientRoots(why) => write!(f, "tls.client_ca_file: {why}"),
        }
    }
}

impl std::error::Error for CertificateError {}

impl CertificateFiles {
    /// Every file, so that changes can be watched for.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        [&self.cert_file, &self.key_file]
            .into_iter()
            .chain(&self.client_ca_file)
            .map(PathBuf::as_path)
    }

    /// Reads the files. TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
    ///
    /// # Errors
    ///
    /// [`CertificateError`] names the file, or what does not fit.
    pub fn load(&self) -> Result<Arc<ServerConfig>, CertificateError> {
        let chain = certificates("tls.cert_file", &self.cert_file)?;
        let key = PrivateKeyDer::from_pem_file(&self.key_file).map_err(|error| {
            CertificateError::File("tls.key_file", self.key_file.clone(), error.to_string())
        })?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(CertificateError::Mismatch)?;
        let builder = match &self.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for root in certificates("tls.client_ca_file", path)? {
                    roots
                        .add(root)
                        .map_err(|error| CertificateError::ClientRoots(error.to_string()))?;
                }
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|error| CertificateError::ClientRoots(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(CertificateError::Mismatch)?;
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(Arc::new(config))
    }
}

fn certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let wrong = |why: String| CertificateError::File(key, path.to_owned(), why);
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("no certificate found".to_owned()));
    }
    Ok(certificates)
}
