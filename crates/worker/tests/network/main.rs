//! Networks of machines on a real kernel: each test is a host of its own, in namespaces that vanish
//! with it. Needs root, iproute2 and nftables.

mod egress;
mod flycast;
#[path = "../host/mod.rs"]
mod host;
mod isolated;
#[path = "../isolation/mod.rs"]
mod isolation;
mod limits;
mod machines;
mod mesh;
mod neighbour;
mod traffic;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use atoll_model::address::{NetworkId, machine_address};
use atoll_worker::network::HostNetworks;
use atoll_worker::seams::{MachineNetworks, NetworkPlan};
use host::{ip, on_a_host};
use machines::{INSTANCE, PATIENCE, ask, config, machine, open, plan, serve, serve_here};
use neighbour::inside;

#[test]
fn the_host_reaches_a_machine_at_both_addresses() {
    on_a_host(|state| async move {
        let networks = open(&state, INSTANCE).await;
        let plan = plan(0, 7);
        let namespace = machine(&networks, &plan).await;
        let gateway = Ipv4Addr::from_bits(networks.block().network().to_bits() + 1);
        assert_eq!(ask(serve(&namespace, networks.ipv4(0))).unwrap(), gateway.to_string());
        assert!(ask(serve(&namespace, plan.ipv6)).is_ok());
        assert!(ask(serve(&namespace, Ipv4Addr::UNSPECIFIED)).is_err(), "port on another address");
    });
}

/// The first packet counts: one that is lost costs a waking request a second.
#[test]
fn a_namespace_is_usable_at_once() {
    on_a_host(|state| async move {
        let networks = open(&state, INSTANCE).await;
        for round in 0..20 {
            let plan = plan(round % 3, 7);
            let namespace = machine(&networks, &plan).await;
            for address in [IpAddr::V4(networks.ipv4(plan.slot)), IpAddr::V6(plan.ipv6)] {
                let answer = ask(serve(&namespace, address));
                assert!(answer.is_ok(), "round {round}, {address}: {answer:?}");
            }
        }
    });
}

#[test]
fn machines_reach_their_own_network_alone() {
    on_a_host(|state| async move {
        let networks = open(&state, INSTANCE).await;
        let (a, b, stranger) = (plan(0, 7), plan(1, 7), plan(2, 8));
        let a_namespace = machine(&networks, &a).await;
        let b_namespace = machine(&networks, &b).await;
        let stranger_namespace = machine(&networks, &stranger).await;
        let server = serve(&b_namespace, b.ipv6);
        assert_eq!(inside(&a_namespace, move || ask(server)).unwrap(), a.ipv6.to_string());
        assert!(inside(&stranger_namespace, move || ask(server)).is_err(), "another network was let in");
        let by_ipv4 = serve(&b_namespace, networks.ipv4(1));
        assert!(inside(&a_namespace, move || ask(by_ipv4)).is_err(), "machines met by IPv4");
        assert!(ask(by_ipv4).is_ok());
    });
}

#[test]
fn the_nodes_own_services_are_out_of_reach() {
    on_a_host(|state| async move {
        let networks = open(&state, INSTANCE).await;
        let namespace = machine(&networks, &plan(0, 7)).await;
        let gateway = Ipv4Addr::from_bits(networks.block().network().to_bits() + 1);
        let service = serve_here(gateway.into());
        assert!(ask(service).is_ok());
        assert!(inside(&namespace, move || ask(service)).is_err());
        let link_local = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = link_local.local_addr().unwrap().port();
        let answer = inside(&namespace, move || {
            let scoped = std::net::SocketAddrV6::new("fe80::1".parse().unwrap(), port, 0, 2);
            TcpStream::connect_timeout(&scoped.into(), PATIENCE).map(|_| ())
        });
        assert!(answer.is_err());
    });
}

#[test]
fn a_forged_source_is_dropped() {
    on_a_host(|state| async move {
        let networks = open(&state, INSTANCE).await;
        let (a, b) = (plan(0, 7), plan(1, 7));
        let a_namespace = machine(&networks, &a).await;
        let b_namespace = machine(&networks, &b).await;
        // The receiver counts datagrams; the forger sends as another machine of its network.
        let receiver = inside(&b_namespace, move || {
            let socket = std::net::UdpSocket::bind((b.ipv6, 0)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        });
        let target = receiver.local_addr().unwrap();
        let forged = machine_address(NetworkId(7), 9, 9);
        inside(&a_namespace, move || {
            ip(&format!("-6 addr add {forged}/128 dev eth0 nodad"));
            let socket = std::net::UdpSocket::bind((forged, 0)).unwrap();
            socket.send_to(b"forged", target).unwrap();
            let honest = std::net::UdpSocket::bind((a.ipv6, 0)).unwrap();
            honest.send_to(b"honest", target).unwrap();
        });
        let mut first = [0; 16];
        let (length, from) = receiver.recv_from(&mut first).unwrap();
        assert_eq!((&first[..length], from.ip()), (b"honest".as_slice(), IpAddr::V6(a.ipv6)));
    });
}

#[test]
fn what_is_removed_leaves_nothing_and_what_is_nobodys_is_found() {
    on_a_host(|state| async move {
        let networks = open(&state, INSTANCE).await;
        let (kept, gone, orphan) = (plan(0, 7), plan(1, 7), plan(2, 7));
        let kept_namespace = machine(&networks, &kept).await;
        let gone_namespace = machine(&networks, &gone).await;
        let orphan_namespace = machine(&networks, &orphan).await;
        networks.detach(&gone).await.unwrap();
        networks.detach(&gone).await.unwrap();
        assert!(!gone_namespace.exists());
        let block = networks.block();
        drop(networks);

        // The next agent finds its block, keeps what a machine holds and removes the rest.
        let networks = open_again(&state, &[kept]).await;
        assert_eq!(networks.block(), block);
        assert!(kept_namespace.exists() && !orphan_namespace.exists());
        assert!(ask(serve(&kept_namespace, networks.ipv4(0))).is_ok());
        assert_eq!(ip("-o link").matches("atl1a2b3c4d").count(), 1);

        // A fresh run of the same machine replaces the one before.
        let again = machine(&networks, &kept).await;
        assert!(ask(serve(&again, networks.ipv4(0))).is_ok());
        networks.remove_all().await.unwrap();
        assert!(!ip("-o link").contains("atl1a2b3c4d"));
        assert!(!ip("route").contains("blackhole"));
        let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
        assert!(!String::from_utf8_lossy(&rules.stdout).contains("atoll-1a2b3c4d"));
        assert_eq!(std::fs::read_dir("/run/netns").unwrap().count(), 0);
    });
}

async fn open_again(state: &Path, held: &[NetworkPlan]) -> HostNetworks {
    let networks = HostNetworks::open(config(state, INSTANCE)).await.unwrap();
    networks.reconcile(held).await.unwrap();
    networks
}

#[test]
fn two_instances_live_side_by_side() {
    on_a_host(|state| async move {
        ip("route add blackhole 10.77.0.0/16");
        let other_state = state.join("other");
        std::fs::create_dir(&other_state).unwrap();
        // The same preference, since 0x4d and 0x4d + 336 begin at the same candidate.
        let first = open(&state, 77).await;
        let second = open(&other_state, 77 + 336).await;
        let (a, b) = (plan(0, 7), plan(0, 7));
        let a_namespace = machine(&first, &a).await;
        let b_plan = NetworkPlan { ipv6: machine_address(NetworkId(7), 2, 1), ..b };
        let b_namespace = machine(&second, &b_plan).await;
        assert_ne!(first.block(), second.block());
        assert_ne!(first.block().to_string(), "10.77.0.0/16");
        assert!(ask(serve(&a_namespace, first.ipv4(0))).is_ok());
        let server = serve(&b_namespace, second.ipv4(0));
        assert!(ask(server).is_ok());
        assert!(inside(&a_namespace, move || ask(server)).is_err(), "instances met");
        first.remove_all().await.unwrap();
        assert!(ask(server).is_ok());
    });
}

#[test]
fn a_namespace_is_made_in_milliseconds() {
    on_a_host(|state| async move {
        let networks = open(&state, INSTANCE).await;
        let mut attach = Vec::new();
        let mut detach = Vec::new();
        for slot in 0..20 {
            let plan = plan(slot, 7);
            networks.admit(plan.network).await.unwrap();
            let begun = std::time::Instant::now();
            networks.attach(&plan).await.unwrap();
            attach.push(begun.elapsed());
            let begun = std::time::Instant::now();
            networks.detach(&plan).await.unwrap();
            detach.push(begun.elapsed());
        }
        attach.sort();
        detach.sort();
        println!("attach p50 {:?}, detach p50 {:?}", attach[10], detach[10]);
        assert!(attach[10] < Duration::from_millis(50), "attach took {:?}", attach[10]);
    });
}
