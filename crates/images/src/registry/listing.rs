//! Lists of tags and repositories, a page at a time.

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};

use super::{Asked, Registry, error::ApiError, json};
use crate::Repository;

/// Entries of a page when the client names no number, and at most.
const PAGE: usize = 1000;

impl Registry {
    pub(super) fn tags(&self, repository: &Repository, asked: &Asked) -> Result<Response, ApiError> {
        let tags = self.store.tags(repository).ok_or_else(ApiError::name_unknown)?;
        let tags = tags.iter().map(|tag| tag.as_str().to_owned()).collect();
        let body = |page: &[String]| serde_json::json!({"name": repository, "tags": page});
        Ok(page(&format!("/v2/{repository}/tags/list"), tags, asked, body))
    }

    pub(super) fn catalog(&self, asked: &Asked) -> Response {
        let names = self.store.repositories().iter().map(|name| name.as_str().to_owned()).collect();
        page("/v2/_catalog", names, asked, |page| serde_json::json!({"repositories": page}))
    }
}

/// The entries after `?last=`, `?n=` of them, and a link to the next page if there is one.
fn page(
    path: &str,
    entries: Vec<String>,
    asked: &Asked,
    body: impl FnOnce(&[String]) -> serde_json::Value,
) -> Response {
    let count = asked.query.get("n").and_then(|text| text.parse().ok()).unwrap_or(PAGE).min(PAGE);
    let last = asked.query.get("last").unwrap_or_default();
    let left: Vec<String> = entries.into_iter().filter(|entry| entry.as_str() > last).collect();
    let shown = &left[..count.min(left.len())];
    let mut response = json(StatusCode::OK, body(shown).to_string());
    if let (Some(last), true) = (shown.last(), shown.len() < left.len()) {
        let link = format!("<{path}?n={count}&last={last}>; rel=\"next\"");
        // Names and tags hold no character that a header could not.
        if let Ok(link) = HeaderValue::from_str(&link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    response
}
