//! The PROXY protocol: a line (or a binary header) before a connection's first byte that tells the
//! machine who the client is.

use std::net::{IpAddr, SocketAddr};

use atoll_model::service::Port;

use super::request::Entrance;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command "proxy".
const V2_PROXY: u8 = 0x21;
const V2_TCP_OVER_IPV4: u8 = 0x11;
const V2_TCP_OVER_IPV6: u8 = 0x21;

/// The header in the version that the port asks for.
pub(super) fn header(port: &Port, entrance: &Entrance) -> Vec<u8> {
    let version = port.proxy_proto_options.as_ref().and_then(|options| options.version.as_deref());
    match version {
        Some("v2") => version_2(entrance.peer, entrance.local),
        _ => version_1(entrance.peer, entrance.local),
    }
}

fn version_1(client: SocketAddr, entered: SocketAddr) -> Vec<u8> {
    let (from, to) = (client.ip(), entered.ip());
    let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), entered.port()).into_bytes()
}

fn version_2(client: SocketAddr, entered: SocketAddr) -> Vec<u8> {
    let mut addresses = Vec::with_capacity(36);
    for address in [client.ip(), entered.ip()] {
        match address {
            IpAddr::V4(address) => addresses.extend(address.octets()),
            IpAddr::V6(address) => addresses.extend(address.octets()),
        }
    }
    for port in [client.port(), entered.port()] {
        addresses.extend(port.to_be_bytes());
    }
    let family = if client.is_ipv4() { V2_TCP_OVER_IPV4 } else { V2_TCP_OVER_IPV6 };
    let mut header = Vec::with_capacity(16 + addresses.len());
    header.extend(V2_SIGNATURE);
    header.extend([V2_PROXY, family, 0]);
    // At most 36.
    header.push(addresses.len() as u8);
    header.extend(addresses);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_follow_the_specification() {
        let client = "203.0.113.9:51000".parse().unwrap();
        let entered = "198.51.100.1:5432".parse().unwrap();
        assert_eq!(version_1(client, entered), b"PROXY TCP4 203.0.113.9 198.51.100.1 51000 5432\r\n");
        let expected =
            [&V2_SIGNATURE[..], &[0x21, 0x11, 0, 12, 203, 0, 113, 9, 198, 51, 100, 1, 0xc7, 0x38, 0x15, 0x38]].concat();
        assert_eq!(version_2(client, entered), expected);
        let six = version_2("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:2".parse().unwrap());
        assert_eq!((six.len(), six[13], six[15]), (16 + 36, 0x21, 36));
    }
}
