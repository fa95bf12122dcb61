//! How the servers reach each other through the mesh: each is asked, and what is wrong is put into words.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;

use atoll_model::NodeName;
use atoll_model::wire::{MeshExamination, MeshFinding, MeshReport, MeshServer, MeshWay};
use atoll_rpc::proto::place::MeshRequest;
use atoll_rpc::proto::place::place_client::PlaceClient;

use crate::directory::KnownNode;
use crate::{Control, ControlError, ControlResult};

/// A server that has not answered by then is shown as silent.
const LIMIT: Duration = Duration::from_secs(3);
/// Packets of a way that the mesh's smallest link fits in, whatever carries them: 1280 bytes, which IPv6 needs,
/// and 80 of IPv6, UDP and WireGuard.
const MESH_NEEDS: u16 = 1360;
/// Loss that applications notice.
const NOTICED_LOSS: f32 = 0.02;
/// A server's port for signals beside the mesh is this far above the mesh's.
const SIGNALS_ABOVE: u16 = 2;
/// A certificate is renewed at half of its life; one that is nearer to its end was not.
const CERTIFICATE_LEFT_S: u64 = 15 * 60;

impl Control {
    /// Asks every server of the platform. Takes a round trip when all is well.
    pub async fn mesh_examine(&self) -> MeshExamination {
        let nodes = self.directory.nodes();
        let members = nodes.values().filter(|known| !known.node.state.is_over());
        let mut servers = join_all(members.map(|known| self.mesh_server(known))).await;
        servers.sort_by(|one, other| one.node.cmp(&other.node));
        let findings = findings(&servers, self.now_ms() / 1000);
        MeshExamination { servers, findings }
    }

    async fn mesh_server(&self, known: &KnownNode) -> MeshServer {
        let (node, region) = (known.node.name.clone(), known.node.region);
        match self.mesh_report(&node).await {
            Ok(report) => MeshServer { node, region, heard: true, report },
            Err(error) => {
                tracing::info!(%node, %error, "its part of the mesh is not known");
                MeshServer { node, region, heard: false, report: None }
            }
        }
    }

    async fn mesh_report(&self, node: &NodeName) -> ControlResult<Option<MeshReport>> {
        let mut request = tonic::Request::new(MeshRequest {});
        request.set_timeout(LIMIT);
        let reply = PlaceClient::new(self.directory.channel(node)?).mesh(request).await?.into_inner();
        if reply.report_json.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(&reply.report_json).map(Some).map_err(ControlError::internal)
    }
}

/// What is wrong, server by server, and what to do.
fn findings(servers: &[MeshServer], now: u64) -> Vec<MeshFinding> {
    let reports: BTreeMap<&NodeName, &MeshReport> =
        servers.iter().filter_map(|server| Some((&server.node, server.report.as_ref()?))).collect();
    let mut found = Vec::new();
    for server in servers {
        let mut say = |towards: Option<&NodeName>, problem: String, advice: String| {
            found.push(MeshFinding { node: server.node.clone(), towards: towards.cloned(), problem, advice });
        };
        let Some(report) = &server.report else {
            let (problem, advice) = match server.heard {
                false => ("does not answer control", "see whether it runs and whether control reaches its port 4283"),
                true => ("its net process does not answer", "look into its log for the process `net`"),
            };
            say(None, problem.to_owned(), advice.to_owned());
            continue;
        };
        if report.backend.is_none() {
            let advice = "its log says why it could make no interface; machines here reach no other server";
            say(None, "takes no part in the mesh".to_owned(), advice.to_owned());
            continue;
        }
        let left = report.certificate_expires_at.saturating_sub(now);
        if left < CERTIFICATE_LEFT_S {
            let advice = "see whether it reaches control at port 4281; a lapsed server joins again with a new token";
            say(None, format!("its certificate ends in {} min and was not renewed", left / 60), advice.to_owned());
        }
        for other in servers.iter().map(|other| &other.node).filter(|other| **other != server.node) {
            let way = report.ways.iter().find(|way| way.node == *other);
            if way.is_none() && !reports.contains_key(other) {
                // Why is said where it is looked at.
                continue;
            }
            if let Some(until) = way.and_then(|way| way.secret_until).filter(|until| *until < now) {
                let problem = format!("has shared its secret with it {} min too long", (now - until) / 60);
                let advice = "see whether the two reach each other at port 4285; its log says why there is no new one";
                say(Some(other), problem, advice.to_owned());
            }
            if let Some(bytes) = way.and_then(|way| way.path_mtu).filter(|bytes| *bytes < MESH_NEEDS) {
                let problem = format!("carries packets of {bytes} bytes at most, which are too small for the mesh's");
                let advice =
                    format!("look for a tunnel between them: its packets must have {MESH_NEEDS} bytes or more");
                say(Some(other), problem, advice);
            }
            if let Some((problem, advice)) = way.and_then(|way| detour(way, report.port)) {
                say(Some(other), problem, advice);
            } else if let Some((problem, advice)) = trouble(way, back(&reports, other, &server.node), report.port) {
                say(Some(other), problem, advice);
            }
        }
    }
    found
}

/// The way in the other direction.
fn back<'r>(reports: &BTreeMap<&NodeName, &'r MeshReport>, from: &NodeName, to: &NodeName) -> Option<&'r MeshWay> {
    reports.get(from)?.ways.iter().find(|way| way.node == *to)
}

/// What makes packets go another way than the direct one, or would keep them from it. The server that decides
/// for the two says so.
fn detour(way: &MeshWay, own_port: u16) -> Option<(String, String)> {
    let at = way.endpoint.map_or_else(|| "it".to_owned(), |endpoint| endpoint.to_string());
    match (&way.relay, way.direct_round_trip_ms) {
        (Some(relay), _) if way.reachable == Some(true) => {
            let reason = relay.reason.as_ref()?;
            let advice = "look at the network between them; packets take the direct way again once it is well";
            Some((format!("goes over {}: {reason}", relay.node), advice.to_owned()))
        }
        (None, None) if way.reachable == Some(true) => {
            let port = own_port.saturating_add(SIGNALS_ABOVE);
            let advice = format!("open UDP port {port} on both: without it nothing would be relayed if {at} were lost");
            Some(("hears nothing of it beside the mesh".to_owned(), advice))
        }
        _ => None,
    }
}

fn trouble(way: Option<&MeshWay>, back: Option<&MeshWay>, own_port: u16) -> Option<(String, String)> {
    let Some(way) = way else {
        let advice = "it has not heard of the other one's key: see whether both reach control";
        return Some(("has no way to it".to_owned(), advice.to_owned()));
    };
    if way.reachable? {
        let lossy = way.loss >= NOTICED_LOSS;
        let advice = "look at the network between them; no other server offers a way that is much better";
        return lossy.then(|| (format!("loses {:.0} % of probes", way.loss * 100.0), advice.to_owned()));
    }
    let at = way.endpoint.map_or_else(|| "an unknown address".to_owned(), |endpoint| endpoint.to_string());
    Some(match (way.last_handshake, back.is_some_and(|back| back.reachable == Some(true))) {
        (_, true) => (
            "does not hear it, but is heard".to_owned(),
            format!("a firewall drops UDP in one direction: open UDP port {own_port} here"),
        ),
        (None, false) => {
            ("has never agreed on keys with it".to_owned(), format!("see whether UDP from here reaches {at}"))
        }
        (Some(_), false) => {
            ("no longer hears it".to_owned(), format!("the way to {at} is cut, or the other server is down"))
        }
    })
}

#[cfg(test)]
mod tests {
    use atoll_model::wire::MeshRelay;

    use super::*;

    const NOW: u64 = 1_000_000;

    fn way(node: &str) -> MeshWay {
        MeshWay {
            node: node.parse().unwrap(),
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            last_handshake: Some(NOW - 60),
            secret_until: Some(NOW + 60),
            relay: None,
            direct_round_trip_ms: Some(9.0),
            path_mtu: Some(1500),
            reachable: Some(true),
            round_trip_ms: 10.0,
            loss: 0.0,
            rx_bytes: 1,
            tx_bytes: 1,
        }
    }

    fn server(node: &str, ways: Vec<MeshWay>) -> MeshServer {
        let report = MeshReport {
            backend: Some("kernel".to_owned()),
            port: 51820,
            mtu: 1420,
            certificate_expires_at: NOW + 3600,
            relaying: 0,
            ways,
        };
        MeshServer { node: node.parse().unwrap(), region: "ams".parse().unwrap(), heard: true, report: Some(report) }
    }

    fn told(servers: &[MeshServer]) -> Vec<String> {
        let line = |finding: MeshFinding| {
            let towards = finding.towards.map(|towards| format!(" -> {towards}")).unwrap_or_default();
            assert!(!finding.advice.is_empty());
            format!("{}{towards}: {}", finding.node, finding.problem)
        };
        findings(servers, NOW).into_iter().map(line).collect()
    }

    #[test]
    fn nothing_is_found_where_all_is_well() {
        assert!(told(&[server("a", vec![way("b")]), server("b", vec![way("a")])]).is_empty());
    }

    #[test]
    fn each_trouble_has_its_own_words() {
        let cut = |node| MeshWay { reachable: Some(false), loss: 1.0, ..way(node) };
        assert_eq!(
            told(&[server("a", vec![cut("b")]), server("b", vec![cut("a")])]),
            ["a -> b: no longer hears it", "b -> a: no longer hears it"]
        );
        assert_eq!(
            told(&[server("a", vec![cut("b")]), server("b", vec![way("a")])]),
            ["a -> b: does not hear it, but is heard"]
        );
        let never = MeshWay { last_handshake: None, ..cut("b") };
        assert_eq!(
            told(&[server("a", vec![never]), server("b", vec![])]),
            ["a -> b: has never agreed on keys with it", "b -> a: has no way to it"]
        );
        let new = MeshWay { reachable: None, last_handshake: None, ..way("b") };
        assert!(told(&[server("a", vec![new]), server("b", vec![way("a")])]).is_empty(), "it may have just begun");
        let lossy = MeshWay { loss: 0.1, ..way("b") };
        assert_eq!(told(&[server("a", vec![lossy]), server("b", vec![way("a")])]), ["a -> b: loses 10 % of probes"]);
    }

    #[test]
    fn a_way_that_carries_no_full_packets_is_named() {
        let narrow = MeshWay { path_mtu: Some(1280), ..way("b") };
        let enough = MeshWay { path_mtu: Some(1360), ..way("a") };
        assert_eq!(
            told(&[server("a", vec![narrow]), server("b", vec![enough])]),
            ["a -> b: carries packets of 1280 bytes at most, which are too small for the mesh's"]
        );
    }

    #[test]
    fn a_secret_that_outlives_its_certificate_is_named() {
        let old = MeshWay { secret_until: Some(NOW - 600), ..way("b") };
        let none = MeshWay { secret_until: None, ..way("a") };
        assert_eq!(
            told(&[server("a", vec![old]), server("b", vec![none])]),
            ["a -> b: has shared its secret with it 10 min too long"]
        );
    }

    #[test]
    fn a_detour_is_told_by_who_decides_it_and_so_is_what_would_prevent_one() {
        let over = |reason: Option<&str>| {
            let reason = reason.map(str::to_owned);
            Some(MeshRelay { node: "c".parse().unwrap(), since: reason.as_ref().map(|_| NOW - 60), reason })
        };
        let decides = MeshWay { relay: over(Some("the direct way is silent")), direct_round_trip_ms: None, ..way("b") };
        let follows = MeshWay { relay: over(None), direct_round_trip_ms: None, ..way("a") };
        assert_eq!(
            told(&[server("a", vec![decides]), server("b", vec![follows])]),
            ["a -> b: goes over c: the direct way is silent"]
        );
        let deaf = MeshWay { direct_round_trip_ms: None, ..way("b") };
        assert_eq!(
            told(&[server("a", vec![deaf]), server("b", vec![way("a")])]),
            ["a -> b: hears nothing of it beside the mesh"]
        );
    }

    #[test]
    fn a_server_that_takes_no_part_is_named_once() {
        let away = MeshServer { heard: false, report: None, ..server("b", vec![]) };
        let quiet = MeshServer { report: None, ..server("b", vec![]) };
        let mut without = server("b", vec![]);
        without.report.as_mut().unwrap().backend = None;
        for (other, told_of_it) in [(away, "b: does not answer control"), (quiet, "b: its net process does not answer")]
        {
            assert_eq!(told(&[server("a", vec![]), other]), [told_of_it]);
        }
        assert!(told(&[server("a", vec![]), without]).contains(&"b: takes no part in the mesh".to_owned()));
        let mut lapsing = server("a", vec![]);
        lapsing.report.as_mut().unwrap().certificate_expires_at = NOW + 300;
        assert_eq!(told(&[lapsing]), ["a: its certificate ends in 5 min and was not renewed"]);
    }
}
