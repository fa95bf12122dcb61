//! The platform's zones for everybody: what the operator says of them, and the server that answers.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::Deserialize;

use atoll_dns::public::{Kind, NameServer, Places, Public, Signer, View, Zone};
use atoll_dns::wire::Name;
use atoll_model::row::MAX_ZONES;

use crate::node::setup::now_unix;

use super::names::Names;

/// What the operator's file may say.
#[derive(Clone, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ZonesFile {
    /// The servers that parents delegate to, the same on every server. One of this server's by default.
    #[serde(default)]
    servers: Vec<ServerEntry>,
    /// Zones of customers, in which the apps' own host names are found.
    #[serde(default)]
    delegated: Vec<String>,
    /// Addresses that all places announce: where every edge is entered, for the API and for apps without
    /// addresses of their own.
    #[serde(default)]
    anycast: Vec<IpAddr>,
    /// Servers elsewhere that hold copies.
    #[serde(default)]
    secondaries: Vec<SocketAddr>,
    /// A PKCS #8 document with which answers are signed; the same on every server.
    key: Option<PathBuf>,
    /// Where networks are: `<network>,<region or latitude>,<longitude>`.
    places: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerEntry {
    name: String,
    #[serde(default)]
    addresses: Vec<IpAddr>,
}

/// The zones and what their answers need beside the catalogue.
pub struct PublicZones {
    zones: Vec<Zone>,
    places: Arc<Places>,
    anycast: Arc<[IpAddr]>,
}

impl PublicZones {
    /// Reads what the operator says: in a file, or else by the addresses of this server.
    ///
    /// # Errors
    /// Says which file or name is wrong.
    pub fn read(file: Option<&Path>, public_addresses: &[IpAddr], app_domain: &str) -> anyhow::Result<Self> {
        let file = match file {
            Some(path) => {
                toml::from_str(&text_of(path)?).with_context(|| format!("{} says no zones", path.display()))?
            }
            None => ZonesFile::default(),
        };
        let app_domain = name(app_domain)?;
        let servers = match file.servers.as_slice() {
            [] => vec![own_server(&app_domain, public_addresses)?],
            told => told.iter().map(server).collect::<anyhow::Result<_>>()?,
        };
        let mut zones = vec![(app_domain, Kind::AppDomain)];
        for delegated in &file.delegated {
            zones.push((name(delegated)?, Kind::Delegated));
        }
        if zones.len() > MAX_ZONES {
            bail!("{} zones: a server answers for {MAX_ZONES} at most", zones.len());
        }
        let key = file.key.as_deref().map(|path| std::fs::read(path).with_context(|| cannot_read(path))).transpose()?;
        let zone = |(origin, kind): (Name, Kind)| {
            let zone = Zone::new(origin, kind, servers.clone(), now_unix() as u32).context("a zone needs a server")?;
            let zone = zone.secondaries(file.secondaries.clone());
            let Some(key) = &key else { return Ok(zone) };
            Ok(zone.signed(Signer::from_pkcs8(key).context("the key for signing zones cannot be used")?))
        };
        let zones = zones.into_iter().map(zone).collect::<anyhow::Result<_>>()?;
        let places = match &file.places {
            Some(path) => {
                Places::parse(&text_of(path)?).with_context(|| format!("{} says no places", path.display()))?
            }
            None => Places::default(),
        };
        Ok(Self { zones, places: Arc::new(places), anycast: file.anycast.into() })
    }

    /// The zones' names, as control is told them.
    pub fn names(&self) -> Vec<String> {
        self.zones.iter().map(|zone| zone.origin().to_string().trim_end_matches('.').to_owned()).collect()
    }

    /// What answers, and how it is told of changes.
    pub fn into_responder(self, names: &Names) -> (Arc<Public>, impl Fn(&Names) -> View + Send + Sync + 'static) {
        let Self { zones, places, anycast } = self;
        let view = move |names: &Names| {
            let catalogue = names.replica.snapshot().as_ref().clone();
            View::new(catalogue, &names.reach.load(), &names.here, anycast.clone(), places.clone())
        };
        (Arc::new(Public::new(zones, view(names))), view)
    }
}

fn text_of(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| cannot_read(path))
}

fn cannot_read(path: &Path) -> String {
    format!("cannot read {}", path.display())
}

fn name(text: &str) -> anyhow::Result<Name> {
    text.parse().with_context(|| format!("{text:?} is no domain name"))
}

fn server(entry: &ServerEntry) -> anyhow::Result<NameServer> {
    Ok(NameServer { name: name(&entry.name)?, addresses: entry.addresses.clone() })
}

/// Without further words the app domain has one server, which is this one.
fn own_server(app_domain: &Name, addresses: &[IpAddr]) -> anyhow::Result<NameServer> {
    if addresses.is_empty() {
        bail!("--dns needs to know this server's --public-address, or all name servers in the file of --dns-zones");
    }
    let name = app_domain.child(b"ns1").context("the app domain is too long to name a server in it")?;
    Ok(NameServer { name, addresses: addresses.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(zones: Option<&str>, addresses: &[&str]) -> anyhow::Result<PublicZones> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let Some(text) = zones else { return PublicZones::read(None, &addresses, "apps.test") };
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("zones.toml");
        std::fs::write(&path, text.replace("FOLDER", &folder.path().display().to_string()))?;
        std::fs::write(folder.path().join("places"), "192.0.2.0/24,ams\n")?;
        std::fs::write(folder.path().join("key"), Signer::generate()?)?;
        PublicZones::read(Some(&path), &addresses, "apps.test")
    }

    #[test]
    fn the_app_domain_and_delegated_zones_are_answered_for() {
        let read = read(
            Some(
                r#"
                servers = [{ name = "ns1.example.org" }, { name = "ns2.apps.test", addresses = ["192.0.2.2"] }]
                delegated = ["customer.example"]
                anycast = ["203.0.113.1", "2001:db8::1"]
                secondaries = ["198.51.100.1:53"]
                key = "FOLDER/key"
                places = "FOLDER/places"
                "#,
            ),
            &[],
        )
        .unwrap();
        assert_eq!(read.names(), ["apps.test", "customer.example"]);
        assert_eq!(read.anycast.len(), 2);
    }

    #[test]
    fn one_server_is_enough_if_it_knows_its_address() {
        assert_eq!(read(None, &["192.0.2.1"]).unwrap().zones.len(), 1);
        let problem = read(None, &[]).err().unwrap().to_string();
        assert!(problem.contains("--public-address"), "{problem}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, named) in [
            ("colour = 1", "zones.toml"),
            ("delegated = [\"a..b\"]", "a..b"),
            ("key = \"/nowhere/key\"", "/nowhere/key"),
            ("places = \"FOLDER/key\"", "key"),
            ("key = \"FOLDER/places\"", "key for signing"),
        ] {
            let problem = format!("{:#}", read(Some(text), &["192.0.2.1"]).err().unwrap());
            assert!(problem.contains(named), "{text}: {problem}");
        }
    }
}
