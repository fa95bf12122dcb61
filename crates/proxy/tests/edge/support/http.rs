//! A plain HTTP client without retries: what it sees is what a user would see.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

pub type Body = BoxBody<Bytes, std::io::Error>;

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub fn bytes(content: impl Into<Bytes>) -> Body {
    Full::new(content.into()).map_err(|never| match never {}).boxed()
}

/// Requests to one address for one host.
#[derive(Clone)]
pub struct Client {
    pub address: SocketAddr,
    pub host: String,
}

impl Client {
    pub fn new(address: SocketAddr, host: &str) -> Self {
        Self { address, host: host.to_owned() }
    }

    pub fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        Request::builder().method(method).uri(path).header("host", &self.host)
    }

    /// On a connection of its own.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, hyper::Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut sender = h1(stream).await?;
        sender.send_request(request).await
    }

    pub async fn fetch(&self, request: Request<Body>) -> Result<Reply, hyper::Error> {
        read(self.send(request).await?).await
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.fetch(self.request(Method::GET, path).body(bytes("")).unwrap()).await.unwrap()
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.fetch(self.request(Method::POST, path).body(bytes(body)).unwrap()).await.unwrap()
    }
}

/// Whether a connection is reset before anything comes of it.
pub async fn is_reset(address: SocketAddr) -> bool {
    let ending = async { TcpStream::connect(address).await?.read(&mut [0]).await };
    ending.await.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

pub async fn read(response: Response<Incoming>) -> Result<Reply, hyper::Error> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Reply { status: parts.status, headers: parts.headers, body })
}

pub async fn h1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<http1::SendRequest<Body>, hyper::Error> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

pub async fn h2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<http2::SendRequest<Body>, hyper::Error> {
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

pub async fn tls(
    address: SocketAddr,
    name: &str,
    config: Arc<rustls::ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    tokio_rustls::TlsConnector::from(config).connect(name.to_owned().try_into().unwrap(), stream).await
}
