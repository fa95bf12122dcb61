//! `atoll machine`

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use atoll_client::Client;

use crate::outcome::{CliResult, Outcome};
use crate::printer::{age, now_ms};
use crate::target::AppTarget;
use crate::{CliError, Printer};

#[derive(Subcommand, Debug)]
pub enum MachineCommand {
    /// List an app's machines
    List(AppTarget),
    /// Show one machine with its events
    Status(One),
    /// Start machines
    Start(Several),
    /// Stop machines
    Stop {
        #[command(flatten)]
        several: Several,
        /// Signal to send first, such as SIGTERM
        #[arg(long)]
        signal: Option<String>,
        /// Time until the forced kill, such as 10s
        #[arg(long)]
        timeout: Option<String>,
    },
    /// Suspend machines
    Suspend(Several),
    /// Restart machines
    Restart(Several),
    /// Destroy machines
    Destroy {
        #[command(flatten)]
        several: Several,
        /// Running ones too
        #[arg(long)]
        force: bool,
    },
    /// Run a command in a machine and print what it says
    Exec {
        #[command(flatten)]
        one: One,
        /// Seconds
        #[arg(long, default_value_t = 60)]
        timeout: u64,
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
    id: String,
    #[command(flatten)]
    target: AppTarget,
}

#[derive(Args, Debug)]
pub struct Several {
    #[arg(required = true)]
    ids: Vec<String>,
    #[command(flatten)]
    target: AppTarget,
}

pub async fn run(command: MachineCommand, client: &Client, printer: &Printer) -> CliResult {
    match command {
        MachineCommand::List(target) => list(&target.name()?, client, printer).await,
        MachineCommand::Status(one) => status(&one, client, printer).await,
        MachineCommand::Start(several) => change(&several, "start", json!({}), client, printer).await,
        MachineCommand::Stop { several, signal, timeout } => {
            let mut body = json!({});
            if let Some(signal) = signal {
                body["signal"] = signal.into();
            }
            if let Some(timeout) = timeout {
                body["timeout"] = timeout.into();
            }
            change(&several, "stop", body, client, printer).await
        }
        MachineCommand::Suspend(several) => change(&several, "suspend", json!({}), client, printer).await,
        MachineCommand::Restart(several) => change(&several, "restart", json!({}), client, printer).await,
        MachineCommand::Cordon(several) => change(&several, "cordon", json!({}), client, printer).await,
        MachineCommand::Uncordon(several) => change(&several, "uncordon", json!({}), client, printer).await,
        MachineCommand::Destroy { several, force } => {
            let app = several.target.name()?;
            for id in &several.ids {
                client.machine_destroy(&app, id, force).await?;
                printer.note(&format!("destroyed {id}"));
            }
            Ok(Outcome::Done)
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

async fn change(several: &Several, verb: &str, body: Value, client: &Client, printer: &Printer) -> CliResult {
    let app = several.target.name()?;
    let mut worst = Outcome::Done;
    for id in &several.ids {
        match client.machine_change(&app, id, verb, &body).await {
            Ok(_) => printer.note(&format!("{verb} {id}: done")),
            // One that cannot does not keep the others from it.
            Err(error) => worst = printer.fail(&CliError::from(error)),
        }
    }
    Ok(worst)
}

async fn list(app: &str, client: &Client, printer: &Printer) -> CliResult {
    let machines = client.machines(app).await?;
    printer.data(&machines, |printer| super::status::machine_table(&machines, printer));
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
