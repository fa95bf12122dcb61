//! The switch: which frames go where and when. Pure; the loop around it owns sockets and the clock.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use super::chance::Chance;
use super::line::{Line, Verdict};
use super::wire::Counters;
use crate::address::{Destination, Port, destination};
use crate::path::Path;

/// A frame with what the kernel put in front of it.
pub type Frame = Rc<[u8]>;

#[derive(Debug)]
struct Flight {
    from: Port,
    to: Port,
    frame: Frame,
}

/// All delay lines of a world and everything in flight, in order of leaving.
#[derive(Debug)]
pub struct Switch {
    hosts: usize,
    attached: BTreeSet<Port>,
    lines: Vec<Line>,
    /// By time, then by arrival, so that equal times keep their order.
    flights: BTreeMap<(Duration, u64), Flight>,
    arrivals: u64,
    chance: Chance,
    counters: Counters,
}

impl Switch {
    pub fn new(hosts: usize, seed: u64) -> Self {
        Self {
            hosts,
            attached: BTreeSet::new(),
            lines: (0..hosts * hosts).map(|_| Line::default()).collect(),
            flights: BTreeMap::new(),
            arrivals: 0,
            chance: Chance::seeded(seed),
            counters: Counters::default(),
        }
    }

    pub fn attach(&mut self, port: Port) {
        self.attached.insert(port);
    }

    /// The host is gone, and with it what was on its way from and to it.
    pub fn detach(&mut self, port: Port) {
        self.attached.remove(&port);
        self.drop_flights(|from, to| from == port || to == port);
    }

    /// Changes a pair's path. A cut loses what is on the wire, as a digger does.
    pub fn set_path(&mut self, from: Port, to: Port, path: Option<Path>) {
        self.lines[from.0 * self.hosts + to.0].set_path(path);
        if path.is_none() {
            self.drop_flights(|a, b| (a, b) == (from, to));
        }
    }

    fn drop_flights(&mut self, gone: impl Fn(Port, Port) -> bool) {
        self.flights.retain(|_, flight| !gone(flight.from, flight.to));
        for from in 0..self.hosts {
            for to in 0..self.hosts {
                if gone(Port(from), Port(to)) {
                    self.lines[from * self.hosts + to].emptied();
                }
            }
        }
    }

    /// Takes a frame that a host sent; its Ethernet header begins at `ethernet`.
    pub fn receive(&mut self, now: Duration, from: Port, bytes: &[u8], ethernet: usize) {
        match destination(bytes.get(ethernet..).unwrap_or_default()) {
            Destination::One(to) if to != from && self.attached.contains(&to) => {
                self.enqueue(now, from, to, bytes.len(), || Rc::from(bytes));
            }
            Destination::Everyone => {
                let shared: Frame = Rc::from(bytes);
                for to in (0..self.hosts).map(Port) {
                    if to != from && self.attached.contains(&to) {
                        self.enqueue(now, from, to, bytes.len(), || Rc::clone(&shared));
                    }
                }
            }
            Destination::One(_) | Destination::Nobody => self.counters.unreachable += 1,
        }
    }

    fn enqueue(&mut self, now: Duration, from: Port, to: Port, bytes: usize, frame: impl FnOnce() -> Frame) {
        match self.lines[from.0 * self.hosts + to.0].admit(now, bytes, &mut self.chance) {
            Verdict::Leaves(at) => {
                self.arrivals += 1;
                self.flights.insert((at, self.arrivals), Flight { from, to, frame: frame() });
            }
            Verdict::Lost => self.counters.lost += 1,
            Verdict::Overflow => self.counters.overflowed += 1,
            Verdict::Unreachable => self.counters.unreachable += 1,
        }
    }

    /// The next frame whose time has come, and where it goes.
    pub fn due(&mut self, now: Duration) -> Option<(Port, Frame)> {
        let entry = self.flights.first_entry().filter(|entry| entry.key().0 <= now)?;
        let Flight { from, to, frame } = entry.remove();
        self.lines[from.0 * self.hosts + to.0].left(frame.len());
        self.counters.forwarded += 1;
        Some((to, frame))
    }

    /// When the next frame leaves.
    pub fn next_due(&self) -> Option<Duration> {
        self.flights.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// Three hosts; the delay from a to b is 10 × a + b + 1 milliseconds.
    fn switch() -> Switch {
        let mut switch = Switch::new(3, 1);
        for from in 0..3 {
            switch.attach(Port(from));
            for to in 0..3 {
                switch.set_path(Port(from), Port(to), Some(Path::delayed(ms(10 * from as u64 + to as u64 + 1))));
            }
        }
        switch
    }

    fn frame_to(port: Port, tag: u8) -> Vec<u8> {
        [&port.mac()[..], &[tag]].concat()
    }

    fn drain(switch: &mut Switch, now: Duration) -> Vec<(usize, u8)> {
        std::iter::from_fn(|| switch.due(now)).map(|(to, frame)| (to.0, frame[frame.len() - 1])).collect()
    }

    #[test]
    fn each_ordered_pair_has_its_own_delay() {
        let mut switch = switch();
        switch.receive(NOW, Port(0), &frame_to(Port(1), 7), 0);
        switch.receive(NOW, Port(1), &frame_to(Port(0), 8), 0);
        assert_eq!(switch.next_due(), Some(ms(2)));
        assert_eq!(drain(&mut switch, ms(2)), [(1, 7)]);
        assert_eq!(drain(&mut switch, ms(10)), []);
        assert_eq!(drain(&mut switch, ms(11)), [(0, 8)]);
    }

    #[test]
    fn broadcast_reaches_every_other_host_at_its_own_time() {
        let mut switch = switch();
        switch.receive(NOW, Port(0), &[0xff; 8], 0);
        assert_eq!(drain(&mut switch, ms(2)), [(1, 0xff)]);
        assert_eq!(drain(&mut switch, ms(3)), [(2, 0xff)]);
    }

    #[test]
    fn frames_to_oneself_to_strangers_and_to_the_gone_go_nowhere() {
        let mut switch = switch();
        switch.detach(Port(2));
        switch.receive(NOW, Port(0), &frame_to(Port(0), 1), 0);
        switch.receive(NOW, Port(0), &frame_to(Port(2), 1), 0);
        switch.receive(NOW, Port(0), &[2, 2, 2, 2, 2, 2, 2], 0);
        switch.receive(NOW, Port(0), &[], 10);
        assert_eq!(switch.next_due(), None);
        assert_eq!(switch.counters().unreachable, 4);
    }

    #[test]
    fn a_cut_loses_what_is_on_the_wire_one_way() {
        let mut switch = switch();
        switch.receive(NOW, Port(0), &frame_to(Port(1), 1), 0);
        switch.receive(NOW, Port(1), &frame_to(Port(0), 2), 0);
        switch.set_path(Port(0), Port(1), None);
        switch.receive(NOW, Port(0), &frame_to(Port(1), 3), 0);
        assert_eq!(drain(&mut switch, ms(100)), [(0, 2)]);
    }

    #[test]
    fn frames_of_a_pair_keep_their_order() {
        let mut switch = switch();
        switch.set_path(Port(0), Port(1), Some(Path { delay: ms(20), jitter: ms(19), ..Path::default() }));
        for tag in 0..100 {
            switch.receive(ms(u64::from(tag) / 10), Port(0), &frame_to(Port(1), tag), 0);
        }
        let tags: Vec<u8> = drain(&mut switch, ms(1_000)).into_iter().map(|(_, tag)| tag).collect();
        assert_eq!(tags, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_kernels_header_in_front_is_skipped_and_kept() {
        let mut switch = switch();
        let bytes = [&[0u8; 10][..], &frame_to(Port(1), 5)].concat();
        switch.receive(NOW, Port(0), &bytes, 10);
        let (to, frame) = switch.due(ms(2)).unwrap();
        assert_eq!((to, &frame[..]), (Port(1), &bytes[..]));
    }
}
