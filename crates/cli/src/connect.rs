//! Which platform a command talks to: `ATOLL_API` and `ATOLL_TOKEN`, else what `atoll auth login`
//! kept, else the token of a server on this machine, where it may be read.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::{Deserialize, Serialize};

use atoll_client::Client;

use crate::CliError;

const DEFAULT_API: &str = "http://127.0.0.1:4280";

/// Options of every command that talks to a platform.
#[derive(Args, Clone, Debug)]
pub struct Connection {
    /// The platform's API [default: the one logged in to, else http://127.0.0.1:4280]
    #[arg(long, env = "ATOLL_API", global = true, value_name = "URL", help_heading = "Connection")]
    pub api_url: Option<String>,

    /// PEM file of the authority to trust for an https API
    #[arg(long, env = "ATOLL_CA", global = true, value_name = "FILE", help_heading = "Connection")]
    pub ca: Option<PathBuf>,

    /// State folder of a server on this machine, whose root.token may be used
    #[arg(
        long,
        env = "ATOLL_STATE",
        global = true,
        value_name = "DIR",
        default_value = "/var/lib/atoll",
        help_heading = "Connection"
    )]
    pub server_state: PathBuf,
}

/// `~/.config/atoll/config.toml`
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginFile {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
}

impl LoginFile {
    pub fn path() -> Option<PathBuf> {
        let base = std::env::var_os("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".config")))?;
        Some(base.join("atoll").join("config.toml"))
    }

    pub fn load() -> Result<Self, CliError> {
        let Some(path) = Self::path() else { return Ok(Self::default()) };
        match std::fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| CliError::usage(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(CliError::io(format!("read {}", path.display()))(error)),
        }
    }

    /// Keeps the login, readable by its owner alone.
    pub fn save(&self) -> Result<PathBuf, CliError> {
        use std::io::Write;
        use std::os::unix::fs::OpenOptionsExt;
        let path = Self::path().ok_or_else(|| CliError::usage("there is no home folder to keep the login in"))?;
        let write = || -> std::io::Result<()> {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
            let text = toml::to_string(self).map_err(std::io::Error::other)?;
            let temporary = path.with_extension("new");
            let mut file =
                std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(CliError::io(format!("write {}", path.display())))?;
        Ok(path)
    }
}

impl Connection {
    pub fn client(&self) -> Result<Client, CliError> {
        let login = LoginFile::load()?;
        let token = std::env::var("ATOLL_TOKEN").ok().filter(|token| !token.is_empty());
        let local_token =
            || std::fs::read_to_string(self.server_state.join("root.token")).ok().map(|token| token.trim().to_owned());
        // A token goes with the API it was kept for: with another address only what was named counts.
        let (api, token, ca) = match (&self.api_url, login.api) {
            (None, Some(api)) => (api, token.or(login.token).or_else(local_token), login.ca),
            (Some(api), Some(kept)) if *api == kept => (kept, token.or(login.token).or_else(local_token), login.ca),
            (Some(api), _) => (api.clone(), token.or_else(local_token), None),
            (None, None) => (DEFAULT_API.to_owned(), token.or_else(local_token), None),
        };
        let local_ca = self.server_state.join("ca.pem");
        let ca = self.ca.clone().or(ca).or_else(|| local_ca.exists().then_some(local_ca));
        let ca = ca.filter(|_| api.starts_with("https://"));
        Ok(Client::new(&api, token, ca.as_deref())?)
    }
}
