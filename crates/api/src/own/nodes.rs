//! `/api/v1/nodes`: the platform's servers.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use atoll_deploy::{Leaving, Outlook};
use atoll_identity::{Action, Target};
use atoll_model::row::NodeState;
use atoll_model::wire::{JoinTokenReply, LeavingMachine, NodeSummary};
use atoll_model::{NodeName, RegionCode};
use atoll_store::NodeStatus;

use crate::Api;
use crate::auth::Auth;
use crate::body::OptionalBody;
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};

pub fn routes() -> Routes {
    Routes::default()
        .get("/api/v1/nodes", "nodes", "The platform's servers", list)
        .post("/api/v1/nodes/tokens", "node_token_create", "A token that one new server joins with", token)
        .post("/api/v1/nodes/{node}/{verb}", "node_change", "drain, undrain, revoke or remove a server", change)
}

async fn list(State(api): State<Api>, auth: Auth) -> ApiResult<Json<Vec<NodeSummary>>> {
    auth.may(Action::Read, Target::Nodes)?;
    let nodes = api.control.nodes().await?;
    let mut leaving = BTreeMap::new();
    for overview in nodes.iter().filter(|overview| overview.node.state == NodeStatus::Draining) {
        let name = &overview.node.name;
        leaving.insert(name.clone(), api.deploys.leaving(name).await?.into_iter().map(shown_leaving).collect());
    }
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
            leaving: leaving.remove(&overview.node.name).unwrap_or_default(),
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

fn shown_leaving(leaving: Leaving) -> LeavingMachine {
    let (to, moving, why) = match leaving.outlook {
        Outlook::Moving { to } => (Some(to), true, String::new()),
        Outlook::Next { to } => (Some(to), false, String::new()),
        Outlook::Stays { why } => (None, false, why),
    };
    LeavingMachine { id: leaving.machine, app: leaving.app, to, moving, why }
}

#[derive(Deserialize, Default, ToSchema)]
#[schema(as = JoinTokenRequest)]
struct TokenBody {
    /// The only region that the new server may take.
    #[serde(default)]
    region: Option<RegionCode>,
}

async fn token(
    State(api): State<Api>,
    auth: Auth,
    OptionalBody(body): OptionalBody<TokenBody>,
) -> ApiResult<Json<JoinTokenReply>> {
    auth.may(Action::Administer, Target::Nodes)?;
    let made = api.control.node_token_create(&auth.name(), body.region).await?;
    auth.became(json!({"region": body.region, "expires_at_ms": made.expires_at_ms}));
    Ok(Json(JoinTokenReply {
        token: made.token.to_string(),
        expires_at_ms: made.expires_at_ms,
        control: api.control.settings.advertised_rpc.clone(),
    }))
}

#[derive(Deserialize, Default, ToSchema)]
#[schema(as = NodeChangeRequest)]
struct ChangeBody {
    /// For `remove`: the server is gone for good.
    #[serde(default)]
    lost: bool,
}

#[derive(Serialize, ToSchema)]
struct NodeChanged {
    ok: bool,
    /// Those that were on a removed server.
    #[serde(skip_serializing_if = "Option::is_none")]
    machines_given_up: Option<usize>,
}

/// A server's state as the record of changes shows it.
fn audited(state: &NodeStatus) -> Value {
    json!({"state": state})
}

async fn change(
    State(api): State<Api>,
    auth: Auth,
    Path((node, verb)): Path<(String, String)>,
    OptionalBody(body): OptionalBody<ChangeBody>,
) -> ApiResult<Json<NodeChanged>> {
    auth.may(Action::Administer, Target::Nodes)?;
    let node: NodeName = node.parse().map_err(|error| ApiError::of_path(&error))?;
    let state = match verb.as_str() {
        "drain" => NodeStatus::Draining,
        "undrain" => NodeStatus::Active,
        "revoke" => NodeStatus::Revoked,
        "remove" if body.lost => {
            let (state, machines) = api.control.node_remove_lost(&node).await?;
            auth.changed(&state, audited);
            return Ok(Json(NodeChanged { ok: true, machines_given_up: Some(machines) }));
        }
        "remove" => {
            return Err(ApiError::invalid("only a server that is gone for good can be removed: send {\"lost\": true}"));
        }
        _ => return Err(ApiError::not_found(format!("there is no {verb:?} for a server"))),
    };
    auth.changed(&api.control.node_set_state(&node, state).await?, audited);
    Ok(Json(NodeChanged { ok: true, machines_given_up: None }))
}
