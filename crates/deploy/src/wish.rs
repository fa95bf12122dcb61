//! What a user asks for, read: from a manifest and a few words beside it to the content of a release.
//! Pure; whether the platform can do it is asked elsewhere.

use std::collections::BTreeMap;

use atoll_control::{ControlError, ControlResult};
use atoll_manifest::manifest::Strategy;
use atoll_manifest::{Manifest, Options, Release as ReleaseFacts};
use atoll_model::wire::DeployRequest;
use atoll_model::{AppName, MachineConfig};
use atoll_store::Release;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

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
        let configs = machine_configs(&manifest, &image, local_files(&request.local_files)?)?;
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

/// The contents of local files, as they were sent.
fn local_files(sent: &BTreeMap<String, String>) -> ControlResult<BTreeMap<String, Vec<u8>>> {
    let decoded = sent.iter().map(|(path, text)| match BASE64_STANDARD.decode(text) {
        Ok(content) => Ok((path.clone(), content)),
        Err(error) => Err(ControlError::invalid(format!("the content of {path:?} is not base64: {error}"))),
    });
    let files = decoded.collect::<ControlResult<BTreeMap<_, _>>>()?;
    atoll_manifest::files::check_sizes(files.iter().map(|(path, content)| (path.as_str(), content.len() as u64)))
        .map_err(|error| ControlError::invalid(error.to_string()))?;
    Ok(files)
}

fn machine_configs(
    manifest: &Manifest,
    image: &str,
    local_files: BTreeMap<String, Vec<u8>>,
) -> ControlResult<BTreeMap<String, MachineConfig>> {
    let facts = ReleaseFacts { image, local_files, ..ReleaseFacts::default() };
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
    fn local_files_arrive_in_the_machines() {
        let text = "[build]\nimage = 'hello'\n[[files]]\nguest_path = '/etc/motd'\nlocal_path = 'motd'\n";
        let sent = |content: &str| DeployRequest {
            local_files: [("motd".to_owned(), content.to_owned())].into(),
            ..request(text)
        };
        let wish = Wish::read(&app(), &sent("aGVsbG8=")).unwrap();
        assert_eq!(wish.configs["app"].files[0].raw_value.as_deref(), Some("aGVsbG8="));
        assert!(refusal(&sent("!")).contains("\"motd\" is not base64"));
        assert!(refusal(&request(text)).contains("\"motd\" was not sent"));
        let large = BASE64_STANDARD.encode(vec![0; 2 << 20]);
        assert!(refusal(&sent(&large)).contains("more than"), "{}", refusal(&sent(&large)));
    }

    #[test]
    fn what_cannot_be_deployed_is_refused_with_its_place() {
        assert!(refusal(&request("app = 'pier'\n[build]\nimage='a'\n")).contains("pier"));
        assert!(refusal(&request("")).contains("--image"));
        assert!(refusal(&request("app = 3\n")).starts_with("fly.toml:1:"));
        let unknown = DeployRequest { strategy: Some("bluegrass".into()), ..request("[build]\nimage='a'\n") };
        assert!(refusal(&unknown).contains("bluegrass"));
    }
}
