//! Which machine takes a request: a pure decision over the catalogue, measured round trips and what
//! this request has tried already. No I/O, no clock; randomness is given.
//!
//! Every machine that declares the port either has a [`Rank`] or a reason why it cannot be used. The
//! lowest rank wins, equal ranks are drawn by lot. Regions are gone through from near to far (or as
//! the client asked), so that a soft limit never moves traffic to another region: inside a region
//! machines below it come first, then a stopped one to be started, then those above it.

use std::sync::Arc;
use std::time::Duration;

use atoll_catalogue::Snapshot;
use atoll_model::reach::Reachability;
use atoll_model::row::{MachineRow, NodeState};
use atoll_model::service::{LoadBucket, Protocol};
use atoll_model::{AppName, MachineId, MachineState, NodeName, RegionCode};

use crate::config::StartOrder;
use crate::steering::{Steering, Wish};

/// What is asked for, and everything the answer depends on.
pub struct Query<'a> {
    pub snapshot: &'a Snapshot,
    pub reachability: &'a Reachability,
    pub app: &'a AppName,
    /// The external port the client came in on.
    pub port: u16,
    pub steering: &'a Steering,
    /// Tried in vain for this request; not to be used again for now.
    pub excluded: &'a [MachineId],
    /// The node and region that decide.
    pub node: &'a NodeName,
    pub region: RegionCode,
    pub order: StartOrder,
    /// What this node knows of its own machines.
    pub own: &'a dyn OwnMachines,
}

/// Fresher knowledge of the machines of the deciding node than the catalogue has.
pub trait OwnMachines {
    /// `None`: nothing beyond the catalogue is known.
    fn running(&self, row: &MachineRow) -> Option<bool>;
    fn bucket(&self, row: &MachineRow, service: usize) -> Option<LoadBucket>;
}

/// Knows nothing beyond the catalogue.
pub struct NothingOwn;

impl OwnMachines for NothingOwn {
    fn running(&self, _: &MachineRow) -> Option<bool> {
        None
    }

    fn bucket(&self, _: &MachineRow, _: usize) -> Option<LoadBucket> {
        None
    }
}

/// The outcome for one attempt.
#[derive(Clone, Debug)]
pub enum Decision {
    Send(Target),
    /// No machine can take it now, but one may soon.
    Hold(Unusable),
    Refuse(Refusal),
}

/// The machine to use.
#[derive(Clone, Debug)]
pub struct Target {
    pub machine: Arc<MachineRow>,
    /// Index into the machine's services.
    pub service: usize,
    /// It lives on the deciding node.
    pub local: bool,
    /// The catalogue says it does not run: its node has to start it.
    pub start: bool,
}

/// Why waiting would not help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No machine of the app has a service on the port.
    NoService,
    /// The client forced a machine or region that has no such machine.
    ForcedElsewhere,
}

/// Why a machine cannot be used now. Of several, the greatest is reported: it is the nearest miss.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Unusable {
    NodeGone,
    Ending,
    Cordoned,
    /// Stopped, and its service does not start on request.
    Stopped,
    Unreachable,
    Unhealthy,
    AtHardLimit,
    /// This request has failed there already.
    Tried,
}

impl Unusable {
    pub fn describe(self) -> &'static str {
        match self {
            Self::NodeGone => "its machines' nodes are gone",
            Self::Ending => "its machines are being replaced or removed",
            Self::Cordoned => "its machines are cordoned",
            Self::Stopped => "its machines are stopped and do not start on request",
            Self::Unreachable => "its machines cannot be reached from here",
            Self::Unhealthy => "no machine is healthy",
            Self::AtHardLimit => "every machine is at its hard limit",
            Self::Tried => "every machine failed to answer",
        }
    }
}

/// Order of preference; lower is better. The fields are compared from top to bottom.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Rank {
    /// 0 for the machine the client prefers.
    preference: u8,
    /// Only with [`StartOrder::RunningAnywhereFirst`]: 1 when it would have to be started.
    start_last: u8,
    /// Position in the client's region list.
    listed: usize,
    region_distance: Distance,
    /// Keeps regions of equal distance apart.
    region: RegionCode,
    class: Class,
    distance: Distance,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Class {
    BelowSoft,
    ToStart,
    BelowHard,
}

/// Whole milliseconds of round trip: nearer differences are noise, not distance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Distance(u32);

impl Distance {
    /// The deciding node and its region.
    const HERE: Self = Self(0);
    /// Nothing measured yet: usable, after all that is known.
    const UNKNOWN: Self = Self(u32::MAX);

    fn of(round_trip: Duration) -> Self {
        Self(u32::try_from(round_trip.as_millis()).unwrap_or(u32::MAX - 1).max(1))
    }
}

/// Decides. `draw(n)` picks one of `n` equally good machines, returning less than `n`.
pub fn select(query: &Query<'_>, draw: &mut dyn FnMut(usize) -> usize) -> Decision {
    let machines = query.snapshot.machines_of(query.app);
    let regions = region_distances(query, machines);
    let mut best: Option<(Rank, Target)> = None;
    let mut equals = 0;
    let mut nearest_miss = None;
    let mut declared = false;
    for machine in machines {
        let Some(service) = service_on(machine, query.port) else { continue };
        declared = true;
        let Some(listed) = query.admits(machine) else { continue };
        match query.usability(machine, service) {
            Err(reason) => nearest_miss = nearest_miss.max(Some(reason)),
            Ok((class, distance)) => {
                let rank = query.rank(machine, listed, &regions, class, distance);
                let better = best.as_ref().is_none_or(|(leader, _)| rank < *leader);
                let level = best.as_ref().is_some_and(|(leader, _)| rank == *leader);
                equals = if better { 1 } else { equals + usize::from(level) };
                // Each of n equals ends up chosen with the same probability.
                if better || (level && draw(equals) == 0) {
                    let local = machine.node == *query.node;
                    let start = class == Class::ToStart;
                    best = Some((rank, Target { machine: machine.clone(), service, local, start }));
                }
            }
        }
    }
    match (best, nearest_miss) {
        (Some((_, target)), _) => Decision::Send(target),
        (None, Some(reason)) => Decision::Hold(reason),
        (None, None) if declared => Decision::Refuse(Refusal::ForcedElsewhere),
        (None, None) => Decision::Refuse(Refusal::NoService),
    }
}

/// The index of the TCP service that covers an external port.
pub fn service_on(machine: &MachineRow, port: u16) -> Option<usize> {
    machine.services.iter().position(|row| row.service.protocol == Protocol::Tcp && row.service.port(port).is_some())
}

/// The distance of each region: that of its nearest node.
fn region_distances(query: &Query<'_>, machines: &[Arc<MachineRow>]) -> Vec<(RegionCode, Distance)> {
    let mut regions: Vec<(RegionCode, Distance)> = Vec::with_capacity(4);
    for machine in machines {
        let distance = match machine.region == query.region {
            true => Distance::HERE,
            false => query.distance(&machine.node).unwrap_or(Distance::UNKNOWN),
        };
        match regions.iter_mut().find(|(region, _)| *region == machine.region) {
            Some((_, known)) => *known = distance.min(*known),
            None => regions.push((machine.region, distance)),
        }
    }
    regions
}

impl Query<'_> {
    /// The machine's place in the client's wishes, or `None` when they rule it out.
    fn admits(&self, machine: &MachineRow) -> Option<usize> {
        if let Some(Wish::Force(id)) = &self.steering.instance
            && *id != Some(machine.id)
        {
            return None;
        }
        match &self.steering.regions {
            None => Some(0),
            Some(Wish::Force(list)) => list.iter().position(|region| *region == machine.region),
            Some(Wish::Prefer(list)) => {
                Some(list.iter().position(|region| *region == machine.region).unwrap_or(list.len()))
            }
        }
    }

    fn forced(&self, machine: &MachineRow) -> bool {
        self.steering.instance == Some(Wish::Force(Some(machine.id)))
    }

    fn usability(&self, machine: &MachineRow, service: usize) -> Result<(Class, Distance), Unusable> {
        let service_row = &machine.services[service];
        let local = machine.node == *self.node;
        if machine.cordoned {
            return Err(Unusable::Cordoned);
        }
        if self.snapshot.node(&machine.node).is_none_or(|node| node.state == NodeState::Revoked) {
            return Err(Unusable::NodeGone);
        }
        let distance = self.distance(&machine.node).ok_or(Unusable::Unreachable)?;
        if self.excluded.contains(&machine.id) {
            return Err(Unusable::Tried);
        }
        let own = if local { self.own.running(machine) } else { None };
        let class = match (own, Standing::of(machine.state)) {
            (None, Standing::Ending) => return Err(Unusable::Ending),
            (Some(true), _) => None,
            (None, Standing::Up) if service_row.healthy || self.forced(machine) => None,
            (None, Standing::Up) => return Err(Unusable::Unhealthy),
            (Some(false), _) | (None, Standing::Startable) => Some(Class::ToStart),
        };
        if class == Some(Class::ToStart) {
            return match service_row.service.starts_on_request() {
                true => Ok((Class::ToStart, distance)),
                false => Err(Unusable::Stopped),
            };
        }
        let own_bucket = if local { self.own.bucket(machine, service) } else { None };
        match own_bucket.unwrap_or(service_row.load) {
            LoadBucket::BelowSoft => Ok((Class::BelowSoft, distance)),
            LoadBucket::BelowHard => Ok((Class::BelowHard, distance)),
            LoadBucket::AtHard => Err(Unusable::AtHardLimit),
        }
    }

    /// `None`: the node has been probed and does not answer.
    fn distance(&self, node: &NodeName) -> Option<Distance> {
        if node == self.node {
            return Some(Distance::HERE);
        }
        match self.reachability.paths.get(node) {
            None => Some(Distance::UNKNOWN),
            Some(path) if path.reachable => Some(Distance::of(path.round_trip)),
            Some(_) => None,
        }
    }

    fn rank(
        &self,
        machine: &MachineRow,
        listed: usize,
        regions: &[(RegionCode, Distance)],
        class: Class,
        distance: Distance,
    ) -> Rank {
        let preferred = self.steering.preferred_instance() == Some(machine.id);
        let to_start = class == Class::ToStart;
        let known = regions.iter().find(|(region, _)| *region == machine.region);
        Rank {
            preference: u8::from(!preferred),
            start_last: u8::from(to_start && self.order == StartOrder::RunningAnywhereFirst),
            listed,
            region_distance: known.map_or(Distance::UNKNOWN, |(_, distance)| *distance),
            region: machine.region,
            class,
            distance,
        }
    }
}

/// What a machine's state means for a request.
enum Standing {
    Up,
    /// A request may start it, or wait for a start that goes on.
    Startable,
    Ending,
}

impl Standing {
    fn of(state: MachineState) -> Self {
        use MachineState::*;
        match state {
            Started => Self::Up,
            Starting | Restarting | Stopping | Stopped | Suspending | Suspended => Self::Startable,
            Created | Replacing | Failed | Destroying | Destroyed => Self::Ending,
        }
    }
}

#[cfg(test)]
mod tests;
