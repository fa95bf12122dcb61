//! The commands, one file each.

mod apps;
mod audit;
mod auth;
mod console;
pub mod control;
mod deploy;
mod dns;
mod edge;
mod image;
mod ips;
mod logs;
mod machine;
mod mesh;
mod node;
mod regions;
mod registry;
mod releases;
mod scale;
mod secrets;
mod status;
mod token;
mod wireguard;

use clap::Subcommand;

use crate::outcome::CliResult;
use crate::{Connection, Printer};

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Create, list and destroy apps
    #[command(subcommand)]
    Apps(apps::AppsCommand),
    /// Deploy the app in this folder
    Deploy(deploy::DeployCommand),
    /// Show an app, its release and its machines
    Status(status::StatusCommand),
    /// Look at machines and steer them
    #[command(subcommand, visible_alias = "machines", visible_alias = "m")]
    Machine(machine::MachineCommand),
    /// Show what machines print
    Logs(logs::LogsCommand),
    /// Change how many machines an app has
    #[command(subcommand)]
    Scale(scale::ScaleCommand),
    /// Values that machines get as environment variables and nobody reads back
    #[command(subcommand)]
    Secrets(secrets::SecretsCommand),
    /// List an app's releases
    Releases(releases::ReleasesCommand),
    /// List the regions of this platform
    Regions(regions::RegionsCommand),
    /// Images kept by this platform
    #[command(subcommand, visible_alias = "images")]
    Image(image::ImageCommand),
    /// The servers' private network
    #[command(subcommand)]
    Mesh(mesh::MeshCommand),
    /// Your own devices in private networks
    #[command(subcommand, visible_alias = "wg")]
    Wireguard(wireguard::WireguardCommand),
    /// Where users enter the platform
    #[command(subcommand)]
    Edge(edge::EdgeCommand),
    /// Addresses by which apps are entered
    #[command(subcommand)]
    Ips(ips::IpsCommand),
    /// Records of the platform's public DNS
    #[command(subcommand)]
    Dns(dns::DnsCommand),
    /// Logins at other registries that images are pulled from
    #[command(subcommand)]
    Registry(registry::RegistryCommand),
    /// A terminal in a machine
    #[command(subcommand)]
    Ssh(console::SshCommand),
    /// The platform's servers
    #[command(subcommand, visible_alias = "nodes")]
    Node(node::NodeCommand),
    /// Tokens for people and programs
    #[command(subcommand, visible_alias = "tokens")]
    Token(token::TokenCommand),
    /// Control's records: who changed what, copies of them
    #[command(subcommand)]
    Control(control::ControlCommand),
    /// Log in to a platform
    #[command(subcommand)]
    Auth(auth::AuthCommand),
}

pub async fn run(command: Command, connection: &Connection, printer: &Printer) -> CliResult {
    if let Command::Auth(command) = command {
        return auth::run(command, connection, printer).await;
    }
    let client = connection.client()?;
    match command {
        Command::Apps(command) => apps::run(command, &client, printer).await,
        Command::Deploy(command) => deploy::run(command, &client, printer).await,
        Command::Status(command) => status::run(command, &client, printer).await,
        Command::Machine(command) => machine::run(command, &client, printer).await,
        Command::Logs(command) => logs::run(command, &client, printer).await,
        Command::Scale(command) => scale::run(command, &client, printer).await,
        Command::Secrets(command) => secrets::run(command, &client, printer).await,
        Command::Releases(command) => releases::run(command, &client, printer).await,
        Command::Regions(command) => regions::run(command, &client, printer).await,
        Command::Image(command) => image::run(command, &client, printer).await,
        Command::Mesh(command) => mesh::run(command, &client, printer).await,
        Command::Wireguard(command) => wireguard::run(command, &client, printer).await,
        Command::Edge(command) => edge::run(command, &client, printer).await,
        Command::Ips(command) => ips::run(command, &client, printer).await,
        Command::Dns(command) => dns::run(command, &client, printer).await,
        Command::Registry(command) => registry::run(command, &client, printer).await,
        Command::Ssh(command) => console::run(command, &client, printer).await,
        Command::Node(command) => node::run(command, &client, printer).await,
        Command::Token(command) => token::run(command, &client, printer).await,
        Command::Control(command) => control::run(command, &client, printer).await,
        Command::Auth(command) => auth::run(command, connection, printer).await,
    }
}
