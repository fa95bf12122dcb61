//! The UDP socket under a link, or a relay's: both families on one port, many datagrams in one system call, and the
//! address of ours that a datagram came to. The unsafe code of the crate is here.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

use super::peer::Endpoint;

/// Room for the control messages that we send or ask for, aligned as they must be.
type Control = [u64; 16];

pub struct Underlay {
    socket: Socket,
    port: u16,
    v6: bool,
    /// Whether the kernel cuts joined datagrams; it refuses on interfaces without checksum offload.
    cuts: AtomicBool,
}

/// What came in together.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    pub length: usize,
    /// Size of each datagram, but the last.
    pub segment: usize,
    pub from: Endpoint,
}

impl Underlay {
    /// Takes a port in the network namespace of the calling thread; 0 takes any. `buffer` is of each
    /// direction, in bytes.
    pub fn open(port: u16, buffer: libc::c_int) -> io::Result<Self> {
        let (socket, v6) = match Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)) {
            Ok(socket) => (socket, true),
            // A kernel without IPv6.
            Err(_) => (Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?, false),
        };
        let any: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        if v6 {
            socket.set_only_v6(false)?;
            set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        } else {
            set_option(&socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        }
        set_option(&socket, libc::SOL_UDP, libc::UDP_GRO, 1)?;
        // Without the privilege the system's limit holds.
        let forced = set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, buffer)
            .and_then(|()| set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, buffer));
        if let Err(error) = forced {
            tracing::warn!(%error, "the mesh's socket has small buffers and may lose bursts");
        }
        socket.bind(&SocketAddr::new(any, port).into())?;
        let bound = socket.local_addr()?.as_socket().map_or(port, |address| address.port());
        Ok(Self { socket, port: bound, v6, cuts: AtomicBool::new(true) })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What is larger than a way carries is lost on it, and what the kernel knows of ways is not asked.
    pub fn never_fragment(&self) -> io::Result<()> {
        if self.v6 {
            set_option(&self.socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        }
        set_option(&self.socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    }

    /// Takes what is there, without waiting.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut control: Control = [0; 16];
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        // SAFETY: all zeros is a valid value of these plain structures.
        let (mut name, mut message): (libc::sockaddr_storage, libc::msghdr) = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = mem::size_of_val(&name) as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control);
        // SAFETY: every pointer in the message is to something that lives here, with its true length.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
        let mut received =
            Received { length, segment: length.max(1), from: Endpoint { remote: address(&name)?, local: None } };
        // SAFETY: the kernel has filled in the message, whose buffers are still alive; CMSG_NXTHDR gives only
        // headers that lie in it, and each kind of message has the content that is read here.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                let data = libc::CMSG_DATA(header);
                match ((*header).cmsg_level, (*header).cmsg_type) {
                    (libc::SOL_UDP, libc::UDP_GRO) => {
                        let segment = data.cast::<libc::c_int>().read_unaligned();
                        received.segment = usize::try_from(segment).unwrap_or(length).max(1);
                    }
                    (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                        let info = data.cast::<libc::in6_pktinfo>().read_unaligned();
                        received.from.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
                    }
                    (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                        let info = data.cast::<libc::in_pktinfo>().read_unaligned();
                        received.from.local = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
                    }
                    _ => {}
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        Ok(received)
    }

    /// Sends datagrams of `segment` bytes each, of which the last may be shorter. Waits for room.
    pub fn send(&self, to: &Endpoint, bytes: &[u8], segment: usize) -> io::Result<()> {
        if bytes.len() > segment && self.cuts.load(Ordering::Relaxed) {
            match self.send_from(to, bytes, Some(segment)) {
                // This way's interface cannot.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => self.cuts.store(false, Ordering::Relaxed),
                // Larger than the way carries; one by one they are fragmented.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL)) => {}
                sent => return sent,
            }
        }
        bytes.chunks(segment).try_for_each(|datagram| self.send_from(to, datagram, None))
    }

    /// From the address that the peer knows, or from any if we have it no more.
    fn send_from(&self, to: &Endpoint, bytes: &[u8], segment: Option<usize>) -> io::Result<()> {
        let refused = |error: &io::Error| {
            matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH))
        };
        match self.send_once(to.remote, to.local, bytes, segment) {
            Err(error) if to.local.is_some() && refused(&error) => self.send_once(to.remote, None, bytes, segment),
            sent => sent,
        }
    }

    fn send_once(&self, to: SocketAddr, from: Option<IpAddr>, bytes: &[u8], segment: Option<usize>) -> io::Result<()> {
        let to = if self.v6 { mapped(to) } else { to };
        let name = socket2::SockAddr::from(to);
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control: Control = [0; 16];
        // SAFETY: all zeros is a valid value of this plain structure.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = name.as_ptr().cast_mut().cast();
        message.msg_namelen = name.len();
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        let mut used = 0;
        if let Some(segment) = segment.and_then(|segment| u16::try_from(segment).ok()) {
            used += put(&mut control, used, libc::SOL_UDP, libc::UDP_SEGMENT, segment);
        }
        match (from, self.v6) {
            (Some(from), true) => {
                let from = match from {
                    IpAddr::V4(from) => from.to_ipv6_mapped(),
                    IpAddr::V6(from) => from,
                };
                let ipi6_addr = libc::in6_addr { s6_addr: from.octets() };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
                used += put(&mut control, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
            }
            (Some(IpAddr::V4(from)), false) => {
                let ipi_spec_dst = libc::in_addr { s_addr: from.to_bits().to_be() };
                let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr: libc::in_addr { s_addr: 0 } };
                used += put(&mut control, used, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
            }
            (Some(IpAddr::V6(_)), false) | (None, _) => {}
        }
        if used > 0 {
            message.msg_control = control.as_mut_ptr().cast();
            message.msg_controllen = used;
        }
        // SAFETY: every pointer in the message is to something that lives here, with its true length; the
        // call only reads through them.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Underlay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Writes a control message at `at` and says how much room it took.
fn put<T>(control: &mut Control, at: usize, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    let size = mem::size_of::<T>() as libc::c_uint;
    // SAFETY: these only compute sizes.
    let (space, length) = unsafe { (libc::CMSG_SPACE(size) as usize, libc::CMSG_LEN(size) as usize) };
    assert!(at + space <= mem::size_of_val(control), "two small messages fit");
    // SAFETY: header and value lie within `control`, as was just checked; its alignment is that of headers,
    // and `at` is a sum of aligned spaces.
    unsafe {
        let header = control.as_mut_ptr().cast::<u8>().add(at).cast::<libc::cmsghdr>();
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = length;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
    }
    space
}

fn set_option(socket: &Socket, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: pointer and length describe the value above.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An IPv4 destination, as a socket of IPv6 names it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => address,
    }
}

/// The sender, IPv4 as such.
fn address(name: &libc::sockaddr_storage) -> io::Result<SocketAddr> {
    let name = (&raw const *name).cast::<libc::sockaddr>();
    // SAFETY: a sockaddr_storage is large and aligned enough for each family; which of them it is was
    // written by the kernel.
    unsafe {
        match libc::c_int::from((*name).sa_family) {
            libc::AF_INET => {
                let v4 = name.cast::<libc::sockaddr_in>().read();
                Ok((Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)), u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                let v6 = name.cast::<libc::sockaddr_in6>().read();
                let (ip, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
                Ok(match ip.to_canonical() {
                    IpAddr::V4(ip) => (ip, port).into(),
                    // A link-local sender is reached through its interface only.
                    IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, v6.sin6_scope_id).into(),
                })
            }
            family => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a sender of address family {family}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUFFER: libc::c_int = 1 << 20;

    fn receive(socket: &Underlay, buffer: &mut [u8]) -> Received {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        loop {
            match socket.receive(buffer) {
                Ok(received) => return received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    assert!(std::time::Instant::now() < deadline, "nothing came");
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[test]
    fn datagrams_sent_together_arrive_whole_and_from_the_address_that_was_named() {
        let (near, far) = (Underlay::open(0, BUFFER).unwrap(), Underlay::open(0, BUFFER).unwrap());
        for (to, from) in [("127.0.0.1", "127.0.0.2"), ("::1", "::1")] {
            let (to, from): (IpAddr, IpAddr) = (to.parse().unwrap(), from.parse().unwrap());
            if std::net::UdpSocket::bind((to, 0)).is_err() {
                continue;
            }
            let endpoint = Endpoint { remote: (to, far.port()).into(), local: Some(from) };
            let sent: Vec<u8> = (0..2_500_u32).map(|number| number as u8).collect();
            near.send(&endpoint, &sent, 1000).unwrap();
            let (mut buffer, mut got, mut sizes) = (vec![0; 65_535], Vec::new(), Vec::new());
            while got.len() < sent.len() {
                let received = receive(&far, &mut buffer);
                assert_eq!(received.from, Endpoint { remote: (from, near.port()).into(), local: Some(to) });
                sizes.extend(buffer[..received.length].chunks(received.segment).map(<[u8]>::len));
                got.extend_from_slice(&buffer[..received.length]);
            }
            assert_eq!((got, sizes), (sent, vec![1000, 1000, 500]));
        }
    }

    #[test]
    fn an_address_that_we_have_no_more_does_not_keep_us_from_sending() {
        let (near, far) = (Underlay::open(0, BUFFER).unwrap(), Underlay::open(0, BUFFER).unwrap());
        let local = Some("192.0.2.1".parse().unwrap());
        near.send(&Endpoint { remote: ([127, 0, 0, 1], far.port()).into(), local }, b"hello", 5).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(receive(&far, &mut buffer).length, 5);
    }
}
