//! What can be tried by hand while the platform of the demonstration goes on.

use std::fmt;
use std::path::Path;

use atoll_lab::address::SERVICE_ADDRESS;

use super::APP;
use crate::platform::Platform;
use crate::programs;

/// Commands for another terminal; shown as text.
pub struct ByHand<'a> {
    pub(super) platform: &'a Platform,
    pub(super) site: &'a str,
}

impl ByHand<'_> {
    /// Serves what the commands speak with, for ever.
    ///
    /// # Errors
    /// If it cannot be served.
    pub async fn serve(&self) -> anyhow::Result<()> {
        Ok(atoll_lab::control::serve(self.platform.lab().clone()).await?)
    }
}

impl fmt::Display for ByHand<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (site, api, token) = (self.site, self.platform.client().base(), self.platform.token());
        // Only a demonstration that cannot run names no program.
        let atoll = programs::atoll().unwrap_or_else(|_| "atoll".into());
        let folder = atoll.parent().unwrap_or(Path::new("")).display();
        writeln!(f, "by hand, in another terminal, as root:")?;
        writeln!(f, "  export PATH={folder}:$PATH ATOLL_LAB_DIR={}", self.platform.lab().folder().display())?;
        writeln!(f, "  export ATOLL_API={api} ATOLL_TOKEN={token}")?;
        let lines = [
            ("atoll-lab trace chicago".to_owned(), "where BGP leads Chicago"),
            (format!("atoll-lab exec chicago -- curl -H 'Host: {site}' http://{SERVICE_ADDRESS}/"), "ask from there"),
            ("atoll-lab pause ord".to_owned(), "freeze that place; `resume ord` undoes it"),
            ("atoll-lab fault cut japan nrt".to_owned(), "cut another one off; `heal` undoes it"),
            ("atoll edge announcements".to_owned(), "what is announced, to whom and why"),
            ("atoll mesh doctor".to_owned(), "how the servers reach each other"),
            (format!("atoll machine list -a {APP}"), "the machines"),
        ];
        lines.iter().try_for_each(|(command, what)| writeln!(f, "  {command:<72} # {what}"))
    }
}
