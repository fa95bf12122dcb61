//! Which certificate a client is shown: the one whose row names what it asked for. Without such a row
//! the handshake is aborted. Who names nothing, as it knows an address alone, is shown the app domain's.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_model::row::CertificateRow;
use atoll_model::service::Port;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::surroundings::Routes;

/// Most parsed keys kept; beyond it the cache starts anew.
const CACHE_LIMIT: usize = 10_000;

/// TLS as clients see it.
pub(crate) struct Certificates {
    config: Arc<ServerConfig>,
}

impl Certificates {
    /// Fails when the process has no TLS provider that offers TLS 1.2 and 1.3.
    pub fn new(routes: Arc<dyn Routes>, app_domain: &str) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let resolver = BySni { routes, app_domain: app_domain.to_owned(), parsed: Mutex::default() };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    pub fn for_http(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// For a port without HTTP: it offers the protocols that the app names, by default none.
    pub fn for_raw(&self, port: &Port) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        let named = port.tls_options.iter().flat_map(|options| &options.alpn);
        config.alpn_protocols = named.map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

struct BySni {
    routes: Arc<dyn Routes>,
    app_domain: String,
    /// By host of the row. An entry is good for the very row it was made of.
    parsed: Mutex<HashMap<Arc<str>, Parsed>>,
}

struct Parsed {
    row: Arc<CertificateRow>,
    /// `None`: the row cannot be used.
    key: Option<Arc<CertifiedKey>>,
}

impl fmt::Debug for BySni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BySni").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().unwrap_or(&self.app_domain).to_ascii_lowercase();
        let row = self.routes.snapshot().certificate_for(&name)?.clone();
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = parsed.get(&row.host).filter(|known| Arc::ptr_eq(&known.row, &row)) {
            return known.key.clone();
        }
        let key = match parse(&row) {
            Ok(key) => Some(Arc::new(key)),
            Err(error) => {
                tracing::warn!(host = %row.host, %error, "a certificate row cannot be used");
                None
            }
        };
        if parsed.len() >= CACHE_LIMIT {
            parsed.clear();
        }
        parsed.insert(row.host.clone(), Parsed { row, key: key.clone() });
        key
    }
}

#[derive(Debug, thiserror::Error)]
enum UnusableCertificate {
    #[error("its chain is no PEM of certificates")]
    Chain(#[source] rustls::pki_types::pem::Error),
    #[error("its key is no PEM of a private key")]
    Key(#[source] rustls::pki_types::pem::Error),
    #[error("its key cannot sign, or is not that of its certificate")]
    Mismatch(#[source] rustls::Error),
}

fn parse(row: &CertificateRow) -> Result<CertifiedKey, UnusableCertificate> {
    let chain = CertificateDer::pem_slice_iter(row.chain_pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(UnusableCertificate::Chain)?;
    let key = PrivateKeyDer::from_pem_slice(row.key_pem.as_bytes()).map_err(UnusableCertificate::Key)?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
        .map_err(UnusableCertificate::Mismatch)
}
