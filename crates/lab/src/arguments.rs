//! The command line's words. Only argument types; what they do is in [`crate::commands`].

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use atoll_lab::address::SERVICE_ADDRESS;
use atoll_lab::path::Path;
use atoll_lab::verb::Verb;
use atoll_lab::world::parse_rate;
use atoll_model::duration::GoDuration;
use clap::{Args, Parser, Subcommand};

/// Simulated worlds of hosts on one machine: namespaces, delays by distance, faults on demand
#[derive(Parser)]
#[command(name = "atoll-lab", version)]
pub struct Arguments {
    /// Folder of the lab meant [default: that of the only lab running; for `run`, a new one in /var/tmp
    /// that is removed at the end]
    #[arg(long, env = "ATOLL_LAB_DIR", global = true)]
    pub dir: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a world in the foreground until interrupted
    Run {
        /// The world, a TOML file
        world: PathBuf,
    },
    /// Run a program in a host; its exit code is ours
    Exec {
        host: String,
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
    },
    /// Say how the world is
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Follow the routes from a host to an address, and print the hosts on the way
    Trace {
        host: String,
        #[arg(default_value_t = SERVICE_ADDRESS)]
        address: Ipv4Addr,
    },
    /// Remove what labs that were killed left behind
    Clean,
    /// A helper process of the lab
    #[command(hide = true)]
    Internal {
        #[command(subcommand)]
        helper: Helper,
    },
    #[command(flatten)]
    Change(Change),
}

/// Things done to the running world.
#[derive(Subcommand)]
pub enum Change {
    /// Disturb the network until healed
    Fault {
        #[command(subcommand)]
        fault: Fault,
    },
    /// Add to the delay between two hosts, each way
    Slow {
        #[command(flatten)]
        pair: Pair,
        /// Milliseconds
        extra: f64,
    },
    /// Lose packets between two hosts, each way
    Loss {
        #[command(flatten)]
        pair: Pair,
        percent: f64,
    },
    /// Replace the path between two hosts, below any fault
    Path {
        #[command(flatten)]
        pair: Pair,
        #[command(flatten)]
        shape: Shape,
    },
    /// End the faults between two hosts, around one, or all
    Heal { a: Option<String>, b: Option<String> },
    /// Cut a host's power: all in it is gone but its disk
    Kill { host: String },
    /// Boot a killed host with the disk it had
    Boot { host: String },
    /// Freeze every process of a host
    Pause { host: String },
    /// Let a paused host go on
    Resume { host: String },
    /// Keep the processors of a host busy
    Overload {
        host: String,
        /// Threads that compute for nothing; 0 ends it
        #[arg(default_value_t = 8)]
        threads: usize,
    },
    /// Say which nodes clients may be steered to, or which of the lab's own announcers announce
    Steer {
        #[command(subcommand)]
        steer: Steer,
    },
}

#[derive(Subcommand)]
pub enum Fault {
    /// Let nothing pass between two hosts, or between one and all
    Cut {
        a: String,
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        b: Option<String>,
        /// Only from the first to the second
        #[arg(long, conflicts_with = "all")]
        one_way: bool,
        /// Between the host and everybody
        #[arg(long)]
        all: bool,
    },
    /// Cut and heal a link in turn until healed
    Flap {
        a: String,
        b: String,
        /// How long it is cut, and how long it works
        #[arg(long, default_value = "1s")]
        every: GoDuration,
    },
}

#[derive(Subcommand)]
pub enum Steer {
    /// Steer nobody to this node any more
    Withdraw { node: String },
    /// Undo a withdrawal
    Announce { node: String },
}

#[derive(Args)]
pub struct Pair {
    a: String,
    b: String,
    /// Only from the first to the second
    #[arg(long)]
    one_way: bool,
}

#[derive(Args)]
pub struct Shape {
    /// One way, such as 12ms
    #[arg(long)]
    delay: GoDuration,
    /// Variation either way, such as 2ms
    #[arg(long)]
    jitter: Option<GoDuration>,
    /// Percent
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Such as 100mbit
    #[arg(long, value_parser = rate)]
    rate: Option<u64>,
}

/// What helper processes are told; no face for users.
#[derive(Subcommand)]
pub enum Helper {
    Relay {
        hosts: usize,
        seed: u64,
    },
    Host {
        furniture: String,
    },
    Vm {
        machine: String,
    },
    Guest {
        name: String,
        disk: PathBuf,
    },
    Session {
        /// Give the program our standard input, read to its end first
        #[arg(long)]
        input: bool,
        folder: PathBuf,
        #[arg(last = true, required = true)]
        program: Vec<String>,
    },
    Hog {
        threads: usize,
    },
    Enter {
        /// Schedule the program in real time if the machine allows it
        #[arg(long)]
        real_time: bool,
        first: i32,
        group: PathBuf,
        #[arg(last = true, required = true)]
        program: Vec<OsString>,
    },
}

fn rate(text: &str) -> Result<u64, String> {
    parse_rate(text).ok_or_else(|| "a whole number with kbit, mbit or gbit, such as 100mbit".to_owned())
}

impl Change {
    /// What the lab is asked to do.
    pub fn into_verb(self) -> Verb {
        match self {
            Self::Fault { fault: Fault::Cut { a, b, one_way, all: _ } } => match b {
                Some(b) => Verb::Cut { a, b, one_way },
                None => Verb::Isolate { host: a },
            },
            Self::Fault { fault: Fault::Flap { a, b, every } } => Verb::Flap { a, b, every: every.0 },
            Self::Overload { host, threads } => Verb::Overload { host, threads },
            Self::Slow { pair: Pair { a, b, one_way }, extra } => Verb::Slow { a, b, extra_ms: extra, one_way },
            Self::Loss { pair: Pair { a, b, one_way }, percent } => Verb::Lose { a, b, percent, one_way },
            Self::Path { pair: Pair { a, b, one_way }, shape } => {
                let path = Path {
                    delay: shape.delay.0,
                    jitter: shape.jitter.map_or(Duration::ZERO, |jitter| jitter.0),
                    loss: shape.loss / 100.0,
                    rate: shape.rate,
                };
                Verb::SetPath { a, b, path: Some(path), one_way }
            }
            Self::Heal { a, b } => Verb::Heal { a, b },
            Self::Kill { host } => Verb::Kill { host },
            Self::Boot { host } => Verb::Boot { host },
            Self::Pause { host } => Verb::Pause { host },
            Self::Resume { host } => Verb::Resume { host },
            Self::Steer { steer: Steer::Withdraw { node } } => Verb::Withdraw { host: node },
            Self::Steer { steer: Steer::Announce { node } } => Verb::Announce { host: node },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn verb(line: &str) -> Option<Verb> {
        let words = std::iter::once("atoll-lab").chain(line.split(' '));
        match Arguments::try_parse_from(words).ok()?.command {
            Command::Change(change) => Some(change.into_verb()),
            _ => None,
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn verbs_are_read() {
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(verb("fault cut a b --one-way"), Some(Verb::Cut { a: a.clone(), b: b.clone(), one_way: true }));
        assert_eq!(verb("fault cut a --all"), Some(Verb::Isolate { host: a.clone() }));
        assert_eq!(verb("slow a b 150"), Some(Verb::Slow { a: a.clone(), b, extra_ms: 150.0, one_way: false }));
        let every = Duration::from_millis(500);
        let flap = Verb::Flap { a: a.clone(), b: "b".to_owned(), every };
        assert_eq!(verb("fault flap a b --every 500ms"), Some(flap));
        assert_eq!(verb("overload a"), Some(Verb::Overload { host: a.clone(), threads: 8 }));
        assert_eq!(verb("heal"), Some(Verb::Heal { a: None, b: None }));
        assert_eq!(verb("steer withdraw a"), Some(Verb::Withdraw { host: a }));
        for bad in ["fault cut a", "fault cut a b --all", "slow a b soon", "path a b --rate fast"] {
            assert_eq!(verb(bad), None, "{bad}");
        }
    }
}
