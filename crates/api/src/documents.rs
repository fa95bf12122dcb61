//! The OpenAPI documents, `GET /v1/openapi.json` and `GET /api/v1/openapi.json`: for programs that make
//! clients, so without a token.

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde_json::Value;

use crate::Api;

/// The Machines API, `/v1`.
pub fn machines_document() -> Value {
    crate::routes().document("Atoll Machines API", "/v1/")
}

/// Atoll's own API, `/api/v1`.
pub fn own_document() -> Value {
    crate::routes().document("Atoll API", "/api/v1/")
}

pub fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/openapi.json", serving(&machines_document()))
        .route("/api/v1/openapi.json", serving(&own_document()))
}

fn serving(document: &Value) -> axum::routing::MethodRouter<Api> {
    let text = Bytes::from(document.to_string());
    get(move || {
        let text = text.clone();
        async move { json(text) }
    })
}

fn json(text: Bytes) -> Response {
    ([(CONTENT_TYPE, "application/json")], text).into_response()
}
