//! One machine's namespace and veth pair: names, addresses, routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use atoll_model::MachineId;
use atoll_model::address::NetworkId;

use super::block::Block;
use super::failed;
use super::namespace::{self, Pool};
use super::netlink::{Mac, Netlink, Pair, Route};
use crate::seams::{NetworkError, NetworkPlan};

/// Interfaces of machines of whatever instance begin with this.
pub const ANY_INSTANCE: &str = "atl";
/// Mesh interfaces of whatever instance begin with this.
pub const ANY_MESH: &str = "atm";
/// Interfaces of users' devices of whatever instance begin with this.
pub const ANY_DEVICES: &str = "atu";
/// Slots that a name has room for: four hexadecimal digits.
pub const MAX_SLOTS: u32 = 1 << 16;
/// The machine's interface, in its own namespace, which has the loopback as the first.
const FAR_NAME: &str = "eth0";
const FAR_INDEX: u32 = 2;
/// The host's end, as machines see it.
const HOST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

const ALL_V4: IpNet = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
const ALL_V6: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0));
/// All 6PN addresses.
const PRIVATE: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfdaa, 0, 0, 0, 0, 0, 0, 0), 16));
/// Nobody's in particular: where a host reaches this, it reaches the internet.
const SOMEWHERE: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);

/// Names of this instance's kernel objects.
#[derive(Clone, Copy, Debug)]
pub struct Names {
    pub instance: u32,
}

impl Names {
    /// `atoll-<8 hex>`
    pub fn prefix(self) -> String {
        format!("atoll-{:08x}", self.instance)
    }

    pub fn namespace(self, machine: MachineId) -> String {
        format!("{}-{machine}", self.prefix())
    }

    pub fn link_prefix(self) -> String {
        format!("{ANY_INSTANCE}{:08x}", self.instance)
    }

    pub fn link(self, slot: u32) -> String {
        format!("{}{:04x}", self.link_prefix(), slot % MAX_SLOTS)
    }
}

/// The interface group of a private network. Group 0 is where all other interfaces are.
pub fn group(network: NetworkId) -> u32 {
    match network.0 {
        0 => u32::MAX,
        id => id,
    }
}

/// Locally administered addresses; a pair is alone on its wire, so they need only differ there.
fn macs(slot: u32) -> (Mac, Mac) {
    let [_, _, high, low] = slot.to_be_bytes();
    ([0x02, 0x61, 0x74, high, low, 0x01], [0x02, 0x61, 0x74, high, low, 0x02])
}

/// What one run has.
pub struct Attached {
    pub namespace: PathBuf,
    /// The interface's index on the host, which no other run gets.
    pub index: u32,
}

/// Makes everything of one run anew.
pub fn attach(names: Names, block: Block, pool: &Pool, plan: &NetworkPlan) -> Result<Attached, NetworkError> {
    let link = names.link(plan.slot);
    let name = names.namespace(plan.machine);
    if namespace::path(&name).exists() {
        detach(names, plan)?;
    }
    let mut namespace = pool.take().map_err(failed("make a network namespace"))?;
    let mut host = Netlink::open().map_err(failed("talk to the kernel about networks"))?;
    let (host_mac, machine_mac) = macs(plan.slot);
    let pair = Pair {
        name: &link,
        mac: host_mac,
        group: group(plan.network),
        far_name: FAR_NAME,
        far_index: FAR_INDEX,
        far_mac: machine_mac,
        far_namespace: namespace.file.as_fd(),
    };
    match host.add_pair(&pair) {
        // Left by an agent that died before it named the namespace.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            host.delete_link(&link).and_then(|()| host.add_pair(&pair))
        }
        result => result,
    }
    .map_err(failed(format!("make the interface {link}")))?;
    let made = configure(&mut host, &mut namespace.netlink, names, block, plan)
        .map_err(failed(format!("configure the interface {link}")))
        .and_then(|index| {
            let namespace = namespace::name(&namespace, &name).map_err(failed(format!("name the namespace {name}")))?;
            Ok(Attached { namespace, index })
        });
    if made.is_err() {
        // Nothing half made stays; should this fail too, the next attach finds it by its name.
        let _ = detach(names, plan);
    }
    made
}

fn configure(
    host: &mut Netlink,
    machine: &mut Netlink,
    names: Names,
    block: Block,
    plan: &NetworkPlan,
) -> std::io::Result<u32> {
    let index = index(&names.link(plan.slot))?;
    let (host_mac, machine_mac) = macs(plan.slot);
    let ipv4 = IpAddr::V4(block.address(plan.slot));
    let ipv6 = IpAddr::V6(plan.ipv6);
    let gateway = IpAddr::V4(block.gateway());
    let link_local = IpAddr::V6(HOST_LINK_LOCAL);

    // The far end first: the near one then comes up with its carrier and is usable at once.
    machine.set_up(FAR_INDEX)?;
    host.set_alias(index, &names.namespace(plan.machine))?;
    host.set_up(index)?;
    host.add_address(index, gateway, 32)?;
    host.add_address(index, link_local, 64)?;
    host.add_neighbour(index, ipv4, machine_mac)?;
    host.add_neighbour(index, ipv6, machine_mac)?;
    host.add_route(&Route { to: ipv4.into(), via: None, link: index, source: Some(gateway) })?;
    host.add_route(&Route { to: ipv6.into(), via: None, link: index, source: None })?;

    machine.add_address(FAR_INDEX, ipv4, 32)?;
    machine.add_address(FAR_INDEX, ipv6, 128)?;
    machine.add_neighbour(FAR_INDEX, gateway, host_mac)?;
    machine.add_neighbour(FAR_INDEX, link_local, host_mac)?;
    machine.add_route(&Route { to: gateway.into(), via: None, link: FAR_INDEX, source: Some(ipv4) })?;
    machine.add_route(&Route { to: ALL_V4, via: Some(gateway), link: FAR_INDEX, source: Some(ipv4) })?;
    // Not where the host has no way on: it would say so while connect() is still at work and does not listen,
    // and the machine would wait a second before it tried IPv4.
    let ipv6_reach = if host.leads_on(SOMEWHERE) { ALL_V6 } else { PRIVATE };
    machine.add_route(&Route { to: ipv6_reach, via: Some(link_local), link: FAR_INDEX, source: Some(ipv6) })?;
    machine.settle(FAR_INDEX)?;
    host.settle(index)?;
    machine.await_address(FAR_INDEX, plan.ipv6)?;
    host.await_address(index, HOST_LINK_LOCAL)?;
    Ok(index)
}

/// The index of an interface of the host.
pub fn index(name: &str) -> std::io::Result<u32> {
    Ok(rustix::net::netdevice::name_to_index(host_socket()?, name)?)
}

fn host_socket() -> std::io::Result<std::os::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// Removes everything of one run; no error if nothing is there.
pub fn detach(names: Names, plan: &NetworkPlan) -> Result<(), NetworkError> {
    let link = names.link(plan.slot);
    let name = names.namespace(plan.machine);
    namespace::unname(&name).map_err(failed(format!("remove the namespace {name}")))?;
    Netlink::open()
        .and_then(|mut netlink| netlink.delete_link(&link))
        .map_err(failed(format!("remove the interface {link}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_the_kernels_limit() {
        let names = Names { instance: 0x1a2b_3c4d };
        assert_eq!(names.link(0xbeef), "atl1a2b3c4dbeef");
        assert_eq!(names.link(0xbeef).len(), 15);
        assert_eq!(names.namespace(MachineId::from_random(10)), "atoll-1a2b3c4d-0000000000000a");
    }

    #[test]
    fn no_network_shares_the_default_group() {
        assert_ne!(group(NetworkId(0)), 0);
        assert_eq!(group(NetworkId(7)), 7);
    }
}
