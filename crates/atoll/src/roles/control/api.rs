//! Serves the API and the registry: to clients on a socket of its own, plain on loopback, else with a
//! certificate of the platform; and to edges, which hand on what their users ask.

use std::net::IpAddr;
use std::sync::Arc;

use axum::ServiceExt;
use axum::extract::{ConnectInfo, Request};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tower::Layer;
use tower::util::MapRequestLayer;

use atoll_api::{Api, Origin, router, without_trailing_slash};
use atoll_control::Control;
use atoll_deploy::Deploys;
use atoll_images::registry;
use atoll_rpc::stream::PeerStream;

use super::certificate::tls;
use super::gather::{self, Gather};
use super::listeners::{Caller, Edges, TlsListener};
use super::registry::AppRights;

/// Where the API is met.
pub struct Entrances {
    /// Clients' own connections.
    pub clients: TcpListener,
    /// Without TLS.
    pub plain: bool,
    /// The server's address, for the certificate.
    pub advertised: IpAddr,
    /// Peers that want to speak with the API; only edges may.
    pub peers: mpsc::Receiver<PeerStream>,
}

/// Runs until the listener fails.
pub async fn serve(
    entrances: Entrances,
    control: Arc<Control>,
    deploys: Arc<Deploys>,
    metrics: Gather,
) -> anyhow::Result<()> {
    let images = registry::router(control.images.clone(), Arc::new(AppRights(control.clone())));
    let router = router(Api { control: control.clone(), deploys }).merge(images).merge(gather::routes(metrics));
    let service = MapRequestLayer::new(without_trailing_slash).layer(router);
    let service = MapRequestLayer::new(with_origin).layer(service);
    let service = ServiceExt::<Request>::into_make_service_with_connect_info::<Caller>(service);
    let Entrances { clients, plain, advertised, peers } = entrances;
    let edges = axum::serve(Edges(peers), service.clone());
    if plain {
        tokio::try_join!(edges, axum::serve(clients, service))?;
    } else {
        let clients = TlsListener::new(clients, tls(control, advertised)?)?;
        tokio::try_join!(edges, axum::serve(clients, service))?;
    }
    Ok(())
}

fn with_origin(mut request: Request) -> Request {
    match request.extensions_mut().remove::<ConnectInfo<Caller>>() {
        Some(ConnectInfo(Caller::Edge)) => Origin::forwarded(&mut request),
        Some(ConnectInfo(Caller::Client(address))) => Origin::direct(&mut request, Some(address)),
        None => Origin::direct(&mut request, None),
    }
    request
}
