//! The private side over real sockets: `dig` at machines' addresses, Knot as the upstream resolver. Needs
//! root, for networks of their own, and Debian's `knot` and `bind9-dnsutils`.

mod support;

use std::sync::Arc;

use atoll_catalogue::Snapshot;
use atoll_dns::forward::Forwarder;
use atoll_dns::internal::{Here, Internal, Recursion, View};
use atoll_dns::serve::Allowance;
use atoll_model::address::{NetworkId, machine_address};
use atoll_model::row::{AppRow, MachineRow};
use atoll_model::{MachineId, MachineState, MachineVersion, Row};
use support::{Knot, Served, dig, on_a_host, short, until};

const ADDRESSES: &[&str] = &["fdaa::3/128", "fdaa:0:18:0:1:0:1:2/128", "fdaa:0:99:0:1:0:1:2/128", "2001:db8::7/128"];
const ACME: &str = "-b fdaa:0:18:0:1:0:1:2 @fdaa::3";
const OTHER: &str = "-b fdaa:0:99:0:1:0:1:2 @fdaa::3";

fn view(machines: u32) -> View {
    let network = NetworkId(0x18);
    let app = Row::App(AppRow {
        name: "web".parse().unwrap(),
        org: "acme".parse().unwrap(),
        network,
        primary_region: None,
        hostnames: Vec::new(),
        addresses: Vec::new(),
        shared_addresses: Vec::new(),
        local_addresses: Vec::new(),
    });
    let machine = |number: u32| {
        Row::Machine(MachineRow {
            id: MachineId::from_random(u64::from(number)),
            app: "web".parse().unwrap(),
            network,
            node: "ams1".parse().unwrap(),
            region: "ams".parse().unwrap(),
            version: MachineVersion::from_parts(1, 1),
            state: MachineState::Started,
            cordoned: false,
            private_ipv4: [172, 19, 0, 2].into(),
            private_ipv6: machine_address(network, 1, number),
            process_group: "app".into(),
            services: Arc::default(),
            changed_at_ms: 0,
            metadata: Arc::default(),
            skip_dns: false,
        })
    };
    View {
        catalogue: Snapshot::from_rows((1..=machines).map(machine).chain([app])),
        reach: Arc::default(),
        here: Here { node: "ams1".parse().unwrap(), region: "ams".parse().unwrap() },
        api: None,
    }
}

fn serve(machines: u32) -> (Arc<Internal>, Served) {
    serve_over(machines, Arc::new(Forwarder::new(Vec::new())))
}

fn serve_over(machines: u32, recursion: Arc<dyn Recursion>) -> (Arc<Internal>, Served) {
    let internal = Arc::new(Internal::new(view(machines), Some(recursion)));
    let served = Served::new("[fdaa::3]:53".parse().unwrap(), internal.clone(), Allowance::PRIVATE);
    (internal, served)
}

#[test]
fn machines_are_told_their_own_network_by_the_address_they_ask_from() {
    on_a_host(ADDRESSES, || async {
        let (internal, _served) = serve(2);
        let mut addresses = short(&format!("{ACME} web.internal AAAA")).await;
        addresses.sort();
        assert_eq!(addresses, ["fdaa:0:18:0:1:0:1:2", "fdaa:0:18:0:1:0:2:2"]);
        assert_eq!(short(&format!("{ACME} +tcp _apps.internal TXT")).await, ["\"web\""]);
        assert_eq!(short(&format!("{ACME} -x fdaa:0:18:0:1:0:2:2")).await, ["00000000000002.vm.web.internal."]);
        assert!(dig(&format!("{OTHER} web.internal AAAA")).await.contains("status: NXDOMAIN"));
        assert!(dig(&format!("{ACME} web.internal A")).await.contains("status: NOERROR"));
        assert!(dig("-b 2001:db8::7 @fdaa::3 web.internal AAAA").await.contains("status: REFUSED"));

        // What changes is told at once: there is no cache in between.
        internal.publish(view(1));
        assert_eq!(short(&format!("{ACME} web.internal AAAA")).await, ["fdaa:0:18:0:1:0:1:2"]);
    });
}

#[test]
fn more_machines_than_fit_a_packet_are_asked_for_over_tcp() {
    on_a_host(ADDRESSES, || async {
        let (_internal, _served) = serve(300);
        assert_eq!(short(&format!("{ACME} web.internal AAAA")).await.len(), 300);
        let cut = dig(&format!("{ACME} +ignore +bufsize=512 web.internal AAAA")).await;
        let size = cut.lines().find_map(|line| line.strip_prefix(";; MSG SIZE  rcvd: ")?.parse::<usize>().ok());
        assert!(cut.contains(" tc") && size.is_some_and(|size| (480..=512).contains(&size)), "{cut}");
    });
}

const ZONE: &str = "\
$ORIGIN up.test.
@ 1 SOA ns hostmaster 1 60 60 60 1
@ 1 NS ns
ns 1 A 127.0.0.1
www 1 A 192.0.2.80
kept 600 AAAA 2001:db8::80
mail 1 MX 10 www
";

#[test]
fn the_world_s_names_are_cached_and_outlive_their_servers() {
    on_a_host(ADDRESSES, || async {
        let folder = tempfile::tempdir().unwrap();
        let long: String = (0..40).map(|number| format!("long 1 TXT \"{number} {}\"\n", "x".repeat(80))).collect();
        std::fs::write(folder.path().join("up.test.zone"), format!("{ZONE}{long}")).unwrap();
        let zone = format!("zone:\n  - domain: up.test\n    storage: {}\n", folder.path().display());
        let knot = Knot::start(folder.path(), &zone).await;
        let (nobody, upstream) = ("127.0.0.1:5301".parse().unwrap(), "127.0.0.1:5300".parse().unwrap());
        let forwarder = Arc::new(Forwarder::new(vec![nobody]));
        let (_internal, _served) = serve_over(1, forwarder.clone());
        assert!(dig(&format!("{ACME} www.up.test A")).await.contains("status: SERVFAIL"));
        forwarder.set_upstreams(vec![nobody, upstream]);

        assert_eq!(short(&format!("{ACME} www.up.test A")).await, ["192.0.2.80"]);
        assert_eq!(short(&format!("{ACME} mail.up.test MX")).await, ["10 www.up.test."], "types unknown here");
        assert_eq!(short(&format!("{ACME} kept.up.test AAAA")).await, ["2001:db8::80"]);
        assert_eq!(short(&format!("{ACME} long.up.test TXT")).await.len(), 40, "over TCP on both sides");
        assert!(dig(&format!("{ACME} none.up.test A")).await.contains("status: NXDOMAIN"));

        knot.kill().await;
        assert_eq!(short(&format!("{ACME} kept.up.test AAAA")).await, ["2001:db8::80"]);
        until("what has expired is given with a short life", async || {
            let answer = dig(&format!("{ACME} www.up.test A")).await;
            assert!(answer.contains("192.0.2.80"), "{answer}");
            answer.lines().any(|line| line.starts_with("www.up.test.") && line.contains("\t30\t")).then_some(())
        })
        .await;
        assert!(dig(&format!("{ACME} never.up.test A")).await.contains("status: SERVFAIL"));
        assert_eq!(short(&format!("{ACME} web.internal AAAA")).await.len(), 1, "own names need nobody");
    });
}

#[test]
fn who_asks_too_much_is_slowed_and_others_are_not() {
    on_a_host(ADDRESSES, || async {
        let internal: Arc<Internal> = Arc::new(Internal::new(view(1), None));
        let few = Allowance { per_second: 1, burst: 3, ipv4_prefix: 32, ipv6_prefix: 112 };
        let _served = Served::new("[fdaa::3]:53".parse().unwrap(), internal, few);
        for _ in 0..3 {
            assert!(!dig(&format!("{ACME} +ignore web.internal AAAA")).await.contains(" tc"));
        }
        until("an answer that says to use TCP", async || {
            let asked = tokio::process::Command::new("dig")
                .args("+tries=1 +time=1 +ignore -b fdaa:0:18:0:1:0:1:2 @fdaa::3 web.internal AAAA".split(' '))
                .output();
            let answer = String::from_utf8(asked.await.unwrap().stdout).unwrap();
            answer.lines().any(|line| line.contains("flags:") && line.contains(" tc")).then_some(())
        })
        .await;
        assert!(!dig(&format!("{OTHER} web.internal AAAA")).await.contains(" tc"));
        assert_eq!(short(&format!("{ACME} +tcp web.internal AAAA")).await.len(), 1);
    });
}
