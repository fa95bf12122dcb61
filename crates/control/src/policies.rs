//! Network policies: kept here, handed to machines with their launch bundles, and told to those that
//! are there when something changes. Whatever may leave a machine with other limits than its app's policies
//! marks the app as unsettled; [`crate::reconcile`] settles it, also after a kill or a node's absence. The
//! addresses under which machines leave ([`crate::egress`]) go the same way.

use std::collections::{BTreeMap, BTreeSet};

use atoll_model::egress::EgressAddresses;
use atoll_model::policy::{NetworkLimits, NetworkPolicy};
use atoll_model::{AppName, MachineId, NodeName};
use atoll_rpc::contract::MachineView;
use atoll_rpc::proto::worker as proto;
use atoll_signals::with_causes;
use atoll_store::{MachineRecord, MachineSpec, PolicyRecord, StoreError, UnsettledPolicies};

use crate::egress;
use crate::machines::{encode, timed_short};
use crate::{Changed, Control, ControlError, ControlResult};

/// Policies of an app; rules and ports of a policy.
const MAX_POLICIES: usize = 100;
const MAX_RULES: usize = 100;
const MAX_PORTS: usize = 1_000;

impl Control {
    pub async fn policies(&self, app: &AppName) -> ControlResult<Vec<PolicyRecord>> {
        self.app(app).await?;
        let app = app.clone();
        let list = self.store.read(move |tx| {
            let app = app.clone();
            async move { tx.policy_list(&app).await }
        });
        Ok(list.await?)
    }

    /// A new policy, or, with an id, another text for one that is there. Holds at once for machines whose
    /// nodes answer, and for the others as soon as they do.
    pub async fn policy_put(
        &self,
        app: &AppName,
        id: Option<String>,
        policy: NetworkPolicy,
    ) -> ControlResult<Changed<PolicyRecord>> {
        check(&policy)?;
        if id.is_none() && self.policies(app).await?.len() >= MAX_POLICIES {
            return Err(ControlError::invalid(format!("an app has at most {MAX_POLICIES} network policies")));
        }
        let now = self.now_ms();
        let (id, policy) = (id.as_deref(), &policy);
        let put = self.store.write(|tx| async move {
            let before = tx.policy_list(app).await?.into_iter().find(|policy| Some(policy.id.as_str()) == id);
            let after = tx.policy_put(app, id, policy, now).await?;
            Ok::<_, StoreError>(Changed { before, after })
        });
        let put = put.await?;
        self.policies_settle(Some(app)).await;
        Ok(put)
    }

    /// Says which policy it was.
    pub async fn policy_delete(&self, app: &AppName, id: &str) -> ControlResult<PolicyRecord> {
        let deleted = self.store.write(|tx| async move { tx.policy_delete(app, id).await }).await?;
        self.policies_settle(Some(app)).await;
        Ok(deleted)
    }

    /// Tells machines of unsettled apps, or of one of these, what they are held to. What fails is tried again
    /// by the next pass.
    pub(crate) async fn policies_settle(&self, only: Option<&AppName>) {
        let unsettled = match self.store.read(|tx| async move { tx.policies_unsettled().await }).await {
            Ok(unsettled) => unsettled,
            Err(error) => return tracing::warn!(error = with_causes(&error), "cannot look for changed policies"),
        };
        for unsettled in unsettled.iter().filter(|unsettled| only.is_none_or(|app| *app == unsettled.app)) {
            if let Err(error) = self.policies_settle_app(unsettled).await {
                tracing::info!(app = %unsettled.app, %error, "machines are not yet held to changed policies");
            }
        }
    }

    async fn policies_settle_app(&self, unsettled: &UnsettledPolicies) -> ControlResult<()> {
        // Read after the mark, so that whatever changes from now on leaves another one.
        let terms = self.terms(&unsettled.app).await?;
        let machines = self.machines(&unsettled.app, false).await?;
        let told = machines.iter().map(|seen| async {
            let limits = terms.of(&seen.view);
            match seen.heard {
                true if seen.view.limits == limits || !seen.view.state.is_active() => Ok(()),
                true => self.machine_limit(&seen.view, &limits).await,
                false => Err(ControlError::unavailable(format!("the server {} does not answer", seen.view.node))),
            }
        });
        futures_util::future::join_all(told).await.into_iter().collect::<ControlResult<Vec<()>>>()?;
        Ok(self.store.write(|tx| async move { tx.policies_settle(unsettled).await }).await?)
    }

    async fn machine_limit(&self, view: &MachineView, limits: &NetworkLimits) -> ControlResult<()> {
        let request = proto::LimitsRequest { machine: view.id.to_string(), limits_json: encode(limits)? };
        match self.directory.worker(&view.node)?.set_limits(timed_short(request)).await {
            // It ended meanwhile.
            Err(status) if status.code() == tonic::Code::NotFound => Ok(()),
            other => Ok(other.map(drop)?),
        }
    }

    /// After a worker took a bundle or other metadata: policies may have changed since the bundle was made,
    /// and select by metadata.
    pub(crate) async fn policies_check(&self, view: &MachineView) -> ControlResult<()> {
        if view.limits == self.terms(&view.app).await?.of(view) {
            return Ok(());
        }
        let app = &view.app;
        self.store.write(|tx| async move { tx.policies_unsettle(app).await }).await?;
        self.policies_settle(Some(app)).await;
        Ok(())
    }

    /// What a machine with this configuration is held to.
    pub(crate) async fn limits(&self, record: &MachineRecord, spec: &MachineSpec) -> ControlResult<NetworkLimits> {
        Ok(self.terms(&record.app).await?.limits(record.id, &spec.config.metadata, &record.node))
    }

    async fn terms(&self, app: &AppName) -> ControlResult<Terms> {
        let read = self.store.read(|tx| async move {
            let held = tx.egress_of(app).await?;
            let nodes = if held.is_empty() { Vec::new() } else { tx.node_list().await? };
            let policies = tx.policy_list(app).await?.into_iter().map(|record| record.policy).collect();
            Ok::<_, StoreError>(Terms { policies, egress: egress::by_node(&held, &nodes) })
        });
        Ok(read.await?)
    }
}

/// What the records say of the networks of an app's machines.
struct Terms {
    policies: Vec<NetworkPolicy>,
    egress: BTreeMap<NodeName, EgressAddresses>,
}

impl Terms {
    /// What a machine as it is should be held to.
    fn of(&self, view: &MachineView) -> NetworkLimits {
        self.limits(view.id, &view.config.metadata, &view.node)
    }

    fn limits(&self, machine: MachineId, metadata: &BTreeMap<String, String>, node: &NodeName) -> NetworkLimits {
        let leaves_as = self.egress.get(node).copied().unwrap_or_default();
        NetworkLimits { leaves_as, ..NetworkLimits::of(&self.policies, machine, metadata) }
    }
}

fn check(policy: &NetworkPolicy) -> ControlResult<()> {
    if policy.name.is_empty() || policy.name.len() > 255 {
        return Err(ControlError::invalid("a network policy has a name of at most 255 bytes"));
    }
    if policy.rules.len() > MAX_RULES {
        return Err(ControlError::invalid(format!("a network policy has at most {MAX_RULES} rules")));
    }
    let ports: BTreeSet<_> = policy.rules.iter().flat_map(|rule| &rule.ports).collect();
    if ports.len() > MAX_PORTS {
        return Err(ControlError::invalid(format!("a network policy names at most {MAX_PORTS} ports")));
    }
    Ok(())
}
