//! What this process knows of its ways to other servers, for those who look for what is wrong.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::routing::get;
use axum::{Json, Router};

use atoll_model::wire::{MeshRelay, MeshReport, MeshWay};
use atoll_net::ways::{Course, Ways};

use super::mesh::{Carrying, Mesh};
use super::{MESH_PATH, link};

/// Answers with what there is at that time.
pub fn router(mesh: Arc<Mesh>) -> Router {
    Router::new().route(MESH_PATH, get(move || async move { Json(mesh.report()) }))
}

impl Mesh {
    fn report(&self) -> MeshReport {
        let backend = self.carrying.as_ref().map(|carrying| &carrying.backend);
        MeshReport {
            backend: backend.map(|backend| backend.kind().to_string()),
            port: backend.map_or(0, |backend| backend.listen_port()),
            mtu: self.ways().map_or_else(link::mtu, Ways::mtu),
            certificate_expires_at: self.live.expires_at(),
            relaying: self.ways().map_or(0, |ways| ways.relayed().0),
            ways: self.ways_report(),
        }
    }

    fn ways_report(&self) -> Vec<MeshWay> {
        let Some(Carrying { backend, ways, .. }) = &self.carrying else { return Vec::new() };
        let statuses = backend.peers().unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the mesh does not say how it is");
            Vec::new()
        });
        let (peers, reach) = (self.peers.load(), self.reach.load());
        let courses = ways.as_ref().map(Ways::courses).unwrap_or_default();
        let mut ways: Vec<MeshWay> = statuses
            .into_iter()
            .filter_map(|status| {
                let peer = peers.peers.get(&status.public_key)?;
                let path = reach.paths.get(&peer.node);
                let course = courses.get(&status.public_key);
                let direct = course.and_then(|course| course.direct);
                let handshake = status.last_handshake.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                Some(MeshWay {
                    node: peer.node.clone(),
                    endpoint: status.endpoint,
                    last_handshake: handshake.map(|since| since.as_secs()),
                    secret_until: self.secrets.leader_until(status.public_key),
                    relay: course.and_then(relay),
                    path_mtu: course.and_then(|course| course.largest_packet),
                    direct_round_trip_ms: direct.map(|direct| direct.round_trip.as_secs_f64() * 1e3),
                    reachable: path.map(|path| path.reachable),
                    round_trip_ms: path.map_or(0.0, |path| path.round_trip.as_secs_f64() * 1e3),
                    loss: path.map_or(0.0, |path| path.loss),
                    rx_bytes: status.rx_bytes,
                    tx_bytes: status.tx_bytes,
                })
            })
            .collect();
        ways.sort_by(|a, b| a.node.cmp(&b.node));
        ways
    }
}

fn relay(course: &Course) -> Option<MeshRelay> {
    let since = course.chosen.and_then(|(since, _)| since.duration_since(UNIX_EPOCH).ok());
    Some(MeshRelay {
        node: course.over.clone()?,
        since: since.map(|since| since.as_secs()),
        reason: course.chosen.map(|(_, reason)| reason.to_owned()),
    })
}
