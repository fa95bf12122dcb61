//! What benches have in common: platforms with an app, images built for them, machines of those.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use atoll_model::MachineState;
use atoll_trial::platform::{APP_DOMAIN, Platform};
use atoll_trial::programs;

pub const APP: &str = "bench";
/// A client without a way to go, so that times are the platform's own.
pub const CLIENT: &str = "near";

const ONE_NODE: &str = r#"
[[host]]
name = "ams"
city = "ams"
role = "node"

[[host]]
name = "near"
city = "ams"
role = "client"
"#;

pub fn checkout() -> PathBuf {
    programs::checkout()
}

/// One server with an app and a client beside it.
pub async fn one_node(arguments: &[&str]) -> anyhow::Result<Platform> {
    let platform = Platform::start_with(ONE_NODE, arguments).await?;
    platform.client().app_create(APP, "personal").await?;
    Ok(platform)
}

/// Where the image lies whose program says when it began.
pub fn first_image() -> PathBuf {
    checkout().join("target/bench/first")
}

/// Brings in an image from its layout folder under a name; gives its reference.
pub async fn import(platform: &Platform, name: &str, layout: &Path) -> anyhow::Result<String> {
    let layout = layout.canonicalize().with_context(|| format!("the image {name} is not built"))?;
    let reference = format!("{APP}/{name}:latest");
    let said = platform.atoll(&layout, &["image", "import", ".", &reference]).await?;
    ensure!(said.code == Some(0), "the image {name} was not imported: {}", said.stderr);
    Ok(reference)
}

/// The app's host name at edges.
pub fn site() -> String {
    format!("{APP}.{APP_DOMAIN}")
}

/// Makes a machine in a region and waits until it runs; gives its id. `port`: served at the site.
pub async fn machine(platform: &Platform, region: &str, image: &str, port: Option<u16>) -> anyhow::Result<String> {
    let service = |port| {
        json!({
            "protocol": "tcp",
            "internal_port": port,
            "ports": [{"port": 80, "handlers": ["http"]}],
            "autostart": true,
        })
    };
    let services: Vec<Value> = port.map(service).into_iter().collect();
    let config = json!({"image": image, "restart": {"policy": "no"}, "services": services});
    let path = format!("/v1/apps/{APP}/machines");
    let body = json!({"region": region, "config": config});
    let made = platform.client().raw(http::Method::POST, &path, Some(&body)).await?;
    let id = made["id"].as_str().context("the machine made has no id")?;
    platform.in_state(APP, id, MachineState::Started).await?;
    Ok(id.to_owned())
}

/// The moment that the workload of the image `first` says it began, in microseconds.
pub fn first_of(line: &str) -> Option<u64> {
    line.strip_prefix("first ")?.trim().parse().ok()
}
