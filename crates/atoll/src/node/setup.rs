//! The first start of a platform: its authority, the identities of this server's processes, and the
//! first token. Runs as root, before any process does; a kill in between starts over.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use atoll_model::{NodeName, RegionCode};
use atoll_net::Place;
use atoll_rpc::authorities::Authorities;
use atoll_rpc::ca::signing_request;
use atoll_rpc::files::write_durably;
use atoll_rpc::identity::{Identity, Role};
use atoll_rpc::tls::IdentityMaterial;

use super::options::{ControlOptions, ServerOptions};
use super::state::{NodeFile, StateDir, hand_over, private_dir, random_hex};

/// Unix seconds.
pub fn now_unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Folders that every server has.
pub fn make_folders(state: &StateDir, options: &ServerOptions) -> anyhow::Result<()> {
    for dir in [&state.0, &state.run()] {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    private_dir(&state.role("worker"), 0)?;
    private_dir(&state.role("edge"), options.edge_uid)?;
    private_dir(&state.role("net"), options.net_uid)
}

/// This server's part in the mesh; its key is made where there is none yet.
pub fn private_place(state: &StateDir, node: &NodeFile, options: &ServerOptions) -> anyhow::Result<Place> {
    let key = atoll_net::key::load_or_create(&state.mesh_key())?;
    hand_over(&state.mesh_key(), options.net_uid)?;
    Ok(Place::new(node.instance_number()?, key.public(), options.mesh_port, options.wireguard_port))
}

/// A known region, or an error that lists them.
pub fn parse_region(text: &str) -> anyhow::Result<RegionCode> {
    let code: RegionCode = text.parse()?;
    if code.place().is_none() {
        let known: Vec<&str> = atoll_model::region::REGIONS.iter().map(|region| region.code).collect();
        bail!("{text:?} is not a known region; known are {}", known.join(", "));
    }
    Ok(code)
}

/// The name given, or one made of the host's.
pub fn node_name(given: Option<&str>) -> anyhow::Result<NodeName> {
    if let Some(name) = given {
        return Ok(name.parse()?);
    }
    let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let label: String = host
        .split('.')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    label
        .trim_matches('-')
        .parse()
        .with_context(|| format!("the host name {host:?} makes no node name; give one with --name"))
}

/// Makes this server the first of a new platform, or renews what only a start can renew.
pub fn prepare_first_server(
    state: &StateDir,
    options: &ServerOptions,
    control: &ControlOptions,
) -> anyhow::Result<NodeFile> {
    make_folders(state, options)?;
    private_dir(&state.role("control"), options.control_uid)?;
    let existing = NodeFile::load(state)?;
    let node = match existing {
        Some(node) => node,
        None => {
            // An authority that is there already was brought here to go on with its platform.
            let platform = Authorities::platform_of(&state.authority())?.unwrap_or_else(random_hex::<8>);
            // Records may have been brought here, too, and know a server of this name. Whatever that one
            // said, this one has nothing of it: the moment is beyond any epoch of an earlier server.
            let epoch = now_unix();
            let token = atoll_identity::TokenText::generate();
            write_durably(&state.root_token(), token.reveal().as_bytes(), true)
                .context("cannot write the first token")?;
            write_durably(&state.first_token(), token.reveal().as_bytes(), true)
                .context("cannot write the first token")?;
            NodeFile {
                platform,
                instance: random_hex::<8>(),
                name: node_name(options.name.as_deref())?,
                region: parse_region(&options.region)?,
                epoch,
                runs_control: true,
                control: String::new(),
                app_domain: control.app_domain.clone(),
            }
        }
    };
    let node = NodeFile { app_domain: control.app_domain.clone(), ..node };
    let life = Duration::from_secs(control.certificate_seconds);
    let authority = Authorities::open(&state.authority(), &node.platform, life, now_unix())?;
    write_durably(&state.ca_certificate(), authority.roots_pem().as_bytes(), false).context("cannot write ca.pem")?;
    // Issued at every start: whatever the server slept through, its own certificates are fresh.
    for role in [Role::Control, Role::Worker, Role::Edge, Role::Net] {
        let (key_pem, request) = signing_request()?;
        let identity = Identity { platform: node.platform.clone(), role, node: node.name.clone() };
        let issued = authority.issue_node(&request, &identity, now_unix())?;
        let material = IdentityMaterial { key_pem, chain_pem: issued.chain_pem, roots_pem: issued.roots_pem };
        material.save(&state.identity(role.as_str()))?;
    }
    hand_over(&state.role("control"), options.control_uid)?;
    hand_over(&state.identity("edge"), options.edge_uid)?;
    hand_over(&state.identity("net"), options.net_uid)?;
    node.save(state)?;
    Ok(node)
}

/// Where a process of the same host reaches a listener.
pub fn loopback_if_unspecified(address: std::net::SocketAddr) -> std::net::SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}
