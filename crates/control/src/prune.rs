//! Forgets records that have served their time: machines that were destroyed, the audit's old
//! entries, tokens that ended, control processes that are gone, and values of secrets that nothing can
//! run with any more.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::AppName;
use atoll_store::{MachineFilter, PageRequest, Store, StoreError};

use crate::Control;

const EVERY: Duration = Duration::from_secs(3600);
/// Far more than honest callers come to within the time that records are kept.
const REFUSALS_KEPT: u32 = 100_000;
/// Releases that an app may be returned to keep the secrets that they ran with.
const RELEASES_KEPT: u32 = 50;

/// How many records were forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pruned {
    pub machines: u64,
    pub audit: u64,
    pub tokens: u64,
    pub hubs: u64,
    pub secrets: u64,
}

impl Control {
    /// Runs until the process ends.
    pub async fn prune_forever(self: Arc<Self>) {
        loop {
            let (retention, audit) = (self.settings.retention, self.settings.audit_retention);
            match prune(&self.store, retention, audit, self.now_ms()).await {
                Ok(pruned) if pruned == Pruned::default() => {}
                Ok(pruned) => tracing::info!(?pruned, "old records were forgotten"),
                Err(error) => tracing::warn!(%error, ?error, "old records cannot be forgotten now"),
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// Forgets what ended longer than `retention` before `now_ms`, and who changed what longer than `audit`
/// before.
pub async fn prune(store: &Store, retention: Duration, audit: Duration, now_ms: u64) -> Result<Pruned, StoreError> {
    let before = |age: Duration| now_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    let (before, audit_before) = (before(retention), before(audit));
    let mut pruned = store
        .write(|tx| async move {
            Ok::<_, StoreError>(Pruned {
                machines: tx.machine_prune(before).await?,
                audit: tx.audit_prune(audit_before, REFUSALS_KEPT).await?,
                tokens: tx.token_prune(before).await?,
                hubs: tx.hub_prune(before).await?,
                secrets: 0,
            })
        })
        .await?;
    let mut page = PageRequest::default();
    loop {
        let request = &page;
        let apps = store.read(|tx| async move { tx.app_list(None, request).await }).await?;
        for app in &apps.items {
            pruned.secrets += prune_secrets(store, &app.name).await?;
        }
        match apps.next {
            Some(cursor) => page.cursor = Some(cursor),
            None => return Ok(pruned),
        }
    }
}

/// What no machine and no release that can be returned to was made with. In one transaction with the
/// look: a release that is recorded meanwhile keeps its secrets.
async fn prune_secrets(store: &Store, app: &AppName) -> Result<u64, StoreError> {
    let filter = &MachineFilter { app: Some(app.clone()), ..MachineFilter::default() };
    let pruned = store.write(|tx| async move {
        let mut oldest = tx.app_fetch(app).await?.secrets_version;
        let releases = tx.release_list(app, RELEASES_KEPT).await?;
        let complete = tx.release_last_complete(app).await?;
        let releases = releases.iter().chain(complete.as_ref());
        oldest = releases.map(|release| release.content.secrets_version).fold(oldest, u64::min);
        let mut page = PageRequest::default();
        loop {
            let machines = tx.machine_list(filter, &page).await?;
            let specs = machines.items.iter().flat_map(|machine| [Some(&machine.spec), machine.intended.as_ref()]);
            // 0: made without any.
            let versions = specs.flatten().map(|spec| spec.secrets_version).filter(|version| *version > 0);
            oldest = versions.fold(oldest, u64::min);
            match machines.next {
                Some(cursor) => page.cursor = Some(cursor),
                None => return tx.secret_prune(app, oldest).await,
            }
        }
    });
    match pruned.await {
        // It was deleted since it was listed.
        Err(StoreError::NotFound { .. }) => Ok(0),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use atoll_keyring::{FileKeys, Keyring};
    use atoll_model::{MachineConfig, MachineVersion};
    use atoll_store::{
        AuditCall, DEFAULT_ORGANIZATION, Location, MachineSpec, NewApp, NewMachine, NewToken, SecretChange, TokenHash,
        TokenKind,
    };

    use super::*;

    const NOW: u64 = 1_800_000_000_000;
    const DAY: Duration = Duration::from_secs(86_400);
    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    async fn store(dir: &std::path::Path) -> (Store, AppName) {
        let store = Store::open(&Location::Sqlite(dir.join("control.db"))).await.unwrap();
        let app: AppName = "web".parse().unwrap();
        let new = &NewApp {
            name: app.clone(),
            org: DEFAULT_ORGANIZATION.parse().unwrap(),
            network: None,
            primary_region: None,
            idempotency_key: None,
        };
        let made = store.write(|tx| async move {
            tx.organization_ensure_default(NOW).await?;
            tx.app_create(new, NOW).await
        });
        made.await.unwrap();
        (store, app)
    }

    async fn set_secret(store: &Store, keyring: &Keyring, app: &AppName, value: &str) {
        let changes = &BTreeMap::from([("KEY".to_owned(), SecretChange::Set(value.into()))]);
        store.write(|tx| async move { tx.secret_change(keyring, app, changes, NOW).await }).await.unwrap();
    }

    async fn machine(store: &Store, app: &AppName, secrets_version: u64) -> atoll_model::MachineId {
        let new = &NewMachine {
            id: None,
            app: app.clone(),
            name: format!("with-{secrets_version}"),
            idempotency_key: None,
            node: "ams1".parse().unwrap(),
            region: "ams".parse().unwrap(),
            process_group: "app".into(),
            spec: MachineSpec {
                version: MachineVersion::from_parts(NOW, u128::from(secrets_version)),
                config: MachineConfig { image: "web".into(), ..MachineConfig::default() },
                image: None,
                release_version: None,
                secrets_version,
            },
            cordoned: false,
        };
        store.write(|tx| async move { tx.machine_record(new, NOW).await }).await.unwrap().record().id
    }

    async fn destroy(store: &Store, id: atoll_model::MachineId) {
        let gone = store.write(|tx| async move {
            tx.machine_destroy_intend(id, NOW).await?;
            tx.machine_destroyed(id, NOW).await
        });
        gone.await.unwrap();
    }

    #[tokio::test]
    async fn what_ended_is_kept_for_its_time_and_then_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (store, app) = store(dir.path()).await;
        destroy(&store, machine(&store, &app, 0).await).await;
        let token = &NewToken {
            kind: TokenKind::ReadOnly,
            name: "short".into(),
            org: None,
            app: None,
            region: None,
            node: None,
            created_by: "tester".into(),
            expires_at_ms: Some(NOW),
        };
        let call = &AuditCall {
            token: "id".into(),
            actor: "tester".into(),
            role: TokenKind::Owner,
            operation: "Apps_create".into(),
            org: None,
            app: Some("web".into()),
            target: "app=web".into(),
        };
        let noted = store.write(|tx| async move {
            tx.token_create(&TokenHash([1; 32]), token, NOW).await?;
            tx.audit_begin(call, NOW).await?;
            tx.hub_heartbeat("hub", "192.0.2.1:4281", NOW).await
        });
        noted.await.unwrap();

        let after = |age: Duration| NOW + u64::try_from(age.as_millis()).unwrap();
        assert_eq!(prune(&store, DAY, YEAR, after(DAY)).await.unwrap(), Pruned::default(), "too early");
        let pruned = prune(&store, DAY, YEAR, after(DAY) + 1).await.unwrap();
        assert_eq!(pruned, Pruned { machines: 1, audit: 0, tokens: 1, hubs: 1, secrets: 0 });
        assert_eq!(prune(&store, DAY, YEAR, after(YEAR)).await.unwrap().audit, 0, "too early");
        assert_eq!(prune(&store, DAY, YEAR, after(YEAR) + 1).await.unwrap().audit, 1);
    }

    #[tokio::test]
    async fn secrets_stay_while_a_machine_runs_with_them() {
        let dir = tempfile::tempdir().unwrap();
        let (store, app) = store(dir.path()).await;
        let keyring = Keyring::new(Arc::new(FileKeys::open_or_create(&dir.path().join("root.key")).unwrap()));
        for value in ["one", "two", "three"] {
            set_secret(&store, &keyring, &app, value).await;
        }
        let old = machine(&store, &app, 2).await;
        assert_eq!(prune(&store, DAY, YEAR, NOW).await.unwrap().secrets, 1, "only the first is needed by nobody");
        destroy(&store, old).await;
        assert_eq!(prune(&store, DAY, YEAR, NOW).await.unwrap().secrets, 1);
        assert_eq!(prune(&store, DAY, YEAR, NOW).await.unwrap().secrets, 0, "the newest value stays");
    }
}
