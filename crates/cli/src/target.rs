//! Which app a command is about: `-a`, else `ATOLL_APP`, else the `app` of the fly.toml here.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::CliError;

#[derive(Args, Clone, Debug)]
pub struct AppTarget {
    /// The app [default: the `app` of fly.toml]
    #[arg(short, long, env = "ATOLL_APP", value_name = "NAME")]
    pub app: Option<String>,

    /// Configuration file or its folder
    #[arg(short, long, value_name = "PATH", default_value = "fly.toml")]
    pub config: PathBuf,
}

impl AppTarget {
    pub fn name(&self) -> Result<String, CliError> {
        if let Some(app) = &self.app {
            return Ok(app.clone());
        }
        let file = self.file();
        let text = std::fs::read_to_string(&file).map_err(|_| CliError::Usage {
            message: "which app? there is no fly.toml here".into(),
            hint: Some("name the app with -a, or run this in the app's folder".into()),
        })?;
        app_of(&text).ok_or_else(|| CliError::Usage {
            message: format!("{} names no app", file.display()),
            hint: Some("write `app = \"my-app\"` at its top, or name the app with -a".into()),
        })
    }

    pub fn file(&self) -> PathBuf {
        if self.config.is_dir() { self.config.join("fly.toml") } else { self.config.clone() }
    }

    pub fn folder(&self) -> PathBuf {
        self.file().parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
    }
}

/// The top-level `app` key. The rest may be wrong: that is for commands that need it to say.
fn app_of(text: &str) -> Option<String> {
    let table: toml::Table = text.parse().ok()?;
    table.get("app")?.as_str().map(str::to_owned)
}
