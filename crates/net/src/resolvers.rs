//! Whom this host asks for names that are not private.

use std::net::{IpAddr, SocketAddr};

use atoll_model::address::MACHINE_DNS;

/// The most that the C library asks, too.
const MAX: usize = 3;

/// The name servers of a `resolv.conf`.
pub fn of(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let address: IpAddr = words.next().filter(|word| *word == "nameserver").and(words.next())?.parse().ok()?;
        // Ours asks these: it must not ask itself.
        (address != IpAddr::V6(MACHINE_DNS)).then(|| SocketAddr::new(address, 53))
    };
    text.lines().filter_map(server).take(MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_taken_in_their_order_and_ours_is_none() {
        let text = "# made by hand\nsearch example.org\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # second\n\
                    nameserver fdaa::3\nnameserver nonsense\nnameserver\nnameserver 127.0.0.53\nnameserver 192.0.2.4\n";
        let found: Vec<_> = of(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "127.0.0.53:53"]);
        assert!(of("").is_empty());
    }
}
