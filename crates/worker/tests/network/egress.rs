//! Under which addresses machines leave for the internet.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_model::egress::EgressAddresses;
use atoll_model::policy::NetworkLimits;
use atoll_worker::seams::MachineNetworks;

use crate::host::{ip, on_a_host};
use crate::machines::{INSTANCE, PATIENCE, ask, machine, open, plan, serve};
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

/// Leads back to the host, and is none of its interfaces'.
const OWN: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), IpAddr::V6(v6(0x77))];

fn leaving_as(addresses: &[IpAddr]) -> NetworkLimits {
    let leaves_as = EgressAddresses::first_of(addresses.iter().copied());
    NetworkLimits { leaves_as, ..NetworkLimits::default() }
}

/// A connection that goes on: each line that is sent is answered with the peer's address.
fn echo_here(address: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                while lines.read_line(&mut String::new()).is_ok_and(|length| length > 0) {
                    // The peer may have gone away.
                    let _ = writeln!(&stream, "{}", peer.ip());
                }
            });
        }
    });
    at
}

/// A connection of a machine's that stays open.
struct Open(BufReader<TcpStream>);

impl Open {
    fn new(namespace: &Path, server: SocketAddr) -> Self {
        let stream = inside(namespace, move || TcpStream::connect_timeout(&server, PATIENCE).unwrap());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    /// As whom the server still sees it.
    fn seen_as(&mut self) -> String {
        self.0.get_mut().write_all(b"who\n").unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

#[test]
fn a_machine_leaves_under_the_addresses_that_it_is_given() {
    on_a_host(|state| async move {
        let outside = lay_outside();
        let [four, six] = HOST;
        inside(&outside, move || {
            ip(&format!("route add {}/32 via {four}", OWN[0]));
            ip(&format!("-6 route add {}/128 via {six}", OWN[1]));
        });
        let mut networks = open(&state, INSTANCE).await;
        let (a, b) = (plan(0, 7), plan(1, 7));
        let (a_namespace, b_namespace) = (machine(&networks, &a).await, machine(&networks, &b).await);
        let mut servers = Vec::new();
        for there in OUTSIDE {
            let lasting = inside(&outside, move || echo_here(there));
            servers.push((serve_outside(&outside, there).await, lasting));
        }
        let seen_as = |namespace: &Path| -> Vec<String> {
            servers
                .iter()
                .map(|(server, _)| *server)
                .map(|server| inside(namespace, move || ask(server).unwrap()))
                .collect()
        };
        let texts = |addresses: [IpAddr; 2]| addresses.map(|address| address.to_string());
        let mut before: Vec<Open> = servers.iter().map(|(_, lasting)| Open::new(&a_namespace, *lasting)).collect();
        assert_eq!(seen_as(&a_namespace), texts(HOST));

        networks.limit(&a, &leaving_as(&OWN)).await.unwrap();
        assert_eq!(seen_as(&a_namespace), texts(OWN));
        assert_eq!(seen_as(&b_namespace), texts(HOST), "another machine got the address");
        let kept: Vec<String> = before.iter_mut().map(Open::seen_as).collect();
        assert_eq!(kept, texts(HOST), "a connection that was open has changed its address");
        let mut during: Vec<Open> = servers.iter().map(|(_, lasting)| Open::new(&a_namespace, *lasting)).collect();

        // Without an agent, with the next one before and after it has put its rules there, and by its word.
        drop(networks);
        assert_eq!(seen_as(&a_namespace), texts(OWN));
        networks = crate::open_again(&state, &[a, b]).await;
        assert_eq!(seen_as(&a_namespace), texts(OWN));
        networks.limit(&a, &leaving_as(&OWN[..1])).await.unwrap();
        assert_eq!(seen_as(&a_namespace), [OWN[0].to_string(), HOST[1].to_string()]);
        networks.limit(&a, &NetworkLimits::default()).await.unwrap();
        assert_eq!(seen_as(&a_namespace), texts(HOST));
        let kept: Vec<String> = during.iter_mut().map(Open::seen_as).collect();
        assert_eq!(kept, texts(OWN));

        // A later run of whatever machine leaves as it is told.
        networks.limit(&a, &leaving_as(&OWN)).await.unwrap();
        networks.detach(&a).await.unwrap();
        let a_namespace = networks.attach(&a).await.unwrap();
        assert_eq!(seen_as(&a_namespace), texts(HOST));
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
