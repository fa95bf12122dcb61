//! Every answer carries an id that its log lines carry too: the edge's, where one handed the request on.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument;

use crate::origin::Origin;

pub async fn add(region: String, request: Request, next: Next) -> Response {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_millis() as u64);
    let origin = request.extensions().get::<Origin>();
    let client = origin.and_then(|origin| origin.client).map(tracing::field::display);
    let id = origin
        .and_then(|origin| origin.request_id.clone())
        .unwrap_or_else(|| format!("{}-{region}", atoll_model::EventId::from_parts(now_ms, rand::random())));
    let span = tracing::info_span!("request", id, client, method = %request.method(), path = request.uri().path());
    let answering = async {
        let response = next.run(request).await;
        tracing::debug!(status = response.status().as_u16(), "answered");
        response
    };
    let mut response = answering.instrument(span).await;
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("fly-request-id", value);
    }
    response
}
