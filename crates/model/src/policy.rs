//! Network policies: which connections an app's machines may take and open. Rules only allow; the first
//! one for a direction closes what it does not name. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::MachineId;
use crate::egress::EgressAddresses;

/// A named set of rules and the machines that they hold for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = NetworkPolicyBody)]
pub struct NetworkPolicy {
    pub name: String,
    pub selector: Selector,
    pub rules: Vec<Rule>,
}

/// Machines of the app that are selected by any of these; none by an empty selector.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = NetworkPolicySelector)]
pub struct Selector {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub machines: Vec<SelectedMachine>,
    /// Machines that have all of these pairs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// A machine by its id.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = NetworkPolicyMachine)]
pub struct SelectedMachine {
    pub id: MachineId,
}

/// Allows connections to ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = NetworkPolicyRule)]
pub struct Rule {
    pub action: Action,
    pub direction: Direction,
    /// None: the direction is closed, and nothing allowed.
    #[serde(default)]
    pub ports: Vec<AllowedPort>,
}

/// There is no denying: what is not allowed is denied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = NetworkPolicyAction)]
pub enum Action {
    Allow,
}

/// As the machine sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = NetworkPolicyDirection)]
pub enum Direction {
    /// Connections to the machine.
    Ingress,
    /// Connections that the machine opens.
    Egress,
}

/// Where a connection leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = NetworkPolicyPort)]
pub struct AllowedPort {
    pub protocol: Protocol,
    #[schema(value_type = u16, minimum = 1)]
    pub port: NonZeroU16,
}

/// What has ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = NetworkPolicyProtocol)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Selector {
    pub fn selects(&self, machine: MachineId, metadata: &BTreeMap<String, String>) -> bool {
        self.all
            || self.machines.iter().any(|selected| selected.id == machine)
            || (!self.metadata.is_empty() && self.metadata.iter().all(|(key, value)| metadata.get(key) == Some(value)))
    }
}

/// What all policies of an app come to for one machine, and under which addresses it leaves: all that may
/// change of its network while it runs. A direction that is `None` is open.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NetworkLimits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<BTreeSet<AllowedPort>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<BTreeSet<AllowedPort>>,
    /// No policy's to say: the app's addresses at the machine's server.
    #[serde(default, skip_serializing_if = "EgressAddresses::is_none")]
    pub leaves_as: EgressAddresses,
}

impl NetworkLimits {
    /// Of a machine with this metadata.
    pub fn of<'a>(
        policies: impl IntoIterator<Item = &'a NetworkPolicy>,
        machine: MachineId,
        metadata: &BTreeMap<String, String>,
    ) -> Self {
        let mut limits = Self::default();
        let selected = policies.into_iter().filter(|policy| policy.selector.selects(machine, metadata));
        for rule in selected.flat_map(|policy| &policy.rules) {
            let allowed = match rule.direction {
                Direction::Ingress => &mut limits.ingress,
                Direction::Egress => &mut limits.egress,
            };
            allowed.get_or_insert_default().extend(&rule.ports);
        }
        limits
    }

    /// Whether both directions are open and the server chooses the addresses.
    pub fn is_none(&self) -> bool {
        self.ingress.is_none() && self.egress.is_none() && self.leaves_as.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> NetworkPolicy {
        serde_json::from_str(text).unwrap()
    }

    fn limits(policies: &[NetworkPolicy], machine: u64, metadata: &[(&str, &str)]) -> NetworkLimits {
        let metadata = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        NetworkLimits::of(policies, MachineId::from_random(machine), &metadata)
    }

    fn ports(allowed: &Option<BTreeSet<AllowedPort>>) -> Option<Vec<u16>> {
        allowed.as_ref().map(|allowed| allowed.iter().map(|allowed| allowed.port.get()).collect())
    }

    #[test]
    fn rules_add_up_and_close_their_own_direction() {
        let web = policy(
            r#"{"name": "web", "selector": {"all": true}, "rules": [
                {"action": "allow", "direction": "ingress", "ports": [{"protocol": "tcp", "port": 8080}]}]}"#,
        );
        let more = policy(
            r#"{"name": "more", "selector": {"metadata": {"role": "db"}}, "rules": [
                {"action": "allow", "direction": "ingress", "ports": [{"protocol": "udp", "port": 9}]},
                {"action": "allow", "direction": "egress"}]}"#,
        );
        let both = [web, more];
        let plain = limits(&both, 1, &[]);
        assert_eq!((ports(&plain.ingress), ports(&plain.egress)), (Some(vec![8080]), None));
        let db = limits(&both, 1, &[("role", "db"), ("zone", "a")]);
        assert_eq!((ports(&db.ingress), ports(&db.egress)), (Some(vec![8080, 9]), Some(vec![])));
        assert!(limits(&both[1..], 1, &[("role", "web")]).is_none());
    }

    #[test]
    fn machines_are_selected_by_id() {
        let id = MachineId::from_random(7);
        let text = format!(
            r#"{{"name": "one", "selector": {{"machines": [{{"id": "{id}"}}]}}, "rules": [
                {{"action": "allow", "direction": "egress", "ports": []}}]}}"#
        );
        assert!(!limits(&[policy(&text)], 7, &[]).is_none());
        assert!(limits(&[policy(&text)], 8, &[]).is_none());
        let nobody = text.replace(&format!(r#""machines": [{{"id": "{id}"}}]"#), "");
        assert!(limits(&[policy(&nobody)], 7, &[]).is_none(), "an empty selector selects nothing");
    }

    #[test]
    fn there_is_no_denying() {
        let text = r#"{"action": "deny", "direction": "ingress", "ports": []}"#;
        assert!(serde_json::from_str::<Rule>(text).is_err());
        assert!(serde_json::from_str::<AllowedPort>(r#"{"protocol": "tcp", "port": 0}"#).is_err());
    }
}
