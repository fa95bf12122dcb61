//! Notices that a zone has changed, raises its serial, and tells secondaries (RFC 1996).

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::net::UdpSocket;
use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use super::responder::Public;
use super::transfer::fingerprint;
use super::zone::{View, Zone};
use crate::serve::Now;
use crate::wire::{CLASS_IN, Name, Type, u16_at};

/// How often zones are looked at. Secondaries are behind by this and their own transfer.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a secondary is given to say that it heard, each time.
const PATIENCE: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(9), Duration::from_secs(27)];

/// Follows the zones that have secondaries, until told to stop. Secondaries are told at the beginning,
/// too: what they hold is an earlier process's.
pub async fn follow(public: Arc<Public>, stop: CancellationToken) {
    let mut known: HashMap<Name, u64> = HashMap::new();
    let mut looked_at: Option<Arc<View>> = None;
    let mut ticks = interval(PERIOD);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let view = public.view();
        if looked_at.as_ref().is_some_and(|before| Arc::ptr_eq(before, &view)) {
            continue;
        }
        looked_at = Some(view.clone());
        for zone in public.zones().filter(|zone| !zone.notified.is_empty()) {
            let (view, looked_through) = (view.clone(), zone.clone());
            let looked = tokio::task::spawn_blocking(move || fingerprint(&view, &looked_through)).await;
            // It only fails when the process ends.
            let Ok(now) = looked else { return };
            if known.insert(*zone.origin(), now) != Some(now) {
                zone.changed(Now::read().unix);
                tell(zone, &stop);
            }
        }
    }
}

/// Tells each secondary of a zone by a task of its own.
fn tell(zone: &Arc<Zone>, stop: &CancellationToken) {
    for secondary in &zone.notified {
        let (zone, secondary, stop) = (zone.clone(), *secondary, stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                told = notify(&zone, secondary) => match told {
                    Ok(()) => tracing::debug!(zone = %zone.origin(), %secondary, "a secondary was told of a change"),
                    // It looks by itself after the zone's refresh time.
                    Err(error) => tracing::warn!(zone = %zone.origin(), %secondary, %error, "a secondary was not told of a change"),
                },
            }
        });
    }
}

async fn notify(zone: &Zone, secondary: SocketAddr) -> io::Result<()> {
    let any: SocketAddr = match secondary {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(secondary).await?;
    let id = rand::rng().next_u32() as u16;
    let mut message = id.to_be_bytes().to_vec();
    // A notification from the zone's owner; one question.
    message.extend([0x24, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(zone.origin().wire());
    message.extend(Type::SOA.0.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    let mut failure = io::Error::from(io::ErrorKind::TimedOut);
    for patience in PATIENCE {
        let heard = async {
            socket.send(&message).await?;
            let mut answer = [0; 512];
            loop {
                let length = socket.recv(&mut answer).await?;
                if u16_at(&answer[..length], 0) == Some(id) && length > 2 && answer[2] & 0x80 != 0 {
                    return Ok(());
                }
            }
        };
        match timeout(patience, heard).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => {
                failure = error;
                tokio::time::sleep(patience).await;
            }
            Err(_) => failure = io::Error::from(io::ErrorKind::TimedOut),
        }
    }
    Err(failure)
}
