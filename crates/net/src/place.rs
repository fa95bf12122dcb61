//! Names and numbers of a server's part in the mesh.

use std::net::Ipv6Addr;

use serde::{Deserialize, Serialize};

use atoll_mesh::PublicKey;
use atoll_model::address::node_address;

/// Tables below this belong to the kernel and to whoever numbers them by hand.
const FIRST_TABLE: u32 = 256;

/// What the parts of a server that deal with private addresses agree on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The mesh's interface.
    pub link: String,
    /// This server's address in the mesh. It is the loopback's, so that it outlives the link; machines'
    /// questions to their DNS server are led there.
    pub address: Ipv6Addr,
    /// On machines' packets to private addresses, and the number of the table that routes them: several
    /// servers on one host do not share routes.
    pub mark: u32,
    /// UDP; 0: whichever is free.
    pub port: u16,
    /// The interface of users' devices.
    pub devices: String,
    /// UDP, as `port`.
    pub devices_port: u16,
    /// Names every kernel object of this server.
    pub instance: u32,
}

impl Place {
    /// `instance` names every kernel object of this server.
    pub fn new(instance: u32, public_key: PublicKey, port: u16, devices_port: u16) -> Self {
        let mark = if instance < FIRST_TABLE { instance + FIRST_TABLE } else { instance };
        Self {
            link: format!("atm{instance:08x}"),
            address: node_address(&public_key.0),
            mark,
            port,
            devices: format!("atu{instance:08x}"),
            devices_port,
            instance,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_instance_gets_a_table_of_the_kernels() {
        let place = |instance| Place::new(instance, PublicKey([1; 32]), 51820, 51821);
        assert_eq!(place(0x1a2b_3c4d).link, "atm1a2b3c4d");
        assert!(place(0).mark >= FIRST_TABLE && place(254).mark >= FIRST_TABLE);
        assert!(place(u32::MAX).link.len() < 16 && place(u32::MAX).devices.len() < 16);
    }
}
