//! Whether a plan may follow another.

use super::{Because, Plan};
use crate::prefix::Prefix;

/// Why a plan may not follow the one that is carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("its generation {new} is not above {last}, but it differs")]
    Old { last: u64, new: u64 },
    #[error("it has {prefix} no more and does not say why")]
    Unexplained { prefix: Prefix },
    #[error("it takes {prefix} away from the last place that announces it")]
    LastPlace { prefix: Prefix },
    #[error("it drains the last place of a prefix")]
    LastDrained,
}

/// The plan to be carried out after `last`: the new one, if it may follow.
///
/// # Errors
/// If it is older, loses a prefix without a word, or would leave a prefix without any place though something
/// serves it here.
pub fn succeed(last: Option<&Plan>, new: Plan) -> Result<Plan, Refused> {
    let Some(last) = last else {
        // Nothing is announced yet that could be taken away.
        return Ok(new);
    };
    if *last == new {
        return Ok(new);
    }
    if new.generation <= last.generation {
        return Err(Refused::Old { last: last.generation, new: new.generation });
    }
    for prefix in last.prefixes.difference(&new.prefixes).copied() {
        match new.given_up.get(&prefix) {
            None => return Err(Refused::Unexplained { prefix }),
            Some(Because::Planned { places_left: 0 }) => return Err(Refused::LastPlace { prefix }),
            Some(Because::Planned { .. } | Because::NothingServes) => {}
        }
    }
    match new.drain {
        Some(drain) if drain.places_left == 0 && last.drain.is_none() => Err(Refused::LastDrained),
        _ => Ok(new),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Drain;
    use super::super::tests::example;
    use super::*;

    fn next() -> Plan {
        Plan { generation: 8, ..example() }
    }

    #[test]
    fn the_last_place_of_a_prefix_is_kept_by_plans_and_not_by_health() {
        let last = example();
        let prefix: Prefix = "203.0.113.7/32".parse().unwrap();
        let mut new = next();
        new.prefixes.remove(&prefix);
        assert_eq!(succeed(Some(&last), new.clone()), Err(Refused::Unexplained { prefix }));
        new.given_up.insert(prefix, Because::Planned { places_left: 0 });
        assert_eq!(succeed(Some(&last), new.clone()), Err(Refused::LastPlace { prefix }));
        for why in [Because::Planned { places_left: 1 }, Because::NothingServes] {
            new.given_up.insert(prefix, why);
            assert_eq!(succeed(Some(&last), new.clone()), Ok(new.clone()));
        }
    }

    #[test]
    fn older_plans_are_refused_and_the_same_one_is_none() {
        let last = example();
        assert_eq!(succeed(Some(&last), last.clone()), Ok(last.clone()));
        let mut new = Plan { generation: 7, ..example() };
        new.fleet.relieved = 1;
        assert_eq!(succeed(Some(&last), new), Err(Refused::Old { last: 7, new: 7 }));
    }

    #[test]
    fn the_last_place_is_not_drained() {
        let last = example();
        let drained = |places_left| Plan { drain: Some(Drain { places_left }), ..next() };
        assert_eq!(succeed(Some(&last), drained(0)), Err(Refused::LastDrained));
        assert!(succeed(Some(&last), drained(2)).is_ok());
    }

    proptest! {
        /// Whatever plans come, a prefix goes only with a word for it.
        #[test]
        fn nothing_is_lost_without_a_reason(
            plans in prop::collection::vec((0u64..20, prop::collection::btree_set(0u8..6, 0..6), 0u8..6, 0u32..2), 1..40),
        ) {
            let prefix = |number: u8| format!("203.0.113.{number}/32").parse::<Prefix>().unwrap();
            let mut last: Option<Plan> = None;
            for (generation, numbers, gone, places_left) in plans {
                let mut new = Plan { generation, ..example() };
                new.prefixes = numbers.into_iter().map(prefix).collect();
                new.prefixes.remove(&prefix(gone));
                new.given_up.insert(prefix(gone), Because::Planned { places_left });
                let before = last.clone();
                if let Ok(accepted) = succeed(last.as_ref(), new) {
                    if let Some(before) = before {
                        prop_assert!(accepted == before || accepted.generation > before.generation);
                        for lost in before.prefixes.difference(&accepted.prefixes) {
                            prop_assert!(*lost == prefix(gone) && places_left > 0);
                        }
                    }
                    last = Some(accepted);
                }
            }
        }
    }
}
