//! `atoll status`

use clap::Args;

use atoll_client::Client;
use atoll_model::service::CheckStatus;
use atoll_model::wire::MachineSummary;

use crate::Printer;
use crate::outcome::{CliResult, Outcome};
use crate::printer::{age, now_ms};
use crate::target::AppTarget;

#[derive(Args, Debug)]
pub struct StatusCommand {
    #[command(flatten)]
    pub target: AppTarget,
}

pub async fn run(command: StatusCommand, client: &Client, printer: &Printer) -> CliResult {
    let status = client.app_status(&command.target.name()?).await?;
    printer.data(&status, |printer| {
        printer.line(&format!("app       {}", status.name));
        printer.line(&format!("host      {}", status.hostname));
        if let Some(release) = &status.release {
            let when = age(release.created_at_ms, now_ms());
            printer.line(&format!("release   v{} {} ({when})", release.version, release.status.as_str()));
            printer.line(&format!("image     {}", release.image));
        }
        let regions: Vec<&str> = status.regions.iter().map(|region| region.as_str()).collect();
        printer.line(&format!("regions   {}", regions.join(" ")));
        printer.line("");
        machine_table(&status.machines, printer);
    });
    Ok(Outcome::Done)
}

pub fn machine_table(machines: &[MachineSummary], printer: &Printer) {
    let rows = machines
        .iter()
        .map(|machine| {
            let passing = machine.checks.iter().filter(|check| check.status == CheckStatus::Passing).count();
            let checks = match machine.checks.len() {
                0 => "-".to_owned(),
                all => format!("{passing}/{all}"),
            };
            let mut state = machine.state.to_string();
            if machine.cordoned {
                state.push_str(" (cordoned)");
            }
            if machine.host_status != "ok" {
                state.push_str(&format!(" (host {})", machine.host_status));
            }
            vec![
                machine.id.to_string(),
                machine.process_group.clone(),
                machine.region.to_string(),
                state,
                checks,
                machine.release.map_or_else(|| "-".into(), |release| format!("v{release}")),
                machine.node.to_string(),
                age(machine.updated_at_ms, now_ms()),
            ]
        })
        .collect();
    printer.table(&["machine", "group", "region", "state", "checks", "release", "node", "changed"], rows);
}
