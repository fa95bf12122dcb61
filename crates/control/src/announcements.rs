//! What the platform's places announce: each server is asked for what its guard last wrote.

use std::time::Duration;

use atoll_model::wire::PlaceAnnouncements;
use atoll_rpc::proto::place::AnnouncementsRequest;
use atoll_rpc::proto::place::place_client::PlaceClient;

use crate::directory::KnownNode;
use crate::{Control, ControlResult};

/// A server that has not answered by then is shown as silent.
const LIMIT: Duration = Duration::from_secs(3);

impl Control {
    /// What every server of the platform announces, by name. Takes a round trip when all is well.
    pub async fn announcements(&self) -> Vec<PlaceAnnouncements> {
        let nodes = self.directory.nodes();
        let members = nodes.values().filter(|known| !known.node.state.is_over());
        let mut places = futures_util::future::join_all(members.map(|known| self.announced_by(known))).await;
        places.sort_by(|one, other| one.node.cmp(&other.node));
        places
    }

    async fn announced_by(&self, known: &KnownNode) -> PlaceAnnouncements {
        let mut place = PlaceAnnouncements {
            node: known.node.name.clone(),
            region: known.node.region,
            heard: true,
            running: false,
            report: None,
        };
        if let Err(error) = self.ask_place(&mut place).await {
            tracing::info!(node = %place.node, %error, source = ?error.source, "what it announces is not known");
            place.heard = false;
        }
        place
    }

    async fn ask_place(&self, place: &mut PlaceAnnouncements) -> ControlResult<()> {
        let mut request = tonic::Request::new(AnnouncementsRequest {});
        request.set_timeout(LIMIT);
        let mut client = PlaceClient::new(self.directory.channel(&place.node)?);
        let reply = client.announcements(request).await?.into_inner();
        place.running = reply.running;
        if !reply.report_json.is_empty() {
            place.report = Some(serde_json::from_slice(&reply.report_json).map_err(crate::ControlError::internal)?);
        }
        Ok(())
    }
}
