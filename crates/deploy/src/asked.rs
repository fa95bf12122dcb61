//! What a release was asked for beside its manifest, and what it comes to: where the app's machines
//! belong and how many there are. It becomes the app's own when the release is in place, not before:
//! a deploy that fails changes nothing that is remembered.

use atoll_manifest::Manifest;
use atoll_model::{AppName, RegionCode};
use atoll_rollout::desired::ScaleCount;
use atoll_store::{App, Scale, StoreError, WriteTx};
use serde::{Deserialize, Serialize};

/// As it is recorded with a release.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    /// Empty: as remembered.
    pub regions: Vec<RegionCode>,
    /// `None`: as remembered.
    pub counts: Option<Vec<ScaleCount>>,
    pub skip_unreachable: bool,
}

/// Where an app's machines belong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Homes {
    pub primary: Option<RegionCode>,
    pub regions: Vec<RegionCode>,
}

/// What an app remembers from a release on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub homes: Homes,
    pub counts: Vec<ScaleCount>,
}

impl Homes {
    /// `given` replaces what is remembered; `active` are the regions that have an active node.
    pub fn choose(app: &App, manifest: &Manifest, given: &[RegionCode], active: &[RegionCode]) -> Self {
        let mut regions: Vec<RegionCode> = Vec::new();
        for region in if given.is_empty() { &app.regions } else { given } {
            if !regions.contains(region) {
                regions.push(*region);
            }
        }
        let fits = |region: &RegionCode| regions.is_empty() || regions.contains(region);
        let primary = manifest
            .primary_region
            .or(app.primary_region.filter(fits))
            .or_else(|| regions.first().copied())
            .or_else(|| active.first().copied());
        Self { primary, regions }
    }
}

impl Asked {
    /// What the app remembers when the release is in place.
    pub fn outcome(&self, app: &App, known: &[Scale], manifest: &Manifest, active: &[RegionCode]) -> Remembered {
        let homes = Homes::choose(app, manifest, &self.regions, active);
        let mut counts = self.counts.clone().unwrap_or_else(|| known.iter().map(count_of).collect());
        if !self.regions.is_empty() {
            counts.retain(|count| homes.regions.contains(&count.region));
        }
        Remembered { homes, counts }
    }
}

pub(crate) fn count_of(scale: &Scale) -> ScaleCount {
    ScaleCount { group: scale.process_group.clone(), region: scale.region, count: scale.count }
}

impl Remembered {
    pub async fn record(&self, tx: &WriteTx, app: &AppName) -> Result<(), StoreError> {
        tx.app_set_regions(app, self.homes.primary, &self.homes.regions).await?;
        let known = tx.scale_list(app).await?;
        let mut groups: Vec<&str> = known.iter().map(|scale| scale.process_group.as_str()).collect();
        groups.extend(self.counts.iter().map(|count| count.group.as_str()));
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            let own = self.counts.iter().filter(|count| count.group == group);
            let counts: Vec<(RegionCode, u32)> = own.map(|count| (count.region, count.count)).collect();
            tx.scale_replace(app, group, &counts).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(regions: &[&str]) -> Vec<RegionCode> {
        regions.iter().map(|code| code.parse().unwrap()).collect()
    }

    fn stored(primary: Option<&str>, regions: &[&str]) -> App {
        App {
            id: "a".into(),
            numeric_id: 1,
            name: "harbour".parse().unwrap(),
            org: atoll_store::DEFAULT_ORGANIZATION.parse().unwrap(),
            network: atoll_model::address::NetworkId(1),
            network_name: "default".into(),
            status: atoll_store::AppStatus::Deployed,
            primary_region: primary.map(|code| code.parse().unwrap()),
            regions: codes(regions),
            secrets_version: 0,
            created_at_ms: 0,
        }
    }

    #[test]
    fn regions_are_remembered_until_others_are_given() {
        let manifest = Manifest::default();
        let remembered = stored(Some("ams"), &["ams", "nrt"]);
        let choose = |given: &[&str]| Homes::choose(&remembered, &manifest, &codes(given), &codes(&["ord"]));
        assert_eq!(choose(&[]), Homes { primary: codes(&["ams"]).pop(), regions: codes(&["ams", "nrt"]) });
        assert_eq!(choose(&["nrt", "nrt"]), Homes { primary: codes(&["nrt"]).pop(), regions: codes(&["nrt"]) });
    }

    #[test]
    fn an_app_without_a_home_gets_the_first_that_is_there() {
        let here = codes(&["nrt", "ord"]);
        let homes = Homes::choose(&stored(None, &[]), &Manifest::default(), &[], &here);
        assert_eq!(homes, Homes { primary: Some(here[0]), regions: vec![] });
        let named = Manifest { primary_region: Some(here[1]), ..Manifest::default() };
        assert_eq!(Homes::choose(&stored(None, &[]), &named, &[], &here).primary, Some(here[1]));
    }

    #[test]
    fn counts_of_regions_that_are_given_up_are_forgotten() {
        let scale = |code: &str| Scale { process_group: "app".into(), region: code.parse().unwrap(), count: 3 };
        let known = [scale("ams"), scale("nrt")];
        let app = stored(Some("ams"), &["ams", "nrt"]);
        let outcome = |regions: &[&str]| {
            let asked = Asked { regions: codes(regions), ..Asked::default() };
            asked.outcome(&app, &known, &Manifest::default(), &[]).counts
        };
        assert_eq!(outcome(&[]).len(), 2);
        assert_eq!(outcome(&["nrt"]), [count_of(&known[1])]);
    }
}
