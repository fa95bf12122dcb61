//! Public zones over real sockets: `dig` and `delv` as resolvers, Knot as a secondary. Needs root, for
//! networks of their own, and Debian's `knot` and `bind9-dnsutils`.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use atoll_catalogue::Snapshot;
use atoll_dns::internal::Here;
use atoll_dns::public::{self, Kind, NameServer, Places, Public, Signer, View, Zone};
use atoll_dns::serve::Allowance;
use atoll_dns::wire::Name;
use atoll_model::Row;
use atoll_model::address::NetworkId;
use atoll_model::reach::Reachability;
use atoll_model::row::{AppRow, ChallengeRow, NodeRow, NodeState};
use support::{Knot, Served, dig, on_a_host, run, short, until};
use tokio_util::sync::CancellationToken;

const ADDRESSES: &[&str] = &["192.0.2.53/32", "198.51.100.7/32"];
const SERVER: &str = "@192.0.2.53";

fn view(apps: &[&str], challenges: &[(&str, &str)]) -> View {
    let app = |name: &&str| {
        Row::App(AppRow {
            name: name.parse().unwrap(),
            org: "acme".parse().unwrap(),
            network: NetworkId(1),
            primary_region: None,
            hostnames: if *name == "web" { vec!["*.wild.apps.test".into()] } else { Vec::new() },
            addresses: Vec::new(),
            shared_addresses: Vec::new(),
            local_addresses: Vec::new(),
        })
    };
    let node = |name: &str, address: &str| {
        Row::Node(NodeRow {
            name: name.parse().unwrap(),
            region: name[..3].parse().unwrap(),
            state: NodeState::Active,
            epoch: 1,
            backhaul: None,
            worker_rpc: None,
            public_addresses: vec![address.parse().unwrap(), format!("2001:db8::{}", &name[3..]).parse().unwrap()],
            egress_addresses: Vec::new(),
            mesh: None,
            gateway: None,
            zones: Vec::new(),
        })
    };
    let challenge = |(host, value): &(&str, &str)| {
        Row::Challenge(ChallengeRow { host: (*host).into(), values: vec![value.to_string()] })
    };
    let rows = apps.iter().map(app).chain([node("ams1", "192.0.2.1"), node("nrt2", "192.0.2.2")]);
    let rows = rows.chain(challenges.iter().map(challenge));
    let here = Here { node: "ams1".parse().unwrap(), region: "ams".parse().unwrap() };
    let places = Places::parse("198.51.100.0/24,nrt\n203.0.113.0/24,nrt\n").unwrap();
    View::new(Snapshot::from_rows(rows), &Reachability::default(), &here, [].into(), Arc::new(places))
}

fn zone() -> Zone {
    let servers =
        vec![NameServer { name: "ns1.apps.test".parse().unwrap(), addresses: vec!["192.0.2.53".parse().unwrap()] }];
    Zone::new("apps.test".parse().unwrap(), Kind::AppDomain, servers, 1).unwrap()
}

fn serve(zone: Zone, view: View) -> (Arc<Public>, Served) {
    let public = Arc::new(Public::new([zone], view));
    let served = Served::new("192.0.2.53:53".parse().unwrap(), public.clone(), Allowance::PUBLIC);
    (public, served)
}

#[test]
fn users_find_apps_at_the_nearest_edge() {
    on_a_host(ADDRESSES, || async {
        let (public, _served) = serve(zone(), view(&["web"], &[("web.apps.test", "proof")]));
        assert_eq!(short(&format!("{SERVER} web.apps.test A")).await, ["192.0.2.1"]);
        assert_eq!(short(&format!("{SERVER} WEB.Apps.Test AAAA")).await, ["2001:db8::1"]);
        assert_eq!(short(&format!("-b 198.51.100.7 {SERVER} web.apps.test A")).await, ["192.0.2.2"]);
        let told = dig(&format!("{SERVER} +subnet=203.0.113.0/24 web.apps.test A")).await;
        assert!(told.contains("192.0.2.2") && told.contains("CLIENT-SUBNET: 203.0.113.0/24/24"), "{told}");
        assert_eq!(short(&format!("{SERVER} _acme-challenge.web.apps.test TXT")).await, ["\"proof\""]);
        assert_eq!(short(&format!("{SERVER} +tcp x.wild.apps.test A")).await, ["192.0.2.1"]);
        assert_eq!(short(&format!("{SERVER} apps.test NS")).await, ["ns1.apps.test."]);
        assert!(dig(&format!("{SERVER} none.apps.test A")).await.contains("status: NXDOMAIN"));
        assert!(dig(&format!("{SERVER} elsewhere.test A")).await.contains("status: REFUSED"));
        public.publish(view(&["web", "new"], &[]));
        assert_eq!(short(&format!("{SERVER} new.apps.test A")).await, ["192.0.2.1"]);
    });
}

#[test]
fn a_validating_resolver_believes_what_is_and_what_is_not() {
    on_a_host(ADDRESSES, || async {
        let origin: Name = "apps.test".parse().unwrap();
        let signer = Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap();
        let delegation = signer.delegation(&origin);
        let mut fields = delegation.splitn(4, ' ');
        let mut field = || fields.next().unwrap();
        let anchor =
            format!("trust-anchors {{ apps.test. static-ds {} {} {} \"{}\"; }};\n", field(), field(), field(), field());
        let folder = tempfile::tempdir().unwrap();
        let anchors = folder.path().join("anchors");
        std::fs::write(&anchors, anchor).unwrap();
        let (_public, _served) = serve(zone().signed(signer), view(&["web"], &[("web.apps.test", "proof")]));
        let delv = async |question: &str| {
            run("delv", &format!("{SERVER} -a {} +root=apps.test {question}", anchors.display())).await
        };
        for question in [
            "web.apps.test A",
            "web.apps.test AAAA",
            "_acme-challenge.web.apps.test TXT",
            "x.wild.apps.test A",
            "apps.test SOA",
            "apps.test NS",
            "apps.test DNSKEY",
        ] {
            let said = delv(question).await;
            assert!(said.starts_with("; fully validated"), "{question}: {said}");
        }
        for question in ["none.apps.test A", "web.apps.test MX", "a.b.web.apps.test A", "wild.apps.test A"] {
            let said = delv(question).await;
            assert!(said.contains("; negative response, fully validated"), "{question}: {said}");
        }
    });
}

#[test]
fn a_secondary_follows_and_goes_on_alone() {
    on_a_host(ADDRESSES, || async {
        let signer = Signer::from_pkcs8(&Signer::generate().unwrap()).unwrap();
        let secondary: SocketAddr = "127.0.0.1:5300".parse().unwrap();
        // Transfers are asked for from the address of the way to the primary.
        let second_face: SocketAddr = "192.0.2.53:5300".parse().unwrap();
        let zone = zone().signed(signer).secondaries(vec![secondary, second_face]);
        let (public, served) = serve(zone, view(&["web", "old"], &[]));
        let stop = CancellationToken::new();
        let following = tokio::spawn(public::follow(public.clone(), stop.clone()));

        let folder = tempfile::tempdir().unwrap();
        // The secondary checks every signature and the chain of names before it takes the zone.
        let configuration = format!(
            "remote:\n  - id: primary\n    address: 192.0.2.53@53\nacl:\n  - id: told\n    address: [127.0.0.1, 192.0.2.53]\n    \
             action: notify\nzone:\n  - domain: apps.test\n    storage: {}\n    master: primary\n    acl: told\n    \
             dnssec-validation: on\n",
            folder.path().display()
        );
        let knot = Knot::start(folder.path(), &configuration).await;
        let of_secondary = async |question: &str| {
            let asked = format!("+short +tries=1 +time=2 -p 5300 @127.0.0.1 {question}");
            let said = tokio::process::Command::new("dig").args(asked.split(' ')).output().await.unwrap();
            String::from_utf8(said.stdout).unwrap()
        };
        until("the secondary has the zone", async || {
            let mut addresses: Vec<String> = of_secondary("old.apps.test A").await.lines().map(str::to_owned).collect();
            addresses.sort();
            (addresses == ["192.0.2.1", "192.0.2.2"]).then_some(())
        })
        .await;
        assert!(dig("-p 5300 @127.0.0.1 +dnssec y.wild.apps.test A").await.contains("RRSIG"));

        public.publish(view(&["web", "new"], &[("web.apps.test", "proof")]));
        until("the secondary was told of a change", async || {
            let new = of_secondary("new.apps.test AAAA").await.contains("2001:db8::1");
            let challenge = of_secondary("_acme-challenge.web.apps.test TXT").await.contains("proof");
            let gone = of_secondary("old.apps.test A").await.is_empty();
            (new && challenge && gone).then_some(())
        })
        .await;

        let refused = dig(&format!("-b 198.51.100.7 {SERVER} apps.test AXFR")).await;
        assert!(refused.contains("Transfer failed"), "{refused}");
        stop.cancel();
        following.await.unwrap();
        drop(served);
        assert!(of_secondary("web.apps.test A").await.contains("192.0.2.1"), "the secondary alone");
        knot.kill().await;
    });
}
