//! A load generator that never retries: what a user would have seen is what it reports. Half of its
//! requests open a connection of their own, half share kept-alive ones; GETs and 64 KiB POSTs in
//! turn; one WebSocket stays open and is used every second.

mod http;
mod running;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

pub use running::{RunningLoad, Tally};

/// What to send where.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// The edge's address; the same whoever answers it.
    pub target: SocketAddr,
    /// The app's host name.
    pub host: String,
    /// Requests a second.
    pub rate: u32,
    /// How long a single request may take before it counts as failed.
    pub timeout: Duration,
    /// `None`: until killed.
    pub duration: Option<Duration>,
    /// Keep one WebSocket open beside the requests.
    pub websocket: bool,
}

/// One request's fate, printed as a JSON line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shot {
    /// When the request began, in Unix milliseconds.
    pub at_ms: u64,
    pub kind: ShotKind,
    pub took_ms: f64,
    /// When its connection was opened, in Unix milliseconds; absent: it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_ms: Option<u64>,
    /// Region of the edge that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Requests that the machine's process had answered, this one included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<u64>,
    /// Why it failed; absent: it succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ShotKind {
    GetNew,
    GetKept,
    PostNew,
    PostKept,
    Socket,
}

impl Shot {
    pub(crate) fn begun(kind: ShotKind) -> Self {
        Self {
            at_ms: unix_ms(),
            kind,
            took_ms: 0.0,
            opened_ms: None,
            edge: None,
            machine: None,
            region: None,
            release: None,
            boot_id: None,
            counter: None,
            error: None,
        }
    }
}

/// The wall clock, which all processes of a trial share.
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Opens a connection and says when. A reset says that its first packet was answered, and the next one arrived
/// at somebody else: such a connection was open, as far as anybody knew.
async fn open(target: SocketAddr, opened_ms: &mut Option<u64>) -> io::Result<TcpStream> {
    let began = unix_ms();
    let opened = TcpStream::connect(target).await;
    match &opened {
        Ok(_) => *opened_ms = Some(unix_ms()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => *opened_ms = Some(began),
        Err(_) => {}
    }
    opened
}

/// Requests under way at once; beyond it the generator itself is the bottleneck and says so.
const MAX_IN_FLIGHT: usize = 2000;

/// Sends until the plan ends; each shot goes to `shots` when its fate is known.
pub async fn run(plan: LoadPlan, shots: mpsc::Sender<Shot>) {
    let start = Instant::now();
    let plan = Arc::new(plan);
    let kept = Arc::new(http::KeptConnections::default());
    let in_flight = Arc::new(tokio::sync::Semaphore::new(MAX_IN_FLIGHT));
    if plan.websocket {
        tokio::spawn(socket::keep_talking(plan.clone(), shots.clone()));
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / plan.rate.max(1));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let kinds = [ShotKind::GetNew, ShotKind::GetKept, ShotKind::PostNew, ShotKind::PostKept];
    for kind in kinds.into_iter().cycle() {
        ticks.tick().await;
        if plan.duration.is_some_and(|duration| start.elapsed() >= duration) {
            break;
        }
        let (plan, kept, shots) = (plan.clone(), kept.clone(), shots.clone());
        let Ok(permit) = in_flight.clone().try_acquire_owned() else {
            let mut shot = Shot::begun(kind);
            shot.error = Some(format!("{MAX_IN_FLIGHT} requests are under way already"));
            if shots.send(shot).await.is_err() {
                return;
            }
            continue;
        };
        tokio::spawn(async move {
            let shot = http::shoot(&plan, &kept, kind).await;
            drop(permit);
            // Nobody listens any more when the run is over.
            shots.send(shot).await.ok();
        });
    }
    // Whatever is still under way has its own time limit.
    let everything = u32::try_from(MAX_IN_FLIGHT).unwrap_or(u32::MAX);
    drop(in_flight.acquire_many(everything).await);
}
