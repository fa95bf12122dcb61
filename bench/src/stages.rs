//! What servers' logs say about how far something was when, on the clock that all of them share.

use anyhow::Context;
use serde::Deserialize;

use atoll_trial::platform::Node;

/// Makes a server log its stages, one JSON object a line.
pub const ARGUMENTS: [&str; 3] = ["--log", "info,atoll_stages=debug", "--log-json"];

/// One such line.
#[derive(Clone, Debug, Deserialize)]
pub struct Stage {
    #[serde(rename = "message")]
    pub name: String,
    /// Microseconds, as of [`atoll_signals::moment_us`].
    pub at_us: u64,
    #[serde(default)]
    pub machine: Option<String>,
    /// Of the catalogue row's position: whose it is, and its number.
    #[serde(default)]
    pub owner: Option<String>,
    #[serde(default)]
    pub sequence: u64,
}

#[derive(Deserialize)]
struct Target<'a> {
    #[serde(borrow)]
    target: std::borrow::Cow<'a, str>,
}

/// All stages that a server has logged so far.
pub fn of(node: &Node) -> anyhow::Result<Vec<Stage>> {
    let file = node.host().status()?.logs.join("atoll.log");
    let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    // Other lines, and what is not JSON, such as the last words of a dying process, are not for us.
    let ours = text
        .lines()
        .filter(|line| serde_json::from_str::<Target<'_>>(line).is_ok_and(|line| line.target == atoll_signals::STAGES));
    ours.map(|line| serde_json::from_str(line).with_context(|| format!("not a stage: {line}"))).collect()
}
