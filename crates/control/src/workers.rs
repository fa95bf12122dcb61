//! What control asks of workers that is about no machine: whether they answer, and to have images
//! ready before machines need them.

use std::collections::BTreeSet;
use std::time::Duration;

use atoll_model::NodeName;
use atoll_rpc::proto::worker as proto;
use tokio::time::Instant;

use crate::{Control, ControlError, ControlResult};

/// Fetching and unpacking an image may take as long as this.
const PREPARE_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// A worker that is being started again answers within this time; one that does not is away.
const SILENCE: Duration = Duration::from_secs(5);
/// Between two questions to a worker that is not there.
const ASK_AGAIN: Duration = Duration::from_millis(250);

impl Control {
    /// Has a node fetch and unpack an image; one that it has costs no more than the question.
    pub async fn image_prepare(&self, node: &NodeName, digest: &str) -> ControlResult<()> {
        let mut request = tonic::Request::new(proto::PrepareImageRequest { digest: digest.to_owned() });
        request.set_timeout(PREPARE_TIMEOUT);
        self.directory.worker(node)?.prepare_image(request).await?;
        Ok(())
    }

    /// Those of the nodes whose worker does not answer now. Nodes that are no part of the platform any
    /// more are not asked. Takes a round trip when all is well, some seconds when not.
    pub async fn nodes_silent(&self, nodes: &BTreeSet<NodeName>) -> BTreeSet<NodeName> {
        let known = self.directory.nodes();
        let members = nodes.iter().filter(|name| known.get(*name).is_some_and(|known| !known.node.state.is_over()));
        let asked = members.map(|name| async move { (!self.node_answers(name).await).then(|| name.clone()) });
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    async fn node_answers(&self, name: &NodeName) -> bool {
        let deadline = Instant::now() + SILENCE;
        let asking = async {
            while let Err(error) = self.node_ask(name).await {
                tracing::debug!(node = %name, %error, "a worker does not answer");
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        tokio::time::timeout_at(deadline, asking).await.is_ok()
    }

    async fn node_ask(&self, name: &NodeName) -> ControlResult<()> {
        self.directory.worker(name)?.node(proto::NodeRequest {}).await.map_err(ControlError::from).map(drop)
    }
}
