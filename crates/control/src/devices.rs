//! Users' devices: WireGuard peers that enter a private network of their organization at one server, their
//! gateway. The record is made first; what the gateway and all others do follows from the catalogue's row.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use atoll_model::address::{NETWORK_PREFIX, NetworkId, network_address, network_dns};
use atoll_model::row::{DeviceRow, GatewayEnd};
use atoll_model::wire::{
    WireGuardEntrance, WireGuardGateway, WireGuardLink, WireGuardPeer, WireGuardPeerRequest, WireGuardPeerStatus,
};
use atoll_model::{DeviceName, NodeName, OrgSlug, RegionCode, Row, RowKey};
use atoll_rpc::proto::place::DeviceRequest;
use atoll_rpc::proto::place::place_client::PlaceClient;
use atoll_store::{DEFAULT_NETWORK, Device, ErrorKind, NewDevice, Node, NodeStatus, StoreError, WriteTx};

use crate::nodes::wireguard_key;
use crate::{Changed, Control, ControlError, ControlResult, Kind};

/// Of an organization.
const MAX_DEVICES: usize = 1_000;
/// A gateway that has not answered by then is shown as silent.
const LIMIT: Duration = Duration::from_secs(3);

/// Where devices enter at a node, if they do: at the address at which users reach its edge.
pub(crate) fn gateway_end(node: &Node) -> Option<GatewayEnd> {
    let gateway = node.network.gateway.as_ref()?;
    let told = node.network.public_addresses.first().copied();
    let address = told.or_else(|| node.backhaul.map(|backhaul| backhaul.ip()))?;
    Some(GatewayEnd {
        public_key: gateway.public_key.clone(),
        endpoint: SocketAddr::new(address, gateway.port),
        websocket_port: gateway.websocket_port,
    })
}

fn shown_gateway(node: &Node) -> Option<WireGuardGateway> {
    let GatewayEnd { public_key, endpoint, websocket_port } = gateway_end(node)?;
    Some(WireGuardGateway { node: node.name.clone(), region: node.region, public_key, endpoint, websocket_port })
}

fn device_row(device: &Device) -> Row {
    Row::Device(DeviceRow {
        name: device.name.clone(),
        org: device.org.clone(),
        network: device.network,
        address: device.address,
        public_key: device.public_key.clone(),
        gateway: device.gateway.clone(),
    })
}

/// The gateway for a new device: of those that fit the one with the fewest.
fn choose<'g>(
    gateways: &'g [WireGuardGateway],
    devices: &[Device],
    region: Option<RegionCode>,
    node: Option<&NodeName>,
) -> ControlResult<&'g WireGuardGateway> {
    let mut busy: BTreeMap<&NodeName, usize> = BTreeMap::new();
    for device in devices {
        *busy.entry(&device.gateway).or_default() += 1;
    }
    let fitting = gateways
        .iter()
        .filter(|gateway| region.is_none_or(|region| gateway.region == region))
        .filter(|gateway| node.is_none_or(|node| gateway.node == *node));
    fitting.min_by_key(|gateway| (busy.get(&gateway.node).copied().unwrap_or_default(), &gateway.node)).ok_or_else(
        || {
            let there: Vec<String> =
                gateways.iter().map(|gateway| format!("{} ({})", gateway.node, gateway.region)).collect();
            let text = match there.as_slice() {
                [] => "no server of this platform lets users' devices in".to_owned(),
                some => format!("no gateway is as wanted; there are {}", some.join(", ")),
            };
            ControlError::new(Kind::Precondition, text)
        },
    )
}

/// The network that a device asks for. Only the default one is made on first use.
async fn network_of(
    tx: &WriteTx,
    org: &OrgSlug,
    name: Option<&str>,
    now: u64,
) -> Result<Option<NetworkId>, StoreError> {
    match name.filter(|name| !name.is_empty() && *name != DEFAULT_NETWORK) {
        None => tx.network_ensure(org, DEFAULT_NETWORK, now).await.map(|network| Some(network.id)),
        Some(name) => {
            let found = tx.network_list(org).await?.into_iter().find(|network| network.name == name);
            Ok(found.map(|network| network.id))
        }
    }
}

impl Control {
    /// Where new devices may enter, by name.
    pub fn gateways(&self) -> Vec<WireGuardGateway> {
        let nodes = self.directory.nodes();
        let active = nodes.values().filter(|known| known.node.state == NodeStatus::Active);
        let mut gateways: Vec<_> = active.filter_map(|known| shown_gateway(&known.node)).collect();
        gateways.sort_by(|a, b| a.node.cmp(&b.node));
        gateways
    }

    pub async fn devices(&self, org: &OrgSlug) -> ControlResult<Vec<WireGuardPeer>> {
        let devices = self.store.read(|tx| async move {
            tx.organization_fetch(org).await?;
            tx.devices_of(org).await
        });
        Ok(devices.await?.into_iter().map(|device| self.shown_device(device)).collect())
    }

    /// Lets a device in. Asked again with the same name and key it answers the same.
    pub async fn device_create(
        &self,
        org: &OrgSlug,
        wanted: &WireGuardPeerRequest,
    ) -> ControlResult<Changed<WireGuardEntrance>> {
        let name: &DeviceName = &wanted.name.parse().map_err(|error| ControlError::invalid(format!("{error}")))?;
        let public_key = &wireguard_key(&wanted.public_key)?;
        self.refuse_own_keys(public_key)?;
        let gateways = &self.gateways();
        let now = self.now_ms();
        let made = self.store.write(|tx| async move {
            tx.organization_fetch(org).await?;
            let own = tx.devices_of(org).await?;
            if let Some(known) = own.iter().find(|device| device.name == *name && device.public_key == *public_key) {
                return Ok(Ok((true, known.clone())));
            }
            if own.len() >= MAX_DEVICES {
                let text = format!("organization {org} has {MAX_DEVICES} devices already");
                return Ok(Err(ControlError::new(Kind::Precondition, text)));
            }
            let Some(network) = network_of(&tx, org, wanted.network.as_deref(), now).await? else {
                let network = wanted.network.as_deref().unwrap_or_default();
                return Ok(Err(ControlError::not_found(format!("organization {org} has no network {network:?}"))));
            };
            let gateway = match choose(gateways, &tx.devices().await?, wanted.region, wanted.gateway.as_ref()) {
                Ok(gateway) => gateway.node.clone(),
                Err(refused) => return Ok(Err(refused)),
            };
            let new =
                NewDevice { name: name.clone(), org: org.clone(), network, public_key: public_key.clone(), gateway };
            Ok::<_, StoreError>(Ok((false, tx.device_create(&new, now).await?)))
        });
        let (was_there, device) = made.await.map_err(|error| match error.kind() {
            ErrorKind::Taken => ControlError::new(Kind::NameTaken, error.to_string()),
            _ => error.into(),
        })??;
        self.device_publish(&device).await?;
        let after = self.entrance(device)?;
        Ok(Changed { before: was_there.then(|| after.clone()), after })
    }

    /// Nothing of it is accepted any more, as soon as its gateway hears of it. Says what it was.
    pub async fn device_remove(&self, org: &OrgSlug, name: &DeviceName) -> ControlResult<WireGuardPeer> {
        let removed = self.store.write(|tx| async move { tx.device_remove(org, name).await });
        let removed = removed.await.map_err(|error| device_error(error, org, name))?;
        self.device_publish(&removed).await?;
        Ok(self.shown_device(removed))
    }

    /// How a device does, as its gateway sees it.
    pub async fn device_status(&self, org: &OrgSlug, name: &DeviceName) -> ControlResult<WireGuardPeerStatus> {
        let fetched = self.store.read(|tx| async move { tx.device_fetch(org, name).await }).await;
        let device = fetched.map_err(|error| device_error(error, org, name))?;
        let (heard, link) = match self.device_link(&device).await {
            Ok(link) => (true, link),
            Err(error) => {
                tracing::info!(gateway = %device.gateway, %error, "a gateway does not say how a device does");
                (false, None)
            }
        };
        Ok(WireGuardPeerStatus { entrance: self.entrance(device)?, heard, link })
    }

    async fn device_link(&self, device: &Device) -> ControlResult<Option<WireGuardLink>> {
        let mut request = tonic::Request::new(DeviceRequest { address: device.address.to_string() });
        request.set_timeout(LIMIT);
        let channel = self.directory.channel(&device.gateway)?;
        let reply = PlaceClient::new(channel).device(request).await?.into_inner();
        serde_json::from_slice(&reply.report_json).map_err(ControlError::internal)
    }

    /// Lets everybody know what the records say of a device. Published again if they have changed meanwhile,
    /// so that of two changes at once the later one stays.
    async fn device_publish(&self, device: &Device) -> ControlResult<()> {
        let (org, name) = (&device.org, &device.name);
        let look = async || {
            let found = self.store.read(|tx| async move { tx.device_fetch(org, name).await }).await;
            match found {
                Ok(found) => Ok(Some(found).filter(|found| found.address == device.address)),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        let mut known = look().await?;
        loop {
            match &known {
                Some(device) => self.rows.put(device_row(device)),
                None => self.rows.delete(RowKey::Device(device.address)),
            };
            let now = look().await?;
            if now == known {
                return Ok(());
            }
            known = now;
        }
    }

    /// All devices' rows.
    pub(crate) async fn device_rows(&self) -> ControlResult<Vec<Row>> {
        let devices = self.store.read(|tx| async move { tx.devices().await }).await?;
        Ok(devices.iter().map(device_row).collect())
    }

    /// A server's key is no device's: the server could not let it in.
    fn refuse_own_keys(&self, public_key: &str) -> ControlResult<()> {
        let nodes = self.directory.nodes();
        let is_own = nodes.values().map(|known| &known.node.network).any(|network| {
            network.mesh.as_ref().is_some_and(|mesh| mesh.public_key == public_key)
                || network.gateway.as_ref().is_some_and(|gateway| gateway.public_key == public_key)
        });
        if is_own { Err(ControlError::invalid("the public key is a server's of this platform")) } else { Ok(()) }
    }

    fn shown_device(&self, device: Device) -> WireGuardPeer {
        WireGuardPeer {
            name: device.name,
            network: device.network_name,
            address: device.address,
            public_key: device.public_key,
            region: self.directory.nodes().get(&device.gateway).map(|known| known.node.region),
            gateway: device.gateway,
            created_at_ms: device.created_at_ms,
        }
    }

    fn entrance(&self, device: Device) -> ControlResult<WireGuardEntrance> {
        let gateway = self.directory.nodes().get(&device.gateway).and_then(|known| shown_gateway(&known.node));
        let gone = || ControlError::unavailable(format!("{} lets no devices in any more", device.gateway));
        Ok(WireGuardEntrance {
            allowed: format!("{}/{NETWORK_PREFIX}", network_address(device.network)),
            dns: network_dns(device.network),
            gateway: gateway.ok_or_else(gone)?,
            peer: self.shown_device(device),
        })
    }
}

fn device_error(error: StoreError, org: &OrgSlug, name: &DeviceName) -> ControlError {
    match error.kind() {
        ErrorKind::NotFound => ControlError::not_found(format!("organization {org} has no device {name}")),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(node: &str, region: &str) -> WireGuardGateway {
        WireGuardGateway {
            node: node.parse().unwrap(),
            region: region.parse().unwrap(),
            public_key: "a key".to_owned(),
            endpoint: "192.0.2.1:51821".parse().unwrap(),
            websocket_port: 443,
        }
    }

    fn device(gateway: &str) -> Device {
        Device {
            name: "laptop".parse().unwrap(),
            org: "acme".parse().unwrap(),
            network: NetworkId(1),
            network_name: "default".to_owned(),
            address: "fdaa:0:1::5:2".parse().unwrap(),
            public_key: String::new(),
            gateway: gateway.parse().unwrap(),
            created_at_ms: 0,
        }
    }

    #[test]
    fn a_device_enters_where_it_wants_to_and_else_where_few_do() {
        let gateways = [gateway("ams1", "ams"), gateway("ams2", "ams"), gateway("nrt1", "nrt")];
        let devices = [device("ams1"), device("nrt1"), device("nrt1")];
        let chosen = |region: Option<&str>, node: Option<&str>| {
            let (region, node) = (region.map(|text| text.parse().unwrap()), node.map(|text| text.parse().unwrap()));
            choose(&gateways, &devices, region, node.as_ref()).map(|gateway| gateway.node.to_string())
        };
        assert_eq!(chosen(None, None).unwrap(), "ams2");
        assert_eq!(chosen(Some("nrt"), None).unwrap(), "nrt1");
        assert_eq!(chosen(None, Some("ams1")).unwrap(), "ams1");
        let refused = chosen(Some("nrt"), Some("ams1")).unwrap_err();
        assert_eq!(refused.kind, Kind::Precondition);
        assert!(refused.message.contains("ams1 (ams), ams2 (ams), nrt1 (nrt)"), "{refused}");
        assert!(choose(&[], &[], None, None).unwrap_err().message.contains("no server"));
    }
}
