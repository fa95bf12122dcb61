//! `atoll control audit`

use std::time::Duration;

use clap::Args;

use atoll_client::{AuditQuery, Client};
use atoll_model::wire::{AuditEntry, AuditOutcome};

use crate::Printer;
use crate::outcome::{CliResult, Outcome};
use crate::printer::{now_ms, timestamp};

#[derive(Args, Debug)]
pub struct AuditCommand {
    /// Only what is about this app
    #[arg(short, long)]
    app: Option<String>,
    /// Only what this token did: its name or id
    #[arg(long)]
    actor: Option<String>,
    /// Only what is about this organization or its apps; who does not administer the platform has to say it
    #[arg(long)]
    org: Option<String>,
    /// Only from then on: a moment as 2026-01-31T12:00:00Z, or an age as 30m, 12h or 7d
    #[arg(long)]
    since: Option<String>,
    /// How many at most
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// The largest part that the API gives at once.
const MAX_PART: u32 = 1000;

pub async fn run(command: AuditCommand, client: &Client, printer: &Printer) -> CliResult {
    let AuditCommand { app, actor, org, since, limit } = command;
    let since = since.map(|text| moment(text, now_ms()));
    let mut query = AuditQuery { since, app, actor, org, cursor: None, limit: 0 };
    let mut entries = Vec::new();
    let mut left = limit;
    while left > 0 {
        query.limit = left.min(MAX_PART);
        let page = client.audit(&query).await?;
        left = left.saturating_sub(query.limit);
        entries.extend(page.entries);
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => break,
        }
    }
    printer.data(&entries, |printer| {
        let header = ["when", "who", "what", "on", "end"];
        printer.table_with_lines(&header, entries.iter().map(|entry| (row(entry), entry.diff())).collect());
    });
    Ok(Outcome::Done)
}

/// A moment for the API, which judges what is no age.
fn moment(text: String, now_ms: u64) -> String {
    let seconds = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let age = seconds.iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(*unit)?.parse().ok()?;
        Some(Duration::from_secs(number.saturating_mul(*seconds)))
    });
    match age {
        Some(age) => timestamp(now_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))),
        None => text,
    }
}

fn row(entry: &AuditEntry) -> Vec<String> {
    let why = entry.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
    let end = match entry.outcome {
        AuditOutcome::Done => "done".to_owned(),
        AuditOutcome::Refused => format!("refused{why}"),
        AuditOutcome::Failed => format!("failed{why}"),
        AuditOutcome::Unknown => "not known".to_owned(),
    };
    // Whoever makes a token names it as they like.
    let name = entry.actor.name.replace(char::is_control, "?");
    let who = format!("{name} ({}, {})", entry.actor.role, entry.actor.token);
    vec![timestamp(entry.at_ms), who, entry.operation.clone(), entry.target.clone(), end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_become_moments() {
        let at = |text: &str| moment(text.to_owned(), 1_800_000_000_000);
        assert_eq!(at("90s"), "2027-01-15T07:58:30.000Z");
        assert_eq!(at("30m"), "2027-01-15T07:30:00.000Z");
        assert_eq!(at("7d"), "2027-01-08T08:00:00.000Z");
        assert_eq!(at("999999999999999999d"), "1970-01-01T00:00:00.000Z");
        for text in ["2026-01-31T12:00:00Z", "soon", "d", "-1d"] {
            assert_eq!(at(text), text);
        }
    }

    #[test]
    fn a_row_says_who_did_what_and_how_it_ended() {
        let mut entry: AuditEntry = serde_json::from_value(serde_json::json!({
            "id": "1", "at_ms": 1_800_000_000_123_u64, "operation": "node_change", "target": "node=ams1 verb=drain",
            "actor": {"token": "t1", "name": "root", "role": "owner"}, "outcome": "done",
        }))
        .unwrap();
        assert_eq!(
            row(&entry).join(" "),
            "2027-01-15T08:00:00.123Z root (owner, t1) node_change node=ams1 verb=drain done"
        );
        entry.outcome = AuditOutcome::Refused;
        entry.error = Some("not_found".to_owned());
        assert_eq!(row(&entry)[4], "refused: not_found");
    }
}
