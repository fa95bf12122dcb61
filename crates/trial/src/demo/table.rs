//! The live table: a line per city, of the last requests from there.

use std::fmt;

use super::traffic::Traffic;
use crate::load::{RunningLoad, Shot, Tally};

/// How many of the last requests a line speaks of: about two seconds' worth.
const LAST: usize = 60;

/// What users see now.
#[derive(Clone, Debug)]
pub struct Table(Vec<Line>);

#[derive(Clone, Debug)]
struct Line {
    client: String,
    edge: String,
    region: String,
    release: String,
    recent: Tally,
    failed: usize,
    requests: usize,
}

impl Table {
    pub(super) fn of(traffic: &Traffic) -> Self {
        Self(traffic.loads().iter().map(line).collect())
    }
}

fn line(load: &RunningLoad) -> Line {
    load.with(|shots| {
        let recent = &shots[shots.len().saturating_sub(LAST)..];
        let last = |look: fn(&Shot) -> Option<&String>| recent.iter().rev().find_map(look).cloned().unwrap_or_default();
        Line {
            client: load.name().to_owned(),
            edge: last(|shot| shot.edge.as_ref()),
            region: last(|shot| shot.region.as_ref()),
            release: last(|shot| shot.release.as_ref()),
            recent: Tally::of(recent),
            failed: shots.iter().filter(|shot| shot.error.is_some()).count(),
            requests: shots.len(),
        }
    })
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "client    edge  machine  release     p50 ms    p99 ms  failed/requests")?;
        for Line { client, edge, region, release, recent, failed, requests } in &self.0 {
            let (p50, p99) = (recent.p50_ms, recent.p99_ms);
            writeln!(f, "{client:<9} {edge:<5} {region:<8} {release:<8} {p50:>9.1} {p99:>9.1}  {failed}/{requests}")?;
        }
        Ok(())
    }
}
