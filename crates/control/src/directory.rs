//! The nodes as control knows them now, and its connections to their workers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tonic::transport::Channel;

use atoll_model::NodeName;
use atoll_rpc::channel::connect;
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::proto::worker::worker_client::WorkerClient;
use atoll_rpc::tls::LiveIdentity;
use atoll_store::Node;

use crate::{ControlError, ControlResult};

/// Largest answer of a worker: a list of its machines with their configurations.
const MAX_MESSAGE: usize = 64 << 20;

/// A node of the records with what is known of it right now.
#[derive(Clone, Debug)]
pub struct KnownNode {
    pub node: Node,
    /// Its rows are being watched: the worker answers.
    pub heard: bool,
}

/// A cheap, shared view of all nodes.
pub struct Directory {
    live: Arc<LiveIdentity>,
    nodes: ArcSwap<HashMap<NodeName, KnownNode>>,
    channels: Mutex<HashMap<NodeName, (SocketAddr, Channel)>>,
}

impl Directory {
    pub fn new(live: Arc<LiveIdentity>) -> Self {
        Self { live, nodes: ArcSwap::default(), channels: Mutex::default() }
    }

    pub fn nodes(&self) -> Arc<HashMap<NodeName, KnownNode>> {
        self.nodes.load_full()
    }

    /// Takes over what the records say, keeping who is heard.
    pub fn replace(&self, nodes: Vec<Node>) {
        self.nodes.rcu(|before| {
            nodes
                .iter()
                .map(|node| {
                    let heard = before.get(&node.name).is_some_and(|known| known.heard);
                    (node.name.clone(), KnownNode { node: node.clone(), heard })
                })
                .collect::<HashMap<_, _>>()
        });
    }

    /// A node's worker began or ceased to answer.
    pub fn set_heard(&self, name: &NodeName, heard: bool) {
        self.nodes.rcu(|before| {
            let mut nodes = HashMap::clone(before);
            if let Some(known) = nodes.get_mut(name) {
                known.heard = heard;
            }
            nodes
        });
    }

    /// A connection to a node's worker; connects when used.
    pub fn channel(&self, name: &NodeName) -> ControlResult<Channel> {
        let nodes = self.nodes.load();
        let known = nodes.get(name).filter(|known| !known.node.state.is_over());
        let address = known
            .and_then(|known| known.node.worker_rpc)
            .ok_or_else(|| ControlError::unavailable(format!("the server {name} is not part of the platform now")))?;
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known_address, channel)) = channels.get(name)
            && *known_address == address
        {
            return Ok(channel.clone());
        }
        let expected = Expected::Exactly(Role::Worker, name.clone());
        let channel = connect(&self.live, address.to_string(), expected).map_err(ControlError::internal)?;
        channels.insert(name.clone(), (address, channel.clone()));
        Ok(channel)
    }

    pub fn worker(&self, name: &NodeName) -> ControlResult<WorkerClient<Channel>> {
        let client = WorkerClient::new(self.channel(name)?);
        Ok(client.max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
    }
}
