//! The device's side of WireGuard in a WebSocket: its WireGuard client speaks UDP to this command on the
//! loopback, which speaks HTTPS to the gateway.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_client::Tunnel;
use atoll_mesh::stream::{LARGEST, MAGIC, Unframer, framed};
use tokio::net::UdpSocket;

use crate::{CliError, Printer};

/// Before a gateway that is gone is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Carries until somebody ends the command; a gateway that goes away is connected to anew.
pub async fn carry(listen: SocketAddr, gateway: SocketAddr, printer: &Printer) -> Result<(), CliError> {
    let local = UdpSocket::bind(listen).await.map_err(CliError::io(format!("listen on {listen}")))?;
    printer.note(&format!("carries WireGuard from {listen} to {gateway} over HTTPS; Ctrl-C ends it"));
    // The device, once it has spoken.
    let mut device = None;
    loop {
        match Tunnel::open(gateway).await {
            Ok(tunnel) => {
                printer.note("connected");
                let error = pass(&local, tunnel, &mut device).await?;
                printer.warn(&format!("{error}; connects again"));
            }
            Err(error) => printer.warn(&format!("{gateway} cannot be reached: {error}")),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Until the gateway is gone; says why.
async fn pass(local: &UdpSocket, mut tunnel: Tunnel, device: &mut Option<SocketAddr>) -> Result<String, CliError> {
    if let Err(error) = tunnel.send(MAGIC.to_vec()).await {
        return Ok(error.to_string());
    }
    let mut unframer = Unframer::of_opener();
    let mut buffer = vec![0; LARGEST];
    loop {
        tokio::select! {
            received = local.recv_from(&mut buffer) => match received {
                Ok((length, from)) => {
                    *device = Some(from);
                    if let Err(error) = tunnel.send(framed(&buffer[..length])).await {
                        return Ok(error.to_string());
                    }
                }
                // A datagram of ours that found no client; it may come back.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(CliError::io("receive from the WireGuard client")(error)),
            },
            came = tunnel.next() => {
                let bytes = match came {
                    Ok(bytes) => bytes,
                    Err(error) => return Ok(error.to_string()),
                };
                let read = unframer.push(&bytes, |datagram| {
                    // What the client has no room for is lost, as on every way.
                    device.iter().for_each(|device| drop(local.try_send_to(datagram, *device)));
                });
                if let Err(error) = read {
                    return Ok(error.to_string());
                }
            }
        }
    }
}
