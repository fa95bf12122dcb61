//! `atoll machine`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use atoll_client::{Client, ClientError};
use atoll_model::MachineState::{self, Started, Stopped, Suspended};
use atoll_model::wire::UnknownMachine;

use crate::outcome::{CliResult, Outcome};
use crate::printer::{age, now_ms};
use crate::target::AppTarget;
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum MachineCommand {
    /// List an app's machines
    List {
        #[command(flatten)]
        target: AppTarget,
        /// Instead those of all apps that servers have and the records do not, as after a restore
        #[arg(long)]
        unknown: bool,
    },
    /// Show one machine with its events
    Status(One),
    /// Start machines and wait until they run
    Start(Steered),
    /// Stop machines and wait until they have ended
    Stop {
        #[command(flatten)]
        steered: Steered,
        /// Signal to send first, such as SIGTERM
        #[arg(long)]
        signal: Option<String>,
        /// Time until the forced kill, such as 10s
        #[arg(long)]
        timeout: Option<String>,
    },
    /// Suspend machines
    Suspend(Steered),
    /// Restart machines and wait until they run
    Restart(Steered),
    /// Destroy machines
    Destroy {
        #[command(flatten)]
        several: Several,
        /// Running ones too
        #[arg(long)]
        force: bool,
        /// Those that `atoll machine list --unknown` shows, running or not
        #[arg(long)]
        unknown: bool,
    },
    /// Run a command in a machine and print what it says
    Exec {
        #[command(flatten)]
        one: One,
        /// Seconds until it is given up, 60 at most
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=60))]
        timeout: u64,
        /// Program and arguments, without a shell
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Send no new requests to machines
    Cordon(Several),
    /// Send requests to machines again
    Uncordon(Several),
}

#[derive(Args, Debug)]
pub struct One {
    /// The machine, as `atoll machine list` shows it
    id: String,
    #[command(flatten)]
    target: AppTarget,
}

#[derive(Args, Debug)]
pub struct Several {
    /// The machines, as `atoll machine list` shows them
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    target: AppTarget,
}

#[derive(Args, Debug)]
pub struct Steered {
    #[command(flatten)]
    several: Several,
    /// Seconds to wait for it, 60 at most; 0 only asks for it
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(..=60))]
    wait: u64,
}

pub async fn run(command: MachineCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        MachineCommand::List { unknown: true, .. } => list_unknown(client, printer).await,
        MachineCommand::List { target, .. } => list(&target.name()?, client, printer).await,
        MachineCommand::Status(one) => status(&one, client, printer).await,
        MachineCommand::Start(steered) => steer(&steered, "start", Started, json!({}), client, printer).await,
        MachineCommand::Stop { steered, signal, timeout } => {
            let mut body = json!({});
            if let Some(signal) = signal {
                body["signal"] = signal.into();
            }
            if let Some(timeout) = timeout {
                body["timeout"] = timeout.into();
            }
            steer(&steered, "stop", Stopped, body, client, printer).await
        }
        MachineCommand::Suspend(steered) => steer(&steered, "suspend", Suspended, json!({}), client, printer).await,
        MachineCommand::Restart(steered) => steer(&steered, "restart", Started, json!({}), client, printer).await,
        MachineCommand::Cordon(several) => simply(&several, "cordon", client, printer).await,
        MachineCommand::Uncordon(several) => simply(&several, "uncordon", client, printer).await,
        MachineCommand::Destroy { several, unknown: true, .. } => {
            each(&several.ids, printer, async |id| {
                client.machine_unknown_destroy(id).await?;
                Ok("destroyed".to_owned())
            })
            .await
        }
        MachineCommand::Destroy { several, force, .. } => {
            let app = several.target.name()?;
            each(&several.ids, printer, async |id| {
                client.machine_destroy(&app, id, force).await?;
                Ok("destroyed".to_owned())
            })
            .await
        }
        MachineCommand::Exec { one, timeout, command } => {
            let app = one.target.name()?;
            let reply = client.machine_exec(&app, &one.id, &command, timeout).await?;
            printer.data(&reply, |printer| {
                printer.bytes(reply.stdout.as_bytes());
                eprint!("{}", reply.stderr);
            });
            Ok(Outcome::Exit(u8::try_from(reply.exit_code).unwrap_or(1)))
        }
    }
}

/// Asks for a change that leads to a state, and waits for that.
async fn steer(
    steered: &Steered,
    verb: &str,
    leads_to: MachineState,
    body: Value,
    client: &Client,
    printer: &Printer,
) -> CliResult {
    let app = steered.several.target.name()?;
    each(&steered.several.ids, printer, async |id| {
        client.machine_change(&app, id, verb, &body).await?;
        if steered.wait == 0 {
            return Ok("asked".to_owned());
        }
        client.machine_wait(&app, id, leads_to.as_str(), steered.wait).await?;
        Ok(leads_to.to_string())
    })
    .await
}

async fn simply(several: &Several, verb: &str, client: &Client, printer: &Printer) -> CliResult {
    let app = several.target.name()?;
    each(&several.ids, printer, async |id| {
        client.machine_change(&app, id, verb, &json!({})).await?;
        Ok(format!("{verb}ed"))
    })
    .await
}

/// Does something to machine after machine: one that fails does not keep the others from it, and the
/// command ends with its code.
async fn each(
    ids: &[String],
    printer: &Printer,
    change: impl AsyncFn(&str) -> Result<String, ClientError>,
) -> CliResult {
    let mut outcome = Outcome::Done;
    let mut results = Vec::new();
    for id in ids {
        match change(id).await {
            Ok(result) => {
                printer.note(&format!("{id}: {result}"));
                results.push(json!({"id": id, "ok": true, "result": result}));
            }
            Err(error) => {
                results.push(json!({"id": id, "ok": false, "error": error.to_string()}));
                outcome = printer.fail(&CliError::from(error));
            }
        }
    }
    printer.data(&results, |_| {});
    Ok(outcome)
}

async fn list(app: &str, client: &Client, printer: &Printer) -> CliResult {
    let machines = client.machines(app).await?;
    printer.data(&machines, |printer| super::status::machine_table(&machines, printer));
    Ok(Outcome::Done)
}

async fn list_unknown(client: &Client, printer: &Printer) -> CliResult {
    let machines = client.machines_unknown().await?;
    printer.data(&machines, |printer| {
        let row = |machine: &UnknownMachine| {
            let UnknownMachine { id, app, state, region, node, why } = machine;
            vec![id.to_string(), app.to_string(), state.to_string(), region.to_string(), node.to_string(), why.clone()]
        };
        let header = ["machine", "app", "state", "region", "node", "not taken back because"];
        printer.table(&header, machines.iter().map(row).collect());
    });
    Ok(Outcome::Done)
}

async fn status(one: &One, client: &Client, printer: &Printer) -> CliResult {
    let machine = client.machine(&one.target.name()?, &one.id).await?;
    printer.data(&machine, |printer| {
        let text = |key: &str| machine[key].as_str().unwrap_or("-").to_owned();
        for (label, value) in [
            ("id", text("id")),
            ("name", text("name")),
            ("state", text("state")),
            ("region", text("region")),
            ("version", text("instance_id")),
            ("image", machine["config"]["image"].as_str().unwrap_or("-").to_owned()),
            ("address", text("private_ip")),
            ("host", text("host_status")),
        ] {
            printer.line(&format!("{label:<10}{value}"));
        }
        let events = machine["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rows = events
            .iter()
            .map(|event| {
                let field = |key: &str| event[key].as_str().unwrap_or("-").to_owned();
                let when = age(event["timestamp"].as_u64().unwrap_or(0), now_ms());
                let exit = &event["request"]["exit_event"]["exit_code"];
                let more = exit.as_i64().map(|code| format!("exit code {code}")).unwrap_or_default();
                vec![field("type"), field("status"), field("source"), when, more]
            })
            .collect();
        printer.line("");
        printer.table(&["event", "status", "source", "when", ""], rows);
    });
    Ok(Outcome::Done)
}
