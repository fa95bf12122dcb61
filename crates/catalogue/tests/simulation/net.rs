//! The simulated network and clocks: delays, cuts (one way too), reordered and duplicated events,
//! clocks that differ in origin and speed. One seed gives one course of the world.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub struct Chance(StdRng);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0.random_range(0..limit)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn micros(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.0.random_range(from..to))
    }

    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len() as u64) as usize]
    }
}

/// Events in the order of their time; equal times in the order of scheduling.
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, E>,
    next: u64,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), events: BTreeMap::new(), next: 0 }
    }
}

impl<E> Queue<E> {
    pub fn at(&mut self, time: Duration, event: E) {
        self.heap.push(Reverse((time, self.next)));
        self.events.insert(self.next, event);
        self.next += 1;
    }

    pub fn pop(&mut self) -> Option<(Duration, E)> {
        let Reverse((time, number)) = self.heap.pop()?;
        Some((time, self.events.remove(&number).expect("every number has its event")))
    }
}

/// A steady clock of one machine: its own origin, and up to 2% fast or slow.
#[derive(Clone, Copy)]
pub struct Clock {
    origin: Duration,
    speed_ppm: u64,
}

impl Clock {
    pub fn random(chance: &mut Chance) -> Self {
        Self { origin: chance.micros(0, 1_000_000_000), speed_ppm: 980_000 + chance.below(40_001) }
    }

    pub fn at(&self, world: Duration) -> Duration {
        self.origin + Duration::from_micros(world.as_micros() as u64 * self.speed_ppm / 1_000_000)
    }
}

/// Everybody's number in the network.
pub type Host = usize;

#[derive(Default)]
pub struct Links {
    cut: BTreeSet<(Host, Host)>,
    slow: BTreeMap<(Host, Host), Duration>,
    base_delay: BTreeMap<(Host, Host), Duration>,
}

impl Links {
    pub fn cut(&mut self, from: Host, to: Host) {
        self.cut.insert((from, to));
    }

    pub fn heal(&mut self, from: Host, to: Host) {
        self.cut.remove(&(from, to));
        self.slow.remove(&(from, to));
    }

    pub fn slow_down(&mut self, from: Host, to: Host, by: Duration) {
        self.slow.insert((from, to), by);
    }

    pub fn heal_all(&mut self) {
        self.cut.clear();
        self.slow.clear();
    }

    pub fn carries(&self, from: Host, to: Host) -> bool {
        !self.cut.contains(&(from, to))
    }

    pub fn delay(&mut self, from: Host, to: Host, chance: &mut Chance) -> Duration {
        let base = *self.base_delay.entry((from, to)).or_insert_with(|| chance.micros(500, 120_000));
        let extra = self.slow.get(&(from, to)).copied().unwrap_or_default();
        base + extra + chance.micros(0, 5_000)
    }
}
