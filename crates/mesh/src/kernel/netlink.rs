//! Two blocking netlink sockets, one for links and one for WireGuard: one request, one answer. Bound to
//! the network namespace of the thread that opened them, for ever.

use std::io;

use netlink_packet_generic::GenlMessage;
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkDeserializable, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use rtnetlink::sys::{Socket, SocketAddr};

/// A socket and the number of its last request.
struct Line {
    socket: Socket,
    sequence: u32,
}

impl Line {
    fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and collects its answers, until the one that ends them.
    fn exchange<M>(&mut self, message: impl Into<NetlinkMessage<M>>, flags: u16) -> io::Result<Vec<M>>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = message.into();
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<M>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
                // Messages begin at multiples of four bytes.
                let length = (answer.header.length as usize).next_multiple_of(4).max(16);
                rest = rest.get(length..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => answers.push(message),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

/// Links of kind wireguard.
pub struct Links(Line);

impl Links {
    pub fn open() -> io::Result<Self> {
        Line::open(NETLINK_ROUTE).map(Self)
    }

    /// Makes one, down.
    pub fn add(&mut self, name: &str, mtu: u16) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu.into()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
        ];
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub fn set_up(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    pub fn set_mtu(&mut self, name: &str, mtu: u16) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu.into())];
        self.request(RouteNetlinkMessage::SetLink(message), 0)
    }

    pub fn delete(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.request(RouteNetlinkMessage::DelLink(message), 0)
    }

    fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.0.exchange::<RouteNetlinkMessage>(message, NLM_F_ACK | flags).map(drop)
    }
}

/// The kernel's WireGuard.
pub struct WireGuard {
    line: Line,
    family: u16,
    link: String,
}

impl WireGuard {
    /// For a link that is there.
    pub fn open(link: &str) -> io::Result<Self> {
        let mut line = Line::open(NETLINK_GENERIC)?;
        let name = GenlCtrlAttrs::FamilyName("wireguard".to_owned());
        let question = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] });
        let answers = line.exchange::<GenlMessage<GenlCtrl>>(question, NLM_F_ACK)?;
        let family = answers.iter().flat_map(|answer| &answer.payload.nlas).find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        });
        let family = family.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no netlink family wireguard"))?;
        Ok(Self { line, family, link: link.to_owned() })
    }

    pub fn set(&mut self, attributes: Vec<WireguardAttribute>) -> io::Result<()> {
        self.exchange(WireguardCmd::SetDevice, attributes, NLM_F_ACK).map(drop)
    }

    /// All attributes of the link; a peer with many addresses is told in several pieces.
    pub fn get(&mut self) -> io::Result<Vec<WireguardAttribute>> {
        let answers = self.exchange(WireguardCmd::GetDevice, vec![], NLM_F_DUMP)?;
        Ok(answers.into_iter().flat_map(|answer| answer.payload.attributes).collect())
    }

    fn exchange(
        &mut self,
        cmd: WireguardCmd,
        more: Vec<WireguardAttribute>,
        flags: u16,
    ) -> io::Result<Vec<GenlMessage<WireguardMessage>>> {
        let mut attributes = vec![WireguardAttribute::IfName(self.link.clone())];
        attributes.extend(more);
        let mut message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
        message.set_resolved_family_id(self.family);
        self.line.exchange(message, flags)
    }
}
