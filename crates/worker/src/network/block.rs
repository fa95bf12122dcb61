//! The node's private IPv4 block: which one, and the addresses in it. Pure.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// A block with its gateway: the first address, that every machine routes through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    net: Ipv4Net,
}

/// Network address and gateway come before the first slot.
const RESERVED: u32 = 2;

impl Block {
    /// `None` when the block has no room for machines.
    pub fn new(net: Ipv4Net) -> Option<Self> {
        (net.prefix_len() <= 29).then_some(Self { net: net.trunc() })
    }

    pub fn net(self) -> Ipv4Net {
        self.net
    }

    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.net.network().to_bits() + 1)
    }

    /// How many machines have an address.
    pub fn capacity(self) -> u32 {
        // The last address is the broadcast address.
        (1u32 << (32 - u32::from(self.net.prefix_len()))) - RESERVED - 1
    }

    /// The address of a slot below [`Self::capacity`]; others get the last one.
    pub fn address(self, slot: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.net.network().to_bits() + RESERVED + slot.min(self.capacity() - 1))
    }
}

/// A /16 that overlaps no `taken` route. Different instances begin at different places, so that two
/// that start at the same moment rarely want the same.
pub fn choose(taken: &[Ipv4Net], instance: u32) -> Option<Block> {
    let candidates: Vec<Ipv4Net> = (0..=255u8)
        .map(|second| (10, second))
        .chain((16..32).map(|second| (172, second)))
        .chain((64..128).map(|second| (100, second)))
        .filter_map(|(first, second)| Ipv4Net::new(Ipv4Addr::new(first, second, 0, 0), 16).ok())
        .collect();
    let offset = instance as usize % candidates.len();
    candidates
        .iter()
        .cycle()
        .skip(offset)
        .take(candidates.len())
        .find(|candidate| taken.iter().all(|route| !overlap(route, candidate)))
        .and_then(|net| Block::new(*net))
}

/// Whether two blocks share addresses. A default route shares none that anybody uses.
pub fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.prefix_len() > 0 && b.prefix_len() > 0 && (a.contains(&b.network()) || b.contains(&a.network()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_begin_behind_the_gateway() {
        let block = Block::new(net("10.7.0.0/16")).unwrap();
        assert_eq!(block.gateway(), Ipv4Addr::new(10, 7, 0, 1));
        assert_eq!(block.address(0), Ipv4Addr::new(10, 7, 0, 2));
        assert_eq!(block.address(block.capacity() - 1), Ipv4Addr::new(10, 7, 255, 254));
        assert!(Block::new(net("10.7.0.0/30")).is_none());
    }

    #[test]
    fn a_full_private_range_leaves_the_others() {
        let chosen = choose(&[net("10.0.0.0/8"), net("172.16.0.0/12"), net("0.0.0.0/0")], 0).unwrap();
        assert!(net("100.64.0.0/10").contains(&chosen.net()));
        assert!(choose(&[net("10.0.0.0/8"), net("172.16.0.0/12"), net("100.64.0.0/10")], 5).is_none());
    }

    proptest! {
        #[test]
        fn the_chosen_block_overlaps_nothing(
            routes in prop::collection::vec((any::<u32>(), 1u8..=32), 0..40),
            instance in any::<u32>(),
        ) {
            let taken: Vec<_> = routes
                .into_iter()
                .map(|(bits, length)| Ipv4Net::new(Ipv4Addr::from_bits(bits), length).unwrap().trunc())
                .collect();
            if let Some(block) = choose(&taken, instance) {
                prop_assert!(taken.iter().all(|route| !overlap(route, &block.net())));
            }
        }
    }
}
