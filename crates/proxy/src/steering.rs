//! Request headers with which a client chooses where its request goes. They are consumed here.

use atoll_model::{MachineId, RegionCode};
use http::header::{HeaderMap, HeaderName, HeaderValue};

const PREFER_REGION: HeaderName = HeaderName::from_static("fly-prefer-region");
const FORCE_REGION: HeaderName = HeaderName::from_static("fly-force-region");
const PREFER_INSTANCE: HeaderName = HeaderName::from_static("fly-prefer-instance-id");
const FORCE_INSTANCE: HeaderName = HeaderName::from_static("fly-force-instance-id");

/// Most regions of one list that are looked at.
const MAX_REGIONS: usize = 32;

/// What a client asked for. Values that name nothing are ignored, as if absent; a *forced* one then
/// matches no machine.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Steering {
    pub instance: Option<Wish<Option<MachineId>>>,
    pub regions: Option<Wish<Vec<RegionCode>>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wish<T> {
    Prefer(T),
    Force(T),
}

impl Steering {
    /// Reads the steering headers and removes them.
    pub fn take(headers: &mut HeaderMap) -> Self {
        let instance = match (headers.remove(FORCE_INSTANCE), headers.remove(PREFER_INSTANCE)) {
            (Some(forced), _) => Some(Wish::Force(machine(&forced))),
            (None, Some(preferred)) => machine(&preferred).map(|id| Wish::Prefer(Some(id))),
            (None, None) => None,
        };
        let regions = match (headers.remove(FORCE_REGION), headers.remove(PREFER_REGION)) {
            (Some(forced), _) => Some(Wish::Force(region_list(&forced))),
            (None, Some(preferred)) => Some(region_list(&preferred)).filter(|list| !list.is_empty()).map(Wish::Prefer),
            (None, None) => None,
        };
        Self { instance, regions }
    }

    /// The machine that should be used if it can.
    pub fn preferred_instance(&self) -> Option<MachineId> {
        match self.instance {
            Some(Wish::Prefer(id)) => id,
            _ => None,
        }
    }
}

fn machine(value: &HeaderValue) -> Option<MachineId> {
    value.to_str().ok()?.trim().parse().ok()
}

fn region_list(value: &HeaderValue) -> Vec<RegionCode> {
    let text = value.to_str().unwrap_or_default();
    text.split(',').filter_map(|part| part.trim().parse().ok()).take(MAX_REGIONS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steering(headers: &[(&'static str, &str)]) -> Steering {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let steering = Steering::take(&mut map);
        assert!(map.is_empty(), "steering headers were left: {map:?}");
        steering
    }

    #[test]
    fn force_wins_over_prefer_and_both_are_consumed() {
        let found = steering(&[("fly-prefer-region", "ams"), ("fly-force-region", "nrt, ord")]);
        assert_eq!(found.regions, Some(Wish::Force(vec!["nrt".parse().unwrap(), "ord".parse().unwrap()])));
        let id: MachineId = "73d8d46dbee589".parse().unwrap();
        let found = steering(&[("fly-prefer-instance-id", "73d8d46dbee589")]);
        assert_eq!(found.preferred_instance(), Some(id));
    }

    #[test]
    fn nonsense_is_ignored_when_preferred_and_matches_nothing_when_forced() {
        assert_eq!(steering(&[("fly-prefer-region", "moon"), ("fly-prefer-instance-id", "x")]), Steering::default());
        let forced = steering(&[("fly-force-region", "moon"), ("fly-force-instance-id", "x")]);
        assert_eq!(forced.regions, Some(Wish::Force(vec![])));
        assert_eq!(forced.instance, Some(Wish::Force(None)));
    }
}
