//! One probe: connect, and for HTTP one request. Redirects are not followed; 2xx passes. Answers
//! with a short text either way.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use atoll_model::service::{Check, CheckType};

use super::tls;

/// How much of a response's body is kept as the check's output.
const OUTPUT_BYTES: usize = 512;

/// Probes once. `Ok`: passed. Both texts are for people.
pub async fn probe(target: SocketAddr, check: Option<&Check>, timeout: Duration) -> Result<String, String> {
    match tokio::time::timeout(timeout, attempt(target, check)).await {
        Ok(result) => result,
        Err(_) => Err(format!("timed out after {timeout:?}")),
    }
}

async fn attempt(target: SocketAddr, check: Option<&Check>) -> Result<String, String> {
    let stream = TcpStream::connect(target).await.map_err(|error| format!("connect to {target}: {error}"))?;
    let Some(check) = check.filter(|check| check.check_type == CheckType::Http) else {
        return Ok("Success".into());
    };
    if check.protocol.as_deref() == Some("https") {
        let stream = tls::connect(stream, target, check).await?;
        request(stream, target, check).await
    } else {
        request(stream, target, check).await
    }
}

async fn request(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: SocketAddr,
    check: &Check,
) -> Result<String, String> {
    let request = build(target, check)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| format!("http: {error}"))?;
    // The connection must be driven beside the request; it ends with this probe.
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|error| format!("http: {error}"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), OUTPUT_BYTES).collect().await;
        // A body larger than is shown, or cut short, does not change the verdict.
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&body);
        if status.is_success() { Ok(text.into_owned()) } else { Err(format!("{status} {text}").trim().to_owned()) }
    };
    tokio::pin!(exchange, connection);
    let mut connection_done = false;
    loop {
        tokio::select! {
            result = &mut exchange => return result,
            _ = &mut connection, if !connection_done => connection_done = true,
        }
    }
}

fn build(target: SocketAddr, check: &Check) -> Result<http::Request<Empty<bytes::Bytes>>, String> {
    let method = check.method.as_deref().filter(|method| !method.is_empty()).unwrap_or("GET").to_ascii_uppercase();
    let path = check.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let mut request = http::Request::builder().method(method.as_str()).uri(path);
    let mut has_host = false;
    for header in &check.headers {
        has_host |= header.name.eq_ignore_ascii_case("host");
        for value in &header.values {
            request = request.header(&header.name, value);
        }
    }
    if !has_host {
        request = request.header(http::header::HOST, target.to_string());
    }
    request
        .header(http::header::USER_AGENT, "atoll-check")
        .header(http::header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| format!("the check's request cannot be built: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    async fn serve(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = vec![0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
                assert!(request.starts_with("head /health http/1.1") && request.contains("x-probe: 1"), "{request}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        address
    }

    fn http_check() -> Check {
        serde_json::from_str(
            r#"{"type":"http","method":"head","path":"/health","headers":[{"name":"X-Probe","values":["1"]}]}"#,
        )
        .unwrap()
    }

    const TIMEOUT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn only_2xx_passes() {
        let good = serve("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(probe(good, Some(&http_check()), TIMEOUT).await, Ok(String::new()));
        let moved = serve("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(probe(moved, Some(&http_check()), TIMEOUT).await, Err("302 Found".into()));
        let garbage = serve("hello\r\n\r\n").await;
        assert!(probe(garbage, Some(&http_check()), TIMEOUT).await.unwrap_err().starts_with("http:"));
    }

    #[tokio::test]
    async fn a_closed_port_fails_and_a_silent_one_times_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(probe(address, None, TIMEOUT).await, Ok("Success".into()));
        let error = probe(address, Some(&http_check()), Duration::from_millis(20)).await.unwrap_err();
        assert_eq!(error, "timed out after 20ms");
        drop(listener);
        assert!(probe(address, None, TIMEOUT).await.unwrap_err().starts_with("connect to"));
    }
}
