//! Every knob of a server, in one struct: flag, environment variable `ATOLL_<NAME>`, key of the
//! configuration file, default; in this order of precedence.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use atoll_model::egress::may_leave_under;
use clap::{Args, Command};
use serde::{Deserialize, Serialize};

/// Knobs shared by `atoll up` and `atoll join`.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct ServerOptions {
    /// Folder for everything this server keeps
    #[arg(long, env = "ATOLL_STATE", default_value = "/var/lib/atoll")]
    pub state: PathBuf,

    /// Configuration file (TOML; keys are the flags' names); read if it exists, required if named
    #[arg(long, env = "ATOLL_CONFIG", default_value = DEFAULT_CONFIG)]
    pub config: PathBuf,

    /// Where this server stands: a region code such as ams, nrt or ord
    #[arg(long, env = "ATOLL_REGION", default_value = "ams", value_parser = known_region)]
    pub region: String,

    /// This server's name, unique on the platform [default: the host name]
    #[arg(long, env = "ATOLL_NAME")]
    pub name: Option<String>,

    /// Edge: plain HTTP
    #[arg(long, env = "ATOLL_HTTP", default_value = "0.0.0.0:80")]
    pub http: SocketAddr,

    /// Edge: HTTPS
    #[arg(long, env = "ATOLL_HTTPS", default_value = "0.0.0.0:443")]
    pub https: SocketAddr,

    /// Edge: take no requests for the platform's API, which is else at api.<app domain>
    #[arg(long, env = "ATOLL_NO_EDGE_API")]
    pub no_edge_api: bool,

    /// Edge to edge, mutual TLS
    #[arg(long, env = "ATOLL_BACKHAUL", default_value = "0.0.0.0:4282")]
    pub backhaul: SocketAddr,

    /// Control and edges to this node's worker, mutual TLS
    #[arg(long, env = "ATOLL_WORKER_RPC", default_value = "0.0.0.0:4283")]
    pub worker_rpc: SocketAddr,

    /// Servers' private network: the UDP port of WireGuard
    #[arg(long, env = "ATOLL_MESH_PORT", default_value_t = 51820)]
    pub mesh_port: u16,

    /// Servers' private network: where those of other servers talk to this one's, mutual TLS
    #[arg(long, env = "ATOLL_MESH_RPC", default_value = "0.0.0.0:4285")]
    pub mesh_rpc: SocketAddr,

    /// Users' own devices: the UDP port at which WireGuard lets them into private networks
    #[arg(long, env = "ATOLL_WIREGUARD_PORT", default_value_t = 51821)]
    pub wireguard_port: u16,

    /// Servers' private network: the UDP port for connections opened before WireGuard is up again
    #[arg(long, env = "ATOLL_MESH_RESUME_PORT", default_value_t = 51823)]
    pub mesh_resume_port: u16,

    /// Where users reach this server's edge, for public DNS; may be repeated [default: where other nodes reach it]
    #[arg(long, env = "ATOLL_PUBLIC_ADDRESS", value_delimiter = ',')]
    pub public_address: Vec<std::net::IpAddr>,

    /// What leads back to this server beside that, for apps' machines to leave under; may be repeated
    #[arg(long, env = "ATOLL_EGRESS_ADDRESS", value_delimiter = ',', value_parser = egress_address)]
    pub egress_address: Vec<std::net::IpAddr>,

    /// Public DNS: answer for the app domain at this address, such as 192.0.2.1:53 [default: not at all]
    #[arg(long, env = "ATOLL_DNS")]
    pub dns: Option<SocketAddr>,

    /// What else public DNS needs to know: a TOML file, see docs/dns.md
    #[arg(long, env = "ATOLL_DNS_ZONES", requires = "dns")]
    pub dns_zones: Option<PathBuf>,

    /// The address at which other nodes reach this one [default: the listening one, or the one control sees]
    #[arg(long, env = "ATOLL_ADVERTISE")]
    pub advertise: Option<std::net::IpAddr>,

    /// Written once this server serves; JSON with its addresses
    #[arg(long, env = "ATOLL_READY_FILE")]
    pub ready_file: Option<PathBuf>,

    /// What to log: a level, or levels by module
    #[arg(long, env = "ATOLL_LOG", default_value = "info")]
    pub log: String,

    /// Log as JSON lines
    #[arg(long, env = "ATOLL_LOG_JSON")]
    pub log_json: bool,

    /// The edge's log of requests, JSON lines: a path, stderr or off [default: edge/access.log in the state folder]
    #[arg(long, env = "ATOLL_ACCESS_LOG")]
    pub access_log: Option<String>,

    /// How much memory may be promised to machines, as a multiple of what the server has
    #[arg(long, env = "ATOLL_MEMORY_OVERCOMMIT", default_value_t = 1.5)]
    pub memory_overcommit: f64,

    /// Images that no machine of this server has needed for so many days are removed from it
    #[arg(long, env = "ATOLL_IMAGE_DAYS", default_value_t = 7)]
    pub image_days: u16,

    /// They go earlier, the oldest first, while less than so many percent of the disk are free
    #[arg(long, env = "ATOLL_IMAGE_RESERVE_PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_reserve_percent: u8,

    /// Seconds that open connections get when an edge is replaced or stopped
    #[arg(long, env = "ATOLL_DRAIN_SECONDS", default_value_t = 30)]
    pub drain_seconds: u64,

    /// User id that control runs as (no account needed)
    #[arg(long, env = "ATOLL_CONTROL_UID", default_value_t = 64900)]
    pub control_uid: u32,

    /// User id that the edge runs as (no account needed)
    #[arg(long, env = "ATOLL_EDGE_UID", default_value_t = 64901)]
    pub edge_uid: u32,

    /// User id that the private network runs as (no account needed)
    #[arg(long, env = "ATOLL_NET_UID", default_value_t = 64902)]
    pub net_uid: u32,
}

/// Knobs of control.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
pub struct ControlOptions {
    /// API, registry
    // `ATOLL_API` names the platform that commands talk to.
    #[arg(long, env = "ATOLL_API_LISTEN", default_value = "127.0.0.1:4280")]
    pub api: SocketAddr,

    /// Serve the API without TLS on an address other than loopback
    #[arg(long, env = "ATOLL_API_PLAIN")]
    pub api_plain: bool,

    /// Nodes to control, and joining nodes
    #[arg(long, env = "ATOLL_RPC", default_value = "0.0.0.0:4281")]
    pub rpc: SocketAddr,

    /// Apps are served at <app>.<this domain>
    #[arg(long, env = "ATOLL_APP_DOMAIN", default_value = "localhost")]
    pub app_domain: String,

    /// Destroyed machines and ended tokens are forgotten after so many days
    #[arg(long, env = "ATOLL_RETENTION_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    pub retention_days: u32,

    /// Who changed what is forgotten after so many days
    #[arg(long, env = "ATOLL_AUDIT_RETENTION_DAYS", default_value_t = 365,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub audit_retention_days: u32,

    // Not a knob for operators: it lets a test live through many renewals and a lapse.
    /// Life of servers' certificates, in seconds
    #[arg(long, env = "ATOLL_CERTIFICATE_SECONDS", default_value_t = 3600, hide = true,
          value_parser = clap::value_parser!(u64).range(6..=3600))]
    pub certificate_seconds: u64,

    /// Records: postgres://… instead of the SQLite file in the state folder
    #[arg(long, env = "ATOLL_DATABASE")]
    pub database: Option<String>,
}

fn known_region(text: &str) -> Result<String, String> {
    super::setup::parse_region(text).map(|region| region.to_string()).map_err(|error| error.to_string())
}

fn egress_address(text: &str) -> Result<std::net::IpAddr, String> {
    let address = text.parse().map_err(|_| "it is no address")?;
    if may_leave_under(address) { Ok(address) } else { Err("no answer to it comes back to one server".to_owned()) }
}

const DEFAULT_CONFIG: &str = "/etc/atoll/config.toml";

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}", path = .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration file {path} is not valid TOML:\n{problem}", path = .path.display())]
    Syntax { path: PathBuf, problem: String },
    #[error("unknown key {key:?} in {path}; keys are the names of the flags, see --help", path = .path.display())]
    UnknownKey { path: PathBuf, key: String },
    #[error("{key} in {path} must be a text, a number or a boolean", path = .path.display())]
    WrongType { path: PathBuf, key: String },
}

/// Puts the values of the configuration file into the server's commands as their defaults, so that
/// flags and environment win over them.
pub fn with_file(mut command: Command, servers: &[&str], arguments: &[String]) -> Result<Command, ConfigError> {
    let (path, named) = config_path(arguments);
    for (key, value) in read_file(&path, named)? {
        let id = key.replace('-', "_");
        let mut known = false;
        for server in servers {
            command = command.mut_subcommand(server, |command| {
                let has = id != "config" && command.get_arguments().any(|argument| argument.get_id() == id.as_str());
                known |= has;
                if has { command.mut_arg(&id, |argument| argument.default_value(value.clone())) } else { command }
            });
        }
        if !known {
            return Err(ConfigError::UnknownKey { path, key });
        }
    }
    Ok(command)
}

/// The file to read, and whether the user named it.
fn config_path(arguments: &[String]) -> (PathBuf, bool) {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--config" {
            return (arguments.next().map(PathBuf::from).unwrap_or_default(), true);
        }
        if let Some(path) = argument.strip_prefix("--config=") {
            return (PathBuf::from(path), true);
        }
    }
    match std::env::var_os("ATOLL_CONFIG") {
        Some(path) => (path.into(), true),
        None => (DEFAULT_CONFIG.into(), false),
    }
}

fn read_file(path: &Path, required: bool) -> Result<Vec<(String, String)>, ConfigError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => return Ok(Vec::new()),
        Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
    };
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| ConfigError::Syntax { path: path.to_owned(), problem: error.to_string() })?;
    table
        .into_iter()
        .map(|(key, value)| {
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                toml::Value::Boolean(flag) => flag.to_string(),
                _ => return Err(ConfigError::WrongType { path: path.to_owned(), key }),
            };
            Ok((key, text))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::*;

    #[derive(Parser, Debug)]
    struct Program {
        #[command(subcommand)]
        server: Server,
    }

    #[derive(clap::Subcommand, Debug)]
    enum Server {
        Up {
            #[command(flatten)]
            server: ServerOptions,
            #[command(flatten)]
            control: ControlOptions,
        },
        Join {
            #[command(flatten)]
            server: ServerOptions,
        },
    }

    fn parse_arguments(arguments: &[String]) -> Result<(ServerOptions, ControlOptions), ConfigError> {
        let command = with_file(Program::command(), &["up", "join"], arguments)?;
        let matches = command.get_matches_from(arguments);
        match Program::from_arg_matches(&matches).unwrap().server {
            Server::Up { server, control } => Ok((server, control)),
            Server::Join { .. } => panic!("not tried here"),
        }
    }

    fn parse(file: &str, arguments: &[&str]) -> Result<(ServerOptions, ControlOptions), ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let mut all = ["atoll", "up", "--config", path.to_str().unwrap()].map(str::to_owned).to_vec();
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        parse_arguments(&all)
    }

    #[test]
    fn the_file_gives_defaults_and_flags_win() {
        let (server, control) =
            parse("region = \"nrt\"\napp-domain = \"apps.example\"\nlog-json = true\n", &["--region", "ord"]).unwrap();
        assert_eq!(server.region, "ord");
        assert_eq!(control.app_domain, "apps.example");
        assert!(server.log_json);
        assert_eq!(control.api.to_string(), "127.0.0.1:4280");
    }

    #[test]
    fn bad_files_are_refused_naming_the_key() {
        assert!(parse("regoin = \"nrt\"", &[]).unwrap_err().to_string().contains("regoin"));
        assert!(parse("region = [1]", &[]).unwrap_err().to_string().contains("region"));
        assert!(matches!(parse("region = ", &[]), Err(ConfigError::Syntax { .. })));
    }

    #[test]
    fn a_named_file_must_exist() {
        let arguments = ["atoll", "up", "--config", "/nonexistent/atoll.toml"].map(str::to_owned);
        assert!(matches!(parse_arguments(&arguments), Err(ConfigError::Read { .. })));
    }
}
