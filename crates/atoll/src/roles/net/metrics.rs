//! What the net process counts, under the names that operators know.

use std::sync::Arc;

use atoll_catalogue::watch::ReplicaHandle;
use atoll_signals::metrics::{Samples, Source, names};

use super::super::metrics::CatalogueMetrics;
use super::mesh::Mesh;

pub fn sources(mesh: &Arc<Mesh>, replica: ReplicaHandle, dns: Vec<Arc<dyn Source>>) -> Vec<Arc<dyn Source>> {
    let mut sources: Vec<Arc<dyn Source>> = vec![mesh.clone(), Arc::new(CatalogueMetrics(replica))];
    sources.extend(dns);
    let resumption = mesh.carrying.as_ref().and_then(|carrying| carrying.resumption.clone());
    sources.extend(resumption.map(|resumption| resumption as Arc<dyn Source>));
    sources
}

impl Source for Mesh {
    fn collect(&self, samples: &mut Samples) {
        let backend = self.carrying.as_ref().map(|carrying| &carrying.backend);
        let peers = backend.map(|backend| backend.peers());
        let peers = match peers {
            Some(Ok(peers)) => Some(peers),
            Some(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the mesh does not say how it is");
                None
            }
            None => None,
        };
        samples.gauge(&names::MESH_UP, &[], if peers.is_some() { 1.0 } else { 0.0 });
        let reach = self.reach.load();
        let reachable = reach.paths.values().filter(|path| path.reachable).count();
        samples.gauge(&names::MESH_SERVERS, &["reachable"], reachable as f64);
        samples.gauge(&names::MESH_SERVERS, &["unreachable"], (reach.paths.len() - reachable) as f64);
        let peers = peers.unwrap_or_default();
        samples.counter(&names::MESH_BYTES, &["received"], peers.iter().map(|peer| peer.rx_bytes).sum());
        samples.counter(&names::MESH_BYTES, &["sent"], peers.iter().map(|peer| peer.tx_bytes).sum());
        if let Some(ways) = self.ways() {
            let over = ways.courses().values().filter(|course| course.over.is_some()).count();
            samples.gauge(&names::MESH_RELAYED, &[], over as f64);
            let (pairs, relayed) = ways.relayed();
            samples.gauge(&names::MESH_RELAY_PAIRS, &[], pairs as f64);
            samples.counter(&names::MESH_RELAY_BYTES, &[], relayed.bytes);
            samples.counter(&names::MESH_RELAY_DROPPED, &["refused"], relayed.refused);
            samples.counter(&names::MESH_RELAY_DROPPED, &["not_sent"], relayed.not_sent);
        }
        let dropped = backend.and_then(|backend| backend.dropped());
        for (reason, count) in dropped.unwrap_or_default().named() {
            samples.counter(&names::MESH_DROPPED, &[reason], count);
        }
    }
}
