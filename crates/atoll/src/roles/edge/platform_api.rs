//! The edge's way to control, for requests to the platform's API.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;

use atoll_proxy::surroundings::{ByteStream, PlatformApi};
use atoll_rpc::channel::Dialer;
use atoll_rpc::identity::{Expected, Role};
use atoll_rpc::tls::{ALPN_API, IdentityError, LiveIdentity};

pub struct ControlsApi(Dialer);

impl ControlsApi {
    /// `control`: where this server reaches control, host:port.
    pub fn new(live: &Arc<LiveIdentity>, control: &str) -> Result<Self, IdentityError> {
        Ok(Self(Dialer::new(live, control, Expected::Role(Role::Control), ALPN_API)?))
    }
}

#[async_trait]
impl PlatformApi for ControlsApi {
    async fn connect(&self) -> io::Result<Box<dyn ByteStream>> {
        Ok(Box::new(self.0.dial().await?))
    }
}
