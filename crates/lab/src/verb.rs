//! What can be asked of a running lab, and what it says about itself: the words of the control socket,
//! the command line and the library alike.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::path::Path;
use crate::relay::wire::Report;
use crate::world::{Kind, Role};

/// Something to be done to the world. Pairs are meant both ways unless `one_way`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Verb {
    /// Nothing passes between two hosts.
    Cut {
        a: String,
        b: String,
        one_way: bool,
    },
    /// Nothing passes between a host and anybody.
    Isolate {
        host: String,
    },
    /// Adds to the delay, in each direction meant.
    Slow {
        a: String,
        b: String,
        extra_ms: f64,
        one_way: bool,
    },
    /// Loses this much, in each direction meant.
    Lose {
        a: String,
        b: String,
        percent: f64,
        one_way: bool,
    },
    /// Cuts and heals a pair in turn, each for this long, until healed.
    Flap {
        a: String,
        b: String,
        every: Duration,
    },
    /// Keeps this many threads of a host computing for nothing; 0 ends it, as the host's death does.
    Overload {
        host: String,
        threads: usize,
    },
    /// Ends the faults of a pair, of all of a host's pairs, or of the world.
    Heal {
        a: Option<String>,
        b: Option<String>,
    },
    /// Replaces the path itself, below any fault; none disconnects.
    SetPath {
        a: String,
        b: String,
        path: Option<Path>,
        one_way: bool,
    },
    /// Cuts the power: everything in the host is gone but its disk folder.
    Kill {
        host: String,
    },
    Boot {
        host: String,
    },
    Pause {
        host: String,
    },
    Resume {
        host: String,
    },
    /// No client is steered to this node, though it lives; one that announces by the lab's daemon stops to.
    Withdraw {
        host: String,
    },
    Announce {
        host: String,
    },
    /// Only answer.
    Status,
}

/// The answer to a verb.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done(Status),
    Failed(String),
}

/// The lab as it is now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Eight hexadecimal digits; what the lab made carries them in its name.
    pub id: String,
    pub hosts: Vec<HostStatus>,
    pub relay: Report,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStatus {
    pub name: String,
    pub city: String,
    pub role: Role,
    pub kind: Kind,
    pub state: HostState,
    /// Its first process, while it lives.
    pub pid: Option<i32>,
    /// How often it was booted, failures included.
    pub boots: u32,
    pub ipv4: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    /// Its control group, below every hierarchy.
    pub group: PathBuf,
    /// Its disk: the same path within the host and outside, kept when the host is killed.
    pub disk: PathBuf,
    /// Where its programs' logs go; outside.
    pub logs: PathBuf,
    /// The autonomous system that it is in.
    pub system: Option<u32>,
    /// Threads that compute for nothing.
    pub overload: usize,
    /// Withdrawn from steering, or from announcing.
    pub withdrawn: bool,
    /// Of a client: the node to which the service address leads.
    pub steered_to: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    Up,
    Paused,
    Down,
}

impl HostState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Paused => "paused",
            Self::Down => "down",
        }
    }
}

impl Status {
    pub fn host(&self, name: &str) -> Option<&HostStatus> {
        self.hosts.iter().find(|host| host.name == name)
    }
}
