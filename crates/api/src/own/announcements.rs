//! `GET /api/v1/announcements`: which addresses the places of the platform announce by BGP.

use axum::Json;
use axum::extract::State;

use atoll_identity::{Action, Target};
use atoll_model::wire::PlaceAnnouncements;

use crate::Api;
use crate::auth::Auth;
use crate::describe::Routes;
use crate::error::ApiResult;

pub fn routes() -> Routes {
    Routes::default().get("/api/v1/announcements", "announcements", "What each place announces, and why", list)
}

async fn list(State(api): State<Api>, auth: Auth) -> ApiResult<Json<Vec<PlaceAnnouncements>>> {
    auth.may(Action::Read, Target::Nodes)?;
    Ok(Json(api.control.announcements().await))
}
