//! Bodies, queries and headers as foreign clients send them.

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::json;
use utoipa::ToSchema;

use crate::Api;
use crate::describe::{Operation, Part};
use crate::error::{ApiError, ApiResult};

/// A JSON body, whatever the content type says; an empty one is read as `{}`.
pub struct Body<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| ApiError::invalid(format!("the body cannot be read: {}", error.body_text())))?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self(T::default()));
        }
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            ApiError::invalid(format!("invalid_argument: the body is not what this route takes: {error}"))
        })
    }
}

impl<T: ToSchema> Part for Body<T> {
    fn describe(operation: &mut Operation) {
        operation.takes::<T>(true);
        operation.failure("400");
    }
}

/// As [`Body`], where all that it may say has a default.
pub struct OptionalBody<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        Body::from_request(request, state).await.map(|Body(body)| Self(body))
    }
}

impl<T: ToSchema> Part for OptionalBody<T> {
    fn describe(operation: &mut Operation) {
        operation.takes::<T>(false);
        operation.failure("400");
    }
}

/// A file's bytes, as they arrive and without a limit.
pub struct Upload(pub axum::body::Body);

impl<S: Send + Sync> FromRequest<S> for Upload {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        Ok(Self(request.into_body()))
    }
}

impl Part for Upload {
    fn describe(operation: &mut Operation) {
        operation.takes_raw("application/octet-stream", true, json!({"type": "string", "format": "binary"}));
    }
}

/// The query, by the names of `T`'s fields.
pub struct Params<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Api> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        let Query(query) = Query::try_from_uri(&parts.uri)
            .map_err(|error| ApiError::invalid(format!("invalid_argument: {}", error.body_text())))?;
        Ok(Self(query))
    }
}

impl<T: ToSchema> Part for Params<T> {
    fn describe(operation: &mut Operation) {
        operation.query::<T>();
        operation.failure("400");
    }
}

/// A query in which names may repeat or are free, such as `metadata.{key}`.
pub trait FromPairs: Sized {
    fn from_pairs(pairs: &[(String, String)]) -> ApiResult<Self>;
}

/// A query that `T` reads from its pairs.
pub struct Pairs<T>(pub T);

impl<T: FromPairs> FromRequestParts<Api> for Pairs<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        T::from_pairs(&pairs(parts.uri.query())).map(Self)
    }
}

impl<T: ToSchema> Part for Pairs<T> {
    fn describe(operation: &mut Operation) {
        operation.query::<T>();
        operation.failure("400");
    }
}

/// The decoded pairs of a query, in order.
pub fn pairs(query: Option<&str>) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned()
    };
    query
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        })
        .collect()
}

/// Yes or no in a query: `true`, `1`, `t` and, as some clients send it, an empty value are yes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flag(pub bool);

impl Flag {
    pub fn of(value: &str) -> Self {
        Self(matches!(value, "" | "1" | "t" | "T" | "true" | "TRUE" | "True"))
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::of(&text))
    }
}

const NONCE: &str = "fly-machine-lease-nonce";

fn nonce(parts: &Parts) -> String {
    parts.headers.get(NONCE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// The lease holder's proof; empty when the caller holds none.
pub struct Nonce(pub String);

impl FromRequestParts<Api> for Nonce {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        Ok(Self(nonce(parts)))
    }
}

impl Part for Nonce {
    fn describe(operation: &mut Operation) {
        operation.parameter("header", NONCE, false, json!({"type": "string"}));
    }
}

/// The lease holder's proof, where only the holder may call.
pub struct RequiredNonce(pub String);

impl FromRequestParts<Api> for RequiredNonce {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Api) -> Result<Self, ApiError> {
        let nonce = nonce(parts);
        if nonce.is_empty() {
            return Err(ApiError::invalid(format!("the header {NONCE} is required")));
        }
        Ok(Self(nonce))
    }
}

impl Part for RequiredNonce {
    fn describe(operation: &mut Operation) {
        operation.parameter("header", NONCE, true, json!({"type": "string"}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_decoded() {
        assert_eq!(
            pairs(Some("metadata.a%20b=c+d&x")),
            [("metadata.a b".into(), "c d".into()), ("x".into(), String::new())]
        );
    }

    #[test]
    fn flags_are_read_as_clients_write_them() {
        for (text, expected) in [("", true), ("true", true), ("1", true), ("false", false), ("0", false)] {
            assert_eq!(Flag::of(text), Flag(expected), "{text:?}");
        }
    }
}
