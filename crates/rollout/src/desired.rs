//! How many machines an app should have, by process group and region.

use std::collections::BTreeMap;

use atoll_model::RegionCode;
use serde::{Deserialize, Serialize};

/// A process group of a release.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    pub name: String,
    /// Reached through the proxy.
    pub has_services: bool,
}

/// A user's word on a count (`scale count`), which is remembered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScaleCount {
    pub group: String,
    pub region: RegionCode,
    pub count: u32,
}

/// Machines by (group, region); no zeros.
pub type Desired = BTreeMap<(String, RegionCode), u32>;

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no region is known for this app: give `-r <region>` or set primary_region in fly.toml")]
pub struct NoRegion;

/// With `regions` (the app's, remembered from `-r`): one machine per region and service group.
/// Without: two in the primary region. A group without services has one machine.
pub fn desired(
    groups: &[Group],
    regions: &[RegionCode],
    primary: Option<RegionCode>,
    scaled: &[ScaleCount],
) -> Result<Desired, NoRegion> {
    let mut desired = Desired::new();
    let home = primary.filter(|primary| regions.is_empty() || regions.contains(primary)).or(regions.first().copied());
    for group in groups {
        if group.has_services && !regions.is_empty() {
            desired.extend(regions.iter().map(|region| ((group.name.clone(), *region), 1)));
        } else if let Some(home) = home {
            desired.insert((group.name.clone(), home), if group.has_services { 2 } else { 1 });
        } else if !scaled.iter().any(|scale| scale.group == group.name) {
            return Err(NoRegion);
        }
    }
    for scale in scaled.iter().filter(|scale| groups.iter().any(|group| group.name == scale.group)) {
        desired.insert((scale.group.clone(), scale.region), scale.count);
    }
    desired.retain(|_, count| *count > 0);
    Ok(desired)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(code: &str) -> RegionCode {
        code.parse().unwrap()
    }

    fn groups() -> Vec<Group> {
        vec![Group { name: "web".into(), has_services: true }, Group { name: "jobs".into(), has_services: false }]
    }

    fn count(desired: &Desired, group: &str, code: &str) -> u32 {
        desired.get(&(group.to_owned(), region(code))).copied().unwrap_or(0)
    }

    #[test]
    fn regions_get_one_machine_per_service_group() {
        let desired = desired(&groups(), &[region("ams"), region("nrt")], Some(region("nrt")), &[]).unwrap();
        assert_eq!((count(&desired, "web", "ams"), count(&desired, "web", "nrt")), (1, 1));
        assert_eq!((count(&desired, "jobs", "ams"), count(&desired, "jobs", "nrt")), (0, 1));
    }

    #[test]
    fn without_regions_the_primary_one_gets_two() {
        let desired = desired(&groups(), &[], Some(region("ams")), &[]).unwrap();
        assert_eq!((count(&desired, "web", "ams"), count(&desired, "jobs", "ams")), (2, 1));
        assert_eq!(super::desired(&groups(), &[], None, &[]), Err(NoRegion));
    }

    #[test]
    fn scale_count_wins() {
        let scale = |region_code: &str, count| ScaleCount { group: "web".into(), region: region(region_code), count };
        let desired = desired(&groups(), &[region("ams")], None, &[scale("ams", 0), scale("ord", 3)]).unwrap();
        assert_eq!((count(&desired, "web", "ams"), count(&desired, "web", "ord")), (0, 3));
    }
}
