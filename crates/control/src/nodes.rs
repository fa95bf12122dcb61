//! Servers: let in with a token, listed, drained, revoked, given up.

use std::net::{IpAddr, SocketAddr};

use atoll_model::egress::may_leave_under;
use atoll_model::row::{MAX_ZONES, is_hostname};
use atoll_model::{NodeName, RegionCode};
use atoll_rpc::ca::request_key_fingerprint;
use atoll_rpc::identity::{Identity, Role};
use atoll_rpc::join_token::JoinToken;
use atoll_rpc::proto::control::{EnterNetworkRequest, JoinReply, JoinRequest};
use atoll_store::{
    ErrorKind, MachineFilter, NewNode, NewToken, Node, NodeGateway, NodeMesh, NodeNetwork, NodeReport, NodeStatus,
    StoreError, TokenHash, TokenKind,
};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::rows::node_row;
use crate::{Changed, Control, ControlError, ControlResult, Kind};

/// A join token works this long.
const JOIN_TOKEN_LIFE_MS: u64 = 15 * 60 * 1000;
/// A node whose clock is further off could not tell fresh certificates from expired ones.
const MAX_CLOCK_SKEW_MS: u64 = 5 * 60 * 1000;

/// More than an answer of public DNS would hold.
const MAX_PUBLIC_ADDRESSES: usize = 16;

/// A row of the catalogue names them all.
const MAX_EGRESS_ADDRESSES: usize = 256;

/// A new join token; its text is shown once.
#[derive(Clone, Debug)]
pub struct JoinTokenMade {
    pub token: JoinToken,
    pub expires_at_ms: u64,
}

/// A server as an operator sees it.
#[derive(Clone, Debug)]
pub struct NodeOverview {
    pub node: Node,
    pub machines: u32,
    pub heard: bool,
    pub runs_control: bool,
}

/// SHA-256 of a token's text.
pub fn token_hash(text: &str) -> TokenHash {
    use sha2::{Digest, Sha256};
    TokenHash(Sha256::digest(text.as_bytes()).into())
}

impl Control {
    pub async fn node_token_create(
        &self,
        created_by: &str,
        region: Option<RegionCode>,
    ) -> ControlResult<JoinTokenMade> {
        let token = JoinToken {
            secret: hex::encode(rand::random::<[u8; 16]>()),
            root_fingerprint: self.authority.root_fingerprint(),
        };
        let now = self.now_ms();
        let expires_at_ms = now + JOIN_TOKEN_LIFE_MS;
        let new = NewToken {
            kind: TokenKind::NodeJoin,
            name: "join".to_owned(),
            org: None,
            app: None,
            region,
            node: None,
            created_by: created_by.to_owned(),
            expires_at_ms: Some(expires_at_ms),
        };
        let hash = token_hash(&token.secret);
        self.store
            .write(move |tx| {
                let new = new.clone();
                async move { tx.token_create(&hash, &new, now).await }
            })
            .await?;
        Ok(JoinTokenMade { token, expires_at_ms })
    }

    /// Lets a server in: uses up its token, gives it a place in the directory and certificates.
    pub async fn node_join(&self, request: &JoinRequest, seen_from: IpAddr) -> ControlResult<JoinReply> {
        let now = self.now_ms();
        check_clock(request.clock_ms, now)?;
        let name: NodeName = request.node.parse().map_err(|error| ControlError::invalid(format!("{error}")))?;
        let region: RegionCode = request.region.parse().map_err(|error| ControlError::invalid(format!("{error}")))?;
        if region.place().is_none() {
            return Err(ControlError::invalid(format!("region {region} is not known")));
        }
        let backhaul = reachable(&request.backhaul, seen_from, "backhaul")?;
        let worker_rpc = reachable(&request.worker_rpc, seen_from, "worker-rpc")?;
        let fingerprint =
            request_key_fingerprint(&request.worker_csr).map_err(|error| ControlError::invalid(error.to_string()))?;
        let new = NewNode {
            name: name.clone(),
            region,
            key_fingerprint: fingerprint.clone(),
            kept_epoch: (request.kept_epoch > 0).then_some(request.kept_epoch),
            may_replace_key: false,
            cpus: request.cpus,
            memory_mb: request.memory_mb,
        };
        let hash = token_hash(&request.token);
        let report = (backhaul, worker_rpc, request.cpus, request.memory_mb);
        let node = self
            .store
            .write(move |tx| {
                let (mut new, fingerprint) = (new.clone(), fingerprint.clone());
                async move {
                    let token = tx.join_token_redeem(&hash, &new.name, new.region, &fingerprint, now).await?;
                    new.may_replace_key = token.node.as_ref() == Some(&new.name);
                    let node = tx.node_enrol(&new, now).await?;
                    let (backhaul, worker_rpc, cpus, memory_mb) = report;
                    let report = NodeReport {
                        epoch: node.epoch,
                        backhaul: Some(backhaul),
                        worker_rpc: Some(worker_rpc),
                        cpus,
                        memory_mb,
                    };
                    tx.node_report(&new.name, &report, now).await?;
                    tx.node_fetch(&new.name).await
                }
            })
            .await
            .map_err(|error| match error.kind() {
                ErrorKind::Taken => ControlError::new(
                    Kind::NameTaken,
                    format!("another server has the name {name} already; choose one with --name"),
                ),
                ErrorKind::Invalid => ControlError::new(Kind::Forbidden, error.to_string()),
                _ => error.into(),
            })?;
        let issue = |role: Role, request: &[u8]| {
            let identity = Identity { platform: self.settings.platform.clone(), role, node: node.name.clone() };
            self.authority
                .issue_node(request, &identity, now / 1000)
                .map_err(|error| ControlError::invalid(error.to_string()))
        };
        let reply = JoinReply {
            worker_chain: issue(Role::Worker, &request.worker_csr)?.chain_pem,
            edge_chain: issue(Role::Edge, &request.edge_csr)?.chain_pem,
            net_chain: issue(Role::Net, &request.net_csr)?.chain_pem,
            roots: self.authority.roots_pem(),
            epoch: node.epoch,
            platform: self.settings.platform.clone(),
            app_domain: self.settings.app_domain.clone(),
        };
        self.node_publish(&node).await?;
        tracing::info!(node = %node.name, region = %node.region, epoch = node.epoch, "a server joined");
        Ok(reply)
    }

    /// Notes where a server is found, and tells everybody. Machines that leave under other addresses by that
    /// are told with the next pass.
    pub async fn node_enter_network(&self, name: &NodeName, request: &EnterNetworkRequest) -> ControlResult<()> {
        let network = network_of(request)?;
        let (wanted, now) = (name.clone(), self.now_ms());
        let node = self
            .store
            .write(move |tx| {
                let (wanted, network) = (wanted.clone(), network.clone());
                async move { tx.node_set_network(&wanted, &network, now).await }
            })
            .await
            .map_err(|error| node_error(error, name))?;
        self.node_publish(&node).await
    }

    /// Enters the server that control itself runs on; at every start.
    pub async fn node_enter_own(
        &self,
        own: NewNode,
        backhaul: SocketAddr,
        worker_rpc: SocketAddr,
    ) -> ControlResult<Node> {
        let now = self.now_ms();
        let node = self
            .store
            .write(move |tx| {
                let own = own.clone();
                async move {
                    let known = match tx.node_fetch(&own.name).await {
                        Ok(known) => known,
                        Err(error) if error.kind() == ErrorKind::NotFound => tx.node_enrol(&own, now).await?,
                        Err(error) => return Err(error),
                    };
                    // After a restore this server has the name of an earlier one, and nothing of it.
                    let known = match own.kept_epoch {
                        Some(epoch) if epoch > known.epoch => tx.node_begin_anew(&own.name, epoch, now).await?,
                        _ => known,
                    };
                    let report = NodeReport {
                        epoch: known.epoch,
                        backhaul: Some(backhaul),
                        worker_rpc: Some(worker_rpc),
                        cpus: own.cpus,
                        memory_mb: own.memory_mb,
                    };
                    tx.node_report(&own.name, &report, now).await?;
                    tx.node_fetch(&own.name).await
                }
            })
            .await?;
        Ok(node)
    }

    pub async fn nodes(&self) -> ControlResult<Vec<NodeOverview>> {
        let machines = self.machine_records_by(MachineFilter::default()).await?;
        let own = &self.live.identity().node;
        let nodes = self.refresh_nodes().await?;
        let known = self.directory.nodes();
        Ok(nodes
            .into_iter()
            .map(|node| NodeOverview {
                machines: machines.iter().filter(|machine| machine.node == node.name).count() as u32,
                heard: known.get(&node.name).is_some_and(|known| known.heard),
                runs_control: node.name == *own,
                node,
            })
            .collect())
    }

    /// Says in which state the server was, and is.
    pub async fn node_set_state(&self, name: &NodeName, state: NodeStatus) -> ControlResult<Changed<NodeStatus>> {
        if state.is_over() && *name == self.live.identity().node {
            return Err(ControlError::invalid(format!("{name} runs control: it cannot shut itself out")));
        }
        let now = self.now_ms();
        let changed = self.store.write(|tx| async move {
            let before = tx.node_fetch(name).await?.state;
            Ok::<_, StoreError>((before, tx.node_set_state(name, state, now).await?))
        });
        let (before, node) = changed.await.map_err(|error| node_error(error, name))?;
        self.node_publish(&node).await?;
        tracing::info!(node = %name, %state, "a server's standing changed");
        Ok(Changed { before: Some(before), after: node.state })
    }

    /// Gives up a server for good: its epoch is raised, which fences all it ever wrote. Says how many machines
    /// it had, too.
    pub async fn node_remove_lost(&self, name: &NodeName) -> ControlResult<(Changed<NodeStatus>, usize)> {
        if *name == self.live.identity().node {
            return Err(ControlError::invalid(format!("{name} runs control: it is not lost")));
        }
        let now = self.now_ms();
        let removed = self.store.write(|tx| async move {
            let before = tx.node_fetch(name).await?.state;
            Ok::<_, StoreError>((before, tx.node_remove_lost(name, now).await?))
        });
        let (before, (node, machines)) = removed.await.map_err(|error| node_error(error, name))?;
        self.node_publish(&node).await?;
        Ok((Changed { before: Some(before), after: node.state }, machines.len()))
    }

    /// Whether a node that has the records of `epoch` was given up as lost, or as without records. One
    /// that is not known here is not: these records may be older than the node.
    pub(crate) async fn node_is_given_up(&self, name: &NodeName, epoch: u64) -> ControlResult<bool> {
        match self.store.read(|tx| async move { tx.node_fetch(name).await }).await {
            Ok(node) => Ok(node.state == NodeStatus::Removed || node.epoch > epoch),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells everybody what the records say of a node now.
    async fn node_publish(&self, node: &Node) -> ControlResult<()> {
        let nodes = self.refresh_nodes().await?;
        let revoked = nodes.iter().filter(|node| node.state.is_over()).map(|node| node.name.clone()).collect();
        self.live.trust().set_revoked(revoked);
        self.rows.put(node_row(node));
        Ok(())
    }
}

/// What a server says of where it is found, if it makes sense.
fn network_of(request: &EnterNetworkRequest) -> ControlResult<NodeNetwork> {
    let port = |port: u32| {
        let valid = u16::try_from(port).ok().filter(|port| *port > 0);
        valid.ok_or_else(|| ControlError::invalid(format!("{port} is no port")))
    };
    let mesh = request.mesh.as_ref().map(|end| {
        // A net process of an earlier version has none.
        let rpc_port = Some(end.rpc_port).filter(|number| *number > 0).map(port).transpose()?;
        ControlResult::Ok(NodeMesh { public_key: wireguard_key(&end.public_key)?, port: port(end.port)?, rpc_port })
    });
    let gateway = request.gateway.as_ref().map(|end| {
        let public_key = wireguard_key(&end.public_key)?;
        ControlResult::Ok(NodeGateway { public_key, port: port(end.port)?, websocket_port: port(end.websocket_port)? })
    });
    let egress_addresses = addresses(&request.egress_addresses, "egress", MAX_EGRESS_ADDRESSES)?;
    if let Some(wrong) = egress_addresses.iter().find(|address| !may_leave_under(**address)) {
        return Err(ControlError::invalid(format!("machines cannot leave under {wrong}")));
    }
    if request.zones.len() > MAX_ZONES {
        return Err(ControlError::invalid(format!("a server answers for {MAX_ZONES} zones at most")));
    }
    if let Some(zone) = request.zones.iter().find(|zone| !is_hostname(zone)) {
        return Err(ControlError::invalid(format!("the zone {zone:?} is no domain name")));
    }
    Ok(NodeNetwork {
        mesh: mesh.transpose()?,
        gateway: gateway.transpose()?,
        public_addresses: addresses(&request.public_addresses, "public", MAX_PUBLIC_ADDRESSES)?,
        egress_addresses,
        zones: request.zones.clone(),
    })
}

fn addresses(texts: &[String], kind: &str, most: usize) -> ControlResult<Vec<IpAddr>> {
    if texts.len() > most {
        return Err(ControlError::invalid(format!("a server has {most} {kind} addresses at most")));
    }
    let address =
        |text: &String| text.parse().map_err(|_| ControlError::invalid(format!("the {kind} address {text:?} is none")));
    texts.iter().map(address).collect()
}

/// The key in the one form that all compare.
pub(crate) fn wireguard_key(text: &str) -> ControlResult<String> {
    let bytes = BASE64_STANDARD.decode(text).ok().filter(|bytes| bytes.len() == 32);
    let bytes = bytes.ok_or_else(|| ControlError::invalid("a WireGuard key is 32 bytes in base64"))?;
    Ok(BASE64_STANDARD.encode(bytes))
}

/// Refuses a server whose clock cannot be told from a broken one.
fn check_clock(theirs_ms: u64, ours_ms: u64) -> ControlResult<()> {
    let skew = ours_ms.abs_diff(theirs_ms);
    if skew <= MAX_CLOCK_SKEW_MS {
        return Ok(());
    }
    let shown = |ms: u64| {
        let time = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        time.map_or_else(|| format!("{ms} ms after 1970"), |time| format!("{time:.0}"))
    };
    Err(ControlError::invalid(format!(
        "the clock of this server says {}, {} minutes {} control's, which says {}; at most {} are allowed: set the clock (NTP) and join again",
        shown(theirs_ms),
        skew / 60_000,
        if theirs_ms > ours_ms { "ahead of" } else { "behind" },
        shown(ours_ms),
        MAX_CLOCK_SKEW_MS / 60_000,
    )))
}

fn node_error(error: StoreError, name: &NodeName) -> ControlError {
    match error.kind() {
        ErrorKind::NotFound => ControlError::not_found(format!("there is no server {name}")),
        ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Taken => {
            ControlError::new(Kind::Precondition, error.to_string())
        }
        _ => error.into(),
    }
}

/// The address others should use: where the node did not know it, the one it came from.
fn reachable(text: &str, seen_from: IpAddr, what: &str) -> ControlResult<SocketAddr> {
    let mut address: SocketAddr =
        text.parse().map_err(|_| ControlError::invalid(format!("{what} {text:?} is not an address and port")))?;
    if address.ip().is_unspecified() {
        address.set_ip(seen_from.to_canonical());
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_far_off_is_refused_by_naming_both() {
        const NOON: u64 = 1_000_000_800_000;
        const DAY: u64 = 24 * 60 * 60 * 1000;
        assert!(check_clock(NOON + MAX_CLOCK_SKEW_MS, NOON).is_ok());
        assert!(check_clock(NOON - MAX_CLOCK_SKEW_MS, NOON).is_ok());
        let ahead = check_clock(NOON + DAY, NOON).unwrap_err().message;
        assert!(ahead.contains("2001-09-10T02:00:00Z, 1440 minutes ahead of control's"), "{ahead}");
        assert!(ahead.contains("which says 2001-09-09T02:00:00Z"), "{ahead}");
        let behind = check_clock(NOON - DAY, NOON).unwrap_err().message;
        assert!(behind.contains("1440 minutes behind control's"), "{behind}");
        assert!(check_clock(u64::MAX, NOON).is_err() && check_clock(0, NOON).is_err());
    }
}
