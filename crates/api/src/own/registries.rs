//! `/api/v1/registries`: how to pull from other registries. Passwords go in and never come out.

use axum::Json;
use axum::extract::{Path, State};

use atoll_identity::{Action, Target};
use atoll_model::wire::{RegistryRequest, RegistrySummary};

use crate::Api;
use crate::answer::NoContent;
use crate::auth::Auth;
use crate::body::Body;
use crate::describe::Routes;
use crate::error::ApiResult;

pub fn routes() -> Routes {
    let one = "/api/v1/registries/{host}";
    Routes::default()
        .get("/api/v1/registries", "registries", "Registries that have a login here, or that lack TLS", list)
        .put(one, "registry_set", "Keep a login at a registry", set)
        .delete(one, "registry_remove", "Forget a registry's login", remove)
}

async fn list(State(api): State<Api>, auth: Auth) -> ApiResult<Json<Vec<RegistrySummary>>> {
    auth.may(Action::Administer, Target::Nodes)?;
    Ok(Json(api.control.registries().await?))
}

async fn set(
    State(api): State<Api>,
    auth: Auth,
    Path(host): Path<String>,
    Body(request): Body<RegistryRequest>,
) -> ApiResult<NoContent> {
    auth.may(Action::Administer, Target::Nodes)?;
    api.control.registry_set(&host, request).await?;
    Ok(NoContent)
}

async fn remove(State(api): State<Api>, auth: Auth, Path(host): Path<String>) -> ApiResult<NoContent> {
    auth.may(Action::Administer, Target::Nodes)?;
    api.control.registry_remove(&host).await?;
    Ok(NoContent)
}
