//! A whole platform in a lab world: the first node of the world is its first server, the others join.
//! Everything ends when it is dropped.

pub mod bridge;
mod cli;
mod example;
mod node;
pub mod terminal;

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use atoll_client::Client;
use atoll_lab::{Host, Lab, Options, World};
use atoll_model::MachineState;
use atoll_model::wire::MachineSummary;

use crate::visit::{Ask, Who, ask};
use crate::wait::until;
use bridge::Bridge;
pub use cli::{Said, said};
pub use example::{Release, Shipped};
pub use node::{APP_DOMAIN, Node, Origin, Ready, Role};

/// Three regions and four client cities.
pub const THREE_REGIONS: &str = include_str!("../../../../worlds/three-regions.toml");

/// Two regions, control in the first, and a client near each.
pub const TWO_REGIONS: &str = r#"
[[host]]
name = "ams"
city = "ams"
role = "node"

[[host]]
name = "nrt"
city = "nrt"
role = "node"

[[host]]
name = "berlin"
city = "Berlin"
role = "client"

[[host]]
name = "osaka"
city = "Osaka"
role = "client"
"#;

/// One region, and a second host that is no server yet.
pub const PAIR: &str = r#"
[[host]]
name = "ams"
city = "ams"
role = "node"

[[host]]
name = "late"
city = "nrt"
role = "client"
"#;

/// One region with a client near it.
pub const ONE_REGION: &str = r#"
[[host]]
name = "ams"
city = "ams"
role = "node"

[[host]]
name = "berlin"
city = "Berlin"
role = "client"
"#;

const API_PORT: u16 = 4280;
const NODES_PORT: u16 = 4281;
/// Until something that the platform was told shows everywhere, on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

pub struct Platform {
    client: Client,
    token: String,
    ca: PathBuf,
    nodes: Vec<Node>,
    /// The way to the API.
    _bridge: Bridge,
    /// Last, as everything else is in it.
    lab: Lab,
}

/// A machine of the example app.
#[derive(Clone, Debug, Default)]
pub struct MachineSpec<'a> {
    pub region: &'a str,
    pub env: &'a [(&'a str, &'a str)],
    /// Stops when nothing was asked for this long, such as `2s`.
    pub idle: Option<&'a str>,
    /// What happens when it ends by itself; `on-failure` if empty.
    pub restart: &'a str,
}

/// A machine that runs.
#[derive(Clone, Debug)]
pub struct RunningMachine {
    pub id: String,
    /// In its private network.
    pub address: Ipv6Addr,
}

impl Platform {
    /// Starts a world and its servers, and waits until control hears every one of them.
    pub async fn start(world: &str) -> anyhow::Result<Self> {
        Self::begin(world, &[], async |_| Ok(())).await
    }

    /// [`Self::start`], with something done to each server's host before the server starts.
    pub async fn start_prepared(
        world: &str,
        prepare: impl AsyncFn(&Node) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        Self::begin(world, &[], prepare).await
    }

    /// [`Self::start`], with further arguments for every server.
    pub async fn start_with(world: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::begin(world, arguments, async |_| Ok(())).await
    }

    async fn begin(
        world: &str,
        arguments: &[&str],
        prepare: impl AsyncFn(&Node) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        // Another one of this process is as good: all trials want the same.
        drop(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default());
        let world = World::parse(world)?;
        let lab = Lab::start(&world, &Options::default()).await?;
        let names = world.hosts.iter().filter(|host| host.role == atoll_lab::world::Role::Node);
        let mut nodes = names
            .map(|host| Ok(Node::new(lab.host(&host.name)?, &host.city).with_arguments(arguments)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let (first, joining) = nodes.split_first_mut().context("the world has no node")?;
        prepare(first).await?;
        let ready = first.start(&Origin::First).await?;
        let token_file = ready.token_file.context("the first server names no token file")?;
        let token_file = first.seen_from_outside(&token_file)?;
        let token = std::fs::read_to_string(token_file)?.trim().to_owned();
        let bridge = Bridge::open(first.host().clone(), first.address(API_PORT)?).await?;
        let client = Client::new(&format!("http://{}", bridge.address()), Some(token.clone()), None)?;
        let control = first.address(NODES_PORT)?;
        for node in joining {
            // Where BGP leads, it takes its time at first.
            let (there, back) = (first.host().ipv4()?, node.host().ipv4()?);
            until("a joining server and the first one reach each other", SOON, async || {
                lab.trace(node.name(), there).await?;
                lab.trace(first.name(), back).await?;
                Ok(())
            })
            .await?;
            prepare(node).await?;
            let token = client.node_token().await?.token;
            node.start(&Origin::Joins { control, token }).await?;
        }
        let platform = Self { client, token, ca: ready.ca, nodes, _bridge: bridge, lab };
        until("every node is heard", SOON, async || platform.all_heard().await).await?;
        Ok(platform)
    }

    async fn all_heard(&self) -> anyhow::Result<()> {
        let nodes = self.client.nodes().await?;
        let heard = nodes.iter().filter(|node| node.reachable).count();
        ensure!(heard == self.nodes.len(), "{heard} of {} nodes are heard", self.nodes.len());
        Ok(())
    }

    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The first token: an owner's.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The platform's authority, for HTTPS.
    pub fn ca(&self) -> &Path {
        &self.ca
    }

    /// Where servers join.
    pub fn nodes_address(&self) -> anyhow::Result<SocketAddr> {
        self.nodes.first().context("no node")?.address(NODES_PORT)
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> anyhow::Result<&Node> {
        self.nodes.iter().find(|node| node.name() == name).with_context(|| format!("there is no node {name}"))
    }

    pub fn node_mut(&mut self, name: &str) -> anyhow::Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.name() == name).with_context(|| format!("there is no node {name}"))
    }

    /// Waits until control hears a server, or does not.
    pub async fn heard(&self, name: &str, wanted: bool) -> anyhow::Result<()> {
        let what = format!("{name} is heard: {wanted}");
        until(&what, SOON, async || {
            let nodes = self.client.nodes().await?;
            let node = nodes.iter().find(|node| node.name.as_str() == name).context("it is not listed")?;
            ensure!(node.reachable == wanted, "reachable is {}", node.reachable);
            Ok(())
        })
        .await
        .map(drop)
    }

    pub fn host(&self, name: &str) -> anyhow::Result<Host> {
        Ok(self.lab.host(name)?)
    }

    /// Creates an app and brings the example image in for it; gives the host name at which edges serve it.
    pub async fn create_app(&self, app: &str) -> anyhow::Result<String> {
        self.client.app_create(app, "personal").await?;
        self.import_example("hello", &example_of(app)).await?;
        Ok(format!("{app}.{APP_DOMAIN}"))
    }

    /// Makes a machine of the example image; gives its id.
    pub async fn create_machine(&self, app: &str, spec: &MachineSpec<'_>) -> anyhow::Result<String> {
        let env: serde_json::Map<String, Value> =
            spec.env.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let mut service = json!({
            "protocol": "tcp",
            "internal_port": 8080,
            "ports": [
                {"port": 80, "handlers": ["http"]},
                {"port": 443, "handlers": ["tls", "http"]},
            ],
            "concurrency": {"type": "requests", "soft_limit": 200},
            "autostart": true,
        });
        if let Some(idle) = spec.idle {
            service["autostop"] = json!("stop");
            service["idle_timeout"] = json!(idle);
        }
        let restart = if spec.restart.is_empty() { "on-failure" } else { spec.restart };
        let body = json!({
            "region": spec.region,
            "config": {
                "image": example_of(app),
                "env": env,
                "services": [service],
                "restart": {"policy": restart},
            },
        });
        let path = format!("/v1/apps/{app}/machines");
        let made = self.client.raw(http::Method::POST, &path, Some(&body)).await?;
        Ok(made["id"].as_str().context("the machine made has no id")?.to_owned())
    }

    /// Makes a machine of the example image and waits until it runs.
    pub async fn running_machine(&self, app: &str, region: &str) -> anyhow::Result<RunningMachine> {
        let id = self.create_machine(app, &MachineSpec { region, ..MachineSpec::default() }).await?;
        let machine = self.in_state(app, &id, MachineState::Started).await?;
        Ok(RunningMachine { id, address: machine.private_ip.parse()? })
    }

    /// Starts a machine, also one that is only just ending; one that runs is left as it is.
    pub async fn start_machine(&self, app: &str, id: &str) -> anyhow::Result<()> {
        until(&format!("machine {id} runs"), SOON, async || {
            let machines = self.client.machines(app).await?;
            let machine = machines.iter().find(|machine| machine.id.to_string() == id);
            let state = machine.with_context(|| format!("there is no machine {id}"))?.state;
            if state != MachineState::Started {
                self.client.machine_change(app, id, "start", &json!({})).await?;
                anyhow::bail!("it was {}", state.as_str());
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    pub async fn stop_machine(&self, app: &str, id: &str) -> anyhow::Result<()> {
        self.client.machine_change(app, id, "stop", &json!({})).await?;
        self.in_state(app, id, MachineState::Stopped).await.map(drop)
    }

    /// Waits until control shows a machine in a state.
    pub async fn in_state(&self, app: &str, id: &str, state: MachineState) -> anyhow::Result<MachineSummary> {
        let wanted = state.as_str();
        let (machine, _) = until(&format!("machine {id} is {wanted}"), SOON, async || {
            let machines = self.client.machines(app).await?;
            let machine = machines.into_iter().find(|machine| machine.id.to_string() == id);
            let machine = machine.with_context(|| format!("there is no machine {id}"))?;
            ensure!(machine.state == state, "it is {}", machine.state.as_str());
            Ok(machine)
        })
        .await?;
        Ok(machine)
    }

    /// Waits until the example app answers a client at the service address.
    pub async fn served(&self, client: &str, host_name: &str) -> anyhow::Result<Seen> {
        self.served_as(client, host_name, |_| true).await
    }

    /// Waits until an answer is as wanted.
    pub async fn served_as(
        &self,
        client: &str,
        host_name: &str,
        wanted: impl Fn(&Seen) -> bool,
    ) -> anyhow::Result<Seen> {
        let host = self.host(client)?;
        let what = format!("{client} is served by {host_name} as wanted");
        let (seen, _) = until(&what, SOON, async || {
            let seen = see(&host, &Ask::get(host_name, "/")).await?;
            ensure!(wanted(&seen), "the last answer was {seen:?}");
            Ok(seen)
        })
        .await?;
        Ok(seen)
    }

    /// Copies the servers' logs to `target/trial/<name>`, for whoever looks into a failure.
    pub fn keep_logs(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = crate::programs::checkout().join("target/trial").join(name);
        std::fs::create_dir_all(&folder)?;
        for node in &self.nodes {
            let log = node.host().status()?.logs.join("atoll.log");
            std::fs::copy(log, folder.join(format!("{}.log", node.name())))?;
        }
        Ok(folder.canonicalize()?)
    }
}

/// The name of the example's image in an app.
pub fn example_of(app: &str) -> String {
    format!("{app}/web:latest")
}

/// An answer of the example app, and the edge that gave it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub who: Who,
    pub edge: String,
    pub took: Duration,
}

/// Asks the example app once.
pub async fn see(from: &Host, question: &Ask<'_>) -> anyhow::Result<Seen> {
    let answer = ask(from, question).await?;
    let who = answer.who()?;
    Ok(Seen { who, edge: answer.edge.context("the answer names no edge")?, took: answer.took })
}
