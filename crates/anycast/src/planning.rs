//! Makes the guard's plans: from what the operator wants and where apps run. Pure; whoever knows the
//! catalogue calls it and writes the file.

use std::collections::{BTreeMap, BTreeSet};

use atoll_model::MachineState;

use crate::plan::{Because, Plan, Refused, succeed};
use crate::prefix::Prefix;

/// A machine of an app at this place, as far as it matters to routes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineHere {
    pub state: MachineState,
    /// Its checks pass.
    pub healthy: bool,
    /// A request may start it.
    pub autostart: bool,
}

/// Whether a place serves an app: a healthy machine runs here, or one that a request would start rests
/// here. An app that idles and wakes thus keeps its route.
pub fn serves(machines: impl IntoIterator<Item = MachineHere>) -> bool {
    use MachineState::*;
    machines.into_iter().any(|machine| match machine.state {
        Started => machine.healthy,
        Starting | Stopping | Suspending | Stopped | Suspended => machine.autostart,
        Created | Restarting | Replacing | Failed | Destroying | Destroyed => false,
    })
}

/// The next plan of a place.
///
/// `wanted` is the operator's part: upstreams, covering prefixes, drain; `served` are the addresses of apps
/// that this place serves, as host routes; `places_left` says of a prefix how many other places announce it.
///
/// # Errors
/// If the operator's part would take a covering prefix from its last place. Host routes may always go: they
/// go when nothing serves them here.
pub fn next(
    last: Option<&Plan>,
    wanted: Plan,
    served: BTreeSet<Prefix>,
    places_left: impl Fn(Prefix) -> u32,
) -> Result<Plan, Refused> {
    let mut next = wanted;
    next.prefixes.extend(served);
    next.given_up = last.map(|last| given_up(last, &next.prefixes, places_left)).unwrap_or_default();
    next.generation = last.map_or(1, |last| last.generation);
    if last == Some(&next) {
        return Ok(next);
    }
    next.generation = last.map_or(1, |last| last.generation.saturating_add(1));
    succeed(last, next)
}

/// What a plan no longer has, and what the one before had already given up.
fn given_up(last: &Plan, now: &BTreeSet<Prefix>, places_left: impl Fn(Prefix) -> u32) -> BTreeMap<Prefix, Because> {
    let why = |prefix: Prefix| match prefix.is_host() {
        true => Because::NothingServes,
        false => Because::Planned { places_left: places_left(prefix) },
    };
    let newly = last.prefixes.difference(now).map(|prefix| (*prefix, why(*prefix)));
    let before = last.given_up.iter().filter(|(prefix, _)| !now.contains(prefix));
    before.map(|(prefix, why)| (*prefix, *why)).chain(newly).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::tests::example;

    fn machine(state: MachineState, healthy: bool, autostart: bool) -> MachineHere {
        MachineHere { state, healthy, autostart }
    }

    #[test]
    fn an_app_is_served_where_it_runs_well_or_would_be_started() {
        use MachineState::*;
        assert!(serves([machine(Started, true, false)]));
        assert!(serves([machine(Stopped, false, true)]));
        assert!(!serves([machine(Started, false, true)]));
        assert!(!serves([machine(Stopped, true, false), machine(Destroyed, true, true)]));
        assert!(!serves([]));
    }

    #[test]
    fn idling_and_waking_does_not_change_the_route() {
        use MachineState::*;
        for state in [Started, Stopping, Stopped, Starting, Started, Suspending, Suspended, Starting, Started] {
            assert!(serves([machine(state, true, true)]), "{state:?}");
        }
    }

    #[test]
    fn an_app_that_ends_gives_its_route_up_and_a_covering_prefix_stays_at_its_last_place() {
        let operator = || {
            let mut plan = example();
            plan.prefixes.retain(|prefix| !prefix.is_host());
            plan
        };
        let app: Prefix = "203.0.113.7/32".parse().unwrap();
        let first = next(None, operator(), BTreeSet::from([app]), |_| 0).unwrap();
        assert!(first.prefixes.contains(&app) && first.generation == 1);
        assert_eq!(next(Some(&first), operator(), BTreeSet::from([app]), |_| 0).unwrap(), first);
        let second = next(Some(&first), operator(), BTreeSet::new(), |_| 0).unwrap();
        assert_eq!((second.generation, second.given_up.get(&app)), (2, Some(&Because::NothingServes)));

        let mut without = operator();
        let covering: Prefix = "198.51.100.0/24".parse().unwrap();
        without.prefixes.remove(&covering);
        assert_eq!(
            next(Some(&second), without.clone(), BTreeSet::new(), |_| 0),
            Err(Refused::LastPlace { prefix: covering })
        );
        assert!(next(Some(&second), without, BTreeSet::new(), |_| 2).is_ok());
    }

    proptest! {
        #[test]
        fn what_is_planned_may_always_follow(
            rounds in prop::collection::vec(prop::collection::btree_set(0u8..8, 0..8), 1..40),
        ) {
            let mut last = None;
            for numbers in rounds {
                let served = numbers.into_iter().map(|n| format!("192.0.2.{n}/32").parse().unwrap()).collect();
                let plan = next(last.as_ref(), example(), served, |_| 0).unwrap();
                let text = serde_json::to_vec(&plan).unwrap();
                prop_assert_eq!(Plan::parse(&text).unwrap(), plan.clone());
                last = Some(plan);
            }
        }
    }
}
