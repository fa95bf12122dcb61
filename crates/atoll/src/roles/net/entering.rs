//! Tells control where this server is in the network.

use std::time::Duration;

use tonic::transport::Channel;

use atoll_catalogue::watch::ReplicaHandle;
use atoll_model::row::NodeRow;
use atoll_rpc::proto::control::EnterNetworkRequest;
use atoll_rpc::proto::control::nodes_client::NodesClient;

use crate::node::state::NodeFile;

/// Before control is told again.
const ENTER_AGAIN: Duration = Duration::from_secs(2);

/// Sees to it that everybody knows where this server is: whenever the catalogue says otherwise, also after
/// control's records were restored from an old backup, control is told.
pub async fn stay_entered(entered: EnterNetworkRequest, node: NodeFile, control: Channel, replica: ReplicaHandle) {
    let mut changes = replica.subscribe();
    loop {
        changes.mark_unchanged();
        if replica.snapshot().node(&node.name).is_some_and(|row| says(row, &entered)) {
            if changes.changed().await.is_err() {
                return;
            }
            continue;
        }
        match NodesClient::new(control.clone()).enter_network(entered.clone()).await {
            Ok(_) => tracing::debug!("control knows where this server is"),
            Err(status) => tracing::warn!(reason = status.message(), "control does not note yet where this server is"),
        }
        tokio::time::sleep(ENTER_AGAIN).await;
    }
}

/// Whether everybody knows what this server said.
fn says(row: &NodeRow, entered: &EnterNetworkRequest) -> bool {
    let mesh = match (&row.mesh, &entered.mesh) {
        (Some(known), Some(own)) => known.public_key == own.public_key && u32::from(known.endpoint.port()) == own.port,
        (known, own) => known.is_none() && own.is_none(),
    };
    let gateway = match (&row.gateway, &entered.gateway) {
        (Some(known), Some(own)) => {
            known.public_key == own.public_key
                && u32::from(known.endpoint.port()) == own.port
                && u32::from(known.websocket_port) == own.websocket_port
        }
        (known, own) => known.is_none() && own.is_none(),
    };
    // Where none was said, control puts one.
    let addresses = row.public_addresses.iter().map(ToString::to_string);
    let rpc = match (&row.mesh, &entered.mesh) {
        (Some(known), Some(own)) => known.rpc.is_some_and(|rpc| u32::from(rpc.port()) == own.rpc_port),
        _ => true,
    };
    let told = entered.public_addresses.is_empty() || addresses.eq(entered.public_addresses.iter().cloned());
    let egress = row.egress_addresses.iter().map(ToString::to_string).eq(entered.egress_addresses.iter().cloned());
    mesh && rpc && gateway && told && egress && row.zones == entered.zones
}
