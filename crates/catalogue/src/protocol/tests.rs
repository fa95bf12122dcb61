//! Behaviour at the seams that the simulation passes rarely or judges only as a whole.

use std::sync::Arc;
use std::time::Duration;

use atoll_model::address::NetworkId;
use atoll_model::row::{AppRow, InvalidRow, MachineRow, NodeRow, NodeState};
use atoll_model::{MachineId, MachineState, MachineVersion, NodeName, Owner, Row, RowKey, RowVersion};
use bytes::Bytes;

use super::barrier::{Book, HubId, Roster, Target};
use super::hub::{SessionId, Standing};
use super::lease::{EdgeLease, LEASE_TERM, counted_for};
use super::message::{Ack, Base, Part, Write};
use super::replica::{AskAgain, Outcome};
use super::series::Session;
use super::*;

const PATH: PathId = PathId(1);

fn app(name: &str, hostname: &str) -> Row {
    Row::App(AppRow {
        name: name.parse().unwrap(),
        org: "acme".parse().unwrap(),
        network: NetworkId(1),
        primary_region: None,
        hostnames: vec![hostname.into()],
        addresses: Vec::new(),
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    })
}

fn node(name: &str, epoch: u64, state: NodeState) -> Row {
    let (backhaul, worker_rpc) = (None, None);
    Row::Node(NodeRow {
        name: name.parse().unwrap(),
        region: "ams".parse().unwrap(),
        state,
        epoch,
        backhaul,
        worker_rpc,
        public_addresses: Vec::new(),
        egress_addresses: Vec::new(),
        mesh: None,
        gateway: None,
        zones: Vec::new(),
    })
}

fn machine(id: u64, node: &str, version: u64) -> Row {
    Row::Machine(MachineRow {
        id: MachineId::from_random(id),
        app: "web".parse().unwrap(),
        network: NetworkId(1),
        node: node.parse().unwrap(),
        region: "ams".parse().unwrap(),
        version: MachineVersion::from_parts(version, 0),
        state: MachineState::Started,
        cordoned: false,
        private_ipv4: [172, 19, 0, 2].into(),
        private_ipv6: "fdaa:0:1::2".parse().unwrap(),
        process_group: String::new(),
        services: Arc::new([]),
        changed_at_ms: 0,
        metadata: Default::default(),
        skip_dns: false,
    })
}

fn owner(name: &str) -> Owner {
    Owner::Node(name.parse().unwrap())
}

fn part_of(owner: &Owner, epoch: u64, base: Base, writes: Vec<Write>, through: u64) -> Part {
    Part { owner: owner.clone(), epoch, base, index: 0, writes, through: Some(through) }
}

fn write(row: &Row, sequence: u64) -> Write {
    Write { key: row.key(), sequence, body: Some(row.encode().into()) }
}

/// Everything a session has to send, given to the replica.
fn feed(replica: &mut Replica, session: &mut Session, log: &OwnerLog) -> Vec<Outcome> {
    std::iter::from_fn(|| session.next(log)).map(|part| replica.receive(PATH, part)).collect()
}

fn node_at(replica: &Replica, id: u64) -> Option<String> {
    replica.view().machine(&MachineId::from_random(id)).map(|row| row.node.to_string())
}

#[test]
fn parts_that_come_twice_late_or_over_a_gap_change_nothing() {
    let (mut replica, from) = (Replica::default(), owner("ams1"));
    let first = part_of(&from, 1, Base::Nothing, vec![write(&machine(1, "ams1", 1), 5)], 5);
    let second = part_of(&from, 1, Base::Sequence(5), vec![write(&machine(2, "ams1", 1), 6)], 6);
    let third = part_of(&from, 1, Base::Sequence(6), vec![write(&machine(3, "ams1", 1), 7)], 7);

    assert!(replica.receive(PATH, first.clone()).moved);
    assert_eq!(replica.receive(PATH, third.clone()).ask_again, AskAgain::ThisPath);
    assert!(replica.receive(PathId(2), second.clone()).moved);
    for old in [first, second] {
        let outcome = replica.receive(PATH, old);
        assert!(!outcome.moved && outcome.ask_again == AskAgain::No);
    }
    assert!(replica.receive(PATH, third).moved);
    assert_eq!(replica.view().machine_count(), 3);
    assert_eq!(replica.positions()[&from], RowVersion { epoch: 1, sequence: 7 });
}

#[test]
fn writes_whose_numbers_do_not_rise_are_a_gap() {
    let writes = vec![write(&machine(1, "ams1", 1), 6), write(&machine(2, "ams1", 1), 6)];
    let mut replica = Replica::default();
    let outcome = replica.receive(PATH, part_of(&owner("ams1"), 1, Base::Nothing, writes, 6));
    assert_eq!(outcome.ask_again, AskAgain::ThisPath);
    assert!(replica.positions().is_empty());
}

#[test]
fn a_bad_row_is_refused_alone_and_the_last_good_value_stays() {
    let (mut replica, control) = (Replica::default(), Owner::Control);
    let good = app("web", "good.example");
    replica.receive(PATH, part_of(&control, 1, Base::Nothing, vec![write(&good, 1)], 1));

    let mut cut_short = write(&good, 2);
    cut_short.body = Some(Bytes::from_static(b"{\"kind\":\"app\""));
    let foreign = write(&machine(1, "ams1", 1), 4);
    let writes = vec![cut_short, write(&app("odd", "no host!"), 3), foreign, write(&app("new", "n.example"), 5)];
    let outcome = replica.receive(PATH, part_of(&control, 1, Base::Sequence(1), writes, 5));

    let labels: Vec<_> = outcome.refused.iter().map(Refusal::label).collect();
    assert_eq!(labels, ["unreadable", "nonsense", "wrong_owner"]);
    assert!(replica.view().app_by_hostname("good.example").is_some());
    assert!(replica.view().app_by_hostname("n.example").is_some());
    assert_eq!(replica.refused_rows().count(), 3);
    assert_eq!(replica.refusal_counts()["nonsense"], 1);

    let mended = part_of(&control, 1, Base::Sequence(5), vec![write(&app("web", "better.example"), 6)], 6);
    replica.receive(PATH, mended);
    assert_eq!(replica.refused_rows().count(), 2);
    assert!(replica.view().app_by_hostname("better.example").is_some());
}

#[test]
fn what_a_full_series_does_not_name_is_gone() {
    let (mut replica, from) = (Replica::default(), owner("ams1"));
    let both = vec![write(&machine(1, "ams1", 1), 1), write(&machine(2, "ams1", 1), 2)];
    replica.receive(PATH, part_of(&from, 1, Base::Nothing, both, 2));
    let outcome = replica.receive(PATH, part_of(&from, 2, Base::Nothing, vec![write(&machine(2, "ams1", 1), 1)], 1));
    assert_eq!(outcome.changed.len(), 2);
    assert_eq!((node_at(&replica, 1), replica.view().machine_count()), (None, 1));
}

#[test]
fn fenced_and_revoked_nodes_rows_are_dropped_and_turned_away() {
    for fence in [node("ams1", 2, NodeState::Active), node("ams1", 1, NodeState::Revoked)] {
        let (mut replica, from) = (Replica::default(), owner("ams1"));
        let rows = part_of(&from, 1, Base::Nothing, vec![write(&machine(1, "ams1", 1), 1)], 1);
        let admitted = vec![write(&node("ams1", 1, NodeState::Active), 1)];
        replica.receive(PATH, part_of(&Owner::Control, 1, Base::Nothing, admitted, 1));
        replica.receive(PATH, rows.clone());
        assert!(node_at(&replica, 1).is_some());

        replica.receive(PATH, part_of(&Owner::Control, 1, Base::Sequence(1), vec![write(&fence, 2)], 2));
        assert_eq!(node_at(&replica, 1), None);
        assert!(!replica.receive(PATH, rows).moved);
    }
}

#[test]
fn a_node_that_control_admits_later_is_asked_for_again() {
    let mut replica = Replica::default();
    replica.receive(PATH, part_of(&Owner::Control, 1, Base::Nothing, Vec::new(), 1));
    let rows = part_of(&owner("new"), 1, Base::Nothing, vec![write(&machine(1, "new", 1), 1)], 1);
    assert!(!replica.receive(PATH, rows).moved);
    let admits = vec![write(&node("new", 1, NodeState::Active), 2)];
    let outcome = replica.receive(PATH, part_of(&Owner::Control, 1, Base::Sequence(1), admits, 2));
    assert_eq!(outcome.ask_again, AskAgain::AllPaths);
}

#[test]
fn a_machine_claimed_by_two_nodes_is_where_its_newest_version_is_in_any_order() {
    let old = part_of(&owner("ams1"), 1, Base::Nothing, vec![write(&machine(1, "ams1", 1), 1)], 1);
    let new = part_of(&owner("nrt1"), 1, Base::Nothing, vec![write(&machine(1, "nrt1", 2), 1)], 1);
    for parts in [[old.clone(), new.clone()], [new, old]] {
        let mut replica = Replica::default();
        for part in parts {
            replica.receive(PATH, part);
        }
        assert_eq!(node_at(&replica, 1).as_deref(), Some("nrt1"));

        let restored = Replica::restore(replica.save().by_owner());
        for mut replica in [replica, restored] {
            let key = machine(1, "nrt1", 2).key();
            let gone = vec![Write { key, sequence: 2, body: None }];
            replica.receive(PATH, part_of(&owner("nrt1"), 1, Base::Sequence(1), gone, 2));
            assert_eq!(node_at(&replica, 1).as_deref(), Some("ams1"));
        }
    }
}

#[test]
fn a_watcher_behind_forgotten_deletes_gets_everything_anew() {
    let mut log = OwnerLog::new(owner("ams1"), 1);
    log.put(&machine(0, "ams1", 1)).unwrap();
    let (mut replica, mut session) = (Replica::default(), Session::default());
    feed(&mut replica, &mut session, &log);
    log.delete(&machine(0, "ams1", 1).key());
    for id in 1..=10_001 {
        log.put(&machine(id, "ams1", 1)).unwrap();
        log.delete(&machine(id, "ams1", 1).key());
    }
    let part = session.next(&log).unwrap();
    assert_eq!(part.base, Base::Nothing);
    replica.receive(PATH, part);
    feed(&mut replica, &mut session, &log);
    assert_eq!(replica.view().machine_count(), 0);
    assert_eq!(replica.positions()[&owner("ams1")], log.log().position());
}

#[test]
fn rows_written_during_a_long_series_are_part_of_it() {
    let mut log = OwnerLog::new(owner("ams1"), 1);
    for id in 0..2_000 {
        log.put(&machine(id, "ams1", 1)).unwrap();
    }
    let (mut replica, mut session) = (Replica::default(), Session::default());
    let first = session.next(&log).unwrap();
    assert_eq!(first.through, None);
    replica.receive(PATH, first);
    // One row that was sent and one that was not.
    log.delete(&machine(0, "ams1", 1).key());
    log.put(&machine(1_999, "ams1", 2)).unwrap();
    let outcomes = feed(&mut replica, &mut session, &log);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.moved).count(), 1);
    assert_eq!(replica.view().machine_count(), 1_999);
    let last = replica.view().machine(&MachineId::from_random(1_999)).unwrap();
    assert_eq!(last.version, MachineVersion::from_parts(2, 0));
}

#[test]
fn an_owner_publishes_only_its_own_rows_and_unchanged_ones_keep_their_version() {
    let mut log = OwnerLog::resume(owner("ams1"), 4, 100);
    let version = log.put(&machine(1, "ams1", 1)).unwrap();
    assert_eq!(version, RowVersion { epoch: 4, sequence: 101 });
    assert_eq!(log.put(&machine(1, "ams1", 1)).unwrap(), version);
    assert!(matches!(log.put(&machine(1, "nrt1", 1)), Err(InvalidRow::WrongOwner { .. })));
    assert_eq!(log.delete(&machine(2, "ams1", 1).key()), None);
    assert!(log.is_behind(RowVersion { epoch: 4, sequence: 102 }));
}

#[test]
fn a_resumed_log_leads_on_who_has_seen_its_last_number() {
    let mut log = OwnerLog::resume(Owner::Control, 1, 9);
    log.restore(&app("web", "a.example"), 7).unwrap();
    let seen = |sequence| Session::new([(Owner::Control, RowVersion { epoch: 1, sequence })].into());
    assert_eq!(seen(9).next(&log), None);
    assert_eq!(seen(8).next(&log).unwrap().base, Base::Nothing);
    log.put_at(12, &app("web", "b.example").key(), None).unwrap();
    let part = seen(9).next(&log).unwrap();
    assert_eq!((part.base, part.through), (Base::Sequence(9), Some(12)));
}

/// A hub with one row of control, and the barrier on it.
fn hub_with_row() -> (Hub, Target) {
    let mut hub = Hub::default();
    let row = app("web", "a.example");
    hub.receive(PATH, part_of(&Owner::Control, 1, Base::Nothing, vec![write(&row, 3)], 3));
    hub.registered(Duration::ZERO, &Positions::new());
    let version = RowVersion { epoch: 1, sequence: 3 };
    (hub, Target { key: row.key(), owner: Owner::Control, version })
}

fn ack(sequence: u64, refused: Vec<RowKey>) -> Ack {
    let positions = [(Owner::Control, RowVersion { epoch: 1, sequence })].into();
    Ack { positions, refused, lease: Some(EdgeLease::request(Duration::ZERO)) }
}

#[test]
fn a_barrier_passes_when_every_leased_edge_acknowledged_or_ran_out() {
    let (mut hub, target) = hub_with_row();
    let (edge, session, now): (NodeName, _, _) = ("edge1".parse().unwrap(), SessionId(1), Duration::from_secs(1));
    hub.open(edge.clone(), session, Positions::new());
    assert!(hub.acknowledge(&edge, session, ack(2, Vec::new()), now).is_some());
    assert_eq!(hub.stand(&target, now), Standing::Waiting(vec![edge.clone()]));
    assert_eq!(hub.stand(&target, now + counted_for(LEASE_TERM)), Standing::Passed);

    // From then on a lease needs the row.
    assert!(hub.acknowledge(&edge, session, ack(2, Vec::new()), now).is_none());
    assert!(hub.acknowledge(&edge, session, ack(3, Vec::new()), now).is_some());
    assert_eq!(hub.stand(&target, now), Standing::Passed);
}

#[test]
fn an_edge_that_refused_the_row_does_not_pass_for_having_it() {
    let (mut hub, target) = hub_with_row();
    let (edge, session, now): (NodeName, _, _) = ("edge1".parse().unwrap(), SessionId(1), Duration::from_secs(1));
    hub.open(edge.clone(), session, Positions::new());
    hub.acknowledge(&edge, session, ack(3, vec![target.key.clone()]), now);
    assert_eq!(hub.stand(&target, now), Standing::Refused(vec![edge.clone()]));

    // A new stream has not said yet what it refuses.
    hub.open(edge.clone(), SessionId(2), [(Owner::Control, target.version)].into());
    assert_eq!(hub.stand(&target, now), Standing::Waiting(vec![edge]));
}

#[test]
fn a_hub_says_what_it_cannot_know() {
    let (mut hub, target) = hub_with_row();
    let ahead = Target { version: RowVersion { epoch: 1, sequence: 4 }, ..target.clone() };
    assert_eq!(hub.stand(&ahead, Duration::ZERO), Standing::NotHere);
    let fenced = Target { owner: owner("gone"), ..target };
    assert_eq!(hub.stand(&fenced, Duration::ZERO), Standing::Void);
}

#[test]
fn a_hub_grants_no_lease_beyond_its_registration() {
    let (mut hub, _) = hub_with_row();
    let (edge, session): (NodeName, _) = ("edge1".parse().unwrap(), SessionId(1));
    hub.open(edge.clone(), session, Positions::new());
    let late = Duration::from_secs(3);
    assert!(hub.acknowledge(&edge, session, ack(3, Vec::new()), late).is_none());
    hub.registered(late, &Positions::new());
    assert!(hub.acknowledge(&edge, session, ack(3, Vec::new()), late).is_some());
}

#[test]
fn an_edges_lease_ends_before_the_hub_stops_counting_on_it() {
    let mut lease = EdgeLease::default();
    let asked = Duration::from_secs(100);
    assert!(!lease.holds(asked));
    lease.granted(message::LeaseGrant { sent_at: asked, term: LEASE_TERM });
    assert!(lease.holds(asked + LEASE_TERM - Duration::from_millis(1)));
    assert!(!lease.holds(asked + LEASE_TERM));
    assert!(counted_for(LEASE_TERM) > LEASE_TERM);
}

#[test]
fn a_barrier_is_not_closed_over_the_head_of_a_hub_that_came_back() {
    let (_, target) = hub_with_row();
    let (mut book, mut roster) = (Book::default(), Roster::default());
    let (me, other) = (HubId(1), HubId(2));
    book.renew(me);
    book.renew(other);
    let id = barrier::BarrierId(1);
    book.open.push(barrier::OpenBarrier { id, target: target.clone(), passed: Vec::new() });
    book.pass(id, me);
    roster.observe(&book.hubs, Duration::ZERO);
    assert!(!book.close(id, &roster.gone(Duration::from_secs(1))));

    let later = Duration::from_secs(60);
    let mut gone = roster.gone(later);
    gone.retain(|(hub, _)| *hub == other);
    assert_eq!(gone, [(other, 0)]);
    book.renew(other);
    assert!(!book.close(id, &gone), "the other hub has renewed since it was judged gone");

    roster.observe(&book.hubs, later);
    roster.observe(&book.hubs, later * 2);
    assert!(book.close(id, &roster.gone(later * 2)));
    assert_eq!(book.closed[&target.owner], target.version);
}
