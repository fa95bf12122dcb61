//! Which peer owns an address: the longest of all prefixes that hold it decides. Read for every packet by
//! every thread, and changed a thousand times a second meanwhile: readers take no lock, a change copies a
//! thousandth of the table.
//!
//! Nearly all prefixes are whole addresses of machines. So this is no trie but a table of (length,
//! prefix), asked once per length that occurs, longest first: for a machine that is one look.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use arc_swap::ArcSwap;
use ipnet::IpNet;

/// Parts that are copied one by one. At 100,000 addresses one has a hundred, 2.4 KB.
const SHARDS: usize = 1 << 10;

/// One step of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<T> {
    /// The prefix is this owner's from now on.
    Assign(IpNet, T),
    /// The prefix is nobody's, if it was this owner's.
    Release(IpNet, T),
}

/// Prefixes and their owners.
pub struct AddressTable<T> {
    v4: PrefixTable<T>,
    v6: PrefixTable<T>,
    /// One change at a time. Readers never wait for it.
    changing: Mutex<()>,
}

impl<T: Copy + Eq> Default for AddressTable<T> {
    fn default() -> Self {
        Self { v4: PrefixTable::default(), v6: PrefixTable::default(), changing: Mutex::new(()) }
    }
}

impl<T: Copy + Eq> AddressTable<T> {
    pub fn owner(&self, address: IpAddr) -> Option<T> {
        let (table, bits) = match address {
            IpAddr::V4(address) => (&self.v4, u128::from(address.to_bits()) << 96),
            IpAddr::V6(address) => (&self.v6, address.to_bits()),
        };
        table.owner(bits)
    }

    /// Performs the steps in order. Each shard changes at once, the table as a whole does not.
    pub fn change(&self, steps: &[Step<T>]) {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        for (table, family) in [(&self.v4, true), (&self.v6, false)] {
            let of_family = |step: &&Step<T>| matches!(prefix(step), IpNet::V4(_)) == family;
            table.change(steps.iter().filter(of_family).map(Change::of).collect());
        }
    }

    /// What this owner has, in no order.
    pub fn of(&self, owner: T) -> Vec<IpNet> {
        let v4 = self.v4.of(owner).filter_map(|(bits, length)| {
            let address = IpAddr::from(std::net::Ipv4Addr::from_bits((bits >> 96) as u32));
            IpNet::new(address, length).ok()
        });
        let v6 = self
            .v6
            .of(owner)
            .filter_map(|(bits, length)| IpNet::new(IpAddr::from(std::net::Ipv6Addr::from_bits(bits)), length).ok());
        v4.chain(v6).collect()
    }

    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn prefix<T>(step: &Step<T>) -> IpNet {
    let (Step::Assign(prefix, _) | Step::Release(prefix, _)) = step;
    *prefix
}

/// The high bits of an address, as many as `length` says; the others are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    high: u64,
    low: u64,
    length: u8,
}

impl Key {
    fn new(bits: u128, length: u8) -> Self {
        let bits = bits & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
        Self { high: (bits >> 64) as u64, low: bits as u64, length }
    }

    fn bits(self) -> u128 {
        u128::from(self.high) << 64 | u128::from(self.low)
    }
}

struct Change<T> {
    key: Key,
    owner: T,
    assign: bool,
}

impl<T: Copy> Change<T> {
    fn of(step: &Step<T>) -> Self {
        let (Step::Assign(_, owner) | Step::Release(_, owner)) = *step;
        let key = match prefix(step) {
            IpNet::V4(net) => Key::new(u128::from(net.addr().to_bits()) << 96, net.prefix_len()),
            IpNet::V6(net) => Key::new(net.addr().to_bits(), net.prefix_len()),
        };
        Self { key, owner, assign: matches!(step, Step::Assign(..)) }
    }
}

/// How many prefixes there are of each length.
type Lengths = [u32; 129];

/// One family's prefixes.
struct PrefixTable<T> {
    /// Sorted by key.
    shards: Vec<ArcSwap<Vec<(Key, T)>>>,
    /// Those that occur, longest first. May name one that no longer does, never lacks one that does.
    lengths: ArcSwap<Vec<u8>>,
    counts: Mutex<Lengths>,
    /// Addresses are chosen by others; a keyed hash keeps them from filling one shard.
    hasher: RandomState,
}

impl<T> Default for PrefixTable<T> {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| ArcSwap::default()).collect(),
            lengths: ArcSwap::default(),
            counts: Mutex::new([0; 129]),
            hasher: RandomState::new(),
        }
    }
}

impl<T: Copy + Eq> PrefixTable<T> {
    fn shard(&self, key: Key) -> usize {
        self.hasher.hash_one(key) as usize % SHARDS
    }

    fn owner(&self, bits: u128) -> Option<T> {
        self.lengths.load().iter().find_map(|length| {
            let key = Key::new(bits, *length);
            let shard = self.shards[self.shard(key)].load();
            shard.binary_search_by_key(&key, |(key, _)| *key).ok().map(|position| shard[position].1)
        })
    }

    fn change(&self, changes: Vec<Change<T>>) {
        if changes.is_empty() {
            return;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut by_shard: Vec<_> = changes.into_iter().map(|change| (self.shard(change.key), change)).collect();
        // Before a prefix can be found its length must be known.
        let mut lengths = *counts;
        for (_, change) in by_shard.iter().filter(|(_, change)| change.assign) {
            lengths[usize::from(change.key.length)] += 1;
        }
        self.publish(&lengths);
        // A stable sort: steps about one prefix stay in order.
        by_shard.sort_by_key(|(shard, _)| *shard);
        for steps in by_shard.chunk_by(|(a, _), (b, _)| a == b) {
            let shard = &self.shards[steps[0].0];
            let mut entries = shard.load().to_vec();
            for (_, change) in steps {
                perform(&mut entries, change, &mut counts);
            }
            entries.shrink_to_fit();
            shard.store(entries.into());
        }
        self.publish(&counts);
    }

    fn publish(&self, counts: &Lengths) {
        let lengths: Vec<u8> = (0..=128).rev().filter(|length| counts[usize::from(*length)] > 0).collect();
        if **self.lengths.load() != lengths {
            self.lengths.store(lengths.into());
        }
    }

    fn of(&self, owner: T) -> impl Iterator<Item = (u128, u8)> {
        self.shards.iter().flat_map(move |shard| {
            let shard = shard.load();
            let own: Vec<_> = shard.iter().filter(|(_, other)| *other == owner).collect();
            own.into_iter().map(|(key, _)| (key.bits(), key.length)).collect::<Vec<_>>()
        })
    }

    fn len(&self) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|count| *count as usize).sum()
    }
}

fn perform<T: Copy + Eq>(entries: &mut Vec<(Key, T)>, change: &Change<T>, counts: &mut Lengths) {
    let count = &mut counts[usize::from(change.key.length)];
    match (entries.binary_search_by_key(&change.key, |(key, _)| *key), change.assign) {
        (Ok(position), true) => entries[position].1 = change.owner,
        (Err(position), true) => {
            entries.insert(position, (change.key, change.owner));
            *count += 1;
        }
        (Ok(position), false) if entries[position].1 == change.owner => {
            entries.remove(position);
            *count -= 1;
        }
        (_, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let table = AddressTable::default();
        table.change(&[
            Step::Assign(net("::/0"), 1),
            Step::Assign(net("fdaa:0:1::/48"), 2),
            Step::Assign(net("fdaa:0:1::7/128"), 3),
            Step::Assign(net("10.0.0.0/8"), 4),
        ]);
        assert_eq!(table.owner(ip("fdaa:0:1::7")), Some(3));
        assert_eq!(table.owner(ip("fdaa:0:1::8")), Some(2));
        assert_eq!(table.owner(ip("2001:db8::1")), Some(1));
        assert_eq!(table.owner(ip("10.255.0.1")), Some(4));
        assert_eq!(table.owner(ip("11.0.0.1")), None, "the families do not mix");
    }

    #[test]
    fn an_address_that_has_moved_on_is_not_taken_away_by_its_old_owner() {
        let table = AddressTable::default();
        table.change(&[Step::Assign(net("fdaa::1/128"), 1)]);
        table.change(&[Step::Assign(net("fdaa::1/128"), 2)]);
        table.change(&[Step::Release(net("fdaa::1/128"), 1)]);
        assert_eq!(table.owner(ip("fdaa::1")), Some(2));
        table.change(&[Step::Release(net("fdaa::1/128"), 2)]);
        assert_eq!((table.owner(ip("fdaa::1")), table.len()), (None, 0));
    }

    #[test]
    fn a_reader_never_misses_an_address_while_others_change() {
        let table = AddressTable::default();
        table.change(&[Step::Assign(net("fdaa::1/128"), 1)]);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| (0..200_000).all(|_| table.owner(ip("fdaa::1")) == Some(1)));
            for number in 0..2_000_u32 {
                let other =
                    IpNet::new(IpAddr::from(std::net::Ipv6Addr::from_bits(u128::from(number) + 2)), 128).unwrap();
                table.change(&[Step::Assign(other, 2)]);
                table.change(&[Step::Release(other, 2)]);
            }
            assert!(reading.join().unwrap());
        });
    }

    /// The table as the simplest thing that could be right.
    #[derive(Default)]
    struct Model(HashMap<IpNet, u8>);

    impl Model {
        fn perform(&mut self, step: Step<u8>) {
            match step {
                Step::Assign(prefix, owner) => {
                    self.0.insert(prefix.trunc(), owner);
                }
                Step::Release(prefix, owner) => {
                    if self.0.get(&prefix.trunc()) == Some(&owner) {
                        self.0.remove(&prefix.trunc());
                    }
                }
            }
        }

        fn owner(&self, address: IpAddr) -> Option<u8> {
            let holds = self.0.iter().filter(|(prefix, _)| prefix.contains(&address));
            holds.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, owner)| *owner)
        }
    }

    /// Few different bits, so that prefixes hold each other.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0..4_u32, 0..4_u32).prop_map(|(high, low)| IpAddr::from(std::net::Ipv4Addr::from_bits(high << 30 | low))),
            (0..4_u128, 0..4_u128)
                .prop_map(|(high, low)| IpAddr::from(std::net::Ipv6Addr::from_bits(high << 126 | low))),
        ]
    }

    fn step() -> impl Strategy<Value = Step<u8>> {
        let lengths = proptest::sample::select(vec![0_u8, 1, 2, 31, 32, 64, 127, 128]);
        (address(), lengths, 0..3_u8, any::<bool>()).prop_map(|(address, length, owner, assign)| {
            let length = if address.is_ipv4() { length.min(32) } else { length };
            let prefix = IpNet::new(address, length).unwrap();
            if assign { Step::Assign(prefix, owner) } else { Step::Release(prefix, owner) }
        })
    }

    proptest! {
        #[test]
        fn it_answers_as_the_simplest_table_does(
            batches in proptest::collection::vec(proptest::collection::vec(step(), 0..8), 0..12),
            asked in proptest::collection::vec(address(), 20),
        ) {
            let table = AddressTable::default();
            let mut model = Model::default();
            for batch in batches {
                table.change(&batch);
                batch.into_iter().for_each(|step| model.perform(step));
                for address in &asked {
                    prop_assert_eq!(table.owner(*address), model.owner(*address));
                }
                prop_assert_eq!(table.len(), model.0.len());
                for owner in 0..3 {
                    let mut own: Vec<_> = model.0.iter().filter(|(_, other)| **other == owner).map(|(net, _)| *net).collect();
                    let mut told = table.of(owner);
                    own.sort();
                    told.sort();
                    prop_assert_eq!(told, own);
                }
            }
        }
    }
}
