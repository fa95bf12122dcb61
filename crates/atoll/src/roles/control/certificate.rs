//! The certificate with which the API answers on its own port.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use atoll_control::Control;

const CERTIFICATE_LIFE: Duration = Duration::from_secs(365 * 86_400);

/// For this host, here and at its advertised address.
///
/// # Errors
/// If the authority signs nothing.
pub fn tls(control: Arc<Control>, advertised: IpAddr) -> anyhow::Result<Arc<ServerConfig>> {
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), advertised.to_string()].to_vec();
    let own = OwnCertificate { current: ArcSwap::from_pointee(Current::issue(&control, &hosts)?), hosts, control };
    let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(own));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The API's certificate, of the authority that signs now.
struct OwnCertificate {
    control: Arc<Control>,
    hosts: Vec<String>,
    current: ArcSwap<Current>,
}

struct Current {
    /// Of the authority.
    generation: u64,
    key: Arc<CertifiedKey>,
}

impl Current {
    fn issue(control: &Control, hosts: &[String]) -> anyhow::Result<Self> {
        let generation = control.authority.generation();
        let (chain, key) = control.authority.issue_hosts(hosts, control.now_ms() / 1000, CERTIFICATE_LIFE)?;
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Ok(Self { generation, key: Arc::new(CertifiedKey::from_der(chain, key, &provider)?) })
    }
}

impl ResolvesServerCert for OwnCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if self.current.load().generation != self.control.authority.generation() {
            match Current::issue(&self.control, &self.hosts) {
                Ok(issued) => self.current.store(Arc::new(issued)),
                Err(error) => tracing::error!(error = format!("{error:#}"), "the API's certificate is the old one"),
            }
        }
        Some(self.current.load().key.clone())
    }
}

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnCertificate({:?})", self.hosts)
    }
}
