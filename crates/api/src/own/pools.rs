//! `/api/v1/addresses/pools`: prefixes of the operator's that apps' addresses are of.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use atoll_control::PoolUse;
use atoll_identity::{Action, Target};
use atoll_model::wire::{AddressPoolRequest, AddressPoolSummary};
use atoll_store::AddressPool;

use crate::Api;
use crate::answer::NoContent;
use crate::auth::Auth;
use crate::body::{Body, Params};
use crate::describe::Routes;
use crate::error::ApiResult;

pub fn routes() -> Routes {
    let all = "/api/v1/addresses/pools";
    Routes::default()
        .get(all, "address_pools", "Prefixes that apps' addresses are of", list)
        .post(all, "address_pool_add", "Give a prefix to apps", add)
        .delete(all, "address_pool_remove", "Take a prefix back that no app has an address of", remove)
}

fn shown(used: PoolUse) -> AddressPoolSummary {
    let PoolUse { pool, used, resting, waiting_for } = used;
    AddressPoolSummary {
        prefix: pool.prefix,
        shared: pool.shared,
        local: pool.host_routes,
        used,
        resting,
        waiting_for: waiting_for.into_iter().collect(),
    }
}

/// A pool as the record of changes shows it.
fn audited(pool: &AddressPool) -> Value {
    json!({"prefix": pool.prefix, "shared": pool.shared, "local": pool.host_routes})
}

async fn list(State(api): State<Api>, auth: Auth) -> ApiResult<Json<Vec<AddressPoolSummary>>> {
    auth.may(Action::Read, Target::Nodes)?;
    Ok(Json(api.control.address_pools().await?.into_iter().map(shown).collect()))
}

async fn add(
    State(api): State<Api>,
    auth: Auth,
    Body(request): Body<AddressPoolRequest>,
) -> ApiResult<Json<AddressPoolSummary>> {
    auth.may(Action::Administer, Target::Nodes)?;
    auth.on("pool", &request.prefix);
    let pool = api.control.address_pool_add(&request.prefix, request.shared, request.local).await?;
    auth.became(audited(&pool));
    Ok(Json(shown(PoolUse { pool, used: 0, resting: 0, waiting_for: Default::default() })))
}

#[derive(Deserialize, ToSchema)]
struct Named {
    /// Such as `198.51.100.0/24`.
    prefix: String,
}

async fn remove(State(api): State<Api>, auth: Auth, Params(query): Params<Named>) -> ApiResult<NoContent> {
    auth.may(Action::Administer, Target::Nodes)?;
    auth.on("pool", &query.prefix);
    auth.was(audited(&api.control.address_pool_remove(&query.prefix).await?));
    Ok(NoContent)
}
