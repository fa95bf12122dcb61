//! Answers that are not plain JSON with status 200. Each type is one status, so that the description
//! of a route, made of types, cannot name another.

use std::convert::Infallible;
use std::marker::PhantomData;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use crate::describe::{Answer, Operation};

/// 201 with what was made.
pub struct Created<T>(pub T);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        (StatusCode::CREATED, Json(self.0)).into_response()
    }
}

impl<T: ToSchema> Answer for Created<T> {
    fn describe(operation: &mut Operation) {
        operation.answers::<T>("201");
    }
}

/// 202: begun, and goes on without the caller.
pub struct Accepted<T>(pub T);

impl<T: Serialize> IntoResponse for Accepted<T> {
    fn into_response(self) -> Response {
        (StatusCode::ACCEPTED, Json(self.0)).into_response()
    }
}

impl<T: ToSchema> Answer for Accepted<T> {
    fn describe(operation: &mut Operation) {
        operation.answers::<T>("202");
    }
}

/// 202 without a body.
pub struct Underway;

impl IntoResponse for Underway {
    fn into_response(self) -> Response {
        StatusCode::ACCEPTED.into_response()
    }
}

impl Answer for Underway {
    fn describe(operation: &mut Operation) {
        operation.answers_nothing("202");
    }
}

/// 204.
pub struct NoContent;

impl IntoResponse for NoContent {
    fn into_response(self) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }
}

impl Answer for NoContent {
    fn describe(operation: &mut Operation) {
        operation.answers_nothing("204");
    }
}

/// `{"ok": true}`
#[derive(Serialize, ToSchema)]
pub struct Done {
    ok: bool,
}

pub fn done() -> Json<Done> {
    Json(Done { ok: true })
}

/// A stream of JSON lines, each a `T`; empty lines keep the connection alive.
pub struct Lines<T> {
    body: Body,
    line: PhantomData<fn() -> T>,
}

impl<T> Lines<T> {
    pub fn whole(lines: Vec<u8>) -> Self {
        Self { body: Body::from(lines), line: PhantomData }
    }

    pub fn stream(lines: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        use futures_util::StreamExt;
        Self { body: Body::from_stream(lines.map(Ok::<_, Infallible>)), line: PhantomData }
    }
}

const JSON_LINES: &str = "application/x-ndjson";

impl<T> IntoResponse for Lines<T> {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, JSON_LINES)], self.body).into_response()
    }
}

impl<T: ToSchema> Answer for Lines<T> {
    fn describe(operation: &mut Operation) {
        let line = operation.schema::<T>();
        operation.answers_raw("200", JSON_LINES, line);
    }
}

/// A compressed file.
pub struct Zstd(pub Vec<u8>);

impl IntoResponse for Zstd {
    fn into_response(self) -> Response {
        ([(CONTENT_TYPE, "application/zstd")], self.0).into_response()
    }
}

impl Answer for Zstd {
    fn describe(operation: &mut Operation) {
        operation.answers_raw("200", "application/zstd", json!({"type": "string", "format": "binary"}));
    }
}

/// The connection becomes a WebSocket.
pub struct Upgraded(pub Response);

impl IntoResponse for Upgraded {
    fn into_response(self) -> Response {
        self.0
    }
}

impl Answer for Upgraded {
    fn describe(operation: &mut Operation) {
        operation.answers_nothing("101");
    }
}
