//! What a host's kernel tells of its routes: every change, with the moment it was heard.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};
use tokio::sync::mpsc;

use crate::error::{Attempt, LabError};
use crate::lab::Host;

/// Room for the largest batch of messages that the kernel gives at once.
const BUFFER: usize = 64 << 10;

/// Changes that nobody has asked for yet.
const QUEUE: usize = 4096;

/// How soon the reader ends after the watch is dropped.
const LOOK_UP: Duration = Duration::from_millis(200);

/// A route that came, changed or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteChange {
    pub at: Instant,
    pub address: IpAddr,
    pub length: u8,
    /// It is gone.
    pub deleted: bool,
    /// The next hop, if the route has one.
    pub via: Option<IpAddr>,
}

/// The route changes of a host from the moment this was made. A thread of its own reads them, so that
/// their moments do not depend on what else the caller does.
#[derive(Debug)]
pub struct RouteWatch {
    changes: mpsc::Receiver<RouteChange>,
    host: String,
}

impl RouteWatch {
    /// Begins to watch; changes made after this returns are not missed.
    ///
    /// # Errors
    /// If the host is not up.
    pub async fn begin(host: &Host) -> Result<Self, LabError> {
        let name = host.name().to_owned();
        let socket = host.in_network(listen).await?.attempting(|| format!("watch the routes of {name}"))?;
        let (send, changes) = mpsc::channel(QUEUE);
        std::thread::spawn(move || read(&socket, &send));
        Ok(Self { changes, host: name })
    }

    /// The next change.
    ///
    /// # Errors
    /// If more changed at once than could be read.
    pub async fn next(&mut self) -> Result<RouteChange, LabError> {
        let lost = || LabError::Invalid(format!("route changes of {} were lost", self.host));
        self.changes.recv().await.ok_or_else(lost)
    }

    /// The first change that is as wanted.
    ///
    /// # Errors
    /// If there was none within the limit.
    pub async fn until(
        &mut self,
        limit: Duration,
        wanted: impl Fn(&RouteChange) -> bool,
    ) -> Result<RouteChange, LabError> {
        let host = self.host.clone();
        let search = async {
            loop {
                let change = self.next().await?;
                if wanted(&change) {
                    return Ok(change);
                }
            }
        };
        tokio::time::timeout(limit, search)
            .await
            .map_err(|_| LabError::Invalid(format!("no route of {host} changed as wanted within {limit:?}")))?
    }
}

fn listen() -> io::Result<OwnedFd> {
    // Protocol 0 of this family is routing.
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(LOOK_UP))?;
    let groups = (libc::RTMGRP_IPV4_ROUTE | libc::RTMGRP_IPV6_ROUTE) as u32;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Passes changes on until nobody wants them or the kernel says that some were lost.
fn read(socket: &OwnedFd, send: &mpsc::Sender<RouteChange>) {
    let mut buffer = vec![0; BUFFER];
    while !send.is_closed() {
        match rustix::net::recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => {
                for change in parse(&buffer[..length], Instant::now()) {
                    if send.blocking_send(change).is_err() {
                        return;
                    }
                }
            }
            // Silence: look whether anybody still listens.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// The route changes in a batch of the kernel's messages.
fn parse(mut batch: &[u8], at: Instant) -> Vec<RouteChange> {
    const HEADER: usize = 16;
    let mut changes = Vec::new();
    while let (Some(length), Some(kind)) = (number(batch, 0), batch.get(4..6)) {
        let kind = u16::from_ne_bytes([kind[0], kind[1]]);
        let Some(message) = batch.get(HEADER..length as usize) else { break };
        if kind == libc::RTM_NEWROUTE || kind == libc::RTM_DELROUTE {
            changes.extend(route(message, kind == libc::RTM_DELROUTE, at));
        }
        // A length of nothing ends above, as the header is longer.
        batch = batch.get((length as usize).next_multiple_of(4)..).unwrap_or_default();
    }
    changes
}

/// One route: its fixed part, then attributes.
fn route(message: &[u8], deleted: bool, at: Instant) -> Option<RouteChange> {
    const FIXED: usize = 12;
    let (family, length) = (i32::from(*message.first()?), *message.get(1)?);
    let unspecified =
        if family == libc::AF_INET { Ipv4Addr::UNSPECIFIED.into() } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
    let mut change = RouteChange { at, address: unspecified, length, deleted, via: None };
    let mut rest = message.get(FIXED..)?;
    while let Some(&[low, high, kind_low, kind_high]) = rest.get(..4) {
        let length = usize::from(u16::from_ne_bytes([low, high]));
        let value = rest.get(4..length)?;
        match u16::from_ne_bytes([kind_low, kind_high]) {
            libc::RTA_DST => change.address = address(value)?,
            libc::RTA_GATEWAY => change.via = address(value),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(change)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message as the kernel writes it.
    fn message(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![libc::AF_INET as u8, 24, 0, 0, 254, 12, 0, 1, 0, 0, 0, 0];
        for (kind, value) in attributes {
            body.extend((value.len() as u16 + 4).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut message = (body.len() as u32 + 16).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    #[test]
    fn batches_of_messages_are_read() {
        let at = Instant::now();
        let added =
            message(libc::RTM_NEWROUTE, &[(libc::RTA_DST, &[198, 51, 100, 0]), (libc::RTA_GATEWAY, &[10, 0, 0, 1])]);
        let gone = message(libc::RTM_DELROUTE, &[(libc::RTA_DST, &[198, 51, 100, 0])]);
        let changes = parse(&[added, message(99, &[]), gone].concat(), at);
        let destination = IpAddr::from([198, 51, 100, 0]);
        let via = Some(IpAddr::from([10, 0, 0, 1]));
        let change = RouteChange { at, address: destination, length: 24, deleted: false, via };
        assert_eq!(changes, [change.clone(), RouteChange { deleted: true, via: None, ..change }]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_turn_for_ever(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(&bytes, Instant::now()));
        }
    }
}
