//! Paths between hosts: what one ordered pair does to packets, and the whole matrix with its faults.
//! Pure; the relay carries out what [`Paths::effective`] says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::address::Port;

/// What the network does to frames from one host to another.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Path {
    /// One-way delay.
    pub delay: Duration,
    /// Delay varies uniformly by up to this much either way; order is kept.
    #[serde(default)]
    pub jitter: Duration,
    /// Chance of losing a frame, 0 to 1. A train of segments handed over whole counts as one frame.
    #[serde(default)]
    pub loss: f64,
    /// Bits a second; none is unlimited.
    #[serde(default)]
    pub rate: Option<u64>,
}

impl Path {
    /// A path that only delays.
    pub fn delayed(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }
}

/// A disturbance of one ordered pair, on top of its path.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct Fault {
    cut: bool,
    slower: Duration,
    loss: Option<f64>,
}

/// Every ordered pair's path and fault. Pairs without a path are not connected.
#[derive(Debug, Clone)]
pub struct Paths {
    hosts: usize,
    base: Vec<Option<Path>>,
    faults: Vec<Fault>,
}

impl Paths {
    /// A world of `hosts` hosts in which nobody reaches anybody yet.
    pub fn unconnected(hosts: usize) -> Self {
        Self { hosts, base: vec![None; hosts * hosts], faults: vec![Fault::default(); hosts * hosts] }
    }

    fn index(&self, from: Port, to: Port) -> usize {
        from.0 * self.hosts + to.0
    }

    /// What really happens to frames of this pair now; none if they do not arrive.
    pub fn effective(&self, from: Port, to: Port) -> Option<Path> {
        if from == to {
            return None;
        }
        let index = self.index(from, to);
        let (base, fault) = (self.base[index]?, self.faults[index]);
        (!fault.cut).then(|| Path { delay: base.delay + fault.slower, loss: fault.loss.unwrap_or(base.loss), ..base })
    }

    /// Sets the path below any fault.
    pub fn set(&mut self, from: Port, to: Port, path: Option<Path>) {
        let index = self.index(from, to);
        self.base[index] = path;
    }

    /// Nothing passes from here to there until healed.
    pub fn cut(&mut self, from: Port, to: Port) {
        let index = self.index(from, to);
        self.faults[index].cut = true;
    }

    /// Adds to the path's own delay until healed; replaces an earlier addition.
    pub fn slow(&mut self, from: Port, to: Port, slower: Duration) {
        let index = self.index(from, to);
        self.faults[index].slower = slower;
    }

    /// Overrides the path's own loss until healed.
    pub fn lose(&mut self, from: Port, to: Port, loss: f64) {
        let index = self.index(from, to);
        self.faults[index].loss = Some(loss);
    }

    /// Ends every fault of the pair.
    pub fn heal(&mut self, from: Port, to: Port) {
        let index = self.index(from, to);
        self.faults[index] = Fault::default();
    }

    /// There and back, if both ways work.
    pub fn round_trip(&self, a: Port, b: Port) -> Option<Duration> {
        Some(self.effective(a, b)?.delay + self.effective(b, a)?.delay)
    }

    /// All ordered pairs of different hosts.
    pub fn pairs(&self) -> impl Iterator<Item = (Port, Port)> + use<> {
        let hosts = self.hosts;
        (0..hosts).flat_map(move |from| (0..hosts).filter(move |to| *to != from).map(move |to| (Port(from), Port(to))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Port = Port(0);
    const B: Port = Port(1);

    fn two_hosts() -> Paths {
        let mut paths = Paths::unconnected(2);
        for (from, to) in paths.pairs() {
            paths.set(from, to, Some(Path::delayed(Duration::from_millis(10))));
        }
        paths
    }

    #[test]
    fn a_cut_may_be_one_way_and_heals() {
        let mut paths = two_hosts();
        paths.cut(A, B);
        assert_eq!(paths.effective(A, B), None);
        assert!(paths.effective(B, A).is_some());
        assert_eq!(paths.round_trip(B, A), None);
        paths.heal(A, B);
        assert_eq!(paths.round_trip(A, B), Some(Duration::from_millis(20)));
    }

    #[test]
    fn slowness_and_loss_lie_over_the_path() {
        let mut paths = two_hosts();
        paths.slow(A, B, Duration::from_millis(150));
        paths.lose(A, B, 0.25);
        let path = paths.effective(A, B).unwrap();
        assert_eq!((path.delay, path.loss), (Duration::from_millis(160), 0.25));
        paths.set(A, B, Some(Path::delayed(Duration::from_millis(1))));
        assert_eq!(paths.effective(A, B).unwrap().delay, Duration::from_millis(151));
    }

    #[test]
    fn nobody_reaches_itself_through_the_network() {
        assert_eq!(two_hosts().effective(A, A), None);
        assert_eq!(Paths::unconnected(3).pairs().count(), 6);
    }
}
