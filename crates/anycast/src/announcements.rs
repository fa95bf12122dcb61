//! What this place announces, to whom and how much it wants to be liked: a function of the plan, of how the
//! edge is and how busy. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::load::Level;
use crate::plan::{Fleet, Plan, Preference, Upstream, UpstreamName};
use crate::prefix::Prefix;

/// Why things are announced as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The edge serves.
    Serves,
    /// It is busy: others are preferred.
    Busy,
    /// It hardly serves, and enough others do.
    Overloaded,
    /// The edge does not answer, or has not yet answered long enough.
    NotServing,
    /// The place is being emptied.
    Draining,
}

impl Reason {
    /// Whether anything is announced at all.
    pub fn announces(self) -> bool {
        matches!(self, Self::Serves | Self::Busy)
    }
}

/// To whom a prefix is announced, and how.
pub type Routes = BTreeMap<Prefix, BTreeMap<UpstreamName, Preference>>;

/// What is announced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcements {
    pub reason: Reason,
    /// Empty if nothing is.
    pub routes: Routes,
}

/// Decides what is announced.
pub fn decide(plan: &Plan, edge_serves: bool, level: Level) -> Announcements {
    let reason = match level {
        _ if plan.drain.is_some() => Reason::Draining,
        _ if !edge_serves => Reason::NotServing,
        Level::Overloaded if may_withdraw(plan.fleet) => Reason::Overloaded,
        Level::Busy | Level::Overloaded => Reason::Busy,
        Level::Normal => Reason::Serves,
    };
    let routes = if reason.announces() { routes(plan, reason == Reason::Busy) } else { Routes::new() };
    Announcements { reason, routes }
}

/// Who is told what as long as anything is announced.
pub fn routes(plan: &Plan, busy: bool) -> Routes {
    let told = |prefix: &Prefix| {
        let takers = plan.upstreams.iter().filter(|upstream| takes(upstream, *prefix));
        takers.map(|upstream| (upstream.name.clone(), preference(upstream, busy))).collect()
    };
    plan.prefixes.iter().map(|prefix| (*prefix, told(prefix))).collect()
}

/// What changed, one line a prefix and neighbour, for people.
pub fn changes(before: &Routes, after: &Routes) -> Vec<String> {
    let flat = |routes: &Routes| -> BTreeMap<(Prefix, UpstreamName), Preference> {
        let all = routes.iter().flat_map(|(prefix, told)| {
            told.iter().map(|(name, preference)| ((*prefix, name.clone()), preference.clone()))
        });
        all.collect()
    };
    let (before, after) = (flat(before), flat(after));
    let gone = before.keys().filter(|key| !after.contains_key(key));
    let gone = gone.map(|(prefix, name)| format!("- {prefix} to {}", name.as_str()));
    let come = after.iter().filter_map(|(key, preference)| {
        let ((prefix, name), prepend) = (key, preference.prepend);
        match before.get(key) {
            Some(same) if same == preference => None,
            Some(_) => Some(format!("~ {prefix} to {}, prepended {prepend} times", name.as_str())),
            None => Some(format!("+ {prefix} to {}, prepended {prepend} times", name.as_str())),
        }
    });
    gone.chain(come).collect()
}

fn takes(upstream: &Upstream, prefix: Prefix) -> bool {
    let reachable = if prefix.is_ipv4() {
        upstream.address.is_ipv4()
    } else {
        upstream.address.is_ipv6() || upstream.own_ipv6.is_some()
    };
    reachable && (upstream.host_routes || !prefix.is_host())
}

fn preference(upstream: &Upstream, busy: bool) -> Preference {
    if busy { upstream.preference.and(&upstream.when_busy) } else { upstream.preference.clone() }
}

/// Load may withdraw a place only while fewer than a third of all places have done so: else the rest would
/// fall one after another.
fn may_withdraw(fleet: Fleet) -> bool {
    fleet.places > 1 && u64::from(fleet.relieved) * 3 < u64::from(fleet.places)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::tests::example;
    use crate::plan::{Drain, MAX_PREPEND};

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn told(announcements: &Announcements, text: &str) -> Vec<(String, u8)> {
        let told = &announcements.routes[&prefix(text)];
        told.iter().map(|(name, preference)| (name.as_str().to_owned(), preference.prepend)).collect()
    }

    #[test]
    fn covering_prefixes_go_to_everybody_and_host_routes_to_those_who_take_them() {
        let all = decide(&example(), true, Level::Normal);
        assert_eq!(all.reason, Reason::Serves);
        assert_eq!(told(&all, "198.51.100.0/24"), [("east".to_owned(), 0), ("west".to_owned(), 1)]);
        assert_eq!(told(&all, "203.0.113.7/32"), [("east".to_owned(), 0)]);
        // `west` has no IPv6 address of ours to send to.
        assert_eq!(told(&all, "2001:db8::/48"), [("east".to_owned(), 0)]);
    }

    #[test]
    fn a_busy_place_is_liked_less_and_one_that_does_not_serve_not_at_all() {
        let busy = decide(&example(), true, Level::Busy);
        assert_eq!(told(&busy, "198.51.100.0/24"), [("east".to_owned(), 3), ("west".to_owned(), 4)]);
        assert!(decide(&example(), false, Level::Busy).routes.is_empty());
        let drained = crate::plan::Plan { drain: Some(Drain { places_left: 2 }), ..example() };
        assert_eq!(decide(&drained, true, Level::Normal).reason, Reason::Draining);
    }

    #[test]
    fn load_withdraws_only_while_most_places_stand() {
        let mut plan = example();
        assert_eq!(decide(&plan, true, Level::Overloaded).reason, Reason::Overloaded);
        plan.fleet.relieved = 1;
        assert_eq!(decide(&plan, true, Level::Overloaded).reason, Reason::Busy);
        plan.fleet = Fleet { places: 1, relieved: 0 };
        assert_eq!(decide(&plan, true, Level::Overloaded).reason, Reason::Busy);
    }

    #[test]
    fn changes_are_told_by_prefix_and_neighbour() {
        let plan = example();
        let mut fewer = routes(&plan, false);
        fewer.remove(&prefix("203.0.113.7/32"));
        assert_eq!(changes(&routes(&plan, false), &fewer), ["- 203.0.113.7/32 to east"]);
        assert_eq!(changes(&fewer, &fewer), Vec::<String>::new());
        let busy = changes(&fewer, &routes(&plan, true));
        assert!(busy.contains(&"~ 198.51.100.0/24 to west, prepended 4 times".to_owned()), "{busy:?}");
        assert!(busy.contains(&"+ 203.0.113.7/32 to east, prepended 3 times".to_owned()), "{busy:?}");
    }

    fn any_level() -> impl Strategy<Value = Level> {
        prop_oneof![Just(Level::Normal), Just(Level::Busy), Just(Level::Overloaded)]
    }

    proptest! {
        #[test]
        fn only_what_is_planned_is_announced_and_only_by_a_serving_edge(
            serves: bool,
            level in any_level(),
            drain: bool,
            fleet in (0u32..10, 0u32..10),
            prepends in (0u8..=10, 0u8..=10),
        ) {
            let mut plan = example();
            plan.drain = drain.then_some(Drain { places_left: 1 });
            plan.fleet = Fleet { places: fleet.0, relieved: fleet.1 };
            plan.upstreams[0].preference.prepend = prepends.0;
            plan.upstreams[0].when_busy.prepend = prepends.1;
            let announced = decide(&plan, serves, level);
            prop_assert!(announced.routes.keys().all(|prefix| plan.prefixes.contains(prefix)));
            prop_assert_eq!(announced.routes.is_empty(), !announced.reason.announces());
            if !serves || drain {
                prop_assert!(announced.routes.is_empty());
            }
            // Load alone never withdraws once a third of the places have.
            if serves && !drain && fleet.1 * 3 >= fleet.0 {
                prop_assert!(!announced.routes.is_empty());
            }
            let ordinary = routes(&plan, false);
            for (prefix, told) in &announced.routes {
                for (name, preference) in told {
                    prop_assert!(preference.prepend >= ordinary[prefix][name].prepend);
                    prop_assert!(preference.prepend <= MAX_PREPEND);
                }
            }
        }
    }
}
