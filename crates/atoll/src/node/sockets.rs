//! Listening sockets: bound once by the supervisor and handed to the processes that serve them, so
//! that connections wait in the kernel while a process is replaced.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;

use anyhow::{Context, bail};
use socket2::{Domain, Protocol, Socket, Type};

use super::supervisor::remove_stale;

/// Name of the environment variable: `name=fd` pairs, comma separated.
const VARIABLE: &str = "ATOLL_SOCKETS";

/// Binds `address`; `flag` is the option that chose it, for the error.
pub fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || -> std::io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(4096)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    listen().with_context(|| format!("cannot listen on {address} (--{flag}); is another program using it?"))
}

/// Where DNS is served, over UDP and TCP; the address need not be this host's yet.
pub fn bind_dns(at: SocketAddr) -> anyhow::Result<(UdpSocket, TcpListener)> {
    let both = || -> std::io::Result<(UdpSocket, TcpListener)> {
        let tcp = bound_ahead(at, Type::STREAM, Protocol::TCP)?;
        tcp.listen(1024)?;
        Ok((bound_ahead(at, Type::DGRAM, Protocol::UDP)?.into(), tcp.into()))
    };
    both().with_context(|| format!("cannot serve DNS at {at}; does another DNS server of this host use it?"))
}

/// Where machines' connections to Flycast addresses are led; the address need not be this host's yet.
pub fn bind_flycast(at: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || -> std::io::Result<TcpListener> {
        let socket = bound_ahead(at, Type::STREAM, Protocol::TCP)?;
        socket.listen(4096)?;
        Ok(socket.into())
    };
    listen().with_context(|| format!("cannot listen on {at} for machines' connections to Flycast addresses"))
}

/// Bound to an address that this host may get only later.
fn bound_ahead(at: SocketAddr, kind: Type, protocol: Protocol) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), kind, Some(protocol))?;
    if at.is_ipv6() {
        socket.set_freebind_v6(true)?
    } else {
        socket.set_freebind_v4(true)?
    }
    socket.set_reuse_address(kind == Type::STREAM)?;
    socket.set_nonblocking(true)?;
    socket.bind(&at.into())?;
    Ok(socket)
}

/// Listens at `path`, where only `uid` and root may connect.
pub fn bind_private(path: &Path, uid: u32) -> anyhow::Result<UnixListener> {
    remove_stale(path)?;
    let listen = || -> std::io::Result<UnixListener> {
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        chown(path, Some(uid), None)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    listen().with_context(|| format!("cannot listen on {}", path.display()))
}

/// Sockets by name, on their way to a child.
#[derive(Default)]
pub struct Inherited(BTreeMap<&'static str, OwnedFd>);

/// Sockets by name, as a child got them.
pub type Handed = BTreeMap<String, OwnedFd>;

impl Inherited {
    pub fn add(&mut self, name: &'static str, listener: impl Into<OwnedFd>) {
        self.0.insert(name, listener.into());
    }

    /// Where a TCP socket listens.
    pub fn address(&self, name: &str) -> Option<SocketAddr> {
        socket2::SockRef::from(self.0.get(name)?).local_addr().ok()?.as_socket()
    }

    /// The value of the environment variable, and the descriptors a child must keep.
    pub fn describe(&self) -> (&'static str, String, Vec<RawFd>) {
        let pairs: Vec<String> = self.0.iter().map(|(name, fd)| format!("{name}={}", fd.as_raw_fd())).collect();
        (VARIABLE, pairs.join(","), self.0.values().map(AsRawFd::as_raw_fd).collect())
    }
}

/// The sockets this process was given. Call once: it takes ownership of the descriptors.
pub fn take() -> anyhow::Result<Handed> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    let mut sockets = Handed::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let Some((name, fd)) = pair.split_once('=') else { bail!("{VARIABLE} holds {pair:?}, not name=descriptor") };
        let fd: RawFd = fd.parse().with_context(|| format!("{VARIABLE} holds {pair:?}, not name=descriptor"))?;
        rustix::io::fcntl_setfd(
            // SAFETY: the descriptor was inherited for us alone and is owned only from here on.
            unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) },
            rustix::io::FdFlags::CLOEXEC,
        )
        .with_context(|| format!("the supervisor did not hand over the socket {name:?}"))?;
        // SAFETY: as above; nobody else in this process knows the descriptor.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        sockets.insert(name.to_owned(), owned);
    }
    Ok(sockets)
}

/// Takes one TCP socket out of the set.
pub fn tcp_listener(sockets: &mut Handed, name: &str) -> anyhow::Result<TcpListener> {
    sockets
        .remove(name)
        .map(TcpListener::from)
        .with_context(|| format!("the supervisor handed over no socket {name:?}"))
}

/// Takes one TCP socket out of the set, as a tokio listener.
pub fn tokio_listener(sockets: &mut Handed, name: &str) -> anyhow::Result<tokio::net::TcpListener> {
    let listener = tcp_listener(sockets, name)?;
    tokio::net::TcpListener::from_std(listener).with_context(|| format!("the socket {name:?} cannot be used"))
}

/// Takes one UDP socket out of the set.
pub fn udp_socket(sockets: &mut Handed, name: &str) -> anyhow::Result<UdpSocket> {
    let socket = sockets.remove(name).map(UdpSocket::from);
    socket.with_context(|| format!("the supervisor handed over no socket {name:?}"))
}

/// Takes one Unix socket out of the set; `None` when this process was given none of that name.
pub fn unix_listener(sockets: &mut Handed, name: &str) -> Option<UnixListener> {
    sockets.remove(name).map(UnixListener::from)
}
