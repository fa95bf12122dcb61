//! Routes of single addresses. A place announces an app's address by itself while it serves the app: the
//! edge, which knows, writes the addresses down, and the plan says of which prefixes they may be. Pure.
//!
//! Whoever writes the list is asked by the whole world and may be taken over: so it can neither name
//! neighbours nor announce anything that the plan does not foresee, only let addresses come and go that are
//! the operator's.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::plan::{MAX_PREFIXES, Plan};
use crate::prefix::Prefix;

/// Addresses of apps that a place serves, as its edge writes them down.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Served {
    pub addresses: BTreeSet<IpAddr>,
}

/// A text that is no list of addresses.
#[derive(Debug, thiserror::Error)]
pub enum InvalidServed {
    #[error("the list cannot be read")]
    Form(#[source] serde_json::Error),
    #[error("it has {0} addresses: up to {MAX_PREFIXES} are possible")]
    TooMany(usize),
}

impl Served {
    /// Reads a list.
    ///
    /// # Errors
    /// If the text is none.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidServed> {
        let served: Self = serde_json::from_slice(text).map_err(InvalidServed::Form)?;
        match served.addresses.len() {
            0..=MAX_PREFIXES => Ok(served),
            count => Err(InvalidServed::TooMany(count)),
        }
    }

    /// The plan with a route for each address that it allows. Beyond [`MAX_PREFIXES`] the highest are left
    /// out.
    pub fn added_to(&self, plan: &Plan) -> Plan {
        let routes = self.addresses.iter().copied().map(Prefix::host);
        let allowed = routes.filter(|route| plan.local.iter().any(|local| local.covers(*route)));
        let room = MAX_PREFIXES.saturating_sub(plan.prefixes.len());
        let mut added = plan.clone();
        added.prefixes.extend(allowed.filter(|route| !plan.prefixes.contains(route)).take(room));
        added
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::tests::example;

    fn local() -> Plan {
        Plan { local: BTreeSet::from(["192.0.2.0/29".parse().unwrap()]), ..example() }
    }

    #[test]
    fn what_is_served_is_announced_where_the_plan_allows_it() {
        let served =
            Served::parse(br#"{"addresses": ["192.0.2.7", "192.0.2.8", "198.51.100.1", "2001:db8::1"]}"#).unwrap();
        let added = served.added_to(&local());
        let new: Vec<String> = added.prefixes.difference(&local().prefixes).map(ToString::to_string).collect();
        assert_eq!(new, ["192.0.2.7/32"]);
        assert_eq!(Served::default().added_to(&local()), local());
        assert_eq!(served.added_to(&example()), example());
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "{}", "[]", r#"{"addresses": ["192.0.2.0/24"]}"#, r#"{"addresses": [], "more": 1}"#] {
            assert!(matches!(Served::parse(bad.as_bytes()), Err(InvalidServed::Form(_))), "{bad}");
        }
        let many = Served { addresses: (0..=MAX_PREFIXES as u128).map(|n| IpAddr::V6(n.into())).collect() };
        let text = serde_json::to_vec(&many).unwrap();
        assert!(matches!(Served::parse(&text), Err(InvalidServed::TooMany(_))));
    }

    proptest! {
        /// Whatever is written, the plan's own prefixes stay, and nothing comes that it does not allow.
        #[test]
        fn a_list_only_adds_single_addresses_of_local_prefixes(numbers in prop::collection::btree_set(any::<u32>(), 0..50)) {
            let near = |n: u32| IpAddr::V4((u32::from_be_bytes([192, 0, 2, 0]) | n & 0xf).into());
            let served = Served { addresses: numbers.iter().map(|n| near(*n)).collect() };
            let (plan, added) = (local(), served.added_to(&local()));
            prop_assert!(added.prefixes.is_superset(&plan.prefixes));
            for new in added.prefixes.difference(&plan.prefixes) {
                prop_assert!(new.is_host() && plan.local.iter().any(|local| local.covers(*new)));
            }
            prop_assert_eq!(Plan { prefixes: plan.prefixes.clone(), ..added }, plan);
        }
    }
}
