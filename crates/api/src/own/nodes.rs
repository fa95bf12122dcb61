//! `/api/v1/nodes`: the platform's servers.

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use atoll_identity::{Action, Target};
use atoll_model::row::NodeState;
use atoll_model::wire::{JoinTokenReply, NodeSummary};
use atoll_model::{NodeName, RegionCode};
use atoll_store::NodeStatus;

use crate::Api;
use crate::auth::Auth;
use crate::body::Body;
use crate::error::{ApiError, ApiResult};

pub fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/nodes", get(list))
        .route("/api/v1/nodes/tokens", post(token))
        .route("/api/v1/nodes/{node}/{verb}", post(change))
}

async fn list(State(api): State<Api>, auth: Auth) -> ApiResult<Json<Vec<NodeSummary>>> {
    auth.may(Action::Read, Target::Nodes)?;
    let nodes = api.control.nodes().await?;
    let text = |address: Option<std::net::SocketAddr>| address.map(|a| a.to_string()).unwrap_or_default();
    let shown = nodes
        .into_iter()
        .filter(|overview| overview.node.state != NodeStatus::Removed)
        .map(|overview| NodeSummary {
            state: match overview.node.state {
                NodeStatus::Active => NodeState::Active,
                NodeStatus::Draining => NodeState::Draining,
                NodeStatus::Revoked | NodeStatus::Removed => NodeState::Revoked,
            },
            name: overview.node.name,
            region: overview.node.region,
            epoch: overview.node.epoch,
            backhaul: text(overview.node.backhaul),
            worker_rpc: text(overview.node.worker_rpc),
            cpus: overview.node.cpus,
            memory_mb: overview.node.memory_mb,
            machines: overview.machines,
            reachable: overview.heard,
            runs_control: overview.runs_control,
        })
        .collect();
    Ok(Json(shown))
}

#[derive(Deserialize, Default)]
struct TokenBody {
    /// The only region that the new server may take.
    #[serde(default)]
    region: Option<RegionCode>,
}

async fn token(State(api): State<Api>, auth: Auth, Body(body): Body<TokenBody>) -> ApiResult<Json<JoinTokenReply>> {
    auth.may(Action::Administer, Target::Nodes)?;
    let made = api.control.node_token_create(&auth.name(), body.region).await?;
    Ok(Json(JoinTokenReply {
        token: made.token.to_string(),
        expires_at_ms: made.expires_at_ms,
        control: api.control.settings.advertised_rpc.clone(),
    }))
}

#[derive(Deserialize, Default)]
struct ChangeBody {
    #[serde(default)]
    lost: bool,
}

async fn change(
    State(api): State<Api>,
    auth: Auth,
    Path((node, verb)): Path<(String, String)>,
    Body(body): Body<ChangeBody>,
) -> ApiResult<Json<Value>> {
    auth.may(Action::Administer, Target::Nodes)?;
    let node: NodeName = node.parse().map_err(|error| ApiError::of_path(&error))?;
    let state = match verb.as_str() {
        "drain" => NodeStatus::Draining,
        "undrain" => NodeStatus::Active,
        "revoke" => NodeStatus::Revoked,
        "remove" if body.lost => {
            let machines = api.control.node_remove_lost(&node).await?;
            return Ok(Json(json!({"ok": true, "machines_given_up": machines})));
        }
        "remove" => {
            return Err(ApiError::invalid("only a server that is gone for good can be removed: send {\"lost\": true}"));
        }
        _ => return Err(ApiError::not_found(format!("there is no {verb:?} for a server"))),
    };
    api.control.node_set_state(&node, state).await?;
    Ok(Json(json!({"ok": true})))
}
