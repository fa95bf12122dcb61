//! A single request from a host, as its user would make it: one connection, no second try.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use atoll_lab::Host;
use atoll_lab::address::SERVICE_ADDRESS;

use crate::platform::bridge::connect;

/// Longer than any wake or failover may take.
const LIMIT: Duration = Duration::from_secs(30);

/// What to ask for.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    pub host_name: &'a str,
    pub method: Method,
    pub path: &'a str,
    pub body: Bytes,
    /// HTTPS, trusting the authority in this file alone.
    pub ca: Option<&'a Path>,
    /// Without it the service address, where the nearest edge answers.
    pub target: Option<SocketAddr>,
}

impl<'a> Ask<'a> {
    pub fn get(host_name: &'a str, path: &'a str) -> Self {
        Self { host_name, method: Method::GET, path, body: Bytes::new(), ca: None, target: None }
    }

    pub fn post(host_name: &'a str, path: &'a str) -> Self {
        Self { method: Method::POST, ..Self::get(host_name, path) }
    }

    fn address(&self) -> SocketAddr {
        let port = if self.ca.is_some() { 443 } else { 80 };
        self.target.unwrap_or(SocketAddr::new(SERVICE_ADDRESS.into(), port))
    }
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Region of the edge that answered.
    pub edge: Option<String>,
    pub body: Bytes,
    pub took: Duration,
}

/// What the example app says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Who {
    pub machine: String,
    pub region: String,
    pub release: String,
    pub boot_id: String,
    pub counter: u64,
}

impl Answer {
    /// Of an answer of the example app.
    pub fn who(&self) -> anyhow::Result<Who> {
        let text = String::from_utf8_lossy(&self.body);
        ensure!(self.status.is_success(), "status {}: {}", self.status, text.trim());
        serde_json::from_slice(&self.body).with_context(|| format!("not the example app's answer: {text}"))
    }
}

/// Asks once.
///
/// # Errors
/// If no whole answer comes; a bad status is an answer.
pub async fn ask(from: &Host, ask: &Ask<'_>) -> anyhow::Result<Answer> {
    let began = Instant::now();
    let answer = tokio::time::timeout(LIMIT, attempt(from, ask)).await;
    let Ok(answer) = answer else { bail!("no answer within {LIMIT:?} from {} to {}", from.name(), ask.address()) };
    Ok(Answer { took: began.elapsed(), ..answer? })
}

async fn attempt(from: &Host, ask: &Ask<'_>) -> anyhow::Result<Answer> {
    let tcp = connect(from, ask.address()).await?;
    match ask.ca {
        None => exchange(tcp, ask).await,
        Some(ca) => {
            let name = ServerName::try_from(ask.host_name.to_owned())?;
            let tls = TlsConnector::from(Arc::new(trusting(ca)?)).connect(name, tcp).await.context("no TLS")?;
            exchange(tls, ask).await
        }
    }
}

fn trusting(ca: &Path) -> anyhow::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca)? {
        roots.add(certificate?)?;
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ask: &Ask<'_>,
) -> anyhow::Result<Answer> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ends with the connection; its errors come out of the request too.
    tokio::spawn(connection);
    let request = Request::builder()
        .method(ask.method.clone())
        .uri(ask.path)
        .header(header::HOST, ask.host_name)
        .header(header::CONNECTION, "close")
        .body(Full::new(ask.body.clone()))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let id = response.headers().get("fly-request-id").and_then(|id| id.to_str().ok());
    // `<ULID>-<region of the edge>`
    let edge = id.and_then(|id| id.rsplit_once('-')).map(|(_, region)| region.to_owned());
    let headers = response.headers().clone();
    let body = response.into_body().collect().await?.to_bytes();
    Ok(Answer { status, headers, edge, body, took: Duration::ZERO })
}
