//! TLS of https checks. They ask whether the app answers on an address that this node itself gave
//! it, not who it is: a machine's certificate is its own affair and is not verified.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use atoll_model::service::Check;

pub async fn connect(stream: TcpStream, target: SocketAddr, check: &Check) -> Result<TlsStream<TcpStream>, String> {
    let name = check.tls_server_name.as_deref().filter(|name| !name.is_empty());
    let server = match name {
        Some(name) => ServerName::try_from(name.to_owned()).map_err(|_| format!("{name:?} is no TLS server name"))?,
        None => ServerName::IpAddress(target.ip().into()),
    };
    let config = config().map_err(|error| format!("tls: {error}"))?;
    TlsConnector::from(Arc::new(config)).connect(server, stream).await.map_err(|error| format!("tls: {error}"))
}

fn config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(AcceptAnyIdentity { provider: provider.clone() });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Verifies the handshake but not the identity: the address was given by this node itself, and a
/// machine's certificate is its own affair.
#[derive(Debug)]
struct AcceptAnyIdentity {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAnyIdentity {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
