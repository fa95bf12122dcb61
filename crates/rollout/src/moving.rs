//! How a machine gets to another node: made again there, proven, known to every edge; only then the
//! old one leaves. Every effect is idempotent and named by the move, so an interrupted move is
//! performed again from its beginning.

use atoll_model::{MachineId, NodeName, RegionCode};

use crate::plan::Effect;

pub use crate::deploy::departure;

/// A machine and its place to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Where there is nothing left to move, the same id.
    pub machine: MachineId,
    pub successor: MachineId,
    pub node: NodeName,
    /// Whether the machine runs; one that rests is not started to be moved.
    pub runs: bool,
}

/// Until the successor serves, or would when asked.
pub fn arrival(arrival: &Arrival) -> Vec<Effect> {
    let machine = arrival.successor;
    let mut effects =
        vec![Effect::Copy { machine, of: arrival.machine, node: arrival.node.clone(), launch: arrival.runs }];
    if arrival.runs {
        effects.push(Effect::Gate { machine });
    }
    effects.push(Effect::Barrier { machine });
    effects
}

/// Where a machine of a node that is lost may be made again, best first: in its own region; in
/// another one of its app's only if the app had too few without it. `others` are the machines of its
/// process group that are left, `minimum` how many its services always want running.
pub fn homes_after_loss(region: RegionCode, app_regions: &[RegionCode], others: u32, minimum: u32) -> Vec<RegionCode> {
    let mut homes = vec![region];
    if others < minimum.max(1) {
        homes.extend(app_regions.iter().filter(|home| **home != region));
    }
    homes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(code: &str) -> RegionCode {
        code.parse().unwrap()
    }

    fn id(number: u64) -> MachineId {
        format!("{number:014x}").parse().unwrap()
    }

    #[test]
    fn a_machine_is_proven_and_known_before_it_counts() {
        let runs = Arrival { machine: id(1), successor: id(2), node: "ams2".parse().unwrap(), runs: true };
        let steps: Vec<String> = arrival(&runs).iter().map(ToString::to_string).collect();
        assert_eq!(
            steps,
            [
                "make 00000000000002 on ams2 like 00000000000001",
                "wait until 00000000000002 works",
                "wait until every edge knows 00000000000002"
            ]
        );
        assert_eq!(arrival(&Arrival { runs: false, ..runs }).len(), 2, "one that rests is not started");
    }

    #[test]
    fn a_lost_machine_leaves_its_region_only_when_the_app_would_have_too_few() {
        let (ams, nrt) = (region("ams"), region("nrt"));
        assert_eq!(homes_after_loss(ams, &[ams, nrt], 1, 0), [ams]);
        assert_eq!(homes_after_loss(ams, &[ams, nrt], 1, 2), [ams, nrt]);
        assert_eq!(homes_after_loss(ams, &[ams, nrt], 0, 0), [ams, nrt]);
        assert_eq!(homes_after_loss(ams, &[], 0, 3), [ams], "an app without regions stays where it was put");
    }
}
