//! `atoll control restore`: fills the records of a server that has not started yet.

use std::path::Path;

use anyhow::{Context, bail};

use atoll_store::{Location, Store};

use super::state::{NodeFile, StateDir};

/// Wholly or not at all; records that are not empty are left as they are.
pub async fn restore(file: &Path, state: &Path, database: Option<String>) -> anyhow::Result<()> {
    let state = StateDir(state.to_owned());
    if NodeFile::load(&state)?.is_some() {
        bail!("{} belongs to a server that has started before; restore into a new state folder", state.0.display());
    }
    let own = state.role("control");
    let location = match database {
        Some(url) => url.parse().map_err(|error| anyhow::anyhow!("--database: {error}"))?,
        None => Location::Sqlite(own.join("control.db")),
    };
    std::fs::create_dir_all(&own).with_context(|| format!("cannot create {}", own.display()))?;
    let store = Store::open(&location).await.context("cannot open the new records")?;
    let summary = store.restore(file).await.with_context(|| format!("cannot restore {}", file.display()))?;
    store.close().await;
    println!("restored {} records; now start the server with `atoll up --state {}`", summary.rows, state.0.display());
    Ok(())
}
