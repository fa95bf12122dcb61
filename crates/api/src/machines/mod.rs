//! `/v1/apps/{app}/machines`: the Machines API. Shapes and texts follow its documentation and what
//! its clients match on.

mod calls;
mod create;
mod exec;
mod lease;
mod metadata;
mod read;
pub(crate) mod view;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{get, post};

use crate::Api;

pub fn routes() -> Router<Api> {
    let machine = "/v1/apps/{app}/machines/{id}";
    let under = |path: &str| format!("{machine}/{path}");
    Router::new()
        .route("/v1/apps/{app}/machines", get(read::list).post(create::create))
        .route(machine, get(read::show).post(create::update).delete(calls::destroy))
        .route(&under("start"), post(calls::start))
        .route(&under("stop"), post(calls::stop))
        .route(&under("suspend"), post(calls::suspend))
        .route(&under("restart"), post(calls::restart))
        .route(&under("signal"), post(calls::signal))
        .route(&under("cordon"), post(calls::cordon))
        .route(&under("uncordon"), post(calls::uncordon))
        .route(&under("wait"), get(read::wait))
        .route(&under("events"), get(read::events))
        .route(&under("versions"), get(read::versions))
        .route(&under("ps"), get(read::processes))
        .route(&under("exec"), post(exec::exec))
        .route(&under("lease"), get(lease::get).post(lease::acquire).delete(lease::release))
        .route(&under("metadata"), get(metadata::all).patch(metadata::merge).put(metadata::merge))
        .route(&under("metadata/{key}"), get(metadata::one).post(metadata::set).delete(metadata::remove))
}

/// The lease holder's proof.
fn nonce(headers: &HeaderMap) -> String {
    headers.get("fly-machine-lease-nonce").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}
