//! `/v1/apps/{app}/network_policies`: which connections machines may take and open.

use axum::Json;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use atoll_identity::Action;
use atoll_model::policy::NetworkPolicy;
use atoll_store::PolicyRecord;

use crate::Api;
use crate::answer::NoContent;
use crate::auth::Auth;
use crate::body::Body;
use crate::describe::Routes;
use crate::error::ApiResult;

pub fn routes() -> Routes {
    let (all, one) = ("/v1/apps/{app_name}/network_policies", "/v1/apps/{app_name}/network_policies/{policy_id}");
    Routes::default()
        .get(all, "NetworkPolicies_list", "An app's network policies", list)
        .post(all, "NetworkPolicies_put", "Make a network policy, or change the one with this id", put)
        .delete(one, "NetworkPolicies_delete", "Remove a network policy", remove)
}

/// Rules only allow. The first one for a direction closes what no rule names. Holds at once, for connections
/// that are opened from then on.
#[derive(Serialize, ToSchema)]
#[schema(as = NetworkPolicy)]
struct Shown {
    id: String,
    #[serde(flatten)]
    policy: NetworkPolicy,
}

impl From<PolicyRecord> for Shown {
    fn from(PolicyRecord { id, policy }: PolicyRecord) -> Self {
        Self { id, policy }
    }
}

#[derive(Deserialize, Default, ToSchema)]
#[schema(as = NetworkPolicyRequest)]
struct Wanted {
    /// Of the policy to change; absent: a new one.
    #[serde(default)]
    id: Option<String>,
    #[serde(flatten)]
    policy: NetworkPolicy,
}

async fn list(State(api): State<Api>, auth: Auth, Path(app): Path<String>) -> ApiResult<Json<Vec<Shown>>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let policies = api.control.policies(&app.name).await?;
    Ok(Json(policies.into_iter().map(Shown::from).collect()))
}

async fn put(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Body(Wanted { id, policy }): Body<Wanted>,
) -> ApiResult<Json<Shown>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    // Clients send the fields that they do not set empty.
    let id = id.filter(|id| !id.is_empty());
    let put = api.control.policy_put(&app.name, id, policy).await?;
    auth.on("policy", &put.after.id);
    auth.changed(&put, |record| json!(record.policy));
    Ok(Json(put.after.into()))
}

async fn remove(State(api): State<Api>, auth: Auth, Path((app, id)): Path<(String, String)>) -> ApiResult<NoContent> {
    let app = auth.app(&api, &app, Action::Change).await?;
    auth.was(json!(api.control.policy_delete(&app.name, &id).await?.policy));
    Ok(NoContent)
}
