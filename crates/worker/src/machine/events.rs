//! Which entry of a machine's history a transition leaves. Pure.

use serde_json::json;

use atoll_driver::Exit;
use atoll_model::machine::ExitEvent;

use super::step::{Input, Phase};
use crate::clock::rfc3339_ms;

/// Who caused an event.
pub const BY_USER: &str = "user";
pub const BY_NODE: &str = "flyd";

/// Type, status and source of the event that `input` leaves, if it changed anything.
pub fn of_transition(
    input: Input,
    before: Phase,
    after: Phase,
    caller: &str,
) -> Option<(&'static str, &'static str, String)> {
    let by_caller = |kind, status| Some((kind, status, caller.to_owned()));
    let by_node = |kind, status| Some((kind, status, BY_NODE.to_owned()));
    let starts = matches!(after, Phase::Starting { .. } | Phase::Resuming);
    match input {
        Input::Start { .. } if starts && before != after => by_caller("start", "starting"),
        Input::Stop if before != after => by_caller("stop", after.state().as_str()),
        Input::Suspend if before != after => by_caller("suspend", "suspending"),
        Input::Restart { .. } if before != after => by_caller("restart", if starts { "starting" } else { "stopping" }),
        Input::Update { .. } => by_caller("update", "replacing"),
        Input::Destroy if before != after => by_caller("destroy", "destroying"),
        Input::Launched | Input::Resumed if after == Phase::Started && before != after => by_node("start", "started"),
        Input::LaunchFailed { .. } | Input::PrepareFailed if before != after => by_node("launch", "failed"),
        Input::Paused if before != after => by_node("suspend", "suspended"),
        Input::PauseFailed if before != after => by_node("stop", "stopping"),
        Input::Exited { .. } if before != after => by_node("exit", "stopped"),
        Input::BackOffOver if starts => by_node("restart", "starting"),
        Input::Prepared | Input::Cleared if starts => by_node("start", "starting"),
        Input::RemoveDone if before != after => by_node("destroy", "destroyed"),
        _ => None,
    }
}

/// The `request` of an exit event.
pub fn exit_request(exit: &Exit, requested_stop: bool, restarting: bool, restart_count: u32) -> serde_json::Value {
    let exit_event = ExitEvent {
        exit_code: exit.code,
        exited_at: rfc3339_ms(exit.at_ms),
        guest_exit_code: if exit.oom_killed { 0 } else { exit.code },
        guest_signal: exit.signal.unwrap_or(-1),
        guest_error: String::new(),
        signal: exit.signal.unwrap_or(-1),
        error: exit.error.clone().unwrap_or_default(),
        oom_killed: exit.oom_killed,
        requested_stop,
        restarting,
    };
    json!({ "exit_event": exit_event, "restart_count": restart_count })
}
