//! Bytes that machines' networks carry, by machine and by how far they go.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use atoll_model::MachineId;
use atoll_worker::network::{Direction, HostNetworks, TrafficClass, set_region};
use atoll_worker::seams::MachineNetworks;

use crate::host::{ip, on_a_host};
use crate::machines::{INSTANCE, machine, open, plan};
use crate::mesh::{Two, far_plan};
use crate::neighbour::inside;

const AMOUNT: u64 = 100_000;

/// Sends [`AMOUNT`] bytes from one namespace to another, where `to` is.
fn transfer(from: &Path, namespace: &Path, to: impl Into<IpAddr>) {
    let to = to.into();
    let listener = inside(namespace, move || TcpListener::bind((to, 0)).unwrap());
    let at: SocketAddr = listener.local_addr().unwrap();
    let taker = std::thread::spawn(move || {
        let mut taken = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut taken).unwrap();
        taken.len()
    });
    inside(from, move || TcpStream::connect(at).unwrap().write_all(&vec![0; AMOUNT as usize]).unwrap());
    assert_eq!(taker.join().unwrap() as u64, AMOUNT);
}

/// Whether the figure is that of `times` transfers with their headers.
async fn counted(
    networks: &HostNetworks,
    machine: MachineId,
    class: TrafficClass,
    direction: Direction,
    times: u64,
) -> bool {
    networks.read_traffic(|_| true).await.unwrap();
    let traffic = networks.traffic()[&machine];
    let is_it = |counter: atoll_worker::network::Counter| (counter.class, counter.direction) == (class, direction);
    let (_, bytes) = traffic.figures().find(|(counter, _)| is_it(*counter)).unwrap();
    println!("{class:?} {direction:?}: {bytes} bytes");
    (times * AMOUNT..=times * AMOUNT * 3 / 2).contains(&bytes)
}

#[test]
fn bytes_are_counted_by_machine_and_class() {
    on_a_host(|state| async move {
        use {Direction::*, TrafficClass::*};
        ip("netns add outside");
        ip("link add uplink type veth peer name eth0 netns outside");
        ip("addr add 192.0.2.1/24 dev uplink");
        ip("link set uplink up");
        ip("-n outside addr add 192.0.2.9/24 dev eth0");
        ip("-n outside link set eth0 up");
        let networks = open(&state, INSTANCE).await;
        let (a, b) = (plan(0, 7), plan(1, 7));
        let (a_namespace, b_namespace) = (machine(&networks, &a).await, machine(&networks, &b).await);
        transfer(&a_namespace, &b_namespace, b.ipv6);
        transfer(&a_namespace, &PathBuf::from("/run/netns/outside"), Ipv4Addr::new(192, 0, 2, 9));
        assert!(counted(&networks, a.machine, SameNode, Sent, 1).await);
        assert!(counted(&networks, b.machine, SameNode, Received, 1).await);
        assert!(counted(&networks, a.machine, Public, Sent, 1).await);
        assert!(counted(&networks, b.machine, Public, Sent, 0).await);
        // What the host itself brings, as the edge does, is counted there.
        transfer(&PathBuf::from("/proc/thread-self/ns/net"), &b_namespace, b.ipv6);
        assert!(counted(&networks, b.machine, SameNode, Received, 1).await);

        // A later run goes on, and an agent that starts anew finds what the kernel counted.
        let a_namespace = networks.attach(&a).await.unwrap();
        transfer(&a_namespace, &b_namespace, b.ipv6);
        assert!(counted(&networks, a.machine, SameNode, Sent, 2).await);
        drop(networks);
        let networks = crate::open_again(&state, &[a, b]).await;
        assert!(counted(&networks, b.machine, SameNode, Received, 2).await);
        assert!(counted(&networks, a.machine, SameNode, Sent, 1).await, "the run before is another process's to know");
    });
}

#[test]
fn the_mesh_is_told_apart_by_region() {
    on_a_host(|state| async move {
        use {Direction::*, TrafficClass::*};
        // Whoever comes first, the agent or who reads the catalogue, makes the set.
        set_region(INSTANCE, &BTreeSet::new()).await.unwrap();
        let two = Two::new(state).await;
        let (machine, far) = (plan(0, 7).machine, far_plan(0, 7).ipv6);
        let sends = || transfer(&two.a, &two.far_a, far);
        sends();
        assert!(counted(&two.near, machine, CrossRegion, Sent, 1).await, "by default it is far");
        set_region(INSTANCE, &[far].into()).await.unwrap();
        sends();
        transfer(&two.far_a, &two.a, plan(0, 7).ipv6);
        assert!(counted(&two.near, machine, SameRegion, Sent, 1).await);
        assert!(counted(&two.near, machine, SameRegion, Received, 1).await);
        assert!(counted(&two.near, machine, CrossRegion, Sent, 1).await);

        // Rules that are made anew find what was said.
        two.near.reconcile(&[plan(0, 7), plan(1, 8)]).await.unwrap();
        sends();
        assert!(counted(&two.near, machine, SameRegion, Sent, 2).await);
        set_region(INSTANCE, &[far_plan(1, 9).ipv6].into()).await.unwrap();
        sends();
        assert!(counted(&two.near, machine, CrossRegion, Sent, 2).await, "it is in this region no more");
        assert!(counted(&two.near, machine, SameRegion, Sent, 2).await);
        assert!(counted(&two.near, machine, Public, Sent, 0).await);
    });
}
