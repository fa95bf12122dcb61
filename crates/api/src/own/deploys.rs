//! Deploys, releases and scale of an app, and the app as a whole.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body as Stream, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;

use atoll_deploy::EventFeed;
use atoll_identity::Action;
use atoll_model::wire::{AppStatus, DeployAccepted, DeployRequest, ReleaseView, ScaleRequest};

use crate::Api;
use crate::auth::Auth;
use crate::body::Body;
use crate::error::{ApiError, ApiResult};

/// A stream that is silent for longer might be cut by something in between.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

pub fn routes() -> Router<Api> {
    Router::new()
        .route("/api/v1/apps/{app}", get(status))
        .route("/api/v1/apps/{app}/deploys", post(deploy))
        .route("/api/v1/apps/{app}/releases", get(releases))
        .route("/api/v1/apps/{app}/releases/{version}/events", get(events))
        .route("/api/v1/apps/{app}/scale", put(scale))
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
) -> ApiResult<(StatusCode, Json<DeployAccepted>)> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let accepted = api.deploys.start(&app.name, &request, &auth.name()).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

async fn releases(State(api): State<Api>, auth: Auth, Path(app): Path<String>) -> ApiResult<Json<Vec<ReleaseView>>> {
    let app = auth.app(&api, &app, Action::Read).await?;
    Ok(Json(api.deploys.releases(&app.name).await?))
}

async fn scale(
    State(api): State<Api>,
    auth: Auth,
    Path(app): Path<String>,
    Body(request): Body<Option<ScaleRequest>>,
) -> ApiResult<(StatusCode, Json<DeployAccepted>)> {
    let app = auth.app(&api, &app, Action::Change).await?;
    let request = request.ok_or_else(|| ApiError::invalid("counts is required"))?;
    let accepted = api.deploys.scale(&app.name, &request, &auth.name()).await?;
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

#[derive(Deserialize)]
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
    Query(query): Query<EventsQuery>,
) -> ApiResult<Response> {
    let app = auth.app(&api, &app, Action::Read).await?;
    let version = version
        .parse::<u32>()
        .map_err(|_| ApiError::not_found(format!("{version:?} is no release: write its number")))?;
    let feed = api.deploys.release_events(&app.name, version.into(), query.after).await?;
    let lines = futures_util::stream::unfold(Some(feed), next_line);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Stream::from_stream(lines)).into_response())
}

async fn next_line(feed: Option<EventFeed>) -> Option<(Result<Bytes, Infallible>, Option<EventFeed>)> {
    let mut feed = feed?;
    let event = match tokio::time::timeout(KEEP_ALIVE, feed.next()).await {
        Err(_) => return Some((Ok(Bytes::from_static(b"\n")), Some(feed))),
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
    Some((Ok(line.into()), Some(feed)))
}
