//! Machines call apps at Flycast addresses: their node leads them to one socket of its own, and nobody else there.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use atoll_model::address::{FLYCAST_PORT, NetworkId, flycast_address};
use atoll_worker::seams::MachineNetworks;
use socket2::SockRef;

use crate::host::{ip, on_a_host};
use crate::machines::{PATIENCE, ask};
use crate::mesh::{FAR_NODE, NEAR_NODE, Two, near_a, near_b};
use crate::neighbour::inside;

fn app_of(network: u32, port: u16) -> SocketAddr {
    (flycast_address(NetworkId(network), 5), port).into()
}

/// Stands in for the near node's edge: says who calls, and where they were going.
fn take_calls() {
    let listener = TcpListener::bind((NEAR_NODE, FLYCAST_PORT)).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let going = SockRef::from(&stream).original_dst_v6().unwrap().as_socket().unwrap();
            // The caller may have gone away.
            write!(stream, "{} to {going}", peer.ip()).ok();
        }
    });
}

fn call(namespace: &Path, to: SocketAddr) -> Result<String, String> {
    inside(namespace, move || ask(to))
}

#[test]
fn a_call_at_any_port_reaches_the_nodes_edge() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        take_calls();
        for (namespace, caller, network, port) in
            [(&two.a, near_a().ipv6, 7, 80), (&two.a, near_a().ipv6, 7, 40_000), (&two.b, near_b().ipv6, 8, 1)]
        {
            let to = app_of(network, port);
            assert_eq!(call(namespace, to), Ok(format!("{caller} to {to}")));
        }
    });
}

/// Both are one connection to the edge's socket, but for what the kernel does about it.
#[test]
fn calls_from_one_port_are_told_apart() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        take_calls();
        let said = inside(&two.a, || {
            let calls = [app_of(7, 80), app_of(7, 443)].map(|to| {
                let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
                socket.set_reuse_address(true).unwrap();
                socket.bind(&SocketAddr::from((near_a().ipv6, 40_000)).into()).unwrap();
                socket.connect_timeout(&to.into(), PATIENCE).unwrap();
                TcpStream::from(socket)
            });
            calls.map(|mut stream| {
                let mut said = String::new();
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                stream.read_to_string(&mut said).unwrap();
                said
            })
        });
        let caller = near_a().ipv6;
        assert_eq!(said, [80, 443].map(|port| format!("{caller} to {}", app_of(7, port))));
    });
}

#[test]
fn nobody_elses_call_does() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        take_calls();
        assert!(call(&two.a, app_of(8, 80)).is_err(), "another network's app was called");
        assert!(call(&two.b, app_of(7, 80)).is_err(), "another network's app was called");
        let edge = SocketAddr::from((NEAR_NODE, FLYCAST_PORT));
        assert!(call(&two.a, edge).is_err(), "a machine reached the edge's socket directly");
        assert!(call(&two.far_a, edge).is_err(), "another node's machine reached the edge's socket");
        // The far node leads its machines' calls to its own edge, which is not there; it may try to send them on.
        assert!(call(&two.far_a, app_of(7, 80)).is_err(), "another node's edge was called");
        let link = &two.far_face.link;
        ip(&format!("-n far -6 route add {}/128 dev {link} src {FAR_NODE}", app_of(7, 80).ip()));
        for target in [edge, app_of(7, 80)] {
            assert!(two.neighbour.run(async move { ask(target) }).await.is_err(), "a node was taken for a machine");
        }
        assert!(call(&two.a, app_of(7, 80)).is_ok());
    });
}

#[test]
fn a_call_as_somebody_else_is_dropped() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        take_calls();
        let forged: Ipv6Addr = near_b().ipv6;
        let outcome = inside(&two.a, move || {
            ip(&format!("-6 addr add {forged}/128 dev eth0 nodad"));
            let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((forged, 0)).into()).unwrap();
            socket.connect_timeout(&app_of(7, 80).into(), PATIENCE)
        });
        assert!(outcome.is_err(), "a forged source got through");
    });
}

#[test]
fn calls_are_tcp() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        let socket = UdpSocket::bind((NEAR_NODE, FLYCAST_PORT)).unwrap();
        inside(&two.a, || {
            let sender = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
            for to in [app_of(7, FLYCAST_PORT), (NEAR_NODE, FLYCAST_PORT).into()] {
                sender.send_to(b"call", to).unwrap();
            }
        });
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(socket.recv(&mut [0; 8]).is_err(), "a datagram reached the edge's port");
    });
}

#[test]
fn an_open_call_outlives_the_rules() {
    on_a_host(|state| async move {
        let two = Two::new(state).await;
        let listener = TcpListener::bind((NEAR_NODE, FLYCAST_PORT)).unwrap();
        let mut caller = inside(&two.a, || TcpStream::connect_timeout(&app_of(7, 80), PATIENCE).unwrap());
        caller.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut edge, _) = listener.accept().unwrap();
        // As an agent that starts anew does.
        two.near.reconcile(&[near_a(), near_b()]).await.unwrap();
        caller.write_all(b"question").unwrap();
        let mut heard = [0; 8];
        edge.read_exact(&mut heard).unwrap();
        edge.write_all(b"answered").unwrap();
        caller.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"answered");
    });
}
