//! Which prefixes may be pools, and which address of them comes next. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why a prefix is no pool.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum PoolRefused {
    #[error("{text:?} is no prefix: write an address, a slash and a length, such as 198.51.100.0/24")]
    Unreadable { text: String },
    #[error("{given} has bits set behind its length: {meant} is meant?")]
    HostBits { given: IpNet, meant: IpNet },
    #[error("{prefix} is or holds {what} addresses ({range}), which nobody reaches from outside")]
    NotPublic { prefix: IpNet, range: IpNet, what: &'static str },
    #[error("{prefix} and the pool {other} overlap")]
    Overlaps { prefix: IpNet, other: IpNet },
    #[error("shared addresses are entered everywhere: a pool of them has no host routes")]
    SharedHostRoutes,
}

const fn v4(first: u8, second: u8, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(first, second, 0, 0), length))
}

const fn v6(first: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length))
}

/// Ranges that no public pool touches. Those kept for documentation are not among them: worlds for trial
/// are made of them.
const NOT_PUBLIC: [(IpNet, &str); 13] = [
    (v4(0, 0, 8), "unspecified"),
    (v4(10, 0, 8), "private"),
    (v4(100, 64, 10), "carriers' private"),
    (v4(127, 0, 8), "loopback"),
    (v4(169, 254, 16), "link-local"),
    (v4(172, 16, 12), "private"),
    (v4(192, 168, 16), "private"),
    (v4(224, 0, 4), "multicast"),
    (v4(240, 0, 4), "reserved"),
    (v6(0, 8), "reserved"),
    (v6(0xfc00, 7), "private"),
    (v6(0xfe80, 10), "link-local"),
    (v6(0xff00, 8), "multicast"),
];

fn overlap(one: &IpNet, other: &IpNet) -> bool {
    one.contains(other) || other.contains(one)
}

/// Reads a prefix that shall become a pool beside the others.
pub(super) fn new_pool(text: &str, others: &[IpNet]) -> Result<IpNet, PoolRefused> {
    let prefix: IpNet =
        text.trim().parse().map_err(|_| PoolRefused::Unreadable { text: text.chars().take(64).collect() })?;
    if prefix.trunc() != prefix {
        return Err(PoolRefused::HostBits { given: prefix, meant: prefix.trunc() });
    }
    if let Some((range, what)) = NOT_PUBLIC.into_iter().find(|(range, _)| overlap(range, &prefix)) {
        return Err(PoolRefused::NotPublic { prefix, range, what });
    }
    if let Some(other) = others.iter().find(|other| overlap(other, &prefix)) {
        return Err(PoolRefused::Overlaps { prefix, other: *other });
    }
    Ok(prefix)
}

/// The addresses of a prefix that may be somebody's. The first, and in IPv4 the last, mean the network
/// itself to many a program, where there is a network at all.
fn usable(pool: &IpNet) -> (u128, u128) {
    let (first, last) = (bits(pool.network()), bits(pool.broadcast()));
    match (pool, pool.max_prefix_len() - pool.prefix_len()) {
        (_, 0 | 1) => (first, last),
        (IpNet::V4(_), _) => (first + 1, last - 1),
        (IpNet::V6(_), _) => (first + 1, last),
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(pool: &IpNet, bits: u128) -> IpAddr {
    match pool {
        // Of a range within 32 bits.
        IpNet::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// The lowest address of the first pool that has one which is not taken.
pub(super) fn lowest_free<'a>(pools: impl IntoIterator<Item = &'a IpNet>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    pools.into_iter().find_map(|pool| {
        let (first, last) = usable(pool);
        let mut next = first;
        for held in taken.range(address(pool, first)..=address(pool, last)) {
            if bits(*held) > next {
                break;
            }
            // Past the last address of all there is none.
            next = bits(*held).checked_add(1)?;
        }
        (next <= last).then(|| address(pool, next))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_no_pool_is_refused_by_its_reason() {
        let others = [net("198.51.100.0/24"), net("2001:db8::/48")];
        assert_eq!(new_pool("203.0.113.0/25", &others), Ok(net("203.0.113.0/25")));
        assert_eq!(new_pool("2001:db8:1::/64", &others), Ok(net("2001:db8:1::/64")));
        for (text, said) in [
            ("198.51.100.7", "is no prefix"),
            ("", "is no prefix"),
            ("203.0.113.7/24", "203.0.113.0/24 is meant?"),
            ("10.1.0.0/16", "private"),
            ("fdaa::/16", "private"),
            ("0.0.0.0/0", "unspecified"),
            ("::/0", "reserved"),
            ("127.0.0.1/32", "loopback"),
            ("198.51.100.128/25", "overlap"),
            ("198.51.0.0/16", "overlap"),
            ("2001:db8::/32", "overlap"),
        ] {
            let refused = new_pool(text, &others).unwrap_err().to_string();
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }

    #[test]
    fn addresses_are_given_from_the_lowest_on() {
        let mut taken = BTreeSet::new();
        let mut give = |pool: &str| {
            let found = lowest_free([&net(pool)], &taken);
            taken.extend(found);
            found.map(|address| address.to_string())
        };
        assert_eq!([give("192.0.2.0/30"), give("192.0.2.0/30")], [Some("192.0.2.1".into()), Some("192.0.2.2".into())]);
        assert_eq!(give("192.0.2.0/30"), None);
        assert_eq!([give("192.0.2.8/32"), give("192.0.2.8/32")], [Some("192.0.2.8".into()), None]);
        assert_eq!([give("192.0.2.10/31"), give("192.0.2.10/31")].map(|given| given.is_some()), [true, true]);
        assert_eq!(give("2001:db8::/64"), Some("2001:db8::1".into()));
    }

    fn pools() -> impl Strategy<Value = Vec<IpNet>> {
        let v4 = (any::<u32>(), 26u8..=32)
            .prop_map(|(bits, length)| IpNet::from(Ipv4Net::new(Ipv4Addr::from_bits(bits), length).unwrap()).trunc());
        let v6 = (any::<u128>(), 122u8..=128)
            .prop_map(|(bits, length)| IpNet::from(Ipv6Net::new(Ipv6Addr::from_bits(bits), length).unwrap()).trunc());
        prop::collection::vec(prop_oneof![v4, v6], 0..4)
    }

    proptest! {
        #[test]
        fn every_usable_address_is_given_once(pools in pools()) {
            let mut taken = BTreeSet::new();
            while let Some(address) = lowest_free(&pools, &taken) {
                prop_assert!(pools.iter().any(|pool| pool.contains(&address)), "{address} is of no pool");
                prop_assert!(taken.insert(address), "{address} was given twice");
                prop_assert!(taken.len() <= 4 * 64);
            }
            let all: BTreeSet<IpAddr> = pools
                .iter()
                .flat_map(|pool| {
                    let (first, last) = usable(pool);
                    (first..=last).map(|bits| address(pool, bits))
                })
                .collect();
            prop_assert_eq!(taken, all);
        }

        #[test]
        fn what_was_given_back_is_given_again_first(
            given in 1usize..60,
            back in prop::collection::btree_set(0usize..60, 1..10),
        ) {
            let pool = [net("192.0.2.0/26")];
            let mut taken = BTreeSet::new();
            for _ in 0..given {
                taken.extend(lowest_free(&pool, &taken));
            }
            let returned: Vec<IpAddr> = back.iter().filter_map(|n| taken.iter().nth(*n).copied()).collect();
            taken.retain(|address| !returned.contains(address));
            let lowest = returned.iter().min().copied();
            if lowest.is_some() {
                prop_assert_eq!(lowest_free(&pool, &taken), lowest);
            }
        }
    }
}
