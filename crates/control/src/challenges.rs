//! `_acme-challenge` records: values that public DNS answers for a while, which prove a host name to certificate
//! authorities. The record is made first; DNS answers by the catalogue's row, and whoever adds a value is told
//! which servers do.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use atoll_model::row::{CHALLENGE_LABEL, ChallengeRow, MAX_CHALLENGE_BYTES, MAX_CHALLENGES, Reader, is_hostname};
use atoll_model::{AppName, NodeName, Row, RowKey, RowVersion};
use atoll_signals::with_causes;
use atoll_store::{App, Challenge, ErrorKind, Node, StoreError};

use crate::{Changed, Control, ControlError, ControlResult, Kind};

/// Host names with challenges, on the whole platform.
const MAX_HOSTS: u64 = 1_000;
/// A DNS name of 253 characters at most, with the label before the host name.
const MAX_HOST: usize = 253 - CHALLENGE_LABEL.len() - 1;
/// How long a value is answered, in seconds, and where nothing is said.
const LIFE: RangeInclusive<u32> = 60..=86_400;
const DEFAULT_LIFE: u32 = 3600;
/// How often it is looked for those that ended.
const EVERY: Duration = Duration::from_secs(10);
/// How long servers get to answer by a new value.
const PATIENCE: Duration = Duration::from_secs(10);

/// A value, as asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewChallenge {
    /// See [`challenged_host`].
    pub host: String,
    pub value: String,
    /// For how many seconds; an hour if not said.
    pub seconds: Option<u32>,
}

/// Who answers by a new value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Challenged {
    /// All values at the host name, by age.
    pub values: Changed<Vec<Challenge>>,
    /// Servers that answer by them.
    pub answered_by: Vec<NodeName>,
    /// Servers that should, and have not said within ten seconds that they do.
    pub waiting_for: Vec<NodeName>,
}

/// The host name that is to be proven, in the form in which it is kept. People and programs also write the name
/// of the record, or that of a wildcard, which is proven at the same place.
///
/// # Errors
/// `Invalid` if it is no host name.
pub fn challenged_host(text: &str) -> ControlResult<String> {
    let host = text.trim_end_matches('.').to_ascii_lowercase();
    let host = host.strip_prefix(CHALLENGE_LABEL).and_then(|host| host.strip_prefix('.')).unwrap_or(&host);
    let host = host.strip_prefix("*.").unwrap_or(host);
    match is_hostname(host) && host.len() <= MAX_HOST {
        true => Ok(host.to_owned()),
        false => Err(ControlError::invalid(format!("{text:?} is no host name of at most {MAX_HOST} characters"))),
    }
}

/// The app whose own name below the app domain this is, if it has the form of one.
fn app_of(host: &str, app_domain: &str) -> Option<AppName> {
    host.strip_suffix(app_domain)?.strip_suffix('.')?.parse().ok()
}

/// Servers that answer for a host name.
fn answering<'n>(nodes: impl Iterator<Item = &'n Node>, host: &str) -> BTreeSet<NodeName> {
    let within =
        |zone: &String| host.strip_suffix(zone.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    let there = nodes.filter(|node| !node.state.is_over() && node.network.zones.iter().any(within));
    there.map(|node| node.name.clone()).collect()
}

fn check(new: &NewChallenge) -> ControlResult<u32> {
    let NewChallenge { value, seconds, .. } = new;
    if value.is_empty() || value.len() > MAX_CHALLENGE_BYTES || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        let text =
            format!("a challenge's value is 1 to {MAX_CHALLENGE_BYTES} visible ASCII characters, without spaces");
        return Err(ControlError::invalid(text));
    }
    let seconds = seconds.unwrap_or(DEFAULT_LIFE);
    if !LIFE.contains(&seconds) {
        let text = format!("a challenge lasts {} to {} seconds, not {seconds}", LIFE.start(), LIFE.end());
        return Err(ControlError::invalid(text));
    }
    Ok(seconds)
}

impl Control {
    /// Whose a host name is: an app's, or nobody's but the operator's.
    pub async fn challenged_app(&self, host: &str) -> ControlResult<Option<App>> {
        let Some(name) = app_of(host, &self.settings.app_domain) else { return Ok(None) };
        match self.app(&name).await {
            Ok(app) => Ok(Some(app)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All values, or those at one host name; by host name, then by age.
    pub async fn challenges(&self, host: Option<&str>) -> ControlResult<Vec<Challenge>> {
        let list = self.store.read(|tx| async move {
            match host {
                Some(host) => tx.challenges_of(host).await,
                None => tx.challenges().await,
            }
        });
        Ok(list.await?)
    }

    /// Adds a value to those at a host name, or gives it another end. Returns when every server that answers for
    /// the name answers by it, or after ten seconds.
    pub async fn challenge_add(&self, new: &NewChallenge) -> ControlResult<Challenged> {
        let host = &new.host;
        let seconds = check(new)?;
        let nodes = self.directory.nodes();
        let answering = answering(nodes.values().map(|known| &known.node), host);
        if answering.is_empty() {
            let text = format!(
                "no server answers public DNS for {host}: servers with --dns do, for {} and zones that are delegated to them",
                self.settings.app_domain
            );
            return Err(ControlError::new(Kind::Precondition, text));
        }
        let now = self.now_ms();
        let new = &Challenge {
            host: host.clone(),
            value: new.value.clone(),
            ends_at_ms: now.saturating_add(u64::from(seconds) * 1000),
            created_at_ms: now,
        };
        let added = self.store.write(|tx| async move {
            let before = tx.challenges_of(host).await?;
            let is_new = before.iter().all(|known| known.value != new.value);
            let full = match is_new {
                true if before.len() >= MAX_CHALLENGES => Some(format!("{host} has {MAX_CHALLENGES} values already")),
                true if before.is_empty() && tx.challenged_beside(host).await? >= MAX_HOSTS => {
                    Some(format!("{MAX_HOSTS} host names have challenges already"))
                }
                _ => None,
            };
            if let Some(full) = full {
                let text = format!("{full}: remove one, or wait until one ends");
                return Ok(Err(ControlError::new(Kind::Precondition, text)));
            }
            tx.challenge_put(new).await?;
            let before = Some(before).filter(|before| !before.is_empty());
            Ok::<_, StoreError>(Ok(Changed { before, after: tx.challenges_of(host).await? }))
        });
        let values = added.await??;
        let refused = || ControlError::internal(format!("the catalogue took no row of the challenges of {host}"));
        let version = self.challenge_publish(host).await?.ok_or_else(refused)?;
        let waiting_for = self.challenge_waits_for(&answering, host, version).await;
        let answered_by = answering.difference(&waiting_for).cloned().collect();
        Ok(Challenged { values, answered_by, waiting_for: waiting_for.into_iter().collect() })
    }

    /// Takes a value from a host name, or all; says which they were.
    pub async fn challenge_remove(&self, host: &str, value: Option<&str>) -> ControlResult<Vec<Challenge>> {
        let removed = self.store.write(|tx| async move { tx.challenge_remove(host, value).await }).await;
        let removed = removed.map_err(|error| match error.kind() {
            ErrorKind::NotFound => ControlError::not_found(format!("{host} has no such challenge")),
            _ => error.into(),
        })?;
        self.challenge_publish(host).await?;
        Ok(removed)
    }

    /// Ends values when their time is over. Runs until the process ends.
    pub async fn challenges_end_forever(self: Arc<Self>) {
        loop {
            if let Err(error) = self.challenges_end().await {
                tracing::warn!(error = with_causes(&error), "challenges that ended are still answered");
            }
            tokio::time::sleep(EVERY).await;
        }
    }

    async fn challenges_end(&self) -> ControlResult<()> {
        let now = self.now_ms();
        if self.store.read(|tx| async move { tx.challenges().await }).await?.iter().all(|it| it.ends_at_ms > now) {
            return Ok(());
        }
        for host in self.store.write(|tx| async move { tx.challenges_end(now).await }).await? {
            self.challenge_publish(&host).await?;
            tracing::info!(host, "challenges ended");
        }
        Ok(())
    }

    /// Of those servers, the ones that do not answer by this write of the row in time.
    async fn challenge_waits_for(
        &self,
        answering: &BTreeSet<NodeName>,
        host: &str,
        version: RowVersion,
    ) -> BTreeSet<NodeName> {
        let key = RowKey::Challenge(host.into());
        let deadline = Instant::now() + PATIENCE;
        let mut acknowledged = self.readers.acknowledged();
        loop {
            acknowledged.mark_unchanged();
            let is_behind = |node: &&NodeName| !self.readers.goes_by(node, Reader::Net, &key, version);
            let waiting: BTreeSet<NodeName> = answering.iter().filter(is_behind).cloned().collect();
            if waiting.is_empty() || !matches!(timeout_at(deadline, acknowledged.changed()).await, Ok(Ok(()))) {
                return waiting;
            }
        }
    }

    /// Lets everybody know what the records say of a host name. Published again if they have changed meanwhile,
    /// so that of two changes at once the later one stays. Answers which write it was, if it was one.
    async fn challenge_publish(&self, host: &str) -> ControlResult<Option<RowVersion>> {
        let mut known = self.challenges(Some(host)).await?;
        loop {
            let version = match challenge_row(host, &known) {
                Some(row) => self.rows.put(row),
                None => self.rows.delete(RowKey::Challenge(host.into())),
            };
            let now = self.challenges(Some(host)).await?;
            if now == known {
                return Ok(version);
            }
            known = now;
        }
    }

    /// All host names' rows.
    pub(crate) async fn challenge_rows(&self) -> ControlResult<Vec<Row>> {
        let all = self.challenges(None).await?;
        let of_hosts = all.chunk_by(|one, next| one.host == next.host);
        Ok(of_hosts.filter_map(|values| challenge_row(&values.first()?.host, values)).collect())
    }
}

fn challenge_row(host: &str, values: &[Challenge]) -> Option<Row> {
    let texts = values.iter().map(|challenge| challenge.value.clone()).collect();
    (!values.is_empty()).then(|| Row::Challenge(ChallengeRow { host: host.into(), values: texts }))
}

#[cfg(test)]
mod tests {
    use atoll_store::{NodeNetwork, NodeStatus};

    use super::*;

    #[test]
    fn a_host_name_is_read_in_all_its_forms() {
        for text in ["web.apps.test", "Web.Apps.Test.", "_acme-challenge.web.apps.test.", "*.web.apps.test"] {
            assert_eq!(challenged_host(text).unwrap(), "web.apps.test", "{text}");
        }
        let long = ["a".repeat(63).as_str(); 4].join(".");
        for text in ["", ".", "*", "web..test", "web apps", "a/b", "-a.test", &long] {
            assert_eq!(challenged_host(text).unwrap_err().kind, Kind::Invalid, "{text}");
        }
        assert!(challenged_host(&long[..MAX_HOST]).is_ok());
    }

    #[test]
    fn only_an_apps_own_name_is_the_apps() {
        let of = |host| app_of(host, "apps.test").map(|app| app.to_string());
        assert_eq!(of("web.apps.test").as_deref(), Some("web"));
        for host in ["apps.test", "deep.web.apps.test", "webapps.test", "web.apps.test.example", "customer.example"] {
            assert_eq!(of(host), None, "{host}");
        }
    }

    #[test]
    fn servers_answer_within_their_zones() {
        let node = |name: &str, state, zones: &[&str]| Node {
            name: name.parse().unwrap(),
            region: "ams".parse().unwrap(),
            state,
            epoch: 1,
            key_fingerprint: String::new(),
            certificate_serial: None,
            certificate_expires_at_ms: None,
            backhaul: None,
            worker_rpc: None,
            network: NodeNetwork {
                zones: zones.iter().map(|zone| zone.to_string()).collect(),
                ..NodeNetwork::default()
            },
            cpus: 1,
            memory_mb: 1,
            last_seen_ms: 0,
            created_at_ms: 0,
        };
        let nodes = [
            node("ams1", NodeStatus::Active, &["apps.test", "customer.example"]),
            node("ams2", NodeStatus::Draining, &["apps.test"]),
            node("ams3", NodeStatus::Active, &[]),
            node("ams4", NodeStatus::Revoked, &["apps.test"]),
        ];
        let of = |host| -> Vec<String> { answering(nodes.iter(), host).iter().map(ToString::to_string).collect() };
        assert_eq!(of("web.apps.test"), ["ams1", "ams2"]);
        assert_eq!(of("customer.example"), ["ams1"]);
        assert_eq!(of("webapps.test"), [""; 0]);
    }

    #[test]
    fn values_and_times_are_bounded() {
        let new = |value: &str, seconds| NewChallenge { host: "web.apps.test".into(), value: value.into(), seconds };
        assert_eq!(check(&new("a-_B9", None)).unwrap(), DEFAULT_LIFE);
        assert_eq!(check(&new(&"a".repeat(255), Some(60))).unwrap(), 60);
        let long = "a".repeat(256);
        for (value, seconds) in
            [("", None), ("a b", None), ("ä", None), (&long, None), ("a", Some(59)), ("a", Some(86_401))]
        {
            assert_eq!(check(&new(value, seconds)).unwrap_err().kind, Kind::Invalid, "{value} {seconds:?}");
        }
    }
}
