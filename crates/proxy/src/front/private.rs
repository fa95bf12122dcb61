//! Calls of apps at private (Flycast) addresses, by machines and users' devices of the network that an address is
//! of. The edge of the caller's own node takes them: the packet filter leads them to one socket, whatever port they
//! call, and remembers where they were going. From there on all is as for users.
//!
//! Who the caller is says its address: that nobody takes a foreign one is seen to where its packets enter the node.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use atoll_catalogue::Snapshot;
use atoll_model::NodeName;
use atoll_model::address::{is_flycast, network_of};
use atoll_model::row::AppRow;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::certificates::Certificates;
use super::connection::serve_port;
use super::request::{Entrance, find_port};
use crate::core::Core;

/// Serves a call in the way that the port of the app is to be handled. What is no app of the caller's, or no port of
/// the app, is refused at once.
pub(crate) async fn serve_private(
    core: Arc<Core>,
    stream: TcpStream,
    peer: SocketAddr,
    certificates: Arc<Certificates>,
) {
    // Without addresses the caller has gone already.
    let Ok(local) = destination(&stream) else { return };
    let entrance = Entrance { peer, local, tls: false, private: true, external_port: local.port() };
    let snapshot = core.edge.surroundings.routes.snapshot();
    let found = called(&snapshot, &entrance).and_then(|app| {
        let port = find_port(&snapshot, &app.name, entrance.external_port)?;
        Some((app.name.clone(), port.clone()))
    });
    // Not held while the connection lives.
    drop(snapshot);
    match found {
        Some((app, port)) => serve_port(core, stream, entrance, app, port, &certificates).await,
        None => refuse(stream),
    }
}

/// Where a connection was going before it was led here.
fn destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    // Without a note of it, it was coming here, where no app is.
    let before = SockRef::from(stream).original_dst_v6().ok().and_then(|address| address.as_socket());
    before.map_or_else(|| stream.local_addr(), Ok)
}

/// The app that is called, if the caller is of the network from which it is entered there. Whoever may not call an
/// app learns no more than that there is nothing.
pub(super) fn called<'a>(snapshot: &'a Snapshot, entrance: &Entrance) -> Option<&'a Arc<AppRow>> {
    let (IpAddr::V6(caller), IpAddr::V6(address)) = (entrance.peer.ip(), entrance.local.ip()) else { return None };
    let among_its_own = is_flycast(address) && network_of(caller) == network_of(address);
    among_its_own.then(|| snapshot.app_by_address(address.into())).flatten()
}

/// What the app is told of the machine that calls it. Only `here`, the caller's own node, says which machine has its
/// address; users' devices are none.
pub(super) fn source(snapshot: &Snapshot, entrance: &Entrance, here: &NodeName, now: SystemTime) -> Option<String> {
    let IpAddr::V6(caller) = entrance.peer.ip() else { return None };
    if !entrance.private {
        return None;
    }
    let machine = snapshot.machine_by_address(caller).filter(|machine| machine.node == *here)?;
    let org = &snapshot.app(&machine.app)?.org;
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Some(format!("instance={};app={};org={org};ts={seconds}", machine.id, machine.app))
}

/// Resets the connection instead of ending it, as a host does where nothing listens.
fn refuse(stream: TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        // It is closed all the same.
        tracing::debug!(%error, "a connection could not be reset");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use atoll_model::Row;
    use atoll_model::address::{NetworkId, flycast_address, machine_address};
    use serde_json::{Value, json};

    use super::*;

    fn row(row: Value) -> Row {
        serde_json::from_value(row).unwrap()
    }

    /// The app `web` of network 7 is entered from there and from network 8; `caller` runs on `ams1`.
    fn snapshot() -> Snapshot {
        let web = json!({"kind": "app", "name": "web", "org": "acme", "network": 7,
            "addresses": ["192.0.2.1", flycast_address(NetworkId(7), 1), flycast_address(NetworkId(8), 4)]});
        let caller = json!({"kind": "app", "name": "caller", "org": "personal", "network": 8});
        let machine = json!({"kind": "machine", "id": "0000000000000a", "app": "caller", "network": 8,
            "node": "ams1", "region": "ams", "version": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "state": "started",
            "private_ipv4": "10.0.0.2", "private_ipv6": machine_address(NetworkId(8), 0, 5), "services": []});
        Snapshot::from_rows([web, caller, machine].map(row))
    }

    fn entrance(peer: impl Into<IpAddr>, local: impl Into<IpAddr>) -> Entrance {
        let (peer, local) = (SocketAddr::new(peer.into(), 40_000), SocketAddr::new(local.into(), 80));
        Entrance { peer, local, tls: false, private: true, external_port: 80 }
    }

    #[test]
    fn an_app_is_called_from_the_network_that_the_address_is_of() {
        let snapshot = snapshot();
        let machine = |network| machine_address(NetworkId(network), 0, 5);
        for (peer, local, reached) in [
            (machine(7), flycast_address(NetworkId(7), 1), true),
            (machine(8), flycast_address(NetworkId(8), 4), true),
            (machine(7), flycast_address(NetworkId(8), 4), false),
            (machine(8), flycast_address(NetworkId(7), 1), false),
            (machine(7), flycast_address(NetworkId(7), 2), false),
            ("2001:db8:7::2".parse().unwrap(), flycast_address(NetworkId(7), 1), false),
            ("::1".parse().unwrap(), flycast_address(NetworkId(7), 1), false),
        ] {
            let found = called(&snapshot, &entrance(peer, local)).map(|app| app.name.to_string());
            assert_eq!(found.as_deref(), reached.then_some("web"), "{peer} calls {local}");
        }
        // A public address is not entered here, whoever calls.
        assert!(called(&snapshot, &entrance(machine(7), [192, 0, 2, 1])).is_none());
        assert!(called(&snapshot, &entrance([10, 0, 0, 2], [192, 0, 2, 1])).is_none());
    }

    #[test]
    fn an_app_is_told_which_machine_calls_by_the_machines_own_node() {
        let (snapshot, now) = (snapshot(), UNIX_EPOCH + Duration::from_millis(1_700_000_000_900));
        let by = |number| entrance(machine_address(NetworkId(8), 0, number), flycast_address(NetworkId(8), 4));
        let told = |entrance: &Entrance, here: &str| source(&snapshot, entrance, &here.parse().unwrap(), now);
        let expected = "instance=0000000000000a;app=caller;org=personal;ts=1700000000";
        assert_eq!(told(&by(5), "ams1").as_deref(), Some(expected));
        assert_eq!(told(&by(5), "nrt1"), None, "another node's machines do not call here");
        assert_eq!(told(&by(6), "ams1"), None, "not a machine");
        assert_eq!(told(&Entrance { private: false, ..by(5) }, "ams1"), None);
    }
}
