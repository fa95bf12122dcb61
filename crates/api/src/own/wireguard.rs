//! `/api/v1/orgs/{org}/wireguard/peers`: users' devices in private networks. Private keys stay with them.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use atoll_identity::{Action, Target};
use atoll_model::wire::{
    WireGuardEntrance, WireGuardGateway, WireGuardPeer, WireGuardPeerRequest, WireGuardPeerStatus,
};
use atoll_model::{DeviceName, OrgSlug};

use crate::Api;
use crate::answer::NoContent;
use crate::auth::Auth;
use crate::body::Body;
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};

pub fn routes() -> Routes {
    let all = "/api/v1/orgs/{org_slug}/wireguard/peers";
    let one = "/api/v1/orgs/{org_slug}/wireguard/peers/{peer_name}";
    Routes::default()
        .get("/api/v1/wireguard/gateways", "wireguard_gateways", "Servers at which users' devices enter", gateways)
        .get(all, "wireguard_peers", "Users' devices in an organization's private networks", list)
        .post(all, "wireguard_peer_create", "Let a device into a private network", create)
        .get(one, "wireguard_peer", "How a device does, as its gateway sees it", status)
        .delete(one, "wireguard_peer_remove", "Shut a device out", remove)
}

async fn gateways(State(api): State<Api>, auth: Auth) -> ApiResult<Json<Vec<WireGuardGateway>>> {
    auth.may(Action::Read, Target::Platform)?;
    Ok(Json(api.control.gateways()))
}

async fn list(State(api): State<Api>, auth: Auth, Path(org): Path<String>) -> ApiResult<Json<Vec<WireGuardPeer>>> {
    let org = auth.org(&org, Action::Read)?;
    Ok(Json(api.control.devices(&org).await?))
}

/// A device as the record of changes shows it.
fn audited(peer: &WireGuardPeer) -> Value {
    json!({
        "network": peer.network, "address": peer.address, "public_key": peer.public_key, "gateway": peer.gateway,
    })
}

async fn create(
    State(api): State<Api>,
    auth: Auth,
    Path(org): Path<String>,
    Body(wanted): Body<WireGuardPeerRequest>,
) -> ApiResult<Json<WireGuardEntrance>> {
    let org = auth.org(&org, Action::Change)?;
    auth.on("peer", &wanted.name);
    let made = api.control.device_create(&org, &wanted).await?;
    auth.changed(&made, |entrance| audited(&entrance.peer));
    Ok(Json(made.after))
}

fn device(org: &OrgSlug, name: &str) -> ApiResult<DeviceName> {
    name.parse().map_err(|_| ApiError::not_found(format!("organization {org} has no device {name:?}")))
}

async fn status(
    State(api): State<Api>,
    auth: Auth,
    Path((org, name)): Path<(String, String)>,
) -> ApiResult<Json<WireGuardPeerStatus>> {
    let org = auth.org(&org, Action::Read)?;
    Ok(Json(api.control.device_status(&org, &device(&org, &name)?).await?))
}

async fn remove(State(api): State<Api>, auth: Auth, Path((org, name)): Path<(String, String)>) -> ApiResult<NoContent> {
    let org = auth.org(&org, Action::Change)?;
    auth.was(audited(&api.control.device_remove(&org, &device(&org, &name)?).await?));
    Ok(NoContent)
}
