//! The requests, grouped as the API's routes are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use atoll_model::wire::{
    AddressPoolRequest, AddressPoolSummary, AppStatus, AuditPage, AuthorityView, ChallengeAdded, ChallengeRequest,
    ChallengeView, CollectReply, DeployAccepted, DeployEvent, DeployRequest, ErrorBody, ImageSummary, JoinTokenReply,
    LogRecord, MachineSummary, MeshExamination, NodeSummary, PlaceAnnouncements, RegistryRequest, RegistrySummary,
    ReleaseView, RotateRootRequest, ScaleRequest, TokenReply, TokenRequest, UnknownMachine, WireGuardEntrance,
    WireGuardGateway, WireGuardPeer, WireGuardPeerRequest, WireGuardPeerStatus,
};

use crate::{ClientError, Lines};

/// A connection to one platform's API with one token.
#[derive(Clone)]
pub struct Client {
    pub(crate) base: String,
    pub(crate) token: Option<String>,
    pub(crate) ca_pem: Option<Vec<u8>>,
    http: reqwest::Client,
}

const POOLS: &str = "/api/v1/addresses/pools";
const CHALLENGES: &str = "/api/v1/dns/challenges";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Client {
    /// `base`: scheme, host and port. `ca`: PEM file to trust instead of the system's authorities.
    pub fn new(base: &str, token: Option<String>, ca: Option<&Path>) -> Result<Self, ClientError> {
        let setup = |what: String| ClientError::Setup(what);
        let url = reqwest::Url::parse(base).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        if url.is_none() {
            return Err(setup(format!("{base:?} is no address of an API: write it as http://127.0.0.1:4280")));
        }
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("atoll/", env!("CARGO_PKG_VERSION")))
            .no_proxy();
        let mut ca_pem = None;
        if let Some(path) = ca {
            let pem = std::fs::read(path).map_err(|error| setup(format!("cannot read {}: {error}", path.display())))?;
            let roots = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|error| setup(format!("{} holds no certificate: {error}", path.display())))?;
            builder = builder.tls_certs_only(roots);
            ca_pem = Some(pem);
        } else {
            // Nothing but the named authority is ever trusted; without one only plain HTTP works.
            builder = builder.tls_certs_only(Vec::new());
        }
        let http = builder.build().map_err(|error| setup(format!("cannot set up the HTTP client: {error}")))?;
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token, ca_pem, http })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let response =
            request.send().await.map_err(|source| ClientError::Connect { url: self.base.clone(), source })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        let message = serde_json::from_str::<ErrorBody>(&text).map_or_else(
            |_| if text.is_empty() { format!("the API answered {status}") } else { text.clone() },
            |body| body.error,
        );
        Err(ClientError::Answer { status: status.as_u16(), message })
    }

    async fn fetch<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let response = self.send(request).await?;
        let url = response.url().to_string();
        let body = response.bytes().await.map_err(|error| ClientError::Broken(error.into()))?;
        serde_json::from_slice(&body).map_err(|source| ClientError::Unreadable { url, source: source.into() })
    }

    /// Waits until a machine is in a state, `seconds` (1 to 60) at most.
    pub async fn machine_wait(&self, app: &str, id: &str, state: &str, seconds: u64) -> Result<(), ClientError> {
        let path = format!("/v1/apps/{app}/machines/{id}/wait");
        let query = [("state", state.to_owned()), ("timeout", seconds.to_string())];
        self.send(self.request(Method::GET, &path).query(&query)).await.map(drop)
    }

    /// Any route, for programs that drive the API by hand.
    pub async fn raw(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = self.send(request).await?;
        let body = response.bytes().await.map_err(|error| ClientError::Broken(error.into()))?;
        Ok(serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

/// Addresses.
impl Client {
    /// As the Machines API has them, in `ips`.
    pub async fn addresses(&self, app: &str) -> Result<Value, ClientError> {
        self.fetch(self.request(Method::GET, &format!("/v1/apps/{app}/ip_assignments"))).await
    }

    /// `wanted`: the Machines API's `assignIPRequest`.
    pub async fn address_assign(&self, app: &str, wanted: &Value) -> Result<Value, ClientError> {
        self.fetch(self.request(Method::POST, &format!("/v1/apps/{app}/ip_assignments")).json(wanted)).await
    }

    pub async fn address_release(&self, app: &str, address: IpAddr) -> Result<(), ClientError> {
        let path = format!("/v1/apps/{app}/ip_assignments/{address}");
        self.send(self.request(Method::DELETE, &path)).await.map(drop)
    }

    /// How the servers reach each other through the mesh.
    pub async fn mesh(&self) -> Result<MeshExamination, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/mesh")).await
    }

    /// What each place announces.
    pub async fn announcements(&self) -> Result<Vec<PlaceAnnouncements>, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/announcements")).await
    }

    pub async fn address_pools(&self) -> Result<Vec<AddressPoolSummary>, ClientError> {
        self.fetch(self.request(Method::GET, POOLS)).await
    }

    pub async fn address_pool_add(&self, pool: &AddressPoolRequest) -> Result<AddressPoolSummary, ClientError> {
        self.fetch(self.request(Method::POST, POOLS).json(pool)).await
    }

    pub async fn address_pool_remove(&self, prefix: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, POOLS).query(&[("prefix", prefix)])).await.map(drop)
    }
}

/// Which records of changes to read; all of these hold.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AuditQuery {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// A token's id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Of one part, 1000 at most.
    pub limit: u32,
}

/// Who changed what.
impl Client {
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditPage, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/audit").query(query)).await
    }
}

/// What public DNS answers to certificate authorities.
impl Client {
    /// All of them, or those of one host name.
    pub async fn challenges(&self, host: Option<&str>) -> Result<Vec<ChallengeView>, ClientError> {
        self.fetch(self.request(Method::GET, CHALLENGES).query(&host.map(|host| ("host", host)).as_slice())).await
    }

    pub async fn challenge_add(&self, challenge: &ChallengeRequest) -> Result<ChallengeAdded, ClientError> {
        self.fetch(self.request(Method::POST, CHALLENGES).json(challenge)).await
    }

    /// One value of the host name, or all.
    pub async fn challenge_remove(&self, host: &str, value: Option<&str>) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, &format!("{CHALLENGES}/{host}"));
        self.send(request.query(&value.map(|value| ("value", value)).as_slice())).await.map(drop)
    }
}

/// Users' devices.
impl Client {
    pub async fn wireguard_gateways(&self) -> Result<Vec<WireGuardGateway>, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/wireguard/gateways")).await
    }

    pub async fn wireguard_peers(&self, org: &str) -> Result<Vec<WireGuardPeer>, ClientError> {
        self.fetch(self.request(Method::GET, &format!("/api/v1/orgs/{org}/wireguard/peers"))).await
    }

    pub async fn wireguard_peer_create(
        &self,
        org: &str,
        peer: &WireGuardPeerRequest,
    ) -> Result<WireGuardEntrance, ClientError> {
        self.fetch(self.request(Method::POST, &format!("/api/v1/orgs/{org}/wireguard/peers")).json(peer)).await
    }

    pub async fn wireguard_peer(&self, org: &str, name: &str) -> Result<WireGuardPeerStatus, ClientError> {
        self.fetch(self.request(Method::GET, &format!("/api/v1/orgs/{org}/wireguard/peers/{name}"))).await
    }

    pub async fn wireguard_peer_remove(&self, org: &str, name: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &format!("/api/v1/orgs/{org}/wireguard/peers/{name}"))).await.map(drop)
    }
}

/// Apps, deploys, releases.
impl Client {
    pub async fn app_create(&self, name: &str, org: &str) -> Result<Value, ClientError> {
        let body = json!({"name": name, "org_slug": org});
        self.fetch(self.request(Method::POST, "/v1/apps").json(&body)).await
    }

    pub async fn app_list(&self, org: &str) -> Result<Value, ClientError> {
        self.fetch(self.request(Method::GET, "/v1/apps").query(&[("org_slug", org)])).await
    }

    pub async fn app_destroy(&self, app: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &format!("/v1/apps/{app}")).query(&[("force", "true")])).await.map(drop)
    }

    pub async fn app_status(&self, app: &str) -> Result<AppStatus, ClientError> {
        self.fetch(self.request(Method::GET, &format!("/api/v1/apps/{app}"))).await
    }

    pub async fn deploy(&self, app: &str, deploy: &DeployRequest) -> Result<DeployAccepted, ClientError> {
        self.fetch(self.request(Method::POST, &format!("/api/v1/apps/{app}/deploys")).json(deploy)).await
    }

    pub async fn releases(&self, app: &str) -> Result<Vec<ReleaseView>, ClientError> {
        self.fetch(self.request(Method::GET, &format!("/api/v1/apps/{app}/releases"))).await
    }

    /// Progress from event `after` on, until the deploy ends.
    pub async fn release_events(&self, app: &str, release: u64, after: u64) -> Result<Lines<DeployEvent>, ClientError> {
        let path = format!("/api/v1/apps/{app}/releases/{release}/events");
        self.send(self.request(Method::GET, &path).query(&[("after", after)])).await.map(Lines::new)
    }

    pub async fn scale(&self, app: &str, scale: &ScaleRequest) -> Result<DeployAccepted, ClientError> {
        self.fetch(self.request(Method::PUT, &format!("/api/v1/apps/{app}/scale")).json(scale)).await
    }
}

/// Which log lines to read.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    pub tail: u32,
    pub follow: bool,
}

/// Machines, their secrets and logs.
impl Client {
    pub async fn machines(&self, app: &str) -> Result<Vec<MachineSummary>, ClientError> {
        self.app_status(app).await.map(|status| status.machines)
    }

    /// Machines that servers have and the records do not.
    pub async fn machines_unknown(&self) -> Result<Vec<UnknownMachine>, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/machines/unknown")).await
    }

    pub async fn machine_unknown_destroy(&self, id: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &format!("/api/v1/machines/unknown/{id}"))).await.map(drop)
    }

    pub async fn machine(&self, app: &str, id: &str) -> Result<Value, ClientError> {
        self.fetch(self.request(Method::GET, &format!("/v1/apps/{app}/machines/{id}"))).await
    }

    /// `verb`: start, stop, suspend, restart, cordon, uncordon.
    pub async fn machine_change(&self, app: &str, id: &str, verb: &str, body: &Value) -> Result<Value, ClientError> {
        let path = format!("/v1/apps/{app}/machines/{id}/{verb}");
        self.fetch(self.request(Method::POST, &path).json(body)).await
    }

    pub async fn machine_destroy(&self, app: &str, id: &str, force: bool) -> Result<Value, ClientError> {
        let path = format!("/v1/apps/{app}/machines/{id}");
        self.fetch(self.request(Method::DELETE, &path).query(&[("force", force)])).await
    }

    pub async fn machine_exec(
        &self,
        app: &str,
        id: &str,
        command: &[String],
        timeout: u64,
    ) -> Result<ExecReply, ClientError> {
        let path = format!("/v1/apps/{app}/machines/{id}/exec");
        let body = json!({"command": command, "timeout": timeout});
        self.fetch(self.request(Method::POST, &path).json(&body)).await
    }

    pub async fn secrets(&self, app: &str) -> Result<Value, ClientError> {
        self.fetch(self.request(Method::GET, &format!("/v1/apps/{app}/secrets"))).await
    }

    /// `None` removes a secret.
    pub async fn secrets_set(
        &self,
        app: &str,
        values: &BTreeMap<String, Option<String>>,
    ) -> Result<Value, ClientError> {
        let path = format!("/v1/apps/{app}/secrets");
        self.fetch(self.request(Method::POST, &path).json(&json!({"values": values}))).await
    }

    pub async fn logs(&self, app: &str, query: &LogQuery) -> Result<Lines<LogRecord>, ClientError> {
        self.send(self.request(Method::GET, &format!("/api/v1/apps/{app}/logs")).query(query)).await.map(Lines::new)
    }
}

/// Answer of `exec`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ExecReply {
    pub exit_code: i32,
    #[serde(default)]
    pub stdout: String,
    #[serde(default)]
    pub stderr: String,
}

/// The platform: nodes, regions, images, tokens.
impl Client {
    pub async fn nodes(&self) -> Result<Vec<NodeSummary>, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/nodes")).await
    }

    pub async fn node_token(&self) -> Result<JoinTokenReply, ClientError> {
        self.fetch(self.request(Method::POST, "/api/v1/nodes/tokens").json(&json!({}))).await
    }

    /// `verb`: drain, undrain, revoke, remove.
    pub async fn node_change(&self, node: &str, verb: &str, lost: bool) -> Result<Value, ClientError> {
        let path = format!("/api/v1/nodes/{node}/{verb}");
        self.fetch(self.request(Method::POST, &path).json(&json!({"lost": lost}))).await
    }

    pub async fn regions(&self) -> Result<Value, ClientError> {
        self.fetch(self.request(Method::GET, "/v1/platform/regions")).await
    }

    pub async fn images(&self) -> Result<Vec<ImageSummary>, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/images")).await
    }

    pub async fn image(&self, name: &str) -> Result<Value, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/images/inspect").query(&[("name", name)])).await
    }

    pub async fn image_remove(&self, name: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, "/api/v1/images").query(&[("name", name)])).await.map(drop)
    }

    pub async fn image_collect(&self) -> Result<CollectReply, ClientError> {
        self.fetch(self.request(Method::POST, "/api/v1/images/gc").json(&json!({}))).await
    }

    /// Sends an OCI or docker archive (a tar stream) to be kept as `name`.
    pub async fn image_import(&self, name: &str, archive: reqwest::Body) -> Result<ImageSummary, ClientError> {
        self.fetch(self.request(Method::POST, "/api/v1/images/import").query(&[("name", name)]).body(archive)).await
    }

    pub async fn token_create(&self, token: &TokenRequest) -> Result<TokenReply, ClientError> {
        self.fetch(self.request(Method::POST, "/api/v1/tokens").json(token)).await
    }

    pub async fn tokens(&self) -> Result<Vec<TokenReply>, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/tokens")).await
    }

    pub async fn token_revoke(&self, id: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &format!("/api/v1/tokens/{id}"))).await.map(drop)
    }

    pub async fn registries(&self) -> Result<Vec<RegistrySummary>, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/registries")).await
    }

    pub async fn registry_set(&self, host: &str, request: &RegistryRequest) -> Result<(), ClientError> {
        self.send(self.request(Method::PUT, &format!("/api/v1/registries/{host}")).json(request)).await.map(drop)
    }

    pub async fn registry_remove(&self, host: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &format!("/api/v1/registries/{host}"))).await.map(drop)
    }

    /// The platform's root, and how far its replacement is.
    pub async fn authority(&self) -> Result<AuthorityView, ClientError> {
        self.fetch(self.request(Method::GET, "/api/v1/control/authority")).await
    }

    /// Begins to replace the root.
    pub async fn authority_rotate(&self, request: &RotateRootRequest) -> Result<AuthorityView, ClientError> {
        self.fetch(self.request(Method::POST, "/api/v1/control/authority/rotate").json(request)).await
    }

    /// A consistent copy of control's records.
    pub async fn backup(&self) -> Result<Response, ClientError> {
        self.send(self.request(Method::GET, "/api/v1/control/backup")).await
    }
}
