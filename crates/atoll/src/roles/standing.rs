//! Whether the platform still counts on this server. One that was given up as lost may be alive and
//! come back: its machines have been made again elsewhere, so what it runs must end.
//!
//! Control is asked without a certificate, as it accepts none of a server that was given up; it
//! proves itself by the platform's root, or is led to by the root that was before it, which may be all that
//! a server knows that was away for long. An answer that does not come means nothing: without control
//! a server goes on.

use std::time::Duration;

use atoll_model::MachineState;
use atoll_rpc::channel::connect_anonymously;
use atoll_rpc::proto::control::StandingRequest;
use atoll_rpc::proto::control::enrolment_client::EnrolmentClient;
use atoll_rpc::tls::IdentityMaterial;
use atoll_rpc::trust::Anchor;
use atoll_worker::{Agent, Caller, StopOptions};

use crate::node::state::{NodeFile, StateDir};

const EVERY: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(10);
/// Machines get this long to end; the next start ends what is left.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Resolves when control says that this server was given up.
pub async fn given_up(state: &StateDir, node: &NodeFile) {
    loop {
        match tokio::time::timeout(LIMIT, ask(state, node)).await {
            Ok(Ok(true)) => return,
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                tracing::debug!(error = format!("{error:#}"), "control does not say whether it counts on us")
            }
            Err(_) => tracing::debug!("control does not say in time whether it counts on us"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn ask(state: &StateDir, node: &NodeFile) -> anyhow::Result<bool> {
    let roots = IdentityMaterial::load(&state.identity("worker"))?.roots()?;
    let channel = connect_anonymously(&node.control, Anchor::Roots(roots)).await?;
    let request = StandingRequest { node: node.name.to_string(), epoch: node.epoch };
    Ok(EnrolmentClient::new(channel).standing(request).await?.into_inner().given_up)
}

/// Stops all machines, at once and for good.
pub async fn stop_machines(agent: &Agent) {
    let stops = agent.list(None).into_iter().map(|view| async move {
        let caller = Caller { source: "flyd".to_owned(), ..Caller::default() };
        if let Err(error) = agent.stop(view.id, StopOptions::default(), &caller).await {
            tracing::warn!(machine = %view.id, %error, "a machine of a server that was given up does not stop");
        }
    });
    futures_util::future::join_all(stops).await;
    let at_rest = async {
        while agent.list(None).iter().any(|view| matches!(view.state, MachineState::Started | MachineState::Stopping)) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(STOP_LIMIT, at_rest).await.is_err() {
        tracing::warn!("machines still run after {STOP_LIMIT:?}");
    }
}
