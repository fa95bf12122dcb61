//! `atoll edge`

use clap::Subcommand;

use atoll_client::Client;
use atoll_model::wire::{GuardReport, PlaceAnnouncements};

use crate::Printer;
use crate::outcome::{CliResult, Outcome};
use crate::printer::{age, now_ms};

#[derive(Subcommand, Debug)]
pub enum EdgeCommand {
    /// Show which addresses each place announces, to whom, why and since when
    Announcements {
        /// Show what changed lately instead, the oldest first: + announced, - withdrawn, ~ liked more or less
        #[arg(long)]
        changes: bool,
    },
}

pub async fn run(command: EdgeCommand, client: &Client, printer: &Printer) -> CliResult {
    let EdgeCommand::Announcements { changes } = command;
    let places = client.announcements().await?;
    let now = now_ms();
    printer.data(&places, |printer| {
        let (header, rows): (&[&str], _) = if changes {
            (&["when", "node", "change", "why"], changed(&places, now))
        } else {
            (
                &["node", "region", "prefix", "to", "prepended", "why", "since"],
                places.iter().flat_map(|p| announced(p, now)).collect(),
            )
        };
        printer.table(header, rows);
        for place in &places {
            refusals(place, printer);
        }
    });
    Ok(Outcome::Done)
}

/// A line a prefix and neighbour; one for a place that announces nothing.
fn announced(place: &PlaceAnnouncements, now_ms: u64) -> Vec<Vec<String>> {
    let row = |what: [String; 5]| [[place.node.to_string(), place.region.to_string()].as_slice(), &what].concat();
    let nothing =
        |why: &str, since: String| vec![row(["-".to_owned(), "-".to_owned(), "-".to_owned(), why.to_owned(), since])];
    let report = match &place.report {
        _ if !place.heard => return nothing("does not answer", "-".to_owned()),
        None => return nothing("no guard", "-".to_owned()),
        Some(_) if !place.running => return nothing("the guard does not run", "-".to_owned()),
        Some(report) => report,
    };
    let since = age(report.since * 1000, now_ms);
    let routes = report.announced.iter().flat_map(|(prefix, told)| told.iter().map(move |told| (prefix, told)));
    let rows: Vec<_> = routes
        .map(|(prefix, (upstream, how))| {
            row([
                prefix.clone(),
                session(report, upstream),
                how.prepend.to_string(),
                why(&report.reason),
                since.clone(),
            ])
        })
        .collect();
    if rows.is_empty() { nothing(&why(&report.reason), since) } else { rows }
}

/// A neighbour that does not hear is told nothing.
fn session(report: &GuardReport, upstream: &str) -> String {
    let up = report.sessions.iter().any(|session| session.upstream == upstream && session.established);
    if up { upstream.to_owned() } else { format!("{upstream} (no session)") }
}

fn why(reason: &str) -> String {
    reason.replace('_', " ")
}

fn changed(places: &[PlaceAnnouncements], now_ms: u64) -> Vec<Vec<String>> {
    let all = places.iter().flat_map(|place| {
        place.report.iter().flat_map(|report| &report.changes).map(move |change| (change, &place.node))
    });
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|(change, _)| change.at);
    let row = |(change, node): (&atoll_model::wire::AnnouncementChange, &atoll_model::NodeName)| {
        vec![age(change.at * 1000, now_ms), node.to_string(), change.change.clone(), why(&change.reason)]
    };
    all.into_iter().map(row).collect()
}

fn refusals(place: &PlaceAnnouncements, printer: &Printer) {
    let Some(report) = &place.report else { return };
    for refused in [&report.plan_refused, &report.served_refused].into_iter().flatten() {
        printer.warn(&format!("{}: what was wanted last is kept: {refused}", place.node));
    }
    if place.running && !report.real_time {
        printer.warn(&format!("{}: the guard has no real-time priority", place.node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(report: serde_json::Value) -> PlaceAnnouncements {
        let report = serde_json::from_value(report).unwrap();
        let (node, region) = ("ams1".parse().unwrap(), "ams".parse().unwrap());
        PlaceAnnouncements { node, region, heard: true, running: true, report }
    }

    #[test]
    fn each_route_is_a_line_and_a_silent_place_says_why() {
        let report = serde_json::json!({
            "reason": "not_serving", "since": 90, "real_time": true, "announced": {}, "sessions": [],
        });
        let silent = place(report.clone());
        assert_eq!(announced(&silent, 100_000)[0].join(" "), "ams1 ams - - - not serving 10s ago");
        let dead = PlaceAnnouncements { running: false, ..silent.clone() };
        assert!(announced(&dead, 0)[0].contains(&"the guard does not run".to_owned()));
        let away = PlaceAnnouncements { heard: false, ..silent };
        assert!(announced(&away, 0)[0].contains(&"does not answer".to_owned()));

        let mut serving = report;
        serving["reason"] = "serves".into();
        serving["announced"] = serde_json::json!({"192.0.2.0/24": {
            "east": {"prepend": 0, "communities": []}, "west": {"prepend": 3, "communities": ["65535:0"]},
        }});
        serving["sessions"] = serde_json::json!([{"upstream": "east", "established": true, "info": ""}]);
        serving["changes"] = serde_json::json!([{"at": 90, "reason": "serves", "change": "+ 192.0.2.0/24 to east"}]);
        let lines: Vec<String> = announced(&place(serving.clone()), 100_000).iter().map(|row| row.join(" ")).collect();
        assert_eq!(
            lines,
            ["ams1 ams 192.0.2.0/24 east 0 serves 10s ago", "ams1 ams 192.0.2.0/24 west (no session) 3 serves 10s ago"]
        );
        assert_eq!(changed(&[place(serving)], 100_000)[0].join(" "), "10s ago ams1 + 192.0.2.0/24 to east serves");
    }
}
