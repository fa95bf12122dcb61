//! Every metric there is. `docs/metrics.md` shows this list to operators; a test compares the two.

use super::{Kind, Metric};

macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $constant: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*

        /// All of them, in the order of the documentation.
        pub static ALL: &[&Metric] = &[$(&$constant),*];
    };
}

metrics! {
    PROCESS_START = Gauge "atoll_process_start_time_seconds" [] "When the process started, in Unix seconds.";
    PROCESS_MEMORY = Gauge "atoll_process_resident_bytes" [] "Memory of the process that is in RAM, in bytes.";
    PROCESS_INFO = Gauge "atoll_process_version" ["version"] "Always 1; the label says which program runs.";
    RESTARTS = Counter "atoll_supervisor_restarts" ["role"] "Times a process of this server ended and was started again.";

    CATALOGUE_REFUSED = Counter "atoll_catalogue_refused_rows" ["reason"] "Catalogue rows that were refused, each by itself; the log names them.";
    CATALOGUE_LEASED = Gauge "atoll_catalogue_leased" [] "1 while control counts on this process's copy of the catalogue being up to date.";
    CATALOGUE_AGE = Gauge "atoll_catalogue_hub_silence_seconds" [] "Time since the catalogue's hub was heard last, in seconds.";
    CATALOGUE_MACHINES = Gauge "atoll_catalogue_machines" ["state"] "Machines in this process's copy of the catalogue.";
    CATALOGUE_NODES = Gauge "atoll_catalogue_nodes" ["state"] "Nodes in this process's copy of the catalogue.";

    EDGE_RESPONSES = Counter "atoll_edge_responses" ["class"] "Answered requests by class of status: 1xx to 5xx.";
    EDGE_FIRST_BYTE = Histogram "atoll_edge_first_byte_seconds" [] "From a request's headers to its answer's, in seconds.";
    EDGE_CONNECTIONS = Counter "atoll_edge_connections" [] "Connections accepted, of clients and other edges.";
    EDGE_OPEN = Gauge "atoll_edge_open_connections" [] "Connections and tunnels that are open now.";
    EDGE_TLS_FAILURES = Counter "atoll_edge_tls_failures" [] "Handshakes of clients that failed.";
    EDGE_FAILURES = Counter "atoll_edge_failures" ["code"] "Requests and connections that the edge answered or closed itself, by the code in the answer.";
    EDGE_RETRIES = Counter "atoll_edge_retries" [] "Attempts at a machine beyond a request's first.";
    EDGE_BOUNCES = Counter "atoll_edge_bounces" [] "Requests of other edges that were sent back untouched.";
    EDGE_HELD = Counter "atoll_edge_held_requests" [] "Requests that had to wait for a machine.";
    EDGE_WAKES = Counter "atoll_edge_wakes" [] "Machines this edge asked its worker to start.";
    EDGE_WAKE_FAILURES = Counter "atoll_edge_wake_failures" [] "Of these, how many did not start.";
    EDGE_WAKE_SECONDS = Histogram "atoll_edge_wake_seconds" [] "How long those that started took until their port accepted, in seconds.";
    EDGE_IDLE_STOPS = Counter "atoll_edge_idle_stops" [] "Machines that were stopped or suspended because nobody asked for them.";
    EDGE_BYTES = Counter "atoll_edge_bytes" ["way"] "Bytes of bodies and upgraded connections, both ways, by how far the machine was.";
    EDGE_REPLAY_OVERFLOWS = Counter "atoll_edge_replay_overflows" [] "Requests whose body outgrew what may be kept for a retry.";
    EDGE_FOREIGN_PEERS = Counter "atoll_edge_foreign_peers" [] "Connections between edges that were refused for the peer's identity.";
    EDGE_LOG_DROPPED = Counter "atoll_edge_access_log_dropped" [] "Lines of the access log that were lost because it could not be written fast enough.";

    WORKER_MACHINES = Gauge "atoll_worker_machines" ["state"] "Machines of this node by state, as its worker knows them.";
    WORKER_PROMISED = Gauge "atoll_worker_promised_bytes" [] "Memory promised to machines of this node, in bytes.";
    WORKER_COLLECTIONS = Counter "atoll_worker_image_collections" ["outcome"] "Times this node looked for images that no machine needs.";
    WORKER_IMAGES_FREED = Counter "atoll_worker_images_freed_bytes" [] "What these images held, packed and unpacked, in bytes.";
    WORKER_IMAGES_FREE = Gauge "atoll_worker_images_disk_free_ratio" [] "Share of the images' disk that was free at the last look.";
    WORKER_TRAFFIC = Counter "atoll_worker_network_bytes" ["class", "direction"] "Bytes that machines exchanged with others than this node itself, by how far these were.";

    MESH_UP = Gauge "atoll_mesh_up" [] "1 while this server carries packets to and from others.";
    MESH_SERVERS = Gauge "atoll_mesh_servers" ["state"] "Other servers by whether they answer probes through the mesh.";
    MESH_BYTES = Counter "atoll_mesh_bytes" ["way"] "Bytes on the wire between servers, as its present peers count them.";
    MESH_DROPPED = Counter "atoll_mesh_dropped" ["reason"] "Packets and datagrams that went no further; the kernel's WireGuard does not tell.";
    MESH_RELAYED = Gauge "atoll_mesh_relayed" [] "Other servers to which packets go over a third one.";
    MESH_RELAY_PAIRS = Gauge "atoll_mesh_relay_pairs" [] "Pairs of other servers for which this one relays.";
    MESH_RELAY_BYTES = Counter "atoll_mesh_relay_bytes" [] "Bytes relayed for other servers.";
    MESH_RELAY_DROPPED = Counter "atoll_mesh_relay_dropped" ["reason"] "Bursts of datagrams at the relay's ports that were not passed on: of strangers or of something else, or not taken by the network.";
    MESH_RESUMED = Counter "atoll_mesh_resumption_packets" ["way"] "Packets that travelled before a session was agreed on, and their answers.";
    MESH_RESUMPTION_REFUSED = Counter "atoll_mesh_resumption_refused" ["reason"] "Datagrams on the port of resumption that were dropped, as the initiator or as the responder.";
    MESH_TICKETS = Gauge "atoll_mesh_resumption_tickets" [] "Tickets of other servers that are on disk for the next start.";

    DNS_ANSWERS = Counter "atoll_dns_answers" ["names", "code"] "Answers that needed nobody else, of the private network's names or the public ones, by code.";
    DNS_RECURSIONS = Counter "atoll_dns_recursions" ["names"] "Questions for which upstream resolvers were asked.";
    DNS_LIMITED = Counter "atoll_dns_limited" ["names", "how"] "Questions beyond an allowance or what may be outstanding, by what became of them.";
    DNS_CONNECTIONS = Counter "atoll_dns_connections" ["names"] "Connections accepted for questions over TCP.";

    STORE_READ = Histogram "atoll_store_read_seconds" [] "How long reading transactions on control's records took, repeats included, in seconds.";
    STORE_WRITE = Histogram "atoll_store_write_seconds" [] "The same of writing transactions.";
    STORE_RETRIES = Counter "atoll_store_retries" [] "Transactions that ran again because another one was in the way.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_once_and_follow_the_conventions() {
        for (index, metric) in ALL.iter().enumerate() {
            assert!(!ALL[..index].contains(metric), "{} is there twice", metric.name);
            assert!(metric.name.starts_with("atoll_") && !metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            if metric.kind == Kind::Histogram {
                assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
            }
        }
    }

    #[test]
    fn the_documentation_lists_exactly_these() {
        let text = include_str!("../../../../docs/metrics.md");
        let documented: Vec<&str> = text.lines().filter(|line| line.starts_with("| `atoll_")).collect();
        let row = |metric: &&Metric| {
            let (name, kind) = match metric.kind {
                Kind::Counter => (format!("{}_total", metric.name), "counter"),
                Kind::Gauge => (metric.name.to_owned(), "gauge"),
                Kind::Histogram => (metric.name.to_owned(), "histogram"),
            };
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{name}` | {kind} | {} | {} |", labels.join(", "), metric.help)
        };
        let expected: Vec<String> = ALL.iter().map(row).collect();
        assert_eq!(documented, expected, "docs/metrics.md should read:\n{}", expected.join("\n"));
    }
}
