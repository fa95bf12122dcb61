//! A caller that reads a server's descriptions first and holds every answer against them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;

const DOCUMENTS: [&str; 2] = ["/v1/openapi.json", "/api/v1/openapi.json"];

pub struct Api {
    /// Host and port.
    address: String,
    token: String,
    /// Of a lease; sent with every request.
    nonce: String,
    /// By method and path, as in `GET /v1/apps`: what may be answered, and all schemas.
    operations: BTreeMap<String, Operation>,
    called: BTreeSet<String>,
    next_cursor: Option<String>,
}

struct Operation {
    needs_token: bool,
    responses: Value,
    schemas: Value,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Api {
    /// Reads the descriptions, which nobody needs a token for.
    pub async fn read(base: &str, token: &str) -> anyhow::Result<Self> {
        let address = base.strip_prefix("http://").context("the API is not plain HTTP")?.to_owned();
        let mut api = Self {
            address,
            token: String::new(),
            nonce: String::new(),
            operations: BTreeMap::new(),
            called: BTreeSet::new(),
            next_cursor: None,
        };
        for path in DOCUMENTS {
            let answer = api.exchange(Method::GET, path, None).await?;
            ensure!(answer.status == 200, "{path}: {}", answer.status);
            let document: Value = serde_json::from_slice(&answer.body)?;
            for (path, item) in document["paths"].as_object().context("no paths")? {
                for (method, operation) in item.as_object().context("no methods")? {
                    let described = Operation {
                        needs_token: operation.get("security").is_some(),
                        responses: operation["responses"].clone(),
                        schemas: closed(&document["components"]["schemas"]),
                    };
                    api.operations.insert(format!("{} {path}", method.to_uppercase()), described);
                }
            }
        }
        api.token = token.to_owned();
        Ok(api)
    }

    /// Calls every operation as a stranger: one that is not served would be unknown, not refused.
    pub async fn refuses_everything_without_a_token(&mut self) -> anyhow::Result<()> {
        let token = std::mem::take(&mut self.token);
        for (name, operation) in &self.operations {
            let (method, path) = name.split_once(' ').context("no method")?;
            let path = path.replace(['{', '}'], "");
            let answer = self.exchange(method.parse()?, &path, None).await?;
            ensure!(operation.needs_token, "{name} is open to everybody");
            ensure!(answer.status == 401, "{name} without a token: {} {:?}", answer.status, answer.body);
            self.check(name, operation, &answer)?;
        }
        self.token = token;
        Ok(())
    }

    pub async fn get(&mut self, path: &str, status: u16) -> anyhow::Result<Value> {
        self.call(Method::GET, path, None, |said| said == status).await
    }

    pub async fn delete(&mut self, path: &str) -> anyhow::Result<Value> {
        self.call(Method::DELETE, path, None, |said| said.is_success()).await
    }

    pub async fn send(&mut self, method: Method, path: &str, body: Value, status: u16) -> anyhow::Result<Value> {
        self.call(method, path, Some(&body), |said| said == status).await
    }

    /// Holds a lease from now on.
    pub fn with_nonce(&mut self, nonce: &str) {
        self.nonce = nonce.to_owned();
    }

    /// Of the last answer.
    pub fn next_cursor(&self) -> Option<&str> {
        self.next_cursor.as_deref()
    }

    pub fn never_called(&self) -> Vec<String> {
        self.operations.keys().filter(|name| !self.called.contains(*name)).cloned().collect()
    }

    async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        expected: impl Fn(StatusCode) -> bool,
    ) -> anyhow::Result<Value> {
        let name = self.operation(&method, path)?;
        let answer = self.exchange(method, path, body).await?;
        let what = || format!("{name}: {} {}", answer.status, String::from_utf8_lossy(&answer.body));
        ensure!(expected(answer.status), "{}", what());
        self.check(&name, &self.operations[&name], &answer).with_context(what)?;
        let cursor = answer.headers.get("fly-next-cursor").and_then(|cursor| cursor.to_str().ok());
        self.next_cursor = cursor.map(str::to_owned);
        self.called.insert(name);
        Ok(serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// The operation that a request is of: the one with the fewest parameters.
    fn operation(&self, method: &Method, path: &str) -> anyhow::Result<String> {
        let path: Vec<&str> = path.split('?').next().unwrap_or_default().split('/').collect();
        let fits = |name: &&String| {
            let Some(template) = name.strip_prefix(method.as_str()).and_then(|rest| rest.strip_prefix(' ')) else {
                return false;
            };
            let template: Vec<&str> = template.split('/').collect();
            template.len() == path.len()
                && template.iter().zip(&path).all(|(wanted, given)| wanted.starts_with('{') || wanted == given)
        };
        let described = self.operations.keys().filter(fits).min_by_key(|name| name.matches('{').count());
        described.cloned().with_context(|| format!("no operation is described for {method} {}", path.join("/")))
    }

    /// Holds an answer against its description.
    fn check(&self, name: &str, operation: &Operation, answer: &Answer) -> anyhow::Result<()> {
        let responses = operation.responses.as_object().context("no responses")?;
        let described = responses.get(answer.status.as_str()).or_else(|| responses.get("default"));
        let described = described.with_context(|| format!("{name}: {} is not described", answer.status))?;
        let Some(contents) = described.get("content").and_then(Value::as_object) else {
            ensure!(answer.body.is_empty(), "{name}: an answer without content has some");
            return Ok(());
        };
        let kind = answer.headers.get(header::CONTENT_TYPE).context("no content type")?.to_str()?;
        let kind = kind.split(';').next().unwrap_or_default();
        let schema = &contents.get(kind).with_context(|| format!("{name}: {kind} is not described"))?["schema"];
        let documents = match kind {
            "application/json" => vec![serde_json::from_slice(&answer.body)?],
            "application/x-ndjson" => {
                let lines = answer.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                lines.map(serde_json::from_slice).collect::<Result<Vec<Value>, _>>()?
            }
            // Files have no schema.
            _ => return Ok(()),
        };
        let mut root = closed_use(schema);
        root["components"] = json!({"schemas": operation.schemas});
        let validator = jsonschema::validator_for(&root).map_err(|error| anyhow::anyhow!("{name}: {error}"))?;
        for document in &documents {
            let errors: Vec<String> =
                validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
            ensure!(errors.is_empty(), "{name} is not as described: {errors:#?}");
        }
        Ok(())
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        let stream = TcpStream::connect(&self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the connection; its errors come out of the request too.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(header::HOST, &self.address);
        if !self.token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        if !self.nonce.is_empty() {
            request = request.header("fly-machine-lease-nonce", &self.nonce);
        }
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.into_body().collect().await?.to_bytes();
        Ok(Answer { status, headers, body })
    }
}

/// A schema in which nothing may be answered that is not described: where an object is used whole,
/// properties beside the described ones are errors. Parts of an object (`allOf`) stay open.
fn closed(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut closed_fields = Map::new();
            for (key, value) in fields {
                let value = match (key.as_str(), value) {
                    ("properties", Value::Object(properties)) => {
                        properties.iter().map(|(name, property)| (name.clone(), closed_use(property))).collect()
                    }
                    ("items" | "additionalProperties", Value::Object(_)) => closed_use(value),
                    _ => closed(value),
                };
                closed_fields.insert(key.clone(), value);
            }
            Value::Object(closed_fields)
        }
        Value::Array(items) => items.iter().map(closed).collect(),
        other => other.clone(),
    }
}

fn closed_use(schema: &Value) -> Value {
    let mut closed = closed(schema);
    if ["$ref", "properties", "allOf"].iter().any(|key| closed.get(key).is_some()) {
        closed["unevaluatedProperties"] = json!(false);
    }
    closed
}
