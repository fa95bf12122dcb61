//! Serves the API and the registry: plain on loopback, else with a certificate of the platform.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::ServiceExt;
use axum::extract::Request;
use axum::serve::Listener;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::Layer;
use tower::util::MapRequestLayer;

use atoll_api::{Api, router, without_trailing_slash};
use atoll_control::Control;
use atoll_deploy::Deploys;
use atoll_images::registry;

use super::gather::{self, Gather};
use super::registry::AppRights;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const CERTIFICATE_LIFE: Duration = Duration::from_secs(365 * 86_400);

/// Runs until the listener fails.
pub async fn serve(
    listener: TcpListener,
    control: Arc<Control>,
    deploys: Arc<Deploys>,
    metrics: Gather,
    plain: bool,
    advertised: IpAddr,
) -> anyhow::Result<()> {
    let images = registry::router(control.images.clone(), Arc::new(AppRights(control.clone())));
    let router = router(Api { control: control.clone(), deploys }).merge(images).merge(gather::routes(metrics));
    let service = MapRequestLayer::new(without_trailing_slash).layer(router);
    let service = ServiceExt::<Request>::into_make_service(service);
    if plain {
        axum::serve(listener, service).await?;
    } else {
        axum::serve(TlsListener::new(listener, certificate(&control, advertised)?)?, service).await?;
    }
    Ok(())
}

fn certificate(control: &Control, advertised: IpAddr) -> anyhow::Result<Arc<ServerConfig>> {
    let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), advertised.to_string()];
    let (chain, key) = control.authority.issue_hosts(&hosts, control.now_ms() / 1000, CERTIFICATE_LIFE)?;
    let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Connections whose handshake is done; slow ones do not hold up the others.
struct TlsListener {
    ready: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    local: SocketAddr,
}

impl TlsListener {
    fn new(listener: TcpListener, config: Arc<ServerConfig>) -> io::Result<Self> {
        let local = listener.local_addr()?;
        let (sender, ready) = mpsc::channel(64);
        let acceptor = TlsAcceptor::from(config);
        tokio::spawn(async move {
            let mut listener = listener;
            loop {
                // `Listener::accept` waits out errors such as a lack of descriptors.
                let (tcp, address) = Listener::accept(&mut listener).await;
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    if let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await {
                        // The server is ending when nobody takes it.
                        sender.send((tls, address)).await.ok();
                    }
                });
            }
        });
        Ok(Self { ready, local })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }
}
