//! `atoll ips`

use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use atoll_client::Client;
use atoll_model::wire::AddressPoolRequest;

use crate::Printer;
use crate::outcome::{CliResult, Outcome};
use crate::target::AppTarget;

#[derive(Subcommand, Debug)]
pub enum IpsCommand {
    /// List an app's addresses
    List(AppTarget),
    /// Give an app an IPv4 address, the lowest free one of the operator's pools
    AllocateV4(Allocate),
    /// Give an app an IPv6 address, the lowest free one of the operator's pools
    AllocateV6(Allocate),
    /// Give an app an address in a private network (Flycast), entered through an edge
    Private {
        /// Network from which it is entered [default: the app's own]
        #[arg(long)]
        network: Option<String>,
        #[command(flatten)]
        target: AppTarget,
    },
    /// Take addresses from an app; nobody else gets them until every server goes without them
    Release {
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        #[command(flatten)]
        target: AppTarget,
    },
    /// Give an app addresses of a server in a region that its machines there leave under, an IPv4 and an IPv6 one
    AllocateEgress {
        /// Where, such as ams; again for the region's next server
        #[arg(short, long)]
        region: String,
        /// An address of this family alone
        #[arg(long, value_name = "FAMILY")]
        only: Option<EgressFamily>,
        #[command(flatten)]
        target: AppTarget,
    },
    /// Have an app's machines leave under their servers' addresses again; nobody else gets these for an hour
    ReleaseEgress {
        #[arg(required = true, value_name = "ADDRESS")]
        addresses: Vec<IpAddr>,
        #[command(flatten)]
        target: AppTarget,
    },
    /// Prefixes that apps' addresses are of, for the platform's operator
    #[command(subcommand)]
    Pool(PoolCommand),
}

#[derive(Clone, Copy, ValueEnum, Debug)]
pub enum EgressFamily {
    V4,
    V6,
}

#[derive(Args, Debug)]
pub struct Allocate {
    /// One that several apps have, told apart by name
    #[arg(long, conflicts_with = "local")]
    shared: bool,
    /// One that is announced by itself, where the app is served
    #[arg(long)]
    local: bool,
    #[command(flatten)]
    target: AppTarget,
}

#[derive(Subcommand, Debug)]
pub enum PoolCommand {
    /// List the pools and how much of each is in use
    List,
    /// Give a prefix to apps
    Add {
        /// Such as 198.51.100.0/24
        prefix: String,
        /// Its addresses are shared by apps, which are told apart by name
        #[arg(long, conflicts_with = "local")]
        shared: bool,
        /// Routes of single addresses may be announced where their apps are served
        #[arg(long)]
        local: bool,
    },
    /// Take a prefix back that no app has an address of
    Remove { prefix: String },
}

pub async fn run(command: IpsCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        IpsCommand::List(target) => {
            let listed = client.addresses(&target.name()?).await?;
            printer.data(&listed, |printer| {
                let list = listed["ips"].as_array().map(Vec::as_slice).unwrap_or_default();
                let row = |ip: &Value| vec![text(ip, "ip"), kind(ip), text(ip, "region"), text(ip, "created_at")];
                printer.table(&["address", "kind", "region", "since"], list.iter().map(row).collect());
            });
        }
        IpsCommand::AllocateV4(allocate) => allocate_public(client, printer, allocate, "v4").await?,
        IpsCommand::AllocateV6(allocate) => allocate_public(client, printer, allocate, "v6").await?,
        IpsCommand::Private { network, target } => {
            let wanted = json!({"type": "private_v6", "network": network.unwrap_or_default()});
            given(client, printer, &target.name()?, &wanted).await?;
        }
        IpsCommand::Release { addresses, target } | IpsCommand::ReleaseEgress { addresses, target } => {
            let app = target.name()?;
            for address in &addresses {
                client.address_release(&app, *address).await?;
                printer.note(&format!("{address} is no address of {app} any more"));
            }
            printer.data(&json!({"released": addresses}), |_| {});
        }
        IpsCommand::AllocateEgress { region, only, target } => {
            allocate_egress(client, printer, &target.name()?, &region, only).await?;
        }
        IpsCommand::Pool(command) => pool(command, client, printer).await?,
    }
    Ok(Outcome::Done)
}

async fn allocate_public(
    client: &Client,
    printer: &Printer,
    allocate: Allocate,
    family: &str,
) -> Result<(), crate::CliError> {
    let kind = if allocate.shared { format!("shared_{family}") } else { family.to_owned() };
    given(client, printer, &allocate.target.name()?, &json!({"type": kind, "local": allocate.local})).await
}

async fn allocate_egress(
    client: &Client,
    printer: &Printer,
    app: &str,
    region: &str,
    only: Option<EgressFamily>,
) -> Result<(), crate::CliError> {
    let kind = match only {
        Some(EgressFamily::V4) => "egress_v4",
        Some(EgressFamily::V6) => "egress_v6",
        None => "egress_pair",
    };
    let given = client.address_assign(app, &json!({"type": kind, "region": region})).await?;
    printer.data(&given, |printer| {
        for address in [&given["ip"], &given["ip_pair"]["v4"], &given["ip_pair"]["v6"]] {
            if let Some(address) = address.as_str() {
                printer.line(address);
            }
        }
        printer.note(&format!("machines of {app} on {} leave under it", text(&given, "node")));
    });
    Ok(())
}

/// Asks for an address and says which it is.
async fn given(client: &Client, printer: &Printer, app: &str, wanted: &Value) -> Result<(), crate::CliError> {
    let given = client.address_assign(app, wanted).await?;
    printer.data(&given, |printer| {
        printer.line(&text(&given, "ip"));
        printer.note(&format!("leads to {app}: {}", kind(&given)));
    });
    Ok(())
}

async fn pool(command: PoolCommand, client: &Client, printer: &Printer) -> Result<(), crate::CliError> {
    match command {
        PoolCommand::List => {
            let pools = client.address_pools().await?;
            printer.data(&pools, |printer| {
                let row = |pool: &atoll_model::wire::AddressPoolSummary| {
                    vec![
                        pool.prefix.clone(),
                        if pool.shared { "shared" } else { "dedicated" }.to_owned(),
                        if pool.local { "yes" } else { "no" }.to_owned(),
                        pool.used.to_string(),
                        pool.resting.to_string(),
                    ]
                };
                let rows = pools.iter().map(row).collect();
                printer.table(&["prefix", "kind", "host routes", "in use", "resting"], rows);
                for pool in pools.iter().filter(|pool| !pool.waiting_for.is_empty()) {
                    let servers: Vec<String> = pool.waiting_for.iter().map(ToString::to_string).collect();
                    printer.note(&format!("{}: addresses rest until {} hear control", pool.prefix, servers.join(", ")));
                }
            });
        }
        PoolCommand::Add { prefix, shared, local } => {
            let pool = client.address_pool_add(&AddressPoolRequest { prefix, shared, local }).await?;
            printer.data(&pool, |printer| {
                printer.note(&format!("apps get addresses of {} from now on", pool.prefix));
                printer.note("users reach them where the guard's plan announces the prefix");
            });
        }
        PoolCommand::Remove { prefix } => {
            client.address_pool_remove(&prefix).await?;
            printer.done(&format!("no app gets addresses of {prefix} any more"), json!({"removed": prefix}));
        }
    }
    Ok(())
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or("-").to_owned()
}

/// What an address is, in a word.
fn kind(ip: &Value) -> String {
    let yes = |key: &str| ip[key] == true;
    if yes("egress") {
        return ip["node"].as_str().map_or("egress, no server has it".to_owned(), |node| format!("egress of {node}"));
    }
    match ip["network"]["name"].as_str() {
        Some("") => "private".to_owned(),
        Some(network) => format!("private, from network {network}"),
        None if yes("shared") => "shared".to_owned(),
        None if yes("local") => "dedicated, local".to_owned(),
        None => "dedicated".to_owned(),
    }
}
