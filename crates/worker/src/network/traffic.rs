//! How many bytes machines' networks have carried, by machine and by how far they went. The kernel
//! counts by interface ([`super::rules`]); the ledger knows whose interface that was. Pure.

use std::collections::BTreeMap;

use serde::Deserialize;

use atoll_model::MachineId;

/// How far bytes went. A user's device is where it enters the private network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TrafficClass {
    /// To and from the internet.
    Public,
    /// Between machines of this node.
    SameNode,
    /// To and from other nodes of this region, and devices that enter here.
    SameRegion,
    /// To and from other regions, and whatever in the mesh is not known to be of this one.
    CrossRegion,
}

/// As the machine sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    Sent,
    Received,
}

/// One of a machine's figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counter {
    pub class: TrafficClass,
    pub direction: Direction,
}

impl TrafficClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::SameNode => "same_node",
            Self::SameRegion => "same_region",
            Self::CrossRegion => "cross_region",
        }
    }
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
        }
    }
}

impl Counter {
    pub const ALL: [Self; 8] = [
        Self { class: TrafficClass::Public, direction: Direction::Sent },
        Self { class: TrafficClass::Public, direction: Direction::Received },
        Self { class: TrafficClass::SameNode, direction: Direction::Sent },
        Self { class: TrafficClass::SameNode, direction: Direction::Received },
        Self { class: TrafficClass::SameRegion, direction: Direction::Sent },
        Self { class: TrafficClass::SameRegion, direction: Direction::Received },
        Self { class: TrafficClass::CrossRegion, direction: Direction::Sent },
        Self { class: TrafficClass::CrossRegion, direction: Direction::Received },
    ];

    /// Its set in the kernel's table.
    pub fn name(self) -> String {
        format!("{}_{}", self.class.as_str(), self.direction.as_str())
    }
}

/// Bytes by counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic([u64; Counter::ALL.len()]);

impl Traffic {
    /// Every figure with what it counts.
    pub fn figures(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL.into_iter().zip(self.0)
    }

    fn set(&mut self, counter: Counter, bytes: u64) {
        for (known, figure) in Counter::ALL.into_iter().zip(&mut self.0) {
            if known == counter {
                *figure = bytes;
            }
        }
    }

    fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own = own.saturating_add(other);
        }
    }

    /// What came since `before`. A figure that has become less began anew.
    fn since(&self, before: &Self) -> Self {
        let mut grown = *self;
        for (now, before) in grown.0.iter_mut().zip(before.0) {
            *now = now.checked_sub(before).unwrap_or(*now);
        }
        grown
    }
}

/// What the kernel has counted, by interface: its name, or its index once it is gone.
pub type Reading = BTreeMap<String, Traffic>;

/// What one counter has of an interface, as nft lists it.
#[derive(Deserialize)]
pub struct Counted {
    elem: Entry,
}

#[derive(Deserialize)]
struct Entry {
    val: String,
    counter: Bytes,
}

#[derive(Deserialize)]
struct Bytes {
    bytes: u64,
}

/// Puts together what each counter has.
pub fn by_interface(counted: impl IntoIterator<Item = (Counter, Vec<Counted>)>) -> Reading {
    let mut reading = Reading::new();
    for (counter, interfaces) in counted {
        for Counted { elem: Entry { val, counter: Bytes { bytes } } } in interfaces {
            reading.entry(val).or_default().set(counter, bytes);
        }
    }
    reading
}

/// One start of a machine, which had an interface of its own.
#[derive(Debug)]
struct Run {
    link: String,
    machine: MachineId,
    /// As of the last reading.
    counted: Traffic,
    /// Readings since it ended; one that was under way may have missed its last bytes.
    readings_since_end: Option<u32>,
}

/// Whose bytes they were.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By the index of the interface.
    runs: BTreeMap<u32, Run>,
    machines: BTreeMap<MachineId, Traffic>,
    total: Traffic,
}

impl Ledger {
    /// An interface is a machine's from now on; another that had its name has ended.
    pub fn begin(&mut self, index: u32, link: &str, machine: MachineId) {
        // Told again: what was counted of it is known.
        if self.runs.get(&index).is_some_and(|run| run.readings_since_end.is_none()) {
            return;
        }
        self.end(link);
        let run = Run { link: link.to_owned(), machine, counted: Traffic::default(), readings_since_end: None };
        self.runs.insert(index, run);
    }

    pub fn end(&mut self, link: &str) {
        for run in self.runs.values_mut().filter(|run| run.link == link) {
            run.readings_since_end.get_or_insert(0);
        }
    }

    /// Adds what came since the reading before, and forgets machines that are no longer here.
    pub fn record(&mut self, reading: &Reading, is_here: impl Fn(MachineId) -> bool) {
        for (index, run) in &mut self.runs {
            let by_name = reading.get(&run.link).filter(|_| run.readings_since_end.is_none());
            // What carried nothing for long has been forgotten by the kernel and begins anew.
            let now = by_name.or_else(|| reading.get(&index.to_string())).copied().unwrap_or_default();
            let grown = now.since(&run.counted);
            run.counted = now;
            self.machines.entry(run.machine).or_default().add(&grown);
            self.total.add(&grown);
            if let Some(readings) = &mut run.readings_since_end {
                *readings += 1;
            }
        }
        self.runs.retain(|_, run| run.readings_since_end.is_none_or(|readings| readings < 2));
        let runs = &self.runs;
        self.machines.retain(|machine, _| is_here(*machine) || runs.values().any(|run| run.machine == *machine));
    }

    /// Of machines of this node, since this process began to count.
    pub fn machines(&self) -> BTreeMap<MachineId, Traffic> {
        self.machines.clone()
    }

    /// Of all machines, those that are gone included.
    pub fn total(&self) -> Traffic {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 1;
    const B: u64 = 2;

    fn machine(number: u64) -> MachineId {
        MachineId::from_random(number)
    }

    fn sent(interface: &str, bytes: u64) -> Reading {
        [(interface.to_owned(), Traffic([bytes, 0, 0, 0, 0, 0, 0, 0]))].into()
    }

    fn total(ledger: &Ledger) -> u64 {
        ledger.total().figures().map(|(_, bytes)| bytes).sum()
    }

    #[test]
    fn a_reading_is_put_together_by_interface() {
        let counted = |elements: &str| serde_json::from_str::<Vec<Counted>>(elements).unwrap();
        let public = counted(
            r#"[{"elem": {"val": "atl0", "expires": 9, "counter": {"packets": 2, "bytes": 90}}},
                {"elem": {"val": "7", "expires": 9, "counter": {"packets": 1, "bytes": 30}}}]"#,
        );
        let far = counted(r#"[{"elem": {"val": "atl0", "expires": 9, "counter": {"packets": 2, "bytes": 11}}}]"#);
        let [sent, .., received] = Counter::ALL;
        let reading = by_interface([(sent, public), (received, far)]);
        assert_eq!(reading["atl0"], Traffic([90, 0, 0, 0, 0, 0, 0, 11]));
        assert_eq!(reading["7"], Traffic([30, 0, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn each_byte_is_counted_once() {
        let mut ledger = Ledger::default();
        ledger.begin(5, "atl0", machine(A));
        for bytes in [100, 100, 250] {
            ledger.record(&sent("atl0", bytes), |_| true);
        }
        assert_eq!(total(&ledger), 250);
        ledger.begin(5, "atl0", machine(A));
        ledger.record(&sent("atl0", 250), |_| true);
        assert_eq!(total(&ledger), 250);
        // Forgotten by the kernel, then more than before.
        ledger.record(&Reading::new(), |_| true);
        ledger.record(&sent("atl0", 300), |_| true);
        assert_eq!(total(&ledger), 550);
    }

    #[test]
    fn a_run_that_ended_is_read_once_more_whoever_has_its_name_now() {
        let mut ledger = Ledger::default();
        ledger.begin(5, "atl0", machine(A));
        ledger.record(&sent("atl0", 100), |_| true);
        ledger.begin(6, "atl0", machine(B));
        let mut both = sent("atl0", 40);
        both.extend(sent("5", 120));
        for _ in 0..3 {
            ledger.record(&both, |_| true);
        }
        let machines = ledger.machines();
        assert_eq!((machines[&machine(A)].0[0], machines[&machine(B)].0[0]), (120, 40));
        assert_eq!(ledger.runs.len(), 1);
    }

    #[test]
    fn machines_that_left_are_forgotten_but_not_their_bytes() {
        let mut ledger = Ledger::default();
        ledger.begin(5, "atl0", machine(A));
        ledger.record(&sent("atl0", 100), |_| true);
        ledger.end("atl0");
        for _ in 0..2 {
            ledger.record(&sent("5", 100), |_| false);
        }
        assert!(ledger.machines().is_empty() && ledger.runs.is_empty());
        assert_eq!(total(&ledger), 100);
    }
}
