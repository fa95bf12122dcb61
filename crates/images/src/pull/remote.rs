//! One repository of a foreign registry, asked over HTTP.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, StatusCode, header};
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Deserialize;

use super::{
    Login,
    challenge::{self, Challenge},
};
use crate::{
    BlobSource, BlobStream, Digest, RegistryHost, Repository, SourceError, Target, manifest::ACCEPTED,
    store::MAX_MANIFEST,
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Tries of a small request whose failure may pass.
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// The largest token answer, and the most of an error's text that is read, in bytes.
const MAX_TOKEN: usize = 64 << 10;
const MAX_REDIRECTS: usize = 5;

/// A client for registries. With `https_only` nothing leaves unencrypted, redirects included.
pub(super) fn client(https_only: bool) -> Result<Client, reqwest::Error> {
    Client::builder()
        .https_only(https_only)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        // The credentials of the first host are not sent to another one.
        .redirect(reqwest::redirect::Policy::limited(MAX_REDIRECTS))
        .user_agent(concat!("atoll/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// A repository elsewhere, and what it last accepted as authorization.
pub(super) struct Remote<'a> {
    client: &'a Client,
    base: String,
    host: &'a RegistryHost,
    repository: String,
    login: Option<&'a Login>,
    authorization: Mutex<Option<HeaderValue>>,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl<'a> Remote<'a> {
    pub(super) fn new(
        client: &'a Client,
        plain: bool,
        host: &'a RegistryHost,
        repository: &Repository,
        login: Option<&'a Login>,
    ) -> Self {
        let is_docker_hub = matches!(host.as_str(), "docker.io" | "index.docker.io");
        // Docker Hub answers under another name, and its official images have a hidden folder.
        let address = if is_docker_hub { "registry-1.docker.io" } else { host.as_str() };
        let repository = match repository.as_str() {
            short if is_docker_hub && !short.contains('/') => format!("library/{short}"),
            full => full.to_owned(),
        };
        let scheme = if plain { "http" } else { "https" };
        Self {
            client,
            base: format!("{scheme}://{address}/v2"),
            host,
            repository,
            login,
            authorization: Mutex::default(),
        }
    }

    /// The bytes of a manifest or index; by digest they are verified, by tag the caller names them.
    pub(super) async fn manifest(&self, target: &Target) -> Result<Bytes, SourceError> {
        let mut attempt = 0;
        loop {
            match self.manifest_once(target).await {
                Err(error) if error.is_transient() && attempt + 1 < TRIES => {
                    tokio::time::sleep(FIRST_PAUSE * 2u32.pow(attempt)).await;
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn manifest_once(&self, target: &Target) -> Result<Bytes, SourceError> {
        let url = format!("{}/{}/manifests/{target}", self.base, self.repository);
        let what = || format!("image {}:{target}", self.repository);
        let accept = ACCEPTED.join(", ");
        let response = self.send(|| self.client.get(&url).header(header::ACCEPT, &accept)).await?;
        let response = self.check(response, what).await?;
        let bytes = self.small_body(response, MAX_MANIFEST as usize).await?;
        match target {
            Target::Digest(expected) if Digest::of(&bytes) != *expected => {
                Err(self.wrong(format!("it gave {} for the manifest {expected}", Digest::of(&bytes))))
            }
            _ => Ok(bytes),
        }
    }

    /// Sends a request; if the registry wants to know who asks, says so and sends it again.
    async fn send(&self, request: impl Fn() -> RequestBuilder) -> Result<Response, SourceError> {
        let known = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let authorized = |authorization: Option<&HeaderValue>| match authorization {
            Some(value) => request().header(header::AUTHORIZATION, value),
            None => request(),
        };
        let response = authorized(known.as_ref()).send().await.map_err(|error| self.broken(error))?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let authorization = self.authorize(&response).await?;
        let response = authorized(Some(&authorization)).send().await.map_err(|error| self.broken(error))?;
        if response.status() == StatusCode::UNAUTHORIZED
            && let Some(login) = self.login
        {
            return Err(self.refuses(login));
        }
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorization);
        Ok(response)
    }

    /// What to say to a registry that answered 401.
    async fn authorize(&self, response: &Response) -> Result<HeaderValue, SourceError> {
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let mut challenges = challenges.filter_map(|value| challenge::parse(value.to_str().ok()?));
        let challenge = challenges.next().ok_or_else(|| self.denied("it wants a login of an unknown kind"))?;
        let authorization = match (challenge, self.login) {
            (Challenge::Basic, None) => return Err(self.wants_login()),
            (Challenge::Basic, Some(login)) => basic(login),
            (Challenge::Bearer { realm, service, scope }, login) => {
                format!("Bearer {}", self.token(&realm, service.as_deref(), scope.as_deref(), login).await?)
            }
        };
        let mut value =
            HeaderValue::from_str(&authorization).map_err(|_| self.wrong("its token is unprintable".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
        login: Option<&Login>,
    ) -> Result<String, SourceError> {
        let mut url = Url::parse(realm).map_err(|_| self.wrong(format!("its token address {realm:?} is none")))?;
        let scope = scope.map_or_else(|| format!("repository:{}:pull", self.repository), str::to_owned);
        url.query_pairs_mut().extend_pairs(service.map(|service| ("service", service))).append_pair("scope", &scope);
        let mut request = self.client.get(url);
        if let Some(login) = login {
            request = request.header(header::AUTHORIZATION, basic(login));
        }
        let response = request.send().await.map_err(|error| self.broken(error))?;
        if response.status().is_client_error() {
            return Err(self.login.map_or_else(|| self.wants_login(), |login| self.refuses(login)));
        }
        let response = self.check(response, || "token".to_owned()).await?;
        let token: Token = serde_json::from_slice(&self.small_body(response, MAX_TOKEN).await?)
            .map_err(|error| self.wrong(format!("its token cannot be read: {error}")))?;
        token.token.or(token.access_token).ok_or_else(|| self.wrong("its answer holds no token".to_owned()))
    }

    /// Passes good answers on and words the others.
    async fn check(&self, response: Response, what: impl Fn() -> String) -> Result<Response, SourceError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let place = self.host.to_string();
        Err(match status {
            StatusCode::NOT_FOUND => SourceError::Missing { what: what(), place },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                self.denied(&format!("the login may not read {}, or it does not exist", self.repository))
            }
            StatusCode::TOO_MANY_REQUESTS => self.broken("it says there were too many requests"),
            _ if status.is_server_error() => self.broken(format!("it answered {status}")),
            _ => self.wrong(format!("it answered {status} for {}", what())),
        })
    }

    async fn small_body(&self, response: Response, limit: usize) -> Result<Bytes, SourceError> {
        let mut body = BytesMut::new();
        let mut stream = response.bytes_stream();
        while let Some(piece) = stream.next().await {
            body.extend_from_slice(&piece.map_err(|error| self.broken(error))?);
            if body.len() > limit {
                return Err(self.wrong(format!("its answer is larger than {limit} bytes")));
            }
        }
        Ok(body.freeze())
    }

    fn denied(&self, reason: &str) -> SourceError {
        SourceError::Denied { place: self.host.to_string(), reason: reason.to_owned() }
    }

    fn wants_login(&self) -> SourceError {
        self.denied(&format!("it wants a login; keep one with `atoll registry login {}`", self.host))
    }

    fn refuses(&self, login: &Login) -> SourceError {
        self.denied(&format!(
            "it refuses the login of {:?}; give the right password with `atoll registry login {}`",
            login.user, self.host
        ))
    }

    fn wrong(&self, reason: String) -> SourceError {
        SourceError::Wrong { place: self.host.to_string(), reason }
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SourceError {
        SourceError::Broken { place: self.host.to_string(), source: source.into() }
    }
}

fn basic(login: &Login) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    format!("Basic {}", BASE64_STANDARD.encode(format!("{}:{}", login.user, login.password)))
}

#[async_trait]
impl BlobSource for Remote<'_> {
    async fn open(&self, digest: &Digest, offset: u64) -> Result<BlobStream, SourceError> {
        let url = format!("{}/{}/blobs/{digest}", self.base, self.repository);
        let request = || {
            let request = self.client.get(&url);
            if offset > 0 { request.header(header::RANGE, format!("bytes={offset}-")) } else { request }
        };
        let response = self.check(self.send(request).await?, || format!("blob {digest}")).await?;
        let length = response.content_length();
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        // A server that does not know ranges sends the whole; what we have is skipped.
        let skip = if is_part { 0 } else { offset };
        let size = if is_part { length.map(|length| length.saturating_add(offset)) } else { length };

        let place = self.host.to_string();
        let pieces = response.bytes_stream().map(move |piece| {
            piece.map_err(|error| SourceError::Broken { place: place.clone(), source: error.into() })
        });
        Ok(BlobStream { size, bytes: skipping(pieces.boxed(), skip) })
    }
}

type Pieces = stream::BoxStream<'static, Result<Bytes, SourceError>>;

/// The stream without its first `skip` bytes.
fn skipping(pieces: Pieces, skip: u64) -> Pieces {
    if skip == 0 {
        return pieces;
    }
    let left = stream::unfold((pieces, skip), |(mut pieces, skip)| async move {
        let mut piece = pieces.next().await?;
        let mut skipped = 0;
        if let Ok(bytes) = &mut piece {
            skipped = skip.min(bytes.len() as u64);
            // At most the piece's own length.
            drop(bytes.split_to(skipped as usize));
        }
        Some((piece, (pieces, skip - skipped)))
    });
    left.boxed()
}
