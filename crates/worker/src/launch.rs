//! From a launch bundle and an image to what a driver starts. Pure: no I/O, no clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use atoll_driver::{FileSpec, MachineSpec, ProcessSpec};
use atoll_model::MachineId;
use atoll_rpc::contract::LaunchBundle;

use crate::seams::{ImageProcess, PreparedImage};

/// The search path of a process whose image names none.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Mode of files that name none.
const DEFAULT_FILE_MODE: u32 = 0o644;

/// A bundle that no driver could start; names the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unlaunchable {
    #[error("neither config.init nor the image names a program to run")]
    NoProgram,
    #[error("config.files[{path:?}]: {problem}")]
    File { path: String, problem: String },
    #[error(transparent)]
    Guest(#[from] atoll_model::guest::InvalidGuest),
}

/// What a start adds to the bundle.
pub struct Place<'a> {
    pub dir: &'a Path,
    pub network_namespace: PathBuf,
    pub ipv4: Ipv4Addr,
    pub cgroup: String,
    pub boot_id: String,
    pub pids_limit: u32,
    /// The resolvers machines use.
    pub resolv_conf: String,
}

/// All a driver needs to start this version of the machine once.
pub fn machine_spec(
    bundle: &LaunchBundle,
    image: &PreparedImage,
    place: Place<'_>,
) -> Result<MachineSpec, Unlaunchable> {
    let guest = bundle.config.resolved_guest()?;
    Ok(MachineSpec {
        id: bundle.machine,
        dir: place.dir.to_path_buf(),
        layers: image.layers.clone(),
        process: ProcessSpec {
            args: arguments(bundle, &image.config)?,
            env: environment(bundle, &image.config, guest.memory_mb),
            working_dir: if image.config.working_dir.is_empty() {
                "/".into()
            } else {
                image.config.working_dir.clone()
            },
            user: image.config.user.clone(),
            tty: bundle.config.init.tty,
        },
        hostname: bundle.machine.to_string(),
        hosts: hosts(bundle.machine, place.ipv4, bundle.private_ipv6),
        resolv_conf: resolv_conf(bundle, &place.resolv_conf),
        files: files(bundle)?,
        network_namespace: place.network_namespace,
        guest,
        pids_limit: place.pids_limit,
        cgroup: place.cgroup,
        boot_id: place.boot_id,
    })
}

/// `exec` replaces everything; else entrypoint and command, each from the configuration or the
/// image. An entrypoint of the configuration drops the image's command, as container engines do.
fn arguments(bundle: &LaunchBundle, image: &ImageProcess) -> Result<Vec<String>, Unlaunchable> {
    let init = &bundle.config.init;
    let args = if !init.exec.is_empty() {
        init.exec.clone()
    } else {
        let entrypoint = if init.entrypoint.is_empty() { &image.entrypoint } else { &init.entrypoint };
        let cmd = match (init.cmd.is_empty(), init.entrypoint.is_empty()) {
            (false, _) => init.cmd.as_slice(),
            (true, true) => image.cmd.as_slice(),
            (true, false) => &[],
        };
        entrypoint.iter().chain(cmd).cloned().collect()
    };
    if args.first().is_none_or(String::is_empty) { Err(Unlaunchable::NoProgram) } else { Ok(args) }
}

/// Image, then secrets, then configuration, then the platform's own names.
fn environment(bundle: &LaunchBundle, image: &ImageProcess, memory_mb: u32) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PATH".to_owned(), DEFAULT_PATH.to_owned())]);
    env.extend(image.env.clone());
    env.extend(bundle.secrets.clone());
    if let Some(region) = bundle.primary_region {
        env.insert("PRIMARY_REGION".into(), region.to_string());
    }
    env.extend(bundle.config.env.clone());
    let id = bundle.machine.to_string();
    env.extend([
        ("FLY_APP_NAME".into(), bundle.app.to_string()),
        ("FLY_MACHINE_ID".into(), id.clone()),
        ("FLY_ALLOC_ID".into(), id),
        ("FLY_MACHINE_VERSION".into(), bundle.version.to_string()),
        ("FLY_REGION".into(), bundle.region.to_string()),
        ("FLY_PRIVATE_IP".into(), bundle.private_ipv6.to_string()),
        ("FLY_IMAGE_REF".into(), bundle.image.reference.clone()),
        ("FLY_VM_MEMORY_MB".into(), memory_mb.to_string()),
        ("FLY_PROCESS_GROUP".into(), bundle.config.process_group().to_owned()),
    ]);
    env
}

fn hosts(machine: MachineId, ipv4: Ipv4Addr, ipv6: Ipv6Addr) -> Vec<(IpAddr, Vec<String>)> {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    vec![
        (Ipv4Addr::LOCALHOST.into(), names(&["localhost"])),
        (Ipv6Addr::LOCALHOST.into(), names(&["localhost", "ip6-localhost", "ip6-loopback"])),
        (ipv6.into(), names(&["fly-local-6pn", &machine.to_string()])),
        (ipv4.into(), names(&[&machine.to_string()])),
    ]
}

/// The configuration's own resolvers and search domains, else those of the node.
fn resolv_conf(bundle: &LaunchBundle, node: &str) -> String {
    let dns = &bundle.config.dns;
    let mut text = if dns.nameservers.is_empty() {
        node.to_owned()
    } else {
        dns.nameservers.iter().map(|server| format!("nameserver {server}\n")).collect()
    };
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    text
}

fn files(bundle: &LaunchBundle) -> Result<Vec<FileSpec>, Unlaunchable> {
    let problem = |path: &str, problem: String| Unlaunchable::File { path: path.to_owned(), problem };
    bundle
        .config
        .files
        .iter()
        .map(|file| {
            let path = file.guest_path.as_str();
            let encoded = match (&file.raw_value, &file.secret_name, &file.image_config) {
                (Some(value), None, None) => value,
                (None, Some(name), None) => bundle
                    .secrets
                    .get(name)
                    .ok_or_else(|| problem(path, format!("there is no secret named {name:?}")))?,
                (None, None, Some(_)) => return Err(problem(path, "image_config is not supported".into())),
                _ => return Err(problem(path, "needs exactly one of raw_value and secret_name".into())),
            };
            // Encoders break lines; white space is no content.
            let encoded: String = encoded.split_ascii_whitespace().collect();
            let content = BASE64_STANDARD
                .decode(encoded)
                .map_err(|error| problem(path, format!("the content is not base64: {error}")))?;
            Ok(FileSpec { path: path.to_owned(), content, mode: file.mode.unwrap_or(DEFAULT_FILE_MODE) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_model::address::NetworkId;
    use atoll_model::policy::NetworkLimits;
    use atoll_model::{MachineConfig, MachineVersion};
    use atoll_rpc::contract::PinnedImage;

    fn bundle(config: &str) -> LaunchBundle {
        LaunchBundle {
            machine: MachineId::from_random(10),
            name: "m".into(),
            app: "web".parse().unwrap(),
            org: "personal".parse().unwrap(),
            network: NetworkId(7),
            region: "ams".parse().unwrap(),
            version: MachineVersion::from_parts(1, 1),
            config: serde_json::from_str::<MachineConfig>(config).unwrap(),
            image: PinnedImage { reference: "web:1".into(), digest: "sha256:0".into() },
            secrets: BTreeMap::from([("KEY".into(), "c2VjcmV0".into()), ("A".into(), "secret".into())]),
            secrets_version: 1,
            private_ipv6: "fdaa:0:7:a:b:c:d:2".parse().unwrap(),
            limits: NetworkLimits::default(),
            primary_region: Some("nrt".parse().unwrap()),
            skip_launch: false,
            cordoned: false,
            created_at_ms: 1,
        }
    }

    fn image() -> ImageProcess {
        ImageProcess {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["serve".into()],
            env: BTreeMap::from([("A".into(), "image".into()), ("B".into(), "image".into())]),
            working_dir: "/srv".into(),
            user: "web".into(),
        }
    }

    #[test]
    fn arguments_follow_the_container_rules() {
        for (init, expected) in [
            ("{}", vec!["/entry", "serve"]),
            (r#"{"cmd":["other"]}"#, vec!["/entry", "other"]),
            (r#"{"entrypoint":["/mine"]}"#, vec!["/mine"]),
            (r#"{"entrypoint":["/mine"],"cmd":["x"]}"#, vec!["/mine", "x"]),
            (r#"{"exec":["/bin/true"],"cmd":["x"]}"#, vec!["/bin/true"]),
        ] {
            let bundle = bundle(&format!(r#"{{"image":"a","init":{init}}}"#));
            assert_eq!(arguments(&bundle, &image()).unwrap(), expected, "{init}");
        }
        let error = arguments(&bundle(r#"{"image":"a"}"#), &ImageProcess::default()).unwrap_err();
        assert_eq!(error, Unlaunchable::NoProgram);
    }

    #[test]
    fn later_sources_of_the_environment_win() {
        let env = environment(&bundle(r#"{"image":"a","env":{"B":"config","FLY_REGION":"x"}}"#), &image(), 256);
        let get = |name: &str| env[name].as_str();
        assert_eq!((get("A"), get("B"), get("FLY_REGION")), ("secret", "config", "ams"));
        assert_eq!((get("PRIMARY_REGION"), get("FLY_VM_MEMORY_MB")), ("nrt", "256"));
        assert_eq!(get("FLY_PRIVATE_IP"), "fdaa:0:7:a:b:c:d:2");
    }

    #[test]
    fn files_come_from_values_and_secrets() {
        let good = bundle(
            r#"{"image":"a","files":[{"guest_path":"/a","raw_value":"aGVs\nbG8=","mode":384},{"guest_path":"/b","secret_name":"KEY"}]}"#,
        );
        let specs = files(&good).unwrap();
        assert_eq!((specs[0].content.as_slice(), specs[0].mode), (b"hello".as_slice(), 0o600));
        assert_eq!((specs[1].content.as_slice(), specs[1].mode), (b"secret".as_slice(), 0o644));
        for (file, text) in [
            (r#"{"guest_path":"/a"}"#, "exactly one"),
            (r#"{"guest_path":"/a","raw_value":"!"}"#, "base64"),
            (r#"{"guest_path":"/a","secret_name":"NONE"}"#, "no secret"),
        ] {
            let error = files(&bundle(&format!(r#"{{"image":"a","files":[{file}]}}"#))).unwrap_err().to_string();
            assert!(error.contains("\"/a\"") && error.contains(text), "{error}");
        }
    }
}
