use std::collections::HashMap;

use atoll_model::MachineVersion;
use atoll_model::address::NetworkId;
use atoll_model::reach::Path;
use atoll_model::row::{AppRow, NodeRow, Row, ServiceRow};
use atoll_model::service::Service;
use proptest::prelude::*;

use super::*;

/// A machine in few words; everything else is the same for all.
#[derive(Clone, Debug)]
struct Spec {
    id: u64,
    node: &'static str,
    state: MachineState,
    healthy: bool,
    load: LoadBucket,
    cordoned: bool,
    autostart: bool,
    port: u16,
}

fn machine(id: u64, node: &'static str) -> Spec {
    Spec {
        id,
        node,
        state: MachineState::Started,
        healthy: true,
        load: LoadBucket::BelowSoft,
        cordoned: false,
        autostart: true,
        port: 80,
    }
}

impl Spec {
    fn load(self, load: LoadBucket) -> Self {
        Self { load, ..self }
    }

    fn state(self, state: MachineState) -> Self {
        Self { state, ..self }
    }

    fn row(&self) -> Row {
        let service: Service = serde_json::from_value(serde_json::json!({
            "internal_port": 8080, "ports": [{"port": self.port, "handlers": ["http"]}], "autostart": self.autostart,
        }))
        .unwrap();
        Row::Machine(MachineRow {
            id: MachineId::from_random(self.id),
            app: "web".parse().unwrap(),
            network: NetworkId(1),
            node: self.node.parse().unwrap(),
            region: region_of(self.node),
            version: MachineVersion::from_parts(1, 1),
            state: self.state,
            cordoned: self.cordoned,
            private_ipv4: "127.0.0.1".parse().unwrap(),
            private_ipv6: "::1".parse().unwrap(),
            process_group: String::new(),
            services: Arc::new([ServiceRow { service, healthy: self.healthy, load: self.load }]),
            changed_at_ms: 0,
            metadata: Default::default(),
            skip_dns: false,
        })
    }
}

/// A node's region is the beginning of its name.
fn region_of(node: &str) -> RegionCode {
    node[..3].parse().unwrap()
}

/// The world seen from `ams1`: `ams2` at 1 ms, `fra1` at 8, `nrt1` at 230, `ord1` does not answer.
struct World {
    snapshot: Snapshot,
    reachability: Reachability,
    steering: Steering,
    excluded: Vec<MachineId>,
    order: StartOrder,
    own: Own,
}

#[derive(Default)]
struct Own {
    running: HashMap<MachineId, bool>,
    bucket: HashMap<MachineId, LoadBucket>,
}

impl OwnMachines for Own {
    fn running(&self, row: &MachineRow) -> Option<bool> {
        self.running.get(&row.id).copied()
    }

    fn bucket(&self, row: &MachineRow, _: usize) -> Option<LoadBucket> {
        self.bucket.get(&row.id).copied()
    }
}

const NODES: [&str; 6] = ["ams1", "ams2", "fra1", "nrt1", "ord1", "syd1"];

fn world(machines: &[Spec]) -> World {
    let app = AppRow {
        name: "web".parse().unwrap(),
        org: "personal".parse().unwrap(),
        network: NetworkId(1),
        primary_region: None,
        hostnames: Vec::new(),
        addresses: Vec::new(),
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    };
    let nodes = NODES.map(|name| {
        Row::Node(NodeRow {
            name: name.parse().unwrap(),
            region: region_of(name),
            state: if name == "syd1" { NodeState::Revoked } else { NodeState::Active },
            epoch: 1,
            backhaul: None,
            worker_rpc: None,
            public_addresses: Vec::new(),
            egress_addresses: Vec::new(),
            mesh: None,
            gateway: None,
            zones: Vec::new(),
        })
    });
    let rows = std::iter::once(Row::App(app)).chain(nodes).chain(machines.iter().map(Spec::row));
    let path = |ms, reachable| Path { round_trip: Duration::from_millis(ms), loss: 0.0, reachable };
    let paths =
        [("ams2", path(1, true)), ("fra1", path(8, true)), ("nrt1", path(230, true)), ("ord1", path(90, false))];
    World {
        snapshot: Snapshot::from_rows(rows),
        reachability: Reachability { paths: paths.map(|(node, path)| (node.parse().unwrap(), path)).into() },
        steering: Steering::default(),
        excluded: Vec::new(),
        order: StartOrder::StoppedHereFirst,
        own: Own::default(),
    }
}

impl World {
    fn decide_with(&self, draw: &mut dyn FnMut(usize) -> usize) -> Decision {
        let query = Query {
            snapshot: &self.snapshot,
            reachability: &self.reachability,
            app: &"web".parse().unwrap(),
            port: 80,
            steering: &self.steering,
            excluded: &self.excluded,
            node: &"ams1".parse().unwrap(),
            region: "ams".parse().unwrap(),
            order: self.order,
            own: &self.own,
        };
        select(&query, draw)
    }

    fn decide(&self) -> Decision {
        self.decide_with(&mut |_| 0)
    }

    /// The id of the chosen machine, and whether it has to be started.
    fn chosen(&self) -> Option<(u64, bool)> {
        match self.decide() {
            Decision::Send(target) => {
                let id = u64::from_str_radix(&target.machine.id.to_string(), 16).unwrap();
                Some((id, target.start))
            }
            _ => None,
        }
    }

    fn held(&self) -> Option<Unusable> {
        match self.decide() {
            Decision::Hold(reason) => Some(reason),
            _ => None,
        }
    }
}

use LoadBucket::{AtHard, BelowHard, BelowSoft};
use MachineState::{Created, Starting, Stopped, Suspended};

#[test]
fn own_node_then_own_region_then_the_nearest() {
    let all = [machine(1, "nrt1"), machine(2, "fra1"), machine(3, "ams2"), machine(4, "ams1")];
    for (rest, expected) in [(&all[..], 4), (&all[..3], 3), (&all[..2], 2), (&all[..1], 1)] {
        assert_eq!(world(rest).chosen(), Some((expected, false)));
    }
}

#[test]
fn a_soft_limit_never_moves_traffic_to_another_region() {
    let busy_here = [machine(1, "ams1").load(BelowHard), machine(2, "fra1")];
    assert_eq!(world(&busy_here).chosen(), Some((1, false)));
    let room_next_door = [machine(1, "ams1").load(BelowHard), machine(2, "ams2"), machine(3, "fra1")];
    assert_eq!(world(&room_next_door).chosen(), Some((2, false)));
    let full_here = [machine(1, "ams1").load(AtHard), machine(2, "fra1")];
    assert_eq!(world(&full_here).chosen(), Some((2, false)));
}

#[test]
fn a_stopped_machine_here_is_started_before_a_running_one_elsewhere_unless_set_otherwise() {
    let mut world = world(&[machine(1, "ams2").state(Stopped), machine(2, "fra1")]);
    assert_eq!(world.chosen(), Some((1, true)));
    world.order = StartOrder::RunningAnywhereFirst;
    assert_eq!(world.chosen(), Some((2, false)));
}

#[test]
fn one_more_machine_starts_when_those_that_run_are_over_their_soft_limit() {
    let idle = machine(2, "ams2").state(Suspended);
    assert_eq!(world(&[machine(1, "ams1").load(BelowSoft), idle.clone()]).chosen(), Some((1, false)));
    assert_eq!(world(&[machine(1, "ams1").load(BelowHard), idle.clone()]).chosen(), Some((2, true)));
    let unstartable = Spec { autostart: false, ..idle };
    assert_eq!(world(&[machine(1, "ams1").load(BelowHard), unstartable]).chosen(), Some((1, false)));
}

#[test]
fn requests_wait_for_what_may_change() {
    let base = machine(1, "ams1");
    for (spec, reason) in [
        (Spec { healthy: false, ..base.clone() }, Unusable::Unhealthy),
        (base.clone().load(AtHard), Unusable::AtHardLimit),
        (Spec { cordoned: true, ..base.clone() }, Unusable::Cordoned),
        (Spec { autostart: false, ..base.clone().state(Stopped) }, Unusable::Stopped),
        (base.clone().state(Created), Unusable::Ending),
        (machine(1, "ord1"), Unusable::Unreachable),
        (machine(1, "syd1"), Unusable::NodeGone),
    ] {
        assert_eq!(world(&[spec]).held(), Some(reason));
    }
    assert_eq!(world(&[base.state(Starting)]).chosen(), Some((1, true)), "who comes during a start waits for it");
}

#[test]
fn without_a_service_on_the_port_waiting_is_useless() {
    let other_port = Spec { port: 5000, ..machine(1, "ams1") };
    for machines in [&[][..], &[other_port]] {
        assert!(matches!(world(machines).decide(), Decision::Refuse(Refusal::NoService)));
    }
}

#[test]
fn machines_tried_in_vain_are_left_out() {
    let mut world = world(&[machine(1, "ams1"), machine(2, "fra1")]);
    world.excluded.push(MachineId::from_random(1));
    assert_eq!(world.chosen(), Some((2, false)));
    world.excluded.push(MachineId::from_random(2));
    assert_eq!(world.held(), Some(Unusable::Tried));
}

#[test]
fn own_knowledge_wins_over_the_row() {
    let mut world = world(&[machine(1, "ams1").state(Stopped), machine(2, "ams1")]);
    let (one, two) = (MachineId::from_random(1), MachineId::from_random(2));
    world.own.running.insert(two, false);
    assert!(world.chosen().unwrap().1, "the second one has just been stopped");
    world.own.running.insert(one, true);
    assert_eq!(world.chosen(), Some((1, false)));
    world.own.bucket.insert(one, AtHard);
    assert_eq!(world.chosen(), Some((2, true)));
}

#[test]
fn preferences_are_tried_and_forces_obeyed() {
    let machines = [machine(1, "ams1"), machine(2, "fra1"), machine(3, "nrt1"), machine(4, "nrt1").load(AtHard)];
    let regions = |list: &[&str]| list.iter().map(|code| code.parse().unwrap()).collect::<Vec<RegionCode>>();
    let id = MachineId::from_random;
    let mut world = world(&machines);
    let mut expect = |instance, regions, expected: Option<u64>| {
        world.steering = Steering { instance, regions };
        assert_eq!(world.chosen().map(|(id, _)| id), expected, "{:?}", world.steering);
        world.decide()
    };
    expect(None, Some(Wish::Prefer(regions(&["nrt"]))), Some(3));
    expect(None, Some(Wish::Prefer(regions(&["gru", "fra", "nrt"]))), Some(2));
    expect(None, Some(Wish::Prefer(regions(&["gru"]))), Some(1));
    expect(None, Some(Wish::Force(regions(&["nrt", "fra"]))), Some(3));
    let refused = expect(None, Some(Wish::Force(regions(&["gru"]))), None);
    assert!(matches!(refused, Decision::Refuse(Refusal::ForcedElsewhere)));
    expect(Some(Wish::Prefer(Some(id(2)))), None, Some(2));
    expect(Some(Wish::Prefer(Some(id(4)))), None, Some(1));
    expect(Some(Wish::Force(Some(id(3)))), None, Some(3));
    assert!(matches!(expect(Some(Wish::Force(Some(id(4)))), None, None), Decision::Hold(Unusable::AtHardLimit)));
    expect(Some(Wish::Force(Some(id(9)))), None, None);
}

#[test]
fn a_forced_machine_is_used_even_when_unhealthy() {
    let mut world = world(&[Spec { healthy: false, ..machine(1, "ams1") }]);
    world.steering.instance = Some(Wish::Force(Some(MachineId::from_random(1))));
    assert_eq!(world.chosen(), Some((1, false)));
}

#[test]
fn a_node_never_probed_is_used_after_all_that_are_known() {
    let mut world = world(&[machine(1, "fra1"), machine(2, "nrt1")]);
    world.reachability.paths.remove("fra1");
    assert_eq!(world.chosen(), Some((2, false)));
    world.reachability.paths.remove("nrt1");
    assert!(world.chosen().is_some());
}

#[test]
fn equals_are_drawn_by_lot_with_equal_chances() {
    let world = world(&[machine(1, "ams1"), machine(2, "ams1"), machine(3, "ams1"), machine(4, "fra1")]);
    let mut state = 7_u64;
    let mut draw = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    let mut counts: HashMap<String, u32> = HashMap::new();
    for _ in 0..3000 {
        if let Decision::Send(target) = world.decide_with(&mut draw) {
            *counts.entry(target.machine.id.to_string()).or_default() += 1;
        }
    }
    assert_eq!(counts.len(), 3);
    assert!(counts.values().all(|count| (900..1100).contains(count)), "{counts:?}");
}

fn any_machine(id: u64) -> impl Strategy<Value = Spec> {
    let states = prop::sample::select(vec![
        MachineState::Created,
        MachineState::Starting,
        MachineState::Started,
        MachineState::Started,
        MachineState::Stopping,
        MachineState::Stopped,
        MachineState::Suspended,
        MachineState::Failed,
        MachineState::Destroyed,
    ]);
    let loads = prop::sample::select(vec![BelowSoft, BelowHard, AtHard]);
    let nodes = prop::sample::select(NODES.to_vec());
    (nodes, states, loads, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        move |(node, state, load, healthy, cordoned, autostart, wrong_port)| Spec {
            id,
            node,
            state,
            load,
            healthy,
            cordoned,
            autostart,
            port: if wrong_port { 5000 } else { 80 },
        },
    )
}

fn any_machines() -> impl Strategy<Value = Vec<Spec>> {
    (0..8_u64).prop_flat_map(|count| (0..count).map(any_machine).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn what_is_chosen_may_be_used(specs in any_machines(), excluded in prop::collection::vec(0..8_u64, 0..4)) {
        let mut world = world(&specs);
        world.excluded = excluded.iter().map(|id| MachineId::from_random(*id)).collect();
        if let Some((id, start)) = world.chosen() {
            let spec = specs.iter().find(|spec| spec.id == id).unwrap();
            prop_assert!(!excluded.contains(&id));
            prop_assert!(spec.port == 80 && !spec.cordoned);
            prop_assert!(spec.node != "ord1" && spec.node != "syd1");
            prop_assert!(start == (spec.state != MachineState::Started));
            let fit = if start { spec.autostart } else { spec.healthy && spec.load != AtHard };
            prop_assert!(fit);
        }
    }

    #[test]
    fn nothing_usable_is_overlooked(specs in any_machines()) {
        let world = world(&specs);
        let usable = specs.iter().any(|spec| {
            spec.port == 80 && !spec.cordoned && spec.node != "ord1" && spec.node != "syd1"
                && match spec.state {
                    MachineState::Started => spec.healthy && spec.load != AtHard,
                    MachineState::Starting | MachineState::Stopping | MachineState::Stopped | MachineState::Suspended => {
                        spec.autostart
                    }
                    _ => false,
                }
        });
        prop_assert_eq!(world.chosen().is_some(), usable);
    }

    /// Adding a machine in a farther region changes nothing for those who are served nearer.
    #[test]
    fn farther_regions_do_not_matter_while_a_nearer_one_serves(specs in any_machines()) {
        let near: Vec<Spec> = specs.iter().filter(|spec| spec.node != "nrt1").cloned().collect();
        if let Some(chosen) = world(&near).chosen() {
            prop_assert_eq!(world(&specs).chosen(), Some(chosen));
        }
    }
}
