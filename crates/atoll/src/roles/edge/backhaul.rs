//! TLS between edges: the platform's identities as the proxy asks for them.

use std::net::Ipv4Addr;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};

use atoll_model::NodeName;
use atoll_proxy::surroundings::BackhaulTls;
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::tls::{IdentityError, LiveIdentity};
use atoll_rpc::trust::identity_of;

pub struct NodeIdentities {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl NodeIdentities {
    /// The settings read the certificate that is current at each handshake, so they never change.
    pub fn new(live: &Arc<LiveIdentity>) -> Result<Self, IdentityError> {
        Ok(Self { server: live.server_config(false)?, client: live.client_config(Expected::Role(Role::Edge))? })
    }
}

impl BackhaulTls for NodeIdentities {
    fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }

    /// Peers are known by identity, not by name.
    fn server_name(&self, _node: &NodeName) -> ServerName<'static> {
        ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into())
    }

    fn identify(&self, chain: &[CertificateDer<'_>]) -> Option<NodeName> {
        let identity = identity_of(chain.first()?)?;
        (identity.role == Role::Edge).then_some(identity.node)
    }
}
