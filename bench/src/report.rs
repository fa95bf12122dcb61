//! What a run leaves: `bench/results/<name>.json`, and a row for each figure in `bench/RESULTS.md`,
//! whose other lines are written by hand and stay.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Map, Value, json};

use crate::figure::{Figure, Figures};

/// The line above the rows.
const HEAD: &str =
    "| bench | figure | value | peer | ratio | gate | target | gate held | date | commit | machine | command |";

/// Where and from what figures were measured.
#[derive(Clone, Debug)]
pub struct Origin {
    pub commit: String,
    pub machine: String,
    /// The day, as `2026-01-31`.
    pub date: String,
}

impl Origin {
    /// Of this run in a checkout.
    pub fn here(checkout: &Path) -> anyhow::Result<Self> {
        let git = |arguments: &[&str]| -> anyhow::Result<String> {
            let output = Command::new("git").arg("-C").arg(checkout).args(arguments).output()?;
            ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr).trim());
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let commit = git(&["rev-parse", "--short=12", "HEAD"]).context("cannot tell the commit")?;
        // What earlier benches of this run wrote is no change of what is measured.
        let changes = git(&["status", "--porcelain", "--", ".", ":!bench/results", ":!bench/RESULTS.md"])?;
        let commit = if changes.is_empty() { commit } else { format!("{commit} with changes") };
        Ok(Self { commit, machine: machine()?, date: jiff::Timestamp::now().strftime("%Y-%m-%d").to_string() })
    }
}

/// Processors, memory and kernel of this machine.
fn machine() -> anyhow::Result<String> {
    let cpus = std::thread::available_parallelism()?;
    let model = value_of("/proc/cpuinfo", "model name")?;
    let memory = value_of("/proc/meminfo", "MemTotal")?;
    let kilobytes: u64 = memory.trim_end_matches(" kB").parse().context("MemTotal is not a number of kB")?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    Ok(format!("{cpus} x {model}, {} GiB, Linux {}", (kilobytes + (1 << 19)) >> 20, kernel.trim()))
}

/// The value of the first `name: value` line of a file of the kernel's.
fn value_of(file: &str, name: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
    Ok(value.with_context(|| format!("{file} names no {name}"))?.trim().to_owned())
}

/// Writes a bench's figures into the folder `bench` of a checkout.
pub fn write(folder: &Path, name: &str, figures: &Figures, origin: &Origin) -> anyhow::Result<()> {
    let results = folder.join("results");
    std::fs::create_dir_all(&results).with_context(|| format!("cannot make {}", results.display()))?;
    let file = results.join(format!("{name}.json"));
    let text = format!("{:#}\n", document(name, figures, origin));
    std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    let file = folder.join("RESULTS.md");
    let before = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let rows: Vec<String> = figures.iter().map(|(key, figure)| row(name, key, figure, origin)).collect();
    let after = with_rows(&before, name, &rows).with_context(|| format!("{} has no table", file.display()))?;
    std::fs::write(&file, after).with_context(|| format!("cannot write {}", file.display()))
}

fn document(name: &str, figures: &Figures, origin: &Origin) -> Value {
    let figures: Map<String, Value> = figures.iter().map(|(key, figure)| ((*key).to_owned(), json!(figure))).collect();
    json!({"name": name, "commit": origin.commit, "machine": origin.machine, "figures": figures})
}

fn row(name: &str, key: &str, figure: &Figure, origin: &Origin) -> String {
    let number = |number: Option<f64>| number.map_or_else(|| "–".to_owned(), |number| number.to_string());
    let held = match figure.held() {
        Some(true) => "yes",
        Some(false) => "**no**",
        None => "–",
    };
    let (value, unit) = (figure.value, figure.unit);
    let (peer, ratio, gate) = (number(figure.peer), number(figure.ratio), number(figure.gate));
    let (target, Origin { commit, machine, date }) = (number(figure.target), origin);
    format!(
        "| {name} | {key} | {value} {unit} | {peer} | {ratio} | {gate} | {target} | {held} | {date} | {commit} | {machine} | `make bench ONLY={name}` |"
    )
}

/// The text with the rows of one bench replaced, or added below the others'. None without a table.
fn with_rows(text: &str, name: &str, rows: &[String]) -> Option<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    // Below the head and the line that makes it one.
    let first = lines.iter().position(|line| *line == HEAD)? + 2;
    let end = first + lines.get(first..)?.iter().take_while(|line| line.starts_with('|')).count();
    let own = format!("| {name} |");
    let is_own = |line: &&str| line.starts_with(&own);
    let place = lines[first..end].iter().position(is_own).map_or(end, |index| first + index);
    let others = lines[place..end].iter().filter(|line| !is_own(line)).copied();
    let table: Vec<&str> = rows.iter().map(String::as_str).chain(others).collect();
    lines.splice(place..end, table);
    Some(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        Origin { commit: "abc".into(), machine: "2 x CPU".into(), date: "2026-01-31".into() }
    }

    #[test]
    fn a_document_has_null_where_a_field_does_not_apply() {
        let figures = vec![("idle_mb", Figure::new(55.5, "MB").held_to(100.0, 60.0))];
        let expected = json!({
            "name": "footprint", "commit": "abc", "machine": "2 x CPU",
            "figures": {"idle_mb": {
                "value": 55.5, "unit": "MB", "gate": 100.0, "target": 60.0, "peer": null, "ratio": null,
            }},
        });
        assert_eq!(document("footprint", &figures, &origin()), expected);
    }

    #[test]
    fn rows_replace_those_of_the_same_bench_and_nothing_else() {
        let text = format!("# Results\n\n{HEAD}\n|---|\n| a | old |\n| a | older |\n| b | kept |\n\nThe end.\n");
        let rows = ["| a | new |".to_owned()];
        let expected = format!("# Results\n\n{HEAD}\n|---|\n| a | new |\n| b | kept |\n\nThe end.\n");
        assert_eq!(with_rows(&text, "a", &rows).unwrap(), expected);
        let added = with_rows(&text, "c", &["| c | first |".to_owned()]).unwrap();
        assert!(added.contains("| b | kept |\n| c | first |\n\nThe end."), "{added}");
        assert_eq!(with_rows("no table", "a", &rows), None);
    }

    #[test]
    fn a_row_says_when_a_gate_was_missed() {
        let missed = row("wake", "stopped_p50_ms", &Figure::new(120.0, "ms").held_to(100.0, 60.0), &origin());
        assert!(missed.contains("| 120 ms | – | – | 100 | 60 | **no** | 2026-01-31 |"), "{missed}");
    }
}
