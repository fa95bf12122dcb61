//! A certificate authority: a root whose key may be kept offline, and an intermediate that control uses
//! to sign node certificates and those of the app domain. Does not know that one may follow another:
//! that is [`crate::authorities`].
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
    #[error("the root's key, which has to sign the next root, is not at {path}", path = .path.display())]
    NoRootKey { path: PathBuf },
    #[error("a rotation of the root is under way already")]
    Underway,
}

fn make(what: &'static str) -> impl FnOnce(rcgen::Error) -> CaError {
    move |source| CaError::Make { what, source }
}

const ROOT: &str = "root.pem";
const ROOT_KEY: &str = "root.key";
const LINK: &str = "link.pem";
const INTERMEDIATE: &str = "intermediate.pem";
const INTERMEDIATE_KEY: &str = "intermediate.key";
/// All that an authority's folder holds, in the order in which it is written.
pub(crate) const FILES: [&str; 5] = [LINK, ROOT, ROOT_KEY, INTERMEDIATE, INTERMEDIATE_KEY];

/// A ready authority.
pub struct Authority {
    root_der: CertificateDer<'static>,
    root_pem: String,
    /// The root's key, certified by the root before it: whoever trusts only that one is led to this one.
    link_pem: Option<String>,
    intermediate_pem: String,
    issuer: Issuer<'static, KeyPair>,
    root_ends: u64,
    node_life: Duration,
}

impl Authority {
    /// Loads the authority kept in `dir`, or makes one there. Files: `root.pem`, `root.key` (may be
    /// moved to a safe place once the intermediate exists), `intermediate.pem`, `intermediate.key`, and
    /// `link.pem` where another root went before.
    pub fn open(dir: &Path, platform: &str, now_unix: u64) -> Result<Self, CaError> {
        // Written last: a kill before that starts over with new keys, which nothing has been signed with.
        if !dir.join(INTERMEDIATE_KEY).exists() {
            Self::make(dir, platform, None, now_unix)?;
        }
        Self::load(dir, platform, now_unix)
    }

    /// Makes an authority in `dir` whose root is certified by that of the authority in `before`, too,
    /// unless there is none.
    ///
    /// # Errors
    /// [`CaError::NoRootKey`] if the key of the root before is not in its folder.
    pub(crate) fn make(dir: &Path, platform: &str, before: Option<&Path>, now_unix: u64) -> Result<(), CaError> {
        std::fs::create_dir_all(dir).map_err(|source| CaError::File {
            action: "create",
            path: dir.to_owned(),
            source,
        })?;
        let root = Self::make_root(platform, now_unix)?;
        let link = before.map(|before| make_link(&root, before)).transpose()?;
        let intermediate = Self::make_intermediate(platform, &root, now_unix)?;
        let link = link.as_ref().map(|link| (LINK, link, false));
        let rest = [
            (ROOT, &root.pem, false),
            (ROOT_KEY, &root.key_pem, true),
            (INTERMEDIATE, &intermediate.pem, false),
            (INTERMEDIATE_KEY, &intermediate.key_pem, true),
        ];
        for (name, content, secret) in link.into_iter().chain(rest) {
            write(&dir.join(name), content, secret)?;
        }
        Ok(())
    }

    /// Loads what [`Authority::make`] has made.
    pub(crate) fn load(dir: &Path, platform: &str, now_unix: u64) -> Result<Self, CaError> {
        let path = |name: &str| dir.join(name);
        let corrupt = |name: &str, reason: String| CaError::Corrupt { path: path(name), reason };
        let root_pem = read(&path(ROOT))?;
        let mut intermediate_pem = read(&path(INTERMEDIATE))?;
        let root_der =
            CertificateDer::from_pem_slice(root_pem.as_bytes()).map_err(|error| corrupt(ROOT, error.to_string()))?;
        let root_ends = not_after(&root_pem).map_err(|reason| corrupt(ROOT, reason))?;
        let link_pem = match read_if_there(&path(LINK))? {
            // One that has ended leads nobody.
            Some(link) if not_after(&link).map_err(|reason| corrupt(LINK, reason))? > now_unix => Some(link),
            _ => None,
        };
        let key = KeyPair::from_pem(&read(&path(INTERMEDIATE_KEY))?)
            .map_err(|error| corrupt(INTERMEDIATE_KEY, error.to_string()))?;
        let ends = not_after(&intermediate_pem).map_err(|reason| corrupt(INTERMEDIATE, reason))?;
        let left = ends.saturating_sub(now_unix);
        if left < INTERMEDIATE_LEFT.as_secs() {
            match root_issuer(dir) {
                Ok(root) => {
                    // The key stays, so that one file changes and a kill leaves either certificate.
                    intermediate_pem = intermediate_params(platform, now_unix)?
                        .signed_by(&key, &root)
                        .map_err(make("the intermediate certificate"))?
                        .pem();
                    write(&path(INTERMEDIATE), &intermediate_pem, false)?;
                }
                Err(CaError::NoRootKey { .. }) => tracing::warn!(
                    days_left = left / 86_400,
                    "the authority's intermediate certificate needs the root's signature before it ends: put root.key \
                     back beside it and start control again"
                ),
                Err(error) => return Err(error),
            }
        }
        let issuer = Issuer::from_ca_cert_pem(&intermediate_pem, key)
            .map_err(|error| corrupt(INTERMEDIATE, error.to_string()))?;
        Ok(Self { root_der, root_pem, link_pem, intermediate_pem, issuer, root_ends, node_life: NODE_CERTIFICATE_LIFE })
    }

    /// Has certificates of nodes live this long instead of [`NODE_CERTIFICATE_LIFE`].
    pub fn with_node_life(self, node_life: Duration) -> Self {
        Self { node_life, ..self }
    }

    /// The platform of the authority kept in `dir`; `None` when there is none.
    pub fn platform_of(dir: &Path) -> Result<Option<String>, CaError> {
        let path = dir.join(ROOT);
        let Some(pem) = read_if_there(&path)? else { return Ok(None) };
        let corrupt = |reason: String| CaError::Corrupt { path: path.clone(), reason };
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|error| corrupt(error.to_string()))?;
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

    /// When the root's certificate ends, in Unix seconds.
    pub fn root_ends(&self) -> u64 {
        self.root_ends
    }

    /// Whether those who trust only the root before this one are led here.
    pub fn is_linked(&self) -> bool {
        self.link_pem.is_some()
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

    /// The root goes along: a joining node finds the certificate that its token pins. The link is before
    /// it, as some clients try only the first certificate that fits.
    fn chain(&self, leaf_pem: &str) -> String {
        let link = self.link_pem.as_deref().unwrap_or_default();
        format!("{leaf_pem}{}{link}{}", self.intermediate_pem, self.root_pem)
    }
}

struct Made {
    pem: String,
    key_pem: String,
    params: CertificateParams,
    key: KeyPair,
}

/// The new root's key as the root kept in `before` certifies it. Both roots have one name: the link counts
/// as issued by itself, and so not against the length of paths that the root before allows.
fn make_link(root: &Made, before: &Path) -> Result<String, CaError> {
    let issuer = root_issuer(before)?;
    let path = before.join(ROOT);
    let ends = not_after(&read(&path)?).map_err(|reason| CaError::Corrupt { path, reason })?;
    let mut params = root.params.clone();
    params.not_after = params.not_after.min(at(ends));
    // No two certificates of one name have the same number.
    params.serial_number = Some(new_serial());
    Ok(params.signed_by(&root.key, &issuer).map_err(make("the link from the root before"))?.pem())
}

/// The root of an authority's folder as a signer.
fn root_issuer(dir: &Path) -> Result<Issuer<'static, KeyPair>, CaError> {
    let corrupt =
        |name: &str, error: rcgen::Error| CaError::Corrupt { path: dir.join(name), reason: error.to_string() };
    let path = dir.join(ROOT_KEY);
    let key = read_if_there(&path)?.ok_or(CaError::NoRootKey { path })?;
    let key = KeyPair::from_pem(&key).map_err(|error| corrupt(ROOT_KEY, error))?;
    Issuer::from_ca_cert_pem(&read(&dir.join(ROOT))?, key).map_err(|error| corrupt(ROOT, error))
}

/// Whether the key of a folder's root is there.
pub(crate) fn has_root_key(dir: &Path) -> bool {
    dir.join(ROOT_KEY).exists()
}

fn read(path: &Path) -> Result<String, CaError> {
    std::fs::read_to_string(path).map_err(|source| CaError::File { action: "read", path: path.to_owned(), source })
}

fn read_if_there(path: &Path) -> Result<Option<String>, CaError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CaError::File { action: "read", path: path.to_owned(), source }),
    }
}

fn write(path: &Path, content: &str, secret: bool) -> Result<(), CaError> {
    files::write_durably(path, content.as_bytes(), secret).map_err(|source| CaError::File {
        action: "write",
        path: path.to_owned(),
        source,
    })
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
    params.serial_number = Some(new_serial());
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn new_serial() -> SerialNumber {
    SerialNumber::from_slice(&rand::random::<[u8; 16]>())
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
