//! `GET /api/v1/mesh`: how the servers reach each other through the mesh.

use axum::Json;
use axum::extract::State;

use atoll_identity::{Action, Target};
use atoll_model::wire::MeshExamination;

use crate::Api;
use crate::auth::Auth;
use crate::describe::Routes;
use crate::error::ApiResult;

pub fn routes() -> Routes {
    Routes::default().get(
        "/api/v1/mesh",
        "mesh",
        "How the servers reach each other, and what is wrong with it",
        examine,
    )
}

async fn examine(State(api): State<Api>, auth: Auth) -> ApiResult<Json<MeshExamination>> {
    auth.may(Action::Read, Target::Nodes)?;
    Ok(Json(api.control.mesh_examine().await))
}
