//! A blocking rtnetlink socket: one request, one answer. Interfaces, addresses, routes and
//! neighbours, as few words as the rest of the module needs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket, SocketAddr};

/// A hardware address.
pub type Mac = [u8; 6];

/// Bound to the namespace of the thread that opened it, for ever.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A veth pair to be made: the near end here, the far end in another namespace.
pub struct Pair<'a> {
    pub name: &'a str,
    pub mac: Mac,
    pub group: u32,
    pub far_name: &'a str,
    pub far_index: u32,
    pub far_mac: Mac,
    pub far_namespace: BorrowedFd<'a>,
}

/// A route to be made.
pub struct Route {
    pub to: IpNet,
    pub via: Option<IpAddr>,
    pub link: u32,
    /// Preferred source.
    pub source: Option<IpAddr>,
}

/// An interface that is there.
#[derive(Debug)]
pub struct Link {
    pub index: u32,
    pub name: String,
}

impl Netlink {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes the pair, both ends down, the near one deaf to ARP. The far end has the index that was
    /// asked for.
    pub fn add_pair(&mut self, pair: &Pair<'_>) -> io::Result<()> {
        let mut far = LinkMessage::default();
        far.header.index = pair.far_index;
        far.attributes = vec![
            LinkAttribute::IfName(pair.far_name.to_owned()),
            LinkAttribute::Address(pair.far_mac.to_vec()),
            LinkAttribute::NetNsFd(pair.far_namespace.as_raw_fd()),
        ];
        let mut near = LinkMessage::default();
        // Neighbours are told, never asked for: what the far end says of others is not heard.
        near.header.flags = LinkFlags::Noarp;
        near.header.change_mask = LinkFlags::Noarp;
        near.attributes = vec![
            LinkAttribute::IfName(pair.name.to_owned()),
            LinkAttribute::Address(pair.mac.to_vec()),
            LinkAttribute::Group(pair.group),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
            ]),
        ];
        self.request(RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Not taken at creation.
    pub fn set_alias(&mut self, index: u32, alias: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.attributes = vec![LinkAttribute::IfAlias(alias.to_owned())];
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Has the kernel take notice that both ends of a pair are up, which it otherwise does when it
    /// finds time: packets sent before are lost, and TCP repeats them after a whole second.
    pub fn settle(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        // Asking for one interface brings its carrier state up to date.
        self.request(RouteNetlinkMessage::GetLink(message), 0)
    }

    /// Waits until the kernel takes packets for an IPv6 address that was added to the interface. It
    /// begins to in the background, and what comes before is lost.
    pub fn await_address(&mut self, index: u32, address: Ipv6Addr) -> io::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(2);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut message = RouteMessage::default();
            message.header.address_family = AddressFamily::Inet6;
            message.header.destination_prefix_length = 128;
            message.attributes =
                vec![RouteAttribute::Destination(RouteAddress::Inet6(address)), RouteAttribute::Iif(index)];
            match self.ask(RouteNetlinkMessage::GetRoute(message)) {
                Ok(RouteNetlinkMessage::NewRoute(route)) if route.header.kind == RouteType::Local => return Ok(()),
                Ok(_) | Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_micros(200)),
                Ok(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, format!("{address} is not taken up"))),
                Err(error) => return Err(error),
            }
        }
    }

    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Removes the interface, and with it its other end, addresses and routes. No error if it is not there.
    pub fn delete_link(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        match self.request(RouteNetlinkMessage::DelLink(message), 0) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(()),
            result => result,
        }
    }

    /// Adds an address that is usable at once: duplicates are not looked for.
    pub fn add_address(&mut self, link: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix;
        message.header.index = link;
        message.attributes = vec![AddressAttribute::Address(address)];
        if address.is_ipv4() {
            message.attributes.push(AddressAttribute::Local(address));
        } else {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(route.to.addr()),
            destination_prefix_length: route.to.prefix_len(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: if route.via.is_some() || !route.to.addr().is_ipv4() {
                RouteScope::Universe
            } else {
                RouteScope::Link
            },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        if route.to.prefix_len() > 0 {
            message.attributes.push(RouteAttribute::Destination(address(route.to.addr())));
        }
        message.attributes.push(RouteAttribute::Oif(route.link));
        message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(address(via))));
        message.attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(address(source))));
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Whether a route leads to the address, and not to an end. No, too, where the kernel does not say.
    pub fn leads_on(&mut self, to: Ipv6Addr) -> bool {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet6;
        message.header.destination_prefix_length = 128;
        message.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet6(to))];
        let answer = self.ask(RouteNetlinkMessage::GetRoute(message));
        matches!(answer, Ok(RouteNetlinkMessage::NewRoute(route)) if route.header.kind == RouteType::Unicast)
    }

    /// Marks a block as in use without leading anywhere: what is not routed better is dropped.
    pub fn add_blackhole(&mut self, net: Ipv4Net) -> io::Result<()> {
        self.request(RouteNetlinkMessage::NewRoute(blackhole(net)), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// No error if it is not there.
    pub fn delete_blackhole(&mut self, net: Ipv4Net) -> io::Result<()> {
        match self.request(RouteNetlinkMessage::DelRoute(blackhole(net)), 0) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
            result => result,
        }
    }

    /// A neighbour that need not be looked for.
    pub fn add_neighbour(&mut self, link: u32, address: IpAddr, mac: Mac) -> io::Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = link;
        message.header.state = NeighbourState::Permanent;
        message.attributes =
            vec![NeighbourAttribute::Destination(address.into()), NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| {
                let RouteNetlinkMessage::NewLink(link) = answer else { return None };
                let index = link.header.index;
                link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(Link { index, name }),
                    _ => None,
                })
            })
            .collect())
    }

    /// All IPv4 destinations of the main table with the interface they lead to; 0: nowhere.
    pub fn ipv4_routes(&mut self) -> io::Result<Vec<(Ipv4Net, u32)>> {
        let mut all = RouteMessage::default();
        all.header.address_family = AddressFamily::Inet;
        let answers = self.dump(RouteNetlinkMessage::GetRoute(all))?;
        Ok(answers
            .into_iter()
            .filter_map(|answer| {
                let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
                if route.header.table != RouteHeader::RT_TABLE_MAIN {
                    return None;
                }
                let mut to = Ipv4Addr::UNSPECIFIED;
                let mut link = 0;
                for attribute in &route.attributes {
                    match attribute {
                        RouteAttribute::Destination(RouteAddress::Inet(address)) => to = *address,
                        RouteAttribute::Oif(index) => link = *index,
                        _ => {}
                    }
                }
                Some((Ipv4Net::new(to, route.header.destination_prefix_length).ok()?, link))
            })
            .collect())
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            for answer in self.receive(sequence)? {
                if let NetlinkPayload::Error(error) = answer.payload {
                    return if error.code.is_none() { Ok(()) } else { Err(error.to_io()) };
                }
            }
        }
    }

    /// A question with one answer.
    fn ask(&mut self, message: RouteNetlinkMessage) -> io::Result<RouteNetlinkMessage> {
        let sequence = self.send(message, NLM_F_REQUEST)?;
        loop {
            for answer in self.receive(sequence)? {
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => return Ok(message),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn dump(&mut self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut answers = Vec::new();
        loop {
            for answer in self.receive(sequence)? {
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }

    /// The messages of one datagram that answer `sequence`.
    fn receive(&self, sequence: u32) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut messages = Vec::new();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            // Lengths are rounded up to four bytes on the wire.
            let length = (message.header.length as usize).next_multiple_of(4).clamp(4, rest.len());
            rest = &rest[length..];
            if message.header.sequence_number == sequence {
                messages.push(message);
            }
        }
        Ok(messages)
    }
}

fn blackhole(net: Ipv4Net) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: net.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Static,
        scope: RouteScope::Universe,
        kind: RouteType::BlackHole,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(RouteAddress::Inet(net.network()))];
    message
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}
