//! WireGuard for networks that let no UDP through: datagrams that come in WebSockets, handed over by the
//! edge, are passed to the devices' link through the loopback, each connection from a port of its own.

use std::io;
use std::net::Ipv4Addr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::StreamExt;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use atoll_mesh::stream::{LARGEST, Unframer, framed};

/// Connections at once.
const MAX_CONNECTIONS: usize = 4_096;
/// A device that is silent for longer is gone: clients are told to keep their way open.
const SILENCE: Duration = Duration::from_secs(180);
/// Clients send a datagram, or few, in one message.
const MAX_MESSAGE: usize = 256 << 10;

/// Serves for as long as the process lives. `port`: of the devices' link.
pub fn serve(listener: UnixListener, port: u16) -> anyhow::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener).context("the socket for devices cannot be used")?;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accept = move |upgrade: WebSocketUpgrade| async move { accept(upgrade, &places, port) };
    let router = Router::new().route("/", get(accept));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "devices no longer enter through WebSockets");
        }
    });
    Ok(())
}

fn accept(upgrade: WebSocketUpgrade, places: &Arc<Semaphore>, port: u16) -> Response {
    let Ok(place) = places.clone().try_acquire_owned() else {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    upgrade.max_message_size(MAX_MESSAGE).on_upgrade(move |socket| async move {
        if let Err(error) = carry(socket, port).await {
            tracing::debug!(%error, "a device's WebSocket ended");
        }
        drop(place);
    })
}

async fn carry(mut device: WebSocket, port: u16) -> io::Result<()> {
    let link = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    link.connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut unframer = Unframer::of_accepter();
    let mut buffer = vec![0; LARGEST];
    let silence = tokio::time::sleep(SILENCE);
    tokio::pin!(silence);
    loop {
        tokio::select! {
            heard = device.next() => match heard {
                Some(Ok(Message::Binary(piece))) => {
                    silence.as_mut().reset(tokio::time::Instant::now() + SILENCE);
                    // What the link has no room for is lost, as on every way.
                    unframer.push(&piece, |datagram| drop(link.try_send(datagram))).map_err(io::Error::other)?;
                }
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(io::Error::other(error)),
            },
            received = link.recv(&mut buffer) => {
                let message = Message::Binary(framed(&buffer[..received?]).into());
                device.send(message).await.map_err(io::Error::other)?;
            }
            () = &mut silence => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}
