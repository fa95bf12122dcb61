//! Deploys, releases and scale of an app, and the app as a whole.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use serde::Deserialize;
use utoipa::ToSchema;

use atoll_deploy::EventFeed;
use atoll_identity::Action;
use atoll_model::wire::{AppStatus, DeployAccepted, DeployEvent, DeployRequest, ReleaseView, ScaleRequest};

use crate::Api;
use crate::answer::{Accepted, Lines};
use crate::auth::Auth;
use crate::body::{Body, Params};
use crate::describe::Routes;
use crate::error::{ApiError, ApiResult};

/// A stream that is silent for longer might be cut by something in between.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub fn routes() -> Routes {
    let app = "/api/v1/apps/{app_name}";
    let under = |path: &str| format!("{app}/{path}");
    Routes::default()
        .get(app, "app_status", "An app, its release and its machines", status)
        .post(&under("deploys"), "deploy", "Begin a deploy", deploy)
        .get(&under("releases"), "releases", "The releases of an app, newest first", releases)
        .get(&under("releases/{version}/events"), "release_events", "What a deploy does, as it happens", events)
        .put(&under("scale"), "scale", "Change how many machines an app has", scale)
}

async fn status(State(api): State<Api>, auth: Auth, Path(app): Path<String>) -> ApiResult<Json<AppStatus>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    Ok(Json(api.deploys.status(&app.name).await?))
}

async fn deploy(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Body(request): Body<DeployRequest>,
) -> ApiResult<Accepted<DeployAccepted>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let accepted = api.deploys.start(&app.name, &request, &auth.name()).await?;
    auth.on("release", accepted.release);
    Ok(Accepted(accepted))
}

async fn releases(State(api): State<Api>, auth: Auth, Path(app): Path<String>) -> ApiResult<Json<Vec<ReleaseView>>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    Ok(Json(api.deploys.releases(&app.name).await?))
}

async fn scale(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Body(request): Body<ScaleRequest>,
) -> ApiResult<Accepted<DeployAccepted>> {
    let app = auth.app(&api, &app, Action::Change).await?;
    if request.counts.is_empty() {
        return Err(ApiError::invalid("counts is required"));
    }
    let accepted = api.deploys.scale(&app.name, &request, &auth.name()).await?;
    auth.on("release", accepted.release);
    Ok(Accepted(accepted))
}

#[derive(Deserialize, ToSchema)]
struct EventsQuery {
    /// Index of the first event to show.
    #[serde(default)]
    after: u64,
}

/// A line of JSON an event, until the last one; empty lines while nothing happens.
async fn events(
    State(api): State<Api>,
    auth: Auth,
    Path((app, version)): Path<(String, String)>,
    Params(query): Params<EventsQuery>,
) -> ApiResult<Lines<DeployEvent>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let version = version
        .parse::<u32>()
        .map_err(|_| ApiError::not_found(format!("{version:?} is no release: write its number")))?;
    let feed = api.deploys.release_events(&app.name, version.into(), query.after).await?;
    Ok(Lines::stream(futures_util::stream::unfold(Some(feed), next_line)))
}

async fn next_line(feed: Option<EventFeed>) -> Option<(Bytes, Option<EventFeed>)> {
    let mut feed = feed?;
    let event = match tokio::time::timeout(KEEP_ALIVE, feed.next()).await {
        Err(_) => return Some((Bytes::from_static(b"\n"), Some(feed))),
        Ok(Ok(event)) => event?,
        Ok(Err(error)) => {
            // The client comes again where it was.
            tracing::warn!(%error, ?error, "cannot follow a deploy");
            return None;
        }
    };
    // An event holds only texts and numbers, so it always has a JSON form.
    let mut line = serde_json::to_vec(&event).unwrap_or_default();
    line.push(b'\n');
    Some((line.into(), Some(feed)))
}
