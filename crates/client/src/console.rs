//! A terminal in a machine, over a WebSocket.

use std::sync::Arc;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use atoll_model::wire::ConsoleControl;

use crate::{Client, ClientError};

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

type Socket = WebSocketStream<Box<dyn Stream>>;

/// What an open console is told. Apart from what it says, so that neither waits for the other.
pub struct ConsoleInput(SplitSink<Socket, Message>);

/// What an open console says.
pub struct ConsoleOutput(SplitStream<Socket>);

/// What the machine's side says.
#[derive(Debug)]
pub enum Output {
    Bytes(Vec<u8>),
    Exit(i32),
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
    ClientError::Broken(error.into())
}

impl Client {
    /// Opens a console in a running machine.
    pub async fn console(
        &self,
        app: &str,
        machine: &str,
        start: &ConsoleControl,
    ) -> Result<(ConsoleInput, ConsoleOutput), ClientError> {
        let (secure, authority) = match (self.base.strip_prefix("http://"), self.base.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(ClientError::Setup(format!("{} is not an http(s) address", self.base))),
        };
        let with_port = match authority.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => authority.to_owned(),
            _ => format!("{authority}:{}", if secure { 443 } else { 80 }),
        };
        let tcp = TcpStream::connect(&with_port).await.map_err(broken)?;
        let stream: Box<dyn Stream> = if secure { Box::new(self.tls(&with_port, tcp).await?) } else { Box::new(tcp) };

        let url =
            format!("{}://{authority}/api/v1/apps/{app}/machines/{machine}/console", if secure { "wss" } else { "ws" });
        let mut request = url.into_client_request().map_err(broken)?;
        if let Some(token) = &self.token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| ClientError::Setup("the token contains characters that no token has".into()))?;
            request.headers_mut().insert("authorization", value);
        }
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await.map_err(|error| match error {
            tokio_tungstenite::tungstenite::Error::Http(answer) => {
                let text =
                    answer.body().as_ref().map(|body| String::from_utf8_lossy(body).into_owned()).unwrap_or_default();
                let message =
                    serde_json::from_str::<atoll_model::wire::ErrorBody>(&text).map_or(text, |body| body.error);
                ClientError::Answer { status: answer.status().as_u16(), message }
            }
            other => broken(other),
        })?;
        let (sink, stream) = socket.split();
        let mut input = ConsoleInput(sink);
        input.control(start).await?;
        Ok((input, ConsoleOutput(stream)))
    }

    async fn tls(&self, with_port: &str, tcp: TcpStream) -> Result<impl Stream + use<>, ClientError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(self.ca_pem.as_deref().unwrap_or_default()) {
            roots.add(certificate.map_err(broken)?).map_err(broken)?;
        }
        let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let host = with_port.rsplit_once(':').map_or(with_port, |(host, _)| host).to_owned();
        let name = ServerName::try_from(host).map_err(broken)?;
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(broken)
    }
}

impl ConsoleInput {
    pub async fn control(&mut self, control: &ConsoleControl) -> Result<(), ClientError> {
        let text = serde_json::to_string(control).map_err(broken)?;
        self.0.send(Message::text(text)).await.map_err(broken)
    }

    /// Bytes for the process's standard input.
    pub async fn input(&mut self, bytes: Vec<u8>) -> Result<(), ClientError> {
        self.0.send(Message::binary(bytes)).await.map_err(broken)
    }
}

impl ConsoleOutput {
    /// What comes next; an error when the console ended without an exit code.
    pub async fn next(&mut self) -> Result<Output, ClientError> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(Output::Bytes(bytes.to_vec())),
                Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                    Ok(ConsoleControl::Exit { code }) => return Ok(Output::Exit(code)),
                    Ok(ConsoleControl::Error { error }) => {
                        return Err(ClientError::Answer { status: 412, message: error });
                    }
                    // A control of a newer server that we do not know.
                    _ => {}
                },
                Some(Ok(Message::Close(_))) | None => return Err(broken("the console was closed")),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(broken(error)),
            }
        }
    }
}
