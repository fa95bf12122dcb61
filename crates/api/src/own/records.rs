//! `GET /api/v1/control/backup`: a consistent copy of control's records, for either engine.

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use atoll_identity::{Action, Target};

use crate::Api;
use crate::auth::Auth;
use crate::error::ApiResult;

pub fn routes() -> Router<Api> {
    Router::new().route("/api/v1/control/backup", get(backup))
}

async fn backup(State(api): State<Api>, auth: Auth) -> ApiResult<Response> {
    auth.may(Action::Administer, Target::Nodes)?;
    let bytes = api.control.backup().await?;
    Ok(([(CONTENT_TYPE, "application/zstd")], Body::from(bytes)).into_response())
}
