//! The users: a load generator in each city, and what became of their requests since a moment.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::moves::Watcher;
use super::{NEAREST, RATE, tenths};
use crate::load::{RunningLoad, Shot, Tally};
use crate::platform::Platform;

pub struct Traffic {
    loads: Vec<RunningLoad>,
}

/// A moment: how many requests of each client had met their fate.
pub struct Moment(Vec<usize>);

impl Traffic {
    pub fn start(platform: &Platform, site: &str) -> anyhow::Result<Self> {
        let start = |(client, _)| RunningLoad::start(&platform.host(client)?, site, RATE);
        Ok(Self { loads: NEAREST.into_iter().map(start).collect::<anyhow::Result<_>>()? })
    }

    pub fn loads(&self) -> &[RunningLoad] {
        &self.loads
    }

    pub fn now(&self) -> Moment {
        Moment(self.loads.iter().map(RunningLoad::count).collect())
    }

    /// Waits until every client has got so many more answers.
    pub async fn more(&self, requests: usize) -> anyhow::Result<()> {
        try_join_all(self.loads.iter().map(|load| load.more(requests))).await?;
        Ok(())
    }

    /// Of each client, what became of its requests since.
    pub fn since(&self, moment: &Moment) -> BTreeMap<String, Tally> {
        let loads = self.loads.iter().zip(&moment.0);
        loads.map(|(load, from)| (load.name().to_owned(), load.with(|shots| Tally::of(&shots[*from..])))).collect()
    }

    /// Something of every successful request since.
    pub fn collect<T: Ord>(&self, moment: &Moment, look: impl Fn(&Shot) -> Option<T>) -> BTreeSet<T> {
        let loads = self.loads.iter().zip(&moment.0);
        loads
            .flat_map(|(load, from)| load.with(|shots| shots[*from..].iter().filter_map(&look).collect::<Vec<_>>()))
            .collect()
    }

    /// Of each client, how many requests since were lost with a connection that a move of the client had
    /// left behind.
    ///
    /// # Errors
    /// If any other request failed.
    pub fn lost_by_moving(&self, moment: &Moment, moves: &Watcher) -> anyhow::Result<BTreeMap<String, usize>> {
        let mut lost = BTreeMap::new();
        for (load, from) in self.loads.iter().zip(&moment.0) {
            let (left_behind, others): (Vec<Shot>, Vec<Shot>) =
                load.with(|shots| shots[*from..].iter().cloned().partition(|shot| moves.left_behind(shot)));
            Tally::of(&others).all_well().with_context(|| load.name().to_owned())?;
            lost.insert(load.name().to_owned(), left_behind.len());
        }
        Ok(lost)
    }

    /// The counts since, if none of these clients' requests failed.
    pub fn unharmed(&self, moment: &Moment, clients: &[&str]) -> anyhow::Result<Value> {
        let tallies = self.since(moment);
        for client in clients {
            let tally = tallies.get(*client).with_context(|| format!("no load in {client}"))?;
            tally.all_well().with_context(|| (*client).to_owned())?;
        }
        Ok(counts(&tallies))
    }
}

/// Requests and failures, of all clients and of each.
pub fn counts(tallies: &BTreeMap<String, Tally>) -> Value {
    let each: BTreeMap<&str, Value> = tallies
        .iter()
        .map(|(client, tally)| {
            let counts = json!({"requests": tally.requests, "failed": tally.failed, "p50_ms": tenths(tally.p50_ms), "p99_ms": tenths(tally.p99_ms)});
            (client.as_str(), counts)
        })
        .collect();
    let requests: usize = tallies.values().map(|tally| tally.requests).sum();
    let failed: usize = tallies.values().map(|tally| tally.failed).sum();
    json!({"requests": requests, "failed": failed, "clients": each})
}
