//! A device's configuration, in the form that WireGuard's own tools and apps read.

use atoll_mesh::PrivateKey;
use atoll_model::wire::WireGuardEntrance;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Seconds; address translators forget silent flows after half a minute.
const KEEPALIVE: u16 = 25;
/// Leading bits of a device's own addresses.
const OWN_PREFIX: u8 = 120;

/// Without the private key a line says where it belongs. `through`: whom to send to instead of the gateway.
pub fn config(entrance: &WireGuardEntrance, private_key: Option<&PrivateKey>, through: Option<&str>) -> String {
    let WireGuardEntrance { peer, allowed, dns, gateway } = entrance;
    let private_key = match private_key {
        Some(key) => format!("PrivateKey = {}", BASE64_STANDARD.encode(key.expose())),
        None => "# PrivateKey = of this device".to_owned(),
    };
    let endpoint = through.map_or_else(|| gateway.endpoint.to_string(), str::to_owned);
    format!(
        "[Interface]\n\
         {private_key}\n\
         Address = {}/{OWN_PREFIX}\n\
         DNS = {dns}\n\
         \n\
         [Peer]\n\
         # {} in {}\n\
         PublicKey = {}\n\
         AllowedIPs = {allowed}\n\
         Endpoint = {endpoint}\n\
         PersistentKeepalive = {KEEPALIVE}\n",
        peer.address, gateway.node, gateway.region, gateway.public_key,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_what_stock_clients_read() {
        let entrance: WireGuardEntrance = serde_json::from_value(serde_json::json!({
            "peer": {"name": "laptop", "network": "default", "address": "fdaa:0:18::7:2", "public_key": "device",
                     "gateway": "ams1", "created_at_ms": 0},
            "allowed": "fdaa:0:18::/48",
            "dns": "fdaa:0:18::3",
            "gateway": {"node": "ams1", "region": "ams", "public_key": "gateway", "endpoint": "[2001:db8::1]:51821",
                        "websocket_port": 443},
        }))
        .unwrap();
        let key = PrivateKey::from_bytes([9; 32]);
        let expected = "[Interface]
PrivateKey = CAkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCUk=
Address = fdaa:0:18::7:2/120
DNS = fdaa:0:18::3

[Peer]
# ams1 in ams
PublicKey = gateway
AllowedIPs = fdaa:0:18::/48
Endpoint = [2001:db8::1]:51821
PersistentKeepalive = 25
";
        assert_eq!(config(&entrance, Some(&key), None), expected);
        let through = config(&entrance, None, Some("127.0.0.1:51821"));
        assert!(through.contains("# PrivateKey = of this device"), "{through}");
        assert!(through.contains("Endpoint = 127.0.0.1:51821"), "{through}");
    }
}
