//! `atoll mesh`

use clap::Subcommand;

use atoll_client::Client;
use atoll_model::wire::{MeshServer, MeshWay};

use crate::Printer;
use crate::outcome::{CliResult, Outcome};
use crate::printer::{age, now_ms};

#[derive(Subcommand, Debug)]
pub enum MeshCommand {
    /// Show how the servers reach each other, and what to do where they do not
    #[command(after_help = "Ends with 1 if anything is wrong.")]
    Doctor,
}

pub async fn run(command: MeshCommand, client: &Client, printer: &Printer) -> CliResult {
    let MeshCommand::Doctor = command;
    let examined = client.mesh().await?;
    let now = now_ms();
    printer.data(&examined, |printer| {
        let rows: Vec<_> = examined.servers.iter().flat_map(|server| rows(server, now)).collect();
        printer.table(
            &[
                "from",
                "to",
                "answers",
                "round trip",
                "loss",
                "keys agreed",
                "path",
                "carries",
                "by",
                "mtu",
                "certificate",
            ],
            rows,
        );
        for finding in &examined.findings {
            let towards = finding.towards.as_ref().map(|towards| format!(" to {towards}")).unwrap_or_default();
            printer.warn(&format!("{}{towards}: {}: {}", finding.node, finding.problem, finding.advice));
        }
    });
    Ok(if examined.findings.is_empty() { Outcome::Done } else { Outcome::Failed })
}

/// A line for each way from a server.
fn rows(server: &MeshServer, now_ms: u64) -> Vec<Vec<String>> {
    let Some(report) = &server.report else { return Vec::new() };
    let certificate = format!("{} min left", report.certificate_expires_at.saturating_sub(now_ms / 1000) / 60);
    let by = report.backend.clone().unwrap_or_else(|| "-".to_owned());
    let row = |way: &MeshWay| {
        vec![
            server.node.to_string(),
            way.node.to_string(),
            way.reachable.map_or("-", |reachable| if reachable { "yes" } else { "no" }).to_owned(),
            format!("{:.1} ms", way.round_trip_ms),
            format!("{:.0} %", way.loss * 100.0),
            way.last_handshake.map_or_else(|| "never".to_owned(), |at| age(at * 1000, now_ms)),
            path(way, now_ms),
            way.path_mtu.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
            by.clone(),
            report.mtu.to_string(),
            certificate.clone(),
        ]
    };
    report.ways.iter().map(row).collect()
}

/// Over whom, since when and why, as far as this end knows.
fn path(way: &MeshWay, now_ms: u64) -> String {
    match (&way.relay, way.endpoint) {
        (Some(relay), _) => {
            let since = relay.since.map(|at| format!(", taken {}", age(at * 1000, now_ms))).unwrap_or_default();
            let reason = relay.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("over {}{since}{reason}", relay.node)
        }
        (None, Some(endpoint)) => format!("direct, {endpoint}"),
        (None, None) => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_is_a_line() {
        let server: MeshServer = serde_json::from_value(serde_json::json!({
            "node": "ams1", "region": "ams", "heard": true,
            "report": {"backend": "userspace", "port": 51820, "mtu": 1420, "certificate_expires_at": 2_800, "ways": [
                {"node": "nrt1", "endpoint": "192.0.2.1:51820", "last_handshake": 970, "reachable": true, "path_mtu": 1492,
                 "round_trip_ms": 151.24, "loss": 0.015, "rx_bytes": 1, "tx_bytes": 2},
                {"node": "lhr1", "relay": {"node": "fra1", "since": 940, "reason": "the direct way is slow"},
                 "direct_round_trip_ms": 108.3, "reachable": true, "round_trip_ms": 14.0, "loss": 0.0,
                 "last_handshake": 970, "rx_bytes": 1, "tx_bytes": 2},
                {"node": "ord1", "reachable": false, "round_trip_ms": 0.0, "loss": 1.0, "rx_bytes": 0, "tx_bytes": 2},
            ]},
        }))
        .unwrap();
        let lines: Vec<String> = rows(&server, 1_000_000).iter().map(|row| row.join(" | ")).collect();
        assert_eq!(
            lines,
            [
                "ams1 | nrt1 | yes | 151.2 ms | 2 % | 30s ago | direct, 192.0.2.1:51820 | 1492 | userspace | 1420 | 30 min left",
                "ams1 | lhr1 | yes | 14.0 ms | 0 % | 30s ago | over fra1, taken 1m ago: the direct way is slow | - | userspace | 1420 | 30 min left",
                "ams1 | ord1 | no | 0.0 ms | 100 % | never | - | - | userspace | 1420 | 30 min left",
            ]
        );
    }
}
