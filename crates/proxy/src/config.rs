//! What an edge is told once, at its start. Every field has its unit and default here.

use std::time::Duration;

use atoll_model::{NodeName, RegionCode};

/// Settings of one edge process.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// The node this edge runs on.
    pub node: NodeName,
    pub region: RegionCode,
    /// `<app>.<app_domain>` is every app's first host name. Lower case, without a leading dot.
    pub app_domain: String,
    /// Single-threaded runtimes that serve traffic. Default: the machine's cores.
    pub cores: usize,
    /// Port that `force_https` redirects to. Default 443.
    pub public_https_port: u16,
    pub start_order: StartOrder,
    pub limits: Limits,
    pub timeouts: Timeouts,
}

impl EdgeConfig {
    /// The documented defaults for an edge of `node`.
    pub fn new(node: NodeName, region: RegionCode) -> Self {
        Self {
            node,
            region,
            app_domain: "localhost".to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            public_https_port: 443,
            start_order: StartOrder::StoppedHereFirst,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }
}

/// What is preferred when the nearest region with a candidate has none that runs below its limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum StartOrder {
    /// Start a stopped machine of the nearer region before using a running one farther away.
    #[default]
    StoppedHereFirst,
    /// Use any running machine, however far, before starting one.
    RunningAnywhereFirst,
}

/// Bounds on what one edge holds in memory or tries.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections of one core, of users and as many of machines that call private addresses; further ones
    /// wait in the socket. Default 20,000.
    pub connections_per_core: usize,
    /// Request line and headers, bytes; beyond it, or with more than 100 headers, the answer is 431.
    /// Default 64 KiB.
    pub header_bytes: usize,
    /// Body bytes of one request kept for a retry. Default 10 MiB.
    pub replay_bytes: usize,
    /// Body bytes of all requests of this edge kept for a retry. Default 256 MiB.
    pub replay_bytes_total: usize,
    /// Times one request is handed to a machine. Default 90.
    pub attempts: u32,
    /// Idle connections kept to one machine by one core. Default 64.
    pub idle_connections_per_machine: usize,
    /// Connections of one core to control, for the platform's API; beyond it the answer is 503. One that became a
    /// WebSocket does not count any more: its client's connection does. Default 512.
    pub connections_to_control: usize,
    /// Of them, idle ones that are kept. Default 16.
    pub idle_connections_to_control: usize,
    /// Concurrent streams of one HTTP/2 client connection. Default 256.
    pub h2_streams: u32,
    /// Concurrent streams of one connection between edges. Default 10,000.
    pub backhaul_streams: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_per_core: 20_000,
            header_bytes: 64 << 10,
            replay_bytes: 10 << 20,
            replay_bytes_total: 256 << 20,
            attempts: 90,
            idle_connections_per_machine: 64,
            connections_to_control: 512,
            idle_connections_to_control: 16,
            h2_streams: 256,
            backhaul_streams: 10_000,
        }
    }
}

/// How long an edge waits for what.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// A TLS handshake. Default 10 s.
    pub handshake: Duration,
    /// From the first byte awaited to the end of a request's headers; so it also ends idle HTTP/1
    /// connections. Default 15 s.
    pub header_read: Duration,
    /// How long the edge waits for the next piece of a request's body; once the answer has begun, for
    /// ever. Default 60 s.
    pub body_read: Duration,
    /// How long a client may leave what was written to it untaken, be it by its TCP or its HTTP/2 window.
    /// Default 60 s.
    pub client_write: Duration,
    /// How often an HTTP/2 client is asked whether it is still there. Default 20 s.
    pub client_ping: Duration,
    /// How long it may take to answer that. Default 10 s.
    pub client_pong: Duration,
    /// How long a request is held while no machine can take it. Default 60 s.
    pub hold: Duration,
    /// First pause between two looks for a machine; it doubles up to `backoff_max`, with jitter.
    /// A new catalogue ends the pause at once. Default 100 ms.
    pub backoff_min: Duration,
    /// Default 1 s.
    pub backoff_max: Duration,
    /// A TCP connection to a machine of this node. Default 2 s.
    pub connect: Duration,
    /// Starting a machine, until its port accepts. Default 55 s.
    pub wake: Duration,
    /// How long a request waits for a machine to start before it looks for another one; without
    /// another it goes on waiting. Default 10 s.
    pub wake_patience: Duration,
    /// How long an unused connection to a machine is kept. Default 4 s.
    pub pool_idle: Duration,
    /// How long an unused connection to control is kept. Default 30 s.
    pub api_idle: Duration,
    /// Connecting to another edge, handshake included. Default 3 s.
    pub backhaul_connect: Duration,
    /// How often a connection to another edge is checked for life. Default 500 ms.
    pub probe_interval: Duration,
    /// A node that has not answered for this long gets no traffic. Default 2 s.
    pub unreachable_after: Duration,
    /// How often load is reported to the worker when it changed. Default 100 ms.
    pub load_report: Duration,
    /// How often idle machines are looked for. Default 1 s.
    pub idle_check: Duration,
    /// How long stopping an idle machine may take before requests are let at it again. Default 30 s.
    pub idle_stop: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(15),
            body_read: Duration::from_secs(60),
            client_write: Duration::from_secs(60),
            client_ping: Duration::from_secs(20),
            client_pong: Duration::from_secs(10),
            hold: Duration::from_secs(60),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
            connect: Duration::from_secs(2),
            wake: Duration::from_secs(55),
            wake_patience: Duration::from_secs(10),
            pool_idle: Duration::from_secs(4),
            api_idle: Duration::from_secs(30),
            backhaul_connect: Duration::from_secs(3),
            probe_interval: Duration::from_millis(500),
            unreachable_after: Duration::from_secs(2),
            load_report: Duration::from_millis(100),
            idle_check: Duration::from_secs(1),
            idle_stop: Duration::from_secs(30),
        }
    }
}
