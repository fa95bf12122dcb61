//! A certificate authority for edges, and one for clients.

use std::sync::Arc;

use atoll_model::NodeName;
use atoll_proxy::surroundings::BackhaulTls;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

pub struct Issued {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    pub chain_pem: String,
    pub key_pem: String,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    pub fn issue(&self, name: &str) -> Issued {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        Issued {
            chain: vec![certificate.der().clone()],
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// For clients of the platform.
    pub fn client(&self, alpn: &[&str]) -> Arc<ClientConfig> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

/// A node's identity: the name in its certificate, `<node>.node.test`.
pub struct NodeTls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl NodeTls {
    pub fn new(authority: &Authority, node: &str) -> Arc<Self> {
        let issued = authority.issue(&format!("{node}.node.test"));
        let roots = Arc::new(authority.roots());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build().unwrap();
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(issued.chain.clone(), issued.key.clone_key())
            .unwrap();
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(issued.chain, issued.key)
            .unwrap();
        client.resumption = rustls::client::Resumption::disabled();
        Arc::new(Self { server: Arc::new(server), client: Arc::new(client) })
    }
}

impl BackhaulTls for NodeTls {
    fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    fn server_name(&self, node: &NodeName) -> ServerName<'static> {
        format!("{node}.node.test").try_into().unwrap()
    }

    fn identify(&self, chain: &[CertificateDer<'_>]) -> Option<NodeName> {
        // The chain was verified; the name stands in it as text.
        let der = chain.first()?.as_ref();
        let suffix = b".node.test";
        let end = der.windows(suffix.len()).position(|window| window == suffix)?;
        let start = der[..end].iter().rposition(|byte| !byte.is_ascii_lowercase() && !byte.is_ascii_digit())? + 1;
        std::str::from_utf8(&der[start..end]).ok()?.parse().ok()
    }
}
