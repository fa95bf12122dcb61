//! Paths of the distribution API, taken apart.

use http::Method;
use percent_encoding::percent_decode_str;

use super::{Action, error::ApiError};
use crate::{Digest, Repository, Target};

/// What a request asks for, and of which repository.
#[derive(PartialEq, Debug)]
pub(super) struct Route {
    pub call: Call,
    pub repository: Option<Repository>,
}

#[derive(PartialEq, Debug)]
pub(super) enum Call {
    Ping,
    Catalog,
    Tags,
    GetManifest(Target),
    PutManifest(Target),
    DeleteManifest(Target),
    GetBlob(Digest),
    StartUpload,
    AppendUpload(String),
    FinishUpload(String),
    UploadStatus(String),
    CancelUpload(String),
}

impl Call {
    pub(super) fn action(&self) -> Action {
        match self {
            Self::Ping => Action::Ping,
            Self::Catalog => Action::Catalog,
            Self::Tags | Self::GetManifest(_) | Self::GetBlob(_) => Action::Pull,
            Self::DeleteManifest(_) => Action::Delete,
            Self::PutManifest(_)
            | Self::StartUpload
            | Self::AppendUpload(_)
            | Self::FinishUpload(_)
            | Self::UploadStatus(_)
            | Self::CancelUpload(_) => Action::Push,
        }
    }
}

impl Route {
    pub(super) fn parse(method: &Method, path: &str) -> Result<Self, ApiError> {
        let path = percent_decode_str(path).decode_utf8().map_err(|_| ApiError::no_route())?;
        let path = path.strip_prefix("/v2").ok_or_else(ApiError::no_route)?;
        let path = path.strip_prefix('/').unwrap_or(path);
        let reading = matches!(*method, Method::GET | Method::HEAD);
        let alone = |call| if reading { Ok(Self { call, repository: None }) } else { Err(ApiError::method()) };
        match path {
            "" => return alone(Call::Ping),
            "_catalog" => return alone(Call::Catalog),
            _ => {}
        }
        // The last parts say what is meant; a repository may itself have a part called "blobs".
        let parts: Vec<&str> = path.split('/').collect();
        let (name, call) = match parts[..] {
            [ref name @ .., "tags", "list"] => (name, reading.then_some(Call::Tags)),
            [ref name @ .., "blobs", "uploads", ""] | [ref name @ .., "blobs", "uploads"] => {
                (name, (*method == Method::POST).then_some(Call::StartUpload))
            }
            [ref name @ .., "blobs", "uploads", id] => (name, upload(method, id)),
            [ref name @ .., "blobs", digest] => {
                let digest = digest.parse::<Digest>().map_err(|error| ApiError::digest_invalid(error.to_string()))?;
                (name, reading.then_some(Call::GetBlob(digest)))
            }
            [ref name @ .., "manifests", target] => {
                let target = target.parse().map_err(|_| ApiError::manifest_unknown())?;
                (name, manifest(method, target))
            }
            _ => return Err(ApiError::no_route()),
        };
        let repository: Repository = name
            .join("/")
            .parse()
            .map_err(|error: crate::InvalidReference| ApiError::name_invalid(error.to_string()))?;
        if !repository.can_be_ours() {
            let message = "the first part of a repository here is an app; it must not look like a host";
            return Err(ApiError::name_invalid(message));
        }
        Ok(Self { call: call.ok_or_else(ApiError::method)?, repository: Some(repository) })
    }
}

fn upload(method: &Method, id: &str) -> Option<Call> {
    let id = id.to_owned();
    match *method {
        Method::GET | Method::HEAD => Some(Call::UploadStatus(id)),
        Method::PATCH => Some(Call::AppendUpload(id)),
        Method::PUT => Some(Call::FinishUpload(id)),
        Method::DELETE => Some(Call::CancelUpload(id)),
        _ => None,
    }
}

fn manifest(method: &Method, target: Target) -> Option<Call> {
    match *method {
        Method::GET | Method::HEAD => Some(Call::GetManifest(target)),
        Method::PUT => Some(Call::PutManifest(target)),
        Method::DELETE => Some(Call::DeleteManifest(target)),
        _ => None,
    }
}

/// The query's first value of each name.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let decode = |part: &str| percent_decode_str(&part.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(pairs.collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The digest that `name` must be.
    pub(super) fn digest(&self, name: &str) -> Result<Option<Digest>, ApiError> {
        let parsed = self.get(name).map(str::parse).transpose();
        parsed.map_err(|error: crate::InvalidDigest| ApiError::digest_invalid(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http::StatusCode;

    use super::*;

    fn parse(method: Method, path: &str) -> Result<(Call, String), StatusCode> {
        match Route::parse(&method, path) {
            Ok(route) => Ok((route.call, route.repository.map(|name| name.to_string()).unwrap_or_default())),
            Err(error) => Err(error.into_response().status()),
        }
    }

    #[test]
    fn every_call_of_the_api_is_found() {
        let digest = Digest::of(b"x");
        let id = || "f00".to_owned();
        let tag = || Target::Tag("v1".parse().unwrap());
        for (method, path, call, name) in [
            (Method::GET, "/v2/".to_owned(), Call::Ping, ""),
            (Method::GET, "/v2".to_owned(), Call::Ping, ""),
            (Method::GET, "/v2/_catalog".to_owned(), Call::Catalog, ""),
            (Method::GET, "/v2/a/b/tags/list".to_owned(), Call::Tags, "a/b"),
            (Method::HEAD, "/v2/a/manifests/v1".to_owned(), Call::GetManifest(tag()), "a"),
            (Method::PUT, format!("/v2/a/manifests/{digest}"), Call::PutManifest(Target::Digest(digest)), "a"),
            (Method::DELETE, "/v2/a/manifests/v1".to_owned(), Call::DeleteManifest(tag()), "a"),
            (Method::GET, format!("/v2/a/blobs/sha256%3A{}", digest.hex()), Call::GetBlob(digest), "a"),
            (Method::POST, "/v2/a/b/blobs/uploads/".to_owned(), Call::StartUpload, "a/b"),
            (Method::POST, "/v2/a/blobs/blobs/uploads".to_owned(), Call::StartUpload, "a/blobs"),
            (Method::PATCH, "/v2/a/blobs/uploads/f00".to_owned(), Call::AppendUpload(id()), "a"),
            (Method::PUT, "/v2/a/blobs/uploads/f00".to_owned(), Call::FinishUpload(id()), "a"),
            (Method::GET, "/v2/a/blobs/uploads/f00".to_owned(), Call::UploadStatus(id()), "a"),
            (Method::DELETE, "/v2/a/blobs/uploads/f00".to_owned(), Call::CancelUpload(id()), "a"),
        ] {
            assert_eq!(parse(method, &path), Ok((call, name.to_owned())), "{path}");
        }
    }

    #[test]
    fn what_is_no_call_says_why() {
        let digest = Digest::of(b"x");
        for (method, path, status) in [
            (Method::GET, "/v2/a".to_owned(), StatusCode::NOT_FOUND),
            (Method::GET, "/v2/manifests/v1".to_owned(), StatusCode::BAD_REQUEST),
            (Method::GET, "/v2/../manifests/v1".to_owned(), StatusCode::BAD_REQUEST),
            (Method::GET, "/v2/a.b/c/manifests/v1".to_owned(), StatusCode::BAD_REQUEST),
            (Method::GET, "/v2/a/blobs/sha256:12".to_owned(), StatusCode::BAD_REQUEST),
            (Method::GET, "/v2/a/manifests/-bad".to_owned(), StatusCode::NOT_FOUND),
            (Method::DELETE, format!("/v2/a/blobs/{digest}"), StatusCode::METHOD_NOT_ALLOWED),
            (Method::POST, "/v2/".to_owned(), StatusCode::METHOD_NOT_ALLOWED),
        ] {
            assert_eq!(parse(method, &path).unwrap_err(), status, "{path}");
        }
    }
}
