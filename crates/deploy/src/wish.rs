//! What a user asks for, read: from a manifest and a few words beside it to the content of a release.
//! Pure; whether the platform can do it is asked elsewhere.

use std::collections::BTreeMap;

use atoll_control::{ControlError, ControlResult};
use atoll_manifest::manifest::Strategy;
use atoll_manifest::{Manifest, Options, Release as ReleaseFacts};
use atoll_model::wire::DeployRequest;
use atoll_model::{AppName, MachineConfig, RegionCode};
use atoll_store::{App, Release};

/// Metadata of machines that names their release; added when a machine is made, as a release is
/// numbered only when it is recorded.
const RELEASE_ID: &str = "fly_release_id";
const RELEASE_VERSION: &str = "fly_release_version";

/// As a release's record names the plan of `scale`.
pub(crate) const SCALE: &str = "scale";

/// A deploy request that makes sense by itself.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Wish {
    pub manifest: Manifest,
    pub warnings: Vec<String>,
    pub image: String,
    pub strategy: Strategy,
    pub configs: BTreeMap<String, MachineConfig>,
}

impl Wish {
    pub fn read(app: &AppName, request: &DeployRequest) -> ControlResult<Self> {
        let name = if request.manifest_name.is_empty() { "fly.toml" } else { &request.manifest_name };
        let options = Options { strict: request.strict, allow_unsupported: request.allow_unsupported };
        let parsed = Manifest::parse_with(request.manifest.as_bytes(), name, &options)
            .map_err(|errors| ControlError::invalid(errors.to_string()))?;
        let manifest = parsed.manifest;
        if let Some(named) = manifest.app.as_ref().filter(|named| *named != app) {
            return Err(ControlError::invalid(format!(
                "{name} is of app {named}, but the deploy is for {app}: correct `app` in the file, or leave it out"
            )));
        }
        let image = request.image.clone().or_else(|| manifest.build.image.clone());
        let image = image.filter(|image| !image.is_empty()).ok_or_else(|| {
            ControlError::invalid(format!("no image to deploy: set `[build] image` in {name}, or give --image"))
        })?;
        let strategy = match request.strategy.as_deref() {
            None | Some("") => manifest.deploy.strategy.unwrap_or_default(),
            Some("rolling") => Strategy::Rolling,
            Some("immediate") => Strategy::Immediate,
            Some(other) => {
                return Err(ControlError::invalid(format!("strategy {other:?} is none of rolling, immediate")));
            }
        };
        let configs = machine_configs(&manifest, &image)?;
        let warnings = parsed.warnings.iter().map(ToString::to_string).collect();
        Ok(Self { manifest, warnings, image, strategy, configs })
    }

    pub fn strategy_name(&self) -> &'static str {
        match self.strategy {
            Strategy::Rolling => "rolling",
            Strategy::Immediate => "immediate",
        }
    }
}

fn machine_configs(manifest: &Manifest, image: &str) -> ControlResult<BTreeMap<String, MachineConfig>> {
    let facts = ReleaseFacts { image, ..ReleaseFacts::default() };
    let mut configs = BTreeMap::new();
    for group in manifest.groups() {
        let mut config = manifest.machine_config(group, &facts).map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            ControlError::invalid(format!("{error}{}", cause.unwrap_or_default()))
        })?;
        config.metadata.remove(RELEASE_ID);
        config.metadata.remove(RELEASE_VERSION);
        config.validate()?;
        configs.insert(group.to_owned(), config);
    }
    Ok(configs)
}

/// The configuration of a machine of the release; `None` for a group that it does not have.
pub(crate) fn config_of(release: &Release, group: &str) -> Option<MachineConfig> {
    let mut config = release.content.machine_configs.get(group)?.clone();
    config.metadata.insert(RELEASE_ID.to_owned(), release.id.clone());
    config.metadata.insert(RELEASE_VERSION.to_owned(), release.version.to_string());
    Some(config)
}

/// Where an app's machines belong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Homes {
    pub primary: Option<RegionCode>,
    pub regions: Vec<RegionCode>,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> AppName {
        "harbour".parse().unwrap()
    }

    fn request(manifest: &str) -> DeployRequest {
        DeployRequest { manifest: manifest.to_owned(), ..DeployRequest::default() }
    }

    fn refusal(request: &DeployRequest) -> String {
        Wish::read(&app(), request).unwrap_err().message
    }

    #[test]
    fn a_file_becomes_a_configuration_for_each_group() {
        let text = "[build]\nimage = 'hello'\n[processes]\nweb = ''\njobs = 'run jobs'\n[env]\nCOLOUR = 'blue'\n";
        let wish = Wish::read(&app(), &request(text)).unwrap();
        assert_eq!(wish.configs.keys().collect::<Vec<_>>(), ["jobs", "web"]);
        let jobs = &wish.configs["jobs"];
        assert_eq!((jobs.image.as_str(), jobs.process_group()), ("hello", "jobs"));
        assert_eq!(jobs.env["COLOUR"], "blue");
        assert!(!jobs.metadata.contains_key(RELEASE_ID), "a release has no number yet");
        assert_eq!(wish.strategy_name(), "rolling");
    }

    #[test]
    fn the_words_beside_the_file_win() {
        let text = "[build]\nimage = 'hello'\n[deploy]\nstrategy = 'immediate'\n";
        let asked = DeployRequest { image: Some("other:2".into()), strategy: Some("rolling".into()), ..request(text) };
        let wish = Wish::read(&app(), &asked).unwrap();
        assert_eq!((wish.image.as_str(), wish.strategy), ("other:2", Strategy::Rolling));
        assert_eq!(Wish::read(&app(), &request(text)).unwrap().strategy, Strategy::Immediate);
    }

    #[test]
    fn what_cannot_be_deployed_is_refused_with_its_place() {
        assert!(refusal(&request("app = 'pier'\n[build]\nimage='a'\n")).contains("pier"));
        assert!(refusal(&request("")).contains("--image"));
        assert!(refusal(&request("app = 3\n")).starts_with("fly.toml:1:"));
        let unknown = DeployRequest { strategy: Some("bluegrass".into()), ..request("[build]\nimage='a'\n") };
        assert!(refusal(&unknown).contains("bluegrass"));
    }

    fn stored(primary: Option<&str>, regions: &[&str]) -> App {
        App {
            id: "a".into(),
            numeric_id: 1,
            name: app(),
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

    fn codes(regions: &[&str]) -> Vec<RegionCode> {
        regions.iter().map(|code| code.parse().unwrap()).collect()
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
}
