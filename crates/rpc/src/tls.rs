//! A process's own certificate, swapped while connections live, and the TLS settings made of it.
//!
//! Session resumption is off on both sides: a resumed session keeps the identity of the old
//! handshake, so expired, revoked or foreign peers would be let in (measured).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::files;
use crate::identity::{Expected, Identity};
use crate::trust::{Anchor, AnchoredCheck, ClientCheck, ServerCheck, Trust, identity_of};

/// ALPN of all node-to-node traffic.
pub const ALPN_H2: &[u8] = b"h2";
/// ALPN of requests to control's API that an edge hands on: HTTP/1.1, each on a connection of its own while it lasts.
pub const ALPN_API: &[u8] = b"atoll-api/1";

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot {action} the identity file {path}", path = .path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the identity material is not usable: {0}")]
    Unusable(String),
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// Key, chain and roots of one process, as one file so that they always fit each other.
#[derive(Clone)]
pub struct IdentityMaterial {
    pub key_pem: String,
    pub chain_pem: String,
    pub roots_pem: String,
}

impl IdentityMaterial {
    const SEPARATOR: &str = "\n# roots\n";

    /// Reads what [`IdentityMaterial::save`] wrote.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let text = std::fs::read_to_string(path).map_err(|source| IdentityError::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        let unusable = || IdentityError::Unusable(format!("{} is not an identity file", path.display()));
        let (own, roots_pem) = text.split_once(Self::SEPARATOR).ok_or_else(unusable)?;
        let chain_at = own.find("-----BEGIN CERTIFICATE-----").ok_or_else(unusable)?;
        let (key_pem, chain_pem) = own.split_at(chain_at);
        Ok(Self { key_pem: key_pem.to_owned(), chain_pem: chain_pem.to_owned(), roots_pem: roots_pem.to_owned() })
    }

    pub fn save(&self, path: &Path) -> Result<(), IdentityError> {
        let text = format!("{}{}{}{}", self.key_pem, self.chain_pem, Self::SEPARATOR, self.roots_pem);
        files::write_durably(path, text.as_bytes(), true).map_err(|source| IdentityError::File {
            action: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// Unix seconds before which the certificate was not valid, and so roughly when it was issued.
    pub fn not_before(&self) -> Result<u64, IdentityError> {
        let chain = parse_chain(&self.chain_pem)?;
        let leaf = chain.first().ok_or_else(|| IdentityError::Unusable("there is no certificate".into()))?;
        Ok(validity(leaf)?.0)
    }

    pub fn roots(&self) -> Result<RootCertStore, IdentityError> {
        let mut store = RootCertStore::empty();
        for certificate in parse_chain(&self.roots_pem)? {
            store.add(certificate)?;
        }
        if store.is_empty() { Err(IdentityError::Unusable("there is no root certificate".into())) } else { Ok(store) }
    }
}

fn parse_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| IdentityError::Unusable(format!("a certificate is not PEM: {error}")))
}

/// From when until when a certificate is valid, in Unix seconds.
fn validity(certificate: &CertificateDer<'_>) -> Result<(u64, u64), IdentityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| IdentityError::Unusable(format!("the certificate cannot be read: {error}")))?;
    let unix = |time: i64| u64::try_from(time).unwrap_or(0);
    let validity = parsed.validity();
    Ok((unix(validity.not_before.timestamp()), unix(validity.not_after.timestamp())))
}

struct Current {
    key: Arc<CertifiedKey>,
    /// Unix seconds.
    not_before: u64,
    not_after: u64,
}

/// This process's identity and trust; cheap to share, renewed in place.
pub struct LiveIdentity {
    identity: Identity,
    current: ArcSwap<Current>,
    trust: Arc<Trust>,
}

impl LiveIdentity {
    /// `authority_heard`: Unix seconds of control's last sign of life, as far as is known.
    pub fn new(material: &IdentityMaterial, authority_heard: u64) -> Result<Arc<Self>, IdentityError> {
        let chain = parse_chain(&material.chain_pem)?;
        let identity = chain
            .first()
            .and_then(identity_of)
            .ok_or_else(|| IdentityError::Unusable("the certificate names no Atoll identity".into()))?;
        let trust = Trust::new(identity.platform.clone(), material.roots()?, authority_heard);
        let current = Self::certify(material, &trust)?;
        Ok(Arc::new(Self { identity, current: ArcSwap::from_pointee(current), trust }))
    }

    fn certify(material: &IdentityMaterial, trust: &Trust) -> Result<Current, IdentityError> {
        let chain = parse_chain(&material.chain_pem)?;
        let leaf = chain.first().ok_or_else(|| IdentityError::Unusable("there is no certificate".into()))?;
        let (not_before, not_after) = validity(leaf)?;
        let key = PrivateKeyDer::from_pem_slice(material.key_pem.as_bytes())
            .map_err(|error| IdentityError::Unusable(format!("the key is not PEM: {error}")))?;
        let key = CertifiedKey::from_der(chain, key, &trust.provider())?;
        Ok(Current { key: Arc::new(key), not_before, not_after })
    }

    /// Takes a renewed certificate into use; connections that are open stay.
    pub fn replace(&self, material: &IdentityMaterial) -> Result<(), IdentityError> {
        let current = Self::certify(material, &self.trust)?;
        self.trust.set_roots(material.roots()?);
        self.current.store(Arc::new(current));
        Ok(())
    }

    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Unix seconds at which the certificate should be renewed: half of its life.
    pub fn renew_at(&self) -> u64 {
        let current = self.current.load();
        current.not_before + (current.not_after.saturating_sub(current.not_before)) / 2
    }

    /// Unix seconds at which the certificate ends.
    pub fn expires_at(&self) -> u64 {
        self.current.load().not_after
    }

    /// TLS for connecting to `expected`.
    pub fn client_config(self: &Arc<Self>, expected: Expected) -> Result<Arc<ClientConfig>, IdentityError> {
        let check = ServerCheck { trust: self.trust.clone(), expected };
        let mut config = ClientConfig::builder_with_provider(self.trust.provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(check))
            .with_client_cert_resolver(Arc::new(Own(self.clone())));
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(Arc::new(config))
    }

    /// TLS for accepting peers; with `anonymous_allowed` also some without a certificate.
    pub fn server_config(self: &Arc<Self>, anonymous_allowed: bool) -> Result<Arc<ServerConfig>, IdentityError> {
        let check = ClientCheck { trust: self.trust.clone(), anonymous_allowed };
        let mut config = ServerConfig::builder_with_provider(self.trust.provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(check))
            .with_cert_resolver(Arc::new(Own(self.clone())));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        Ok(Arc::new(config))
    }
}

/// TLS for a connection to control by somebody who has no identity, or none that control takes.
pub fn anonymous_config(anchor: Anchor) -> Result<Arc<ClientConfig>, IdentityError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let check = AnchoredCheck { anchor, provider: provider.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(check))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// Offers whatever certificate is current at the time of the handshake.
struct Own(Arc<LiveIdentity>);

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Own({})", self.0.identity)
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().key.clone())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().key.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
