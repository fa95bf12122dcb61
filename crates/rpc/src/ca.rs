//! The platform's certificate authority: a root whose key may be kept offline, and an intermediate
//! that control uses to sign node certificates and those of the app domain.
//!
//! A certificate says only what the authority decided: names in a signing request are ignored.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, pem::PemObject};
use time::OffsetDateTime;

use crate::files;
use crate::identity::Identity;

/// Life of a node's certificate; it is renewed at half of it.
pub const NODE_CERTIFICATE_LIFE: Duration = Duration::from_secs(3600);
const INTERMEDIATE_LIFE: Duration = Duration::from_secs(365 * 86_400);
/// With less than this left the root signs the intermediate again, when the authority is opened.
const INTERMEDIATE_LEFT: Duration = Duration::from_secs(240 * 86_400);
const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);
/// Certificates begin this long before now, so that a peer whose clock is a little behind accepts them;
/// short-lived ones a twelfth of their life, so that half of it still lies ahead.
const BACKDATE: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("cannot make {what}")]
    Make {
        what: &'static str,
        #[source]
        source: rcgen::Error,
    },
    #[error("cannot {action} {path}", path = .path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} does not hold what it should: {reason}", path = .path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error("the certificate signing request is not valid")]
    BadRequest(#[source] rcgen::Error),
}

fn make(what: &'static str) -> impl FnOnce(rcgen::Error) -> CaError {
    move |source| CaError::Make { what, source }
}

/// A ready authority.
pub struct Authority {
    root_der: CertificateDer<'static>,
    root_pem: String,
    intermediate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    node_life: Duration,
}

impl Authority {
    /// Loads the authority kept in `dir`, or makes one there. Files: `root.pem`, `root.key` (may be
    /// moved to a safe place once the intermediate exists), `intermediate.pem`, `intermediate.key`.
    pub fn open(dir: &Path, platform: &str, now_unix: u64) -> Result<Self, CaError> {
        let path = |name: &str| dir.join(name);
        std::fs::create_dir_all(dir).map_err(|source| CaError::File {
            action: "create",
            path: dir.to_owned(),
            source,
        })?;
        if !path("intermediate.key").exists() {
            // The intermediate's key is written last: a kill before that starts over with new keys,
            // which nothing has been signed with yet.
            let root = Self::make_root(platform, now_unix)?;
            let intermediate = Self::make_intermediate(platform, &root, now_unix)?;
            for (name, content, secret) in [
                ("root.pem", &root.pem, false),
                ("root.key", &root.key_pem, true),
                ("intermediate.pem", &intermediate.pem, false),
                ("intermediate.key", &intermediate.key_pem, true),
            ] {
                files::write_durably(&path(name), content.as_bytes(), secret).map_err(|source| CaError::File {
                    action: "write",
                    path: path(name),
                    source,
                })?;
            }
        }
        let read = |name: &str| {
            std::fs::read_to_string(path(name)).map_err(|source| CaError::File {
                action: "read",
                path: path(name),
                source,
            })
        };
        let root_pem = read("root.pem")?;
        let mut intermediate_pem = read("intermediate.pem")?;
        let corrupt = |name: &str, reason: String| CaError::Corrupt { path: path(name), reason };
        let root_der = CertificateDer::from_pem_slice(root_pem.as_bytes())
            .map_err(|error| corrupt("root.pem", error.to_string()))?;
        let key = KeyPair::from_pem(&read("intermediate.key")?)
            .map_err(|error| corrupt("intermediate.key", error.to_string()))?;
        let ends = not_after(&intermediate_pem).map_err(|reason| corrupt("intermediate.pem", reason))?;
        let left = ends.saturating_sub(now_unix);
        if left < INTERMEDIATE_LEFT.as_secs() {
            match std::fs::read_to_string(path("root.key")) {
                Ok(root_key) => {
                    let root_key =
                        KeyPair::from_pem(&root_key).map_err(|error| corrupt("root.key", error.to_string()))?;
                    let root = Issuer::from_ca_cert_pem(&root_pem, root_key)
                        .map_err(|error| corrupt("root.pem", error.to_string()))?;
                    // The key stays, so that one file changes and a kill leaves either certificate.
                    intermediate_pem = intermediate_params(platform, now_unix)?
                        .signed_by(&key, &root)
                        .map_err(make("the intermediate certificate"))?
                        .pem();
                    files::write_durably(&path("intermediate.pem"), intermediate_pem.as_bytes(), false)
                        .map_err(|source| CaError::File { action: "write", path: path("intermediate.pem"), source })?;
                }
                Err(error) => tracing::warn!(
                    days_left = left / 86_400,
                    %error,
                    "the authority's intermediate certificate needs the root's signature before it ends: put root.key \
                     back beside it and start control again"
                ),
            }
        }
        let issuer = Issuer::from_ca_cert_pem(&intermediate_pem, key)
            .map_err(|error| corrupt("intermediate.pem", error.to_string()))?;
        Ok(Self { root_der, root_pem, intermediate_pem, issuer, node_life: NODE_CERTIFICATE_LIFE })
    }

    /// Has certificates of nodes live this long instead of [`NODE_CERTIFICATE_LIFE`].
    pub fn with_node_life(self, node_life: Duration) -> Self {
        Self { node_life, ..self }
    }

    /// The platform of the authority kept in `dir`; `None` when there is none.
    pub fn platform_of(dir: &Path) -> Result<Option<String>, CaError> {
        let path = dir.join("root.pem");
        let pem = match std::fs::read(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CaError::File { action: "read", path, source }),
        };
        let corrupt = |reason: String| CaError::Corrupt { path: path.clone(), reason };
        let der = CertificateDer::from_pem_slice(&pem).map_err(|error| corrupt(error.to_string()))?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|error| corrupt(error.to_string()))?;
        let name = certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let platform = name.and_then(|name| name.strip_prefix("Atoll ")?.strip_suffix(" root"));
        platform.map(|platform| Some(platform.to_owned())).ok_or_else(|| corrupt("it names no platform".to_owned()))
    }

    fn make_root(platform: &str, now_unix: u64) -> Result<Made, CaError> {
        let key = KeyPair::generate().map_err(make("the root's key"))?;
        let params = ca_params(&format!("Atoll {platform} root"), now_unix, ROOT_LIFE, 1)?;
        let certificate = params.self_signed(&key).map_err(make("the root certificate"))?;
        Ok(Made { pem: certificate.pem(), key_pem: key.serialize_pem(), params, key })
    }

    fn make_intermediate(platform: &str, root: &Made, now_unix: u64) -> Result<Made, CaError> {
        let key = KeyPair::generate().map_err(make("the intermediate's key"))?;
        let params = intermediate_params(platform, now_unix)?;
        let issuer = Issuer::from_params(&root.params, &root.key);
        let certificate = params.signed_by(&key, &issuer).map_err(make("the intermediate certificate"))?;
        Ok(Made { pem: certificate.pem(), key_pem: key.serialize_pem(), params, key })
    }

    /// The trust anchor that nodes and users are given.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// What a join token pins: SHA-256 of the root certificate, hex.
    pub fn root_fingerprint(&self) -> String {
        fingerprint(&self.root_der)
    }

    /// A chain (leaf first, PEM) that proves `identity` to be the holder of the request's key.
    pub fn issue_node(&self, request_der: &[u8], identity: &Identity, now_unix: u64) -> Result<String, CaError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request_der))
            .map_err(CaError::BadRequest)?;
        let uri = identity.to_string().try_into().map_err(make("the certificate's URI"))?;
        let mut params = leaf_params(&identity.to_string(), now_unix, self.node_life)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        let leaf = params.signed_by(&request.public_key, &self.issuer).map_err(make("a node certificate"))?;
        Ok(self.chain(&leaf.pem()))
    }

    /// A certificate for host names (a leading `*.` is allowed), with its key: (chain, key), PEM.
    pub fn issue_hosts(&self, hosts: &[String], now_unix: u64, life: Duration) -> Result<(String, String), CaError> {
        let key = KeyPair::generate().map_err(make("a host key"))?;
        let mut params = leaf_params(hosts.first().map_or("", String::as_str), now_unix, life)?;
        for host in hosts {
            params.subject_alt_names.push(match host.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.as_str().try_into().map_err(make("the certificate's host name"))?),
            });
        }
        let leaf = params.signed_by(&key, &self.issuer).map_err(make("a host certificate"))?;
        Ok((self.chain(&leaf.pem()), key.serialize_pem()))
    }

    /// The root goes along: a joining node finds the certificate that its token pins.
    fn chain(&self, leaf_pem: &str) -> String {
        format!("{leaf_pem}{}{}", self.intermediate_pem, self.root_pem)
    }
}

struct Made {
    pem: String,
    key_pem: String,
    params: CertificateParams,
    key: KeyPair,
}

/// SHA-256 of a certificate, hex.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate.as_ref()))
}

fn at(unix: u64) -> OffsetDateTime {
    // A clock beyond the year 9999 is no clock; the epoch makes the certificate useless, not us.
    OffsetDateTime::from_unix_timestamp(i64::try_from(unix).unwrap_or(0)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn common_params(name: &str, now_unix: u64, life: Duration) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::new(Vec::new()).map_err(make("certificate parameters"))?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = at(now_unix.saturating_sub(BACKDATE.min(life / 12).as_secs()));
    params.not_after = at(now_unix + life.as_secs());
    params.serial_number = Some(SerialNumber::from_slice(&rand::random::<[u8; 16]>()));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn ca_params(name: &str, now_unix: u64, life: Duration, path_length: u8) -> Result<CertificateParams, CaError> {
    let mut params = common_params(name, now_unix, life)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn intermediate_params(platform: &str, now_unix: u64) -> Result<CertificateParams, CaError> {
    ca_params(&format!("Atoll {platform} intermediate"), now_unix, INTERMEDIATE_LIFE, 0)
}

/// When a certificate ends, in Unix seconds; or why it cannot be read.
fn not_after(pem: &str) -> Result<u64, String> {
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| error.to_string())?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|error| error.to_string())?;
    Ok(u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0))
}

fn leaf_params(name: &str, now_unix: u64, life: Duration) -> Result<CertificateParams, CaError> {
    let mut params = common_params(name, now_unix, life)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

/// A new key and a signing request for it: (key PEM, request DER).
pub fn signing_request() -> Result<(String, Vec<u8>), CaError> {
    request_with(&KeyPair::generate().map_err(make("a key"))?)
}

/// A signing request for a key that a node keeps: (key PEM, request DER).
pub fn signing_request_for(key_pem: &str) -> Result<(String, Vec<u8>), CaError> {
    request_with(&KeyPair::from_pem(key_pem).map_err(make("a request for the kept key"))?)
}

/// SHA-256 of a request's public key, hex: tells a returning node from another with its name.
pub fn request_key_fingerprint(request_der: &[u8]) -> Result<String, CaError> {
    use rcgen::PublicKeyData;
    let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request_der))
        .map_err(CaError::BadRequest)?;
    let key = request.public_key.subject_public_key_info();
    Ok(hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key)))
}

fn request_with(key: &KeyPair) -> Result<(String, Vec<u8>), CaError> {
    let params = CertificateParams::new(Vec::new()).map_err(make("request parameters"))?;
    let request = params.serialize_request(key).map_err(make("a signing request"))?;
    Ok((key.serialize_pem(), request.der().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Role;

    const NOW: u64 = 1_800_000_000;

    fn identity() -> Identity {
        Identity { platform: "0a".into(), role: Role::Worker, node: "ams1".parse().unwrap() }
    }

    #[test]
    fn a_second_opening_finds_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::open(dir.path(), "0a", NOW).unwrap();
        let second = Authority::open(dir.path(), "0a", NOW + 5).unwrap();
        assert_eq!(first.root_fingerprint(), second.root_fingerprint());
    }

    #[test]
    fn the_intermediate_signs_without_the_roots_key() {
        let dir = tempfile::tempdir().unwrap();
        Authority::open(dir.path(), "0a", NOW).unwrap();
        std::fs::remove_file(dir.path().join("root.key")).unwrap();
        let authority = Authority::open(dir.path(), "0a", NOW).unwrap();
        let (_, request) = signing_request().unwrap();
        let chain = authority.issue_node(&request, &identity(), NOW).unwrap();
        assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 3);
    }

    #[test]
    fn the_root_signs_the_intermediate_again_long_before_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let kept = || std::fs::read_to_string(dir.path().join("intermediate.pem")).unwrap();
        let first = Authority::open(dir.path(), "0a", NOW).unwrap();
        let before = kept();
        Authority::open(dir.path(), "0a", NOW + 60 * 86_400).unwrap();
        assert_eq!(kept(), before, "there is time");
        let later = NOW + 200 * 86_400;
        let second = Authority::open(dir.path(), "0a", later).unwrap();
        assert_eq!(not_after(&kept()), Ok(later + INTERMEDIATE_LIFE.as_secs()));
        assert_eq!(first.root_fingerprint(), second.root_fingerprint());

        // Without the root's key it stays as it is and goes on signing.
        std::fs::remove_file(dir.path().join("root.key")).unwrap();
        let (before, latest) = (kept(), later + 300 * 86_400);
        let third = Authority::open(dir.path(), "0a", latest).unwrap();
        assert_eq!(kept(), before);
        let (_, request) = signing_request().unwrap();
        third.issue_node(&request, &identity(), latest).unwrap();
    }

    #[test]
    fn nonsense_requests_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::open(dir.path(), "0a", NOW).unwrap();
        assert!(matches!(authority.issue_node(b"hello", &identity(), NOW), Err(CaError::BadRequest(_))));
    }
}
