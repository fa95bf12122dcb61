//! `GET /metrics` at the API: what all processes of this server say, for whoever may see its nodes.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::future::join_all;

use atoll_control::Control;
use atoll_identity::{Action, AuthError, Target, authenticate};
use atoll_signals::metrics::{self, merge};

use crate::node::metrics::scrape;
use crate::node::state::StateDir;

const PROCESSES: [&str; 5] = ["supervisor", "control", "worker", "edge", "net"];

#[derive(Clone)]
pub struct Gather {
    pub control: Arc<Control>,
    pub state: StateDir,
}

pub fn routes(gather: Gather) -> Router {
    Router::new().route("/metrics", get(answer)).with_state(gather)
}

async fn answer(State(gather): State<Gather>, headers: HeaderMap) -> Response {
    let header = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let caller = match authenticate(&gather.control.store, header, gather.control.now_ms()).await {
        Ok(caller) => caller,
        Err(error @ AuthError::Unauthenticated) => return refuse(StatusCode::UNAUTHORIZED, &error),
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, &error),
    };
    if let Err(denied) = caller.authorize(Action::Read, Target::Nodes) {
        return refuse(StatusCode::FORBIDDEN, &denied);
    }
    let texts = join_all(PROCESSES.map(|process| {
        let socket = gather.state.metrics_socket(process);
        async move {
            // A process that is down is seen by its absence; the others are wanted all the more.
            let said = scrape(&socket).await;
            said.inspect_err(|error| tracing::debug!(process, error = format!("{error:#}"), "no metrics"))
                .unwrap_or_default()
        }
    }));
    let texts = texts.await;
    let merged = merge(texts.iter().map(String::as_str));
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], merged).into_response()
}

fn refuse(status: StatusCode, error: &dyn std::error::Error) -> Response {
    (status, format!("{error}\n")).into_response()
}
