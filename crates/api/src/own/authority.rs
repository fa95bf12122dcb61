//! `/api/v1/control/authority`: the platform's root, and its replacement.

use axum::Json;
use axum::extract::State;

use atoll_identity::{Action, Target};
use atoll_model::wire::{AuthorityView, RotateRootRequest};

use crate::Api;
use crate::auth::Auth;
use crate::body::Body;
use crate::describe::Routes;
use crate::error::ApiResult;

pub fn routes() -> Routes {
    Routes::default()
        .get("/api/v1/control/authority", "authority", "The platform's root, and how far its replacement is", show)
        .post("/api/v1/control/authority/rotate", "authority_rotate", "Begin to replace the platform's root", rotate)
}

async fn show(State(api): State<Api>, auth: Auth) -> ApiResult<Json<AuthorityView>> {
    auth.may(Action::Read, Target::Nodes)?;
    Ok(Json(api.control.authority_view()))
}

async fn rotate(
    State(api): State<Api>,
    auth: Auth,
    Body(request): Body<RotateRootRequest>,
) -> ApiResult<Json<AuthorityView>> {
    auth.may(Action::Administer, Target::Nodes)?;
    Ok(Json(api.control.authority_rotate(request.old_key_lost)?))
}
