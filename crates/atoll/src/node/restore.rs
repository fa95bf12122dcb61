//! `atoll control restore`: fills the records of a server that has not started yet.
//!
//! Restored records are older than what edges have heard. Control's rows begin a new epoch, so that
//! edges take them for newer; it is the moment of the restore, which is beyond every earlier epoch
//! also when the same backup is restored twice. What workers say of their machines is in epochs of
//! their own and counts as before. Machines made after the backup keep their addresses: those given out
//! from now on are others. Machines may be held to policies that are not in the backup, or not to those that
//! are: all apps are unsettled.

use std::path::Path;

use anyhow::{Context, bail};

use atoll_rpc::files::write_durably;
use atoll_store::{Location, Store};

use super::setup::now_unix;
use super::state::{NodeFile, StateDir};

/// The setting that holds the epoch of control's rows.
pub const ROWS_EPOCH: &str = "control-rows-epoch";

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
    let epoch = &now_unix().to_string();
    store
        .write(|tx| async move {
            tx.networks_skip_given().await?;
            tx.policies_unsettle_all().await?;
            tx.setting_set(ROWS_EPOCH, epoch.as_bytes()).await
        })
        .await
        .context("cannot begin a new epoch; remove the records and restore again")?;
    store.close().await;
    // Servers whose certificates ended since then may renew them.
    let alive = (summary.created_at_ms / 1000).to_string();
    write_durably(&state.alive(), alive.as_bytes(), false).context("cannot note when control was alive last")?;
    println!("restored {} records; now start the server with `atoll up --state {}`", summary.rows, state.0.display());
    Ok(())
}
