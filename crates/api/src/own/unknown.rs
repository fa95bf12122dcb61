//! `/api/v1/machines/unknown`: machines that servers have and the records do not.

use axum::Json;
use axum::extract::{Path, State};

use atoll_identity::{Action, Target};
use atoll_model::wire::UnknownMachine;

use crate::Api;
use crate::answer::NoContent;
use crate::auth::{Auth, machine_id};
use crate::describe::Routes;
use crate::error::ApiResult;

pub fn routes() -> Routes {
    let all = "/api/v1/machines/unknown";
    let listed = "Machines that servers have and the records do not, as after a restore, and why they stay so";
    Routes::default().get(all, "machines_unknown", listed, list).delete(
        "/api/v1/machines/unknown/{machine_id}",
        "machine_unknown_destroy",
        "Destroy a machine that the records do not have",
        destroy,
    )
}

async fn list(State(api): State<Api>, auth: Auth) -> ApiResult<Json<Vec<UnknownMachine>>> {
    auth.may(Action::Administer, Target::Nodes)?;
    let unknown = api.control.machines_unknown().into_iter().map(|found| UnknownMachine {
        id: found.row.id,
        app: found.row.app.clone(),
        state: found.row.state,
        region: found.row.region,
        node: found.row.node.clone(),
        why: found.why,
    });
    Ok(Json(unknown.collect()))
}

async fn destroy(State(api): State<Api>, auth: Auth, Path(machine): Path<String>) -> ApiResult<NoContent> {
    auth.may(Action::Administer, Target::Nodes)?;
    api.control.machine_unknown_destroy(machine_id(&machine)?).await?;
    Ok(NoContent)
}
