//! Secrets: set and removed here, read by machines alone.

use std::collections::BTreeMap;

use atoll_model::AppName;
use atoll_store::{Secret, SecretChange};

use crate::{Control, ControlError, ControlResult};

/// Largest value of one secret.
const MAX_VALUE: usize = 64 * 1024;

impl Control {
    pub async fn secrets(&self, app: &AppName) -> ControlResult<Vec<Secret>> {
        self.app(app).await?;
        let app = app.clone();
        let list = self.store.read(move |tx| {
            let app = app.clone();
            async move { tx.secret_list(&app).await }
        });
        Ok(list.await?)
    }

    /// `None` removes. All changes together, or none; the new version is answered.
    pub async fn secrets_change(&self, app: &AppName, values: BTreeMap<String, Option<String>>) -> ControlResult<u64> {
        self.app(app).await?;
        for (name, value) in &values {
            let well_formed = !name.is_empty()
                && name.len() <= 255
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                && !name.starts_with(|c: char| c.is_ascii_digit());
            if !well_formed {
                return Err(ControlError::invalid(format!(
                    "{name:?} is no name for a secret: use letters, digits and '_', not beginning with a digit"
                )));
            }
            if value.as_ref().is_some_and(|value| value.len() > MAX_VALUE || value.contains('\0')) {
                return Err(ControlError::invalid(format!(
                    "the value of {name} is longer than {MAX_VALUE} bytes or contains NUL"
                )));
            }
        }
        let changes: BTreeMap<String, SecretChange> = values
            .into_iter()
            .map(|(name, value)| {
                (name, value.map_or(SecretChange::Unset, |value| SecretChange::Set(value.into_bytes())))
            })
            .collect();
        let (app, now, keyring) = (app.clone(), self.now_ms(), self.keyring.clone());
        let version = self
            .store
            .write(move |tx| {
                let (app, changes, keyring) = (app.clone(), changes.clone(), keyring.clone());
                async move { tx.secret_change(&keyring, &app, &changes, now).await }
            })
            .await?;
        Ok(version)
    }

    /// The values of a version, for launch bundles. Version 0 has none.
    pub(crate) async fn secret_values(&self, app: &AppName, version: u64) -> ControlResult<BTreeMap<String, String>> {
        if version == 0 {
            return Ok(BTreeMap::new());
        }
        let (app, keyring) = (app.clone(), self.keyring.clone());
        let values = self
            .store
            .read(move |tx| {
                let (app, keyring) = (app.clone(), keyring.clone());
                async move { tx.secret_values(&keyring, &app, version).await }
            })
            .await?;
        values
            .into_iter()
            .map(|(name, value)| Ok((name, String::from_utf8(value).map_err(ControlError::internal)?)))
            .collect()
    }
}
