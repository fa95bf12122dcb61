//! A DNS server of many names, to be measured from outside: the public zone `bench.test` with an app
//! `name<n>` for each number, and a private network of the same apps. Prints both addresses, then serves
//! until its input ends.
//!
//! `cargo run --release -p atoll-dns --example authority -- 100000`

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use atoll_catalogue::Snapshot;
use atoll_catalogue::snapshot::Editor;
use atoll_dns::internal::{Here, Internal, View};
use atoll_dns::public::{self, Kind, NameServer, Public, Zone};
use atoll_dns::serve::{Allowance, Responder, Server};
use atoll_model::address::{NetworkId, machine_address};
use atoll_model::row::{AppRow, MachineRow};
use atoll_model::{MachineId, MachineState, MachineVersion, Row};
use tokio_util::sync::CancellationToken;

const NETWORK: NetworkId = NetworkId(1);

type Failure = Box<dyn std::error::Error>;

/// An app with an address of its own and one machine.
fn rows(number: u32) -> Result<[Row; 2], Failure> {
    let name: atoll_model::AppName = format!("name{number}").parse()?;
    let app = AppRow {
        name: name.clone(),
        org: "bench".parse()?,
        network: NETWORK,
        primary_region: None,
        hostnames: Vec::new(),
        addresses: vec![IpAddr::from(Ipv4Addr::from_bits(0x0a00_0000 | number))],
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    };
    let machine = MachineRow {
        id: MachineId::from_random(u64::from(number)),
        app: name,
        network: NETWORK,
        node: "ams1".parse()?,
        region: "ams".parse()?,
        version: MachineVersion::from_parts(1, 1),
        state: MachineState::Started,
        cordoned: false,
        private_ipv4: Ipv4Addr::LOCALHOST,
        private_ipv6: machine_address(NETWORK, 1, number),
        process_group: "app".into(),
        services: Arc::default(),
        changed_at_ms: 0,
        metadata: Arc::default(),
        skip_dns: false,
    };
    Ok([Row::App(app), Row::Machine(machine)])
}

fn catalogue(names: u32) -> Result<Snapshot, Failure> {
    let mut editor = Editor::default();
    for number in 0..names {
        rows(number)?.into_iter().for_each(|row| editor.put(row));
    }
    Ok(editor.view().clone())
}

fn public(catalogue: Snapshot, here: &Here) -> Result<Public, Failure> {
    let server = NameServer { name: "ns.bench.test".parse()?, addresses: vec![Ipv4Addr::LOCALHOST.into()] };
    let zone = Zone::new("bench.test".parse()?, Kind::AppDomain, vec![server], 1).ok_or("the zone has no server")?;
    let view = public::View::new(catalogue, &Default::default(), here, [].into(), Arc::default());
    Ok(Public::new([zone], view))
}

fn private(catalogue: Snapshot, here: Here) -> Internal {
    let view = View { catalogue, reach: Arc::default(), here, api: None };
    Internal::new(view, None).with_callers(Box::new(|_| Some(NETWORK)))
}

fn serve(responder: Arc<dyn Responder>) -> io::Result<SocketAddr> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let address = socket.local_addr()?;
    tokio::spawn(Server::new(responder, Allowance::UNBOUNDED).udp(socket, CancellationToken::new()));
    Ok(address)
}

fn main() -> Result<(), Failure> {
    let names = std::env::args().nth(1).ok_or("say how many names")?.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let here = Here { node: "ams1".parse()?, region: "ams".parse()? };
        let catalogue = catalogue(names)?;
        let public = serve(Arc::new(public(catalogue.clone(), &here)?))?;
        let private = serve(Arc::new(private(catalogue, here)))?;
        println!("{public} {private}");
        tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new())).await??;
        Ok(())
    })
}
