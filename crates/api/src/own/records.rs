//! `GET /api/v1/control/backup`: a consistent copy of control's records, for either engine.

use axum::extract::State;

use atoll_identity::{Action, Target};

use crate::Api;
use crate::answer::Zstd;
use crate::auth::Auth;
use crate::describe::Routes;
use crate::error::ApiResult;

pub fn routes() -> Routes {
    Routes::default().get("/api/v1/control/backup", "backup", "A consistent copy of control's records", backup)
}

async fn backup(State(api): State<Api>, auth: Auth) -> ApiResult<Zstd> {
    auth.may(Action::Administer, Target::Nodes)?;
    Ok(Zstd(api.control.backup().await?))
}
