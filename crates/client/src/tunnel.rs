//! WireGuard's datagrams in a WebSocket, for networks that let no UDP through.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::ClientError;

/// An open way to a gateway: bytes out, bytes in.
pub struct Tunnel {
    socket: WebSocketStream<TlsStream<TcpStream>>,
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Broken(error.into())
}

impl Tunnel {
    /// Connects to a gateway's WebSocket port.
    ///
    /// # Errors
    /// If nobody there takes WireGuard in WebSockets.
    pub async fn open(gateway: SocketAddr) -> Result<Self, ClientError> {
        let tcp = TcpStream::connect(gateway).await.map_err(broken)?;
        // A datagram waits for no other.
        tcp.set_nodelay(true).map_err(broken)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(broken)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        let name = ServerName::from(gateway.ip());
        let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(broken)?;
        let (socket, _) = tokio_tungstenite::client_async(format!("wss://{gateway}/"), tls).await.map_err(broken)?;
        Ok(Self { socket })
    }

    /// # Errors
    /// If the gateway is gone.
    pub async fn send(&mut self, bytes: Vec<u8>) -> Result<(), ClientError> {
        self.socket.send(Message::binary(bytes)).await.map_err(broken)
    }

    /// What comes next. May be dropped and called again without a loss.
    ///
    /// # Errors
    /// If the gateway is gone.
    pub async fn next(&mut self) -> Result<Vec<u8>, ClientError> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes.to_vec()),
                Some(Ok(Message::Close(_))) | None => return Err(broken("the gateway closed the connection")),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(broken(error)),
            }
        }
    }
}

/// Takes every certificate: the gateway is met at its address, for which it has none, and TLS only serves to
/// get through. Who is at the other end is proven by WireGuard inside, with the key that the device knows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
