//! Which peers are believed, and until when.
//!
//! Two different endings of a node's standing:
//! - **revoked**: dropped at once and everywhere, open connections included;
//! - **expired**: enforced only while the authority is known to be alive. When control has not been
//!   heard for a while nobody can renew, so expiry is judged as of the moment it was last heard:
//!   a platform whose control is dead keeps working, for [`MAX_SILENCE`] at most. When it is back,
//!   everybody has [`TIME_TO_RENEW`]; control itself grants that too, or nobody could ask it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_util::sync::CancellationToken;
use x509_parser::extensions::GeneralName;

use atoll_model::NodeName;

use crate::identity::{Expected, Identity};

/// Control that was heard within this time counts as alive.
pub const AUTHORITY_FRESH: Duration = Duration::from_secs(90);
/// How long certificates that ended in control's silence are excused once it is heard again: a process
/// asks for a new one every quarter of a minute.
pub const TIME_TO_RENEW: Duration = Duration::from_secs(120);
/// How long expired certificates are excused when control stays silent.
pub const MAX_SILENCE: Duration = Duration::from_secs(7 * 86_400);

/// The moment as of which a certificate valid from `not_before` is judged. Unix seconds.
///
/// A certificate younger than our last word from control shows that others still hear it: it is
/// judged as of its own beginning, not as "not yet valid".
fn judged_time(now: u64, authority_heard: u64, not_before: u64) -> u64 {
    if now > authority_heard + MAX_SILENCE.as_secs() {
        return now;
    }
    let frozen_at = authority_heard + AUTHORITY_FRESH.as_secs();
    now.min(frozen_at.max(not_before))
}

/// Control's signs of life, as this process heard them. Unix seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hearing {
    heard: u64,
    /// It was silent until just now.
    excuse: Option<Excuse>,
}

#[derive(Clone, Copy, Debug)]
struct Excuse {
    /// When it was heard before its silence.
    heard: u64,
    until: u64,
}

impl Hearing {
    pub(crate) fn new(heard: u64) -> Self {
        Self { heard, excuse: None }
    }

    pub(crate) fn hear(&mut self, now: u64) {
        if now > self.heard + AUTHORITY_FRESH.as_secs() {
            self.excuse = Some(Excuse { heard: self.heard, until: now + TIME_TO_RENEW.as_secs() });
        }
        self.heard = self.heard.max(now);
    }

    /// See [`judged_time`].
    pub(crate) fn judged_time(&self, now: u64, not_before: u64) -> u64 {
        let heard = self.excuse.filter(|excuse| now < excuse.until).map_or(self.heard, |excuse| excuse.heard);
        judged_time(now, heard, not_before)
    }
}

fn not_before(certificate: &CertificateDer<'_>) -> Result<u64, Error> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    Ok(u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or(0))
}

/// What this process believes; shared by all its connections and changed while they live.
pub struct Trust {
    platform: String,
    roots: ArcSwap<RootCertStore>,
    revoked: ArcSwap<HashSet<NodeName>>,
    hearing: Mutex<Hearing>,
    open: Mutex<Vec<(Identity, Weak<CancellationToken>)>>,
    provider: Arc<CryptoProvider>,
}

impl Trust {
    /// `authority_heard`: Unix seconds of the last sign of life of control, as far as is known.
    pub fn new(platform: String, roots: RootCertStore, authority_heard: u64) -> Arc<Self> {
        Arc::new(Self {
            platform,
            roots: ArcSwap::from_pointee(roots),
            revoked: ArcSwap::default(),
            hearing: Mutex::new(Hearing::new(authority_heard)),
            open: Mutex::default(),
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        })
    }

    pub(crate) fn provider(&self) -> Arc<CryptoProvider> {
        self.provider.clone()
    }

    /// Overlapping roots: during a rotation both the old and the new one are in the store.
    pub fn set_roots(&self, roots: RootCertStore) {
        self.roots.store(Arc::new(roots));
    }

    /// Control gave a sign of life. Unix seconds; never goes back.
    pub fn authority_heard(&self, now: u64) {
        self.hearing().hear(now);
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the list of revoked nodes and closes what is open to them.
    pub fn set_revoked(&self, revoked: HashSet<NodeName>) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for (identity, closer) in open.iter() {
            if revoked.contains(&identity.node)
                && let Some(closer) = closer.upgrade()
            {
                closer.cancel();
            }
        }
        self.revoked.store(Arc::new(revoked));
    }

    /// Registers an open connection; it must end when the token is cancelled. `None` when the peer
    /// was revoked between its handshake and now.
    pub(crate) fn track(&self, identity: &Identity) -> Option<Arc<CancellationToken>> {
        let closer = Arc::new(CancellationToken::new());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, closer)| closer.strong_count() > 0);
        open.push((identity.clone(), Arc::downgrade(&closer)));
        // Checked under the same lock that `set_revoked` takes: no peer slips in between.
        (!self.revoked.load().contains(&identity.node)).then_some(closer)
    }

    fn judged(&self, now: UnixTime, leaf: &CertificateDer<'_>) -> Result<UnixTime, Error> {
        let judged = self.hearing().judged_time(now.as_secs(), not_before(leaf)?);
        Ok(UnixTime::since_unix_epoch(Duration::from_secs(judged)))
    }

    /// The identity in a certificate whose chain has been verified.
    fn admit(&self, certificate: &CertificateDer<'_>) -> Result<Identity, Error> {
        let identity = identity_of(certificate)
            .ok_or_else(|| Error::General("the peer's certificate names no Atoll identity".into()))?;
        if identity.platform != self.platform {
            return Err(Error::General(format!("{identity} belongs to another platform")));
        }
        if self.revoked.load().contains(&identity.node) {
            return Err(Error::InvalidCertificate(CertificateError::Revoked));
        }
        Ok(identity)
    }

    fn algorithms(&self) -> WebPkiSupportedAlgorithms {
        self.provider.signature_verification_algorithms
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("platform", &self.platform).finish_non_exhaustive()
    }
}

/// The identity that a certificate claims; says nothing of whether it is true.
pub fn identity_of(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    // Exactly one: a certificate with two names could be read differently by two checks.
    match (uris.next(), uris.next()) {
        (Some(uri), None) => uri.parse().ok(),
        _ => None,
    }
}

/// The signature checks of a verifier, by the algorithms that an expression of `self` gives.
macro_rules! verify_signatures_with {
    (|$self:ident| $algorithms:expr) => {
        fn verify_tls12_signature(
            &$self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, certificate, signature, &$algorithms)
        }

        fn verify_tls13_signature(
            &$self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &$algorithms)
        }

        fn supported_verify_schemes(&$self) -> Vec<SignatureScheme> {
            $algorithms.supported_schemes()
        }
    };
}

/// Checks servers that we connect to: chain, expiry as judged, and that it is whom we meant.
#[derive(Debug)]
pub(crate) struct ServerCheck {
    pub trust: Arc<Trust>,
    pub expected: Expected,
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.trust.roots.load(),
            intermediates,
            self.trust.judged(now, end_entity)?,
            self.trust.algorithms().all,
        )?;
        let identity = self.trust.admit(end_entity)?;
        if self.expected.admits(&identity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::General(format!("reached {identity} instead of {:?}", self.expected)))
        }
    }

    verify_signatures_with!(|self| self.trust.algorithms());
}

/// Checks clients that connect to us; which calls they may make is decided per service.
#[derive(Debug)]
pub(crate) struct ClientCheck {
    pub trust: Arc<Trust>,
    /// Joining nodes have no certificate yet.
    pub anonymous_allowed: bool,
}

impl ClientCertVerifier for ClientCheck {
    fn client_auth_mandatory(&self) -> bool {
        !self.anonymous_allowed
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let roots = self.trust.roots.load_full();
        let chain = WebPkiClientVerifier::builder_with_provider(roots, self.trust.provider())
            .build()
            .map_err(|error| Error::General(format!("no usable trust anchor: {error}")))?;
        chain.verify_client_cert(end_entity, intermediates, self.trust.judged(now, end_entity)?)?;
        self.trust.admit(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    verify_signatures_with!(|self| self.trust.algorithms());
}

/// By what somebody without a certificate knows control.
#[derive(Clone, Debug)]
pub enum Anchor {
    /// Of the root certificate, as a join token carries it: SHA-256, hex. The chain must contain it.
    Fingerprint(String),
    /// That were trusted last. Where another root has come since, the chain leads there from the one before.
    Roots(RootCertStore),
}

/// For the one connection that somebody without a certificate makes: the chain must lead to the anchor.
/// Expiry is not judged here: a node whose clock is a day off shall be told so by control instead of seeing
/// a certificate error.
#[derive(Debug)]
pub(crate) struct AnchoredCheck {
    pub anchor: Anchor,
    pub provider: Arc<CryptoProvider>,
}

impl AnchoredCheck {
    fn roots(&self, chain: &[CertificateDer<'_>]) -> Result<RootCertStore, Error> {
        let wanted = match &self.anchor {
            Anchor::Roots(roots) => return Ok(roots.clone()),
            Anchor::Fingerprint(wanted) => wanted,
        };
        let strange = "the server is not of the platform that made this join token, or the platform has replaced its \
                       root since: make a new token";
        let root = chain
            .iter()
            .find(|certificate| crate::ca::fingerprint(certificate) == *wanted)
            .ok_or_else(|| Error::General(strange.to_owned()))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        Ok(roots)
    }
}

impl ServerCertVerifier for AnchoredCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = self.roots(intermediates)?;
        let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
        let at_issue = UnixTime::since_unix_epoch(Duration::from_secs(not_before(end_entity)?));
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            intermediates,
            at_issue,
            self.provider.signature_verification_algorithms.all,
        )?;
        match identity_of(end_entity) {
            Some(identity) if identity.role == crate::identity::Role::Control => Ok(ServerCertVerified::assertion()),
            _ => Err(Error::General("the server is a node of the platform, but not its control".into())),
        }
    }

    verify_signatures_with!(|self| self.provider.signature_verification_algorithms);
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    #[test]
    fn expiry_is_judged_now_while_control_is_heard() {
        assert_eq!(judged_time(1_000, 990, 500), 1_000);
    }

    #[test]
    fn time_stands_still_for_certificates_while_control_is_dead() {
        let heard = 1_000_000;
        assert_eq!(judged_time(heard + 25 * HOUR, heard, heard - HOUR), heard + AUTHORITY_FRESH.as_secs());
    }

    #[test]
    fn a_certificate_renewed_after_we_lost_control_is_good() {
        let heard = 1_000_000;
        let renewed = heard + 2 * HOUR;
        assert_eq!(judged_time(heard + 3 * HOUR, heard, renewed), renewed);
        let from_the_future = heard + 9 * HOUR;
        assert_eq!(judged_time(heard + 3 * HOUR, heard, from_the_future), heard + 3 * HOUR);
    }

    #[test]
    fn whoever_could_not_renew_has_time_to_once_control_is_back() {
        let heard = 1_000_000;
        let back = heard + 25 * HOUR;
        let mut hearing = Hearing::new(heard);
        let end = back + TIME_TO_RENEW.as_secs();
        for (now, judged) in
            [(back, heard + AUTHORITY_FRESH.as_secs()), (end - 60, heard + AUTHORITY_FRESH.as_secs()), (end, end)]
        {
            hearing.hear(now);
            assert_eq!(hearing.judged_time(now, heard - HOUR), judged);
        }
        let never_silent = {
            let mut hearing = Hearing::new(heard);
            hearing.hear(heard + AUTHORITY_FRESH.as_secs());
            hearing
        };
        assert_eq!(never_silent.judged_time(heard + 100, heard - HOUR), heard + 100);
    }

    #[test]
    fn the_excuse_ends_after_a_week() {
        let heard = 1_000_000;
        let late = heard + MAX_SILENCE.as_secs() + 1;
        assert_eq!(judged_time(late, heard, heard), late);
    }
}
