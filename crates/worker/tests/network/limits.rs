//! Machines that are held to network policies.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;

use atoll_model::policy::{AllowedPort, NetworkLimits, Protocol};
use atoll_worker::network::HostNetworks;
use atoll_worker::seams::{MachineNetworks, NetworkPlan};

use crate::host::on_a_host;
use crate::machines::{INSTANCE, PATIENCE, ask, machine, open, plan, serve};
use crate::neighbour::inside;

fn allowing(server: SocketAddr) -> Option<std::collections::BTreeSet<AllowedPort>> {
    Some([AllowedPort { protocol: Protocol::Tcp, port: server.port().try_into().unwrap() }].into())
}

/// Whether a datagram from one namespace arrives in another.
fn arrives(from: &Path, namespace: &Path, to: SocketAddr) -> bool {
    let receiver = inside(namespace, move || UdpSocket::bind(to).unwrap());
    receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    inside(from, move || UdpSocket::bind((any, 0)).unwrap().send_to(b"hello", to).unwrap());
    receiver.recv(&mut [0; 16]).is_ok()
}

async fn limited(networks: &HostNetworks, plan: &NetworkPlan, limits: NetworkLimits) {
    networks.limit(plan, &limits).await.unwrap();
}

#[test]
fn a_closed_direction_lets_through_what_is_allowed() {
    on_a_host(|state| async move {
        let networks = open(&state, INSTANCE).await;
        let (a, b) = (plan(0, 7), plan(1, 7));
        let (a_namespace, b_namespace) = (machine(&networks, &a).await, machine(&networks, &b).await);
        let (open_port, closed) = (serve(&b_namespace, b.ipv6), serve(&b_namespace, b.ipv6));
        let other = serve(&a_namespace, a.ipv6);
        limited(&networks, &b, NetworkLimits { ingress: allowing(open_port), ..NetworkLimits::default() }).await;
        assert!(inside(&a_namespace, move || ask(open_port)).is_ok());
        assert!(inside(&a_namespace, move || ask(closed)).is_err(), "a port that is not allowed was reached");
        assert!(!arrives(&a_namespace, &b_namespace, open_port), "the port was allowed for another protocol");
        assert!(inside(&b_namespace, move || ask(other)).is_ok(), "the other direction is open");
        assert!(ask(closed).is_ok(), "the node itself, and so its edge, is exempt");

        // An agent that starts anew keeps what it does not know.
        drop(networks);
        let networks = crate::open_again(&state, &[a, b]).await;
        assert!(inside(&a_namespace, move || ask(closed)).is_err());
        // It can change what it has not set.
        limited(&networks, &b, NetworkLimits { ingress: allowing(closed), ..NetworkLimits::default() }).await;
        assert!(inside(&a_namespace, move || ask(closed)).is_ok());
        assert!(inside(&a_namespace, move || ask(open_port)).is_err(), "what was allowed before is allowed still");
        limited(&networks, &b, NetworkLimits::default()).await;
        assert!(inside(&a_namespace, move || ask(open_port)).is_ok());
        limited(&networks, &b, NetworkLimits { ingress: allowing(open_port), ..NetworkLimits::default() }).await;
        assert!(inside(&a_namespace, move || ask(closed)).is_err());
        // A later run is held to what it is started with.
        let b_namespace = networks.attach(&b).await.unwrap();
        let server = serve(&b_namespace, b.ipv6);
        assert!(inside(&a_namespace, move || ask(server)).is_ok());
    });
}

#[test]
fn what_a_machine_may_open_is_limited_at_its_own_interface() {
    on_a_host(|state| async move {
        let networks = open(&state, INSTANCE).await;
        let (a, b) = (plan(0, 7), plan(1, 7));
        let (a_namespace, b_namespace) = (machine(&networks, &a).await, machine(&networks, &b).await);
        let (open_port, closed) = (serve(&b_namespace, b.ipv6), serve(&b_namespace, b.ipv6));
        limited(&networks, &a, NetworkLimits { egress: allowing(open_port), ..NetworkLimits::default() }).await;
        assert!(inside(&a_namespace, move || ask(open_port)).is_ok());
        assert!(inside(&a_namespace, move || ask(closed)).is_err());

        networks.detach(&a).await.unwrap();
        let nothing = Some(Default::default());
        let a_namespace = networks.attach(&a).await.unwrap();
        limited(&networks, &a, NetworkLimits { egress: nothing, ..NetworkLimits::default() }).await;
        assert!(inside(&a_namespace, move || ask(open_port)).is_err(), "a closed direction with nothing allowed");
        assert!(ask(serve(&a_namespace, a.ipv6)).is_ok());
    });
}
