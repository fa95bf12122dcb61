//! All that a command says. Data goes to standard output, everything else to standard error;
//! `--json` turns data into JSON for programs.

use std::error::Error;
use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::{CliError, Outcome};

#[derive(Clone, Copy, Debug)]
pub struct Printer {
    pub json: bool,
}

impl Printer {
    /// A person is watching: redrawing lines is welcome.
    pub fn is_interactive(&self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }

    /// A line of data.
    pub fn line(&self, text: &str) {
        // A reader that went away (`| head`) is no failure of the command.
        drop(writeln!(std::io::stdout().lock(), "{text}"));
    }

    /// Raw data.
    pub fn bytes(&self, bytes: &[u8]) {
        let mut out = std::io::stdout().lock();
        drop(out.write_all(bytes).and_then(|()| out.flush()));
    }

    /// What a person may like to know; nothing for programs.
    pub fn note(&self, text: &str) {
        if !self.json {
            eprintln!("{text}");
        }
    }

    pub fn warn(&self, text: &str) {
        eprintln!("warning: {text}");
    }

    /// `data` as JSON, or else what `human` prints.
    pub fn data<T: Serialize>(&self, data: &T, human: impl FnOnce(&Self)) {
        if !self.json {
            return human(self);
        }
        match serde_json::to_string_pretty(data) {
            Ok(text) => self.line(&text),
            Err(error) => eprintln!("error: the answer cannot be written as JSON: {error}"),
        }
    }

    /// A change was made: `text` for people, and `data` as JSON for programs.
    pub fn done(&self, text: &str, data: serde_json::Value) {
        self.data(&data, |printer| printer.note(text));
    }

    pub fn table(&self, header: &[&str], rows: Vec<Vec<String>>) {
        for line in lines(header, rows) {
            self.line(&line);
        }
    }

    /// A table in which lines follow a row, set off from it. No cell has a line's end in it.
    pub fn table_with_lines(&self, header: &[&str], rows: Vec<(Vec<String>, Vec<String>)>) {
        let (rows, mut following): (Vec<_>, Vec<_>) = rows.into_iter().unzip();
        // Nothing follows the header.
        following.insert(0, Vec::new());
        for (line, following) in lines(header, rows).zip(following) {
            self.line(&line);
            for line in following {
                self.line(&format!("    {line}"));
            }
        }
    }

    /// Says what went wrong, with its causes and a hint, and with which code to end.
    pub fn fail(&self, error: &CliError) -> Outcome {
        let mut text = format!("error: {error}");
        let mut cause = error.source();
        while let Some(inner) = cause {
            text.push_str(&format!("\n  caused by: {inner}"));
            cause = inner.source();
        }
        eprintln!("{text}");
        if let Some(hint) = error.hint() {
            eprintln!("hint: {hint}");
        }
        error.outcome()
    }
}

/// A table's lines, the header first.
fn lines(header: &[&str], rows: Vec<Vec<String>>) -> impl Iterator<Item = String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.iter().map(|title| title.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>().into_iter()
}

/// `3m ago`, from Unix milliseconds.
pub fn age(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3600 => format!("{}m ago", seconds / 60),
        3600..86_400 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// `12.3 MB`
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// Unix milliseconds now.
pub fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))
}

/// RFC 3339 to the millisecond, UTC.
pub fn timestamp(unix_ms: u64) -> String {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| unix_ms.to_string(), |time| format!("{time:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_sizes_are_short() {
        assert_eq!(age(0, 59_000), "59s ago");
        assert_eq!(age(0, 3_600_000), "1h ago");
        assert_eq!(age(5_000, 0), "0s ago");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(12_345_678), "12.3 MB");
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        assert_eq!(timestamp(1_800_000_000_123), "2027-01-15T08:00:00.123Z");
    }
}
