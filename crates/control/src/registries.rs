//! Logins at other registries, and which of them are spoken to without TLS. One sealed record: the
//! table is small, is changed seldom and read as a whole before each pull, so that every control
//! process has the newest. Passwords are never answered.

use std::collections::BTreeMap;

use atoll_images::{Login, PullOptions, RegistryHost};
use atoll_keyring::Keyring;
use atoll_model::wire::{RegistryRequest, RegistrySummary};
use serde::{Deserialize, Serialize};

use crate::{Control, ControlError, ControlResult};

const SETTING: &str = "registries";
/// Registries a platform may know, so that the record stays small.
const MAX_REGISTRIES: usize = 100;
/// The longest user name and password, in bytes; some clouds issue tokens of kilobytes.
const MAX_CREDENTIAL: usize = 16 << 10;

/// By host, as the record keeps it.
type Table = BTreeMap<String, Entry>;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Entry {
    user: String,
    /// Empty together with `user`: no login.
    password: String,
    insecure: bool,
}

impl Control {
    /// The known registries, without passwords.
    pub async fn registries(&self) -> ControlResult<Vec<RegistrySummary>> {
        let table = self.registry_table().await?;
        let summary = |(host, entry): (String, Entry)| RegistrySummary {
            host,
            user: Some(entry.user).filter(|user| !user.is_empty()),
            insecure: entry.insecure,
        };
        Ok(table.into_iter().map(summary).collect())
    }

    /// Keeps how to pull from `host`, instead of what was kept before.
    pub async fn registry_set(&self, host: &str, request: RegistryRequest) -> ControlResult<()> {
        let host = registry_host(host)?;
        let RegistryRequest { user, password, insecure } = request;
        if user.is_empty() != password.is_empty() {
            return Err(ControlError::invalid(format!("a login at {host} needs a user and a password: one is empty")));
        }
        if user.is_empty() && !insecure {
            return Err(ControlError::invalid(format!(
                "nothing to keep for {host}: give a user and a password, or say that it is insecure"
            )));
        }
        if user.len().max(password.len()) > MAX_CREDENTIAL {
            return Err(ControlError::invalid(format!(
                "the user or the password for {host} is longer than {MAX_CREDENTIAL} bytes"
            )));
        }
        self.registry_table_change(move |table| {
            table.insert(host.to_string(), Entry { user: user.clone(), password: password.clone(), insecure });
            if table.len() > MAX_REGISTRIES {
                return Err(ControlError::invalid(format!("{MAX_REGISTRIES} registries are known already")));
            }
            Ok(())
        })
        .await
    }

    /// Forgets a registry.
    pub async fn registry_remove(&self, host: &str) -> ControlResult<()> {
        let host = registry_host(host)?;
        self.registry_table_change(move |table| match table.remove(host.as_str()) {
            Some(_) => Ok(()),
            None => Err(ControlError::not_found(format!("nothing is kept for the registry {host}"))),
        })
        .await
    }

    /// What pulls go by now.
    pub(crate) async fn pull_options(&self) -> ControlResult<PullOptions> {
        let mut options = PullOptions::default();
        for (host, entry) in self.registry_table().await? {
            let host = registry_host(&host)?;
            if entry.insecure {
                options.insecure.insert(host.clone());
            }
            if !entry.user.is_empty() {
                options.logins.insert(host, Login { user: entry.user, password: entry.password });
            }
        }
        Ok(options)
    }

    async fn registry_table(&self) -> ControlResult<Table> {
        let sealed = self.store.read(|tx| async move { tx.setting_fetch(SETTING).await }).await?;
        open(&self.keyring, sealed)
    }

    /// Reads, changes and writes the table in one transaction. A refused change writes nothing.
    async fn registry_table_change(
        &self,
        change: impl Fn(&mut Table) -> ControlResult<()> + Send + Sync,
    ) -> ControlResult<()> {
        let (change, keyring) = (&change, &self.keyring);
        let changed = self.store.write(move |tx| async move {
            let judged = open(keyring, tx.setting_fetch(SETTING).await?).and_then(|mut table| {
                change(&mut table)?;
                let plain = serde_json::to_vec(&table).map_err(ControlError::internal)?;
                keyring.seal(SETTING, &plain).map_err(ControlError::internal)
            });
            match judged {
                Ok(sealed) => tx.setting_set(SETTING, &sealed).await.map(Ok),
                Err(refused) => Ok(Err(refused)),
            }
        });
        changed.await?
    }
}

fn open(keyring: &Keyring, sealed: Option<Vec<u8>>) -> ControlResult<Table> {
    let Some(sealed) = sealed else { return Ok(Table::new()) };
    let plain = keyring.open(SETTING, &sealed).map_err(ControlError::internal)?;
    serde_json::from_slice(&plain).map_err(ControlError::internal)
}

fn registry_host(text: &str) -> ControlResult<RegistryHost> {
    text.parse().map_err(|error| {
        ControlError::invalid(format!(
            "{text:?} is no registry; write its host, such as registry.example:5000: {error}"
        ))
    })
}
