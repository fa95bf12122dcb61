//! Prints what 100,000 machines cost a replica: bytes each, lookups, one change. With `--json`, as an
//! object for the bench.
//!
//! `cargo run --release -p atoll-catalogue --example footprint`

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use atoll_catalogue::protocol::series::Session;
use atoll_catalogue::protocol::{OwnerLog, PathId, Replica};
use atoll_model::address::{NetworkId, machine_address};
use atoll_model::row::{MachineRow, ServiceRow};
use atoll_model::{AppName, MachineId, MachineState, MachineVersion, NodeName, Owner, Row};

const MACHINES: u64 = 100_000;
const NODES: u64 = 200;
const APPS: u64 = 5_000;

/// Counts live bytes.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; the counter touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn services(port: u64) -> Arc<[ServiceRow]> {
    let check = serde_json::json!({ "type": "http", "path": "/health", "interval": "15s", "timeout": "2s" });
    let service = serde_json::json!({
        "protocol": "tcp",
        "internal_port": 8000 + port,
        "ports": [{ "port": 80, "handlers": ["http"] }, { "port": 443, "handlers": ["tls", "http"] }],
        "concurrency": { "type": "requests", "soft_limit": 200, "hard_limit": 250 },
        "checks": [check],
        "healthy": true,
    });
    Arc::new([serde_json::from_value(service).expect("a service")])
}

/// Spreads numbers over all ids, as random ids are.
fn id(number: u64) -> MachineId {
    MachineId::from_random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 8)
}

fn machine(number: u64, node: &NodeName, state: MachineState) -> Row {
    let app = number % APPS;
    Row::Machine(MachineRow {
        id: id(number),
        app: format!("customer-app-{app}").parse().expect("a name"),
        network: NetworkId(app as u32),
        node: node.clone(),
        region: "ams".parse().expect("a region"),
        version: MachineVersion::from_parts(number, 1),
        state,
        cordoned: false,
        private_ipv4: [172, 19, 0, 2].into(),
        private_ipv6: machine_address(NetworkId(app as u32), 1, number as u32),
        process_group: "app".into(),
        services: services(app % 20),
        changed_at_ms: number,
        metadata: Default::default(),
        skip_dns: false,
    })
}

fn nanos_each(times: u64, mut work: impl FnMut(u64)) -> f64 {
    let began = Instant::now();
    (0..times).for_each(&mut work);
    began.elapsed().as_nanos() as f64 / times as f64
}

fn main() {
    let nodes: Vec<NodeName> = (0..NODES).map(|n| format!("node{n}").parse().expect("a name")).collect();
    let before = LIVE.load(Ordering::Relaxed);
    let mut replica = Replica::default();
    let began = Instant::now();
    for (n, node) in nodes.iter().enumerate() {
        let mut log = OwnerLog::new(Owner::Node(node.clone()), 1);
        for number in (n as u64..MACHINES).step_by(NODES as usize) {
            log.put(&machine(number, node, MachineState::Started)).expect("a sound row");
        }
        let mut session = Session::default();
        while let Some(part) = session.next(&log) {
            replica.receive(PathId(n as u64), part);
        }
    }
    let loaded = began.elapsed();
    let each = (LIVE.load(Ordering::Relaxed) - before) as f64 / MACHINES as f64;
    let view = replica.view().clone();
    let by_id = nanos_each(1_000_000, |n| {
        black_box(view.machine(&id(black_box(n * 7919 % MACHINES))));
    });
    let names: Vec<AppName> = (0..APPS).map(|app| format!("customer-app-{app}").parse().expect("a name")).collect();
    let by_app = nanos_each(1_000_000, |n| {
        black_box(view.machines_of(&names[(n * 7919 % APPS) as usize]).len());
    });
    if std::env::args().nth(1).as_deref() == Some("--json") {
        println!("{}", serde_json::json!({ "bytes_each": each, "lookup_ns": by_id.max(by_app) }));
        return;
    }
    println!("machines                     {}", view.machine_count());
    println!("load, with encoding          {loaded:.1?}");
    println!("bytes per machine            {each:.0} (gate 2048, target 1024)");
    println!("lookup of a machine          {by_id:.0} ns (gate 5000, target 1000)");
    println!("lookup of an app's machines  {by_app:.0} ns");

    // Each change is published before the next one comes: the dearest case.
    let mut log = OwnerLog::resume(Owner::Node(nodes[0].clone()), 1, 1_000_000);
    for number in (0..MACHINES).step_by(NODES as usize) {
        log.put(&machine(number, &nodes[0], MachineState::Started)).expect("a sound row");
    }
    let mut session = Session::default();
    let mut published = replica.view().clone();
    let mut spent = std::time::Duration::ZERO;
    let mut parts = 0;
    for round in 0..1_000 {
        let state = if round % 2 == 0 { MachineState::Stopped } else { MachineState::Started };
        let number = round * NODES % MACHINES;
        log.put(&machine(number, &nodes[0], state)).expect("a sound row");
        while let Some(part) = session.next(&log) {
            let began = Instant::now();
            let outcome = replica.receive(PathId(NODES), part);
            published = replica.view().clone();
            if round > 0 && outcome.moved {
                spent += began.elapsed();
                parts += 1;
            }
        }
    }
    black_box(&published);
    println!("change of one row, with swap {:.1} us", spent.as_secs_f64() * 1e6 / f64::from(parts));
}
