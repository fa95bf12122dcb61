//! Users' devices in private networks: WireGuard peers.

use std::net::{Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{DeviceName, NodeName, RegionCode};

/// `POST /api/v1/orgs/{org}/wireguard/peers`
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct WireGuardPeerRequest {
    /// Unique in the organization: 1 to 63 characters of a-z, 0-9 and '-'.
    #[schema(required)]
    pub name: String,
    /// Of the device, 32 bytes in base64. The private key stays there.
    #[schema(required)]
    pub public_key: String,
    /// A network of the organization [default: its default one].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Where it is to enter [default: anywhere].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionCode>,
    /// At which server it is to enter [default: any of the region].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<NodeName>,
}

/// A user's device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WireGuardPeer {
    pub name: DeviceName,
    /// The network's name.
    pub network: String,
    #[schema(value_type = String)]
    pub address: Ipv6Addr,
    pub public_key: String,
    /// The server at which it enters.
    pub gateway: NodeName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<RegionCode>,
    pub created_at_ms: u64,
}

/// All that a device needs to know beside its own private key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WireGuardEntrance {
    pub peer: WireGuardPeer,
    /// Where its network's addresses lie, such as `fdaa:0:18::/48`.
    pub allowed: String,
    /// Answers its questions for names.
    #[schema(value_type = String)]
    pub dns: Ipv6Addr,
    pub gateway: WireGuardGateway,
}

/// A server at which devices enter; `GET /api/v1/wireguard/gateways` lists them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WireGuardGateway {
    pub node: NodeName,
    pub region: RegionCode,
    pub public_key: String,
    /// UDP.
    #[schema(value_type = String)]
    pub endpoint: SocketAddr,
    /// TCP, at the same address: WireGuard in a WebSocket.
    pub websocket_port: u16,
}

impl WireGuardGateway {
    /// Where datagrams in WebSockets go.
    pub fn websocket(&self) -> SocketAddr {
        SocketAddr::new(self.endpoint.ip(), self.websocket_port)
    }
}

/// `GET /api/v1/orgs/{org}/wireguard/peers/{name}`
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WireGuardPeerStatus {
    #[serde(flatten)]
    pub entrance: WireGuardEntrance,
    /// The gateway answered.
    pub heard: bool,
    /// What the gateway said; absent if it does not let the device in, or not yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<WireGuardLink>,
}

/// How a gateway sees a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct WireGuardLink {
    /// Where it spoke from last; the gateway's own loopback if through a WebSocket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub endpoint: Option<SocketAddr>,
    /// When keys were last agreed on, in seconds since 1970; absent if never, or not lately.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake: Option<u64>,
    /// Since the gateway's net process began.
    pub rx_bytes: u64,
    pub tx_bytes: u64,
}
