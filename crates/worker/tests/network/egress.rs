//! Under which addresses machines leave for the internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_worker::seams::MachineNetworks;

use crate::host::{ip, on_a_host};
use crate::machines::{INSTANCE, ask, machine, open, plan, serve};
use crate::neighbour::inside;

const HOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(v6(1))];
const OUTSIDE: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)), IpAddr::V6(v6(9))];

const fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last)
}

/// Somebody in the internet, with the host's way there.
fn lay_outside() -> PathBuf {
    ip("netns add outside");
    ip("link add uplink type veth peer name eth0 netns outside");
    for (host, link, [four, six]) in [("", "uplink", HOST), ("-n outside ", "eth0", OUTSIDE)] {
        ip(&format!("{host}addr add {four}/24 dev {link}"));
        ip(&format!("{host}addr add {six}/64 dev {link} nodad"));
        ip(&format!("{host}link set {link} up"));
    }
    ip(&format!("-6 route add default via {}", OUTSIDE[1]));
    PathBuf::from("/run/netns/outside")
}

/// A server out there. New wires take the kernel a moment, longest with IPv6.
async fn serve_outside(outside: &Path, address: IpAddr) -> SocketAddr {
    let server = serve(outside, address);
    let begun = Instant::now();
    while let Err(error) = ask(server) {
        assert!(begun.elapsed() < Duration::from_secs(20), "the host does not reach {address}: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    server
}

#[test]
fn machines_leave_under_the_hosts_addresses() {
    on_a_host(|state| async move {
        let outside = lay_outside();
        let networks = open(&state, INSTANCE).await;
        let plan = plan(0, 7);
        let namespace = machine(&networks, &plan).await;
        for (host, there) in HOST.into_iter().zip(OUTSIDE) {
            let server = serve_outside(&outside, there).await;
            assert_eq!(inside(&namespace, move || ask(server)), Ok(host.to_string()));
        }
        // Nobody out there can open a connection to a machine's private addresses.
        let [four, six] = HOST;
        inside(&outside, move || {
            ip(&format!("route add 10.0.0.0/8 via {four}"));
            ip(&format!("route add 172.16.0.0/12 via {four}"));
            ip(&format!("-6 route add fdaa::/16 via {six}"));
        });
        for private in [IpAddr::V4(networks.ipv4(0)), IpAddr::V6(plan.ipv6)] {
            let server = serve(&namespace, private);
            assert!(ask(server).is_ok());
            assert!(inside(&outside, move || ask(server)).is_err(), "{private} was reached");
        }
    });
}

#[test]
fn a_host_without_a_way_says_so_at_once() {
    on_a_host(|state| async move {
        let networks = open(&state, INSTANCE).await;
        let namespace = machine(&networks, &plan(0, 7)).await;
        for there in OUTSIDE {
            // Within the patience of the one who asks.
            let refused = inside(&namespace, move || ask((there, 443).into())).unwrap_err();
            assert!(refused.contains("unreachable"), "{there}: {refused}");
        }
    });
}
